//! An export that is opened again after a lost connection, where the server proves that it is still the same instant.

use std::sync::Arc;
use std::time::Duration;

use crate::block::piece::Changes;
use crate::block::{Extent, ReadAt};
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::client::Client;
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

impl<A: Again<Source = Client>> Changes for Reopened<A> {
    fn changed_at(&self, offset: u64, length_max: u64) -> Result<(bool, u64)> {
        self.ask(|source| source.dirty_at(offset, length_max))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::{Again, Reopened};
    use crate::error::{Error, ErrorKind, Result};

    /// A source that is lost at every read of the first connections.
    struct Flaky {
        opened: AtomicUsize,
        good_from: usize,
        /// From this connection on it is another instant.
        stale_from: usize,
    }

    impl Again for Flaky {
        type Source = usize;

        fn open(&self) -> Result<usize> {
            let number = self.opened.fetch_add(1, Ordering::SeqCst);
            match number >= self.stale_from {
                true => Err(Error::new(ErrorKind::Stale, "another instant")),
                false => Ok(number),
            }
        }
    }

    fn read(good_from: usize) -> impl FnMut(&usize) -> Result<usize> {
        move |number| match *number >= good_from {
            true => Ok(*number),
            false => Err(Error::new(ErrorKind::Disconnected, "lost")),
        }
    }

    #[test]
    fn a_lost_connection_is_made_again_while_it_is_the_same_instant() {
        let flaky = |good_from, stale_from| {
            let opened = AtomicUsize::new(0);
            Reopened::new(Flaky {
                opened,
                good_from,
                stale_from,
            })
            .unwrap()
        };
        let same = flaky(2, 99);
        let good_from = same.again.good_from;
        assert_eq!(same.ask(read(good_from)).unwrap(), 2);
        // The good connection stays.
        assert_eq!(same.ask(read(good_from)).unwrap(), 2);
        let other = flaky(2, 1);
        let error = other.ask(read(2)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Stale);
        assert_eq!(
            other.again.opened.load(Ordering::SeqCst),
            2,
            "it is not tried again"
        );
        // What the source refuses is no lost connection.
        let refused = same
            .ask(|_| Err::<(), _>(Error::new(ErrorKind::Io, "rot")))
            .unwrap_err();
        assert_eq!(
            (refused.kind(), same.again.opened.load(Ordering::SeqCst)),
            (ErrorKind::Io, 3)
        );
    }
}
