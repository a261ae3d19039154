//! Where systems begin.

use super::{Guest, fs, mounts};

/// btrfs(5): `subvolid=0` is the top level (the kernel's btrfs_parse_subvol_options).
#[test]
fn the_number_zero_is_the_top_level() {
    let mut pool = fs("pool", "p", &["@", "@/etc", "@/volumes/01", "@data"], "");
    pool.file(
        "@/etc/fstab",
        b"UUID=p / btrfs subvol=@ 0 0\nUUID=p /volumes/01 btrfs subvolid=0 0 0\n",
    )
    .unwrap();
    pool.set_subvolume("", 5).unwrap();
    pool.set_subvolume("@", 256).unwrap();
    let mut guest = Guest::default();
    guest.add(Some(pool));
    let systems = guest.systems();
    assert_eq!(systems[0].mounts[0].root, guest.place(0, ""));
    assert!(systems[0].unjoined.is_empty(), "{:?}", systems[0].unjoined);
}

/// Any subvolume that its own fstab names is a root; a snapshot has the fstab of its origin.
#[test]
fn roots_are_those_that_name_themselves() {
    let mut pool = fs("pool", "p", &["snapshots"], "");
    for (number, name) in [(256, "@arch"), (257, "distros/@debian"), (258, "before")] {
        let of = if name == "before" { "@arch" } else { name };
        pool.directory(&format!("{name}/etc")).unwrap();
        let fstab = format!("UUID=p / btrfs subvol=/{of} 0 0\n");
        pool.file(&format!("{name}/etc/fstab"), fstab.as_bytes())
            .unwrap();
        pool.set_subvolume(name, number).unwrap();
    }
    pool.directory("loose/etc").unwrap();
    pool.file("loose/etc/os-release", b"ID=x").unwrap();
    pool.set_subvolume("loose", 259).unwrap();
    let mut guest = Guest::default();
    let mut all = fs("none", "n", &[], "");
    all.set_subvolume("", 5).unwrap();
    guest.add(Some(all));
    // The first given subvolume is the default one here.
    let mut top = pool;
    top.set_subvolume("", 5).unwrap();
    guest.add(Some(top));
    let systems = guest.systems();
    let roots: Vec<_> = systems.iter().map(|system| system.root).collect();
    assert_eq!(
        roots,
        [guest.place(1, "@arch"), guest.place(1, "distros/@debian")]
    );
}

/// NixOS: the fstab is a link into the store, and that fstab mounts the store.
#[test]
fn an_fstab_may_lie_in_a_store() {
    let mut pool = fs("nixos", "p", &["@root/nix", "@root/home", "@home/me"], "");
    pool.file("@root/etc/NIXOS", b"").unwrap();
    pool.symlink("@root/etc/fstab", "/etc/static/fstab")
        .unwrap();
    pool.symlink("@root/etc/static", "/nix/store/abc-etc/etc")
        .unwrap();
    let fstab = "/dev/disk/by-label/nixos / btrfs subvol=/@root 0 0\n\
        /dev/disk/by-label/nixos /nix btrfs subvol=@nix,compress=zstd 0 0\n\
        /dev/disk/by-label/nixos /home btrfs subvol=@home 0 0\n";
    pool.file("@nix/store/abc-etc/etc/fstab", fstab.as_bytes())
        .unwrap();
    pool.file(
        "@nix/store/abc-etc/etc/os-release",
        b"ID=nixos\nVERSION_ID=24.05\n",
    )
    .unwrap();
    pool.symlink("@root/etc/os-release", "/etc/static/os-release")
        .unwrap();
    for (number, name) in [(5, ""), (256, "@root"), (257, "@nix"), (258, "@home")] {
        pool.set_subvolume(name, number).unwrap();
    }
    let mut guest = Guest::default();
    guest.add(Some(pool));
    let systems = guest.systems();
    let [system] = systems.as_slice() else {
        panic!("{systems:?}");
    };
    assert_eq!(system.root, guest.place(0, "@root"));
    let paths: Vec<String> = mounts(system).into_iter().map(|(path, ..)| path).collect();
    assert_eq!(paths, ["/nix", "/home"]);
    assert!(system.unjoined.is_empty(), "{:?}", system.unjoined);
}

/// ostree: the deployment of the newest boot entry, with `/var` bound into it; the other one is a separate
/// system.
#[test]
fn a_deployment_is_a_root() {
    let mut disk = fs("root", "r", &["ostree/deploy/rhcos/var/home/core"], "");
    for (sum, version) in [("aaa.0", "41"), ("bbb.0", "40")] {
        let dir = format!("ostree/deploy/rhcos/deploy/{sum}");
        disk.directory(&format!("{dir}/etc")).unwrap();
        disk.directory(&format!("{dir}/var")).unwrap();
        let text = format!("ID=rhcos\nVERSION_ID={version}\n");
        disk.file(&format!("{dir}/usr/lib/os-release"), text.as_bytes())
            .unwrap();
        disk.symlink(&format!("{dir}/home"), "var/home").unwrap();
    }
    for (entry, sum) in [("ostree-1", "bbb.0"), ("ostree-2", "aaa.0")] {
        let link = format!("ostree/boot.1/rhcos/{entry}/0");
        disk.symlink(&link, &format!("../../../deploy/rhcos/deploy/{sum}"))
            .unwrap();
        let version = entry.trim_start_matches("ostree-");
        let text = format!("version {version}\noptions root=UUID=r ostree=/{link}\n");
        disk.file(
            &format!("boot/loader.1/entries/{entry}.conf"),
            text.as_bytes(),
        )
        .unwrap();
    }
    let mut guest = Guest::default();
    guest.add(Some(disk));
    let systems = guest.systems();
    let names: Vec<_> = systems
        .iter()
        .map(|system| (system.root, mounts(system)))
        .collect();
    let place = |path: &str| guest.place(0, &format!("ostree/deploy/rhcos/{path}"));
    let var = |sum: &str| {
        let over = place(&format!("deploy/{sum}/var"));
        vec![("/var".to_owned(), 0, over)]
    };
    assert_eq!(
        names,
        [
            (place("deploy/aaa.0"), var("aaa.0")),
            (place("deploy/bbb.0"), var("bbb.0"))
        ]
    );
    assert_eq!(systems[0].mounts[0].root, place("var"));
}

/// SUSE's root is a snapshot: the default subvolume. Another snapshot is a root when the boot entry names it.
#[test]
fn a_snapshot_is_a_root_only_where_it_is_named() {
    for (entry, root) in [
        (false, "@/.snapshots/1/snapshot"),
        (true, "@/.snapshots/2/snapshot"),
    ] {
        let mut pool = fs("pool", "p", &["@/var/log"], "");
        for (n, number) in [(1, 300), (2, 301)] {
            let dir = format!("@/.snapshots/{n}/snapshot");
            pool.directory(&format!("{dir}/var")).unwrap();
            pool.file(
                &format!("{dir}/etc/fstab"),
                b"UUID=p / btrfs defaults 0 0\nUUID=p /var btrfs subvol=/@/var 0 0\n",
            )
            .unwrap();
            pool.set_subvolume(&dir, number).unwrap();
        }
        for (path, number) in [("", 5), ("@", 256), ("@/var", 257)] {
            pool.set_subvolume(path, number).unwrap();
        }
        let mut boot = fs("boot", "b", &[], "");
        if entry {
            boot.file(
                "loader/entries/a-1.conf",
                b"version 1\noptions root=UUID=p rootflags=subvol=@/.snapshots/2/snapshot\n",
            )
            .unwrap();
        }
        let mut guest = Guest::default();
        guest.add(Some(pool));
        guest.add(Some(boot));
        let systems = guest.systems();
        let roots: Vec<_> = systems.iter().map(|system| system.root).collect();
        assert_eq!(roots, [guest.place(0, root)]);
        assert_eq!(systems[0].mounts[0].root, guest.place(0, "@/var"));
    }
}
