//! Replies that both adapters give in the same way, and the constants of the protocol that they share.

use fuser::{Errno, Generation, ReplyEmpty, ReplyXattr};

/// The result of a handler.
pub(super) type Answer<T> = Result<T, Errno>;

/// Inode numbers are never reused, so there is one generation.
pub(super) const GENERATION: Generation = Generation(0);
/// Requests that the kernel may have in flight in the background.
pub(super) const BACKGROUND: u16 = 64;
/// LIMIT: longest name (ext4, XFS and NTFS: 255 characters).
pub(super) const NAME_MAX: u32 = 255;
/// The unit in which statfs counts.
pub(super) const STATFS_BLOCK: u32 = 4096;

/// Replies to a request that has no result of its own.
pub(super) fn empty(answer: Answer<()>, reply: ReplyEmpty) {
    match answer {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

/// Replies with the length when the kernel asks for it, with ERANGE when the caller's buffer is too small,
/// else with the value.
pub(super) fn sized(value: &[u8], size: u32, reply: ReplyXattr) {
    match u32::try_from(value.len()) {
        Ok(length) if size == 0 => reply.size(length),
        Ok(length) if length <= size => reply.data(value),
        Ok(_) => reply.error(Errno::ERANGE),
        Err(_) => reply.error(Errno::E2BIG),
    }
}
