//! The units, by systemd's own judgement, without a systemd that runs.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kit::need::has;

/// LIMIT: what `systemd-analyze security` may say of a daemon of ours, in tenths; 100 is a service without any restriction.
const EXPOSURE_MAX: u32 = 25;

const POLICY: &str = "restorefs-policy.service";

const UNITS: [&str; 6] = [
    "restorefs.service",
    "restorefs@.service",
    "restorefs-nbd.socket",
    "restorefs-http.socket",
    POLICY,
    "restorefs-policy.timer",
];

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("systemd")
        .join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(shipped(name)).unwrap()
}

/// The values of a setting of a unit, in order.
fn settings<'a>(unit: &'a str, name: &str) -> Vec<&'a str> {
    unit.lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        .collect()
}

/// The units with this build as the program, so that systemd finds it.
fn unpacked(dir: &Path) -> Vec<PathBuf> {
    UNITS
        .iter()
        .map(|name| {
            let unit = text(name).replace("/usr/bin/restorefs", env!("CARGO_BIN_EXE_restorefs"));
            // An instance, as a template alone is no unit.
            let path = dir.join(name.replace("@.", "@srv-repo."));
            std::fs::write(&path, unit).unwrap();
            path
        })
        .collect()
}

#[test]
fn systemd_has_nothing_to_say_against_the_units() {
    if !has("systemd-analyze") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let verify = |paths: &[PathBuf]| {
        Command::new("systemd-analyze")
            .args(["verify", "--man=no", "--recursive-errors=no"])
            .args(paths)
            .output()
            .unwrap()
    };
    let paths = unpacked(dir.path());
    let output = verify(&paths);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let ours: Vec<&str> = said.lines().filter(|l| l.contains("restorefs")).collect();
    assert!(ours.is_empty() && output.status.success(), "{said}");
    // The test can tell.
    let bad = text(UNITS[0]).replace("WatchdogSec=2min", "WatchdogSec=soon\nColour=blue");
    std::fs::write(&paths[0], bad).unwrap();
    let said = verify(&paths);
    let said = String::from_utf8_lossy(&said.stderr);
    assert!(said.contains("Colour") && said.contains("soon"), "{said}");
}

#[test]
fn the_daemons_are_exposed_little() {
    if !has("systemd-analyze") {
        return;
    }
    for unit in &UNITS[..2] {
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager"])
            .arg(format!("--threshold={EXPOSURE_MAX}"))
            .arg(shipped(unit))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{unit}: {said}");
        assert!(said.contains("Overall exposure level"), "{said}");
        // Nothing that would be easy to add.
        for line in said.lines().filter(|line| line.starts_with('✗')) {
            let cost: f64 = line
                .split_whitespace()
                .last()
                .unwrap()
                .parse()
                .unwrap_or(0.0);
            assert!(cost <= 0.5, "{unit}: {line}");
        }
    }
}

#[test]
fn both_daemons_are_restricted_alike() {
    let strict = |name: &str| -> Vec<String> {
        let unit = text(name);
        let from = unit.find("# What it may do").unwrap();
        let to = unit.find("[Install]").unwrap();
        unit[from..to].lines().map(str::to_owned).collect()
    };
    assert_eq!(strict(UNITS[0]), strict(UNITS[1]));
    for name in &UNITS[..2] {
        let unit = text(name);
        assert_eq!(settings(&unit, "Type"), ["notify"]);
        assert_eq!(settings(&unit, "User"), ["restorefs"]);
        // Mounts are made where others see them; nothing else is done as root.
        let full: Vec<&str> = unit
            .lines()
            .filter(|l| l.contains("=+") || l.contains("=-+"))
            .collect();
        assert_eq!(full.len(), 4, "{full:?}");
        assert!(
            full.iter()
                .all(|l| l.contains("mount --config") && l.contains("/proc/1/ns/mnt")),
            "{full:?}"
        );
        // What the readers of guests do to themselves must not be forbidden to them.
        let calls = settings(&unit, "SystemCallFilter").join(" ");
        for call in ["landlock_restrict_self", "seccomp", "capset", "setrlimit"] {
            assert!(calls.contains(call), "{name}: {call}");
        }
        // @ipc has pipes and memfd_create, RestrictSUIDSGID= takes openat2.
        assert!(!calls.contains("@ipc"));
        assert!(settings(&unit, "RestrictSUIDSGID").is_empty());
    }
}

#[test]
fn the_daemon_has_time_to_stop() {
    let minutes = |value: &str| -> u32 { value.strip_suffix("min").unwrap().parse().unwrap() };
    let configuration = text("config.toml");
    assert!(configuration.contains("stop_timeout = \"60s\""));
    for name in &UNITS[..2] {
        let unit = text(name);
        assert!(minutes(settings(&unit, "TimeoutStopSec")[0]) * 60 > 60);
    }
}

/// The policies run as the daemon's user, with no more rights, and a run that was missed is caught up at the next start.
#[test]
fn policies_are_run_by_a_timer_as_the_daemons_user() {
    let (service, timer) = (text(POLICY), text("restorefs-policy.timer"));
    let daemon = text(UNITS[0]);
    for name in [
        "User",
        "Group",
        "CapabilityBoundingSet",
        "NoNewPrivileges",
        "ProtectSystem",
    ] {
        assert_eq!(settings(&service, name), settings(&daemon, name), "{name}");
    }
    assert_eq!(
        settings(&service, "ExecStart"),
        ["/usr/bin/restorefs policy run --config /etc/restorefs/config.toml"]
    );
    assert_eq!(settings(&service, "TimeoutStartSec"), ["infinity"]);
    assert_eq!(settings(&timer, "Persistent"), ["true"]);
    assert!(settings(&service, "WantedBy").is_empty());
    if has("systemd-analyze") {
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager", "--threshold=45"])
            .arg(shipped(POLICY))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}");
    }
}
