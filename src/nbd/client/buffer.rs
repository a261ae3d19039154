//! Buffers that replies are received into, kept for reuse.
//!
//! # Why
//! A new buffer of some MiB comes from the system page by page, each page a fault that zeroes it, and goes back the same way: that
//! costs more than receiving into it.

use crate::types::sync::Mutex;

/// LIMIT: bytes of free buffers that are kept: what one link has in flight.
const FREE_BYTES_MAX: usize = 16 << 20;

/// Free buffers of a client.
#[derive(Debug, Default)]
pub(super) struct Buffers(Mutex<Free>);

#[derive(Debug, Default)]
struct Free {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

impl Buffers {
    /// A buffer of `length` bytes, whose content is whatever an earlier reply left: the reply counts what has come.
    pub(super) fn take(&self, length: usize) -> Vec<u8> {
        let mut free = self.0.lock();
        let fits = free.buffers.iter().rposition(|b| b.capacity() >= length);
        let mut buffer = match fits {
            Some(ix) => {
                let buffer = free.buffers.swap_remove(ix);
                free.bytes = free.bytes.saturating_sub(buffer.capacity());
                buffer
            }
            // The system gives zeroes: they need not be written.
            None => return vec![0; length],
        };
        drop(free);
        buffer.resize(length, 0);
        buffer
    }

    /// Takes a buffer back.
    pub(super) fn give(&self, buffer: Vec<u8>) {
        let mut free = self.0.lock();
        let bytes = free.bytes.saturating_add(buffer.capacity());
        if bytes <= FREE_BYTES_MAX {
            free.bytes = bytes;
            free.buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Buffers, FREE_BYTES_MAX};

    #[test]
    fn buffers_come_back_and_have_a_bound() {
        let buffers = Buffers::default();
        let first = buffers.take(4096);
        let place = first.as_ptr();
        buffers.give(first);
        let again = buffers.take(1000);
        assert_eq!((again.as_ptr(), again.len()), (place, 1000));
        buffers.give(again);
        assert_eq!(buffers.take(4097).len(), 4097);
        for _ in 0..40 {
            buffers.give(vec![0; 1 << 20]);
        }
        assert!(buffers.0.lock().bytes <= FREE_BYTES_MAX);
    }
}
