//! The progress of a piece of work by disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::TaskDisk;
use crate::types::DiskName;
use crate::types::sync::Mutex;

/// The progress of work on each of its disks.
#[derive(Default)]
pub struct DiskProgress {
    disks: Mutex<Vec<(DiskName, Arc<Progress>)>>,
}

/// Bytes of one disk.
#[derive(Default)]
struct Progress {
    done: AtomicU64,
    total: AtomicU64,
}

impl DiskProgress {
    /// Adds `bytes` that are to be done of a disk; what was to be done of it before counts as done. Returns the listener that hears of each
    /// step. Bytes of no disk are not counted.
    pub fn begin(
        &self,
        disk: Option<&DiskName>,
        bytes: u64,
    ) -> impl Fn(u64) + Send + Sync + use<> + 'static {
        let progress = disk.map(|disk| self.of(disk));
        if let Some(progress) = &progress {
            progress.complete();
            progress.total.fetch_add(bytes, Ordering::Relaxed);
        }
        move |bytes| {
            if let Some(progress) = &progress {
                progress.done.fetch_add(bytes, Ordering::Relaxed);
            }
        }
    }

    /// Notes that all is done.
    pub fn complete(&self) {
        let disks = self.disks.lock();
        disks.iter().for_each(|(_, progress)| progress.complete());
    }

    /// The disks as a task shows them.
    #[must_use]
    pub fn disks(&self) -> Vec<TaskDisk> {
        let disks = self.disks.lock();
        let disks = disks.iter().map(|(name, progress)| {
            let total_bytes = progress.total.load(Ordering::Relaxed);
            TaskDisk {
                name: name.clone(),
                done_bytes: progress.done.load(Ordering::Relaxed).min(total_bytes),
                total_bytes,
            }
        });
        disks.collect()
    }

    fn of(&self, disk: &DiskName) -> Arc<Progress> {
        let mut disks = self.disks.lock();
        if let Some((_, known)) = disks.iter().find(|(name, _)| name == disk) {
            return Arc::clone(known);
        }
        let progress = Arc::<Progress>::default();
        disks.push((disk.clone(), Arc::clone(&progress)));
        progress
    }
}

impl Progress {
    fn complete(&self) {
        let total = self.total.load(Ordering::Relaxed);
        self.done.store(total, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::DiskProgress;
    use crate::types::DiskName;

    #[test]
    fn bytes_are_counted_by_disk_and_what_was_begun_before_is_done() {
        let progress = DiskProgress::default();
        let vda = DiskName::new("vda").unwrap();
        progress.begin(Some(&vda), 10)(4);
        progress.begin(None, 100)(50);
        let seen = |progress: &DiskProgress| {
            let disks = progress.disks();
            assert_eq!(disks.len(), 1);
            (disks[0].done_bytes, disks[0].total_bytes)
        };
        assert_eq!(seen(&progress), (4, 10));
        let advance = progress.begin(Some(&vda), 20);
        assert_eq!(seen(&progress), (10, 30));
        advance(25);
        assert_eq!(seen(&progress), (30, 30), "never more than all");
        let _ = progress.begin(Some(&vda), 5);
        progress.complete();
        assert_eq!(seen(&progress), (35, 35));
    }
}
