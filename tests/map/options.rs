//! What a read-only map of a filesystem that was in use needs to be mounted, as the kernel has it.

use std::process::Command;

use crate::world::{Mount, World, ready, run, text};

#[test]
fn the_mount_options_of_a_dirty_filesystem_are_said() {
    if !ready(&["losetup", "mkfs.ext4", "mkfs.xfs"]) {
        return;
    }
    for (mkfs, options) in [
        (&["mkfs.ext4", "-qF"][..], "ro,noload"),
        (&["mkfs.xfs", "-q"], "ro,norecovery"),
    ] {
        let world = World::new();
        let image = world.path("live.raw");
        let file = std::fs::File::create(&image).unwrap();
        file.set_len(320 << 20).unwrap();
        run(mkfs[0], &[&mkfs[1..], &[text(&image)]].concat());
        std::fs::copy(&image, world.path("clean.raw")).unwrap();
        let at = world.path("live");
        let mounted = Mount::new("loop", text(&image), at.clone());
        for n in 0..50 {
            std::fs::write(at.join(format!("file-{n}")), "content").unwrap();
        }
        run("sync", &["-f", text(&at)]);
        run(
            "cp",
            &[
                "--sparse=always",
                text(&image),
                text(&world.path("dirty.raw")),
            ],
        );
        drop(mounted);
        for (vm, is_dirty) in [("dirty", true), ("clean", false)] {
            world.ok(&["backup", vm, &format!("vda={vm}.raw")]);
            let output = world.run(&["map", &format!("{vm}@latest/vda")]);
            let told = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{told}");
            assert_eq!(told.contains(options), is_dirty, "{told}");
            let device = String::from_utf8(output.stdout).unwrap();
            let device = device.trim();
            let target = world.path(vm);
            std::fs::create_dir(&target).unwrap();
            let plain = Command::new("mount")
                .args(["-o", "ro", device, text(&target)])
                .output()
                .unwrap();
            assert_eq!(plain.status.success(), !is_dirty);
            if is_dirty {
                run("mount", &["-o", options, device, text(&target)]);
            }
            run("umount", &[text(&target)]);
            world.ok(&["unmap", "--all"]);
        }
        world.assert_nothing_left();
    }
}
