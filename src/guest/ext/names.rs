//! The names in a directory, block by block, each with its checksum.
//!
//! # Why
//! The crate refuses directories of ext2 and ext3 (block maps), and lists a block with a wrong checksum,
//! which the kernel does not.

use fs_ext4::Filesystem;
use fs_ext4::dir::{self, DirEntry};
use fs_ext4::inode::Inode;

use super::device::translate;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::bytes::{array, le16};

/// LIMIT: names in one directory (the crate's limit).
const ENTRIES_MAX: usize = 1_000_000;
/// `EXT4_FEATURE_INCOMPAT_FILETYPE`: directory entries carry the type.
const INCOMPAT_FILETYPE: u32 = 0x2;
/// `EXT4_FEATURE_COMPAT_DIR_INDEX`, and the flag of an inode.
const COMPAT_DIR_INDEX: u32 = 0x20;
const FLAG_INDEX: u32 = 0x1000;
/// Bytes before the checksum at the end of a block: inode 0, 12 bytes, no name, and a special type.
const TAIL: [u8; 8] = [0, 0, 0, 0, 12, 0, 0, 0xde];

/// Whether a block contains the index and no names (Linux, `ext4_read_dirblock`).
fn is_index(fs: &Filesystem, inode: &Inode, logical: u64, block: &[u8]) -> bool {
    let has_index = fs.sb.feature_compat & COMPAT_DIR_INDEX != 0 && inode.flags & FLAG_INDEX != 0;
    let length = usize::from(le16(block, 4).unwrap_or(0));
    let is_whole = length == block.len() || (block.len() >= 65_536 && matches!(length, 0 | 65_535));
    has_index && (logical == 0 || is_whole)
}

/// Whether the checksum of a block with names is right.
fn is_sound(fs: &Filesystem, number: u32, inode: &Inode, block: &[u8]) -> bool {
    let tail = block.len().saturating_sub(12);
    array(block, tail) == Some(TAIL)
        && fs
            .csum
            .verify_dir_entry_tail(number, inode.generation, block)
}

/// All entries of a directory that is not inline.
///
/// # Errors
/// `Corrupt`; `Unsupported`; `LimitExceeded`; `Io`.
pub(super) fn load(fs: &Filesystem, number: u32, inode: &Inode) -> Result<Vec<DirEntry>> {
    fs_ext4::file_io::refuse_encrypted_names(inode).map_err(translate)?;
    let has_file_type = fs.sb.feature_incompat & INCOMPAT_FILETYPE != 0;
    let mut entries = Vec::new();
    for logical in 0..inode.size.div_ceil(fs.sb.block_size().into()) {
        let block = fs.map_inode_logical(inode, logical).map_err(translate)?;
        let Some(block) = block else { continue };
        let bytes = fs.read_block(block).map_err(translate)?;
        if fs.csum.enabled
            && !is_index(fs, inode, logical, &bytes)
            && !is_sound(fs, number, inode, &bytes)
        {
            return Err(Error::corrupt(
                "a block of a directory",
                "its checksum",
                "another",
            ));
        }
        entries.extend(dir::parse_block(&bytes, has_file_type).map_err(translate)?);
        if entries.len() > ENTRIES_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!("a directory has more than {ENTRIES_MAX} entries"),
            ));
        }
    }
    Ok(entries)
}
