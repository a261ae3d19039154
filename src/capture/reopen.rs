//! An export that is opened again after a lost connection, where the server proves that it is still the same instant.

use std::sync::Arc;
use std::time::Duration;

use crate::block::{Extent, ReadAt};
use crate::error::{Error, ErrorKind, Result};
use crate::types::sync::Mutex;

/// LIMIT: pauses before the attempts to connect again.
const PAUSES: [Duration; 6] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];

/// Opens the same content anew.
pub trait Again: Send + Sync {
    /// What is opened.
    type Source: Send + Sync;

    /// Opens it.
    ///
    /// # Errors
    /// `Stale` when it is not the same any more, which ends the attempts; others.
    fn open(&self) -> Result<Self::Source>;
}

/// A connection that is made again.
pub struct Reopened<A: Again> {
    again: A,
    /// The connection, with its number.
    current: Mutex<(u64, Arc<A::Source>)>,
    /// Held while another connection is made.
    opening: Mutex<()>,
}

impl<A: Again> Reopened<A> {
    /// Opens it for the first time.
    ///
    /// # Errors
    /// As [`Again::open`].
    pub fn new(again: A) -> Result<Self> {
        let first = Arc::new(again.open()?);
        Ok(Self {
            again,
            current: Mutex::new((0, first)),
            opening: Mutex::new(()),
        })
    }

    /// Asks the source; after a lost connection another one is asked.
    ///
    /// # Errors
    /// Those of the source, and of opening it again.
    pub fn ask<T>(&self, mut ask: impl FnMut(&A::Source) -> Result<T>) -> Result<T> {
        let mut pauses = PAUSES.iter();
        loop {
            let (number, source) = {
                let current = self.current.lock();
                (current.0, Arc::clone(&current.1))
            };
            match ask(&source) {
                Err(e) if is_lost(&e) => {
                    drop(source);
                    self.reconnect(number, e, &mut pauses)?;
                }
                done => return done,
            }
        }
    }

    /// Makes another connection than the one of that number.
    fn reconnect<'p>(
        &self,
        number: u64,
        mut lost: Error,
        pauses: &mut impl Iterator<Item = &'p Duration>,
    ) -> Result<()> {
        let _turn = self.opening.lock();
        if self.current.lock().0 != number {
            return Ok(());
        }
        for pause in pauses {
            std::thread::sleep(*pause);
            match self.again.open() {
                Ok(source) => {
                    tracing::warn!(error = %lost.report(), "the connection to the source was lost, and is made again");
                    *self.current.lock() = (number + 1, Arc::new(source));
                    return Ok(());
                }
                Err(e) if e.kind() == ErrorKind::Stale => return Err(e.caused_by(lost)),
                Err(e) => lost = e,
            }
        }
        Err(lost)
    }
}

fn is_lost(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Disconnected | ErrorKind::TimedOut)
}

impl<A: Again> ReadAt for Reopened<A>
where
    A::Source: ReadAt,
{
    fn size_bytes(&self) -> u64 {
        let source = Arc::clone(&self.current.lock().1);
        source.size_bytes()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.ask(|source| source.read_at(offset, buf))
    }

    fn extent_at(&self, offset: u64, length_max: u64) -> Result<Extent> {
        self.ask(|source| source.extent_at(offset, length_max))
    }
}
