//! Page tables under a tiny budget, compared with a plain map; damaged and full spill files.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::{any, prop_assert_eq, proptest};

use super::{PageBudget, PageTable};
use crate::block::{ReadAt, WriteAt, check_range};
use crate::error::{Error, ErrorKind, Result};
use crate::types::sync::Mutex;

#[derive(Default)]
struct Disk {
    bytes: Mutex<Vec<u8>>,
    is_full: AtomicBool,
}

impl ReadAt for Disk {
    fn size_bytes(&self) -> u64 {
        self.bytes.lock().len() as u64
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range(self.size_bytes(), offset, buf.len() as u64)?;
        let at = usize::try_from(offset).unwrap();
        buf.copy_from_slice(&self.bytes.lock()[at..at + buf.len()]);
        Ok(())
    }
}

impl WriteAt for Disk {
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::NoSpace, "full"));
        }
        let at = usize::try_from(offset).unwrap();
        let mut bytes = self.bytes.lock();
        if bytes.len() < at + buf.len() {
            bytes.resize(at + buf.len(), 0);
        }
        bytes[at..at + buf.len()].copy_from_slice(buf);
        Ok(())
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
    fn set_size(&self, _: u64) -> Result<()> {
        Ok(())
    }
    fn punch(&self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }
}

fn table(budget: &Arc<PageBudget>, disk: &Arc<Disk>) -> PageTable {
    let disk = Arc::clone(disk);
    PageTable::new(
        8,
        budget,
        Box::new(move || Ok(Arc::clone(&disk) as Arc<dyn WriteAt>)),
    )
}

fn put(table: &PageTable, index: u64, value: u8) -> Result<()> {
    table.with_page(index, |_| Ok(()), |page| page.fill(value))
}

#[test]
fn budget_is_kept_and_given_back() {
    let (budget, disk) = (PageBudget::new(32), Arc::new(Disk::default()));
    let one = table(&budget, &disk);
    for index in 0..100 {
        put(&one, index, 1).unwrap();
        assert!(budget.used_bytes() <= 32);
    }
    assert_eq!(one.indices(), (0..100).collect::<Vec<_>>());
    // An idle table gives up pages for a busy one of the same budget.
    let two = table(&budget, &Arc::new(Disk::default()));
    for index in 0..8 {
        put(&two, index % 4, 2).unwrap();
    }
    assert!(budget.used_bytes() <= 32);
    drop(one);
    drop(two);
    assert_eq!(budget.used_bytes(), 0);
}

/// Regression: a daemon that never ran out of room kept a little memory for each table that it ever had.
#[test]
fn tables_that_are_gone_leave_nothing_behind() {
    let budget = PageBudget::new(1 << 20);
    let disk = Arc::new(Disk::default());
    let kept: Vec<PageTable> = (0..10).map(|_| table(&budget, &disk)).collect();
    for _ in 0..10_000 {
        drop(table(&budget, &disk));
    }
    let noted = budget.tables.lock().len();
    assert!((kept.len()..100).contains(&noted), "{noted} tables");
    assert_eq!(budget.live_tables().len(), kept.len());
}

#[test]
fn damaged_spill_is_corrupt_and_a_full_one_loses_nothing() {
    let (budget, disk) = (PageBudget::new(8), Arc::new(Disk::default()));
    let table = table(&budget, &disk);
    put(&table, 0, 7).unwrap();
    disk.is_full.store(true, Ordering::Relaxed);
    assert_eq!(put(&table, 1, 8).unwrap_err().kind(), ErrorKind::NoSpace);
    assert_eq!(table.indices(), [0]);
    disk.is_full.store(false, Ordering::Relaxed);
    put(&table, 1, 8).unwrap();
    disk.bytes.lock()[3] ^= 1;
    let error = table.peek(0, |_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(
        table.peek(1, |p| p.map(<[u8]>::to_vec)).unwrap(),
        Some(vec![8; 8])
    );
}

#[test]
fn failed_init_leaves_the_page_absent() {
    let (budget, disk) = (PageBudget::new(8), Arc::new(Disk::default()));
    let table = table(&budget, &disk);
    let failed = table.with_page(3, |_| Err(Error::invalid("no")), |_| ());
    assert!(failed.is_err());
    assert!(table.is_empty());
}

proptest! {
    #[test]
    fn tiny_budget_equals_a_map(
        ops in proptest::collection::vec((any::<bool>(), 0u64..12, any::<u8>(), 0u8..4), 1..200),
        pages in 1u64..5,
    ) {
        let budget = PageBudget::new(pages * 8);
        let disk = [Arc::new(Disk::default()), Arc::new(Disk::default())];
        let tables = [table(&budget, &disk[0]), table(&budget, &disk[1])];
        let mut models = [BTreeMap::new(), BTreeMap::new()];
        for (second, index, value, op) in ops {
            let (table, model) = (&tables[usize::from(second)], &mut models[usize::from(second)]);
            match op {
                0 => prop_assert_eq!(table.remove(index), model.remove(&index).is_some()),
                1 => {
                    let seen = table.peek(index, |p| p.map(|p| p[5])).unwrap();
                    prop_assert_eq!(seen, model.get(&index).copied());
                }
                _ => {
                    put(table, index, value).unwrap();
                    model.insert(index, value);
                }
            }
            prop_assert_eq!(table.indices(), model.keys().copied().collect::<Vec<_>>());
        }
        for (table, model) in tables.iter().zip(&models) {
            for (index, value) in model {
                let seen = table.peek(*index, |p| p.map(|p| p[0])).unwrap();
                prop_assert_eq!(seen, Some(*value));
            }
        }
    }
}
