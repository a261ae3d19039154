//! btrfs over several devices as mkfs.btrfs makes it: which volume carries it, and what is missing.

use std::sync::Arc;

use restorefs::block::{FileDisk, ReadAt};
use restorefs::guest::fs::VolumeState;
use restorefs::guest::volume::{Known, scan_point};
use restorefs::sys::beneath::Access;

use crate::kit::need::has;
use crate::tool::run;

#[test]
fn devices_are_joined_in_any_order() {
    if !has("mkfs.btrfs") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let names = ["a", "b", "c"].map(|name| {
        let path = temp.path().join(name);
        std::fs::File::create(&path)
            .unwrap()
            .set_len(128 << 20)
            .unwrap();
        path.to_str().unwrap().to_owned()
    });
    let mut arguments = vec!["-q", "-f", "-L", "pool", "-d", "raid1", "-m", "raid1"];
    arguments.extend(names.iter().map(String::as_str));
    run("mkfs.btrfs", &arguments);
    let disks = names
        .map(|name| -> Arc<dyn ReadAt> { Arc::new(FileDisk::open(name, Access::Read).unwrap()) });
    // Device 2 first, then 3, then 1, which carries the filesystem.
    let order = [1, 2, 0].map(|n| (format!("vd{n}"), Arc::clone(&disks[n])));
    let scan = scan_point(&order);
    let [two, three, one] = scan.volumes.as_slice() else {
        panic!("{scan:?}");
    };
    let member = Known::Member("btrfs of vd0/raw".to_owned());
    assert_eq!((&two.known, &three.known), (&member, &member));
    assert_eq!(one.known, Known::Filesystem);
    assert_eq!(one.members, [Arc::clone(&two.map), Arc::clone(&three.map)]);
    assert_eq!(one.content.as_ref().unwrap().label.as_deref(), Some("pool"));
    assert!(scan.notes.is_empty(), "{:?}", scan.notes);
    let sources: Vec<_> = order.iter().map(|(_, disk)| Arc::clone(disk)).collect();
    let (state, fs) = one.open(&sources);
    assert_eq!(state, VolumeState::Readable);
    assert_eq!(fs.unwrap().info().label.as_deref(), Some("pool"));
    // Without its first device, the next one carries it.
    let scan = scan_point(&order[..2]);
    assert_eq!(scan.volumes[0].known, Known::Filesystem);
    assert!(
        scan.notes[0].contains("2 of the 3 devices"),
        "{:?}",
        scan.notes
    );
}
