//! Every mistake has an answer that names it.

use crate::world::{Running, World, ready, run, text};

#[test]
fn mistakes_are_named() {
    if !ready(&["losetup", "sgdisk", "mkfs.ext4"]) {
        return;
    }
    let world = World::with_guest();
    for (code, args, words) in [
        (1, &["map", "nobody@one"][..], "there is no VM nobody"),
        (
            1,
            &["map", "web01@two"],
            "there is no restore point web01@two",
        ),
        (1, &["map", "web01@latest~7"], "only 1 restore point;"),
        (1, &["map", "web01@one/vdz"], "has no disk vdz"),
        (2, &["map", "web01"], "VM@POINT"),
        (2, &["map", "web01/vda"], "VM@POINT"),
        (2, &["map", "web01@one/"], "name"),
        (2, &["map", "web01@one/../x"], "name"),
        (2, &["map", "web01@one/a\nb"], "name"),
        (2, &["map", "/dev/loop0"], "VM@POINT"),
        (2, &["map", "--scratch"], "name the disks to map"),
        (2, &["map", "--partitions"], "name the disks to map"),
        (1, &["map", "web01@one/vda", "--scratch=missing"], "missing"),
        (1, &["map", "web01@one/vda", "--scratch=a.raw"], "a.raw"),
        (1, &["map", "web01@one/vda", "--scratch=/proc"], "scratch"),
        (2, &["unmap"], "name the map to end"),
        (1, &["unmap", "web01@one"], "not mapped"),
        (1, &["unmap", "/dev/loop0p1"], "not mapped"),
        (1, &["unmap", "/dev/null"], "not mapped"),
        (2, &["unmap", "web01"], "VM@POINT"),
        (2, &["unmap", "--all", "web01@one"], "cannot be used with"),
        (10, &["--repo", "missing", "map", "web01@one"], "missing"),
    ] {
        let said = world.fails(code, args);
        assert!(said.contains(words), "{args:?}: {said}");
    }
    assert!(world.processes().is_empty());
    assert!(world.list().is_empty());
    world.ok(&["unmap", "--all"]);
    world.ok(&["unmap", "--stale"]);
}

#[test]
fn a_disk_without_bytes_is_refused_and_leaves_nothing() {
    if !ready(&["losetup"]) {
        return;
    }
    let world = World::new();
    // Only the tree makes such a disk.
    std::fs::create_dir(world.path("mnt")).unwrap();
    let mut daemon = world
        .command(&["serve", "--json", "--mount", "mnt"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::io::Read::read_exact(daemon.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    let daemon = Running(daemon);
    let vm = world.path("mnt/web01");
    std::fs::create_dir(&vm).unwrap();
    std::fs::create_dir(vm.join("s.partial")).unwrap();
    run("touch", &[text(&vm.join("s.partial/disks/vda.raw"))]);
    std::fs::write(vm.join("s.partial/disks/vdb.raw"), [1; 512]).unwrap();
    std::fs::rename(vm.join("s.partial"), vm.join("one")).unwrap();
    run("umount", &["-l", text(&world.path("mnt"))]);
    drop(daemon);
    let said = world.fails(2, &["map", "web01@one"]);
    assert!(said.contains("0 bytes") && said.contains("vda"), "{said}");
    world.map(&["web01@one/vdb"]);
    world.ok(&["unmap", "web01@one"]);
    world.assert_nothing_left();
}

#[test]
fn who_is_not_root_is_told_what_else_there_is() {
    if !ready(&["losetup", "setpriv"]) {
        return;
    }
    let world = World::new();
    std::fs::write(world.path("b.raw"), [1; 512]).unwrap();
    world.ok(&["backup", "web01", "vda=b.raw", "--point", "one"]);
    // Where the program itself can be entered by others.
    let program = world.path("restorefs");
    std::fs::copy(env!("CARGO_BIN_EXE_restorefs"), &program).unwrap();
    let open = |path: &std::path::Path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    open(&world.path(""));
    open(&program);
    for args in [&["map"][..], &["map", "web01@one"], &["unmap", "--all"]] {
        let output = std::process::Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
            .arg(&program)
            .args(args)
            .env("RESTOREFS_REPO", world.path("repo"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("only root") && said.contains("restorefs mount"),
            "{said}"
        );
    }
}

#[test]
fn there_is_a_bound_of_maps() {
    if !ready(&["losetup"]) {
        return;
    }
    let world = World::new();
    std::fs::write(world.path("b.raw"), [1; 512]).unwrap();
    world.ok(&["backup", "web01", "vda=b.raw", "--point", "one"]);
    let device = world.map(&["web01@one/vda"]);
    for n in 0..255 {
        std::fs::create_dir(world.maps().join(format!("{n:012x}"))).unwrap();
    }
    let said = world.fails(1, &["map", "web01@one/vda"]);
    assert!(said.contains("256 maps"), "{said}");
    world.ok(&["unmap", "--stale"]);
    world.ok(&["unmap", &device]);
    world.assert_nothing_left();
}

#[test]
fn a_kernel_without_the_driver_is_told_from_a_mistake() {
    if !ready(&["losetup", "unshare"]) {
        return;
    }
    let world = World::new();
    std::fs::write(world.path("b.raw"), [1; 512]).unwrap();
    world.ok(&["backup", "web01", "vda=b.raw", "--point", "one"]);
    let output = std::process::Command::new("unshare")
        .args([
            "--mount",
            "sh",
            "-c",
            "mount --make-rprivate / && mount -t tmpfs none /dev && \"$BIN\" map web01@one/vda",
        ])
        .env("BIN", env!("CARGO_BIN_EXE_restorefs"))
        .env("RESTOREFS_REPO", world.path("repo"))
        .env("RESTOREFS_RUNTIME_DIR", world.path("run"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("modprobe loop"), "{said}");
}

#[test]
fn a_directory_that_others_could_exchange_is_refused() {
    if !ready(&["losetup"]) {
        return;
    }
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    let world = World::new();
    std::fs::write(world.path("b.raw"), [1; 512]).unwrap();
    world.ok(&["backup", "web01", "vda=b.raw", "--point", "one"]);
    let (run, maps) = (world.path("run"), world.maps());
    let mode = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    std::fs::create_dir_all(&run).unwrap();
    // A link to where only root writes.
    let elsewhere = world.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    mode(&elsewhere, 0o700);
    symlink(&elsewhere, &maps).unwrap();
    assert!(
        world
            .fails(3, &["map", "web01@one/vda"])
            .contains("symlink")
    );
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
    std::fs::remove_file(&maps).unwrap();
    // Somebody else's, and an open one.
    std::fs::create_dir(&maps).unwrap();
    for (owner, bits) in [(65_534, 0o700), (0, 0o750), (0, 0o701)] {
        chown(&maps, Some(owner), None).unwrap();
        mode(&maps, bits);
        assert!(
            world
                .fails(1, &["map", "web01@one/vda"])
                .contains("closed to others")
        );
    }
    mode(&maps, 0o700);
    // Somebody else's above it, and one that others write.
    for (owner, bits) in [(65_534, 0o755), (0, 0o775), (65_534, 0o1775)] {
        chown(&run, Some(owner), None).unwrap();
        mode(&run, bits);
        for command in [&["map", "web01@one/vda"][..], &["map"]] {
            let said = world.fails(1, command);
            assert!(said.contains("chmod 755"), "{said}");
        }
    }
    // Where others may make a socket's name, nothing is made; what is there already is safe from them.
    chown(&run, Some(0), Some(65_534)).unwrap();
    mode(&run, 0o1775);
    let said = world.fails(1, &["map", "web01@one/vda"]);
    assert!(
        said.contains("listen there in the daemon's place"),
        "{said}"
    );
    world.ok(&["map"]);
    mode(&run, 0o755);
    let device = world.map(&["web01@one/vda"]);
    world.ok(&["unmap", &device]);
    world.assert_nothing_left();
}
