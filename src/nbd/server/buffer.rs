//! Buffers that reads are answered from, kept for reuse.

use std::sync::Arc;

use crate::types::sync::Mutex;

/// LIMIT: bytes of free buffers that are kept.
const FREE_BYTES_MAX: usize = 64 << 20;

/// Free buffers.
#[derive(Debug, Default)]
pub(super) struct BufferPool(Mutex<Free>);

#[derive(Debug, Default)]
struct Free {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

impl BufferPool {
    /// A buffer of `length` bytes, whose content is whatever an earlier read left.
    pub(super) fn take(self: &Arc<Self>, length: usize) -> Buffer {
        let mut free = self.0.lock();
        let fits = free.buffers.iter().rposition(|b| b.capacity() >= length);
        let mut bytes = match fits {
            Some(ix) => {
                let buffer = free.buffers.swap_remove(ix);
                free.bytes = free.bytes.saturating_sub(buffer.capacity());
                buffer
            }
            None => Vec::new(),
        };
        drop(free);
        // Only what the buffer never held is zeroed.
        bytes.resize(length, 0);
        Buffer {
            bytes,
            pool: Arc::clone(self),
        }
    }
}

/// A buffer that goes back to its pool.
#[derive(Debug)]
pub(super) struct Buffer {
    pub(super) bytes: Vec<u8>,
    pool: Arc<BufferPool>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut free = self.pool.0.lock();
        if free.bytes.saturating_add(bytes.capacity()) <= FREE_BYTES_MAX {
            free.bytes += bytes.capacity();
            free.buffers.push(bytes);
        }
    }
}
