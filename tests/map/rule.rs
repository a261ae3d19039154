//! The rule for udev: what it says, and that udev understands it so.

use std::path::Path;
use std::process::Command;

use crate::world::{World, first_partition, ready, text};

const RULE: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/mount-helpers/55-restorefs-map.rules"
));

/// A key, an operator and a value.
type Term<'a> = (&'a str, &'a str, &'a str);

/// Parses a line as udev(7) says: terms separated by commas, each a key, an operator and a value in quotes.
fn terms(line: &str) -> Vec<Term<'_>> {
    line.split(", ")
        .map(|term| {
            let (left, value) = term
                .split_once('"')
                .unwrap_or_else(|| panic!("no value: {term}"));
            let value = value
                .strip_suffix('"')
                .unwrap_or_else(|| panic!("not closed: {term}"));
            let operator =
                left.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || "_{}/".contains(c));
            assert!(["==", "!=", "="].contains(&operator), "{term}");
            (left.strip_suffix(operator).unwrap(), operator, value)
        })
        .collect()
}

#[test]
fn it_is_a_rule_and_says_all_that_others_look_at() {
    let lines: Vec<Vec<Term<'_>>> = RULE
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(terms)
        .collect();
    let end = "restorefs_map_end";
    assert_eq!(lines.last().unwrap(), &[("LABEL", "=", end)]);
    let goto = |key, operator, value| vec![(key, operator, value), ("GOTO", "=", end)];
    assert_eq!(lines[0], goto("SUBSYSTEM", "!=", "block"));
    assert_eq!(lines[1], goto("KERNEL", "!=", "loop[0-9]*"));
    // The device's own attribute, or that of the device of a partition.
    assert_eq!(
        lines[2],
        goto("ATTRS{loop/backing_file}", "!=", "/run/restorefs/map/*")
    );
    for (key, value) in [
        // 60-persistent-storage.rules
        ("UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG", "1"),
        // 64-md-raid-assembly.rules, 64-btrfs.rules, systemd
        ("SYSTEMD_READY", "0"),
        // 69-lvm.rules, 69-bcache.rules, 80-udisks2.rules
        ("DM_UDEV_DISABLE_OTHER_RULES_FLAG", "1"),
        // udisksd
        ("UDISKS_IGNORE", "1"),
    ] {
        let key = format!("ENV{{{key}}}");
        assert!(
            lines[3..].contains(&vec![(key.as_str(), "=", value)]),
            "{key}"
        );
    }
}

/// `udevadm test` in a mount namespace of its own, with the rule for this test's directory.
#[test]
fn udev_leaves_devices_and_partitions_alone() {
    if !ready(&[
        "losetup",
        "sgdisk",
        "mkfs.ext4",
        "partx",
        "udevadm",
        "unshare",
    ]) {
        return;
    }
    if !Path::new("/etc/udev").is_dir() {
        println!("SKIP: /etc/udev");
        return;
    }
    let world = World::with_guest();
    let device = world.map(&["web01@one/vda", "--partitions"]);
    let partition = first_partition(&device);
    let rule = RULE.replace("/run/restorefs/map/", &format!("{}/", text(&world.maps())));
    std::fs::write(world.path("55-restorefs-map.rules"), rule).unwrap();
    let script = "mount --make-rprivate / && mount -t tmpfs none /etc/udev && mkdir /etc/udev/rules.d && \
                  { test \"$1\" = no || cp \"$1\" /etc/udev/rules.d/; } && udevadm test --action=change \"$2\"";
    let test = |rule: &str, node: &str| {
        let name = node.trim_start_matches("/dev/");
        let output = Command::new("unshare")
            .args([
                "--mount",
                "sh",
                "-c",
                script,
                "sh",
                rule,
                &format!("/sys/class/block/{name}"),
            ])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !said.contains("Invalid") && !said.contains("Unknown"),
            "{said}"
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let path = world.path("55-restorefs-map.rules");
    for node in [&device, &partition] {
        let properties = test(text(&path), node);
        for expected in [
            "UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG=1",
            "SYSTEMD_READY=0",
            "DM_UDEV_DISABLE_OTHER_RULES_FLAG=1",
            "UDISKS_IGNORE=1",
        ] {
            assert!(
                properties.lines().any(|line| line.trim() == expected),
                "{node}: {expected} in {properties}"
            );
        }
        assert!(
            !properties.contains("ID_FS_TYPE=") && !properties.contains("/dev/disk/by-uuid"),
            "{node}: {properties}"
        );
        // It is the rule that does it.
        assert!(!test("no", node).contains("UDISKS_IGNORE=1"));
    }
    world.ok(&["unmap", &device]);
    world.assert_nothing_left();
}
