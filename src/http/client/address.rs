//! The address of a server: `https://HOST[:PORT]`, `http://127.0.0.1:PORT`, `unix:/PATH`.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ureq::http::Uri;

use crate::error::{Error, Result};

/// The scheme of a path to a socket.
const UNIX: &str = "unix:";

/// The address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A host, with TLS.
    Secure(Authority),
    /// A loopback address, without TLS.
    Plain(Authority),
    /// A socket of this machine.
    Unix(PathBuf),
}

/// A host and its port, as an URL has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    text: String,
    host: String,
}

impl Authority {
    /// Whether it is this machine.
    fn is_loopback(&self) -> bool {
        let address = self.host.parse::<IpAddr>();
        address.map_or(self.host == "localhost", |address| address.is_loopback())
    }
}

impl Address {
    /// Whether the server is on this machine, as far as the address tells.
    #[must_use]
    pub fn is_here(&self) -> bool {
        match self {
            Self::Secure(authority) | Self::Plain(authority) => authority.is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// Scheme and host of its requests.
    pub(super) fn base(&self) -> String {
        match self {
            Self::Secure(authority) => format!("https://{}", authority.text),
            Self::Plain(authority) => format!("http://{}", authority.text),
            Self::Unix(_) => "http://localhost".to_owned(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secure(_) | Self::Plain(_) => f.write_str(&self.base()),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

fn bad(text: &str, what: &str) -> Error {
    Error::invalid(format!(
        "\"{}\" is not the address of a server: {what}",
        text.escape_debug()
    ))
    .advise("write https://HOST[:PORT], http://127.0.0.1:PORT or unix:/PATH")
}

impl FromStr for Address {
    type Err = Error;

    /// # Errors
    /// `InvalidInput`, which describes the mistake.
    fn from_str(text: &str) -> Result<Self> {
        if let Some(path) = text.strip_prefix(UNIX) {
            let path = Path::new(path.strip_prefix("//").unwrap_or(path));
            return match path.is_absolute() {
                true => Ok(Self::Unix(path.to_owned())),
                false => Err(bad(text, "the socket's path is not absolute")),
            };
        }
        // The text is not repeated: it may have a password in it.
        if text.contains('@') {
            return Err(
                Error::invalid("the address of a server has no user and no password")
                    .advise("a token is read from a file: --token-file FILE"),
            );
        }
        let uri: Uri = text.parse().map_err(|_| bad(text, "it is no URL"))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(bad(text, "it has no scheme"));
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || text.contains('#') {
            return Err(bad(text, "something follows the host"));
        }
        let host = authority.host();
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let has_colon = authority.as_str().len() > host.len();
        if host.is_empty() || (has_colon && authority.port_u16().is_none_or(|port| port == 0)) {
            return Err(bad(text, "its host or port is missing or wrong"));
        }
        let authority = Authority {
            text: authority.as_str().to_owned(),
            host: bare.unwrap_or(host).to_ascii_lowercase(),
        };
        match scheme {
            "https" => Ok(Self::Secure(authority)),
            "http" if authority.is_loopback() => Ok(Self::Plain(authority)),
            "http" => Err(bad(
                text,
                "without TLS a token and the disks could be read on the way; only a loopback address is used so",
            )),
            _ => Err(bad(text, "its scheme is not https")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Address;
    use crate::error::ErrorKind;

    #[test]
    fn the_forms() {
        for (text, shown, is_here) in [
            ("https://backup01", "https://backup01", false),
            ("https://backup01:8420/", "https://backup01:8420", false),
            (
                "https://[2001:db8::1]:8420",
                "https://[2001:db8::1]:8420",
                false,
            ),
            ("https://127.0.0.1:8420", "https://127.0.0.1:8420", true),
            ("http://127.0.0.1:8420", "http://127.0.0.1:8420", true),
            ("http://[::1]:8420", "http://[::1]:8420", true),
            ("http://LOCALHOST:8420", "http://LOCALHOST:8420", true),
            ("unix:/run/http.sock", "unix:/run/http.sock", true),
            ("unix:///run/http.sock", "unix:/run/http.sock", true),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(
                (address.to_string().as_str(), address.is_here()),
                (shown, is_here)
            );
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for (text, what) in [
            ("", "no URL"),
            ("backup01", "no scheme"),
            ("backup01:8420", "no scheme"),
            ("http://backup01:8420", "loopback"),
            ("http://192.0.2.7", "loopback"),
            ("http://127.0.0.1.evil.example", "loopback"),
            ("http://localhost.evil.example:1", "loopback"),
            ("ftp://backup01", "https"),
            ("https://backup01/api", "follows"),
            ("https://backup01?x=1", "follows"),
            ("https://backup01/#x", "follows"),
            ("https://backup01:0", "port"),
            ("https://backup01:99999", "port"),
            ("https://user:password@backup01", "password"),
            ("unix:run/http.sock", "absolute"),
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
            assert!(error.to_string().contains(what), "{text}: {error}");
            assert!(!error.to_string().contains("user:"), "{error}");
        }
    }
}
