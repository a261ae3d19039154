//! Telling the kernel what to forget, from one thread that holds nothing.
//!
//! # Invariants
//! Only nodes are invalidated, never names. To forget a name the kernel takes the lock of its directory, and waits for whoever holds it
//! and waits for us: were this process killed in that moment, the thread could not die, the connection would stay, and both would wait for
//! ever. So names that come to mean something else have no time to live, and others expire.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use fuser::{INodeNo, Notifier};

use crate::error::{Result, ResultExt};
use crate::tree::Ino;

/// LIMIT: refreshes whose changes wait to be sent.
const QUEUE: usize = 1024;

/// What is to be sent, and who waits for it.
struct Notice {
    changes: Vec<Ino>,
    waiting: Vec<SyncSender<()>>,
}

/// The sending thread; it ends when all senders are dropped.
pub(super) struct Notify {
    sender: SyncSender<Notice>,
    thread: JoinHandle<()>,
}

impl Notify {
    /// Starts the thread.
    ///
    /// # Errors
    /// `Io` when no thread can be had.
    pub(super) fn start(notifier: Notifier) -> Result<Self> {
        let (sender, receiver) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("fuse-notify".to_owned())
            .spawn(move || run(&notifier, &receiver))
            .or_io("cannot start a thread")?;
        Ok(Self { sender, thread })
    }

    /// Another hand of the sender.
    pub(super) fn sender(&self) -> Sender {
        Sender(self.sender.clone())
    }

    /// Waits until everything has been sent; the other senders must be gone.
    pub(super) fn finish(self) {
        drop(self.sender);
        if self.thread.join().is_err() {
            tracing::warn!("the notifying thread panicked");
        }
    }
}

/// Where changes are handed in.
#[derive(Clone)]
pub(super) struct Sender(SyncSender<Notice>);

impl Sender {
    /// Hands changes in; never waits for the kernel. Whoever is `waiting` hears when they have been sent.
    pub(super) fn send(&self, changes: Vec<Ino>, waiting: Vec<SyncSender<()>>) {
        match self.0.try_send(Notice { changes, waiting }) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            // The names in question also expire by themselves, after a second.
            Err(TrySendError::Full(_)) => {
                tracing::warn!("the kernel is slow to take notifications")
            }
        }
    }
}

fn run(notifier: &Notifier, receiver: &Receiver<Notice>) {
    while let Ok(notice) = receiver.recv() {
        for node in notice.changes {
            // From 0 to the end: attributes, pages, listings.
            if let Err(error) = notifier.inval_inode(INodeNo(node.0), 0, 0) {
                tracing::debug!(?node, %error, "the kernel did not take a notification");
            }
        }
        for waiting in notice.waiting {
            // Whoever waited may have given up.
            let _ = waiting.try_send(());
        }
    }
}
