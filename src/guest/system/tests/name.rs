//! The names by which systems refer to their mounts.

use super::{Guest, fs, mounts, reasons};
use crate::guest::volume::Origin;

/// systemd.mount(5): enabled units are mounted, others are not; the fstab wins. A partition's type counts
/// where neither has an entry.
#[test]
fn units_and_types_say_what_the_fstab_does_not() {
    let directories = ["srv/my-data", "var", "home", "opt", "mnt", "boot"];
    let mut root = fs(
        "root",
        "r",
        &directories,
        "LABEL=mnt /mnt ext4 defaults 0 0\n",
    );
    root.file("boot/vmlinuz", b"k").unwrap();
    let unit = |label: &str, place: &str| {
        format!("[Mount]\nWhat=/dev/disk/by-label/{label}\nWhere={place}\nType=ext4\n")
    };
    for (name, label, place, wanted) in [
        ("srv-my\\x2ddata", "DATA", "/srv/my-data", true),
        ("opt", "OPT", "/opt", false),
        ("mnt", "DATA", "/mnt", true),
    ] {
        let file = format!("etc/systemd/system/{name}.mount");
        root.file(&file, unit(label, place).as_bytes()).unwrap();
        if wanted {
            root.symlink(
                &format!("etc/systemd/system/local-fs.target.wants/{name}.mount"),
                &format!("../{name}.mount"),
            )
            .unwrap();
        }
    }
    // A masked unit, and one that a drop-in redirects.
    root.symlink("etc/systemd/system/boot.mount", "/dev/null")
        .unwrap();
    root.file(
        "usr/lib/systemd/system/boot.mount",
        unit("OPT", "/boot").as_bytes(),
    )
    .unwrap();
    root.file(
        "usr/lib/systemd/system/usr-local.mount",
        unit("OPT", "/usr/local").as_bytes(),
    )
    .unwrap();
    root.directory("usr/local").unwrap();
    root.file(
        "etc/systemd/system/usr-local.mount.d/10.conf",
        b"[Mount]\nWhat=LABEL=DATA\n",
    )
    .unwrap();
    for name in ["boot", "usr-local"] {
        let link = format!("usr/lib/systemd/system/local-fs.target.requires/{name}.mount");
        root.symlink(&link, &format!("../{name}.mount")).unwrap();
    }
    let mut guest = Guest::default();
    guest.add(Some(root));
    for (label, kind, is_automatic) in [
        ("DATA", "", true),
        ("OPT", "", true),
        ("mnt", "", true),
        ("var", "4d21b016-b534-45c2-a9fb-5c16e091fd2d", true),
        ("home", "933ac7e1-2eb4-4f13-b844-0e14e2aef915", false),
        ("home2", "933ac7e1-2eb4-4f13-b844-0e14e2aef915", true),
        ("home3", "933ac7e1-2eb4-4f13-b844-0e14e2aef915", true),
        ("esp", "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", true),
    ] {
        let facts = guest.add(Some(fs(label, label, &[], "")));
        facts.part_uuid = Some(format!("{label}-part"));
        facts.alias.gpt_type = Some(kind.to_owned());
        facts.alias.is_automatic = is_automatic;
    }
    let systems = guest.systems();
    let mut found: Vec<(String, usize)> = mounts(&systems[0])
        .into_iter()
        .zip(&systems[0].mounts)
        .map(|((path, ..), mount)| (path, mount.root.volume))
        .collect();
    found.sort();
    let expected = [
        ("/home", 6),
        ("/mnt", 3),
        ("/srv/my-data", 1),
        ("/usr/local", 1),
        ("/var", 4),
    ];
    assert_eq!(found, expected.map(|(path, at)| (path.to_owned(), at)));
    let notes = systems[0].notes.join("\n");
    for words in [
        "no-auto",
        "vda/part/8: not mounted at /home: vda/part/7 is the first",
    ] {
        assert!(notes.contains(words), "{words}: {notes}");
    }
}

/// udev's names: those of LVM and md are exact. For hardware names the serial number decides, else the only
/// match.
#[test]
fn names_of_udev() {
    let id = "a".repeat(64);
    let fstab = format!(
        "/dev/vda1 / ext4\n/dev/disk/by-id/dm-uuid-LVM-{id} /usr ext4\n/dev/disk/by-id/dm-name-vg--a-var--data /data ext4\n\
         /dev/disk/by-id/virtio-vol-0abc-part1 /a ext4\n/dev/disk/by-path/virtio-pci-0000:00:07.0-part3 /b xfs\n\
         /dev/disk/by-id/scsi-0QEMU_x-part1 /c ext4\n/dev/md127 /m ext4\n/dev/disk/by-id/md-uuid-{}:00000000:00000000:00000000 /n ext4\n",
        "11223344"
    );
    let directories = ["usr", "data", "a", "b", "c", "m", "n"];
    let mut guest = Guest::default();
    guest.add(Some(fs("r", "1", &directories, &fstab)));
    let logical = |name: &str| Origin::Logical {
        group: "vg-a".to_owned(),
        name: name.to_owned(),
    };
    let part = |disk, number| Origin::Partition {
        disk: Some(disk),
        number,
    };
    for (origin, path, format) in [
        (logical("usr"), "lvm/vg-a/usr", "ext4"),
        (logical("var-data"), "lvm/vg-a/var-data", "ext4"),
        (part(1, 1), "vdb/part/1", "ext4"),
        (part(1, 3), "vdb/part/3", "xfs"),
        (part(2, 1), "vdc/part/1", "ext4"),
        (part(3, 1), "vdd/part/1", "ext4"),
        (
            Origin::Array {
                name: "root".to_owned(),
            },
            "md/root",
            "ext4",
        ),
    ] {
        let facts = guest.add(Some(fs(path, path, &[], "")));
        facts.origin = origin;
        facts.path = path.to_owned();
        facts.format = Some(format.to_owned());
    }
    guest.facts[1].alias.device_id = Some(id);
    guest.facts[3].serial = Some("vol-0abc".to_owned());
    guest.facts[7].alias.device_id = Some("11223344000000000000000000000000".to_owned());
    let systems = guest.systems();
    let found: Vec<(String, usize)> = systems[0]
        .mounts
        .iter()
        .map(|mount| {
            let path = String::from_utf8(mount.path.clone()).unwrap();
            (path, mount.root.volume)
        })
        .collect();
    let expected = [
        ("/usr", 1),
        ("/data", 2),
        ("/a", 3),
        ("/b", 4),
        ("/m", 7),
        ("/n", 7),
    ];
    assert_eq!(found, expected.map(|(path, at)| (path.to_owned(), at)));
    let [(target, reason)] = reasons(&systems[0])[..] else {
        panic!("{:?}", systems[0].unjoined);
    };
    assert_eq!(target, "/c");
    assert!(
        reason.contains("vdc/part/1, vdd/part/1") && reason.contains("--key"),
        "{reason}"
    );
    let notes = systems[0].notes.join("\n");
    assert!(notes.contains("vdb/part/3 alone fits"), "{notes}");
}

/// Filesystems that share a UUID: snapshots are excluded, then those on other disks than the root; remaining
/// ones are refused by name.
#[test]
fn one_name_of_several_filesystems() {
    let mut guest = Guest::default();
    let fstab = "UUID=1 / ext4\nUUID=same /a ext4\nUUID=snap /b ext4\nUUID=far /c ext4\nline\nx relative ext4\n";
    guest.add(Some(fs("r", "1", &["a", "b", "c"], fstab)));
    for (uuid, disk, is_snapshot) in [
        ("same", 0, false),
        ("same", 0, false),
        ("snap", 0, true),
        ("snap", 0, false),
        ("far", 1, false),
        ("far", 0, false),
    ] {
        let facts = guest.add(Some(fs("x", uuid, &[], "")));
        facts.disks = vec![disk];
        facts.is_snapshot = is_snapshot;
    }
    let systems = guest.systems();
    let found: Vec<usize> = systems[0].mounts.iter().map(|m| m.root.volume).collect();
    assert_eq!(found, [4, 6]);
    let [(target, reason)] = reasons(&systems[0])[..] else {
        panic!("{:?}", systems[0].unjoined);
    };
    assert_eq!(target, "/a");
    assert!(reason.contains("vda/part/2, vda/part/3"), "{reason}");
    let notes = systems[0].notes.join("\n");
    assert!(
        notes.contains("line 5") && notes.contains("relative"),
        "{notes}"
    );
}
