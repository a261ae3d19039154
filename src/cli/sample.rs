//! The sample disk of `restorefs quickstart`: a GPT with one ext4 filesystem, filled from files of this machine.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Result, ResultExt};
use crate::types::SessionId;
use crate::types::width::usize_from_u64;

/// Size of the disk in bytes.
const DISK_BYTES: u64 = 512 << 20;
/// Bytes before the partition, and free bytes behind it.
const MARGIN_BYTES: u64 = 1 << 20;
const SECTOR: u64 = 512;
/// LIMIT: bytes of this machine's files in the sample.
const CONTENT_BYTES_MAX: u64 = 96 << 20;
/// Directories that every Linux machine has and that every user may read.
const SOURCES: [&str; 3] = ["/etc", "/usr/share/doc", "/usr/include"];
/// Linux filesystem data, in the byte order of GPT (UEFI 2.10, 5.3.3).
const LINUX: [u8; 16] = [
    0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4,
];

/// Makes the disk as it is "on Monday".
///
/// # Errors
/// `Unsupported` when mke2fs is missing; `Io`.
pub(super) fn make(path: &Path, staging: &Path) -> Result<()> {
    std::fs::create_dir_all(staging)
        .or_io("cannot make a directory for the sample's files")
        .at_path(staging)?;
    let mut left = CONTENT_BYTES_MAX;
    for source in SOURCES {
        copy_tree(
            Path::new(source),
            &staging.join(source.trim_start_matches('/')),
            &mut left,
        )?;
    }
    let disk = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .or_io("cannot make the sample disk")
        .at_path(path)?;
    disk.set_len(DISK_BYTES)
        .or_io("cannot size the sample disk")
        .at_path(path)?;
    write_gpt(&disk).at_path(path)?;
    let kib = (DISK_BYTES - 2 * MARGIN_BYTES) / 1024;
    run(Command::new(tool("mke2fs"))
        .args(["-q", "-F", "-t", "ext4", "-L", "sample", "-d"])
        .arg(staging)
        .arg("-E")
        .arg(format!(
            "offset={MARGIN_BYTES},lazy_itable_init=1,lazy_journal_init=1"
        ))
        .arg(path)
        .arg(format!("{kib}k")))
}

/// Makes a day's small changes.
///
/// # Errors
/// `Unsupported` when debugfs is missing; `Io`.
pub(super) fn change(path: &Path, note: &Path) -> Result<()> {
    std::fs::write(
        note,
        "This file was added between the first and the second backup.\n",
    )
    .or_io("cannot write a note")
    .at_path(note)?;
    run(Command::new(tool("debugfs"))
        .args(["-w", "-R"])
        .arg(format!("write {} etc/added-on-tuesday", note.display()))
        .arg(format!("{}?offset={MARGIN_BYTES}", path.display())))
}

/// The path of a tool. Debian keeps these tools in /sbin, which is not in every user's PATH.
fn tool(name: &str) -> PathBuf {
    ["/usr/sbin", "/sbin", "/usr/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|p| p.exists())
        .unwrap_or_else(|| name.into())
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                Error::unsupported(format!("{program} is not installed"))
                    .advise("install it (Debian: e2fsprogs)")
            }
            _ => Error::io(format!("cannot run {program}"), e),
        })?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::io(
        format!("{program} ended with {}", output.status),
        std::io::Error::other(message),
    ))
}

/// Copies readable files until there are enough bytes.
fn copy_tree(from: &Path, to: &Path, left: &mut u64) -> Result<()> {
    // The sample leaves out what this user may not read.
    let Ok(entries) = std::fs::read_dir(from) else {
        return Ok(());
    };
    std::fs::create_dir_all(to)
        .or_io("cannot copy a directory")
        .at_path(to)?;
    for entry in entries.flatten() {
        let target = to.join(entry.file_name());
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            copy_tree(&entry.path(), &target, left)?;
        } else if meta.is_symlink() {
            if let Ok(link) = std::fs::read_link(entry.path()) {
                std::os::unix::fs::symlink(link, &target)
                    .or_io("cannot copy a symlink")
                    .at_path(&target)?;
            }
        } else if meta.is_file()
            && meta.len() <= *left
            && std::fs::copy(entry.path(), &target).is_ok()
        {
            *left -= meta.len();
        }
    }
    Ok(())
}

/// A protective MBR, and a GPT of one partition with its backup (UEFI 2.10, 5.3).
fn write_gpt(disk: &std::fs::File) -> Result<()> {
    let sectors = DISK_BYTES / SECTOR;
    let mut mbr = [0; 512];
    let entry = [0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0];
    mbr[446..458].copy_from_slice(&entry);
    mbr[458..462].copy_from_slice(&u32::try_from(sectors - 1).unwrap_or(u32::MAX).to_le_bytes());
    mbr[510..512].copy_from_slice(&[0x55, 0xaa]);
    let mut entries = vec![0; 128 * 128];
    entries[..16].copy_from_slice(&LINUX);
    entries[16..32].copy_from_slice(&SessionId::random().to_bytes());
    entries[32..40].copy_from_slice(&(MARGIN_BYTES / SECTOR).to_le_bytes());
    entries[40..48].copy_from_slice(&((DISK_BYTES - MARGIN_BYTES) / SECTOR - 1).to_le_bytes());
    for (at, unit) in (56..).step_by(2).zip("sample".encode_utf16()) {
        entries[at..at + 2].copy_from_slice(&unit.to_le_bytes());
    }
    let id = SessionId::random().to_bytes();
    let put = |bytes: &[u8], sector: u64| {
        disk.write_all_at(bytes, sector * SECTOR)
            .or_io("cannot write the sample disk")
    };
    put(&mbr, 0)?;
    let entry_sectors = 128 * 128 / SECTOR;
    put(&entries, 2)?;
    put(&header(1, sectors - 1, 2, sectors, id, &entries), 1)?;
    put(&entries, sectors - 1 - entry_sectors)?;
    put(
        &header(
            sectors - 1,
            1,
            sectors - 1 - entry_sectors,
            sectors,
            id,
            &entries,
        ),
        sectors - 1,
    )
}

fn header(
    own: u64,
    other: u64,
    entries_at: u64,
    sectors: u64,
    id: [u8; 16],
    entries: &[u8],
) -> Vec<u8> {
    let first = 2 + 128 * 128 / SECTOR;
    let mut bytes = Vec::with_capacity(usize_from_u64(SECTOR));
    bytes.extend_from_slice(b"EFI PART");
    for word in [0x0001_0000u32, 92, 0, 0] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    for number in [own, other, first, sectors - 1 - first + 1] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&id);
    bytes.extend_from_slice(&entries_at.to_le_bytes());
    for word in [128u32, 128, crc32fast::hash(entries)] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    let crc = crc32fast::hash(&bytes);
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    bytes.resize(usize_from_u64(SECTOR), 0);
    bytes
}
