//! Groups that no tool would write, on devices in memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::label::tests::{device, large_device};
use crate::block::run::Target;
use crate::block::{MemoryDisk, ReadAt, WriteAt};
use crate::guest::volume::{Known, Scan, scan_point};

/// A group of the devices `a`, `b`, ... with these logical volumes.
fn text(name: &str, id: &str, seqno: u32, devices: &[u8], lvs: &str) -> String {
    let mut pvs = String::new();
    for (n, device) in devices.iter().enumerate() {
        let letter = char::from(*device);
        let id: Vec<String> = [6, 4, 4, 4, 4, 4, 6]
            .iter()
            .map(|count| letter.to_string().repeat(*count))
            .collect();
        let id = id.join("-");
        pvs += &format!("pv{n} {{ id = \"{id}\" pe_start = 2048 pe_count = 50 }}\n");
    }
    format!(
        "{name} {{ id = \"{id}\" seqno = {seqno} extent_size = 128
         physical_volumes {{ {pvs} }} logical_volumes {{ {lvs} }} }}"
    )
}

fn lv(name: &str, segment: &str) -> String {
    format!(
        "{name} {{ status = [\"VISIBLE\"] segment1 {{ start_extent = 0 extent_count = 4 {segment} }} }}\n"
    )
}

fn linear(name: &str, pv: &str, extent: u32) -> String {
    lv(
        name,
        &format!("type = \"striped\" stripes = [\"{pv}\", {extent}]"),
    )
}

fn scan(disks: &[MemoryDisk]) -> Scan {
    let disks: Vec<(String, Arc<dyn ReadAt>)> = disks
        .iter()
        .enumerate()
        .map(|(n, disk)| {
            let disk: Arc<dyn ReadAt> = Arc::new(disk.clone());
            (format!("vd{n}"), disk)
        })
        .collect();
    scan_point(&disks)
}

fn known(scan: &Scan, path: &str) -> Known {
    let volume = scan.volumes.iter().find(|volume| volume.path == path);
    volume.unwrap_or_else(|| panic!("no {path}")).known.clone()
}

fn damage(scan: &Scan, path: &str) -> String {
    match known(scan, path) {
        Known::Damaged(why) | Known::Unsupported(why) => why,
        other => panic!("{path}: {other:?}"),
    }
}

#[test]
fn volumes_that_consist_of_each_other_end() {
    let lvs = [
        linear("self", "self", 0),
        linear("x", "y", 0),
        linear("y", "x", 0),
        linear("nothing", "none", 0),
        linear("beyond", "pv0", 4_000_000),
        linear("huge", "pv0", u32::MAX),
        linear("fine", "pv0", 1),
        lv("thin", "type = \"thin\" thin_pool = \"thin\" device_id = 1"),
        lv(
            "raid",
            "type = \"raid1\" raids = [\"m\", \"raid\", \"m\", \"raid\"]",
        ),
        lv("other", "type = \"vdo\""),
        lv("cached", "type = \"cache\""),
        lv(
            "odd",
            "type = \"striped\" stripe_size = 24 stripes = [\"pv0\", 0, \"pv0\", 4, \"pv0\", 8]",
        ),
    ]
    .concat();
    let disk = device([b'a'; 32], text("vg", "I", 1, b"a", &lvs).as_bytes(), 512);
    let found = scan(&[disk]);
    for name in [
        "self", "x", "y", "nothing", "beyond", "huge", "thin", "raid", "odd",
    ] {
        let why = damage(&found, &format!("lvm/vg/{name}"));
        assert!(!why.is_empty());
    }
    assert!(damage(&found, "lvm/vg/other").contains("vdo"));
    assert!(damage(&found, "lvm/vg/cached").contains("cache"));
    assert_eq!(known(&found, "lvm/vg/fine"), Known::NoFilesystem);
}

/// Each volume names the one below 250 times: 250^7 paths, none of which leads to a byte.
#[test]
fn volumes_of_many_volumes_of_nothing_cost_little() {
    let mut lvs = "v0 { segment_count = 0 }\n".to_owned();
    for n in 1..8 {
        let areas = vec![format!("\"v{}\", 0", n - 1); 250].join(", ");
        lvs += &lv(
            &format!("v{n}"),
            &format!("type = \"mirror\" mirrors = [{areas}]"),
        );
    }
    let text = text("vg", "I", 1, b"a", &lvs);
    let began = Instant::now();
    let found = scan(&[device([b'a'; 32], text.as_bytes(), 512)]);
    assert!(
        began.elapsed() < Duration::from_secs(120),
        "{:?}",
        began.elapsed()
    );
    assert!(!damage(&found, "lvm/vg/v7").is_empty());
}

#[test]
fn the_newest_text_counts() {
    let old = text("vg", "I", 3, b"ab", &linear("old", "pv0", 0));
    let new = text("vg", "I", 4, b"a", &linear("new", "pv0", 0));
    let found = scan(&[
        device([b'b'; 32], old.as_bytes(), 512),
        device([b'a'; 32], new.as_bytes(), 4096),
    ]);
    let paths: Vec<&str> = found.volumes.iter().map(|v| v.path.as_str()).collect();
    assert_eq!(paths, ["vd0/raw", "vd1/raw", "lvm/vg/new"]);
    let Known::Member(role) = known(&found, "vd0/raw") else {
        panic!("{found:?}");
    };
    assert!(role.contains("has removed it"), "{role}");
}

#[test]
fn a_device_without_a_text_that_can_be_read_belongs_by_another_ones() {
    let group = text("vg", "I", 3, b"ab", &linear("lv", "pv1", 0));
    let damaged = device([b'b'; 32], group.as_bytes(), 512);
    damaged.write_at(4096 + 520, b"!!!!").unwrap();
    let found = scan(&[device([b'a'; 32], group.as_bytes(), 512), damaged.clone()]);
    assert_eq!(known(&found, "lvm/vg/lv"), Known::NoFilesystem);
    assert_eq!(
        known(&found, "vd1/raw"),
        Known::Member("LVM group vg".to_owned())
    );
    assert!(found.notes.iter().any(|note| note.contains("checksum")));
    // Alone it is damaged.
    let found = scan(&[damaged]);
    assert!(damage(&found, "vd0/raw").contains("checksum"));
}

/// A group in a volume of a group in a volume of a group, and a group that is complete only with a device in
/// another one.
#[test]
fn groups_within_groups_are_found() {
    let inner = device(
        [b'b'; 32],
        text("in", "J", 1, b"b", &linear("leaf", "pv0", 0)).as_bytes(),
        512,
    );
    let mut bytes = vec![0; 3 << 20];
    inner.read_at(0, &mut bytes).unwrap();
    let outer = "lv { status = [\"VISIBLE\"] segment1 { start_extent = 0 extent_count = 80 type = \"striped\"
         stripes = [\"pv0\", 0] } }";
    let disk = device([b'a'; 32], text("out", "I", 1, b"a", outer).as_bytes(), 512);
    disk.write_at(1 << 20, &bytes).unwrap();
    let found = scan(&[disk]);
    let paths: Vec<&str> = found.volumes.iter().map(|v| v.path.as_str()).collect();
    assert_eq!(paths, ["vd0/raw", "lvm/out/lv", "lvm/in/leaf"]);
    assert_eq!(
        known(&found, "lvm/out/lv"),
        Known::Member("LVM group in".to_owned())
    );
}

/// A volume with too many pieces is refused by name, and the next one is read.
#[test]
fn too_many_pieces_leave_room_for_others() {
    let many = "many { status = [\"VISIBLE\"] segment1 { start_extent = 0 extent_count = 400000 type = \"striped\"
         stripe_size = 8 stripes = [\"pv0\", 0, \"pv0\", 500000] } }";
    let lvs = [many, &linear("few", "pv0", 0)].concat();
    let disk = device([b'a'; 32], text("vg", "I", 1, b"a", &lvs).as_bytes(), 512);
    disk.set_size(64 << 30).unwrap();
    let found = scan(&[disk]);
    let Known::Unsupported(why) = known(&found, "lvm/vg/many") else {
        panic!("{found:?}");
    };
    assert!(why.contains("pieces"), "{why}");
    assert_eq!(known(&found, "lvm/vg/few"), Known::NoFilesystem);
}

/// While pvmove runs, the data being moved lie on a hidden mirror; the first leg is the source.
#[test]
fn a_volume_that_is_being_moved_is_read_from_where_it_was() {
    let lvs = [
        linear("moved", "pvmove0", 4),
        "pvmove0 { status = [\"PVMOVE\"] segment1 { start_extent = 0 extent_count = 8 type = \"mirror\"
             mirrors = [\"pv0\", 2, \"pv1\", 20] } }"
            .to_owned(),
    ]
    .concat();
    let group = text("vg", "I", 1, b"ab", &lvs);
    let disks = [b'a', b'b'].map(|id| device([id; 32], group.as_bytes(), 512));
    let found = scan(&disks);
    let paths: Vec<&str> = found.volumes.iter().map(|v| v.path.as_str()).collect();
    assert_eq!(paths, ["vd0/raw", "vd1/raw", "lvm/vg/moved"]);
    let run = found.volumes.last().unwrap().map.run_at(0, 10).unwrap();
    let expected = Target::Source {
        source: 0,
        offset: (1 << 20) + 6 * 65_536,
    };
    assert_eq!(run.target, expected);
}

/// A snapshot that is being merged is what its origin reads as, and is not a volume of its own.
#[test]
fn a_merging_snapshot_is_its_origin() {
    let lvs = [
        linear("origin", "pv0", 0),
        "store { segment1 { start_extent = 0 extent_count = 2 type = \"striped\" stripes = [\"pv0\", 10] } }
         snapshot0 { status = [\"VISIBLE\"] segment1 { start_extent = 0 extent_count = 4 type = \"snapshot\"
             chunk_size = 8 origin = \"origin\" merging_store = \"store\" } }"
            .to_owned(),
    ]
    .concat();
    let disk = device([b'a'; 32], text("vg", "I", 1, b"a", &lvs).as_bytes(), 512);
    let store = (1 << 20) + 10 * 65_536;
    let header = [0x7041_6e53u32, 1, 1, 8].map(u32::to_le_bytes).concat();
    disk.write_at(store, &header).unwrap();
    let exceptions = [5u64, 2, 0, 0].map(u64::to_le_bytes).concat();
    disk.write_at(store + 4096, &exceptions).unwrap();
    let found = scan(std::slice::from_ref(&disk));
    let paths: Vec<&str> = found.volumes.iter().map(|v| v.path.as_str()).collect();
    assert_eq!(paths, ["vd0/raw", "lvm/vg/origin"]);
    let map = &found.volumes.last().unwrap().map;
    let offset = |at| match map.run_at(at, 1).unwrap().target {
        Target::Source { offset, .. } => offset,
        other => panic!("{other:?}"),
    };
    assert_eq!(offset(5 * 4096), store + 2 * 4096);
    assert_eq!(offset(6 * 4096), (1 << 20) + 6 * 4096);
    // A snapshot that has overflowed is damaged.
    disk.write_at(store + 4, &[0]).unwrap();
    assert!(damage(&scan(&[disk]), "lvm/vg/origin").contains("overflowed"));
}

/// Texts are parsed up to a total size: many large ones are refused, with a note.
#[test]
fn much_text_is_refused() {
    let padding = "# padding\n".repeat(1_500_000);
    let disks: Vec<MemoryDisk> = (b'a'..=b'f')
        .map(|letter| {
            let name = char::from(letter).to_string();
            let text = text(&name, &name, 1, &[letter], &linear("lv", "pv0", 0)) + &padding;
            large_device([letter; 32], text.as_bytes())
        })
        .collect();
    let found = scan(&disks);
    assert_eq!(known(&found, "lvm/a/lv"), Known::NoFilesystem);
    assert_eq!(known(&found, "lvm/d/lv"), Known::NoFilesystem);
    assert!(damage(&found, "vd5/raw").contains("more than"), "{found:?}");
    assert!(found.volumes.iter().all(|volume| volume.path != "lvm/f/lv"));
}
