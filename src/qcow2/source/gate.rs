//! Decides which files an image may open: the image itself names its backing and data files.
//!
//! # Invariants
//! - No file is opened without a gate's permission: a hostile image may name `/etc/shadow`.
//! - Formats are stated, never guessed from content: a guest can write a QCOW2 header into its raw disk.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::block::{ReadAt, check_range};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::sys::device;
use crate::types::width::u64_from_usize;

/// A file opened for a chain.
pub struct OpenedFile {
    /// Its path; names inside the file are relative to its directory.
    pub path: PathBuf,
    /// Its bytes.
    pub file: Arc<dyn ReadAt>,
    /// Device and inode, or the number of a block device, to detect a circular chain.
    pub identity: Option<(u64, u64)>,
    /// The open file, when it is local.
    pub local: Option<Arc<File>>,
}

impl OpenedFile {
    /// Opens a regular file or block device that the user named.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`, `Io`; `InvalidInput` when it is neither.
    pub fn open(path: &Path) -> Result<Self> {
        // The file is checked before it is opened: opening a FIFO would wait for a writer.
        let seen = std::fs::metadata(path)
            .or_io("cannot open the image")
            .at_path(path)?;
        Self::open_seen(path, &seen)
    }

    /// Opens the file that `seen` describes; fails when another file has its name now.
    fn open_seen(path: &Path, seen: &Metadata) -> Result<Self> {
        if !seen.is_file() && !seen.file_type().is_block_device() {
            return Err(
                Error::invalid("an image is a regular file or a block device").at_path(path),
            );
        }
        let file = File::open(path)
            .or_io("cannot open the image")
            .at_path(path)?;
        let metadata = file
            .metadata()
            .or_io("cannot stat the image")
            .at_path(path)?;
        if (metadata.dev(), metadata.ino()) != (seen.dev(), seen.ino()) {
            return Err(Error::new(
                ErrorKind::Stale,
                "the image was replaced while it was opened",
            )
            .at_path(path));
        }
        let (size_bytes, identity) = if metadata.file_type().is_block_device() {
            let size_bytes = device::size_bytes(&file).at_path(path)?;
            (size_bytes, (u64::MAX, metadata.rdev()))
        } else {
            (metadata.len(), (metadata.dev(), metadata.ino()))
        };
        let file = Arc::new(file);
        Ok(Self {
            path: path.to_path_buf(),
            identity: Some(identity),
            local: Some(Arc::clone(&file)),
            file: Arc::new(Local {
                size_bytes,
                file,
                path: path.to_path_buf(),
            }),
        })
    }
}

/// Opens the files that images name, or refuses.
pub trait Gate: Send + Sync {
    /// Opens the backing file that `image` names.
    ///
    /// # Errors
    /// `PermissionDenied` when the gate refuses; errors of opening.
    fn open_backing(&self, image: &Path, name: &[u8], format: Option<&str>) -> Result<OpenedFile>;

    /// Opens the external data file that `image` names.
    ///
    /// # Errors
    /// As [`Gate::open_backing`].
    fn open_data_file(&self, image: &Path, name: &[u8]) -> Result<OpenedFile>;
}

fn refusal(kind: &str, image: &Path, name: &[u8]) -> Error {
    Error::new(
        ErrorKind::PermissionDenied,
        format!(
            "the image names the {kind} file \"{}\", which may not be opened",
            name.escape_ascii()
        ),
    )
    .at_path(image)
    .advise("allow its directory with --allow-backing DIR")
}

/// Refuses everything: the default.
#[derive(Debug, Clone, Copy, Default)]
pub struct DenyAll;

impl Gate for DenyAll {
    fn open_backing(&self, image: &Path, name: &[u8], _: Option<&str>) -> Result<OpenedFile> {
        Err(refusal("backing", image, name))
    }
    fn open_data_file(&self, image: &Path, name: &[u8]) -> Result<OpenedFile> {
        Err(refusal("data", image, name))
    }
}

/// Permits regular files and block devices below given directories, after symlinks are resolved.
#[derive(Debug, Clone)]
pub struct Below {
    directories: Vec<PathBuf>,
}

impl Below {
    /// Permits files below `directory`.
    ///
    /// # Errors
    /// `NotFound`, `Io` when the directory cannot be resolved.
    pub fn new(directory: &Path) -> Result<Self> {
        Self {
            directories: Vec::new(),
        }
        .and(directory)
    }

    /// Also permits files below another directory.
    ///
    /// # Errors
    /// `NotFound`, `Io` when the directory cannot be resolved.
    pub fn and(mut self, directory: &Path) -> Result<Self> {
        let resolved = directory
            .canonicalize()
            .or_io("cannot resolve the directory of backing files")
            .at_path(directory)?;
        self.directories.push(resolved);
        Ok(self)
    }

    fn open(&self, kind: &str, image: &Path, name: &[u8]) -> Result<OpenedFile> {
        let named = resolve(image, name)?;
        let path = named
            .canonicalize()
            .or_io(format!("cannot resolve the {kind} file"))
            .at_path(&named)?;
        if !self.directories.iter().any(|d| path.starts_with(d)) {
            return Err(refusal(kind, image, name));
        }
        // The resolved path has no symlink; if a symlink has replaced it since, the inode differs.
        let seen = path
            .symlink_metadata()
            .or_io(format!("cannot open the {kind} file"))
            .at_path(&path)?;
        OpenedFile::open_seen(&path, &seen)
    }
}

impl Gate for Below {
    fn open_backing(&self, image: &Path, name: &[u8], _: Option<&str>) -> Result<OpenedFile> {
        self.open("backing", image, name)
    }
    fn open_data_file(&self, image: &Path, name: &[u8]) -> Result<OpenedFile> {
        self.open("data", image, name)
    }
}

/// Resolves a name in `image`: relative to the image's directory, as in QEMU.
fn resolve(image: &Path, name: &[u8]) -> Result<PathBuf> {
    let plain = name.strip_prefix(b"file:").unwrap_or(name);
    let colon = plain.iter().position(|byte| *byte == b':');
    let slash = plain.iter().position(|byte| *byte == b'/');
    // QEMU `path_has_protocol`: a colon before the first slash.
    if colon.is_some_and(|colon| slash.is_none_or(|slash| colon < slash)) {
        return Err(Error::unsupported(format!(
            "the image names \"{}\", which is not a plain file",
            name.escape_ascii()
        ))
        .at_path(image)
        .advise("name a file with qemu-img rebase -u, or flatten with qemu-img convert"));
    }
    let path = Path::new(OsStr::from_bytes(plain));
    Ok(image
        .parent()
        .map_or_else(|| path.to_path_buf(), |directory| directory.join(path)))
}

/// A regular file or a block device.
struct Local {
    file: Arc<File>,
    size_bytes: u64,
    path: PathBuf,
}

impl ReadAt for Local {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range(self.size_bytes, offset, u64_from_usize(buf.len()))?;
        self.file
            .read_exact_at(buf, offset)
            .or_io("cannot read")
            .at_path(&self.path)
            .at_offset(offset)
    }
}
