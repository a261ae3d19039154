//! The files of a guest's `etc` that say what its tree is: an fstab and, behind a NUL, a crypttab, in a guest with symlinks and three
//! volumes.

use std::sync::Arc;

use restorefs::error::{Error, Result};
use restorefs::guest::fs::GuestFs;
use restorefs::guest::memory::MemoryFs;
use restorefs::guest::system::{Files, VolumeFacts, parse_fstab, parse_os_release, plan_files};
use restorefs::guest::volume::{Alias, Origin};

fn root(fstab: &[u8], crypttab: &[u8]) -> Result<MemoryFs> {
    let mut fs = MemoryFs::new();
    for path in [
        "etc", "home", "boot", "srv", "a", "a/b", "var", "var/x", "root",
    ] {
        fs.directory(path)?;
    }
    fs.file("etc/fstab", fstab)?;
    fs.file("etc/crypttab", crypttab)?;
    fs.file("etc/os-release", fstab)?;
    fs.symlink("link", "/a/../link2")?;
    fs.symlink("link2", "../../a/b")?;
    fs.symlink("a/loop", "loop")?;
    fs.set_subvolume("", 5)?;
    fs.set_subvolume("root", 256)?;
    fs.set_subvolume("home", 257)?;
    Ok(fs)
}

fn volumes(fstab: &[u8], crypttab: &[u8]) -> Result<Vec<(VolumeFacts, Arc<dyn GuestFs>)>> {
    let mut data = MemoryFs::new();
    data.directory("x")?;
    data.directory("b")?;
    let filesystems: [Arc<dyn GuestFs>; 3] = [
        Arc::new(root(fstab, crypttab)?),
        Arc::new(data),
        Arc::new(root(b"", b"")?),
    ];
    let facts = |n: u32, uuid: &str, origin| VolumeFacts {
        path: format!("vda/part/{n}"),
        origin,
        label: Some("My Data".to_owned()),
        uuid: Some(uuid.to_owned()),
        part_label: None,
        part_uuid: Some(format!("1a2b3c4d-0{n}")),
        format: None,
        serial: None,
        disks: vec![0],
        is_snapshot: false,
        alias: Alias::default(),
        may_open: true,
        obstacle: None,
    };
    let partition = |number| Origin::Partition {
        disk: Some(0),
        number,
    };
    let logical = Origin::Logical {
        group: "vg-a".to_owned(),
        name: "root".to_owned(),
    };
    let facts = [
        facts(1, "b0b0", logical),
        facts(2, "5a2e1a0c-7a1f-4c55-a4a5-1b8a7be1b7f1", partition(2)),
        facts(3, "c0c0", partition(3)),
    ];
    Ok(facts.into_iter().zip(filesystems).collect())
}

/// Every plan names volumes that are there, and absolute paths.
pub(crate) fn run(data: &[u8]) {
    let cut = data.iter().position(|b| *b == 0).unwrap_or(data.len());
    let (fstab, crypttab) = data.split_at(cut);
    let _ = (parse_fstab(data), parse_os_release(data));
    let Ok(volumes) = volumes(fstab, crypttab) else {
        return;
    };
    let facts: Vec<VolumeFacts> = volumes.iter().map(|(facts, _)| facts.clone()).collect();
    let open = |at: usize| match volumes.get(at) {
        Some((_, fs)) => Ok(Arc::clone(fs)),
        None => Err(Error::not_found("no such volume")),
    };
    let Files::Systems(systems) = plan_files(&facts, &open) else {
        return;
    };
    for system in systems {
        assert!(system.root.volume < 3 && !system.label.contains('/'));
        for mount in system.mounts {
            assert!(mount.path.starts_with(b"/") && mount.path != b"/");
            assert!(mount.root.volume < 3 && mount.over.volume < 3);
        }
    }
}
