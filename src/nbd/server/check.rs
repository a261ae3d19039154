//! Checks of a request that need no access to the export.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use crate::nbd::proto::command::{Command, Request};
use crate::nbd::proto::flag::CommandFlags;
use crate::nbd::proto::status::Status;
use crate::nbd::proto::{Mode, PAYLOAD_BYTES_MAX};

/// The terms for requests on a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) mode: Mode,
    pub(super) is_read_only: bool,
    pub(super) size_bytes: u64,
    /// Requests must be multiples of this, in bytes.
    pub(super) block_bytes: u32,
}

/// A refusal: the error, and the reason.
pub(super) type Refusal = (Status, &'static str);

impl Terms {
    /// Refuses a request that is invalid on these terms.
    pub(super) fn check(&self, request: &Request) -> Result<(), Refusal> {
        let invalid = |why| Err((Status::Einval, why));
        let command = request.command;
        let is_write = matches!(
            command,
            Command::Write | Command::WriteZeroes | Command::Trim
        );
        if let Command::Unknown(_) = command {
            return invalid("the command is not known");
        }
        if is_write && self.is_read_only {
            return Err((Status::Eperm, "the export cannot be written"));
        }
        if self.mode == Mode::Extended
            && request.has_payload(self.mode) != (command == Command::Write)
        {
            return invalid("only a write has a payload");
        }
        // FUA has no effect without a write, but is allowed.
        if !(self.flags(command) | CommandFlags::FUA).contains(request.flags) {
            return invalid("a flag is not known, or not with this command");
        }
        if command == Command::Flush {
            if request.offset != 0 || request.length_bytes != 0 {
                return invalid("a flush has neither offset nor length");
            }
            return Ok(());
        }
        if request.length_bytes == 0 {
            return invalid("a request of no bytes");
        }
        if matches!(command, Command::Read | Command::Write)
            && request.length_bytes > u64::from(PAYLOAD_BYTES_MAX)
        {
            return invalid("more than 32 MiB in one request");
        }
        self.check_place(request)
    }

    fn flags(&self, command: Command) -> CommandFlags {
        match command {
            Command::Read if self.mode.has_chunks() => CommandFlags::DF,
            Command::Write if self.mode == Mode::Extended => {
                CommandFlags::FUA | CommandFlags::PAYLOAD_LEN
            }
            Command::Write | Command::Trim => CommandFlags::FUA,
            Command::WriteZeroes => {
                CommandFlags::FUA | CommandFlags::NO_HOLE | CommandFlags::FAST_ZERO
            }
            Command::BlockStatus => CommandFlags::REQ_ONE,
            Command::Read
            | Command::Flush
            | Command::Cache
            | Command::Disconnect
            | Command::Unknown(_) => CommandFlags::empty(),
        }
    }

    fn check_place(&self, request: &Request) -> Result<(), Refusal> {
        let end = request
            .offset
            .checked_add(request.length_bytes)
            .filter(|end| *end <= self.size_bytes);
        let Some(end) = end else {
            let status = match request.command {
                Command::Write | Command::WriteZeroes => Status::Enospc,
                _ => Status::Einval,
            };
            return Err((status, "the request passes the end of the export"));
        };
        let block = u64::from(self.block_bytes);
        let is_whole = request.offset.is_multiple_of(block)
            && (end.is_multiple_of(block) || end == self.size_bytes);
        if is_whole {
            Ok(())
        } else {
            Err((
                Status::Einval,
                "the request is not aligned to the blocks of the export",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Terms;
    use crate::nbd::proto::Mode;
    use crate::nbd::proto::command::{Command, Request};
    use crate::nbd::proto::flag::CommandFlags;
    use crate::nbd::proto::status::Status;
    use proptest::prelude::{prop, prop_assert, proptest};

    const TERMS: Terms = Terms {
        mode: Mode::Extended,
        is_read_only: false,
        size_bytes: 1 << 40,
        block_bytes: 512,
    };

    fn request(command: Command, flags: CommandFlags, offset: u64, length_bytes: u64) -> Request {
        Request {
            flags,
            command,
            cookie: 1,
            offset,
            length_bytes,
        }
    }

    #[test]
    fn payloads_are_said_and_long_effects_are_fine() {
        let none = CommandFlags::empty();
        let payload = CommandFlags::PAYLOAD_LEN;
        let whole = 1 << 40;
        for (command, flags, length, status) in [
            (Command::Write, payload, 512, None),
            (Command::Write, none, 512, None),
            (Command::Read, none, 512, None),
            (Command::Read, payload, 512, Some(Status::Einval)),
            (Command::Read, none, whole, Some(Status::Einval)),
            (Command::BlockStatus, none, whole, None),
            (Command::BlockStatus, payload, 12, Some(Status::Einval)),
            (Command::WriteZeroes, none, whole, None),
            (Command::Trim, none, whole, None),
            (Command::Cache, none, whole, None),
            (Command::Trim, none, whole + 512, Some(Status::Einval)),
            (Command::WriteZeroes, none, u64::MAX, Some(Status::Enospc)),
        ] {
            let checked = TERMS.check(&request(command, flags, 0, length));
            assert_eq!(checked.err().map(|e| e.0), status, "{command:?} {length}");
        }
        let compact = Terms {
            mode: Mode::Structured,
            ..TERMS
        };
        assert!(
            compact
                .check(&request(Command::Write, payload, 0, 512))
                .is_err()
        );
        assert!(
            compact
                .check(&request(Command::Write, none, 0, 512))
                .is_ok()
        );
    }

    proptest! {
        #[test]
        fn what_is_accepted_lies_within_the_export(
            code in 0u16..9, flags: u16, offset: u64, length_bytes: u64, is_read_only: bool,
            mode in prop::sample::select(vec![Mode::Simple, Mode::Structured, Mode::Extended]),
            size_bytes in 0u64..1 << 41,
        ) {
            let terms = Terms { mode, is_read_only, size_bytes, block_bytes: 1 };
            let request = request(
                Command::of_code(code), CommandFlags::from_bits_retain(flags), offset, length_bytes,
            );
            if terms.check(&request).is_ok() {
                prop_assert!(offset.checked_add(length_bytes).is_some_and(|end| end <= size_bytes)
                    || request.command == Command::Flush);
            }
        }
    }
}
