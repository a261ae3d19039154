//! The walk: produces names in the order of the archive, a directory before its content.

use std::collections::HashSet;
use std::sync::mpsc::SyncSender;

use super::load::{ENTRY_BYTES, Item, Job, Order, SMALL_MAX_BYTES};
use crate::error::{Error, ErrorKind, Result};
use crate::export::files::{DEPTH_MAX, check_name};
use crate::guest::fs::FileType;
use crate::tree::{Attributes, Ino};

/// A directory that the walk must still enter.
struct Enter {
    ino: Ino,
    attributes: Attributes,
    path: Vec<u8>,
    depth: usize,
}

pub(super) struct Walk<'a> {
    job: &'a Job<'a>,
    items: SyncSender<Item<'a>>,
    orders: SyncSender<Order>,
    /// Files with several names that were seen before.
    met: HashSet<Ino>,
    /// Directories that were entered: a second entry means a loop in a damaged filesystem.
    entered: HashSet<Ino>,
    /// The newest one is entered first.
    steps: Vec<Enter>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        job: &'a Job<'a>,
        items: SyncSender<Item<'a>>,
        orders: SyncSender<Order>,
    ) -> Self {
        Self {
            job,
            items,
            orders,
            met: HashSet::new(),
            entered: HashSet::new(),
            steps: Vec::new(),
        }
    }

    pub(super) fn run(mut self, ino: Ino, attributes: Attributes, name: &[u8]) -> Result<()> {
        self.take(ino, attributes, name.to_vec(), 0)?;
        while let Some(step) = self.steps.pop() {
            self.job.check_stop()?;
            self.enter(step)?;
        }
        Ok(())
    }

    /// Walks a directory and its content. Failures are noted; an error means that the writer is gone.
    fn enter(&mut self, step: Enter) -> Result<()> {
        if step.depth >= DEPTH_MAX {
            let reason = format!("deeper than {DEPTH_MAX} directories");
            self.job.notes.fail(&step.path, reason);
            return Ok(());
        }
        if !self.entered.insert(step.ino) {
            self.job.notes.fail(
                &step.path,
                "a directory that was met before: the filesystem has a loop",
            );
            return Ok(());
        }
        // The directory is listed before it is written: an unreadable one must not appear empty.
        let entries = match self.job.source.entries(step.ino) {
            Ok(entries) => entries,
            Err(error) => {
                self.job.notes.fail(&step.path, error.report());
                return Ok(());
            }
        };
        if !self.job.source.is_frame(step.ino) {
            self.send(step.ino, step.attributes, step.path.clone(), false)?;
        }
        let before = self.steps.len();
        let mut names = HashSet::new();
        for (name, child) in entries {
            self.job.check_stop()?;
            let mut path = step.path.clone();
            path.push(b'/');
            if let Err(reason) = check_name(&name) {
                // Such a name is not written to the archive: the escaped form is harmless.
                let shown = name.escape_ascii().to_string().replace('/', "\\x2f");
                path.extend_from_slice(shown.as_bytes());
                self.job.notes.fail(&path, reason);
                continue;
            }
            path.extend_from_slice(&name);
            if !names.insert(name) {
                self.job.notes.fail(&path, "the name is there already");
                continue;
            }
            match self.job.source.attributes(child) {
                Ok(attributes) => self.take(child, attributes, path, step.depth + 1)?,
                Err(error) => self.job.notes.fail(&path, error.report()),
            }
        }
        // In listing order.
        if let Some(new) = self.steps.get_mut(before..) {
            new.reverse();
        }
        Ok(())
    }

    fn take(
        &mut self,
        ino: Ino,
        attributes: Attributes,
        path: Vec<u8>,
        depth: usize,
    ) -> Result<()> {
        if attributes.file_type == FileType::Directory {
            self.steps.push(Enter {
                ino,
                attributes,
                path,
                depth,
            });
            return Ok(());
        }
        if attributes.file_type == FileType::Socket {
            self.job
                .notes
                .leave(&path, "a socket, which no archive holds");
            return Ok(());
        }
        let again = self.job.links && attributes.nlink > 1 && !self.met.insert(ino);
        self.send(ino, attributes, path, again)
    }

    fn send(&self, ino: Ino, attributes: Attributes, path: Vec<u8>, again: bool) -> Result<()> {
        let content = match attributes.file_type {
            FileType::Regular if !again && attributes.size_bytes <= SMALL_MAX_BYTES => {
                attributes.size_bytes
            }
            _ => 0,
        };
        let share = self
            .job
            .budget
            .take(content + ENTRY_BYTES)
            .ok_or_else(ended)?;
        let loaded = if again {
            None
        } else {
            let (order, loaded) = Order::new(ino, &attributes, &share);
            self.orders.send(order).map_err(|_| ended())?;
            Some(loaded)
        };
        let item = Item {
            ino,
            attributes,
            path,
            again,
            share,
            loaded,
        };
        self.items.send(item).map_err(|_| ended())
    }
}

fn ended() -> Error {
    Error::new(
        ErrorKind::Cancelled,
        "the thread that writes the archive has ended",
    )
}
