//! Checks the backing files that a foreign image names, before `qemu-nbd` opens any of them.
//!
//! # Invariants
//! - A name that QEMU would not open as a file (`fat:DIR`, `nbd://HOST`, `json:{...}`) is refused, because it
//!   would appear in no list of open files.
//! - Each chain is followed to its end: an allowed backing file may name others.
//! - `qemu-img` opens one image at a time here, and never the files that it names.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::helper::image_options;
use crate::error::{Error, ErrorKind, Result, ResultExt};

/// LIMIT: backing files of a foreign image.
const CHAIN_MAX: usize = 256;

/// The output of `qemu-img info` about the backing file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Info {
    backing_filename: Option<String>,
    full_backing_filename: Option<String>,
    backing_filename_format: Option<String>,
}

/// Checks all names of backing files from `path` downwards.
///
/// # Errors
/// `PermissionDenied` for a backing file outside `allowed`, or a name that is not a file; `Unsupported`
/// without `qemu-img`; `Io` with the output of `qemu-img`.
pub(super) fn check(path: &Path, format: &str, allowed: &[PathBuf]) -> Result<()> {
    let (mut at, mut format) = (path.to_path_buf(), format.to_owned());
    for _ in 0..CHAIN_MAX {
        if format == "raw" {
            return Ok(());
        }
        let info = ask(&at, &format)?;
        let Some(named) = info.backing_filename else {
            return Ok(());
        };
        let full = info.full_backing_filename.as_deref().unwrap_or(&named);
        if has_protocol(&named) || has_protocol(full) {
            return Err(refusal(&at, &named)
                .advise("convert the image: only files and block devices are opened below it"));
        }
        let below = Path::new(full)
            .canonicalize()
            .or_io("cannot resolve the backing file")
            .at_path(full)?;
        check_place(&at, &below, allowed)?;
        format = match info.backing_filename_format {
            Some(format) => format,
            // A VMDK's parent is a VMDK; a QED records only whether its backing file is raw. If the format
            // were another one, `ask` would fail.
            None => format,
        };
        at = below;
    }
    Err(Error::unsupported(format!("more than {CHAIN_MAX} backing files")).at_path(path))
}

/// Refuses a file of the image that lies in no directory of `allowed`.
///
/// # Errors
/// `PermissionDenied`.
pub(super) fn check_place(image: &Path, opened: &Path, allowed: &[PathBuf]) -> Result<()> {
    if allowed
        .iter()
        .any(|directory| opened.starts_with(directory))
    {
        return Ok(());
    }
    Err(refusal(image, &opened.to_string_lossy())
        .advise("allow its directory with --allow-backing DIR"))
}

fn refusal(image: &Path, named: &str) -> Error {
    Error::new(
        ErrorKind::PermissionDenied,
        format!(
            "the image names the file \"{}\", which may not be opened",
            named.escape_debug()
        ),
    )
    .at_path(image)
}

/// QEMU takes the part before a colon for a protocol, unless a slash comes first.
fn has_protocol(name: &str) -> bool {
    name.find([':', '/'])
        .and_then(|at| name.get(at..))
        .is_some_and(|rest| rest.starts_with(':'))
}

fn ask(path: &Path, format: &str) -> Result<Info> {
    let output = Command::new("qemu-img")
        .args(["info", "--output=json", "--image-opts", "--"])
        .arg(image_options(path, format))
        .stdin(Stdio::null())
        .output()
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::unsupported(format!(
                "{format} images are read through qemu-nbd and qemu-img, which are not installed"
            ))
            .at_path(path)
            .advise("install them (Debian: qemu-utils), or convert the image to qcow2 or raw"),
            _ => Error::io("cannot start qemu-img", e),
        })?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(Error::new(
            ErrorKind::Io,
            format!("qemu-img cannot open the image: {}", message.trim()),
        )
        .at_path(path));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| {
        Error::new(
            ErrorKind::Io,
            format!("qemu-img does not answer in its format: {e}"),
        )
        .at_path(path)
    })
}

#[cfg(test)]
mod tests {
    use super::has_protocol;

    #[test]
    fn a_colon_behind_a_slash_is_part_of_a_name() {
        for protocol in [
            "fat:/etc",
            "nbd://h/x",
            "json:{}",
            "nbd+unix:///?socket=/s",
            ":",
        ] {
            assert!(has_protocol(protocol), "{protocol}");
        }
        for file in [
            "",
            "base.img",
            "/dev/disk/by-path/pci-0:0",
            "./a:b",
            "a/b:c",
        ] {
            assert!(!has_protocol(file), "{file}");
        }
    }
}
