//! Compressed clusters: raw deflate with a 4 KiB window, and Zstandard.
//!
//! # Invariants
//! Decompression yields exactly the requested bytes or fails; sizes in the data never determine an
//! allocation. Bytes between the end of the compressed data and the end of the sector are ignored, as in
//! QEMU.
//!
//! # Concurrency
//! Contexts and buffers are kept per thread and taken out while in use, so that an image inside an image can
//! be decompressed on the same thread.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::cell::Cell;

use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe;

use super::header::CompressionType;
use crate::error::{Error, ErrorKind, Result, ResultExt};

/// QEMU inflates with `windowBits` -12 (`block/qcow2-threads.c`), so streams must not reach back further.
const WINDOW_BITS: u8 = 12;

/// LIMIT: capacity of the buffer that a thread keeps between two clusters.
const KEPT_BYTES_MAX: usize = 256 << 10;

/// Level of both methods: QEMU's zstd uses the same, and zlib's default would be too slow for ingest.
const ZSTD_LEVEL: i32 = 3;
const ZLIB_LEVEL: u32 = 3;

/// The contexts and buffers of a thread; each is made at its first use.
#[derive(Default)]
pub(super) struct Scratch {
    /// Buffer for the compressed bytes.
    pub(super) buffer: Vec<u8>,
    inflate: Option<Decompress>,
    deflate: Option<Compress>,
    unzstd: Option<Decompressor<'static>>,
    zstd: Option<Compressor<'static>>,
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// Runs `f` with this thread's scratch.
pub(super) fn with_scratch<R>(f: impl FnOnce(&mut Scratch) -> R) -> R {
    let mut scratch = SCRATCH.take().unwrap_or_default();
    let result = f(&mut scratch);
    scratch.buffer.clear();
    scratch.buffer.shrink_to(KEPT_BYTES_MAX);
    SCRATCH.set(Some(scratch));
    result
}

/// Decompresses `input` into all of `out`, with the given contexts; returns how many bytes of `input` that took.
pub(super) fn decompress(
    kind: CompressionType,
    contexts: Contexts<'_>,
    input: &[u8],
    out: &mut [u8],
) -> Result<usize> {
    match kind {
        CompressionType::Zlib => contexts.inflate(input, out),
        CompressionType::Zstd => contexts.unzstd(input, out),
    }
}

/// The decompression contexts of a scratch, apart from its buffer.
pub(super) struct Contexts<'a> {
    inflate: &'a mut Option<Decompress>,
    unzstd: &'a mut Option<Decompressor<'static>>,
}

impl Scratch {
    /// The buffer and the contexts, for use at the same time.
    pub(super) fn split(&mut self) -> (&mut Vec<u8>, Contexts<'_>) {
        (
            &mut self.buffer,
            Contexts {
                inflate: &mut self.inflate,
                unzstd: &mut self.unzstd,
            },
        )
    }
}

fn damaged(why: &'static str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("a compressed cluster is damaged: {why}"),
    )
}

impl Contexts<'_> {
    fn inflate(self, input: &[u8], out: &mut [u8]) -> Result<usize> {
        let context = match self.inflate {
            Some(context) => {
                context.reset(false);
                context
            }
            None => self
                .inflate
                .insert(Decompress::new_with_window_bits(false, WINDOW_BITS)),
        };
        let length = out.len();
        let status = context
            .decompress(input, out, FlushDecompress::Finish)
            .map_err(|e| damaged("it does not inflate").caused_by(e))?;
        let is_whole = usize::try_from(context.total_out()) == Ok(length);
        // As in QEMU, a stream may continue beyond the cluster (BufError), but must fill it.
        match status {
            Status::StreamEnd if is_whole => {
                Ok(usize::try_from(context.total_in()).unwrap_or(input.len()))
            }
            Status::BufError | Status::Ok if is_whole => Ok(input.len()),
            _ => Err(damaged("it inflates to less than a cluster")),
        }
    }

    fn unzstd(self, mut input: &[u8], out: &mut [u8]) -> Result<usize> {
        let context = match self.unzstd {
            Some(context) => context,
            None => self
                .unzstd
                .insert(Decompressor::new().or_io("cannot start zstd")?),
        };
        let whole = input.len();
        let mut filled = 0_usize;
        while filled < out.len() {
            let rest = out.get_mut(filled..).unwrap_or_default();
            let frame_bytes = zstd_safe::find_frame_compressed_size(input)
                .map_err(|code| damaged(zstd_safe::get_error_name(code)))?;
            let frame = input
                .get(..frame_bytes)
                .ok_or_else(|| damaged("a zstd frame passes its end"))?;
            let got = context
                .decompress_to_buffer(frame, rest)
                .map_err(|e| damaged("it is no zstd frame of one cluster").caused_by(e))?;
            input = input.get(frame_bytes..).unwrap_or_default();
            filled = filled.saturating_add(got);
        }
        Ok(whole.saturating_sub(input.len()))
    }
}

/// Compresses one cluster; `None` when that saves less than a sector.
#[must_use]
pub fn compress(kind: CompressionType, cluster: &[u8]) -> Option<Vec<u8>> {
    // Space is counted in sectors: the result must save at least one.
    let bytes_max = cluster.len().checked_sub(512).filter(|n| *n > 0)?;
    let mut out = vec![0; bytes_max];
    let length = with_scratch(|scratch| match kind {
        CompressionType::Zlib => deflate(&mut scratch.deflate, cluster, &mut out),
        CompressionType::Zstd => {
            let context = match &mut scratch.zstd {
                Some(context) => context,
                None => scratch.zstd.insert(Compressor::new(ZSTD_LEVEL).ok()?),
            };
            context.compress_to_buffer(cluster, &mut out).ok()
        }
    })?;
    out.truncate(length);
    out.shrink_to_fit();
    Some(out)
}

fn deflate(context: &mut Option<Compress>, cluster: &[u8], out: &mut [u8]) -> Option<usize> {
    let context = match context {
        Some(context) => {
            context.reset();
            context
        }
        None => context.insert(Compress::new_with_window_bits(
            flate2::Compression::new(ZLIB_LEVEL),
            false,
            WINDOW_BITS,
        )),
    };
    match context.compress(cluster, out, FlushCompress::Finish) {
        Ok(Status::StreamEnd) => usize::try_from(context.total_out()).ok(),
        _ => None,
    }
}

#[cfg(test)]
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "tests know their bytes"
)]
mod tests {
    use super::{CompressionType, compress, decompress, with_scratch};
    use crate::error::ErrorKind;

    fn sample() -> Vec<u8> {
        (0..65_536_u32)
            .map(|i| u8::try_from((i * i / 97) % 31).unwrap())
            .collect()
    }

    #[test]
    fn round_trips_and_ignores_what_follows() {
        for kind in [CompressionType::Zlib, CompressionType::Zstd] {
            for _ in 0..2 {
                let mut packed = compress(kind, &sample()).unwrap();
                let length = packed.len();
                packed.extend_from_slice(&[0xaa; 300]);
                let mut out = vec![0; 65_536];
                let taken =
                    with_scratch(|s| decompress(kind, s.split().1, &packed, &mut out)).unwrap();
                assert!(out == sample());
                assert_eq!(taken, length);
            }
        }
    }

    #[test]
    fn what_does_not_shrink_is_not_compressed() {
        let mut noise = vec![0_u8; 65_536];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        for kind in [CompressionType::Zlib, CompressionType::Zstd] {
            assert!(compress(kind, &noise).is_none());
        }
    }

    #[test]
    fn damage_is_corrupt() {
        for kind in [CompressionType::Zlib, CompressionType::Zstd] {
            let packed = compress(kind, &sample()).unwrap();
            let mut out = vec![0; 65_536];
            for cut in [0, 1, packed.len() / 2] {
                let short = &packed[..cut];
                let error =
                    with_scratch(|s| decompress(kind, s.split().1, short, &mut out)).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt);
            }
            // When the stream holds more than the requested cluster, zstd refuses it and zlib truncates it,
            // as in QEMU.
            let mut long = vec![0; 131_072];
            let error =
                with_scratch(|s| decompress(kind, s.split().1, &packed, &mut long)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }
}
