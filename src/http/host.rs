//! Which names of this server a request may use: a page elsewhere whose name was made to mean this address (DNS rebinding) gets nothing.

use std::net::SocketAddr;

use crate::error::{Error, Result};

/// LIMIT: names of a server.
const NAMES_MAX: usize = 64;

/// The names by which a listener may be called, in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Hosts(Vec<String>);

impl Hosts {
    /// The names of a listener at this address, and those that the configuration adds (`name` or `name:port`).
    ///
    /// # Errors
    /// `InvalidInput` for what is no host name.
    pub(super) fn new(address: SocketAddr, more: &[String]) -> Result<Self> {
        let port = address.port();
        let mut names = vec![address.to_string()];
        if address.ip().is_unspecified() {
            let own = crate::sys::host::name();
            names.extend([own.to_string(), format!("{own}:{port}")]);
        }
        if address.ip().is_loopback() || address.ip().is_unspecified() {
            for name in ["localhost", "127.0.0.1", "[::1]"] {
                names.extend([name.to_owned(), format!("{name}:{port}")]);
            }
        } else {
            names.push(match address {
                SocketAddr::V4(v4) => v4.ip().to_string(),
                SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
            });
        }
        check_all(more)?;
        for name in more {
            names.push(name.clone());
            if !has_port(name) {
                names.push(format!("{name}:{port}"));
            }
        }
        names
            .iter_mut()
            .for_each(|name| name.make_ascii_lowercase());
        Ok(Self(names))
    }

    /// Whether a request may use this name.
    pub(super) fn has(&self, host: &str) -> bool {
        self.0.iter().any(|name| host.eq_ignore_ascii_case(name))
    }
}

fn has_port(name: &str) -> bool {
    let end = name.rsplit(']').next().unwrap_or(name);
    end.contains(':')
}

/// Refuses names of hosts that are none, and more than there can be.
///
/// # Errors
/// `InvalidInput`.
pub fn check_all(names: &[String]) -> Result<()> {
    if names.len() > NAMES_MAX {
        return Err(Error::invalid(format!(
            "more than {NAMES_MAX} names of the server"
        )));
    }
    names.iter().try_for_each(|name| check(name))
}

/// Refuses what is no name of a host.
///
/// # Errors
/// `InvalidInput`.
fn check(name: &str) -> Result<()> {
    let is_plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']' | '_');
    if name.is_empty() || name.len() > 255 || !name.chars().all(is_plain) {
        let shown: String = name.escape_debug().take(60).collect();
        return Err(Error::invalid(format!("\"{shown}\" is no host name"))
            .advise("write a name as browsers use it, without https:// and without a path"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Hosts;

    #[test]
    fn only_names_of_this_server_are_answered() {
        let hosts =
            Hosts::new("127.0.0.1:8420".parse().unwrap(), &["Backup01".to_owned()]).unwrap();
        for good in [
            "127.0.0.1:8420",
            "localhost:8420",
            "LOCALHOST",
            "backup01",
            "backup01:8420",
        ] {
            assert!(hosts.has(good), "{good}");
        }
        for bad in [
            "evil.example",
            "localhost:1",
            "backup01:1",
            "",
            "127.0.0.1.evil.example",
        ] {
            assert!(!hosts.has(bad), "{bad}");
        }
        let other = Hosts::new("[2001:db8::7]:443".parse().unwrap(), &[]).unwrap();
        assert!(
            other.has("[2001:db8::7]:443") && other.has("[2001:db8::7]") && !other.has("localhost")
        );
        let address = "127.0.0.1:1".parse().unwrap();
        for bad in ["", "https://x", "a b", "x/"] {
            assert!(Hosts::new(address, &[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
