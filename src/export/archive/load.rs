//! Reads the data of entries before the writer reaches them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::budget::{Budget, Share};
use super::map::Map;
use super::note::Notes;
use crate::block::ReadAt;
use crate::error::{Error, ErrorKind, Result};
use crate::export::files::Source;
use crate::guest::fs::{FileType, Xattr};
use crate::task::Monitor;
use crate::tree::{Attributes, Ino};
use crate::types::sync::Mutex;
use crate::types::width::usize_from_u64;

/// LIMIT: files up to this size are read whole before their header is written, so that an unreadable one is
/// left out.
pub(super) const SMALL_MAX_BYTES: u64 = 8 << 20;
/// Bytes of a large file read at once.
const CHUNK_BYTES: u64 = 1 << 20;
/// LIMIT: chunks of a large file read ahead.
const CHUNKS_AHEAD: usize = 4;
/// Memory of an entry beside its content.
pub(super) const ENTRY_BYTES: u64 = 4096;

/// State that the threads share.
pub(super) struct Job<'a> {
    pub(super) source: &'a dyn Source,
    pub(super) monitor: &'a Monitor,
    /// Set when the writer has ended: the other threads stop too.
    pub(super) halt: AtomicBool,
    pub(super) notes: Notes,
    pub(super) budget: Budget,
    /// Whether further names of a file become links to the first.
    pub(super) links: bool,
}

/// A name on its way into the archive.
pub(super) struct Item<'a> {
    pub(super) ino: Ino,
    pub(super) attributes: Attributes,
    /// Path in the archive.
    pub(super) path: Vec<u8>,
    /// Whether the file was seen before under another name.
    pub(super) again: bool,
    pub(super) share: Share<'a>,
    /// The result of a loading thread; not for a file that was seen before.
    pub(super) loaded: Option<Receiver<Loaded>>,
}

/// An order for a loading thread.
pub(super) struct Order {
    ino: Ino,
    file_type: FileType,
    share_bytes: u64,
    answer: SyncSender<Loaded>,
}

/// The loaded data.
pub(super) struct Loaded {
    pub(super) xattrs: Result<Arc<[Xattr]>>,
    pub(super) body: Result<Body>,
}

/// The content of an entry.
pub(super) enum Body {
    None,
    Link(Vec<u8>),
    /// A file with the bytes of all its segments.
    Small(Map, Vec<u8>),
    Large(Map, Arc<dyn ReadAt>),
}

impl Order {
    /// An order for an item, with the channel for its answer.
    pub(super) fn new(
        ino: Ino,
        attributes: &Attributes,
        share: &Share<'_>,
    ) -> (Self, Receiver<Loaded>) {
        let (answer, receiver) = sync_channel(1);
        let order = Self {
            ino,
            file_type: attributes.file_type,
            share_bytes: share.bytes(),
            answer,
        };
        (order, receiver)
    }
}

impl Job<'_> {
    pub(super) fn check_stop(&self) -> Result<()> {
        if self.halt.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Cancelled, "the writer has ended"));
        }
        self.monitor.check()
    }

    /// Main loop of a loading thread.
    pub(super) fn load_all(&self, orders: &Mutex<Receiver<Order>>) {
        loop {
            let next = orders.lock().recv();
            let Ok(order) = next else {
                return;
            };
            let loaded = Loaded {
                xattrs: self
                    .check_stop()
                    .and_then(|()| caught(|| self.source.xattrs(order.ino))),
                body: self
                    .check_stop()
                    .and_then(|()| caught(|| self.load(&order))),
            };
            // A writer that has ended does not need it.
            let _ = order.answer.send(loaded);
        }
    }

    fn load(&self, order: &Order) -> Result<Body> {
        match order.file_type {
            FileType::Symlink => self.source.link_target(order.ino).map(Body::Link),
            FileType::Regular => {
                let content = self.source.content(order.ino)?;
                let map = Map::load(content.as_ref(), &|| self.check_stop())?;
                let room = order.share_bytes.saturating_sub(ENTRY_BYTES);
                if map.size_bytes > SMALL_MAX_BYTES.min(room) {
                    return Ok(Body::Large(map, content));
                }
                let mut bytes = vec![0; usize_from_u64(map.data_bytes())];
                let mut rest = bytes.as_mut_slice();
                for (at, length) in &map.segments {
                    let (segment, after) = rest
                        .split_at_mut_checked(usize_from_u64(*length))
                        .ok_or_else(|| Error::new(ErrorKind::Io, "a map changed"))?;
                    content.read_at(*at, segment)?;
                    rest = after;
                }
                Ok(Body::Small(map, bytes))
            }
            _ => Ok(Body::None),
        }
    }

    /// Reads the segments of a large file ahead, and passes offset and bytes of each chunk to the caller in
    /// order. `path` is for errors.
    pub(super) fn each_chunk(
        &self,
        map: &Map,
        content: &dyn ReadAt,
        path: &[u8],
        put: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel(CHUNKS_AHEAD);
            scope.spawn(move || {
                for (at, length) in chunks(map) {
                    let mut bytes = vec![0; usize_from_u64(length)];
                    let read = self
                        .check_stop()
                        .and_then(|()| caught(|| content.read_at(at, &mut bytes)));
                    let failed = read.is_err();
                    if sender.send(read.map(|()| (at, bytes))).is_err() || failed {
                        return;
                    }
                }
            });
            // The receiver is dropped before the thread is joined, so that the thread does not wait for this
            // one.
            let mut written = 0;
            for chunk in receiver {
                let (at, bytes) = chunk.map_err(|error| middle(path, error))?;
                written += u64::try_from(bytes.len()).unwrap_or(0);
                put(at, &bytes)?;
            }
            if written == map.data_bytes() {
                Ok(())
            } else {
                Err(Error::new(ErrorKind::Io, "a reading thread ended early"))
            }
        })
    }
}

fn chunks(map: &Map) -> impl Iterator<Item = (u64, u64)> + '_ {
    map.segments.iter().flat_map(|&(at, length)| {
        (0..length.div_ceil(CHUNK_BYTES)).map(move |n| {
            let start = n * CHUNK_BYTES;
            (at + start, (length - start).min(CHUNK_BYTES))
        })
    })
}

/// Turns a panic into an error: if a loader vanished, the walk would wait for ever.
fn caught<T>(read: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(Error::new(ErrorKind::Io, "reading it panicked")))
}

/// An error in the middle of a file whose header is already written.
fn middle(path: &[u8], error: Error) -> Error {
    match error.kind() {
        ErrorKind::Cancelled => error,
        kind => Error::new(
            kind,
            format!(
                "the archive ends in the middle of {}, which cannot be read further",
                String::from_utf8_lossy(path)
            ),
        )
        .caused_by(error),
    }
}
