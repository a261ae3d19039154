//! The text form of the configuration: TOML in which unknown keys are errors.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::types::likeness;

/// LIMIT: characters of a line that an error shows.
const LINE_SHOWN_MAX: usize = 60;

/// The whole file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub(super) memory: Option<String>,
    pub(super) stop_timeout: Option<String>,
    pub(super) access: Option<PathBuf>,
    pub(super) audit: Option<PathBuf>,
    pub(super) log: Log,
    pub(super) http: Http,
    pub(super) repository: Vec<Repository>,
}

/// `[http]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Http {
    pub(super) listen: Option<SocketAddr>,
    pub(super) sockets: Vec<PathBuf>,
    pub(super) tls_certificates: Option<PathBuf>,
    pub(super) hosts: Vec<String>,
}

/// `[log]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Log {
    pub(super) level: Option<String>,
    pub(super) format: Option<String>,
}

/// `[[repository]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Repository {
    pub(super) path: Option<PathBuf>,
    pub(super) name: Option<String>,
    pub(super) low_water: Option<String>,
    pub(super) guest_isolation: Option<String>,
    #[serde(default)]
    pub(super) mount: Vec<Mount>,
    #[serde(default)]
    pub(super) nbd: Nbd,
}

/// `[[repository.mount]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mount {
    pub(super) at: PathBuf,
    #[serde(default)]
    pub(super) options: String,
}

/// `[repository.nbd]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Nbd {
    pub(super) sockets: Vec<PathBuf>,
    pub(super) listen: Option<SocketAddr>,
    pub(super) tls_certificates: Option<PathBuf>,
    pub(super) access: Option<PathBuf>,
    pub(super) plain: bool,
    pub(super) idle: Option<String>,
    pub(super) connections: Option<u32>,
    pub(super) export_connections: Option<u32>,
}

impl File {
    /// Parses the text of a file.
    ///
    /// # Errors
    /// `InvalidInput` with the line and, for an unknown key, the most similar known key.
    pub(super) fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(0, |span| {
                let before = text.get(..span.start).unwrap_or_default();
                before.matches('\n').count() + 1
            });
            let message = e.message().trim();
            // A line may be as long as the file, and may hold anything.
            let shown = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
            let plain = shown.trim().chars().filter(|c| !c.is_control());
            let shown: String = plain.take(LINE_SHOWN_MAX).collect();
            let error = Error::invalid(format!("line {line} ({shown}): {message}"));
            match nearest(message) {
                Some(key) => error.advise(format!("did you mean \"{key}\"?")),
                None => match shape(message, &shown) {
                    Some(advice) => error.advise(advice),
                    None => error,
                },
            }
        })
    }
}

/// How a key is written, for a key that was written as another type.
fn shape(message: &str, shown: &str) -> Option<&'static str> {
    if message.contains("expected a sequence") {
        return Some(if shown.starts_with('[') {
            "there may be several: write it in double brackets, [[...]]"
        } else {
            "there may be several: write a list, [\"...\"]"
        });
    }
    if message.contains("expected a string") {
        return Some("write it in quotes, with its unit");
    }
    message
        .contains("socket address")
        .then_some("write an address and a port, as 192.0.2.7:10809 or [2001:db8::7]:10809")
}

/// The known key that is most like the unknown one. Parses serde's message: "unknown field `a`,
/// expected one of `b`, `c`".
fn nearest(message: &str) -> Option<String> {
    let rest = message.strip_prefix("unknown field `")?;
    let mut quoted = rest.split('`');
    let unknown = quoted.next()?;
    // Every second quoted part is a name; the parts between are not.
    likeness::nearest(quoted.skip(1).step_by(2), unknown).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::File;

    #[test]
    fn a_key_that_is_not_known_is_named_with_its_line_and_the_nearest() {
        for (text, line, key, near) in [
            ("memroy = \"1G\"", "line 1", "memroy", Some("memory")),
            (
                "\n[log]\nlevle = \"info\"",
                "line 3",
                "levle",
                Some("level"),
            ),
            (
                "[[repository]]\npath = \"/a\"\nlowwater = \"1G\"",
                "line 3",
                "lowwater",
                Some("low_water"),
            ),
            (
                "[[repository]]\npath = \"/a\"\n[repository.nbd]\nexport_connection = 3",
                "line 4",
                "export_connection",
                Some("export_connections"),
            ),
            ("zzz = 1", "line 1", "zzz", None),
        ] {
            let error = File::parse(text).unwrap_err().report();
            assert!(error.contains(line) && error.contains(key), "{error}");
            match near {
                Some(near) => assert!(error.contains(&format!("\"{near}\"?")), "{error}"),
                None => assert!(!error.contains("did you mean"), "{error}"),
            }
        }
    }
}
