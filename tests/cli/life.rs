//! The life of a VM: another name, removed with all its points, and what comes back from the trash.

use std::os::unix::fs::MetadataExt;

use crate::kit::need::can_mount;
use crate::kit::noise::noise;
use crate::kit::place::Place;
use crate::kit::wait::eventually;

const CLUSTER: usize = 65_536;

/// Points `p0` to `p3` of a VM; `p<n>.raw` is what each has.
fn with_points() -> Place {
    let place = Place::new();
    for n in 0..4_usize {
        let mut bytes = noise(7, 12 * CLUSTER);
        for changed in 0..=n {
            let at = (changed + 3) * CLUSTER;
            bytes[at..at + CLUSTER].copy_from_slice(&noise(50 + changed as u64, CLUSTER));
        }
        bytes[..CLUSTER].copy_from_slice(&noise(90 + n as u64, CLUSTER));
        let image = format!("p{n}.raw");
        std::fs::write(place.path(&image), &bytes).unwrap();
        let (disk, point) = (format!("vda={image}"), format!("p{n}"));
        place.ok(&["backup", "web01", &disk, "--point", &point]);
    }
    place
}

fn is_whole(place: &Place, vm: &str, n: usize) {
    let (point, image) = (format!("{vm}@p{n}"), place.path(&format!("p{n}.raw")));
    let _ = std::fs::remove_file(place.path("out.raw"));
    place.ok(&["restore", &point, "vda", "out.raw"]);
    let found = std::fs::read(place.path("out.raw")).unwrap();
    assert!(found == std::fs::read(image).unwrap(), "{point}");
}

fn points(place: &Place, vm: &str) -> Vec<String> {
    let points = place.json(&["ls", vm]);
    let points = points.as_array().unwrap().iter();
    points
        .map(|point| point["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_renamed_vm_is_the_same_with_another_name() {
    let place = with_points();
    place.ok(&["tag", "web01@p1", "release=1"]);
    let before = place.json(&["ls", "web01"]);
    let said = place.ok(&["rename", "web01", "web-frankfurt"]);
    assert!(said.contains("web01 is web-frankfurt now"), "{said}");
    assert_eq!(place.json(&["ls", "web-frankfurt"]), before);
    place.fails(1, &["ls", "web01"]);
    assert!(place.ok(&["check"]).contains("no damage found"));
    for n in 0..4 {
        is_whole(&place, "web-frankfurt", n);
    }
    // Its chain goes on, and the old name is free.
    place.ok(&["backup", "web-frankfurt", "vda=p0.raw", "--point", "p4"]);
    let points = place.json(&["ls", "web-frankfurt"]);
    assert_eq!(points[4]["kind"], "incremental");
    place.ok(&["backup", "web01", "vda=p1.raw", "--point", "p1"]);
    is_whole(&place, "web01", 1);
    let said = place.fails(1, &["rename", "web01", "WEB-Frankfurt"]);
    assert!(
        said.contains("there is a VM web-frankfurt already"),
        "{said}"
    );
    place.fails(2, &["rename", "web01", "web01"]);
    place.fails(2, &["rename", "web01", "a/b"]);
    place.fails(1, &["rename", "nobody", "somebody"]);
    place.ok(&["rename", "web01", "WEB01"]);
    is_whole(&place, "WEB01", 1);
}

/// A kill between the rename of the directory and the sidecars: the directory's name wins.
#[test]
fn a_rename_that_was_cut_short_is_completed() {
    let place = with_points();
    let vms = place.repo().join("vms");
    std::fs::rename(vms.join("web01"), vms.join("db01")).unwrap();
    // A reader, then an owner.
    assert_eq!(points(&place, "db01").len(), 4);
    is_whole(&place, "db01", 2);
    place.ok(&["backup", "db01", "vda=p0.raw", "--point", "p4"]);
    let sidecar = std::fs::read_to_string(vms.join("db01/vm.json")).unwrap();
    assert!(sidecar.contains("\"db01\""), "{sidecar}");
    assert!(place.ok(&["verify"]).contains("no damage found"));
    // A copy of a VM's directory is no rename.
    crate::tool::ok(&place, "cp", &["-a", "repo/vms/db01", "repo/vms/db02"]);
    let said = place.fails(3, &["backup", "db02", "vda=p0.raw"]);
    assert!(said.contains("another VM's directory"), "{said}");
    place.ok(&["backup", "db01", "vda=p0.raw"]);
}

#[test]
fn a_vm_with_an_open_session_or_a_point_in_use_keeps_its_name() {
    let place = with_points();
    let daemon = place.serve(&[]);
    place.ok(&["begin", "web01", "vda=768K", "--session", "nightly"]);
    let said = place.fails(1, &["rename", "web01", "web02"]);
    assert!(said.contains("open session: nightly"), "{said}");
    place.fails(1, &["remove", "web01"]);
    place.ok(&["abort", "web01/nightly"]);
    place.ok(&["rename", "web01", "web02"]);
    is_whole(&place, "web02", 3);
    daemon.stop();
}

#[test]
fn a_daemons_mount_shows_the_new_name() {
    if !can_mount() {
        return;
    }
    let place = with_points();
    std::fs::create_dir(place.path("mnt")).unwrap();
    let mnt = place.path("mnt");
    let daemon = place.serve(&["--mount", mnt.to_str().unwrap()]);
    let inode = std::fs::metadata(mnt.join("web01/p2")).unwrap().ino();
    place.ok(&["rename", "web01", "web02"]);
    // A name that is known to the kernel is known for a second more.
    eventually("the old name is gone", || !mnt.join("web01").exists());
    assert_eq!(
        std::fs::metadata(mnt.join("web02/p2")).unwrap().ino(),
        inode
    );
    let read = std::fs::read(mnt.join("web02/p2/disks/vda.raw")).unwrap();
    assert!(read == std::fs::read(place.path("p2.raw")).unwrap());
    place.ok(&["forget", "web02@p2"]);
    assert!(!mnt.join("web02/p2").exists());
    place.ok(&["undelete", "web02@p2"]);
    eventually("the point is shown", || mnt.join("web02/p2").exists());
    let read = std::fs::read(mnt.join("web02/p2/disks/vda.raw")).unwrap();
    assert!(read == std::fs::read(place.path("p2.raw")).unwrap());
    daemon.stop();
}

#[test]
fn a_forgotten_point_comes_back() {
    let place = with_points();
    place.ok(&["tag", "web01@p2", "release=2"]);
    // Its layer becomes part of that of p3.
    let said = place.ok(&["forget", "web01@p1", "--no-merge"]);
    assert!(said.contains("forgotten"), "{said}");
    place.ok(&["forget", "web01@p2"]);
    place.ok(&["forget", "--compact", "web01"]);
    assert_eq!(points(&place, "web01"), ["p0", "p3"]);
    let said = place.ok(&["undelete", "web01@p2"]);
    assert!(said.contains("web01@p2 is back"), "{said}");
    assert_eq!(points(&place, "web01"), ["p0", "p2", "p3"]);
    let tags = place.json(&["ls", "web01"])[1]["tags"].clone();
    assert_eq!(tags["release"], "2");
    place.ok(&["undelete", "web01@p1"]);
    for n in 0..4 {
        is_whole(&place, "web01", n);
    }
    assert!(place.ok(&["verify"]).contains("no damage found"));
    let said = place.fails(1, &["undelete", "web01@p1"]);
    assert!(said.contains("has a restore point or session p1"), "{said}");
    let said = place.fails(1, &["undelete", "web01@p9"]);
    assert!(said.contains("trash does not have"), "{said}");
    place.fails(2, &["undelete", "web01@latest"]);
    // The newest point comes back as the newest.
    place.ok(&["forget", "web01@p3"]);
    place.ok(&["undelete", "web01@p3"]);
    assert!(place.ok(&["info", "web01@latest"]).contains("p3"));
    place.ok(&["forget", "web01@p0"]);
    place.ok(&["trash", "--empty"]);
    place.fails(1, &["undelete", "web01@p0"]);
    for n in 1..4 {
        is_whole(&place, "web01", n);
    }
}

#[test]
fn a_removed_vm_comes_back_with_a_point() {
    let place = with_points();
    place.ok(&["keep", "web01@p0"]);
    let said = place.ok(&["remove", "web01"]);
    assert!(said.contains("removed, with 4 restore points"), "{said}");
    assert_eq!(place.json(&["ls"]).as_array().unwrap().len(), 0);
    assert!(!place.repo().join("vms/web01").exists());
    place.ok(&["undelete", "web01@p3"]);
    is_whole(&place, "web01", 3);
    place.ok(&["undelete", "web01@p1"]);
    assert_eq!(points(&place, "web01"), ["p1", "p3"]);
    is_whole(&place, "web01", 1);
    assert!(place.ok(&["verify"]).contains("no damage found"));
    place.ok(&["backup", "web01", "vda=p0.raw", "--point", "next"]);
    assert!(place.ok(&["check"]).contains("no damage found"));
}
