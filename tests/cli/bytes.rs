//! Arguments of any bytes: paths of this machine and of guests need not be UTF-8; names of ours are.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::Output;

use crate::kit::need::has;
use crate::kit::place::Place;
use crate::tool;

/// Latin-1, as old systems have it.
const NAME: &[u8] = b"caf\xe9.raw";

fn run(place: &Place, args: &[&[u8]]) -> Output {
    let mut command = place.command(&[]);
    command.args(args.iter().map(|arg| OsStr::from_bytes(arg)));
    command.output().unwrap()
}

fn ok(place: &Place, args: &[&[u8]]) -> String {
    let output = run(place, args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn with(prefix: &[u8], name: &[u8]) -> Vec<u8> {
    [prefix, name].concat()
}

#[test]
fn sources_and_targets_have_any_bytes() {
    let place = Place::new();
    let bytes = place.disk("a.raw", 8, 1);
    let odd = place.dir.path().join(OsStr::from_bytes(NAME));
    fs::rename(place.path("a.raw"), &odd).unwrap();
    ok(&place, &[b"backup", b"web01", &with(b"vda=", NAME)]);
    ok(
        &place,
        &[b"backup", b"--full", b"web01", &with(b"vda=raw:", NAME)],
    );
    let target = b"out-\xff.raw";
    ok(&place, &[b"restore", b"web01@latest", b"vda", target]);
    assert!(fs::read(place.dir.path().join(OsStr::from_bytes(target))).unwrap() == bytes);
    ok(&place, &[b"restore", b"web01@latest", b"--to", b"d\xedr"]);
    if has("qemu-img") {
        let image = b"im\xe1ge.qcow2";
        ok(&place, &[b"restore", b"web01@latest", b"vda", image]);
        ok(&place, &[b"backup", b"web02", &with(b"vda=", image)]);
        assert!(place.restored("web02@latest", "vda") == bytes);
        let mut command = tool::command(&place, "qemu-img", &["check", "-q", "-f", "qcow2"]);
        assert!(
            command
                .arg(OsStr::from_bytes(image))
                .status()
                .unwrap()
                .success()
        );
    }
    // What is missing is named by its bytes.
    let output = run(&place, &[b"backup", b"web01", b"vda=n\xf6.raw"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot open"));
    for wrong in [b"w\xe9b".as_slice(), b"web01@\xe9", b"vd\xe9"] {
        let args: [&[u8]; 4] = [
            b"restore",
            if wrong == b"vd\xe9" {
                b"web01@latest"
            } else {
                wrong
            },
            b"vda",
            b"x",
        ];
        let output = match wrong {
            b"vd\xe9" => run(&place, &[b"backup", b"web01", b"vd\xe9=a.raw"]),
            _ => run(&place, &args),
        };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("UTF-8") && said.contains("\\xe9"), "{said}");
    }
}

#[test]
fn repositories_and_mountpoints_have_any_bytes() {
    let place = Place::without_repository();
    place.disk("a.raw", 4, 1);
    let repo = place.dir.path().join(OsStr::from_bytes(b"r\xe9po"));
    let args = |words: &[&str]| {
        let mut all = vec![OsString::from("-r"), repo.clone().into_os_string()];
        all.extend(words.iter().map(OsString::from));
        let output = place.command(&[]).args(all).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
    };
    args(&["init"]);
    args(&["backup", "web01", "vda=a.raw"]);
    args(&["ls", "web01@latest:/disks"]);
}

#[test]
fn files_of_a_guest_have_any_bytes() {
    if !has("mke2fs") {
        return;
    }
    let place = Place::new();
    let tree = place.path("tree");
    fs::create_dir(&tree).unwrap();
    let directory = tree.join(OsString::from_vec(b"d\xfcr".to_vec()));
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join(OsStr::from_bytes(b"f\xefle")), "text").unwrap();
    tool::ok(&place, "truncate", &["-s", "16M", "fs.raw"]);
    tool::ok(&place, "mke2fs", &["-qF", "-d", "tree", "fs.raw"]);
    place.ok(&["backup", "web01", "vda=fs.raw"]);
    let listed = ok(&place, &[b"ls", b"web01@latest:/files/d\xfcr"]);
    assert!(listed.contains("f\u{fffd}le"), "{listed}");
    ok(&place, &[b"ls", b"web01@latest:/files/d\xfcr/f\xefle"]);
    ok(
        &place,
        &[
            b"restore",
            b"web01@latest:/files/d\xfcr/f\xefle",
            b"--to",
            b"out",
        ],
    );
    let file = place.path("out").join(OsStr::from_bytes(b"f\xefle"));
    assert_eq!(fs::read(file).unwrap(), b"text");
    ok(
        &place,
        &[
            b"restore",
            b"web01@latest:/files/d\xfcr",
            b"--to",
            b"\xe4.tar",
        ],
    );
    let listed = tool::ok(&place, "sh", &["-c", "tar -tf *.tar"]);
    assert!(listed.contains("\\374r/f\\357le"), "{listed}");
}
