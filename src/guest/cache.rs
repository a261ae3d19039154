//! A page cache below a reader. Some readers request 4 KiB at a time; a chain, a network store or a
//! compressed cluster serves larger reads more efficiently.
//!
//! # Concurrency
//! One lock around the pages, never held during a read: two threads may fetch the same page, and the later
//! one replaces the earlier.

use std::num::NonZeroUsize;
use std::sync::{Arc, MutexGuard};

use lru::LruCache;

use crate::block::{Extent, ReadAt, check_range};
use crate::error::Result;
use crate::metrics::cache::{Cache, Meter};
use crate::types::sync::Mutex;
use crate::types::width::{u64_from_usize, usize_from_u64};

/// Bytes of a page.
const PAGE_BYTES: u64 = 65_536;
/// LIMIT: pages fetched at once for sequential reads (512 KiB).
const AHEAD_PAGES: u64 = 8;
/// Reads of at least this many bytes bypass the cache: they are efficient already, and would evict everything
/// else.
const DIRECT_BYTES: u64 = 4 * PAGE_BYTES;

struct State {
    /// `None` is a page of zeroes, which takes no memory.
    pages: LruCache<u64, Option<Arc<[u8]>>>,
    /// The page after the last one fetched.
    next: u64,
    /// Bytes of the pages.
    bytes: usize,
}

impl State {
    /// Keeps a page, in place of the one that was used longest ago.
    fn put(&mut self, number: u64, page: Option<Arc<[u8]>>) {
        let bytes_of = |page: &Option<Arc<[u8]>>| page.as_ref().map_or(0, |page| page.len());
        self.bytes = self.bytes.saturating_add(bytes_of(&page));
        if let Some((_, gone)) = self.pages.push(number, page) {
            self.bytes = self.bytes.saturating_sub(bytes_of(&gone));
        }
    }
}

/// Cached pages of a volume, with readahead, for a reader.
pub struct PageCache {
    inner: Arc<dyn ReadAt>,
    state: Mutex<State>,
    meter: Meter,
}

impl PageCache {
    /// A cache of at most `bytes_max` bytes (at least one page) over `inner`, whose content must not change.
    #[must_use]
    pub fn new(inner: Arc<dyn ReadAt>, bytes_max: u64) -> Self {
        let pages =
            NonZeroUsize::new(usize_from_u64(bytes_max / PAGE_BYTES)).unwrap_or(NonZeroUsize::MIN);
        Self {
            inner,
            state: Mutex::new(State {
                pages: LruCache::new(pages),
                next: u64::MAX,
                bytes: 0,
            }),
            meter: Meter::new(
                Cache::GuestPages,
                pages.get().saturating_mul(usize_from_u64(PAGE_BYTES)),
            ),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The page, from the cache or fetched; sequential reads also fetch the following pages.
    fn page(&self, number: u64) -> Result<Option<Arc<[u8]>>> {
        let sequential = {
            let mut state = self.state();
            if let Some(page) = state.pages.get(&number) {
                self.meter.note(true);
                return Ok(page.clone());
            }
            self.meter.note(false);
            state.next == number
        };
        let size = self.inner.size_bytes();
        let start = number * PAGE_BYTES;
        let wanted = if sequential { AHEAD_PAGES } else { 1 };
        let mut length = (wanted * PAGE_BYTES).min(size - start);
        let extent = self.inner.extent_at(start, length)?;
        let first_bytes = length.min(PAGE_BYTES);
        if extent.kind.reads_zero() && extent.length_bytes >= first_bytes {
            let mut state = self.state();
            state.put(number, None);
            state.next = number + 1;
            self.meter.set_used(state.bytes);
            return Ok(None);
        }
        if !extent.kind.reads_zero() && extent.length_bytes < length {
            // Only whole pages of this extent: the next extent may be a hole.
            length = extent.length_bytes.next_multiple_of(PAGE_BYTES).min(length);
        }
        let mut bytes = vec![0; usize_from_u64(length)];
        if let Err(e) = self.inner.read_at(start, &mut bytes) {
            if length == first_bytes {
                return Err(e);
            }
            // What cannot be read may lie in a page that nobody has asked for.
            bytes.truncate(usize_from_u64(first_bytes));
            self.inner.read_at(start, &mut bytes)?;
        }
        let mut state = self.state();
        let mut first = None;
        for (page, n) in bytes.chunks(usize_from_u64(PAGE_BYTES)).zip(number..) {
            let page: Arc<[u8]> = page.into();
            if n == number {
                first = Some(Arc::clone(&page));
            }
            state.put(n, Some(page));
            state.next = n + 1;
        }
        self.meter.set_used(state.bytes);
        Ok(first)
    }
}

impl ReadAt for PageCache {
    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let length = u64_from_usize(buf.len());
        check_range(self.size_bytes(), offset, length)?;
        if length >= DIRECT_BYTES {
            return self.inner.read_at(offset, buf);
        }
        let mut done = 0;
        while done < buf.len() {
            let at = offset + u64_from_usize(done);
            let within = usize_from_u64(at % PAGE_BYTES);
            let part = (usize_from_u64(PAGE_BYTES) - within).min(buf.len() - done);
            let page = self.page(at / PAGE_BYTES)?;
            let Some(to) = buf.get_mut(done..done + part) else {
                break;
            };
            match page.as_deref().map(|page| page.get(within..within + part)) {
                None => to.fill(0),
                Some(Some(from)) => to.copy_from_slice(from),
                // A page always covers the range; if it did not, zeroes would be wrong, so the range is read
                // directly.
                Some(None) => self.inner.read_at(at, to)?,
            }
            done += part;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64, length_max: u64) -> Result<Extent> {
        self.inner.extent_at(offset, length_max)
    }
}

#[cfg(test)]
mod tests {
    use super::PageCache;
    use crate::block::conformance::check_read_at;
    use crate::block::filter::{Count, Fault, OpKind};
    use crate::block::{MemoryDisk, ReadAt, WriteAt};
    use crate::error::ErrorKind;
    use std::sync::Arc;

    #[test]
    fn conforms() {
        let bytes: Vec<u8> = (0..500_001u32).map(|n| n.to_le_bytes()[1] ^ 0x5a).collect();
        let disk = Arc::new(MemoryDisk::from_bytes(&bytes));
        disk.punch(100_000, 200_000).unwrap();
        let expected = disk.to_bytes();
        check_read_at(
            &PageCache::new(Arc::<MemoryDisk>::clone(&disk), 1 << 17),
            &expected,
        );
        check_read_at(&PageCache::new(disk, 1 << 30), &expected);
    }

    /// Readahead met a damaged cluster and failed the read of the sound page before it.
    #[test]
    fn what_is_damaged_behind_a_page_does_not_harm_it() {
        let disk = MemoryDisk::from_bytes(&vec![1; 8 << 16]);
        let disk = Fault::new(Arc::new(disk));
        disk.fail_range(OpKind::Read, 3 << 16, 1, ErrorKind::Corrupt);
        let cache = PageCache::new(Arc::new(disk), 1 << 30);
        for page in 0..8 {
            let read = cache.read_at(page << 16, &mut [0; 4096]);
            let expected = (page == 3).then_some(ErrorKind::Corrupt);
            assert_eq!(read.err().map(|e| e.kind()), expected, "{page}");
        }
    }

    #[test]
    fn small_reads_become_few_and_holes_none() {
        let disk = Arc::new(Count::new(Arc::new(MemoryDisk::sparse(8 << 20))));
        disk.write_at(0, &vec![1; 1 << 20]).unwrap();
        let cache = PageCache::new(Arc::<Count<MemoryDisk>>::clone(&disk), 4 << 20);
        for n in 0..256 {
            let mut buf = [0; 4096];
            cache.read_at(n * 4096, &mut buf).unwrap();
            assert_eq!(buf, [1; 4096]);
        }
        assert!(disk.ops(OpKind::Read) <= 4, "{}", disk.ops(OpKind::Read));
        disk.reset();
        for n in 512..1024 {
            cache.read_at(n * 4096, &mut [0; 4096]).unwrap();
        }
        assert_eq!(disk.ops(OpKind::Read), 0);
    }
}
