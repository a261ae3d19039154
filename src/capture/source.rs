//! Sources: parses and opens the `SOURCE` of `DISK=SOURCE`.
//!
//! # Invariants
//! - The caller states the format, or the file's extension does. It is *never* taken from the content, which
//!   a guest can write. A file that begins like an image without a stated format is reported
//!   ([`OpenSource::lookalike`]).
//! - Backing and data files of a source are opened only below directories that the caller names, including
//!   those that `qemu-nbd` opens.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::backing;
use super::helper::QemuNbd;
use super::watch::Watch;
use crate::block::piece::Changes;
use crate::block::{FileDisk, ReadAt, magic};
use crate::error::{Error, Result, ResultExt};
use crate::nbd::client::Client;
use crate::nbd::proto::uri::Uri;
use crate::qcow2::source::{Below, DenyAll, Gate, OpenedFile, Source as Qcow2Source};
use crate::sys::beneath::Access;
use crate::types::ImageFormat;

/// A parsed source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file or block device.
    File {
        /// Its path.
        path: PathBuf,
        /// Its format; `None` when neither the caller nor the extension states one: raw, unless it begins
        /// like an image.
        format: Option<ImageFormat>,
    },
    /// An export of an NBD server.
    Nbd {
        /// URI of the export.
        uri: Uri,
        /// Whether the caller states that its bytes are raw, whatever they begin with.
        is_raw: bool,
        /// A dirty bitmap of the export.
        bitmap: Option<String>,
    },
}

impl Source {
    /// Parses `PATH`, `FORMAT:PATH`, an NBD URI or `raw:URI`. `default` is the value of `--format`.
    ///
    /// # Errors
    /// `InvalidInput`, `Unsupported`.
    pub fn parse(text: &OsStr, default: Option<ImageFormat>) -> Result<Self> {
        let (prefix, rest) = ImageFormat::split_prefix(text);
        let uri = rest.to_str().filter(|text| Uri::is_uri(text));
        if let Some(uri) = uri {
            if let Some(format) = prefix.filter(|format| *format != ImageFormat::Raw) {
                return Err(Error::invalid(format!(
                    "an NBD export has a disk's bytes, and is not read as {format}"
                ))
                .advise("let its server open the image with that format (qemu-nbd -f)"));
            }
            return Ok(Self::Nbd {
                uri: uri.parse()?,
                is_raw: prefix.or(default) == Some(ImageFormat::Raw),
                bitmap: None,
            });
        }
        let path = PathBuf::from(rest);
        let format = prefix
            .or(default)
            .or_else(|| ImageFormat::of_extension(&path));
        Ok(Self::File { path, format })
    }

    /// Opens the source for reading.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt`, `Unsupported` (naming the missing feature), `PermissionDenied` (a file that the
    /// image names), `Io`.
    pub fn open(&self, allow_backing: &[PathBuf]) -> Result<OpenSource> {
        let open = match self {
            Self::Nbd { uri, bitmap, .. } => {
                let client = match bitmap {
                    Some(name) => Client::connect_with_bitmap(uri, name)?,
                    None => Client::connect(uri)?,
                };
                let client = Arc::new(client);
                let changes = bitmap.is_some().then(|| Arc::clone(&client));
                OpenSource {
                    reports_data: client.knows_extents(),
                    changes: changes.map(|client| client as Arc<dyn Changes>),
                    ..OpenSource::of(client)
                }
            }
            Self::File {
                path,
                format: None | Some(ImageFormat::Raw),
            } => {
                let disk = FileDisk::open(path, Access::Read)?;
                let mut watch = Watch::default();
                let file = disk
                    .file()
                    .try_clone()
                    .or_io("cannot open the source twice")?;
                watch.add(path, Arc::new(file))?;
                OpenSource {
                    reports_data: !disk.is_device(),
                    watch,
                    ..OpenSource::of(Arc::new(disk))
                }
            }
            Self::File {
                path,
                format: Some(ImageFormat::Qcow2),
            } => {
                let gate = open_gate(allow_backing)?;
                let disk = Qcow2Source::open(OpenedFile::open(path)?, gate.as_ref())?;
                let mut watch = Watch::default();
                for (path, file) in disk.files() {
                    watch.add(path, Arc::clone(file))?;
                }
                OpenSource {
                    reports_data: true,
                    watch,
                    ..OpenSource::of(Arc::new(disk))
                }
            }
            Self::File {
                path,
                format: Some(ImageFormat::Foreign(format)),
            } => open_foreign(path, format, allow_backing)?,
        };
        let is_unsaid = matches!(
            self,
            Self::File { format: None, .. } | Self::Nbd { is_raw: false, .. }
        );
        let lookalike = match is_unsaid {
            true => magic::look(open.disk.as_ref())?,
            false => None,
        };
        Ok(OpenSource { lookalike, ..open })
    }

    /// Advice for the caller, when the source begins like an image of `format` without a stated format.
    #[must_use]
    pub fn ways_out(&self, format: &str) -> String {
        match self {
            Self::Nbd { uri, .. } if magic::is_packed(format) => format!(
                "unpack it before it is exported, or write raw:{uri} if these are the disk's own bytes"
            ),
            Self::Nbd { uri, .. } => format!(
                "export the disk in it (qemu-nbd -f {format}), or write raw:{uri} if these are the disk's own bytes"
            ),
            Self::File { path, .. } => {
                let path = path.display();
                let as_image = match format.parse::<ImageFormat>() {
                    Ok(_) => format!("write {format}:{path} for the disk in the image"),
                    Err(_) if magic::is_packed(format) => {
                        "unpack it, and name the disk in it".to_owned()
                    }
                    Err(_) => format!("convert it (qemu-img convert -O qcow2 {path} NEW.qcow2)"),
                };
                format!("{as_image}, or write raw:{path} if these are the disk's own bytes")
            }
        }
    }
}

/// Opens an image through `qemu-nbd`, and checks the files that it has opened.
fn open_foreign(path: &Path, format: &str, allow_backing: &[PathBuf]) -> Result<OpenSource> {
    let mut watch = Watch::default();
    let file = File::open(path)
        .or_io("cannot open the image")
        .at_path(path)?;
    let named = file
        .metadata()
        .or_io("cannot stat the image")
        .at_path(path)?;
    if !named.is_file() && !named.file_type().is_block_device() {
        return Err(Error::invalid("an image is a regular file or a block device").at_path(path));
    }
    watch.add(path, Arc::new(file))?;
    let allowed = allow_backing
        .iter()
        .map(|directory| {
            directory
                .canonicalize()
                .or_io("cannot resolve the directory of backing files")
                .at_path(directory)
        })
        .collect::<Result<Vec<_>>>()?;
    backing::check(path, format, &allowed)?;
    let mut helper = QemuNbd::start(path, format)?;
    // The helper listens before it has opened the image, and negotiates afterwards: only now are all files of
    // the image open.
    let connected = Client::connect(helper.uri());
    let client = helper.explain(connected, path)?;
    for (opened, file) in helper.files()? {
        let metadata = file
            .metadata()
            .or_io("cannot stat a file of the image")
            .at_path(&opened)?;
        if (metadata.dev(), metadata.ino()) == (named.dev(), named.ino()) {
            continue;
        }
        backing::check_place(path, &opened, &allowed)?;
        watch.add(&opened, Arc::new(file))?;
    }
    Ok(OpenSource {
        reports_data: client.knows_extents(),
        watch,
        helper: Some(helper),
        ..OpenSource::of(Arc::new(client))
    })
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

/// An open source; dropping it also ends its helper.
pub struct OpenSource {
    /// The bytes.
    pub disk: Arc<dyn ReadAt>,
    /// Watches for writers of its files.
    pub watch: Watch,
    /// The image format that its first bytes look like, when no format was stated.
    pub lookalike: Option<&'static str>,
    /// The changes that its bitmap has.
    pub changes: Option<Arc<dyn Changes>>,
    /// Whether it distinguishes data from holes.
    reports_data: bool,
    /// Dropped after `disk`, whose connection it serves.
    #[expect(dead_code, reason = "held for its Drop, which ends the helper process")]
    helper: Option<QemuNbd>,
}

/// LIMIT: extents to count; a source with more counts as reporting nothing.
const EXTENTS_MAX: u64 = 1 << 22;

impl OpenSource {
    fn of(disk: Arc<dyn ReadAt>) -> Self {
        Self {
            disk,
            watch: Watch::default(),
            lookalike: None,
            changes: None,
            reports_data: false,
            helper: None,
        }
    }

    /// Bytes that the source reports as data; `None` when it does not distinguish data from holes.
    ///
    /// # Errors
    /// Errors of the source.
    pub fn data_bytes(&self) -> Result<Option<u64>> {
        if !self.reports_data {
            return Ok(None);
        }
        let size_bytes = self.disk.size_bytes();
        let (mut at, mut data_bytes) = (0, 0);
        for _ in 0..EXTENTS_MAX {
            if at >= size_bytes {
                return Ok(Some(data_bytes));
            }
            let extent = self.disk.extent_at(at, size_bytes - at)?;
            if !extent.kind.reads_zero() {
                data_bytes += extent.length_bytes;
            }
            at += extent.length_bytes;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::Source;
    use crate::types::ImageFormat;
    use std::ffi::OsStr;

    #[test]
    fn formats_are_written_or_follow_from_the_extension() {
        let parse = |text: &str| Source::parse(OsStr::new(text), None).unwrap();
        let file = |path: &str, format: Option<ImageFormat>| Source::File {
            path: path.into(),
            format,
        };
        let (raw, qcow2) = (Some(ImageFormat::Raw), Some(ImageFormat::Qcow2));
        assert_eq!(parse("monday.raw"), file("monday.raw", raw));
        assert_eq!(parse("a.qcow2"), file("a.qcow2", qcow2));
        assert_eq!(parse("raw:a.qcow2"), file("a.qcow2", raw));
        assert_eq!(parse("qcow2:/x/y:z"), file("/x/y:z", qcow2));
        assert_eq!(
            parse("disk.VMDK"),
            file("disk.VMDK", Some(ImageFormat::Foreign("vmdk")))
        );
        assert_eq!(parse("/dev/vg0/root"), file("/dev/vg0/root", None));
        assert_eq!(parse("odd:name"), file("odd:name", None));
        assert_eq!(
            Source::parse(OsStr::new("x"), qcow2).unwrap(),
            file("x", qcow2)
        );
        let nbd = |text: &str| match parse(text) {
            Source::Nbd { is_raw, .. } => is_raw,
            other => panic!("{other:?}"),
        };
        assert!(!nbd("nbd+unix:///?socket=/tmp/s"));
        assert!(nbd("raw:nbd+unix:///?socket=/tmp/s"));
        assert!(Source::parse(OsStr::new("qcow2:nbd+unix:///?socket=/tmp/s"), None).is_err());
    }
}
