//! The rule for udev: its text, and how udev interprets it.

use std::path::Path;
use std::process::Command;

use crate::kit::need::need;
use crate::world::{World, ready};

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

/// A machine where udevd runs, as far as it can be seen: `/run` and `/etc/udev` of our own, in a mount namespace. The maps are at their
/// usual place there, so the rule is tried as it is installed.
const MACHINE: &str = r#"
set -e
mount --make-rprivate /
# Mounts of other tests: a copy of them would keep their devices in use.
awk '/ - fuse(\.[^ ]*)? | - [a-z0-9]+ \/dev\/loop/ {print $5}' /proc/self/mountinfo | while read -r other; do umount -l "$other" || :; done
mount -t tmpfs none /run
mount -t tmpfs none /etc/udev
mkdir /run/udev /etc/udev/rules.d
touch /run/udev/control
trap '"$BIN" unmap --all' EXIT
if "$BIN" map web01@one/vda --partitions 2>"$OUT/refused"; then exit 70; else test $? = 2; fi
if "$BIN" map web01@one/vdb 2>"$OUT/refused-whole"; then exit 71; else test $? = 2; fi
RESTOREFS_RUNTIME_DIR=/run/elsewhere "$BIN" map web01@one/vdb 2>"$OUT/warned"
RESTOREFS_RUNTIME_DIR=/run/elsewhere "$BIN" unmap --all
cp "$RULE" /etc/udev/rules.d/
device=$("$BIN" map web01@one/vda --partitions 2>"$OUT/quiet")
name=${device#/dev/}
test -e "/sys/block/$name/${name}p1" || partx --add "$device"
for path in "/sys/block/$name" "/sys/block/$name/${name}p1"; do
    for action in add change; do
        udevadm test --action=$action "$path" >>"$OUT/ruled" 2>>"$OUT/said"
    done
done
rm /etc/udev/rules.d/*
udevadm test --action=change "/sys/block/$name" >"$OUT/unruled" 2>>"$OUT/said"
"$BIN" unmap "$device"
test -z "$(ls /run/restorefs/map | grep -v lock)"
"#;

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
    if !need(Path::new("/etc/udev").is_dir(), "/etc/udev") {
        return;
    }
    let world = World::with_guest();
    let out = world.path("out");
    std::fs::create_dir(&out).unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", MACHINE])
        .env("BIN", env!("CARGO_BIN_EXE_restorefs"))
        .env(
            "RULE",
            concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/mount-helpers/55-restorefs-map.rules"
            ),
        )
        .env("OUT", &out)
        .env("RESTOREFS_REPO", world.path("repo"))
        .env_remove("RESTOREFS_RUNTIME_DIR")
        .output()
        .unwrap();
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap_or_default();
    assert!(
        output.status.success(),
        "{output:?} {} {}",
        read("quiet"),
        read("said")
    );
    for name in ["refused", "refused-whole"] {
        let said = read(name);
        let advice = "install -m 644 mount-helpers/55-restorefs-map.rules";
        assert!(said.contains(advice), "{name}: {said}");
    }
    assert!(read("warned").contains("udev probes"), "{}", read("warned"));
    assert_eq!(read("quiet"), "");
    assert!(
        !read("said").contains("Invalid") && !read("said").contains("Unknown"),
        "{}",
        read("said")
    );
    let ruled = read("ruled");
    for expected in [
        "UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG=1",
        "SYSTEMD_READY=0",
        "DM_UDEV_DISABLE_OTHER_RULES_FLAG=1",
        "UDISKS_IGNORE=1",
    ] {
        // The device and its partition, at both actions.
        let count = ruled.lines().filter(|line| line.trim() == expected).count();
        assert_eq!(count, 4, "{expected} in {ruled}");
    }
    assert!(
        !ruled.contains("ID_FS_TYPE=") && !ruled.contains("/dev/disk/by-uuid"),
        "{ruled}"
    );
    // It is the rule that does it.
    assert!(!read("unruled").contains("UDISKS_IGNORE=1"));
}
