//! Flags of each phase. Bits that we do not know are kept, so that whoever reads them can refuse them.

bitflags::bitflags! {
    /// What the server says in its greeting.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct HandshakeFlags: u16 {
        /// Options other than EXPORT_NAME may be sent.
        const FIXED_NEWSTYLE = 1;
        /// The 124 zero bytes after EXPORT_NAME can be left out.
        const NO_ZEROES = 1 << 1;
        const _ = !0;
    }

    /// What the client answers to the greeting.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct ClientFlags: u32 {
        /// It speaks fixed newstyle.
        const FIXED_NEWSTYLE = 1;
        /// It wants the 124 zero bytes left out.
        const NO_ZEROES = 1 << 1;
        const _ = !0;
    }

    /// What an export can do.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct TransmissionFlags: u16 {
        /// Always set.
        const HAS_FLAGS = 1;
        /// Writes are refused.
        const READ_ONLY = 1 << 1;
        /// FLUSH is there.
        const SEND_FLUSH = 1 << 2;
        /// The FUA flag is there.
        const SEND_FUA = 1 << 3;
        /// Seeks are slow.
        const ROTATIONAL = 1 << 4;
        /// TRIM is there.
        const SEND_TRIM = 1 << 5;
        /// WRITE_ZEROES is there.
        const SEND_WRITE_ZEROES = 1 << 6;
        /// The DF flag of READ is there.
        const SEND_DF = 1 << 7;
        /// Several connections see one cache: a FLUSH covers the writes of all.
        const CAN_MULTI_CONN = 1 << 8;
        /// RESIZE is there.
        const SEND_RESIZE = 1 << 9;
        /// CACHE is there.
        const SEND_CACHE = 1 << 10;
        /// The FAST_ZERO flag is there.
        const SEND_FAST_ZERO = 1 << 11;
        /// BLOCK_STATUS takes a payload that names contexts.
        const BLOCK_STATUS_PAYLOAD = 1 << 12;
        const _ = !0;
    }

    /// Flags of a request.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct CommandFlags: u16 {
        /// Durable before the reply.
        const FUA = 1;
        /// WRITE_ZEROES: allocate, make no hole.
        const NO_HOLE = 1 << 1;
        /// READ: one chunk of data.
        const DF = 1 << 2;
        /// BLOCK_STATUS: one extent.
        const REQ_ONE = 1 << 3;
        /// WRITE_ZEROES: fail rather than write slowly.
        const FAST_ZERO = 1 << 4;
        /// Extended requests: a payload of the length follows.
        const PAYLOAD_LEN = 1 << 5;
        const _ = !0;
    }

    /// Flags of a structured chunk.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct ChunkFlags: u16 {
        /// The last chunk of its reply.
        const DONE = 1;
        const _ = !0;
    }

    /// Flags of an extent in `base:allocation`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct StatusFlags: u32 {
        /// Not allocated.
        const HOLE = 1;
        /// Reads as zero.
        const ZERO = 1 << 1;
        const _ = !0;
    }
}
