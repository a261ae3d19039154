//! Copies at another repository: equal to the originals in every bit, sent once, whoever owns either side. The right values are what
//! was backed up, and what `qemu-img` and `cmp` say of both sides.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::kit::need::has;
use crate::kit::place::{Daemon, Place};
use crate::merge::back_up;
use crate::tool;

/// A place whose repository is copied to another one, `b`, beside it.
pub(crate) struct Pair {
    pub(crate) place: Place,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let place = Place::new();
        place.ok(&["init", "b"]);
        Self { place }
    }

    /// Runs the program on the repository `b`.
    pub(crate) fn there(&self, args: &[&str]) -> Output {
        let mut command = self.place.command(args);
        let there = command.env("RESTOREFS_REPO", self.place.path("b"));
        there.output().unwrap()
    }

    #[track_caller]
    pub(crate) fn there_ok(&self, args: &[&str]) -> String {
        let output = self.there(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn there_fails(&self, args: &[&str]) -> String {
        let output = self.there(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        said
    }

    /// Copies `web01`; returns its part of the answer.
    #[track_caller]
    pub(crate) fn copy(&self, more: &[&str]) -> Value {
        let mut args = vec!["copy", "web01", "--to", "./b"];
        args.extend_from_slice(more);
        self.place.json(&args)["vms"][0].clone()
    }

    /// The bytes of a disk of a point, as the target has them.
    pub(crate) fn restored_there(&self, point: &str) -> Vec<u8> {
        let _ = std::fs::remove_file(self.place.path("there.raw"));
        self.there_ok(&["restore", point, "vda", "there.raw"]);
        std::fs::read(self.place.path("there.raw")).unwrap()
    }

    /// Whether the target has exactly these contents, and is sound.
    #[track_caller]
    pub(crate) fn check(&self, vm: &str, contents: &BTreeMap<String, Vec<u8>>) {
        self.there_ok(&["verify"]);
        assert_eq!(
            self.points_there(vm),
            contents.keys().cloned().collect::<Vec<_>>()
        );
        for (point, bytes) in contents {
            let found = self.restored_there(&format!("{vm}@{point}"));
            assert!(found == *bytes, "{point}");
        }
        if has("qemu-img") {
            for point in contents.keys() {
                let (here, there) = (
                    self.layer("repo", "web01", point),
                    self.layer("b", vm, point),
                );
                let args = ["compare", "-f", "qcow2", "-F", "qcow2"];
                let args = [&args[..], &[text(&here), text(&there)]].concat();
                tool::ok(&self.place, "qemu-img", &args);
            }
        }
    }

    pub(crate) fn points_there(&self, vm: &str) -> Vec<String> {
        let listed = self.there_ok(&["ls", vm, "--json"]);
        let listed: Value = serde_json::from_str(&listed).unwrap();
        let mut names: Vec<String> = listed
            .as_array()
            .unwrap()
            .iter()
            .map(|point| point["name"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    }

    fn layer(&self, repo: &str, vm: &str, point: &str) -> PathBuf {
        let repo = self.place.path(repo);
        let sidecar = repo.join(format!("vms/{vm}/points/{point}/point.json"));
        let sidecar: Value = serde_json::from_slice(&std::fs::read(sidecar).unwrap()).unwrap();
        let slot = sidecar["disks"][0]["layer"].as_str().unwrap();
        repo.join(format!("vms/{vm}/layers/{slot}.qcow2"))
    }

    /// Starts a daemon for the repository `b`.
    pub(crate) fn serve_there(&self) -> Daemon {
        let b = self.place.path("b");
        self.place.serve(&["--repo", text(&b)])
    }

    pub(crate) fn files_there(&self, vm: &str) -> Vec<String> {
        names(&self.place.path(&format!("b/vms/{vm}/layers")))
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn sent(vm: &Value) -> u64 {
    vm["sent_bytes"].as_u64().unwrap()
}

fn states(vm: &Value) -> Vec<&str> {
    let points = vm["points"].as_array().unwrap().iter();
    points
        .map(|point| point["state"].as_str().unwrap())
        .collect()
}

#[test]
fn what_is_copied_is_equal_and_is_sent_once() {
    let pair = Pair::new();
    let place = &pair.place;
    let mut contents = back_up(place, 0, 3, &[]);
    contents.extend(back_up(place, 3, 2, &["--compress", "zstd"]));
    std::fs::write(place.path("note.txt"), "kept with it").unwrap();
    contents.extend(back_up(place, 5, 1, &["--attach", "note.txt"]));
    let trial = pair.copy(&["--dry-run"]);
    assert_eq!(states(&trial), ["due"; 6]);
    assert!(!place.path("b/vms/web01").exists());
    let copied = pair.copy(&[]);
    assert_eq!(states(&copied), ["copied"; 6], "{copied}");
    assert_eq!(copied["kept"], true);
    pair.check("web01", &contents);
    // Byte for byte, sums and sidecars too.
    assert_eq!(
        names(&place.path("repo/vms/web01/layers")),
        pair.files_there("web01")
    );
    for point in contents.keys() {
        for file in ["point.json", "attached/note.txt"] {
            let of = |repo| {
                std::fs::read(place.path(&format!("{repo}/vms/web01/points/{point}/{file}")))
            };
            assert_eq!(of("repo").ok(), of("b").ok(), "{point} {file}");
        }
        assert_eq!(
            std::fs::read(pair.layer("repo", "web01", point)).unwrap(),
            std::fs::read(pair.layer("b", "web01", point)).unwrap()
        );
    }
    let again = pair.copy(&[]);
    assert_eq!((states(&again), sent(&again)), (vec!["present"; 6], 0));
    // Only what is new is sent, and what the source knows of it is in its index.
    contents.extend(back_up(place, 6, 1, &[]));
    let more = pair.copy(&[]);
    assert!(sent(&more) < 2 << 20 && sent(&more) > 0, "{more}");
    pair.check("web01", &contents);
    let index = std::fs::read(place.repo().join("vms/web01/index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    for point in index["points"].as_array().unwrap() {
        assert_eq!(point["copies"].as_array().unwrap().len(), 1, "{point}");
        assert!(point["copies"][0]["verified_at"].is_string());
    }
    let info = place.json(&["info", "web01@latest"]);
    assert_eq!(info["copies"].as_array().unwrap().len(), 1, "{info}");
    // The VM takes no backups there until it is adopted, and no copies afterwards.
    let said = pair.there_fails(&["backup", "web01", "vda=a.raw"]);
    assert!(said.contains("restorefs adopt web01"), "{said}");
    pair.there_ok(&["adopt", "web01"]);
    pair.there_ok(&["backup", "web01", "vda=a.raw", "--point", "own"]);
    let said = place.fails(1, &["copy", "web01", "--to", "./b"]);
    assert!(said.contains("was adopted"), "{said}");
    assert!(pair.there_ok(&["adopt", "web01"]).contains("is no copy"));
}

#[test]
fn a_merge_on_either_side_costs_nothing() {
    let pair = Pair::new();
    let place = &pair.place;
    let mut contents = back_up(place, 0, 8, &[]);
    pair.copy(&[]);
    // The source merges what the target has.
    for gone in ["p01", "p02", "p05"] {
        contents.remove(gone);
    }
    place.ok(&["forget", "web01@p01", "web01@p02", "web01@p05"]);
    place.ok(&["forget", "web01", "--compact"]);
    let after = pair.copy(&[]);
    assert_eq!(sent(&after), 0, "{after}");
    // So does the target, with other points: the next layer stands on what is there.
    pair.there_ok(&["forget", "web01@p01", "web01@p02", "web01@p05", "web01@p06"]);
    pair.there_ok(&["forget", "web01", "--compact"]);
    contents.extend(back_up(place, 8, 1, &[]));
    let after = pair.copy(&["--point", "p08"]);
    assert!(sent(&after) < 2 << 20, "{after}");
    let has_p06 = contents.remove("p06").unwrap();
    pair.check("web01", &contents);
    // A point that the target has forgotten is sent again when that is asked for, with what it needs.
    let after = pair.copy(&[]);
    assert_eq!(sent(&after), 0, "{after}");
    pair.check("web01", &contents);
    pair.copy(&["--again"]);
    contents.insert("p06".to_owned(), has_p06);
    pair.check("web01", &contents);
    // Hidden layers come along into an empty repository, and are listed there.
    let other = place.path("c");
    place.ok(&["init", text(&other)]);
    place.ok(&["forget", "web01@p03"]);
    let hidden = back_up(place, 9, 1, &[]);
    place.ok(&["copy", "web01", "--to", text(&other)]);
    place.ok(&["-r", text(&other), "verify"]);
    let raw = place.path("c.raw");
    place.ok(&[
        "-r",
        text(&other),
        "restore",
        "web01@p09",
        "vda",
        text(&raw),
    ]);
    assert!(std::fs::read(raw).unwrap() == hidden["p09"]);
    let of = |repo: &Path| -> Value {
        serde_json::from_slice(&std::fs::read(repo.join("vms/web01/index.json")).unwrap()).unwrap()
    };
    let (here, there) = (of(&place.repo()), of(&other));
    assert!(here["hidden"].as_array().is_some_and(|h| !h.is_empty()));
    assert_eq!(here["hidden"], there["hidden"]);
}

#[test]
fn names_that_are_taken() {
    let pair = Pair::new();
    let place = &pair.place;
    back_up(place, 0, 2, &[]);
    pair.copy(&[]);
    // The name of a point is used again: identity is the id.
    let first = pair.restored_there("web01@p01");
    place.ok(&["forget", "web01@p01"]);
    let second = back_up(place, 1, 1, &[]);
    place.ok(&["forget", "web01@p00"]);
    let copied = pair.copy(&[]);
    assert_eq!(copied["points"][0]["name"], "p01-2", "{copied}");
    for _ in 0..2 {
        assert_eq!(pair.points_there("web01"), ["p00", "p01", "p01-2"]);
        assert!(pair.restored_there("web01@p01") == first);
        assert!(pair.restored_there("web01@p01-2") == second["p01"]);
        // Also from the sidecars alone.
        std::fs::remove_file(place.path("b/vms/web01/index.json")).unwrap();
        pair.there_ok(&["rebuild-catalog"]);
    }
    // Another VM has the name.
    place.ok(&["init", "c"]);
    place.ok(&["-r", "./c", "backup", "web01", "vda=a.raw"]);
    let said = place.fails(1, &["copy", "web01", "--to", "./c"]);
    assert!(
        said.contains("another VM web01") && said.contains("--as"),
        "{said}"
    );
    place.ok(&["copy", "web01", "--to", "./c", "--as", "web01-main"]);
    // It is known by its id from then on.
    let again = place.json(&["copy", "web01", "--to", "./c"]);
    assert_eq!(again["vms"][0]["name"], "web01-main");
    assert_eq!(again["sent_bytes"], 0);
    let said = place.fails(1, &["copy", "web01", "--to", "./c", "--as", "third"]);
    assert!(said.contains("as web01-main"), "{said}");
    let raw = place.path("c.raw");
    place.ok(&["-r", "./c", "restore", "web01-main@p01", "vda", text(&raw)]);
    assert!(std::fs::read(raw).unwrap() == second["p01"]);
}

#[test]
fn targets_that_are_refused() {
    let pair = Pair::new();
    let place = &pair.place;
    back_up(place, 0, 1, &[]);
    let copy = |code, to: &str| place.fails(code, &["copy", "web01", "--to", to]);
    assert!(copy(2, "./repo").contains("the same repository"));
    symlink(place.repo(), place.path("link")).unwrap();
    assert!(copy(2, "./link").contains("the same repository"));
    // In the source, also through a link, and around it.
    place.ok(&["init", "repo/nested"]);
    assert!(copy(2, "./repo/nested").contains("lies in the repository"));
    symlink(place.path("repo/nested"), place.path("inner")).unwrap();
    assert!(copy(2, "./inner").contains("lies in the repository"));
    let around = place.run(&["-r", "./inner", "copy", "web*", "--to", "./repo"]);
    assert!(String::from_utf8_lossy(&around.stderr).contains("lies in the repository"));
    std::fs::remove_dir_all(place.path("repo/nested")).unwrap();
    // The same id elsewhere.
    let args = ["-a", text(&place.repo()), text(&place.path("twin"))].map(str::to_owned);
    assert!(Command::new("cp").args(args).status().unwrap().success());
    assert!(copy(2, "./twin").contains("new-id"));
    assert!(copy(10, "./nowhere").contains("no repository"));
    // One that a later release wrote, and one whose place another repository has taken.
    place.ok(&["repo", "add", "offsite", "./b"]);
    place.ok(&["copy", "web01", "--to", "offsite"]);
    std::fs::rename(place.path("b"), place.path("before")).unwrap();
    place.ok(&["init", "other"]);
    std::fs::rename(place.path("other"), place.path("b")).unwrap();
    assert!(copy(10, "offsite").contains("the repository there has the id"));
    let format = place.path("b/restorefs.json");
    let later = std::fs::read_to_string(&format).unwrap();
    let later = later.replace("\"ro_compat\": []", "\"ro_compat\": [\"teleport\"]");
    let later = later.split(",\n  \"blake3\"").next().unwrap().to_owned() + "\n}\n";
    std::fs::write(&format, later).unwrap();
    assert!(copy(1, "./b").contains("teleport"));
    let said = place.fails(2, &["copy", "web01", "db*", "--to", "./before"]);
    assert!(said.contains("db*"), "{said}");
    place.fails(1, &["copy", "web01", "--to", "./before", "--point", "none"]);
    place.fails(1, &["copy", "web02", "--to", "./before"]);
}

#[test]
fn a_damaged_point_is_not_copied_and_the_others_are() {
    let pair = Pair::new();
    let place = &pair.place;
    let contents = back_up(place, 0, 4, &[]);
    let layer = pair.layer("repo", "web01", "p02");
    let mut bytes = std::fs::read(&layer).unwrap();
    let at = bytes.len() / 2;
    let at = (at..bytes.len()).find(|at| bytes[*at] != 0).unwrap();
    bytes[at] ^= 1;
    std::fs::remove_file(&layer).unwrap();
    std::fs::write(&layer, &bytes).unwrap();
    place.disk("c.raw", 8, 5);
    place.ok(&["backup", "db01", "vda=c.raw", "--point", "one"]);
    let said = place.fails(3, &["copy", "*", "--to", "./b"]);
    assert!(said.contains("web01@p02"), "{said}");
    // What stands on the damaged layer is not copied either.
    assert_eq!(pair.points_there("web01"), ["p00", "p01"]);
    assert_eq!(pair.points_there("db01"), ["one"]);
    assert!(pair.restored_there("web01@p01") == contents["p01"]);
    pair.there_ok(&["verify"]);
    let left = names(&place.path("b/vms/web01/points"));
    assert_eq!(left, ["p00", "p01"]);
    // It is refused by name once it is known.
    place.fails(3, &["verify"]);
    let said = place.fails(3, &["copy", "web01", "--to", "./b"]);
    assert!(said.contains("it is damaged"), "{said}");
    // What the source has mended is copied.
    bytes[at] ^= 1;
    std::fs::write(&layer, &bytes).unwrap();
    place.ok(&["verify"]);
    pair.copy(&[]);
    pair.check("web01", &contents);
}

#[test]
fn a_daemon_on_either_side() {
    let pair = Pair::new();
    let place = &pair.place;
    let mut contents = back_up(place, 0, 2, &[]);
    let daemon = pair.serve_there();
    assert_eq!(states(&pair.copy(&[])), ["copied"; 2]);
    // The daemon serves them, and begins nothing in them.
    let said = pair.there_fails(&["begin", "web01"]);
    assert!(said.contains("restorefs adopt web01"), "{said}");
    pair.check("web01", &contents);
    contents.extend(back_up(place, 2, 1, &[]));
    assert_eq!(states(&pair.copy(&[])), ["present", "present", "copied"]);
    pair.check("web01", &contents);
    daemon.stop();
    pair.check("web01", &contents);
    let daemon = place.serve(&[]);
    contents.extend(back_up(place, 3, 1, &[]));
    let copied = pair.copy(&[]);
    assert_eq!(
        (states(&copied)[3], &copied["kept"]),
        ("copied", &Value::Bool(true))
    );
    let jobs = place.json(&["jobs", "--kind", "copy"]);
    assert_eq!(jobs[0]["result"], "completed", "{jobs}");
    // A hold keeps changes out of the source, and copies only read it.
    contents.extend(back_up(place, 4, 1, &[]));
    place.ok(&[
        "hold",
        "--",
        env!("CARGO_BIN_EXE_restorefs"),
        "copy",
        "web01",
        "--to",
        "./b",
    ]);
    pair.check("web01", &contents);
    daemon.stop();
}

#[test]
fn copies_are_asked_again_and_not_believed() {
    let pair = Pair::new();
    let place = &pair.place;
    back_up(place, 0, 3, &[]);
    place.ok(&["repo", "add", "offsite", "./b"]);
    place.ok(&["copy", "web01", "--to", "offsite"]);
    // What came here is in its history, and counts as growth.
    let jobs = place.json(&["-r", "offsite", "jobs"]);
    let committed = |job: &&Value| job["result"] == "committed";
    assert_eq!(jobs.as_array().unwrap().iter().filter(committed).count(), 3);
    let named = place.json(&["repo", "list"]);
    let grown = named["repositories"][0]["growth"]["stored_bytes"].as_u64();
    assert!(grown.unwrap() > 1 << 20, "{named}");
    let asked = place.json(&["status", "--check"]);
    assert_eq!(asked["copies"][0]["name"], "offsite", "{asked}");
    assert_eq!(
        (&asked["copies"][0]["points"], &asked["copies"][0]["lost"]),
        (&3.into(), &Value::Array(vec![]))
    );
    assert!(place.json(&["status"])["copies"].is_null());
    pair.there_ok(&["forget", "web01@p01"]);
    place.ok(&["status"]);
    let lost = place.run(&["status", "--check"]);
    let said = String::from_utf8_lossy(&lost.stdout);
    assert!(
        said.contains("lacks 1 of 3 points") && said.contains("web01@p01"),
        "{said}"
    );
    assert_eq!(lost.status.code(), Some(4));
    // The other repository has its own rules: what they forget is recorded, and not sent again by itself.
    let said = place.ok(&["copy", "web01", "--to", "offsite"]);
    assert!(said.contains("1 point forgotten there"), "{said}");
    let copies = place.json(&["ls", "web01"])[1]["copies"].clone();
    assert!(copies[0]["gone_at"].is_string(), "{copies}");
    place.ok(&["status", "--check"]);
    place.ok(&["copy", "web01", "--to", "offsite", "--again"]);
    let copies = place.json(&["ls", "web01"])[1]["copies"].clone();
    assert!(copies[0]["gone_at"].is_null(), "{copies}");
    assert!(
        place
            .ok(&["status", "--check"])
            .contains("has all of 3 points")
    );
    std::fs::rename(place.path("b"), place.path("away")).unwrap();
    let said = place.fails(4, &["status", "--check"]);
    assert!(said.contains("could not be asked"), "{said}");
}

#[test]
fn several_vms_and_disks() {
    let pair = Pair::new();
    let place = &pair.place;
    let a = place.disk("a.raw", 20, 1);
    let b = place.disk("b.raw", 30, 2);
    for vm in ["web01", "web02", "db01"] {
        place.ok(&["backup", vm, "vda=a.raw", "vdb=b.raw", "--point", "one"]);
    }
    let c = place.disk("b.raw", 30, 3);
    place.ok(&[
        "backup",
        "web02",
        "vda=a.raw",
        "vdb=b.raw",
        "--point",
        "two",
    ]);
    let copied = place.json(&["copy", "web*", "--to", "./b"]);
    let vms = copied["vms"].as_array().unwrap();
    assert_eq!(
        (vms.len(), states(&vms[0]), states(&vms[1])),
        (2, vec!["copied"], vec!["copied"; 2])
    );
    for (point, vda, vdb) in [
        ("web01@one", &a, &b),
        ("web02@one", &a, &b),
        ("web02@two", &a, &c),
    ] {
        pair.there_ok(&["restore", point, "--to", "out"]);
        for (disk, bytes) in [("vda", vda), ("vdb", vdb)] {
            let found = std::fs::read(place.path(&format!("out/{disk}.raw"))).unwrap();
            assert!(found == *bytes, "{point} {disk}");
        }
        std::fs::remove_dir_all(place.path("out")).unwrap();
    }
    assert!(!place.path("b/vms/db01").exists());
    pair.there_ok(&["verify"]);
    let said = place.fails(2, &["copy", "web*", "--to", "./b", "--as", "x"]);
    assert!(said.contains("one VM"), "{said}");
}

/// Whatever is wrong with the files of a source, the copy says so or copies what is right, and the target stays sound.
#[test]
fn a_source_whose_files_are_anything() {
    let pair = Pair::new();
    let place = &pair.place;
    std::fs::write(place.path("note.txt"), "kept with it").unwrap();
    let contents = back_up(place, 0, 2, &["--compress", "zlib", "--attach", "note.txt"]);
    let vm = place.path("repo/vms/web01");
    let mut files = vec![vm.join("vm.json"), vm.join("index.json")];
    for dir in ["layers", "points/p00", "points/p01", "points/p01/attached"] {
        let names = names(&vm.join(dir)).into_iter();
        files.extend(
            names
                .map(|name| vm.join(dir).join(name))
                .filter(|path| path.is_file()),
        );
    }
    let (mut refused, mut copied) = (0, 0);
    for (n, path) in files.iter().enumerate() {
        let good = std::fs::read(path).unwrap();
        let size = good.len();
        let flips = [8, size / 3, size / 2, size - 1];
        let mut bad: Vec<Vec<u8>> = Vec::new();
        for at in flips {
            let mut bytes = good.clone();
            bytes[at % size] ^= 1 << (n % 8);
            bad.push(bytes);
        }
        bad.push(good[..size / 2].to_vec());
        bad.push(Vec::new());
        bad.push([&good[..], &good[..]].concat());
        for bytes in bad {
            std::fs::remove_file(path).unwrap();
            std::fs::write(path, &bytes).unwrap();
            let _ = std::fs::remove_dir_all(place.path("b"));
            place.ok(&["init", "b"]);
            let output = place.run(&["copy", "web01", "--to", "./b"]);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!said.contains("panicked"), "{}: {said}", path.display());
            match output.status.code() {
                Some(0) => copied += 1,
                Some(1 | 3) => refused += 1,
                other => panic!("{}: {other:?} {said}", path.display()),
            }
            pair.there_ok(&["verify"]);
            if place.path("b/vms/web01/vm.json").exists() {
                for point in pair.points_there("web01") {
                    let found = pair.restored_there(&format!("web01@{point}"));
                    assert!(found == contents[&point], "{} {point}", path.display());
                }
            }
        }
        std::fs::remove_file(path).unwrap();
        std::fs::write(path, &good).unwrap();
        // A name that leads elsewhere.
        std::fs::rename(path, place.path("moved")).unwrap();
        symlink(place.path("moved"), path).unwrap();
        let output = place.run(&["copy", "web01", "--to", "./b"]);
        assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
        std::fs::remove_file(path).unwrap();
        std::fs::rename(place.path("moved"), path).unwrap();
    }
    assert!(
        refused > 20 && copied > 0,
        "{refused} refused, {copied} copied"
    );
}
