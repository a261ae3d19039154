//! Named repositories.

use std::fs;
use std::path::PathBuf;

use crate::filesystem::Filesystem;
use crate::kit::place::Place;
use crate::merge::back_up;

const FILE: &str = "repositories.toml";

/// Makes a repository in the directory `name`, and returns its id.
fn make(place: &Place, name: &str) -> String {
    let made = place.json(&["init", &format!("./{name}")]);
    made["repository_id"].as_str().unwrap().to_owned()
}

/// Copies a repository as `cp -a` does.
fn copy(place: &Place, from: &str, to: &str) {
    let copied = std::process::Command::new("cp")
        .args(["-a", from, to])
        .current_dir(place.dir.path())
        .status();
    assert!(copied.unwrap().success());
}

fn is_empty(dir: &PathBuf) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

#[test]
fn a_name_is_used_wherever_a_directory_is() {
    let place = Place::new();
    back_up(&place, 0, 2, &[]);
    let id = place.json(&["info"])["repository_id"].clone();
    let added = place.json(&["repo", "add", "first", "repo", "--media", "disk"]);
    assert_eq!(added["id"], id);
    assert_eq!(added["path"], place.repo().to_str().unwrap());
    make(&place, "other");
    place.ok(&[
        "repo",
        "add",
        "offsite",
        "other",
        "--media",
        "nas",
        "--offsite",
    ]);
    place.ok(&[
        "-r",
        "offsite",
        "backup",
        "db01",
        "vda=a.raw",
        "--point",
        "one",
    ]);
    assert_eq!(place.json(&["-r", "OffSite", "ls"])[0]["vm"], "db01");
    let by_variable = place
        .command(&["ls"])
        .env("RESTOREFS_REPO", "offsite")
        .output();
    assert!(
        String::from_utf8(by_variable.unwrap().stdout)
            .unwrap()
            .contains("db01")
    );
    // A directory of that name is another thing, and is written with a slash or a dot.
    fs::create_dir(place.path("first")).unwrap();
    assert_eq!(place.json(&["-r", "first", "ls"])[0]["vm"], "web01");
    for path in ["./first", "first/"] {
        place.fails(10, &["-r", path, "ls"]);
    }
    // A word that names nothing is a directory, as ever.
    assert_eq!(place.json(&["-r", "other", "ls"])[0]["vm"], "db01");
    let said = place.fails(10, &["-r", "offsit", "ls"]);
    assert!(said.contains("did you mean offsite"), "{said}");
    let list = place.json(&["repo", "list"]);
    let list = list["repositories"].as_array().unwrap();
    assert_eq!(
        (list[0]["name"].as_str(), list[1]["name"].as_str()),
        (Some("first"), Some("offsite"))
    );
    assert_eq!(
        (&list[0]["vms"], &list[0]["points"]),
        (&1.into(), &2.into())
    );
    assert_eq!(
        (&list[1]["media"], &list[1]["offsite"]),
        (&"nas".into(), &true.into())
    );
    assert!(list.iter().all(|one| one["reachable"] == true));
    assert!(list[0]["used_bytes"].as_u64().unwrap() > 100_000);
    assert!(list[0]["space"]["free_bytes"].as_u64().unwrap() > 0);
    // All of it was stored today.
    let growth = &list[0]["growth"];
    assert_eq!(growth["days"], 1);
    assert!(
        growth["stored_bytes"].as_u64().unwrap() > 1 << 20,
        "{growth}"
    );
    assert!(list[0]["days_until_full"].as_u64().is_some() && list[1]["trash_bytes"] == 0);
    let table = place.ok(&["repo", "list"]);
    assert!(
        table
            .lines()
            .nth(2)
            .unwrap()
            .starts_with("offsite  ok     nas    yes"),
        "{table}"
    );
    // Completion of the word after -r.
    assert_eq!(
        place.ok(&["complete-names", "off", "--", "-r", "off"]),
        "offsite\n"
    );
    assert_eq!(
        place.ok(&["complete-names", "d", "--", "-r", "offsite", "ls", "d"]),
        "db01\n"
    );
    place.ok(&["repo", "remove", "offsite"]);
    place.fails(10, &["-r", "offsite", "ls"]);
    assert_eq!(place.json(&["-r", "./other", "ls"])[0]["vm"], "db01");
}

/// A daemon takes a name from its flag and from its configuration.
#[test]
fn a_daemon_serves_a_name() {
    let place = Place::new();
    place.ok(&["repo", "add", "first", "repo"]);
    let daemon = place.serve(&["-r", "first"]);
    place.disk("a.raw", 4, 1);
    place.ok(&["-r", "first", "backup", "web01", "vda=a.raw"]);
    assert_eq!(place.json(&["status"])["owner"]["role"], "serve");
    daemon.stop();
    let config = place.path("config.toml");
    let config = config.to_str().unwrap();
    for (text, code, part) in [
        ("name = \"first\"", 0, "the configuration is good"),
        ("name = \"frist\"", 2, "did you mean first"),
        (
            "name = \"first\"\npath = \"/x\"",
            2,
            "path and name are both there",
        ),
        ("low_water = \"1G\"", 2, "path is missing"),
    ] {
        fs::write(config, format!("[[repository]]\n{text}\n")).unwrap();
        let output = place.run(&["check-config", config]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{text}: {said}");
        assert!(said.contains(part), "{text}: {said}");
    }
    fs::write(config, "[[repository]]\nname = \"first\"\n").unwrap();
    let daemon = place.serve_config(config);
    assert_eq!(place.json(&["status"])["owner"]["role"], "serve");
    daemon.stop();
    fs::rename(place.repo(), place.path("away")).unwrap();
    fs::create_dir(place.repo()).unwrap();
    for words in [
        &["serve", "-r", "first"][..],
        &["serve", "--config", config],
    ] {
        let said = place.fails(10, words);
        assert!(said.contains("mount the filesystem"), "{said}");
    }
    assert!(is_empty(&place.repo()));
}

/// The directory of a filesystem that is not mounted stays empty, whatever is tried.
#[test]
fn nothing_is_written_where_the_repository_is_not() {
    let place = Place::without_repository();
    place.disk("a.raw", 4, 1);
    let id = make(&place, "mnt");
    place.ok(&["repo", "add", "offsite", "mnt"]);
    fs::rename(place.path("mnt"), place.path("away")).unwrap();
    let mnt = place.path("mnt");
    fs::create_dir(&mnt).unwrap();
    let tried: [&[&str]; 14] = [
        &["-r", "offsite", "ls"],
        &["-r", "offsite", "backup", "web01", "vda=a.raw"],
        &["-r", "offsite", "begin", "web01", "vda=1M"],
        &["-r", "offsite", "init"],
        &["init", "offsite"],
        &["init", "mnt"],
        &["init", "./mnt"],
        &["init", "mnt/restorefs"],
        &["-r", "mnt", "init"],
        &["-r", "offsite", "serve"],
        &["-r", "offsite", "mount", "away"],
        &["-r", "offsite", "verify"],
        &["-r", "offsite", "forget", "web01", "--keep-last", "1"],
        &["-r", "offsite", "rebuild-catalog"],
    ];
    for words in tried {
        let said = place.fails(10, words);
        assert!(said.contains(&id), "{words:?}: {said}");
        assert!(is_empty(&mnt), "{words:?}");
    }
    fs::remove_dir(&mnt).unwrap();
    place.fails(10, &["-r", "offsite", "init"]);
    place.fails(10, &["init", "mnt/deeper/still"]);
    assert!(!mnt.exists());
    // Another repository is there.
    let other = make(&place, "x");
    fs::rename(place.path("x"), &mnt).unwrap();
    let before = fs::read_dir(&mnt).unwrap().count();
    let said = place.fails(10, &["-r", "offsite", "backup", "web01", "vda=a.raw"]);
    assert!(said.contains(&id) && said.contains(&other), "{said}");
    assert_eq!(fs::read_dir(&mnt).unwrap().count(), before);
    let list = place.json(&["repo", "list"]);
    let one = &list["repositories"][0];
    assert_eq!(
        (&one["reachable"], &one["found_id"]),
        (&false.into(), &other.into())
    );
    assert!(place.ok(&["repo", "list"]).contains("another id"));
    // The filesystem is mounted again.
    fs::remove_dir_all(&mnt).unwrap();
    fs::rename(place.path("away"), &mnt).unwrap();
    place.ok(&["-r", "offsite", "backup", "web01", "vda=a.raw"]);
    place.fails(1, &["init", "offsite"]);
    place.fails(1, &["init", "mnt/inside"]);
}

#[test]
fn what_cannot_be_named_is_refused_and_the_file_stays() {
    let place = Place::new();
    make(&place, "repo/vms/inner");
    let text = format!(
        "# names of this machine\nnext = 7 # of a later release\n\n[[repository]]\n# the first\nname = \"one\"\nid = \"{}\"\npath = \"{}\"\nspeed = \"slow\"\n",
        place.json(&["info"])["repository_id"].as_str().unwrap(),
        place.repo().display(),
    );
    fs::write(place.path(FILE), &text).unwrap();
    make(&place, "two");
    fs::create_dir(place.path("empty")).unwrap();
    copy(&place, "repo", "copy");
    for (words, code, part) in [
        (["one", "two"], 1, "taken by"),
        (["ONE", "two"], 1, "taken by"),
        (["new", "empty"], 10, "restorefs init"),
        (["new", "nowhere"], 10, "restorefs init"),
        (["new", "copy"], 1, "restorefs repo new-id"),
        (["new", "repo/vms/inner"], 2, "lies inside the repository"),
        (["a b", "two"], 2, "has characters"),
        (["a/b", "two"], 2, "has characters"),
        (["latest", "two"], 2, "reserved"),
        ([".x", "two"], 2, "does not begin"),
    ] {
        let said = place.fails(code, &["repo", "add", words[0], words[1]]);
        assert!(said.contains(part), "{words:?}: {said}");
        assert_eq!(fs::read_to_string(place.path(FILE)).unwrap(), text);
    }
    place.fails(1, &["repo", "remove", "none"]);
    // A second name of the same directory is allowed, by any path.
    std::os::unix::fs::symlink("repo", place.path("link")).unwrap();
    place.ok(&["repo", "add", "again", "link"]);
    place.ok(&["repo", "add", "second", "two", "--offsite"]);
    let now = fs::read_to_string(place.path(FILE)).unwrap();
    assert!(now.starts_with(&text), "{now}");
    assert_eq!(
        place.json(&["repo", "list"])["same_id"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
    place.ok(&["repo", "remove", "again"]);
    place.ok(&["repo", "remove", "second"]);
    assert_eq!(
        fs::read_to_string(place.path(FILE)).unwrap().trim_end(),
        text.trim_end()
    );
    // A file with a mistake names nothing, and is left alone.
    fs::write(
        place.path(FILE),
        format!("{text}\n[[repository]]\nname = \"x\"\n"),
    )
    .unwrap();
    for words in [
        &["-r", "one", "ls"][..],
        &["repo", "list"],
        &["repo", "add", "new", "two"],
        &["repo", "remove", "one"],
    ] {
        let said = place.fails(2, words);
        assert!(said.contains(FILE), "{said}");
    }
    // A path needs no name.
    place.ok(&["-r", "./repo", "ls"]);
}

#[test]
fn a_copy_with_the_same_id_is_told_and_gets_its_own() {
    let place = Place::new();
    let contents = back_up(&place, 0, 3, &[]);
    place.ok(&["repo", "add", "first", "repo"]);
    let id = place.json(&["info"])["repository_id"]
        .as_str()
        .unwrap()
        .to_owned();
    copy(&place, "repo", "copy");
    let both = [place.repo(), place.path("copy")].map(|path| path.display().to_string());
    // The copy has no name, and is at hand.
    for words in [
        &["-r", "copy", "repo", "list"][..],
        &["-r", "copy", "check"],
    ] {
        let output = place.run(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(
            both.iter().all(|path| said.contains(path)) && said.contains(&id),
            "{said}"
        );
    }
    assert_eq!(
        place.json(&["-r", "copy", "check"])["same_id"][0]["id"],
        *id
    );
    // The same directory by another path is no copy.
    std::os::unix::fs::symlink("repo", place.path("link")).unwrap();
    for words in [&["-r", "link", "check"][..], &["-r", "repo", "check"]] {
        assert!(place.run(words).stderr.is_empty(), "{words:?}");
    }
    // Both have a name, as somebody has written it.
    let text = fs::read_to_string(place.path(FILE)).unwrap();
    let second = text
        .replace("\"first\"", "\"second\"")
        .replace(&both[0], &both[1]);
    fs::write(place.path(FILE), format!("{text}# the copy\n{second}")).unwrap();
    assert_eq!(
        place.json(&["repo", "list"])["same_id"][0]["paths"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let daemon = place.serve(&["-r", "copy"]);
    let said = place.fails(11, &["repo", "new-id", "second"]);
    assert!(said.contains("serve"), "{said}");
    daemon.stop();
    let answer = place.json(&["repo", "new-id", "second"]);
    assert_eq!(
        (&answer["old_id"], &answer["names"]),
        (&id.as_str().into(), &serde_json::json!(["second"]))
    );
    let new = answer["repository_id"].as_str().unwrap();
    assert_ne!(new, id);
    assert_eq!(place.json(&["-r", "second", "info"])["repository_id"], *new);
    assert_eq!(place.json(&["-r", "first", "info"])["repository_id"], *id);
    assert!(
        fs::read_to_string(place.path(FILE))
            .unwrap()
            .contains("# the copy")
    );
    assert_eq!(
        place.json(&["repo", "list"])["same_id"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
    // The copy is whole: its catalog, its chains, and what is added to them.
    let output = place.run(&["-r", "second", "verify"]);
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    place.disk("a.raw", 96, 77);
    let output = place.run(&[
        "-r",
        "second",
        "backup",
        "web01",
        "vda=a.raw",
        "--point",
        "more",
    ]);
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    place.ok(&["-r", "second", "restore", "web01@p01", "vda", "out.raw"]);
    assert!(fs::read(place.path("out.raw")).unwrap() == contents["p01"]);
    // By a directory, and by --repo.
    let again = place.json(&["repo", "new-id", "./copy"]);
    assert_eq!(
        (&again["old_id"], &again["names"][0]),
        (&new.into(), &"second".into())
    );
    assert!(
        place.json(&["-r", "copy", "repo", "new-id"])["repository_id"] != again["repository_id"]
    );
    assert_eq!(
        place.json(&["-r", "second", "info"])["repository_id"],
        place.json(&["-r", "copy", "info"])["repository_id"]
    );
    place.fails(10, &["repo", "new-id", "nowhere"]);
}

/// The result of each test, by its name.
fn tried(place: &Place, refused: &str, words: &[&str]) -> (Option<i32>, serde_json::Value) {
    let mut all = vec!["repo", "test", "--quick", "--json"];
    all.extend_from_slice(words);
    let output = place
        .command(&all)
        .env("RESTOREFS_REFUSE", refused)
        .output()
        .unwrap();
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let tests = found["tests"].as_array().unwrap().iter();
    let results = tests.map(|one| {
        (
            one["test"].as_str().unwrap().to_owned(),
            one["result"].clone(),
        )
    });
    (
        output.status.code(),
        serde_json::Value::Object(results.collect()),
    )
}

#[test]
fn a_directory_is_tried_and_left_as_it_was() {
    let place = Place::new();
    back_up(&place, 0, 1, &[]);
    fs::create_dir(place.path("dir")).unwrap();
    let dir = place.path("dir");
    let table = place.ok(&["repo", "test", "dir"]);
    for part in [
        "flock",
        "hard links",
        "reflink",
        "fsync of a directory",
        "sequential write",
        "sequential read",
        "free of",
    ] {
        assert!(
            table.lines().any(|line| line.contains(part)),
            "{part}: {table}"
        );
    }
    assert!(is_empty(&dir));
    // Each ability that is missing is told, and what follows; only some are needed.
    for (refused, test, code) in [
        ("reflink", "reflink", 0),
        ("link", "hard links", 0),
        ("punch", "hole punching", 0),
        ("immutable", "immutable flag", 0),
        ("renameat2", "rename without replacing", 0),
        ("openat2", "openat2", 0),
        ("flock", "flock", 1),
    ] {
        let (found, results) = tried(&place, refused, &["dir"]);
        assert_eq!(found, Some(code), "{refused}: {results}");
        assert_eq!(results[test], "no", "{refused}: {results}");
        assert!(is_empty(&dir), "{refused}");
    }
    let (_, results) = tried(&place, "", &["dir"]);
    assert_eq!(
        (&results["flock"], &results["rename over a file"]),
        (&"yes".into(), &"yes".into())
    );
    // A repository, beside its daemon, stays as it is.
    let listed = || {
        let mut names: Vec<_> = fs::read_dir(place.repo())
            .unwrap()
            .map(|one| one.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    let daemon = place.serve(&[]);
    let before = listed();
    assert_eq!(tried(&place, "", &[]).0, Some(0));
    assert_eq!(listed(), before);
    daemon.stop();
    // By a name, whose filesystem is not mounted.
    place.ok(&["repo", "add", "first", "repo"]);
    assert_eq!(tried(&place, "", &["first"]).0, Some(0));
    fs::rename(place.repo(), place.path("away")).unwrap();
    fs::create_dir(place.repo()).unwrap();
    place.fails(10, &["repo", "test", "first"]);
    assert!(is_empty(&place.repo()));
    place.fails(1, &["repo", "test", "nowhere"]);
    assert!(!place.path("nowhere").exists());
}

#[test]
fn a_trial_that_is_ended_leaves_nothing() {
    let place = Place::without_repository();
    let dir = place.path("dir");
    fs::create_dir(&dir).unwrap();
    for pause in [0, 5, 20, 60, 300, 1000] {
        let mut command = place.command(&["repo", "test", "dir"]);
        let quiet = std::process::Stdio::null;
        let mut child = command.stdout(quiet()).stderr(quiet()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(pause));
        let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(!child.wait().unwrap().success(), "{pause}");
        assert!(is_empty(&dir), "{pause}");
    }
}

/// A filesystem of its own: the warning when little is free, and what a name does while it is not mounted.
#[test]
fn a_filesystem_that_is_nearly_full_and_then_not_mounted() {
    let Some(filesystem) = Filesystem::new("ext4", 64) else {
        return;
    };
    let place = &filesystem.place;
    place.ok(&["repo", "add", "small", "repo", "--media", "disk"]);
    let warns = |words: &[&str]| {
        let output = place.run(words);
        assert!(output.status.success(), "{output:?}");
        let both = [output.stdout, output.stderr].concat();
        String::from_utf8(both)
            .unwrap()
            .contains("less than a tenth")
    };
    assert!(!warns(&["repo", "list"]) && !warns(&["-r", "small", "status"]));
    let free = place.json(&["-r", "small", "status"])["space"]["free_bytes"]
        .as_u64()
        .unwrap();
    let filler = place.repo().join("cache/filler");
    fs::write(&filler, vec![1; (free - (2 << 20)) as usize]).unwrap();
    assert!(warns(&["repo", "list"]) && warns(&["-r", "small", "status"]));
    let status = place.json(&["-r", "small", "status"]);
    assert_eq!(status["space"]["is_low"], true);
    fs::remove_file(filler).unwrap();
    filesystem.unmount();
    place.disk("a.raw", 4, 1);
    for words in [
        &["-r", "small", "backup", "web01", "vda=a.raw"][..],
        &["-r", "small", "init"],
        &["init", "repo"],
        &["-r", "small", "serve"],
        &["repo", "test", "small"],
    ] {
        place.fails(10, words);
        assert!(is_empty(&place.repo()), "{words:?}");
    }
    assert!(place.ok(&["repo", "list"]).contains("not there"));
    filesystem.mount();
    place.ok(&["-r", "small", "backup", "web01", "vda=a.raw"]);
}
