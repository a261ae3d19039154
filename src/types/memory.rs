//! One memory budget for all caches, and its shares.
//!
//! # Why
//! An administrator can set one number; with a bound for each of seven caches, the administrator
//! would have to add them up.

/// LIMIT: the default budget.
const DEFAULT_BYTES: u64 = 512 << 20;
/// LIMIT: the smallest useful budget.
const LEAST_BYTES: u64 = 32 << 20;
/// Memory of an open guest filesystem: its reader's blocks, its inodes, and its process.
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
    /// A budget of `bytes`, at least 32 MiB.
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

    /// A quarter: for resolved ranges of chains, and decompressed clusters.
    #[must_use]
    pub const fn chain_bytes(self) -> u64 {
        self.0 / 4
    }

    /// A quarter: for tables and leaves of the disks that are being written, before they are
    /// spilled to files.
    #[must_use]
    pub const fn ingest_bytes(self) -> u64 {
        self.0 / 4
    }

    /// Three sixteenths: for inodes and directories that guests' readers have returned.
    #[must_use]
    pub const fn record_bytes(self) -> u64 {
        self.0 / 16 * 3
    }

    /// A sixteenth: for the locations (runs) of guests' files.
    #[must_use]
    pub const fn runs(self) -> u64 {
        self.0 / 16 / RUN_BYTES
    }

    /// A sixteenth: for documents and attached files.
    #[must_use]
    pub const fn document_bytes(self) -> u64 {
        self.0 / 16
    }

    /// The number of guest filesystems that may be open: three sixteenths of the budget, at 6 MiB
    /// each; from 2 to 64.
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
