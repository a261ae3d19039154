//! One budget of memory for all that is kept to be fast, and its shares.
//!
//! # Why
//! An administrator can set one number; with a bound for each of seven caches, the administrator would have to add them up.

/// LIMIT: the budget unless another is chosen.
const DEFAULT_BYTES: u64 = 512 << 20;
/// LIMIT: the least that makes sense.
const LEAST_BYTES: u64 = 32 << 20;
/// What an open guest filesystem takes: its reader's blocks, inodes, and the process around them.
const READER_BYTES: u64 = 6 << 20;
/// LIMIT: open guest filesystems, whatever the budget.
const READERS_MAX: u64 = 64;
/// Bytes of one run of a file.
const RUN_BYTES: u64 = 64;

/// A budget of memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory(u64);

impl Default for Memory {
    fn default() -> Self {
        Self(DEFAULT_BYTES)
    }
}

impl Memory {
    /// A budget of so many bytes, at least 32 MiB.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(if bytes < LEAST_BYTES {
            LEAST_BYTES
        } else {
            bytes
        })
    }

    /// The whole budget in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// For resolved ranges of chains, and decompressed clusters: a quarter.
    #[must_use]
    pub const fn chain_bytes(self) -> u64 {
        self.0 / 4
    }

    /// For tables and leaves of the disks that are being written, before they are spilled to files: a quarter.
    #[must_use]
    pub const fn ingest_bytes(self) -> u64 {
        self.0 / 4
    }

    /// For inodes and directories that guests' readers have answered: three sixteenths.
    #[must_use]
    pub const fn record_bytes(self) -> u64 {
        self.0 / 16 * 3
    }

    /// For where the bytes of guests' files are, in runs: a sixteenth.
    #[must_use]
    pub const fn runs(self) -> u64 {
        self.0 / 16 / RUN_BYTES
    }

    /// For documents and attached files: a sixteenth.
    #[must_use]
    pub const fn document_bytes(self) -> u64 {
        self.0 / 16
    }

    /// How many guest filesystems may be open: three sixteenths, at 6 MiB each; from 2 to 64.
    #[must_use]
    pub const fn readers(self) -> u64 {
        let fit = self.0 / 16 * 3 / READER_BYTES;
        if fit < 2 {
            2
        } else if fit > READERS_MAX {
            READERS_MAX
        } else {
            fit
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Memory;

    #[test]
    fn the_shares_are_no_more_than_the_whole() {
        for bytes in [0, 32 << 20, 512 << 20, 64 << 30] {
            let memory = Memory::new(bytes);
            let shares = memory.chain_bytes()
                + memory.ingest_bytes()
                + memory.record_bytes()
                + memory.runs() * 64
                + memory.document_bytes();
            let readers = memory.readers() * (6 << 20);
            assert!(memory.bytes() >= 32 << 20);
            assert!(shares + readers <= memory.bytes() + (24 << 20), "{bytes}");
        }
        assert_eq!(Memory::new(0).readers(), 2);
        assert_eq!(Memory::default().readers(), 16);
        assert_eq!(Memory::new(64 << 30).readers(), 64);
    }
}
