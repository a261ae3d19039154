//! The Debian package: made, looked at by lintian, installed, upgraded, removed and purged in a throwaway copy of this machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use crate::assets;
use crate::kit::need::{can_mount, has, need};

/// What happens in the copy: an argument is the directory with the packages. What is wrong ends it, and is said.
const LIFE: &str = include_str!("life.sh");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn said(output: &Output) -> String {
    let (out, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    format!("{out}{error}")
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Two versions of the package with the program that was built for the tests; `None` where none can be made.
fn packages() -> Option<&'static (tempfile::TempDir, [PathBuf; 2])> {
    static MADE: OnceLock<Option<(tempfile::TempDir, [PathBuf; 2])>> = OnceLock::new();
    MADE.get_or_init(|| {
        let cargo = PathBuf::from(env!("CARGO"));
        let has_tool = Command::new(&cargo)
            .args(["deb", "--version"])
            .output()
            .is_ok_and(|o| o.status.success());
        if !need(has_tool, "cargo-deb") || !has("dpkg-deb") || !has("dpkg-shlibdeps") {
            return None;
        }
        let target = Path::new(env!("CARGO_BIN_EXE_restorefs")).parent().unwrap();
        let profile = match target.file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            other => other,
        };
        assets::write(&target.join("assets")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let make = |version: &str| {
            let path = dir.path().join(format!("{version}.deb"));
            let mut command = Command::new(&cargo);
            command.args([
                "deb",
                "--no-build",
                "--strip",
                "--fast",
                "--locked",
                "--offline",
                "--profile",
                profile,
            ]);
            command.args(["--deb-version", version, "-o"]).arg(&path);
            command
                .current_dir(root())
                .env("CARGO_TARGET_DIR", target.parent().unwrap());
            run(&mut command);
            path
        };
        let both = [make("0.1.0-1"), make("0.1.0-2")];
        Some((dir, both))
    })
    .as_ref()
}

#[test]
fn lintian_finds_nothing() {
    let Some((_, [package, _])) = packages() else {
        return;
    };
    if !has("lintian") {
        return;
    }
    let output = Command::new("lintian")
        .args(["--fail-on", "error,warning"])
        .arg(package)
        .output()
        .unwrap();
    let said = said(&output);
    let found: Vec<&str> = said
        .lines()
        .filter(|l| l.starts_with("E:") || l.starts_with("W:"))
        .collect();
    assert!(found.is_empty() && output.status.success(), "{said}");
}

#[test]
fn everything_is_where_debian_looks_for_it() {
    let Some((_, [package, _])) = packages() else {
        return;
    };
    let listing = run(Command::new("dpkg-deb").arg("-c").arg(package));
    let files: Vec<&str> = listing
        .lines()
        .map(|line| line.split_whitespace().nth(5).unwrap())
        .collect();
    for wanted in [
        "./usr/bin/restorefs",
        "./usr/sbin/mount.restorefs",
        "./usr/sbin/mount.fuse.restorefs",
        "./usr/lib/systemd/system/restorefs.service",
        "./usr/lib/systemd/system/restorefs@.service",
        "./usr/lib/systemd/system/restorefs-nbd.socket",
        "./usr/lib/systemd/system/restorefs-http.socket",
        "./usr/lib/systemd/system/restorefs-policy.service",
        "./usr/lib/systemd/system/restorefs-policy.timer",
        "./usr/lib/sysusers.d/restorefs.conf",
        "./usr/lib/tmpfiles.d/restorefs.conf",
        "./usr/lib/udev/rules.d/55-restorefs-map.rules",
        "./etc/restorefs/config.toml",
        "./usr/share/man/man1/restorefs.1.gz",
        "./usr/share/man/man1/restorefs-serve.1.gz",
        "./usr/share/man/man5/restorefs.toml.5.gz",
        "./usr/share/man/man8/mount.restorefs.8.gz",
        "./usr/share/bash-completion/completions/restorefs",
        "./usr/share/doc/restorefs/copyright",
        "./usr/share/doc/restorefs/changelog.gz",
        "./usr/share/doc/restorefs/changelog.Debian.gz",
    ] {
        assert!(files.contains(&wanted), "{wanted} in {listing}");
    }
    let configuration = listing
        .lines()
        .find(|l| l.ends_with("config.toml"))
        .unwrap();
    assert!(configuration.starts_with("-rw-r-----"), "{configuration}");
    let control = run(Command::new("dpkg-deb")
        .arg("-I")
        .arg(package)
        .arg("conffiles"));
    assert_eq!(control.trim(), "/etc/restorefs/config.toml");
    // A page for each subcommand.
    let help = run(Command::new(env!("CARGO_BIN_EXE_restorefs")).arg("--help"));
    let commands = help
        .lines()
        .skip_while(|l| !l.starts_with("Commands:"))
        .skip(1);
    for line in commands.take_while(|l| l.starts_with("  ")) {
        let name = line.split_whitespace().next().unwrap();
        let page = format!("./usr/share/man/man1/restorefs-{name}.1.gz");
        assert!(name == "help" || files.contains(&page.as_str()), "{page}");
    }
}

#[test]
fn a_repository_outlives_install_upgrade_remove_and_purge() {
    let Some((dir, _)) = packages() else {
        return;
    };
    if !can_mount()
        || !["unshare", "systemd-sysusers", "systemd-tmpfiles", "dpkg"]
            .into_iter()
            .all(has)
    {
        return;
    }
    // A root of its own, over this machine's: all mounts go with the process.
    let script = format!(
        "set -eu; at={0}/copy; mkdir -p $at; mount -t tmpfs -o size=2G none $at; mkdir $at/upper $at/work $at/root\n\
         mount -t overlay -o lowerdir=/,upperdir=$at/upper,workdir=$at/work none $at/root\n\
         mkdir -p $at/root/packages; mount --bind {0} $at/root/packages; mount -t proc none $at/root/proc\n\
         mount --rbind /dev $at/root/dev; mount -t tmpfs none $at/root/run; mount -t tmpfs none $at/root/tmp\n\
         exec chroot $at/root /bin/sh -c \"$LIFE\"\n",
        dir.path().display()
    );
    let output = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", &script])
        .env("LIFE", LIFE)
        .output()
        .unwrap();
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("done: all"), "{said}");
}
