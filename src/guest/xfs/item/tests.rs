//! A log left by Linux, with one field changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use fs_core::BlockRead;
use fs_xfs::Superblock;

use super::{BUFFER, Bounds, CREATE, DQUOT, Item, log};
use crate::block::{MemoryDisk, ReadAt, WriteAt};
use crate::error::{Error, ErrorKind};
use crate::guest::bytes::{be32, le16};
use crate::guest::device::VolumeBytes;
use crate::guest::xfs::log::INODE_ITEM;
use crate::guest::xfs::open;

/// The nonzero sectors of a filesystem that Linux did not unmount: the number (u32) and 512 bytes of each.
const DIRTY: &[u8] = include_bytes!("../../../../tests/fuzz/corpus/xfs/dirty");

/// Offset in the first body of an item, and the bytes to write there.
type Field<'a> = (u64, &'a [u8]);

fn dirty() -> Arc<MemoryDisk> {
    let disk = MemoryDisk::sparse(320 << 20);
    for sector in DIRTY.chunks_exact(516) {
        let (number, bytes) = sector.split_first_chunk::<4>().unwrap();
        let at = u64::from(u32::from_le_bytes(*number)) * 512;
        disk.write_at(at, bytes).unwrap();
    }
    Arc::new(disk)
}

fn superblock(disk: &MemoryDisk) -> Superblock {
    let mut head = vec![0; 4096];
    disk.read_at(0, &mut head).unwrap();
    Superblock::parse(&head).unwrap()
}

fn refusal(disk: Arc<MemoryDisk>) -> Option<Error> {
    open(&[disk as Arc<dyn ReadAt>]).err()
}

/// Places on the volume of the first bodies of items, by type, with the record that contains each.
fn places(disk: &Arc<MemoryDisk>) -> BTreeMap<u16, Vec<(u64, u64)>> {
    let sb = superblock(disk);
    let device = VolumeBytes(Arc::clone(disk) as Arc<dyn ReadAt>);
    let log_at = sb.fsblock_offset(sb.logstart);
    let mut found = BTreeMap::<u16, Vec<(u64, u64)>>::new();
    let mut take = |record: &log::Record<'_>| {
        let at = log_at + record.block * 512;
        let mut body_at = at + 512;
        for operation in record.operations() {
            body_at += 12;
            let kind = le16(operation.body, 0).unwrap_or(0);
            let is_item =
                [BUFFER, INODE_ITEM, DQUOT, CREATE].contains(&kind) && operation.body.len() < 200;
            if is_item {
                found.entry(kind).or_default().push((at, body_at));
            }
            body_at += u64::try_from(operation.body.len()).unwrap();
        }
        Ok(())
    };
    log::walk(&device, &sb, &mut take).unwrap();
    found
}

/// Writes the fields of a body at each place, and updates or removes the checksum of its record.
fn bent(place: (u64, u64), fields: &[Field<'_>], is_sealed: bool) -> Arc<MemoryDisk> {
    let disk = dirty();
    let (record_at, body_at) = place;
    for (at, bytes) in fields {
        for (at, byte) in (body_at + at..).zip(*bytes) {
            // The first word of a block of data is in the header.
            let block = (at - record_at) / 512 - 1;
            let word = at % 512;
            let home = if word < 4 {
                record_at + 44 + block * 4 + word
            } else {
                at
            };
            disk.write_at(home, &[*byte]).unwrap();
        }
    }
    let mut header = vec![0; 512];
    disk.read_at(record_at, &mut header).unwrap();
    let length = usize::try_from(be32(&header, 12).unwrap()).unwrap();
    let mut data = vec![0; length];
    disk.read_at(record_at + 512, &mut data).unwrap();
    let checksum = fs_xfs::log::record_checksum(&header, &data);
    let checksum = if is_sealed { checksum } else { 0 };
    disk.write_at(record_at + 32, &checksum.to_le_bytes())
        .unwrap();
    disk
}

#[test]
fn what_linux_logged_passes() {
    let disk = dirty();
    let places = places(&disk);
    for kind in [BUFFER, INODE_ITEM, CREATE] {
        assert!(places[&kind].len() > 1, "{kind:x}");
    }
    assert!(refusal(disk).is_none());
    // The check reads what the crate reads: unchanged bytes pass.
    for place in [places[&BUFFER][0], places[&CREATE][0]] {
        assert!(refusal(bent(place, &[], true)).is_none());
    }
}

#[test]
fn a_field_that_lies_is_refused_by_name_and_place() {
    let sb = superblock(&dirty());
    let far = (1_u64 << 55).to_le_bytes();
    let behind = ((320_u64 << 20) / 512).to_le_bytes();
    let more = (sb.agcount).to_be_bytes();
    let cases: [(u16, &[Field<'_>], &str); 11] = [
        (BUFFER, &[(8, &far)], "the place of a buffer"),
        (BUFFER, &[(8, &behind)], "the place of a buffer"),
        (BUFFER, &[(6, &[0xff, 0xff])], "the length of a buffer"),
        (
            INODE_ITEM,
            &[(52, &[0x80, 0, 0, 0])],
            "the offset of inode ",
        ),
        (
            INODE_ITEM,
            &[(52, &[0, 0, 0, 0x10])],
            "the offset of inode ",
        ),
        (
            INODE_ITEM,
            &[(40, &far)],
            "the place of the buffer of inode ",
        ),
        (
            INODE_ITEM,
            &[(48, &[0, 0, 1, 0])],
            "the length of the buffer of inode ",
        ),
        (CREATE, &[(4, &more)], "the place of new inodes"),
        (CREATE, &[(8, &[0x7f, 0, 0, 0])], "the place of new inodes"),
        (
            CREATE,
            // As many inodes as fill the named blocks.
            &[(12, &[0, 0, 2, 0]), (20, &[0, 0, 0, 64])],
            "the number of new inodes",
        ),
        (CREATE, &[(16, &[0, 0, 1, 0])], "the size of new inodes"),
    ];
    let places = places(&dirty());
    for (kind, fields, what) in cases {
        // The last record may have been in flight; the first one not.
        let place = places[&kind][0];
        let error = refusal(bent(place, fields, true)).unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}");
        assert!(error.what().contains(what), "{error} for {what}");
        assert_eq!(error.context().offset, Some(place.0), "{what}");
        assert!(error.context().expected.is_some(), "{what}");
    }
}

#[test]
fn an_item_that_lies_at_the_end_of_a_log_without_checksums_ends_it() {
    let (record, _) = places(&dirty())[&BUFFER][0];
    let newest = places(&dirty())[&INODE_ITEM].last().copied().unwrap();
    assert_ne!(record, newest.0);
    let disk = bent(newest, &[(52, &[1, 0, 0, 0])], false);
    let opened = open(&[disk as Arc<dyn ReadAt>]).unwrap();
    let notes = &opened.info().notes;
    assert!(
        notes.iter().any(|note| note.contains("left out: 1")),
        "{notes:?}"
    );
}

#[test]
fn inodes_smaller_than_a_basic_block_are_beyond_the_crate() {
    let bounds = Bounds {
        volume_bytes: 1 << 30,
        block_bytes: 4096,
        inode_bytes: 256,
        groups: 4,
        group_blocks: 1 << 16,
        inodes_max: 64,
    };
    let mut first = vec![0; 56];
    first[..2].copy_from_slice(&INODE_ITEM.to_le_bytes());
    first[48] = 16;
    let item = |offset: u16| {
        let mut first = first.clone();
        first[52..54].copy_from_slice(&offset.to_le_bytes());
        Item {
            first,
            regions: 1,
            total: 1,
        }
    };
    assert!(bounds.check(&item(512)).is_ok());
    let kind = |offset| bounds.check(&item(offset)).unwrap_err().kind();
    assert_eq!(kind(256), ErrorKind::Unsupported);
    assert_eq!(kind(100), ErrorKind::Corrupt);
    assert_eq!(kind(16 * 512), ErrorKind::Corrupt);
}

#[test]
fn a_dquot_lies_on_the_volume() {
    let disk = dirty();
    let sb = superblock(&disk);
    let bounds = Bounds {
        volume_bytes: VolumeBytes(disk as Arc<dyn ReadAt>).size_bytes(),
        block_bytes: sb.blocksize.into(),
        inode_bytes: sb.inodesize.into(),
        groups: sb.agcount,
        group_blocks: sb.agblocks,
        inodes_max: 64,
    };
    let dquot = |block: u64| {
        let mut first = DQUOT.to_le_bytes().to_vec();
        first.resize(8, 0);
        first.extend(block.to_le_bytes());
        let item = Item {
            first,
            regions: 1,
            total: 2,
        };
        bounds.check(&item).is_ok()
    };
    assert!(dquot(0) && dquot((320 << 11) - 8));
    assert!(!dquot((320 << 11) - 7) && !dquot(1 << 55) && !dquot(u64::MAX >> 1));
}
