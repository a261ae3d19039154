//! The record log of a disk in a session: what a flush makes durable, and what a resume reads.
//!
//! # On-disk layout
//! `<disk>.map` is a sequence of frames, one for each flush; integers little-endian.
//!
//! | offset | bytes | field of a frame |
//! |---|---|---|
//! | 0 | 4 | magic `RFSR` |
//! | 4 | 4 | number of records |
//! | 8 | 8 | sequence number, from 0 |
//! | 16 | 4 | CRC-32 of bytes 0 to 16 and of the records |
//! | 20 | 4 | 0 |
//! | 24 | 24 n | records |
//!
//! A record: kind (u8), 3 zero bytes, count (u32), cluster (u64), value (u64).
//!
//! | kind | meaning |
//! |---|---|
//! | 1 data | `count` clusters from `cluster` on lie contiguously from host offset `value` |
//! | 2 compressed | `cluster` lies compressed at host offset `value`, `count` bytes |
//! | 3 zero | `count` clusters from `cluster` on are zero |
//! | 4 drop | `count` clusters from `cluster` on are the parent's again |
//! | 5 size | the disk has `cluster` bytes, its source `value` |
//! | 6 state | `value` 1: finished, 0: not |
//!
//! # Invariants
//! Later records win. The log ends at the first frame that is not whole; what follows is cut off.

use std::sync::Arc;

use crate::block::WriteAt;
use crate::error::Result;
use crate::layer::Change;
use crate::types::width::{u64_from_usize, usize_from_u32};

const MAGIC: &[u8; 4] = b"RFSR";
const HEAD_BYTES: usize = 24;
const RECORD_BYTES: usize = 24;
/// LIMIT: records in a frame; a longer flush writes several frames.
const FRAME_RECORDS_MAX: usize = 1 << 20;

/// One change of a session's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record {
    Data {
        cluster: u64,
        count: u32,
        host: u64,
    },
    Compressed {
        cluster: u64,
        host: u64,
        length_bytes: u32,
    },
    Zero {
        cluster: u64,
        count: u32,
    },
    Drop {
        cluster: u64,
        count: u32,
    },
    Size {
        size_bytes: u64,
        source_bytes: u64,
    },
    State {
        finished: bool,
    },
}

impl From<Change> for Record {
    fn from(change: Change) -> Self {
        match change {
            Change::Data {
                cluster,
                count,
                host,
            } => Self::Data {
                cluster: cluster.0,
                count,
                host: host.0,
            },
            Change::Compressed {
                cluster,
                host,
                length_bytes,
            } => Self::Compressed {
                cluster: cluster.0,
                host: host.0,
                length_bytes,
            },
            Change::Zero { cluster } => Self::Zero {
                cluster: cluster.0,
                count: 1,
            },
            Change::Drop { cluster } => Self::Drop {
                cluster: cluster.0,
                count: 1,
            },
        }
    }
}

impl Record {
    fn encode(self, out: &mut Vec<u8>) {
        let (kind, count, cluster, value) = match self {
            Self::Data {
                cluster,
                count,
                host,
            } => (1u8, count, cluster, host),
            Self::Compressed {
                cluster,
                host,
                length_bytes,
            } => (2, length_bytes, cluster, host),
            Self::Zero { cluster, count } => (3, count, cluster, 0),
            Self::Drop { cluster, count } => (4, count, cluster, 0),
            Self::Size {
                size_bytes,
                source_bytes,
            } => (5, 0, size_bytes, source_bytes),
            Self::State { finished } => (6, 0, 0, u64::from(finished)),
        };
        out.extend_from_slice(&[kind, 0, 0, 0]);
        out.extend_from_slice(&count.to_le_bytes());
        out.extend_from_slice(&cluster.to_le_bytes());
        out.extend_from_slice(&value.to_le_bytes());
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let kind = *bytes.first()?;
        let count = u32::from_le_bytes(*bytes.get(4..)?.first_chunk()?);
        let cluster = u64::from_le_bytes(*bytes.get(8..)?.first_chunk()?);
        let value = u64::from_le_bytes(*bytes.get(16..)?.first_chunk()?);
        Some(match kind {
            1 => Self::Data {
                cluster,
                count,
                host: value,
            },
            2 => Self::Compressed {
                cluster,
                host: value,
                length_bytes: count,
            },
            3 => Self::Zero { cluster, count },
            4 => Self::Drop { cluster, count },
            5 => Self::Size {
                size_bytes: cluster,
                source_bytes: value,
            },
            6 => Self::State {
                finished: value != 0,
            },
            _ => return None,
        })
    }

    /// `self` and `next` as one record, when `next` continues `self`.
    fn joined(self, next: Self) -> Option<Self> {
        match (self, next) {
            (
                Self::Data {
                    cluster,
                    count,
                    host,
                },
                Self::Data {
                    cluster: c,
                    count: n,
                    host: h,
                },
            ) if cluster + u64::from(count) == c && host + u64::from(count) * 65_536 == h => {
                Some(Self::Data {
                    cluster,
                    count: count.checked_add(n)?,
                    host,
                })
            }
            (
                Self::Zero { cluster, count },
                Self::Zero {
                    cluster: c,
                    count: n,
                },
            ) if cluster + u64::from(count) == c => Some(Self::Zero {
                cluster,
                count: count.checked_add(n)?,
            }),
            (
                Self::Drop { cluster, count },
                Self::Drop {
                    cluster: c,
                    count: n,
                },
            ) if cluster + u64::from(count) == c => Some(Self::Drop {
                cluster,
                count: count.checked_add(n)?,
            }),
            (Self::Size { .. }, Self::Size { .. }) => Some(next),
            _ => None,
        }
    }
}

/// Records gathered since the last flush; adjacent records are joined.
#[derive(Debug, Default)]
pub(super) struct Pending(Vec<Record>);

impl Pending {
    pub(super) fn push(&mut self, record: Record) {
        if let Some(last) = self.0.last_mut()
            && let Some(joined) = last.joined(record)
        {
            *last = joined;
            return;
        }
        self.0.push(record);
    }

    /// Removes the record that was pushed last.
    pub(super) fn pop(&mut self) {
        self.0.pop();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Puts records that could not be made durable back before the later ones.
    pub(super) fn put_back(&mut self, mut earlier: Self) {
        earlier.0.append(&mut self.0);
        *self = earlier;
    }
}

/// An open log.
pub(super) struct RecordLog {
    file: Arc<dyn WriteAt>,
    end: u64,
    sequence: u64,
}

impl RecordLog {
    /// Creates a log in an empty file.
    pub(super) const fn create(file: Arc<dyn WriteAt>) -> Self {
        Self {
            file,
            end: 0,
            sequence: 0,
        }
    }

    /// Reads a log, cuts off an incomplete end, and gives each record to `apply`.
    pub(super) fn resume(
        file: Arc<dyn WriteAt>,
        mut apply: impl FnMut(Record) -> Result<()>,
    ) -> Result<Self> {
        let mut log = Self {
            file,
            end: 0,
            sequence: 0,
        };
        while let Some(records) = log.load_frame()? {
            for bytes in records.chunks_exact(RECORD_BYTES) {
                if let Some(record) = Record::parse(bytes) {
                    apply(record)?;
                }
            }
            log.end += u64_from_usize(HEAD_BYTES + records.len());
            log.sequence += 1;
        }
        if log.file.size_bytes() > log.end {
            tracing::warn!(
                cut_bytes = log.file.size_bytes() - log.end,
                "the end of a session's log is not whole and is cut off"
            );
            log.file.set_size(log.end)?;
        }
        Ok(log)
    }

    fn load_frame(&self) -> Result<Option<Vec<u8>>> {
        let rest = self.file.size_bytes().saturating_sub(self.end);
        if rest < u64_from_usize(HEAD_BYTES) {
            return Ok(None);
        }
        let mut head = [0; HEAD_BYTES];
        self.file.read_at(self.end, &mut head)?;
        let (covered, tail) = head.split_at(16);
        let [a, b, c, d, ..] = *tail else {
            return Ok(None);
        };
        let crc = u32::from_le_bytes([a, b, c, d]);
        let count = covered
            .get(4..)
            .and_then(|b| b.first_chunk())
            .map_or(0, |b| u32::from_le_bytes(*b));
        let sequence = covered
            .get(8..)
            .and_then(|b| b.first_chunk())
            .map_or(0, |b| u64::from_le_bytes(*b));
        let length = usize_from_u32(count) * RECORD_BYTES;
        let fits = u64_from_usize(HEAD_BYTES + length) <= rest;
        if covered.get(..4) != Some(MAGIC.as_slice())
            || sequence != self.sequence
            || !fits
            || usize_from_u32(count) > FRAME_RECORDS_MAX
        {
            return Ok(None);
        }
        let mut records = vec![0; length];
        self.file
            .read_at(self.end + u64_from_usize(HEAD_BYTES), &mut records)?;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(covered);
        hasher.update(&records);
        Ok((hasher.finalize() == crc).then_some(records))
    }

    /// Appends records and makes them durable. After a failure the log is as before.
    pub(super) fn append(&mut self, pending: &Pending) -> Result<()> {
        let (mut end, mut sequence) = (self.end, self.sequence);
        for records in pending.0.chunks(FRAME_RECORDS_MAX) {
            let mut frame = Vec::with_capacity(HEAD_BYTES + records.len() * RECORD_BYTES);
            frame.extend_from_slice(MAGIC);
            frame.extend_from_slice(
                &u32::try_from(records.len())
                    .unwrap_or(u32::MAX)
                    .to_le_bytes(),
            );
            frame.extend_from_slice(&sequence.to_le_bytes());
            let mut body = Vec::with_capacity(records.len() * RECORD_BYTES);
            for record in records {
                record.encode(&mut body);
            }
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(&frame);
            hasher.update(&body);
            frame.extend_from_slice(&hasher.finalize().to_le_bytes());
            frame.extend_from_slice(&[0; 4]);
            frame.extend_from_slice(&body);
            self.file.write_at(end, &frame)?;
            end += u64_from_usize(frame.len());
            sequence += 1;
        }
        self.file.flush()?;
        (self.end, self.sequence) = (end, sequence);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Pending, Record, RecordLog};
    use crate::block::WriteAt;
    use crate::block::memory::MemoryDisk;

    fn read(file: &Arc<dyn WriteAt>) -> Vec<Record> {
        let mut found = Vec::new();
        RecordLog::resume(Arc::clone(file), |record| {
            found.push(record);
            Ok(())
        })
        .unwrap();
        found
    }

    #[test]
    fn neighbours_join_and_frames_round_trip() {
        let file: Arc<dyn WriteAt> = Arc::new(MemoryDisk::new());
        let mut log = RecordLog::create(Arc::clone(&file));
        let mut pending = Pending::default();
        pending.push(Record::Data {
            cluster: 4,
            count: 1,
            host: 65_536,
        });
        pending.push(Record::Data {
            cluster: 5,
            count: 2,
            host: 131_072,
        });
        pending.push(Record::Zero {
            cluster: 9,
            count: 1,
        });
        log.append(&pending).unwrap();
        let mut second = Pending::default();
        for record in [
            Record::Compressed {
                cluster: 1,
                host: 99,
                length_bytes: 7,
            },
            Record::Drop {
                cluster: 2,
                count: 1,
            },
            Record::Size {
                size_bytes: 1024,
                source_bytes: 1000,
            },
            Record::State { finished: true },
        ] {
            second.push(record);
        }
        log.append(&second).unwrap();
        let found = read(&file);
        assert_eq!(found.len(), 6);
        assert_eq!(
            found[0],
            Record::Data {
                cluster: 4,
                count: 3,
                host: 65_536
            }
        );
        assert_eq!(found[5], Record::State { finished: true });
    }

    #[test]
    fn a_torn_or_damaged_end_is_cut_off_and_the_log_goes_on() {
        for damage in 0..48u64 {
            let file: Arc<dyn WriteAt> = Arc::new(MemoryDisk::new());
            let mut log = RecordLog::create(Arc::clone(&file));
            let mut pending = Pending::default();
            pending.push(Record::Zero {
                cluster: 1,
                count: 1,
            });
            log.append(&pending).unwrap();
            log.append(&pending).unwrap();
            if damage % 2 == 0 {
                file.set_size(48 + damage).unwrap();
            } else {
                // Bytes 20 to 24 are padding that no checksum covers.
                let at = if (20..24).contains(&damage) {
                    0
                } else {
                    damage
                };
                let mut byte = [0];
                file.read_at(48 + at, &mut byte).unwrap();
                file.write_at(48 + at, &[byte[0] ^ 1]).unwrap();
            }
            assert_eq!(read(&file).len(), 1, "{damage}");
            assert_eq!(file.size_bytes(), 48);
            let mut log = RecordLog::resume(Arc::clone(&file), |_| Ok(())).unwrap();
            log.append(&pending).unwrap();
            assert_eq!(read(&file).len(), 2);
        }
    }
}
