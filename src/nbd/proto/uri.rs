//! NBD URIs (`doc/uri.md` of the NetworkBlockDevice project): where a server listens, and which export is meant.

use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::{Error, Result};

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// A host's name or address, and its port.
    Tcp {
        /// Name or address, an IPv6 one without its brackets.
        host: String,
        /// Port.
        port: u16,
    },
}

/// A server and one of its exports: `nbd://host[:port]/export` or `nbd+unix:///export?socket=/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    address: Address,
    export: String,
}

impl Uri {
    /// The URI of an export behind a Unix socket.
    #[must_use]
    pub fn unix(socket: impl Into<PathBuf>, export: impl Into<String>) -> Self {
        Self {
            address: Address::Unix(socket.into()),
            export: export.into(),
        }
    }

    /// Where the server listens.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// The export's name, percent-decoded; empty for the server's default.
    #[must_use]
    pub fn export(&self) -> &str {
        &self.export
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Unix(path) => {
                f.write_str("nbd+unix:///")?;
                encode(f, self.export.as_bytes())?;
                f.write_str("?socket=")?;
                encode(f, path.as_os_str().as_bytes())
            }
            Address::Tcp { host, port } => {
                if host.contains(':') {
                    write!(f, "nbd://[{host}]")?;
                } else {
                    write!(f, "nbd://{host}")?;
                }
                if *port != super::PORT {
                    write!(f, ":{port}")?;
                }
                f.write_str("/")?;
                encode(f, self.export.as_bytes())
            }
        }
    }
}

fn encode(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~/:@".contains(byte) {
            write!(f, "{}", char::from(*byte))?;
        } else {
            write!(f, "%{byte:02X}")?;
        }
    }
    Ok(())
}

/// Takes `%41` for `A`.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let high = char::from(bytes.next()?).to_digit(16)?;
        let low = char::from(bytes.next()?).to_digit(16)?;
        out.push(u8::try_from(high.checked_mul(16)?.checked_add(low)?).ok()?);
    }
    Some(out)
}

fn bad(text: &str, what: &str) -> Error {
    Error::invalid(format!(
        "\"{}\" is not an NBD URI: {what}",
        text.escape_debug()
    ))
    .advise("write nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=/PATH")
}

fn host_and_port(text: &str, authority: &str) -> Result<Address> {
    if authority.contains('@') {
        return Err(bad(
            text,
            "a user belongs to TLS, which is not available yet",
        ));
    }
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest
            .split_once(']')
            .ok_or_else(|| bad(text, "an IPv6 address has no closing bracket"))?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(bad(text, "what is in brackets is not an IPv6 address"));
        }
        match rest.strip_prefix(':') {
            Some(port) => (host, port),
            None if rest.is_empty() => (host, ""),
            None => return Err(bad(text, "something follows the closing bracket")),
        }
    } else {
        authority.split_once(':').unwrap_or((authority, ""))
    };
    if port.contains(':') {
        return Err(bad(text, "an IPv6 address needs brackets"));
    }
    let port = match port {
        "" => super::PORT,
        port => port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| bad(text, "the port is not a number from 1 to 65535"))?,
    };
    // proto: without a host it is this machine.
    let host = if host.is_empty() { "localhost" } else { host };
    Ok(Address::Tcp {
        host: host.to_owned(),
        port,
    })
}

fn socket(text: &str, query: &str) -> Result<Option<PathBuf>> {
    let mut socket = None;
    for parameter in query.split('&').filter(|p| !p.is_empty()) {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if key != "socket" {
            return Err(bad(text, "only the parameter \"socket\" is known"));
        }
        let path =
            decode(value).ok_or_else(|| bad(text, "a % is not followed by two hex digits"))?;
        if path.is_empty() || path.contains(&0) {
            return Err(bad(text, "the socket's path is empty or has a zero byte"));
        }
        if socket
            .replace(std::ffi::OsString::from_vec(path).into())
            .is_some()
        {
            return Err(bad(text, "there are two sockets"));
        }
    }
    Ok(socket)
}

impl FromStr for Uri {
    type Err = Error;

    /// # Errors
    /// `InvalidInput` saying what is wrong; `Unsupported` for TLS and for vsock.
    fn from_str(text: &str) -> Result<Self> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| bad(text, "it has no \"://\""))?;
        let unix = match scheme {
            "nbd" => false,
            "nbd+unix" => true,
            "nbds" | "nbds+unix" | "nbds+vsock" => {
                return Err(Error::unsupported(format!(
                    "{}: TLS is not available yet",
                    text.escape_debug()
                ))
                .advise("use nbd+unix://, or nbd:// on a network that you trust"));
            }
            "nbd+vsock" => {
                return Err(Error::unsupported(format!(
                    "{}: vsock is not available",
                    text.escape_debug()
                )));
            }
            _ => return Err(bad(text, "its scheme is not one of NBD")),
        };
        if rest.contains('#') {
            return Err(bad(text, "a fragment (#) makes no sense here; write %23"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let export =
            decode(path).ok_or_else(|| bad(text, "a % is not followed by two hex digits"))?;
        let export =
            String::from_utf8(export).map_err(|_| bad(text, "the export's name is not UTF-8"))?;
        if export.len() > super::STRING_BYTES_MAX {
            return Err(bad(text, "the export's name has more than 4096 bytes"));
        }
        let socket = socket(text, query)?;
        let address = match (unix, socket) {
            (true, Some(path)) if authority.is_empty() => Address::Unix(path),
            (true, Some(_)) => {
                return Err(bad(
                    text,
                    "a Unix socket has no host; write three slashes, nbd+unix:///EXPORT",
                ));
            }
            (true, None) => return Err(bad(text, "the parameter \"socket\" is missing")),
            (false, Some(_)) => {
                return Err(bad(text, "a socket needs the scheme nbd+unix"));
            }
            (false, None) => host_and_port(text, authority)?,
        };
        Ok(Self { address, export })
    }
}

impl Address {
    /// For messages: the socket's path, or `host:port` as a path.
    #[must_use]
    pub fn place(&self) -> PathBuf {
        match self {
            Self::Unix(path) => path.clone(),
            Self::Tcp { host, port } => Path::new(&format!("{host}:{port}")).to_path_buf(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, Uri};
    use crate::error::ErrorKind;
    use proptest::prelude::{prop_assert_eq, proptest};

    fn tcp(host: &str, port: u16, export: &str) -> Uri {
        Uri {
            address: Address::Tcp {
                host: host.into(),
                port,
            },
            export: export.into(),
        }
    }

    #[test]
    fn the_forms() {
        let parse = |text: &str| text.parse::<Uri>().unwrap();
        assert_eq!(parse("nbd://h"), tcp("h", 10_809, ""));
        assert_eq!(parse("nbd://h:1/a/b%2Fc%20"), tcp("h", 1, "a/b/c "));
        assert_eq!(parse("nbd://[::1]:77/"), tcp("::1", 77, ""));
        assert_eq!(parse("nbd:///x"), tcp("localhost", 10_809, "x"));
        let unix = parse("nbd+unix:///web01/s/vda?socket=/run/a%3fb.sock");
        assert_eq!(unix, Uri::unix("/run/a?b.sock", "web01/s/vda"));
        assert_eq!(parse("nbd+unix://?socket=x"), Uri::unix("x", ""));
    }

    #[test]
    fn errors_say_what_is_wrong() {
        for (text, what) in [
            ("h/x", "no \"://\""),
            ("http://h/x", "scheme"),
            ("nbd+unix:///x", "\"socket\" is missing"),
            ("nbd+unix://x?socket=/s", "three slashes"),
            ("nbd://h/x?socket=/s", "nbd+unix"),
            ("nbd://h:0/x", "port"),
            ("nbd://::1/x", "brackets"),
            ("nbd://[zz]/x", "IPv6"),
            ("nbd://u@h/x", "user"),
            ("nbd://h/%4", "hex"),
            ("nbd://h/%ff", "UTF-8"),
            ("nbd://h/x#y", "fragment"),
            ("nbd+unix:///x?socket=/s&tls=1", "only the parameter"),
            ("nbd+unix:///x?socket=/s&socket=/t", "two"),
            ("nbd+unix:///x?socket=%00", "zero byte"),
        ] {
            let error = text.parse::<Uri>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
            assert!(error.to_string().contains(what), "{text}: {error}");
        }
        let error = "nbds://h/x".parse::<Uri>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("TLS is not available yet"));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_parsed_again(socket in "/[^\u{0}]{1,20}", export in ".{0,30}") {
            let uri = Uri::unix(socket, export);
            prop_assert_eq!(uri.to_string().parse::<Uri>().unwrap(), uri);
        }

        #[test]
        fn any_text_gives_a_uri_or_an_error(text in "(nbd|nbds)?(\\+unix)?(://)?.{0,40}") {
            let _ = text.parse::<Uri>();
        }
    }
}
