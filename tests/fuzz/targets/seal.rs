//! Checksums that fit: whoever makes a hostile volume can compute them, so mutations must not end at the first one.

use restorefs::block::WriteAt;

/// CRC-32C (Castagnoli), reflected, a byte at a time.
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let mut crc: u32 = n;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
            bit += 1;
        }
        table[n as usize] = crc;
        n += 1;
    }
    table
};

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (crc >> 8) ^ TABLE[usize::from(crc.to_le_bytes()[0] ^ byte)]
    })
}

/// Numbers of the sectors that `data` describes, in its own order.
pub(crate) fn sectors(data: &[u8]) -> impl Iterator<Item = u64> {
    data.chunks_exact(516)
        .filter_map(|record| record.first_chunk::<4>())
        .map(|number| u32::from_le_bytes(*number).into())
}

/// Stores at `field` of the `length` bytes at `at` the checksum of those from `from` on, the field taken as zero.
pub(crate) fn store(disk: &dyn WriteAt, at: u64, length: usize, field: usize, from: usize) {
    let mut bytes = vec![0; length];
    if field + 4 > length || from > length || disk.read_at(at, &mut bytes).is_err() {
        return;
    }
    bytes[field..field + 4].fill(0);
    let crc = crc32c(&bytes[from..]);
    let _ = disk.write_at(at + u64::try_from(field).unwrap_or(0), &crc.to_le_bytes());
}
