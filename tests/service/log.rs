//! The log: its forms, and a disk that is full.

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::house::{House, PATIENCE};
use crate::kit::need::{can_mount, has};

#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    let house = House::new();
    house.configure("[log]\nlevel = \"trace\"\n", "");
    let mut command = house.command(&[]);
    let full = || {
        std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap()
    };
    command.stderr(full()).stdout(full());
    let service = house.start_by(command);
    for _ in 0..3 {
        service.signal(Signal::HUP);
        house.hear("RELOADING=1");
        house.hear("READY=1");
    }
    house.place.ok(&["sessions"]);
    service.stop();
}

#[test]
fn each_line_is_an_object_where_json_is_wanted() {
    let house = House::new();
    house.configure("[log]\nformat = \"json\"\nlevel = \"info\"\n", "");
    let service = house.start();
    service.signal(Signal::HUP);
    house.hear("RELOADING=1");
    house.hear("READY=1");
    service.stop();
    let log = house.log();
    let lines: Vec<serde_json::Value> = log
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        lines.iter().any(
            |line| line["message"].as_str().unwrap().starts_with("SIGHUP")
                && line["level"] == "INFO"
        ),
        "{log}"
    );
}

#[test]
fn its_level_changes_with_a_reload() {
    let house = House::new();
    house.configure("[log]\nlevel = \"error\"\n", "");
    let service = house.start();
    house.configure("[log]\nlevel = \"info\"\n", "");
    service.signal(Signal::HUP);
    house.hear("READY=1");
    assert!(!house.log().contains("SIGHUP"), "{}", house.log());
    service.signal(Signal::HUP);
    house.hear("READY=1");
    house.wait_for_log("SIGHUP");
    service.stop();
}

#[test]
fn the_journal_gets_messages_and_fields() {
    if !can_mount() || !has("unshare") {
        return;
    }
    let house = House::new();
    house.place.disk("a.raw", 2, 1);
    house.configure("[log]\nformat = \"journald\"\nlevel = \"info\"\n", "");
    let socket = house.place.path("journal");
    let journal = UnixDatagram::bind(&socket).unwrap();
    journal.set_read_timeout(Some(PATIENCE)).unwrap();
    // The journal's place, in a namespace of the daemon's own.
    let plain = house.command(&[]);
    let script = format!(
        "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && touch /run/systemd/journal/socket && \
         mount --bind {} /run/systemd/journal/socket && exec \"$@\"",
        socket.display()
    );
    let wrapped = [plain.get_program()].into_iter().chain(plain.get_args());
    let wrapped: Vec<_> = wrapped.map(ToOwned::to_owned).collect();
    let mut outer = Command::new("unshare");
    outer
        .args(["--mount", "sh", "-c", &script, "sh"])
        .args(wrapped)
        .current_dir(house.place.dir.path());
    for (key, value) in plain.get_envs() {
        match value {
            Some(value) => outer.env(key, value),
            None => outer.env_remove(key),
        };
    }
    outer.stdout(Stdio::null());
    let service = house.start_by(outer);
    house
        .place
        .ok(&["backup", "web01", "vda=a.raw", "--point", "p1"]);
    service.signal(Signal::HUP);
    house.hear("RELOADING=1");
    let mut bytes = vec![0; 65_536];
    let fields = loop {
        let length = journal.recv(&mut bytes).unwrap();
        let said = String::from_utf8_lossy(&bytes[..length]).into_owned();
        if said.contains("SIGHUP") {
            break said;
        }
    };
    for field in ["MESSAGE\n", "PRIORITY\n", "SYSLOG_IDENTIFIER\n", "TARGET\n"] {
        assert!(fields.contains(field), "{field}: {fields:?}");
    }
    // A reload that fails says why, in a field of its own, too.
    house.configure("[log]\nformat = \"journald\"\nlevl = \"info\"\n", "");
    service.signal(Signal::HUP);
    let fields = loop {
        let length = journal.recv(&mut bytes).unwrap();
        let said = String::from_utf8_lossy(&bytes[..length]).into_owned();
        if said.contains("mistake") {
            break said;
        }
    };
    assert!(fields.contains("RESTOREFS_ERROR\n"), "{fields:?}");
    assert!(fields.contains("levl"), "{fields:?}");
    // Nobody takes them any more: it goes on.
    drop(journal);
    service.signal(Signal::HUP);
    house.hear("READY=1");
    service.stop();
}
