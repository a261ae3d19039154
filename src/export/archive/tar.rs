//! Writes tar archives: ustar headers, and PAX records for values that do not fit into them.
//!
//! # On-disk layout
//! POSIX.1-2001 pax. Sparse files are GNU's "PAX 1.0": the name is `GNU.sparse.name`, the data begins with a map in decimal
//! (count, then offset and length of each segment, one a line, padded to a block), and the segments follow, each in whole blocks.
//!
//! # Why
//! The crate's builder splits paths, and supports neither sparse maps nor times before 1970. So this module
//! uses only its header type.

use std::io::Write;

use tar::{EntryType, Header};

use super::acl;
use super::entry::{Entry, Kind, Pen};
use super::map::Map;
use super::note::Notes;
use super::out::Out;
use super::pax::{self, Records};
use crate::error::{Error, Result, ResultExt};
use crate::guest::fs::Xattr;
use crate::types::width::u64_from_usize;

const BLOCK_BYTES: u64 = 512;
const ZEROES: [u8; 1024] = [0; 1024];
/// LIMIT: bytes of a name or link in the header.
const NAME_MAX: usize = 100;
/// LIMIT: numbers of 7 octal digits: owners, device numbers.
const SHORT_MAX: u32 = 0o777_7777;
/// LIMIT: numbers of 11 octal digits: sizes, times.
const LONG_MAX: u64 = 0o777_7777_7777;

/// A tar that is being written.
pub(super) struct Tar<'a> {
    out: Out<'a>,
    /// Missing bytes of the current entry, and the padding behind its last block.
    left: u64,
    padding: u64,
}

impl<'a> Tar<'a> {
    pub(super) const fn new(out: Out<'a>) -> Self {
        Self {
            out,
            left: 0,
            padding: 0,
        }
    }

    fn pad(&mut self, bytes: u64) -> Result<()> {
        let zeroes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.out.put(ZEROES.get(..zeroes).unwrap_or(&ZEROES))
    }
}

impl Pen for Tar<'_> {
    fn begin(&mut self, entry: &Entry<'_>, notes: &Notes) -> Result<bool> {
        let Some(device) = device(entry.kind) else {
            notes.fail(entry.path, "a device number that no tar can hold");
            return Ok(false);
        };
        let mut records = Records::default();
        let map = match entry.kind {
            Kind::File(map) if !map.is_dense() => Some((map, map_text(map))),
            _ => None,
        };
        let mut header = Header::new_ustar();
        header.set_entry_type(entry_type(entry.kind));
        name(entry, map.is_some(), &mut header, &mut records);
        let size = match (&map, entry.kind) {
            (Some((map, text)), _) => {
                records.number("GNU.sparse.realsize", map.size_bytes);
                u64_from_usize(text.len()).saturating_add(map.data_bytes())
            }
            (None, Kind::File(map)) => map.size_bytes,
            _ => 0,
        };
        if size > LONG_MAX {
            records.number("size", size);
        }
        header.set_size(if size > LONG_MAX { 0 } else { size });
        attributes(entry, &mut header, &mut records);
        header
            .set_device_major(device.0)
            .and_then(|()| header.set_device_minor(device.1))
            .or_io("cannot write the archive")?;
        if !matches!(entry.kind, Kind::HardLink(_)) {
            xattrs(entry.path, entry.xattrs, notes, &mut records);
        }
        header.set_cksum();
        self.records(entry.path, &records)?;
        self.out.put(header.as_bytes())?;
        if let Some((_, text)) = &map {
            self.out.put(text)?;
        }
        self.left = match entry.kind {
            Kind::File(map) => map.data_bytes(),
            _ => 0,
        };
        self.padding = size.wrapping_neg() % BLOCK_BYTES;
        Ok(true)
    }

    fn data(&mut self, _: u64, bytes: &[u8]) -> Result<()> {
        self.left = self
            .left
            .checked_sub(u64_from_usize(bytes.len()))
            .ok_or_else(|| Error::invalid("more bytes than the header says"))?;
        self.out.put(bytes)
    }

    fn end(&mut self) -> Result<()> {
        if self.left > 0 {
            return Err(Error::invalid("fewer bytes than the header says"));
        }
        self.pad(self.padding)
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.out.put(&ZEROES)?;
        self.out.finish()
    }
}

impl Tar<'_> {
    /// Writes the records as an entry of their own, before the entry that they describe.
    fn records(&mut self, path: &[u8], records: &Records) -> Result<()> {
        let bytes = records.bytes();
        if bytes.is_empty() {
            return Ok(());
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        let name = [b"PaxHeaders/", last].concat();
        fill(&mut header.as_old_mut().name, &name);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let size = u64_from_usize(bytes.len());
        header.set_size(size);
        header.set_cksum();
        self.out.put(header.as_bytes())?;
        self.out.put(bytes)?;
        self.pad(size.wrapping_neg() % BLOCK_BYTES)
    }
}

/// Copies as many bytes as fit.
fn fill(field: &mut [u8], bytes: &[u8]) {
    for (to, from) in field.iter_mut().zip(bytes) {
        *to = *from;
    }
}

/// Puts a name into its field, and also into a record where the field does not suffice.
fn text(field: &mut [u8], bytes: &[u8], key: &str, records: &mut Records) {
    fill(field, bytes);
    // Records are UTF-8: other bytes go into a record only when the field cannot hold them.
    let other = !bytes.is_ascii() && std::str::from_utf8(bytes).is_ok();
    if bytes.len() > NAME_MAX || other {
        records.path(key, bytes);
    }
}

fn name(entry: &Entry<'_>, sparse: bool, header: &mut Header, records: &mut Records) {
    let mut path = entry.path.to_vec();
    if matches!(entry.kind, Kind::Directory) {
        path.push(b'/');
    }
    let fields = header.as_old_mut();
    if sparse {
        // A reader without support for sparse files finds the map under this name, instead of half a file
        // under the right one.
        let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or(&path);
        fill(&mut fields.name, &[b"GNUSparseFile.0/", last].concat());
        records.number("GNU.sparse.major", 1);
        records.number("GNU.sparse.minor", 0);
        records.path("GNU.sparse.name", &path);
    } else {
        text(&mut fields.name, &path, "path", records);
    }
    if let Kind::Symlink(target) | Kind::HardLink(target) = entry.kind {
        text(&mut fields.linkname, target, "linkpath", records);
    }
}

fn attributes(entry: &Entry<'_>, header: &mut Header, records: &mut Records) {
    let attributes = entry.attributes;
    header.set_mode(u32::from(attributes.mode & 0o7777));
    for (key, id) in [("uid", attributes.uid), ("gid", attributes.gid)] {
        if id > SHORT_MAX {
            records.number(key, u64::from(id));
        }
    }
    header.set_uid(u64::from(attributes.uid.min(SHORT_MAX)));
    header.set_gid(u64::from(attributes.gid.min(SHORT_MAX)));
    let seconds = u64::try_from(attributes.mtime.seconds).unwrap_or(0);
    header.set_mtime(seconds.min(LONG_MAX));
    records.time("mtime", attributes.mtime);
    records.time("atime", attributes.atime);
    records.time("ctime", attributes.ctime);
}

fn xattrs(path: &[u8], xattrs: &[Xattr], notes: &Notes, records: &mut Records) {
    for xattr in xattrs {
        let acl_key: &[u8] = match xattr.name.as_slice() {
            b"system.posix_acl_access" => b"SCHILY.acl.access",
            b"system.posix_acl_default" => b"SCHILY.acl.default",
            name if name.is_empty() || name.iter().any(|b| matches!(b, 0 | b'\n')) => {
                notes.fail(path, "an extended attribute whose name no tar can hold");
                continue;
            }
            name => {
                records.add(&pax::key(name), &xattr.value);
                continue;
            }
        };
        match acl::text(&xattr.value) {
            Ok(text) => records.add(acl_key, text.as_bytes()),
            Err(error) => notes.fail(path, format!("its ACL: {}", error.report())),
        }
    }
}

const fn entry_type(kind: Kind<'_>) -> EntryType {
    match kind {
        Kind::Directory => EntryType::Directory,
        Kind::File(_) => EntryType::Regular,
        Kind::Symlink(_) => EntryType::Symlink,
        Kind::HardLink(_) => EntryType::Link,
        Kind::CharDevice(..) => EntryType::Char,
        Kind::BlockDevice(..) => EntryType::Block,
        Kind::Fifo => EntryType::Fifo,
    }
}

/// Major and minor number; `None` when they do not fit.
fn device(kind: Kind<'_>) -> Option<(u32, u32)> {
    match kind {
        Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) => {
            (major <= SHORT_MAX && minor <= SHORT_MAX).then_some((major, minor))
        }
        _ => Some((0, 0)),
    }
}

/// The map at the head of a sparse file's data. A hole at the end is an empty segment, as in GNU tar.
fn map_text(map: &Map) -> Vec<u8> {
    let mut segments = map.segments.clone();
    if segments
        .last()
        .is_none_or(|(at, length)| at + length < map.size_bytes)
    {
        segments.push((map.size_bytes, 0));
    }
    let mut text = format!("{}\n", segments.len()).into_bytes();
    for (at, length) in segments {
        // Writing to a Vec never fails.
        let _ = write!(text, "{at}\n{length}\n");
    }
    let whole = text.len().next_multiple_of(512);
    text.resize(whole, 0);
    text
}
