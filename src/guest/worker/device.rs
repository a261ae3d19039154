//! A volume's device in the reader's process: each read is a request to the daemon, through the slot of the
//! reading thread.

use std::cell::RefCell;
use std::rc::Rc;

use super::message::Message;
use super::slot::{DATA_BYTES, Slot};
use crate::block::{ReadAt, check_range};
use crate::error::{Error, ErrorKind, Result};
use crate::types::width::u64_from_usize;

thread_local! {
    /// The slot that this thread serves.
    static SLOT: RefCell<Option<Rc<Slot>>> = const { RefCell::new(None) };
}

/// Sets the slot that the calling thread serves.
pub(super) fn enter(slot: &Rc<Slot>) {
    SLOT.with_borrow_mut(|here| *here = Some(Rc::clone(slot)));
}

/// Clears the slot of the calling thread, so that the other side sees its end.
pub(super) fn leave() {
    SLOT.with_borrow_mut(|here| *here = None);
}

/// A volume's bytes, requested through a slot.
pub(super) struct SlotDevice {
    pub(super) number: u32,
    pub(super) size_bytes: u64,
}

impl ReadAt for SlotDevice {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range(self.size_bytes, offset, u64_from_usize(buf.len()))?;
        let slot = SLOT
            .with_borrow(Clone::clone)
            .ok_or_else(|| Error::invalid("a reader's own thread cannot read"))?;
        let mut at = offset;
        for part in buf.chunks_mut(DATA_BYTES) {
            let length = u64_from_usize(part.len());
            slot.send(Message::Block {
                device: self.number,
                offset: at,
                length,
            })?;
            match slot.receive()? {
                Some(Message::Data) => slot.take_into(part)?,
                Some(Message::Zero) => part.fill(0),
                // The daemon knows the cause, and reports it instead of the reader's error.
                Some(Message::Failed) => {
                    return Err(
                        Error::new(ErrorKind::Io, "the volume cannot be read").at_offset(at)
                    );
                }
                _ => return Err(Error::new(ErrorKind::Disconnected, "not an answer")),
            }
            at += length;
        }
        Ok(())
    }
}
