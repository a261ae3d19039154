//! Sends cache invalidations to the kernel, from one thread that holds no lock.
//!
//! # Invariants
//! Only nodes are invalidated, never names. To drop a name, the kernel takes the lock of its directory, and
//! waits for a holder that may itself wait for this process: if this process were killed in that moment, the
//! thread could not die, the connection would stay, and both would wait for ever. So names whose target
//! changes have no time to live, and others expire.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use fuser::{INodeNo, Notifier};

use crate::error::{Result, ResultExt};
use crate::tree::Ino;

/// LIMIT: refreshes with unsent changes.
const QUEUE: usize = 1024;

/// Changes to send, and the threads that wait for them.
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
    /// `Io` when no thread can be started.
    pub(super) fn start(notifier: Notifier) -> Result<Self> {
        let (sender, receiver) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("fuse-notify".to_owned())
            .spawn(move || run(&notifier, &receiver))
            .or_io("cannot start a thread")?;
        Ok(Self { sender, thread })
    }

    /// A clone of the sender.
    pub(super) fn sender(&self) -> Sender {
        Sender(self.sender.clone())
    }

    /// Waits until all changes are sent; all other senders must be dropped first.
    pub(super) fn finish(self) {
        drop(self.sender);
        if self.thread.join().is_err() {
            tracing::warn!("the notifying thread panicked");
        }
    }
}

/// Queues changes for the sending thread.
#[derive(Clone)]
pub(super) struct Sender(SyncSender<Notice>);

impl Sender {
    /// Queues changes; never waits for the kernel. The thread notifies each `waiting` channel when they are
    /// sent.
    pub(super) fn send(&self, changes: Vec<Ino>, waiting: Vec<SyncSender<()>>) {
        match self.0.try_send(Notice { changes, waiting }) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            // The affected names also expire by themselves, after a second.
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
            // The waiting thread may have given up.
            let _ = waiting.try_send(());
        }
    }
}
