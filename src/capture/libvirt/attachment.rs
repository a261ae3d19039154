//! Files that are attached to a point of a domain: what a person needs to define the domain again.

use std::io::Read;
use std::path::Path;

use super::description::Description;
use crate::capture::virsh::Virsh;
use crate::error::{Error, ErrorKind, Result, ResultExt};

/// LIMIT: bytes of a file with the variables of a firmware; those of x86 have 540 KiB. Attached files may have 16 MiB.
const NVRAM_BYTES_MAX: u64 = 16 << 20;

/// Files by name, and what people should know of what is missing.
pub(super) struct Attachments {
    pub(super) files: Vec<(String, Vec<u8>)>,
    pub(super) remarks: Vec<String>,
}

impl Attachments {
    /// Reads what belongs to a domain.
    ///
    /// # Why
    /// `virsh define` takes the inactive XML as it is; the live one has what libvirt chose for this run (labels, ports, aliases). Secrets
    /// (the password of a display) are in neither: a repository is no place for them.
    ///
    /// # Errors
    /// As [`Virsh::call`].
    pub(super) fn load(virsh: &Virsh, domain: &str, description: &Description) -> Result<Self> {
        let xml = virsh.call(&["dumpxml", "--domain", domain, "--inactive"])?;
        let mut files = vec![("domain.xml".to_owned(), xml.into_bytes())];
        let mut remarks = Vec::new();
        if let Some(path) = &description.nvram {
            match load(path) {
                Ok(content) => files.push(("nvram.fd".to_owned(), content)),
                Err(e) => remarks.push(format!(
                    "the variables of the domain's firmware are not in the point: {}",
                    e.report()
                )),
            }
        }
        if description.has_tpm {
            remarks.push("the state of the domain's TPM is not in the point: what the guest has sealed with it needs another key after a restore elsewhere".to_owned());
        }
        Ok(Self { files, remarks })
    }
}

fn load(path: &Path) -> Result<Vec<u8>> {
    let what = "cannot read the file";
    // Opening a FIFO would wait for a writer.
    if !std::fs::metadata(path).or_io(what).at_path(path)?.is_file() {
        return Err(Error::invalid("not a regular file").at_path(path));
    }
    let file = std::fs::File::open(path).or_io(what).at_path(path)?;
    let mut content = Vec::new();
    file.take(NVRAM_BYTES_MAX + 1)
        .read_to_end(&mut content)
        .or_io(what)
        .at_path(path)?;
    match u64::try_from(content.len()) {
        Ok(length) if length <= NVRAM_BYTES_MAX => Ok(content),
        _ => Err(Error::new(
            ErrorKind::TooLarge,
            format!("it has more than {NVRAM_BYTES_MAX} bytes"),
        )
        .at_path(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::{NVRAM_BYTES_MAX, load};
    use crate::error::ErrorKind;

    #[test]
    fn only_a_regular_file_of_bounded_size_is_attached() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("nvram.fd");
        assert_eq!(load(&path).unwrap_err().kind(), ErrorKind::NotFound);
        std::fs::write(&path, [7; 540_672]).unwrap();
        assert_eq!(load(&path).unwrap(), [7; 540_672]);
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(NVRAM_BYTES_MAX + 1).unwrap();
        assert_eq!(load(&path).unwrap_err().kind(), ErrorKind::TooLarge);
        assert_eq!(
            load(temp.path()).unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
    }
}
