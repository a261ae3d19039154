//! Writes zip archives: Unix modes, symlinks, times in UTC; zip64 where needed; no seeking.
//!
//! # Invariants
//! - Names are UTF-8 without backslashes, which Windows treats as slashes: other bytes are written as `%XX`,
//!   with a note.
//!
//! # Why
//! Programs do not agree on a place for device nodes, owners, ACLs and attributes in a zip. Holes are written
//! as zeroes; deflate compresses them well.

use std::cell::Cell;
use std::io::Write;
use std::rc::Rc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use zip::write::{FileOptions, FullFileOptions, StreamWriter};
use zip::{CompressionMethod, DateTime, System, ZipWriter};

use super::entry::{Entry, Kind, Pen};
use super::note::Notes;
use super::out::{Out, failed};
use crate::error::{Error, ErrorKind, Result};
use crate::guest::fs::Time;
use crate::types::width::{u64_from_usize, usize_from_u64};

/// Files from this size on get zip64 headers: deflate may enlarge incompressible data a little.
const LARGE_MIN_BYTES: u64 = 0xf000_0000;
/// Info-ZIP's extended timestamp.
const TIMESTAMP_FIELD: u16 = 0x5455;
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

type Stream<'a> = ZipWriter<StreamWriter<Gate<'a>>>;

/// Blocks all output once the archive is broken: the crate's writer would otherwise finish it as if it were
/// whole when it is dropped.
struct Gate<'a> {
    out: Out<'a>,
    broken: Rc<Cell<bool>>,
}

impl Write for Gate<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.broken.get() {
            return Ok(bytes.len());
        }
        self.out.write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        if self.broken.get() {
            return Ok(());
        }
        self.out.flush()
    }
}

/// A zip that is being written.
pub(super) struct Zip<'a> {
    /// `None` after the end.
    writer: Option<Stream<'a>>,
    /// Set when the archive is dropped without its end.
    broken: Rc<Cell<bool>>,
    /// Bytes written of the current file, and its size.
    at: u64,
    size_bytes: u64,
}

impl<'a> Zip<'a> {
    pub(super) fn new(out: Out<'a>) -> Self {
        let broken = Rc::new(Cell::new(false));
        let gate = Gate {
            out,
            broken: Rc::clone(&broken),
        };
        Self {
            writer: Some(ZipWriter::new_stream(gate)),
            broken,
            at: 0,
            size_bytes: 0,
        }
    }

    fn writer(&mut self) -> Result<&mut Stream<'a>> {
        self.writer
            .as_mut()
            .ok_or_else(|| Error::invalid("the zip has its end already"))
    }

    fn zeroes(&mut self, to: u64) -> Result<()> {
        while self.at < to {
            let length = (to - self.at).min(u64_from_usize(ZEROES.len()));
            let zeroes = ZEROES.get(..usize_from_u64(length)).unwrap_or(&ZEROES);
            self.writer()?.write_all(zeroes).map_err(failed)?;
            self.at += length;
        }
        Ok(())
    }
}

impl Pen for Zip<'_> {
    fn begin(&mut self, entry: &Entry<'_>, notes: &Notes) -> Result<bool> {
        let (type_bits, size_bytes) = match entry.kind {
            Kind::Directory => (0o040_000, 0),
            Kind::File(map) => (0o100_000, map.size_bytes),
            Kind::Symlink(_) => (0o120_000, 0),
            Kind::HardLink(_) | Kind::CharDevice(..) | Kind::BlockDevice(..) | Kind::Fifo => {
                notes.leave(entry.path, "a device node or FIFO, which no zip holds");
                return Ok(false);
            }
        };
        // The header has 16 bits for the length.
        if entry.path.len() > usize::from(u16::MAX) / 4 {
            notes.fail(entry.path, "a path that is too long for a zip");
            return Ok(false);
        }
        let name = escape(entry.path);
        if name.as_bytes() != entry.path {
            notes.change(entry.path, format!("in the zip it is named {name}"));
        }
        let mode = type_bits | u32::from(entry.attributes.mode & 0o7777);
        let mut options: FullFileOptions<'_, '_> = FileOptions::default()
            // Small files too: a reader of a stream cannot see where stored bytes end.
            .compression_method(CompressionMethod::Deflated)
            .system(System::Unix)
            .external_attributes(mode << 16 | u32::from(type_bits == 0o040_000) << 4)
            .large_file(size_bytes >= LARGE_MIN_BYTES)
            .last_modified_time(dos(entry.attributes.mtime));
        if let Ok(seconds) = i32::try_from(entry.attributes.mtime.seconds) {
            let mut field = vec![1];
            field.extend_from_slice(&seconds.to_le_bytes());
            options
                .add_extra_field(TIMESTAMP_FIELD, &field, false)
                .map_err(wrong)?;
        }
        if matches!(entry.kind, Kind::Directory) {
            self.writer()?.add_directory(name, options).map_err(wrong)?;
            return Ok(true);
        }
        self.writer()?.start_file(name, options).map_err(wrong)?;
        (self.at, self.size_bytes) = (0, size_bytes);
        if let Kind::Symlink(target) = entry.kind {
            self.writer()?.write_all(target).map_err(failed)?;
        }
        Ok(true)
    }

    fn data(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        self.zeroes(at)?;
        self.writer()?.write_all(bytes).map_err(failed)?;
        self.at += u64_from_usize(bytes.len());
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        self.zeroes(self.size_bytes)
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        let Some(writer) = self.writer.take() else {
            return Ok(());
        };
        let stream = writer.finish().map_err(wrong)?;
        stream.into_inner().out.finish()
    }
}

impl Drop for Zip<'_> {
    fn drop(&mut self) {
        self.broken.set(true);
    }
}

fn wrong(error: zip::result::ZipError) -> Error {
    match error {
        zip::result::ZipError::Io(error) => failed(error),
        error => Error::new(ErrorKind::Io, "cannot write the zip").caused_by(error),
    }
}

/// A path as UTF-8 without backslashes; different paths stay different.
fn escape(path: &[u8]) -> String {
    let mut name = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        let valid = chunk.valid();
        for (at, letter) in valid.char_indices() {
            let after = valid.as_bytes().get(at + 1..at + 3);
            // Text that looks like an escaped byte is escaped itself, so that it stays unambiguous.
            let looks =
                letter == '%' && after.is_some_and(|pair| pair.iter().all(u8::is_ascii_hexdigit));
            if letter == '\\' || looks {
                name.push_str(&format!("%{:02X}", u32::from(letter)));
            } else {
                name.push(letter);
            }
        }
        for byte in chunk.invalid() {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
    name
}

/// The time for the old field, in UTC; times outside its range become its first day.
fn dos(time: Time) -> DateTime {
    let Ok(at) = Timestamp::new(time.seconds, 0) else {
        return DateTime::default();
    };
    let at = TimeZone::UTC.to_datetime(at);
    let unsigned = |n: i8| u8::try_from(n).unwrap_or(0);
    u16::try_from(at.year())
        .ok()
        .and_then(|year| {
            DateTime::from_date_and_time(
                year,
                unsigned(at.month()),
                unsigned(at.day()),
                unsigned(at.hour()),
                unsigned(at.minute()),
                unsigned(at.second()),
            )
            .ok()
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{dos, escape};
    use crate::guest::fs::Time;

    #[test]
    fn names_are_utf8_and_stay_different() {
        assert_eq!(escape("a/ä b".as_bytes()), "a/ä b");
        assert_eq!(escape(b"a\xff\\b"), "a%FF%5Cb");
        assert_eq!(escape(b"100% a%FFb"), "100% a%25FFb");
        assert_ne!(escape(b"a\xff"), escape(b"a%FF"));
        assert_eq!(escape(b"..\\..\\x"), "..%5C..%5Cx");
    }

    #[test]
    fn times_that_dos_does_not_know_are_its_first() {
        let year = |seconds| {
            dos(Time {
                seconds,
                nanoseconds: 0,
            })
            .year()
        };
        assert_eq!(year(1_700_000_000), 2023);
        for seconds in [-1, 0, i64::MIN, i64::MAX, 10_000_000_000] {
            assert_eq!(year(seconds), 1980);
        }
    }
}
