//! Fixed-size pages by index, kept in memory within a shared budget and spilled to a file beyond it.
//!
//! A layer that is being written keeps its L2 tables, refcounts and leaves in such tables. So a wholly
//! rewritten disk of many TiB needs bounded memory: a page that is not in memory costs only its index entry.
//!
//! # Invariants
//! - A page is absent, in memory, in the spill file, or both (then the copy in memory is unchanged).
//! - The CRC-32 of a spilled page is in memory: a damaged spill file yields `Corrupt`, never other data.
//! - A page whose change was reported as complete is never lost: room is made before the change, not after
//!   it.
//!
//! # Concurrency
//! One mutex per table, held while the caller's closure runs and while a page is spilled or read back.
//! Closures must be short and must not enter any table of the same budget. The budget's own list is locked
//! for moments and never together with a table. Eviction takes one table after the other.
//!
//! # Why
//! Eviction uses second chance ("clock") instead of an exact LRU: it needs one bit per page and no list, and
//! idle tables give up their pages before busy ones do.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard, Weak};

use super::WriteAt;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::types::sync::Mutex;
use crate::types::width::u64_from_usize;

/// LIMIT: pages that one visit of the eviction examines before it goes on to the next table.
const PAGES_PER_VISIT: usize = 16;

/// Makes the file that a table spills to. A table calls it at most once, when it first needs the file.
pub type OpenSpill = Box<dyn Fn() -> Result<Arc<dyn WriteAt>> + Send + Sync>;

/// Memory shared by many page tables.
pub struct PageBudget {
    bytes_max: u64,
    used_bytes: AtomicU64,
    tables: Mutex<Vec<Weak<Shared>>>,
    cursor: AtomicUsize,
}

impl PageBudget {
    /// A budget of `bytes_max` bytes. Each working thread may exceed it by one page.
    #[must_use]
    pub fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self {
            bytes_max,
            used_bytes: AtomicU64::new(0),
            tables: Mutex::new(Vec::new()),
            cursor: AtomicUsize::new(0),
        })
    }

    /// Bytes of all pages in memory.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Registers a table. Dropped tables are removed before the list would grow: nothing else walks the list
    /// while there is room.
    fn enter(&self, table: &Arc<Shared>) {
        let mut tables = self.tables.lock();
        if tables.len() == tables.capacity() {
            tables.retain(|table| table.strong_count() > 0);
        }
        tables.push(Arc::downgrade(table));
    }

    fn live_tables(&self) -> Vec<Arc<Shared>> {
        let mut tables = self.tables.lock();
        tables.retain(|table| table.strong_count() > 0);
        tables.iter().filter_map(Weak::upgrade).collect()
    }

    /// Spills cold pages until `needed_bytes` more fit, or nothing is left to spill.
    fn make_room(&self, needed_bytes: u64) -> Result<()> {
        let is_full = || self.used_bytes().saturating_add(needed_bytes) > self.bytes_max;
        if !is_full() {
            return Ok(());
        }
        let tables = self.live_tables();
        // One round clears the marks of recent use, and the next one then finds pages to spill. More than two
        // rounds without a spilled page mean that other threads hold everything.
        let mut idle_rounds = 0;
        while is_full() && idle_rounds < 3 {
            let mut spilled = false;
            for _ in 0..tables.len() {
                if !is_full() {
                    break;
                }
                let turn = self.cursor.fetch_add(1, Ordering::Relaxed);
                if let Some(table) = tables.get(turn % tables.len()) {
                    spilled |= table.spill_one(self)?;
                }
            }
            idle_rounds = if spilled { 0 } else { idle_rounds + 1 };
        }
        Ok(())
    }
}

impl fmt::Debug for PageBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PageBudget({} of {} bytes)",
            self.used_bytes(),
            self.bytes_max
        )
    }
}

/// Where a page lies in the spill file, and its checksum.
#[derive(Clone, Copy)]
struct Spilled {
    slot: u32,
    crc: u32,
}

#[derive(Default)]
struct Page {
    memory: Option<Box<[u8]>>,
    spilled: Option<Spilled>,
    /// The copy in memory differs from the spilled one.
    is_dirty: bool,
    /// Used since the clock hand last passed.
    is_recent: bool,
}

#[derive(Default)]
struct Inner {
    pages: BTreeMap<u64, Page>,
    resident: usize,
    hand: u64,
    file: Option<Arc<dyn WriteAt>>,
    slots: u32,
    free_slots: Vec<u32>,
}

struct Shared {
    page_bytes: usize,
    open_spill: OpenSpill,
    inner: Mutex<Inner>,
    budget: Arc<PageBudget>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        let resident = self.inner.get_mut().resident;
        self.budget.used_bytes.fetch_sub(
            u64_from_usize(resident * self.page_bytes),
            Ordering::Relaxed,
        );
    }
}

impl Shared {
    fn page_bytes_u64(&self) -> u64 {
        u64_from_usize(self.page_bytes)
    }

    /// Spills the next page without recent use; false when this visit finds none.
    fn spill_one(&self, budget: &PageBudget) -> Result<bool> {
        let mut inner = self.inner.lock();
        for _ in 0..PAGES_PER_VISIT.min(inner.pages.len()) {
            let hand = inner.hand;
            let found = inner.pages.range(hand..).next().map(|(index, _)| *index);
            let Some(index) = found.or_else(|| inner.pages.keys().next().copied()) else {
                return Ok(false);
            };
            inner.hand = index.wrapping_add(1);
            let Some(page) = inner.pages.get_mut(&index) else {
                continue;
            };
            if page.memory.is_none() {
                inner.skip_absent(index);
                continue;
            }
            if std::mem::take(&mut page.is_recent) {
                continue;
            }
            self.spill(&mut inner, index)?;
            budget
                .used_bytes
                .fetch_sub(self.page_bytes_u64(), Ordering::Relaxed);
            return Ok(true);
        }
        Ok(false)
    }

    /// Drops a page from memory. It writes the page to the spill file first when the copy there is older.
    fn spill(&self, inner: &mut Inner, index: u64) -> Result<()> {
        let Some(page) = inner.pages.get(&index) else {
            return Ok(());
        };
        if page.is_dirty || page.spilled.is_none() {
            let slot = match page.spilled {
                Some(spilled) => spilled.slot,
                None => inner.take_slot()?,
            };
            let file = self.spill_file(inner)?;
            let Some(memory) = inner.pages.get(&index).and_then(|p| p.memory.as_deref()) else {
                return Ok(());
            };
            let crc = crc32fast::hash(memory);
            let written = file
                .write_at(u64::from(slot) * self.page_bytes_u64(), memory)
                .or_io("cannot spill a page of memory to its file");
            if let Err(error) = written {
                if inner.pages.get(&index).is_some_and(|p| p.spilled.is_none()) {
                    inner.free_slots.push(slot);
                }
                return Err(error);
            }
            if let Some(page) = inner.pages.get_mut(&index) {
                page.spilled = Some(Spilled { slot, crc });
                page.is_dirty = false;
            }
        }
        if let Some(page) = inner.pages.get_mut(&index) {
            page.memory = None;
            inner.resident -= 1;
        }
        Ok(())
    }

    fn spill_file(&self, inner: &mut Inner) -> Result<Arc<dyn WriteAt>> {
        if let Some(file) = &inner.file {
            return Ok(Arc::clone(file));
        }
        let file = (self.open_spill)()?;
        inner.file = Some(Arc::clone(&file));
        Ok(file)
    }

    /// Reads a spilled page back into memory and checks it.
    fn read_back(&self, inner: &mut Inner, index: u64, spilled: Spilled) -> Result<()> {
        let file = self.spill_file(inner)?;
        let mut memory = vec![0; self.page_bytes].into_boxed_slice();
        let offset = u64::from(spilled.slot) * self.page_bytes_u64();
        file.read_at(offset, &mut memory)
            .or_io("cannot read a page back from its spill file")?;
        let crc = crc32fast::hash(&memory);
        if crc != spilled.crc {
            return Err(Error::corrupt(
                format!("page {index} came back changed from its spill file"),
                format!("CRC-32 {:08x}", spilled.crc),
                format!("{crc:08x}"),
            )
            .at_offset(offset));
        }
        if let Some(page) = inner.pages.get_mut(&index) {
            page.memory = Some(memory);
            page.is_dirty = false;
            self.count_in(inner);
        }
        Ok(())
    }

    fn count_in(&self, inner: &mut Inner) {
        inner.resident += 1;
        self.budget
            .used_bytes
            .fetch_add(self.page_bytes_u64(), Ordering::Relaxed);
    }
}

impl Inner {
    /// Moves the hand over pages that are not in memory, so that a visit examines only pages that are.
    fn skip_absent(&mut self, index: u64) {
        if self.resident == 0 {
            return;
        }
        self.hand = self
            .pages
            .range((Bound::Excluded(index), Bound::Unbounded))
            .find(|(_, page)| page.memory.is_some())
            .map_or(0, |(index, _)| *index);
    }

    fn take_slot(&mut self) -> Result<u32> {
        if let Some(slot) = self.free_slots.pop() {
            return Ok(slot);
        }
        // LIMIT: 2^32 pages in one spill file; at 64 KiB that is 256 TiB of metadata.
        let next = self
            .slots
            .checked_add(1)
            .ok_or_else(|| Error::new(ErrorKind::LimitExceeded, "a spill file has no slot left"))?;
        Ok(std::mem::replace(&mut self.slots, next))
    }
}

/// An array of pages of equal size, addressed by index.
pub struct PageTable {
    shared: Arc<Shared>,
}

impl fmt::Debug for PageTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageTable({} pages)", self.len())
    }
}

impl PageTable {
    /// An empty table with pages of `page_bytes` bytes; the table calls `open_spill` when it first needs to
    /// spill.
    #[must_use]
    pub fn new(page_bytes: usize, budget: &Arc<PageBudget>, open_spill: OpenSpill) -> Self {
        let shared = Arc::new(Shared {
            page_bytes,
            open_spill,
            inner: Mutex::new(Inner::default()),
            budget: Arc::clone(budget),
        });
        budget.enter(&shared);
        Self { shared }
    }

    /// Size of a page in bytes.
    #[must_use]
    pub fn page_bytes(&self) -> usize {
        self.shared.page_bytes
    }

    /// Pages present.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.inner.lock().pages.len()
    }

    /// Whether no page is present.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Indices of all pages present, ascending.
    #[must_use]
    pub fn indices(&self) -> Vec<u64> {
        self.shared.inner.lock().pages.keys().copied().collect()
    }

    /// Changes a page. When the page is absent, `init` first fills a page of zeroes; if that fails, the page
    /// stays absent.
    ///
    /// # Errors
    /// Errors of `init`; `Corrupt` when the spilled page is damaged; `NoSpace`, `Io` of the spill file. In
    /// these cases `f` has not run.
    pub fn with_page<R>(
        &self,
        index: u64,
        init: impl FnOnce(&mut [u8]) -> Result<()>,
        f: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R> {
        let mut inner = self.in_memory(index)?;
        if let Entry::Vacant(place) = inner.pages.entry(index) {
            let mut memory = vec![0; self.shared.page_bytes].into_boxed_slice();
            init(&mut memory)?;
            place.insert(Page {
                memory: Some(memory),
                ..Page::default()
            });
            self.shared.count_in(&mut inner);
        }
        match inner.pages.get_mut(&index) {
            Some(Page {
                memory: Some(memory),
                is_dirty,
                is_recent,
                ..
            }) => {
                *is_dirty = true;
                *is_recent = true;
                Ok(f(memory))
            }
            _ => Err(Error::new(
                ErrorKind::Io,
                format!("page {index} left memory while it was in use"),
            )),
        }
    }

    /// Passes a page to `f` without changing it; `None` when it is absent.
    ///
    /// # Errors
    /// `Corrupt` when the spilled page is damaged; `NoSpace`, `Io` of the spill file. In these cases `f` has
    /// not run.
    pub fn peek<R>(&self, index: u64, f: impl FnOnce(Option<&[u8]>) -> R) -> Result<R> {
        let mut inner = self.in_memory(index)?;
        let Some(page) = inner.pages.get_mut(&index) else {
            return Ok(f(None));
        };
        page.is_recent = true;
        Ok(f(page.memory.as_deref()))
    }

    /// Makes a page absent; true when it was present.
    pub fn remove(&self, index: u64) -> bool {
        let mut inner = self.shared.inner.lock();
        let Some(page) = inner.pages.remove(&index) else {
            return false;
        };
        if let Some(spilled) = page.spilled {
            inner.free_slots.push(spilled.slot);
        }
        if page.memory.is_some() {
            inner.resident -= 1;
            self.shared
                .budget
                .used_bytes
                .fetch_sub(self.shared.page_bytes_u64(), Ordering::Relaxed);
        }
        true
    }

    /// Locks the table, in which the page is then in memory or absent with room made for it.
    fn in_memory(&self, index: u64) -> Result<MutexGuard<'_, Inner>> {
        let inner = self.shared.inner.lock();
        match inner.pages.get(&index) {
            Some(page) if page.memory.is_some() => return Ok(inner),
            _ => drop(inner),
        }
        self.shared.budget.make_room(self.shared.page_bytes_u64())?;
        let mut inner = self.shared.inner.lock();
        if let Some(Page {
            memory: None,
            spilled: Some(spilled),
            ..
        }) = inner.pages.get(&index)
        {
            let spilled = *spilled;
            self.shared.read_back(&mut inner, index, spilled)?;
        }
        Ok(inner)
    }
}

#[cfg(test)]
mod tests;
