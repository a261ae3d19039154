//! Targets of a restored disk: parses the caller's argument, and checks that the place may be written. The
//! checks read nothing from the repository.
//!
//! # Invariants
//! A target is a regular file, a block device (also through a symlink), or an NBD URI. Nothing else is ever
//! replaced: a rename over `/dev/null` would remove it for the whole machine.

use std::ffi::OsStr;
use std::fs::FileType;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::nbd::proto::uri::Uri;
use crate::types::ImageFormat;

/// A parsed target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A regular file, which may exist or not.
    File {
        /// Its path.
        path: PathBuf,
        /// Whether it becomes a QCOW2 image; otherwise it gets the disk's bytes.
        is_qcow2: bool,
    },
    /// A block device.
    Device(PathBuf),
    /// An export of an NBD server.
    Nbd(Uri),
}

/// Extensions of formats that cannot be written, besides those that [`ImageFormat`] knows: a user who states
/// one expects more than the disk's bytes.
const FOREIGN: [&str; 13] = [
    "qcow", "ova", "ovf", "hdd", "gz", "tgz", "bz2", "xz", "zst", "lz4", "zip", "tar", "7z",
];

impl Target {
    /// Parses `PATH`, `raw:PATH`, `qcow2:PATH` or an NBD URI, and checks the present file. With `force` an
    /// existing file may be replaced.
    ///
    /// # Errors
    /// `InvalidInput`: standard output, a format that cannot be written, a place that is neither a file nor a
    /// device; `IsADirectory`; `AlreadyExists`; `Io`.
    pub fn parse(text: &OsStr, force: bool) -> Result<Self> {
        let (given, rest) = ImageFormat::split_prefix(text);
        if rest == "-" {
            return Err(
                Error::invalid("a disk is not written to standard output").advise(
                    "name a file, a device or an NBD URI; a pipe can read from an export: restorefs mount --nbd SOCKET, nbdcopy URI -",
                ),
            );
        }
        let text = rest.to_string_lossy();
        if Uri::is_uri(&text) {
            return match given {
                None | Some(ImageFormat::Raw) => Ok(Self::Nbd(text.parse()?)),
                Some(other) => Err(Error::invalid(format!(
                    "an NBD export takes a disk's bytes, and no {other} image"
                ))),
            };
        }
        if text.contains("://") {
            return Err(
                Error::invalid(format!("\"{}\" is no target", text.escape_debug())).advise(
                    "name a file, a block device or an NBD URI (nbd://, nbds://, nbd+unix://)",
                ),
            );
        }
        let path = PathBuf::from(rest);
        let is_qcow2 = format_of(given, &path)? == ImageFormat::Qcow2;
        match look(&path)? {
            Existing::Device if is_qcow2 && given.is_some() => {
                Err(Error::invalid("a QCOW2 image is not written to a device")
                    .at_path(&path)
                    .advise("write the disk's bytes (raw:DEVICE), or name a file"))
            }
            Existing::Device => Ok(Self::Device(path)),
            Existing::File if !force => {
                Err(Error::new(ErrorKind::AlreadyExists, "the target exists")
                    .at_path(path)
                    .advise("name another, or use --force"))
            }
            Existing::File | Existing::Nothing => Ok(Self::File { path, is_qcow2 }),
        }
    }
}

/// The format to write: the caller's, else that of the extension, else raw.
fn format_of(given: Option<ImageFormat>, path: &Path) -> Result<ImageFormat> {
    let by_name = ImageFormat::of_extension(path);
    match given.or(by_name) {
        Some(ImageFormat::Foreign(name)) => Err(Error::unsupported(format!(
            "images of the format {name} are not written"
        ))
        .at_path(path)
        .advise(format!(
            "restore to a file NAME.qcow2, and convert it: qemu-img convert -f qcow2 -O {name} NAME.qcow2 {}",
            path.display()
        ))),
        Some(format) => Ok(format),
        None => {
            let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
            if FOREIGN.contains(&extension.to_ascii_lowercase().as_str()) {
                return Err(Error::unsupported(format!(
                    "files of the kind .{extension} are not written"
                ))
                .at_path(path)
                .advise(format!(
                    "name it .raw or .qcow2, or write raw:{} for the disk's bytes",
                    path.display()
                )));
            }
            Ok(ImageFormat::Raw)
        }
    }
}

enum Existing {
    Nothing,
    File,
    Device,
}

/// The kind of file at a path; an error when it must not be replaced.
fn look(path: &Path) -> Result<Existing> {
    let what = "cannot look at the target";
    let metadata = match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Existing::Nothing),
        other => other.or_io(what).at_path(path)?,
    };
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(Existing::File);
    }
    if kind.is_symlink() {
        // Only a device is written through a symlink (/dev/disk/by-id, /dev/VG/LV); any other file would
        // replace the symlink.
        let is_device = std::fs::metadata(path).is_ok_and(|m| m.file_type().is_block_device());
        if is_device {
            return Ok(Existing::Device);
        }
    }
    if kind.is_block_device() {
        return Ok(Existing::Device);
    }
    Err(refusal(kind).at_path(path))
}

/// The error for a kind of file that is never written.
#[must_use]
pub fn refusal(kind: FileType) -> Error {
    if kind.is_dir() {
        return Error::new(ErrorKind::IsADirectory, "the target is a directory")
            .advise("name a file in it; all disks go into a directory with --to DIR");
    }
    let text = if kind.is_symlink() {
        "a symlink"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "neither a regular file nor a block device"
    };
    Error::invalid(format!("the target is {text}"))
        .advise("name a regular file, a block device or an NBD URI")
}

#[cfg(test)]
mod tests {
    use super::Target;
    use crate::error::ErrorKind;
    use std::ffi::OsStr;

    #[test]
    fn words_mean_a_file_an_image_or_an_export() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let file = |text: String| match Target::parse(OsStr::new(&text), false).unwrap() {
            Target::File { is_qcow2, .. } => is_qcow2,
            other => panic!("{other:?}"),
        };
        assert!(!file(at("out.raw")) && !file(at("out")) && !file(at("out.img")));
        assert!(file(at("out.qcow2")) && file(format!("qcow2:{}", at("out"))));
        assert!(!file(format!("raw:{}", at("out.qcow2"))));
        assert!(!file(format!("raw:{}", at("out.gz"))));
        for bad in ["vmdk:x", "out.vhdx", "out.qcow", "out.raw.zst", "OUT.VMDK"] {
            let error = Target::parse(OsStr::new(bad), true).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{bad}");
        }
        for bad in [
            "-",
            "raw:-",
            "qcow2:-",
            "ssh://host/disk",
            "qcow2:nbd://host/x",
        ] {
            let error = Target::parse(OsStr::new(bad), true).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }
}
