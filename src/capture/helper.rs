//! Runs `qemu-nbd` for formats that this program cannot read itself: read-only, always with an explicit
//! format, on a socket that only this process can reach. The helper holds no lock that would prevent a
//! machine from starting; the caller watches for writers.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::nbd::proto::uri::Uri;
use crate::sys::private_dir::PrivateDir;

/// LIMIT: time until the helper listens.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// LIMIT: time until a helper ends after its connection was closed.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// A running helper.
pub struct QemuNbd {
    child: Child,
    /// The directory of its socket.
    _directory: PrivateDir,
    uri: Uri,
}

impl QemuNbd {
    /// Starts a helper that serves `path` read-only.
    ///
    /// # Errors
    /// `Unsupported` when `qemu-nbd` is not installed; `Io` with its output when it ends.
    pub fn start(path: &Path, format: &str) -> Result<Self> {
        let directory = PrivateDir::new()?;
        let socket = directory.path().join("s");
        let uri = format!("nbd+unix:///?socket={}", socket.display()).parse()?;
        let spawned = Command::new("qemu-nbd")
            .args([
                "--read-only",
                "--persistent",
                "--shared=4",
                "--image-opts",
                "--socket",
            ])
            .arg(&socket)
            .arg("--")
            .arg(image_options(path, format))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let child = spawned.map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::unsupported(format!(
                "{format} images are read through qemu-nbd, which is not installed"
            ))
            .at_path(path)
            .advise("install it (Debian: qemu-utils), or convert the image to qcow2 or raw"),
            _ => Error::io("cannot start qemu-nbd", e),
        })?;
        let mut helper = Self {
            child,
            _directory: directory,
            uri,
        };
        helper.wait_until_it_listens(&socket, path)?;
        Ok(helper)
    }

    fn wait_until_it_listens(&mut self, socket: &Path, path: &Path) -> Result<()> {
        let begun = Instant::now();
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            if let Some(status) = self.child.try_wait().or_io("cannot wait for qemu-nbd")? {
                return Err(self.ended(status, path));
            }
            if begun.elapsed() > START_TIMEOUT {
                return Err(
                    Error::new(ErrorKind::TimedOut, "qemu-nbd does not listen").at_path(path)
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The result of connecting to the helper, with the helper's output if it has ended: it listens before it
    /// opens the image.
    ///
    /// # Errors
    /// `Io` with the helper's output; else the given error.
    pub fn explain<T>(&mut self, result: Result<T>, path: &Path) -> Result<T> {
        let error = match result {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let begun = Instant::now();
        while begun.elapsed() < END_TIMEOUT {
            if let Some(status) = self.child.try_wait().or_io("cannot wait for qemu-nbd")? {
                return Err(self.ended(status, path));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(error)
    }

    fn ended(&mut self, status: ExitStatus, path: &Path) -> Error {
        let mut message = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = std::io::Read::read_to_string(&mut stderr, &mut message);
        }
        Error::new(
            ErrorKind::Io,
            format!("qemu-nbd ended with {status}: {}", message.trim()),
        )
        .at_path(path)
    }

    /// The regular files and block devices that the helper has open: the image, and the files that the image
    /// names.
    ///
    /// # Errors
    /// `Io`.
    pub fn files(&self) -> Result<Vec<(PathBuf, File)>> {
        let descriptors = PathBuf::from(format!("/proc/{}/fd", self.child.id()));
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&descriptors)
            .or_io("cannot list the files of qemu-nbd")?
            .flatten()
        {
            let Ok(path) = std::fs::read_link(entry.path()) else {
                continue;
            };
            let is_image = std::fs::metadata(entry.path())
                .is_ok_and(|m| m.is_file() || m.file_type().is_block_device());
            // Anonymous memory that has no name in the filesystem.
            if !is_image || path.starts_with("/memfd:") {
                continue;
            }
            let file = File::open(entry.path())
                .or_io("cannot open a file of the image")
                .at_path(&path)?;
            files.push((path, file));
        }
        Ok(files)
    }

    /// The URI on which it listens.
    #[must_use]
    pub const fn uri(&self) -> &Uri {
        &self.uri
    }
}

/// QEMU's options for an image: commas in a value are doubled.
pub(super) fn image_options(path: &Path, format: &str) -> OsString {
    let is_device = std::fs::metadata(path).is_ok_and(|m| m.file_type().is_block_device());
    let protocol = if is_device { "host_device" } else { "file" };
    let mut options =
        format!("driver={format},force-share=on,file.driver={protocol},file.filename=")
            .into_bytes();
    for byte in path.as_os_str().as_bytes() {
        options.push(*byte);
        if *byte == b',' {
            options.push(b',');
        }
    }
    OsString::from_vec(options)
}

impl Drop for QemuNbd {
    fn drop(&mut self) {
        // Best effort: the helper may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
