//! The log: its forms, and a disk that is full.

use rustix::process::Signal;

use crate::house::House;

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
