//! Flags of each phase. Unknown bits are kept, so that the reader of the flags can refuse them.

bitflags::bitflags! {
    /// Handshake flags of the server's greeting.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct HandshakeFlags: u16 {
        /// Options other than EXPORT_NAME may be sent.
        const FIXED_NEWSTYLE = 1;
        /// The 124 zero bytes after EXPORT_NAME can be left out.
        const NO_ZEROES = 1 << 1;
        const _ = !0;
    }

    /// Flags of the client's answer to the greeting.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct ClientFlags: u32 {
        /// The client supports fixed newstyle.
        const FIXED_NEWSTYLE = 1;
        /// The client wants the 124 zero bytes left out.
        const NO_ZEROES = 1 << 1;
        const _ = !0;
    }

    /// Capabilities of an export.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct TransmissionFlags: u16 {
        /// Always set.
        const HAS_FLAGS = 1;
        /// Writes are refused.
        const READ_ONLY = 1 << 1;
        /// FLUSH is supported.
        const SEND_FLUSH = 1 << 2;
        /// The FUA flag is supported.
        const SEND_FUA = 1 << 3;
        /// Seeks are slow.
        const ROTATIONAL = 1 << 4;
        /// TRIM is supported.
        const SEND_TRIM = 1 << 5;
        /// WRITE_ZEROES is supported.
        const SEND_WRITE_ZEROES = 1 << 6;
        /// The DF flag of READ is supported.
        const SEND_DF = 1 << 7;
        /// All connections share one cache: a FLUSH covers the writes of all of them.
        const CAN_MULTI_CONN = 1 << 8;
        /// RESIZE is supported.
        const SEND_RESIZE = 1 << 9;
        /// CACHE is supported.
        const SEND_CACHE = 1 << 10;
        /// The FAST_ZERO flag is supported.
        const SEND_FAST_ZERO = 1 << 11;
        /// BLOCK_STATUS takes a payload that names contexts.
        const BLOCK_STATUS_PAYLOAD = 1 << 12;
        const _ = !0;
    }

    /// Flags of a request.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct CommandFlags: u16 {
        /// The write must be durable before the reply.
        const FUA = 1;
        /// WRITE_ZEROES: allocate, make no hole.
        const NO_HOLE = 1 << 1;
        /// READ: reply with one chunk of data.
        const DF = 1 << 2;
        /// BLOCK_STATUS: reply with one extent.
        const REQ_ONE = 1 << 3;
        /// WRITE_ZEROES: fail rather than write slowly.
        const FAST_ZERO = 1 << 4;
        /// Extended requests: a payload of the given length follows.
        const PAYLOAD_LEN = 1 << 5;
        const _ = !0;
    }

    /// Flags of a structured chunk.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct ChunkFlags: u16 {
        /// This is the last chunk of its reply.
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
