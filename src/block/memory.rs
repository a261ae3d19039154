//! A disk in memory: sparse and growable. For tests, and for small objects that are assembled before they are
//! written.

use std::collections::BTreeMap;
use std::sync::{RwLockReadGuard, RwLockWriteGuard};

use super::{Extent, ExtentKind, ReadAt, WriteAt, check_range};
use crate::error::{Error, Result};
use crate::types::sync::RwLock;
use crate::types::width::{u64_from_usize, usize_from_u64};

const PAGE_BYTES: u64 = 4096;

type Page = Box<[u8]>;

#[derive(Debug, Default, Clone)]
struct Content {
    size_bytes: u64,
    /// Pages by number; missing pages are holes.
    pages: BTreeMap<u64, Page>,
}

/// A sparse disk in memory.
#[derive(Debug, Default)]
pub struct MemoryDisk(RwLock<Content>);

/// Splits a range into `(page, offset in the page, offset in the range, length)`.
fn pieces(offset: u64, length: u64) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        (done < length).then(|| {
            let at = offset + done;
            let within = at % PAGE_BYTES;
            let part = (PAGE_BYTES - within).min(length - done);
            let piece = (
                at / PAGE_BYTES,
                usize_from_u64(within),
                usize_from_u64(done),
                usize_from_u64(part),
            );
            done += part;
            piece
        })
    })
}

impl Content {
    fn read(&self, offset: u64, buf: &mut [u8]) {
        for (number, within, done, length) in pieces(offset, u64_from_usize(buf.len())) {
            let Some(part) = buf.get_mut(done..done + length) else {
                continue;
            };
            match self
                .pages
                .get(&number)
                .and_then(|p| p.get(within..within + length))
            {
                Some(bytes) => part.copy_from_slice(bytes),
                None => part.fill(0),
            }
        }
    }

    fn write(&mut self, offset: u64, buf: &[u8]) {
        for (number, within, done, length) in pieces(offset, u64_from_usize(buf.len())) {
            let page = self
                .pages
                .entry(number)
                .or_insert_with(|| vec![0; usize_from_u64(PAGE_BYTES)].into());
            if let (Some(to), Some(from)) = (
                page.get_mut(within..within + length),
                buf.get(done..done + length),
            ) {
                to.copy_from_slice(from);
            }
        }
        if !buf.is_empty() {
            self.size_bytes = self.size_bytes.max(offset + u64_from_usize(buf.len()));
        }
    }

    fn punch(&mut self, offset: u64, end: u64) {
        let numbers: Vec<u64> = self
            .pages
            .range(offset / PAGE_BYTES..end.div_ceil(PAGE_BYTES))
            .map(|(number, _)| *number)
            .collect();
        for number in numbers {
            let (from, to) = (
                offset.max(number * PAGE_BYTES),
                end.min((number + 1) * PAGE_BYTES),
            );
            if to - from == PAGE_BYTES {
                self.pages.remove(&number);
            } else if let Some(page) = self.pages.get_mut(&number)
                && let Some(part) = page.get_mut(
                    usize_from_u64(from - number * PAGE_BYTES)
                        ..usize_from_u64(to - number * PAGE_BYTES),
                )
            {
                part.fill(0);
            }
        }
    }
}

impl MemoryDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A disk of `size_bytes` that is one hole.
    #[must_use]
    pub fn sparse(size_bytes: u64) -> Self {
        Self(RwLock::new(Content {
            size_bytes,
            pages: BTreeMap::new(),
        }))
    }

    /// A disk with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let disk = Self::new();
        disk.content_mut().write(0, bytes);
        disk
    }

    /// All bytes; for small disks only.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let content = self.content();
        let mut bytes = vec![0; usize_from_u64(content.size_bytes)];
        content.read(0, &mut bytes);
        bytes
    }

    fn content(&self) -> RwLockReadGuard<'_, Content> {
        // A panic in another thread leaves whole pages: the content is still usable.
        self.0.read()
    }

    fn content_mut(&self) -> RwLockWriteGuard<'_, Content> {
        self.0.write()
    }
}

impl Clone for MemoryDisk {
    fn clone(&self) -> Self {
        Self(RwLock::new(self.content().clone()))
    }
}

impl ReadAt for MemoryDisk {
    fn size_bytes(&self) -> u64 {
        self.content().size_bytes
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let content = self.content();
        check_range(content.size_bytes, offset, u64_from_usize(buf.len()))?;
        content.read(offset, buf);
        Ok(())
    }

    fn extent_at(&self, offset: u64, length_max: u64) -> Result<Extent> {
        let content = self.content();
        check_range(content.size_bytes, offset, length_max)?;
        if length_max == 0 {
            return Err(Error::invalid("an extent of no bytes was asked for").at_offset(offset));
        }
        let end = offset + length_max;
        let first = offset / PAGE_BYTES;
        if content.pages.contains_key(&first) {
            let mut next = first;
            while content.pages.contains_key(&next) && next * PAGE_BYTES < end {
                next += 1;
            }
            return Ok(Extent {
                kind: ExtentKind::Data,
                length_bytes: (next * PAGE_BYTES).min(end) - offset,
            });
        }
        let next = content.pages.range(first..).next();
        let data = next.map_or(end, |(number, _)| (number * PAGE_BYTES).min(end));
        Ok(Extent {
            kind: ExtentKind::Hole,
            length_bytes: data - offset,
        })
    }
}

impl WriteAt for MemoryDisk {
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        check_range(u64::MAX - PAGE_BYTES, offset, u64_from_usize(buf.len()))?;
        self.content_mut().write(offset, buf);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn set_size(&self, size_bytes: u64) -> Result<()> {
        let mut content = self.content_mut();
        if size_bytes < content.size_bytes {
            let end = content.size_bytes;
            content.punch(size_bytes, end);
        }
        content.size_bytes = size_bytes;
        Ok(())
    }

    fn punch(&self, offset: u64, length_bytes: u64) -> Result<()> {
        let mut content = self.content_mut();
        let end = offset.saturating_add(length_bytes).min(content.size_bytes);
        if offset < end {
            content.punch(offset, end);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::MemoryDisk;
    use crate::block::conformance::{check_read_at, check_write_at};
    use crate::block::{ExtentKind, ReadAt, WriteAt};
    use std::sync::Arc;

    #[test]
    fn conforms() {
        check_write_at(&|| Arc::new(MemoryDisk::new()));
        let bytes: Vec<u8> = (0..20_000u32).map(|n| n.to_le_bytes()[0]).collect();
        check_read_at(&MemoryDisk::from_bytes(&bytes), &bytes);
    }

    #[test]
    fn a_huge_disk_takes_no_memory() {
        let disk = MemoryDisk::sparse(1 << 50);
        disk.write_at(1 << 49, b"x").unwrap();
        let extent = disk.extent_at(0, 1 << 50).unwrap();
        assert_eq!(
            (extent.kind, extent.length_bytes),
            (ExtentKind::Hole, 1 << 49)
        );
        assert!(disk.write_at(u64::MAX, b"x").is_err());
    }
}
