//! Retention as people and timers run it: plan and run, labels, the trash, and what is refused.

use serde_json::Value;

use crate::kit::need::{has, is_root};
use crate::kit::place::Place;

/// Backs up a disk that differs in one cluster from the last one, as a point of this name.
fn back_up(place: &Place, vm: &str, point: &str, seed: u8) {
    let mut bytes = place.disk("a.raw", 24, 1);
    bytes[65_536..131_072].fill(seed);
    std::fs::write(place.path("a.raw"), bytes).unwrap();
    place.ok(&["backup", vm, "vda=a.raw", "--point", point, "-q"]);
}

/// Points `one` to `five`, all captured now.
fn five(place: &Place, vm: &str) {
    for (seed, point) in (1..).zip(["one", "two", "three", "four", "five"]) {
        back_up(place, vm, point, seed);
    }
}

fn names(place: &Place, vm: &str) -> Vec<String> {
    let points = place.json(&["ls", vm]);
    let points = points.as_array().unwrap().iter();
    points
        .map(|point| point["name"].as_str().unwrap().to_owned())
        .collect()
}

/// Each point with whether it stays, and why.
fn verdicts(plan: &Value) -> Vec<String> {
    let points = plan["points"].as_array().unwrap().iter();
    points
        .map(|point| {
            let reasons: Vec<&str> = point["reasons"]
                .as_array()
                .unwrap()
                .iter()
                .map(|reason| reason.as_str().unwrap())
                .collect();
            let (name, keep) = (point["point"].as_str().unwrap(), point["keep"].as_bool());
            format!("{name} {} {}", keep.unwrap(), reasons.join(", "))
        })
        .collect()
}

/// Bytes of the files in `trash/`, as the kernel has them.
fn trash_bytes(place: &Place) -> u64 {
    fn below(dir: &std::path::Path) -> u64 {
        let entries = std::fs::read_dir(dir).unwrap();
        entries
            .map(|entry| {
                let entry = entry.unwrap();
                match entry.file_type().unwrap().is_dir() {
                    true => below(&entry.path()),
                    false => entry.metadata().unwrap().len(),
                }
            })
            .sum()
    }
    below(&place.repo().join("trash"))
}

#[test]
fn a_plan_says_what_the_run_does() {
    let place = Place::new();
    five(&place, "web01");
    let rules = ["forget", "web01", "--keep-last", "2", "--keep-monthly", "2"];
    let args = [rules.as_slice(), &["--no-merge"]].concat();
    let dry = [args.as_slice(), &["--dry-run"]].concat();
    let planned = place.json(&dry);
    assert_eq!(
        verdicts(&planned["vms"][0]),
        [
            "one true oldest",
            "two false no rule keeps it",
            "three false no rule keeps it",
            "four true last",
            "five true last, monthly",
        ]
    );
    // The newest point's chain needs all of them.
    assert_eq!(planned["vms"][0]["freed_bytes"], 0);
    assert_eq!(names(&place, "web01").len(), 5);
    let said = place.ok(&dry);
    assert!(said.contains("web01@five"), "{said}");
    assert!(said.contains("last, monthly"), "{said}");
    assert!(
        said.contains("3 points would be kept, 2 forgotten, 0 B freed"),
        "{said}"
    );
    assert_eq!(place.json(&args), planned);
    assert_eq!(names(&place, "web01"), ["one", "four", "five"]);
    // The same rules again forget nothing.
    let again = place.json(&args);
    assert_eq!(again["vms"][0]["points"].as_array().unwrap().len(), 3);
    assert!(
        verdicts(&again["vms"][0])
            .iter()
            .all(|line| line.contains(" true "))
    );
    let job = &place.json(&["jobs", "web01"])[0];
    assert_eq!(
        (job["kind"].as_str(), job["result"].as_str()),
        (Some("forget"), Some("completed"))
    );
}

/// What is announced is what moves: layers and their sums, measured by the kernel, also below points that were forgotten before.
#[test]
fn freed_bytes_are_those_of_the_layers_that_go() {
    let place = Place::new();
    five(&place, "web01");
    let layers = |before: u64| {
        let all = place.json(&["trash"]);
        let all = all.as_array().unwrap().iter();
        let ours = all.filter(|entry| ["layer", "sums"].contains(&entry["kind"].as_str().unwrap()));
        let bytes: u64 = ours
            .map(|entry| entry["size_bytes"].as_u64().unwrap())
            .sum();
        bytes - before
    };
    let forget = |target: &str| {
        let dry = place.json(&["forget", target, "--dry-run"]);
        let before = layers(0);
        let ran = place.json(&["forget", target, "--no-merge"]);
        assert_eq!(dry, ran);
        let freed = ran["vms"][0]["freed_bytes"].as_u64().unwrap();
        assert_eq!(layers(before), freed, "{target}");
        freed
    };
    assert_eq!(forget("web01@four"), 0);
    assert_eq!(forget("web01@two"), 0);
    // What merging frees is what it is said to free.
    let plan = place.json(&["forget", "web01", "--keep-last", "9", "--dry-run"]);
    let mergeable = plan["vms"][0]["mergeable_bytes"].as_u64().unwrap();
    assert!(mergeable > 0, "{plan}");
    // Its own layer, and that of `four`, which only it needed.
    let freed = forget("web01@latest");
    assert!(freed > 4 * 65_536, "{freed}");
    let rest = place.json(&["forget", "web01", "--all", "--dry-run"]);
    let held: u64 = std::fs::read_dir(place.repo().join("vms/web01/layers"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert_eq!(rest["vms"][0]["freed_bytes"].as_u64(), Some(held));
    place.ok(&["forget", "web01", "--all"]);
    assert!(names(&place, "web01").is_empty());
    assert_eq!(
        std::fs::read_dir(place.repo().join("vms/web01/layers"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn labels_are_kept_in_state_and_index_and_rules_go_by_them() {
    let place = Place::new();
    five(&place, "web01");
    let tagged = place.json(&["tag", "web01@two", "release=1.2", "site=a b"]);
    assert_eq!(tagged["tags"]["site"], "a b");
    assert_eq!(place.ok(&["tag", "WEB01@two"]), "release=1.2\nsite=a b\n");
    place.ok(&["tag", "web01@two", "release=1.3", "--remove", "site"]);
    assert!(place.ok(&["keep", "web01@three"]).contains("kept by hand"));
    let info = place.json(&["info", "web01@two"]);
    assert_eq!(
        (&info["tags"]["release"], &info["kept"]),
        (&"1.3".into(), &false.into())
    );
    assert_eq!(place.json(&["info", "web01@three"])["kept"], true);
    // None of it, or all: a tag that is not there, a key that is none.
    place.fails(1, &["tag", "web01@two", "x=1", "--remove", "nothing"]);
    place.fails(2, &["tag", "web01@two", "=1"]);
    place.fails(2, &["tag", "web01@two", "x"]);
    place.fails(2, &["tag", "web01@two", "x=1", "x=2"]);
    place.fails(2, &["tag", "web01@two", "x=\n"]);
    place.fails(1, &["tag", "web01@six", "x=1"]);
    assert_eq!(place.ok(&["tag", "web01@two"]), "release=1.3\n");
    // The index that is made anew has them from the states.
    let index = place.repo().join("vms/web01/index.json");
    let before: Value = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
    assert_eq!(before["points"][1]["tags"]["release"], "1.3");
    assert_eq!(before["points"][2]["kept"], true);
    assert!(before["points"][0].get("tags").is_none() && before["points"][0].get("kept").is_none());
    std::fs::remove_file(&index).unwrap();
    let rules = [
        "forget",
        "web01",
        "--keep-last",
        "1",
        "--keep-tag",
        "release",
    ];
    let planned = place.json(&[rules.as_slice(), &["-n"]].concat());
    let expected = [
        "one false no rule keeps it",
        "two true tag release=1.3",
        "three true kept by hand",
        "four false no rule keeps it",
        "five true last",
    ];
    assert_eq!(verdicts(&planned["vms"][0]), expected);
    place.ok(&["rebuild-catalog"]);
    let after: Value = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
    for point in 0..5 {
        for member in ["tags", "kept"] {
            assert_eq!(
                after["points"][point].get(member),
                before["points"][point].get(member)
            );
        }
    }
    assert_eq!(verdicts(&place.json(&rules)["vms"][0]), expected);
    place.ok(&["keep", "web01@three", "--remove"]);
    place.ok(&["tag", "web01@two", "--remove", "release"]);
    place.ok(&rules);
    assert_eq!(names(&place, "web01"), ["five"]);
    // By its name it goes, whatever keeps it.
    place.ok(&["keep", "web01@five"]);
    place.ok(&["forget", "web01@five"]);
    assert!(names(&place, "web01").is_empty());
}

/// A state that somebody has changed by hand is repeated by `rebuild-catalog`; one that cannot be read keeps its point.
#[test]
fn the_state_is_the_truth_of_labels() {
    let place = Place::new();
    five(&place, "web01");
    place.ok(&["keep", "web01@one"]);
    let index = place.repo().join("vms/web01/index.json");
    let read = |path: &std::path::Path| -> Value {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    let id = read(&index)["points"][0]["point_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let state = place.repo().join(format!("vms/web01/state/{id}.json"));
    let mut changed = read(&state);
    let fields = changed.as_object_mut().unwrap();
    fields.remove("blake3");
    fields.insert("kept".to_owned(), false.into());
    std::fs::write(&state, changed.to_string()).unwrap();
    assert_eq!(read(&index)["points"][0]["kept"], true);
    place.ok(&["rebuild-catalog"]);
    assert!(read(&index)["points"][0].get("kept").is_none());
    std::fs::write(&state, "{").unwrap();
    std::fs::remove_file(&index).unwrap();
    let planned = place.json(&["forget", "web01", "--keep-last", "1", "-n"]);
    assert_eq!(verdicts(&planned["vms"][0])[0], "one true kept by hand");
}

#[test]
fn several_vms_are_named_by_patterns_and_each_once() {
    let place = Place::new();
    for vm in ["web01", "web02", "db01"] {
        for point in ["a", "b"] {
            back_up(&place, vm, point, 1);
        }
    }
    let plans = |args: &[&str]| {
        let planned = place.json(&[&["forget", "--keep-last", "1", "-n"], args].concat());
        let vms = planned["vms"].as_array().unwrap().iter();
        vms.map(|vm| vm["vm"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(plans(&["web*"]), ["web01", "web02"]);
    assert_eq!(plans(&["*01", "WEB01", "w*"]), ["db01", "web01", "web02"]);
    assert_eq!(plans(&["web0?"]), ["web01", "web02"]);
    let said = place.fails(2, &["forget", "--keep-last", "1", "mail*"]);
    assert!(said.contains("mail*"), "{said}");
    place.fails(1, &["forget", "--keep-last", "1", "mail01"]);
    // A damaged VM does not hold up the others.
    std::fs::write(place.repo().join("vms/web01/vm.json"), "{").unwrap();
    let said = place.fails(3, &["forget", "--keep-last", "1", "*"]);
    assert!(said.contains("web01"), "{said}");
    assert_eq!(names(&place, "web02"), ["b"]);
    assert_eq!(names(&place, "db01"), ["b"]);
    // Points of several VMs, each once.
    place.ok(&["forget", "web02@latest", "db01@b", "db01@latest"]);
    assert!(names(&place, "web02").is_empty() && names(&place, "db01").is_empty());
}

#[test]
fn what_contradicts_itself_or_keeps_nothing_is_refused() {
    let place = Place::new();
    five(&place, "web01");
    for (args, words) in [
        (&["web01"][..], "no rule says"),
        (&["web01", "--keep-last", "0"], "keep no restore point"),
        (
            &["web01", "--keep-daily", "0", "--keep-within", "0d"],
            "keep no restore point",
        ),
        (
            &["web01", "--keep-last", "-1"],
            "--keep-last wants a number",
        ),
        (&["web01", "--keep-daily=-7"], "--keep-daily wants a number"),
        (
            &["web01", "--keep-weekly", "many"],
            "--keep-weekly wants a number",
        ),
        (
            &["web01", "--keep-monthly", "4294967296"],
            "--keep-monthly wants a number",
        ),
        (
            &["web01", "--keep-within", "7"],
            "--keep-within wants years",
        ),
        (
            &["web01", "--keep-within-daily", "-7d"],
            "--keep-within-daily wants years",
        ),
        (&["web01", "--keep-tag", "=x"], "names no tag"),
        (
            &["web01", "--keep-last", "1", "--time-zone", "Mars/Olympus"],
            "\"Mars/Olympus\" is not a time zone",
        ),
        (&["web01", "--time-zone", "UTC"], "keep no restore point"),
        (&["web01@one", "--keep-last", "1"], "rules"),
        (&["web01@one", "web01"], "a VM"),
        (&["web01@one", "--all"], "--all"),
        (&["web01@one", "--unattended"], "--unattended"),
        (&["web01", "--all", "--keep-last", "1"], "rules"),
        (&["web01", "--all", "--unattended"], "--unattended"),
        (&["web*", "--all"], "is a pattern"),
        (&["web*@one"], "web*"),
        (&["--keep-last", "1"], "VM"),
        (&[], "VM"),
    ] {
        let said = place.fails(2, &[&["forget"], args].concat());
        assert!(said.contains(words), "{args:?}: {said}");
    }
    place.fails(1, &["forget", "web01@six"]);
    place.fails(
        10,
        &["forget", "web01", "--keep-last", "1", "-r", "nowhere"],
    );
    assert_eq!(names(&place, "web01").len(), 5);
}

#[test]
fn a_point_in_use_is_skipped_by_rules_and_an_error_by_name() {
    let place = Place::new();
    five(&place, "web01");
    let daemon = place.serve(&[]);
    place.ok(&["begin", "web01", "--parent", "two", "--session", "busy"]);
    let rules = ["forget", "web01", "--keep-last", "1"];
    let planned = place.json(&[rules.as_slice(), &["-n"]].concat());
    let why = "two true in use: the open session web01/busy is compared with it";
    assert_eq!(verdicts(&planned["vms"][0])[1], why);
    let said = place.fails(1, &["forget", "web01@two"]);
    assert!(said.contains("web01/busy"), "{said}");
    assert_eq!(verdicts(&place.json(&rules)["vms"][0])[1], why);
    assert_eq!(names(&place, "web01"), ["two", "five"]);
    place.ok(&["abort", "web01/busy"]);
    place.ok(&rules);
    assert_eq!(names(&place, "web01"), ["five"]);
    // Through the daemon, too.
    place.ok(&["tag", "web01@five", "a=b"]);
    place.ok(&["keep", "web01@latest"]);
    assert_eq!(place.json(&["info", "web01@five"])["tags"]["a"], "b");
    assert!(trash_bytes(&place) > 0);
    place.ok(&["trash", "--empty"]);
    assert_eq!(trash_bytes(&place), 0);
    daemon.stop();
    assert_eq!(place.json(&["ls", "web01"])[0]["kept"], true);
}

/// Rules that were mistyped do not cost a history while nobody looks.
#[test]
fn an_unattended_run_leaves_alone_what_would_lose_most() {
    let place = Place::new();
    five(&place, "web01");
    back_up(&place, "db01", "one", 1);
    back_up(&place, "db01", "two", 2);
    let run = |last: &str, more: &[&str]| {
        let args = [&["forget", "*", "--keep-last", last, "--json"], more].concat();
        let output = place.run(&args);
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code().unwrap(), answer)
    };
    // The first run has nothing to compare with; it forgets one of web01.
    assert_eq!(run("4", &["--unattended"]).0, 0);
    assert_eq!(
        (names(&place, "web01").len(), names(&place, "db01").len()),
        (4, 2)
    );
    // Half is not more than half.
    assert_eq!(run("2", &["--unattended", "--dry-run"]).0, 0);
    let (code, answer) = run("1", &["--unattended", "--dry-run"]);
    assert_eq!(code, 4);
    let why = "3 of the 4 points that the last run has kept would go";
    assert_eq!(answer["vms"][1]["left_alone"], why);
    assert_eq!(answer["vms"][1]["freed_bytes"], 0);
    assert!(answer["vms"][0].get("left_alone").is_none(), "{answer}");
    let (code, _) = run("1", &["--unattended"]);
    assert_eq!(code, 4);
    assert_eq!(
        (names(&place, "web01").len(), names(&place, "db01").len()),
        (4, 1)
    );
    let said = place.fails(4, &["forget", "web01", "--keep-last", "1", "--unattended"]);
    assert!(said.contains("--dry-run"), "{said}");
    // A person is obeyed, and what that run has kept counts from now on.
    assert_eq!(run("1", &[]).0, 0);
    assert_eq!(names(&place, "web01"), ["five"]);
    assert_eq!(run("1", &["--unattended"]).0, 0);
    let record = std::fs::read(place.repo().join("vms/web01/state/retention.json")).unwrap();
    let record: Value = serde_json::from_slice(&record).unwrap();
    assert_eq!(record["kept"].as_array().unwrap().len(), 1);
    // Nothing takes the record for a state that nobody needs.
    back_up(&place, "web01", "six", 6);
    assert!(place.repo().join("vms/web01/state/retention.json").exists());
}

#[test]
fn the_trash_is_listed_by_what_it_was_and_emptied() {
    let place = Place::new();
    five(&place, "web01");
    assert_eq!(place.json(&["trash"]), Value::Array(Vec::new()));
    place.ok(&["tag", "web01@five", "a=b"]);
    place.ok(&["forget", "web01@five"]);
    let all = place.json(&["trash"]);
    let all = all.as_array().unwrap();
    let of = |kind: &str| all.iter().find(|entry| entry["kind"] == kind).expect(kind);
    assert_eq!(
        (&of("point")["vm"], &of("point")["what"]),
        (&"web01".into(), &"five".into())
    );
    for kind in ["layer", "sums", "state"] {
        assert_eq!(of(kind)["vm"], "web01", "{kind}");
    }
    let bytes: u64 = all
        .iter()
        .map(|entry| entry["size_bytes"].as_u64().unwrap())
        .sum();
    assert_eq!(bytes, trash_bytes(&place));
    let (since, goes) = (&of("layer")["since"], &of("layer")["goes_at"]);
    assert!(
        since.as_str() < goes.as_str() && goes.is_string(),
        "{since} {goes}"
    );
    let table = place.ok(&["trash"]);
    assert!(table.contains("restore point  web01  five"), "{table}");
    let emptied = place.json(&["trash", "--empty"]);
    assert_eq!(emptied["freed_bytes"].as_u64(), Some(bytes));
    assert_eq!(emptied["entries"].as_u64(), Some(all.len() as u64));
    assert_eq!(place.json(&["trash"]), Value::Array(Vec::new()));
    assert_eq!(place.json(&["jobs"])[0]["kind"], "empty-trash");
    assert!(place.ok(&["trash", "--empty"]).contains("0 entries"));
    assert_eq!(place.restored("web01@four", "vda").len(), 24 * 65_536);
}

/// A machine without the time zones of the system: UTC needs none.
#[test]
fn without_time_zones_only_utc_is_known() {
    if !is_root() || !has("unshare") {
        return;
    }
    let place = Place::new();
    five(&place, "web01");
    let hide = "for dir in /usr/share/zoneinfo /usr/share/lib/zoneinfo /etc/zoneinfo
                do [ ! -d $dir ] || mount -t tmpfs none $dir; done; exec \"$@\"";
    let run = |zone: &str| {
        let command = place.command(&[
            "forget",
            "web01",
            "--keep-daily",
            "1",
            "-n",
            "--time-zone",
            zone,
        ]);
        let mut alone = std::process::Command::new("unshare");
        alone
            .args(["-m", "sh", "-c", hide, "sh"])
            .arg(command.get_program())
            .args(command.get_args());
        alone.env("RESTOREFS_REPO", place.repo()).output().unwrap()
    };
    let output = run("Europe/Berlin");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("no time zones") && said.contains("tzdata"),
        "{said}"
    );
    assert!(run("UTC").status.success());
}
