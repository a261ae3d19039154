//! Sources: what `DISK=SOURCE` means, and opening it.
//!
//! # Invariants
//! The format is said, or follows from the file's extension; it is *never* taken from the content, which a
//! guest can write. Backing and data files of a source are opened only below directories that the caller names.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use super::helper::QemuNbd;
use crate::block::{FileDisk, ReadAt};
use crate::error::{Error, Result};
use crate::nbd::client::Client;
use crate::nbd::proto::uri::Uri;
use crate::qcow2::source::{Below, DenyAll, Gate, Opened, Source as Qcow2Source};
use crate::sys::beneath::Access;

/// How the bytes of a file are arranged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// As they are.
    Raw,
    /// QCOW2, read by ourselves.
    Qcow2,
    /// Something that `qemu-nbd` reads for us (its name of the format).
    Foreign(String),
}

/// Formats that `qemu-nbd` reads for us, with their extensions.
const FOREIGN: [(&str, &str); 6] = [
    ("vmdk", "vmdk"),
    ("vhdx", "vhdx"),
    ("vdi", "vdi"),
    ("vpc", "vhd"),
    ("vpc", "vpc"),
    ("qed", "qed"),
];

impl FromStr for Format {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "raw" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            other if FOREIGN.iter().any(|(format, _)| *format == other) => {
                Ok(Self::Foreign(other.to_owned()))
            }
            other => Err(Error::invalid(format!(
                "unknown format \"{other}\"; there are raw, qcow2, vmdk, vhdx, vdi, vpc, qed"
            ))),
        }
    }
}

impl Format {
    /// What the extension says; raw for any other.
    #[must_use]
    pub fn of_extension(path: &Path) -> Self {
        let extension = path
            .extension()
            .map(|e| e.to_string_lossy().to_ascii_lowercase())
            .unwrap_or_default();
        match extension.as_str() {
            "qcow2" => Self::Qcow2,
            other => FOREIGN
                .iter()
                .find(|(_, known)| *known == other)
                .map_or(Self::Raw, |(format, _)| Self::Foreign((*format).to_owned())),
        }
    }
}

/// A parsed source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file or block device.
    File {
        /// Where it is.
        path: PathBuf,
        /// How it is arranged.
        format: Format,
    },
    /// An export of an NBD server.
    Nbd(Uri),
}

impl Source {
    /// Parses `PATH`, `FORMAT:PATH` or an NBD URI. `default` is what `--format` says.
    ///
    /// # Errors
    /// `InvalidInput`, `Unsupported`.
    pub fn parse(text: &str, default: Option<&Format>) -> Result<Self> {
        if text.starts_with("nbd://")
            || text.starts_with("nbds://")
            || text.starts_with("nbd+unix://")
            || text.starts_with("nbds+unix://")
        {
            return Ok(Self::Nbd(text.parse()?));
        }
        if let Some((prefix, path)) = text.split_once(':')
            && let Ok(format) = prefix.parse::<Format>()
        {
            return Ok(Self::File {
                path: path.into(),
                format,
            });
        }
        let path = PathBuf::from(text);
        let format = default
            .cloned()
            .unwrap_or_else(|| Format::of_extension(&path));
        Ok(Self::File { path, format })
    }

    /// Opens it for reading.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt`, `Unsupported` (what is missing is named), `Io`.
    pub fn open(&self, allow_backing: &[PathBuf]) -> Result<OpenSource> {
        match self {
            Self::Nbd(uri) => Ok(OpenSource {
                disk: Arc::new(Client::connect(uri)?),
                helper: None,
            }),
            Self::File {
                path,
                format: Format::Raw,
            } => Ok(OpenSource {
                disk: Arc::new(FileDisk::open(path, Access::Read)?),
                helper: None,
            }),
            Self::File {
                path,
                format: Format::Qcow2,
            } => {
                let gate = open_gate(allow_backing)?;
                let disk = Qcow2Source::open(Opened::open(path)?, gate.as_ref())?;
                Ok(OpenSource {
                    disk: Arc::new(disk),
                    helper: None,
                })
            }
            Self::File {
                path,
                format: Format::Foreign(format),
            } => {
                let helper = QemuNbd::start(path, format)?;
                let client = Client::connect(helper.uri())?;
                Ok(OpenSource {
                    disk: Arc::new(client),
                    helper: Some(helper),
                })
            }
        }
    }
}

fn open_gate(directories: &[PathBuf]) -> Result<Box<dyn Gate>> {
    let mut directories = directories.iter();
    let Some(first) = directories.next() else {
        return Ok(Box::new(DenyAll));
    };
    let mut below = Below::new(first)?;
    for directory in directories {
        below = below.and(directory)?;
    }
    Ok(Box::new(below))
}

/// An open source; what helps to read it ends with it.
pub struct OpenSource {
    /// The bytes.
    pub disk: Arc<dyn ReadAt>,
    /// Dropped after `disk`, whose connection it serves.
    #[expect(dead_code, reason = "held for its Drop, which ends the helper process")]
    helper: Option<QemuNbd>,
}

#[cfg(test)]
mod tests {
    use super::{Format, Source};

    #[test]
    fn formats_are_said_or_follow_from_the_extension() {
        let parse = |text: &str| Source::parse(text, None).unwrap();
        let file = |path: &str, format: Format| Source::File {
            path: path.into(),
            format,
        };
        assert_eq!(parse("monday.raw"), file("monday.raw", Format::Raw));
        assert_eq!(parse("a.qcow2"), file("a.qcow2", Format::Qcow2));
        assert_eq!(parse("raw:a.qcow2"), file("a.qcow2", Format::Raw));
        assert_eq!(parse("qcow2:/x/y:z"), file("/x/y:z", Format::Qcow2));
        assert_eq!(
            parse("disk.VMDK"),
            file("disk.VMDK", Format::Foreign("vmdk".into()))
        );
        assert_eq!(parse("/dev/vg0/root"), file("/dev/vg0/root", Format::Raw));
        assert_eq!(parse("odd:name"), file("odd:name", Format::Raw));
        assert_eq!(
            Source::parse("x", Some(&Format::Qcow2)).unwrap(),
            file("x", Format::Qcow2)
        );
        assert!(matches!(
            parse("nbd+unix:///?socket=/tmp/s"),
            Source::Nbd(_)
        ));
        assert!("ext4".parse::<Format>().is_err());
    }
}
