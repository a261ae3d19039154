//! NBD URIs (`doc/uri.md` of the NetworkBlockDevice project): a server's address and the name of an
//! export.

use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::types::Token;

/// The address of a server.
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

/// TLS parameters, named as in libnbd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsParameters {
    /// `tls-certificates=`: the directory; `None` for the default one.
    pub certificates: Option<PathBuf>,
    /// `tls-hostname=`: the name expected in the server's certificate; `None` for the host's.
    pub hostname: Option<String>,
    /// `tls-verify-peer=`: whether the server's certificate is checked.
    pub is_verified: bool,
}

/// A server and one of its exports: `nbd://host[:port]/export` or `nbd+unix:///export?socket=/path`; `nbds` for TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    address: Address,
    export: String,
    tls: Option<TlsParameters>,
}

/// Whether a text has the shape of a session's secret.
fn is_secret(text: &str) -> bool {
    text.len() == Token::BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The schemes of NBD URIs (NBD `doc/uri.md`).
const SCHEMES: [&str; 4] = ["nbd://", "nbds://", "nbd+unix://", "nbds+unix://"];

impl Uri {
    /// Whether a text has the scheme of an NBD URI.
    #[must_use]
    pub fn is_uri(text: &str) -> bool {
        SCHEMES.iter().any(|scheme| text.starts_with(scheme))
    }

    /// The URI of an export behind a Unix socket.
    #[must_use]
    pub fn unix(socket: impl Into<PathBuf>, export: impl Into<String>) -> Self {
        Self {
            address: Address::Unix(socket.into()),
            export: export.into(),
            tls: None,
        }
    }

    /// The TLS parameters; `None` without TLS.
    #[must_use]
    pub const fn tls(&self) -> Option<&TlsParameters> {
        self.tls.as_ref()
    }

    /// The URI for messages: without the secret of a session, which follows a tilde in the export's name.
    #[must_use]
    pub fn shown(&self) -> String {
        let hidden = |part: &str| match part.split_once('~') {
            Some((name, secret)) if is_secret(secret) => format!("{name}~..."),
            _ => part.to_owned(),
        };
        let parts: Vec<String> = self.export.split('/').map(hidden).collect();
        let shown = Self {
            export: parts.join("/"),
            ..self.clone()
        };
        shown.to_string()
    }

    /// The same server and export with TLS of these parameters.
    #[must_use]
    pub fn with_tls(self, tls: TlsParameters) -> Self {
        Self {
            tls: Some(tls),
            ..self
        }
    }

    /// The name expected in the server's certificate: `tls-hostname`, else the host's name, else
    /// `localhost`.
    #[must_use]
    pub fn tls_host(&self) -> String {
        let hostname = self.tls.as_ref().and_then(|tls| tls.hostname.clone());
        hostname.unwrap_or_else(|| match &self.address {
            Address::Unix(_) => "localhost".to_owned(),
            Address::Tcp { host, .. } => host.clone(),
        })
    }

    /// The address of the server.
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
        let secure = if self.tls.is_some() { "s" } else { "" };
        let mut separator = "?";
        match &self.address {
            Address::Unix(path) => {
                separator = "&";
                write!(f, "nbd{secure}+unix:///")?;
                encode(f, self.export.as_bytes())?;
                f.write_str("?socket=")?;
                encode(f, path.as_os_str().as_bytes())?;
            }
            Address::Tcp { host, port } => {
                if host.contains(':') {
                    write!(f, "nbd{secure}://[{host}]")?;
                } else {
                    write!(f, "nbd{secure}://{host}")?;
                }
                if *port != super::PORT {
                    write!(f, ":{port}")?;
                }
                f.write_str("/")?;
                encode(f, self.export.as_bytes())?;
            }
        }
        let Some(tls) = &self.tls else {
            return Ok(());
        };
        let certificates = tls
            .certificates
            .as_ref()
            .map(|path| path.as_os_str().as_bytes());
        let hostname = tls.hostname.as_ref().map(String::as_bytes);
        let verify = (!tls.is_verified).then_some(&b"0"[..]);
        for (key, value) in [
            ("tls-certificates", certificates),
            ("tls-hostname", hostname),
            ("tls-verify-peer", verify),
        ] {
            if let Some(value) = value {
                write!(f, "{separator}{key}=")?;
                encode(f, value)?;
                separator = "&";
            }
        }
        Ok(())
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

/// Decodes percent-encoding: `%41` becomes `A`.
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
    .advise("write nbd[s]://HOST[:PORT]/EXPORT or nbd[s]+unix:///EXPORT?socket=/PATH")
}

fn host_and_port(text: &str, authority: &str) -> Result<Address> {
    if authority.contains('@') {
        return Err(bad(
            text,
            "a user belongs to TLS with pre-shared keys, which is not available",
        ));
    }
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest
            .split_once(']')
            .ok_or_else(|| bad(text, "an IPv6 address has no closing bracket"))?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(bad(text, "the text in brackets is not an IPv6 address"));
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
    // proto: without a host, the URI means the local machine.
    let host = if host.is_empty() { "localhost" } else { host };
    Ok(Address::Tcp {
        host: host.to_owned(),
        port,
    })
}

/// The part after the question mark.
struct Query {
    socket: Option<PathBuf>,
    tls: Option<TlsParameters>,
}

fn parse_query(text: &str, query: &str, secure: bool) -> Result<Query> {
    let mut socket = None;
    let mut tls = TlsParameters {
        certificates: None,
        hostname: None,
        is_verified: true,
    };
    let mut seen: Vec<&str> = Vec::new();
    for parameter in query.split('&').filter(|p| !p.is_empty()) {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let value =
            decode(value).ok_or_else(|| bad(text, "a % is not followed by two hex digits"))?;
        if seen.contains(&key) {
            return Err(bad(text, "a parameter is there twice"));
        }
        seen.push(key);
        if key.starts_with("tls-") && !secure {
            return Err(bad(
                text,
                "parameters of TLS need the scheme nbds or nbds+unix",
            ));
        }
        let path = |value: Vec<u8>| {
            if value.is_empty() || value.contains(&0) {
                return Err(bad(text, "a path is empty or has a zero byte"));
            }
            Ok(PathBuf::from(std::ffi::OsString::from_vec(value)))
        };
        match key {
            "socket" => socket = Some(path(value)?),
            "tls-certificates" => tls.certificates = Some(path(value)?),
            "tls-hostname" => {
                let name = String::from_utf8(value)
                    .ok()
                    .filter(|name| !name.is_empty());
                tls.hostname = Some(name.ok_or_else(|| bad(text, "tls-hostname is no name"))?);
            }
            "tls-verify-peer" => {
                tls.is_verified = match value.as_slice() {
                    b"1" | b"true" => true,
                    b"0" | b"false" => false,
                    _ => return Err(bad(text, "tls-verify-peer is 0 or 1")),
                };
            }
            "tls-type" if value == b"x509" => {}
            "tls-type" | "tls-psk-file" | "tls-username" => {
                return Err(Error::unsupported(format!(
                    "{}: TLS is spoken with certificates only",
                    text.escape_debug()
                ))
                .advise("pre-shared keys and anonymous TLS are not available"));
            }
            _ => {
                return Err(bad(
                    text,
                    "only the parameters socket, tls-certificates, tls-hostname and tls-verify-peer are known",
                ));
            }
        }
    }
    let tls = secure.then_some(tls);
    Ok(Query { socket, tls })
}

impl FromStr for Uri {
    type Err = Error;

    /// # Errors
    /// `InvalidInput`, which describes the mistake; `Unsupported` for vsock, pre-shared keys and
    /// anonymous TLS.
    fn from_str(text: &str) -> Result<Self> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| bad(text, "it has no \"://\""))?;
        let (unix, secure) = match scheme {
            "nbd" => (false, false),
            "nbd+unix" => (true, false),
            "nbds" => (false, true),
            "nbds+unix" => (true, true),
            "nbd+vsock" | "nbds+vsock" => {
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
        let Query { socket, tls } = parse_query(text, query, secure)?;
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
        Ok(Self {
            address,
            export,
            tls,
        })
    }
}

impl Address {
    /// The address as a path for messages: the socket's path, or `host:port`.
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
            tls: None,
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
            ("nbd://h/x?tls-hostname=a", "nbds"),
            ("nbds://h/x?tls-verify-peer=2", "0 or 1"),
            ("nbds://h/x?tls-hostname=", "no name"),
            ("nbds://h/x?tls-certificates=", "path is empty"),
            ("nbd+unix:///x?socket=/s&socket=/t", "twice"),
            ("nbd+unix:///x?socket=%00", "zero byte"),
        ] {
            let error = text.parse::<Uri>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
            assert!(error.to_string().contains(what), "{text}: {error}");
        }
        for text in [
            "nbds://h/x?tls-type=psk",
            "nbds://h/x?tls-psk-file=/k",
            "nbds+vsock://1/x",
        ] {
            let error = text.parse::<Uri>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{text}");
        }
    }

    #[test]
    fn tls_is_asked_for_by_scheme_and_parameters() {
        let parse = |text: &str| text.parse::<Uri>().unwrap();
        let uri = parse("nbds://h/x");
        assert_eq!(uri.tls_host(), "h");
        assert!(uri.tls().is_some_and(|tls| tls.is_verified));
        for text in [
            "nbds://h/x",
            "nbds://[::1]:7/x?tls-certificates=/etc/c%20d&tls-hostname=n",
            "nbds+unix:///x?socket=/s&tls-certificates=c&tls-verify-peer=0",
        ] {
            assert_eq!(parse(text).to_string(), text);
        }
        let uri = parse("nbds+unix:///x?socket=/s&tls-type=x509");
        assert_eq!(uri.tls_host(), "localhost");
        assert_eq!(parse("nbds://h/x?tls-hostname=n").tls_host(), "n");
        assert_eq!(parse("nbd://h/x").tls(), None);
    }

    #[test]
    fn messages_do_not_have_the_secret_of_a_session() {
        let secret = "00112233445566778899aabbccddeeff";
        for (export, shown) in [
            (format!("web01/s~{secret}/vda"), "nbd://h/web01/s~.../vda"),
            ("web01/latest~2/vda".into(), "nbd://h/web01/latest~2/vda"),
            ("a~b".into(), "nbd://h/a~b"),
        ] {
            assert_eq!(tcp("h", 10_809, &export).shown(), shown);
        }
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
