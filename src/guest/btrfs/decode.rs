//! Decoding of compressed extents.

use std::io::Read;

use fs_btrfs::compression::{self, Compression, ShortDecode};

use super::failure::{guard, translate};
use crate::error::{Error, ErrorKind, Result};
use crate::types::width::usize_from_u64;

/// LIMIT: bytes of a compressed extent, on the volume and decoded (Linux: `BTRFS_MAX_COMPRESSED`, `BTRFS_MAX_UNCOMPRESSED`).
pub(super) const PACKED_BYTES_MAX: u64 = 128 << 10;
/// LIMIT: log2 of the window of a zstd frame (Linux: `ZSTD_BTRFS_MAX_WINDOWLOG`).
const ZSTD_WINDOW_LOG: u32 = 17;

/// Decodes an extent of `method` to `length` bytes. A whole extent that decodes to less is padded with
/// zeroes: it was the last one of its file when it was written, and the file has grown since.
///
/// # Errors
/// `Corrupt`.
pub(super) fn decode(method: u8, packed: &[u8], length: u64, sector: u64) -> Result<Vec<u8>> {
    let bad = |why: String| Error::new(ErrorKind::Corrupt, format!("btrfs: {why}"));
    if length > PACKED_BYTES_MAX {
        return Err(bad(format!("a compressed extent of {length} bytes")));
    }
    let mut out = Vec::with_capacity(usize_from_u64(length));
    let read = match method {
        1 => flate2::read::ZlibDecoder::new(packed)
            .take(length)
            .read_to_end(&mut out),
        2 => {
            let (length, sector) = (usize_from_u64(length), usize_from_u64(sector));
            let (kind, short) = (Compression::Lzo, ShortDecode::Pad);
            return guard(|| {
                compression::decompress(kind, packed, length, sector, short).map_err(translate)
            });
        }
        _ => zstd::stream::read::Decoder::with_buffer(packed).and_then(|decoder| {
            let mut decoder = decoder.single_frame();
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            decoder.take(length).read_to_end(&mut out)
        }),
    };
    read.map_err(|error| bad(format!("a compressed extent cannot be decoded: {error}")))?;
    out.resize(usize_from_u64(length), 0);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::decode;
    use crate::error::ErrorKind;
    use std::io::Write;

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    }

    #[test]
    fn extents_decode_to_their_length() {
        let bytes = b"abcdefgh".repeat(1000);
        let zstd = zstd::bulk::compress(&bytes, 3).unwrap();
        for (method, mut packed) in [(1, zlib(&bytes)), (3, zstd)] {
            // Sectors are padded with zeroes behind the end.
            packed.resize(4096, 0);
            assert!(decode(method, &packed, 8000, 4096).unwrap() == bytes);
            let longer = decode(method, &packed, 8192, 4096).unwrap();
            assert!(longer.starts_with(&bytes) && longer.ends_with(&[0; 192]));
            // Truncated input is damage.
            for bad in [packed.get(..20).unwrap(), b"nonsense"] {
                let error = decode(method, bad, 8192, 4096).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt);
            }
        }
        let error = decode(1, &zlib(&bytes), 1 << 40, 4096).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}
