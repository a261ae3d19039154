//! Layouts that lvm2 accepts as text (vgcfgrestore) and thin metadata of thin_restore: the fuzz targets' corpus, read for its content.

use std::path::Path;
use std::sync::Arc;

use restorefs::block::{MemoryDisk, ReadAt, WriteAt};
use restorefs::guest::volume::{Known, Scan, scan_point};

const EXTENT: u64 = 65_536;
/// Where the first extent begins.
const FIRST: u64 = 65_536;

fn disk(name: &str) -> Arc<dyn ReadAt> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus/lvm")
        .join(name);
    let disk = MemoryDisk::sparse(4 << 20);
    for record in std::fs::read(path).unwrap().chunks_exact(516) {
        let (number, sector) = record.split_first_chunk::<4>().unwrap();
        disk.write_at(u64::from(u32::from_le_bytes(*number)) * 512, sector)
            .unwrap();
    }
    // Every chunk of 4 KiB that is empty tells its place.
    for chunk in 1..(4 << 20) / 4096u64 {
        let mut bytes = [0; 4096];
        disk.read_at(chunk * 4096, &mut bytes).unwrap();
        let is_store = chunk * 4096 == FIRST + 14 * EXTENT + 4096;
        if bytes == [0; 4096] && chunk * 4096 >= FIRST && !is_store {
            disk.write_at(chunk * 4096, format!("at {}", chunk * 4096).as_bytes())
                .unwrap();
        }
    }
    Arc::new(disk)
}

/// Text at an offset of a volume.
fn text(scan: &Scan, disk: &Arc<dyn ReadAt>, name: &str, offset: u64) -> String {
    let path = format!("lvm/vg0/{name}");
    let volume = scan.volumes.iter().find(|volume| volume.path == path);
    let volume = volume.unwrap_or_else(|| panic!("no {path}"));
    let mut bytes = [0; 32];
    volume
        .reader(&[Arc::clone(disk)])
        .read_at(offset, &mut bytes)
        .unwrap();
    let end = bytes.iter().position(|b| *b == 0).unwrap();
    String::from_utf8(bytes[..end].to_vec()).unwrap()
}

fn at(extent: u64, offset: u64) -> String {
    format!("at {}", FIRST + extent * EXTENT + offset)
}

#[test]
fn stripes_mirrors_and_a_thick_snapshot() {
    let disk = disk("layouts");
    let scan = scan_point(&[("vda".to_owned(), Arc::clone(&disk))]);
    let paths: Vec<&str> = scan.volumes.iter().map(|v| v.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "vda/raw",
            "lvm/vg0/str",
            "lvm/vg0/mir",
            "lvm/vg0/snap",
            "lvm/vg0/lin"
        ]
    );
    let text = |name, offset| text(&scan, &disk, name, offset);
    assert_eq!(text("lin", 0), "linear");
    assert_eq!(text("lin", 70_000 / 4096 * 4096), at(0, 69_632));
    assert_eq!(text("str", 0), "stripe0");
    assert_eq!(text("str", 4096), at(4, 4096));
    assert_eq!(text("str", 8192), "stripe1");
    assert_eq!(text("str", 16_384), at(4, 8192));
    assert_eq!(text("str", 4 * EXTENT - 4096), at(6, 2 * EXTENT - 4096));
    assert_eq!(text("mir", 4096), at(9, 4096));
    // Chunks 0, 3 and 60 were saved, to 3, 2 and 4 of the store.
    assert_eq!(text("snap", 0), at(14, 3 * 4096));
    assert_eq!(text("snap", 4096), at(0, 4096));
    assert_eq!(text("snap", 3 * 4096), "saved chunk 3");
    assert_eq!(text("snap", 4 * 4096), at(0, 4 * 4096));
    assert_eq!(text("snap", 60 * 4096), at(14, 4 * 4096));
    assert_eq!(text("snap", 61 * 4096), at(0, 61 * 4096));
}

#[test]
fn thin_volumes_a_snapshot_and_an_external_origin() {
    let disk = disk("thin");
    let scan = scan_point(&[("vda".to_owned(), Arc::clone(&disk))]);
    let text = |name, offset| text(&scan, &disk, name, offset);
    for name in ["t1", "t2"] {
        assert_eq!(text(name, 0), "thin data");
        assert_eq!(text(name, 2 * EXTENT), at(27, 0));
        assert_eq!(text(name, 3 * EXTENT), "");
        assert_eq!(text(name, 8 * EXTENT), "");
        assert_eq!(text(name, 10 * EXTENT), "");
    }
    assert_eq!(text("t1", 9 * EXTENT), at(30, 0));
    assert_eq!(text("t2", 9 * EXTENT), at(29, 0));
    // What the volume does not have is its origin's, and nothing behind the origin's end.
    assert_eq!(text("t3", 0), "external");
    assert_eq!(text("t3", EXTENT), at(31, 0));
    assert_eq!(text("t3", 2 * EXTENT), at(35, 0));
    assert_eq!(text("t3", 4 * EXTENT), "");
    let pool = scan.volumes.iter().find(|v| v.path == "lvm/vg0/pool");
    assert!(matches!(pool.unwrap().known, Known::Member(_)));
}

/// Every byte of the thin metadata that is in use, flipped, is damage of the thin volumes and of nothing else.
#[test]
fn damaged_thin_metadata_is_damage() {
    let whole = disk("thin");
    let mut bytes = vec![0; 4 << 20];
    whole.read_at(0, &mut bytes).unwrap();
    let metadata = usize::try_from(FIRST + 17 * EXTENT).unwrap();
    for offset in (0..400).step_by(3) {
        let mut flipped = bytes.clone();
        flipped[metadata + offset] ^= 4;
        let disk: Arc<dyn ReadAt> = Arc::new(MemoryDisk::from_bytes(&flipped));
        let scan = scan_point(&[("vda".to_owned(), disk)]);
        for volume in &scan.volumes {
            let is_thin = volume.path.starts_with("lvm/vg0/t");
            let is_damaged = matches!(volume.known, Known::Damaged(_));
            assert_eq!(
                is_thin, is_damaged,
                "{offset}: {} {:?}",
                volume.path, volume.known
            );
        }
    }
}

/// Metadata of a pool that is older than the group's text is refused, as LVM does (`transaction_id is 7, while expected ...`); a pool
/// that is marked as needing a check is read, and that is noted.
#[test]
fn thin_metadata_of_another_time_is_refused() {
    let whole = disk("thin");
    let mut bytes = vec![0; 4 << 20];
    whole.read_at(0, &mut bytes).unwrap();
    let metadata = usize::try_from(FIRST + 17 * EXTENT).unwrap();
    let changed = |at: usize, value: u8| {
        let mut bytes = bytes.clone();
        let block = &mut bytes[metadata..metadata + 4096];
        block[at] = value;
        let checksum = !crc32c::crc32c(&block[4..]) ^ 160_774;
        block[..4].copy_from_slice(&checksum.to_le_bytes());
        let disk: Arc<dyn ReadAt> = Arc::new(MemoryDisk::from_bytes(&bytes));
        scan_point(&[("vda".to_owned(), disk)])
    };
    let scan = changed(48, 77);
    let is_thin = |path: &str| path.starts_with("lvm/vg0/t");
    assert!(scan.volumes.iter().any(|volume| is_thin(&volume.path)));
    for volume in &scan.volumes {
        let is_refused = matches!(&volume.known, Known::Damaged(why) if why.contains("transaction") && why.contains("77"));
        assert_eq!(is_refused, is_thin(&volume.path), "{}", volume.path);
    }
    let scan = changed(4, 1);
    let damaged = |known: &Known| matches!(known, Known::Damaged(_));
    assert!(!scan.volumes.iter().any(|volume| damaged(&volume.known)));
    assert!(
        scan.notes
            .iter()
            .any(|note| note.contains("needing a check")),
        "{:?}",
        scan.notes
    );
}
