//! Buffers for I/O, kept for reuse.
//!
//! # Why
//! The system hands out a new buffer of some MiB page by page, and each page is a fault that zeroes it; the
//! buffer goes back in the same way. That costs more than receiving data into it.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::types::sync::Mutex;

/// Free buffers, bounded by their bytes.
#[derive(Debug)]
pub struct BufferPool {
    free_bytes_max: usize,
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    /// Each buffer keeps its greatest length, so that reuse zeroes no bytes that were written before.
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

impl BufferPool {
    /// A pool that keeps at most `free_bytes_max` bytes of free buffers.
    #[must_use]
    pub fn new(free_bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            free_bytes_max,
            free: Mutex::default(),
        })
    }

    /// Takes a buffer of `length` bytes. It contains zeroes, or the bytes of its last user.
    #[must_use]
    pub fn take(self: &Arc<Self>, length: usize) -> Buffer {
        let mut free = self.free.lock();
        let fits = free.buffers.iter().rposition(|b| b.capacity() >= length);
        let kept = fits.map(|at| {
            let bytes = free.buffers.swap_remove(at);
            free.bytes = free.bytes.saturating_sub(bytes.capacity());
            bytes
        });
        drop(free);
        let bytes = match kept {
            Some(mut bytes) => {
                if bytes.len() < length {
                    bytes.resize(length, 0);
                }
                bytes
            }
            // The system provides zeroed pages, so that nothing need be written.
            None => vec![0; length],
        };
        Buffer {
            bytes,
            length,
            pool: Arc::clone(self),
        }
    }

    /// Bytes of the free buffers.
    #[cfg(test)]
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.free.lock().bytes
    }
}

/// A buffer that returns to its pool when it is dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    length: usize,
    pool: Arc<BufferPool>,
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.length).unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut free = self.pool.free.lock();
        let held = free.bytes.saturating_add(bytes.capacity());
        if held <= self.pool.free_bytes_max {
            free.bytes = held;
            free.buffers.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::BufferPool;

    #[test]
    fn buffers_come_back_and_have_a_bound() {
        let pool = BufferPool::new(16 << 20);
        let first = pool.take(4096);
        let place = first.as_ptr();
        drop(first);
        let again = pool.take(1000);
        assert_eq!((again.as_ptr(), again.len()), (place, 1000));
        drop(again);
        assert_eq!(pool.free_bytes(), 4096);
        assert_eq!(pool.take(4097).len(), 4097);
        let many: Vec<_> = (0..40).map(|_| pool.take(1 << 20)).collect();
        drop(many);
        assert!((15 << 20..=16 << 20).contains(&pool.free_bytes()));
    }

    #[test]
    fn a_buffer_is_as_long_as_asked_for_whatever_it_was() {
        let pool = BufferPool::new(1 << 20);
        pool.take(8192).fill(7);
        let mut short = pool.take(10);
        assert_eq!(*short, [7; 10]);
        short.fill(8);
        drop(short);
        let long = pool.take(8192);
        assert_eq!((long.len(), long[9], long[10]), (8192, 8, 7));
        // Two buffers in use at the same time are never the same.
        assert_eq!(*pool.take(10), [0; 10]);
        assert!(pool.take(0).is_empty());
    }
}
