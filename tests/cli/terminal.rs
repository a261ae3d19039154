//! A guest whose names are made for the terminal of whoever looks: nothing of it gets there, in no form of output.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Output;

use crate::kit::need::has;
use crate::kit::need::is_root;
use crate::kit::place::Place;
use crate::tool;

/// Names that set the title, clear the screen by a C1 byte, begin a line of their own, turn the text around, and hold the words by which an
/// easier program would tell failures from choices.
const NAMES: [&[u8]; 6] = [
    b"\x1b]0;owned\x07",
    "\u{9b}2J".as_bytes(),
    b"x\nrestorefs: all is well",
    "txt\u{202e}hs.exe".as_bytes(),
    b"\r\x08\x7f",
    b"a device node; --special makes it",
];

fn guest(place: &Place) -> bool {
    if !is_root() || !has("mke2fs") || !has("setfattr") {
        return false;
    }
    let tree = place.path("tree/d");
    std::fs::create_dir_all(&tree).unwrap();
    for name in NAMES {
        std::fs::write(tree.join(OsStr::from_bytes(name)), name).unwrap();
        let link = [name, b".link"].concat();
        std::os::unix::fs::symlink(OsStr::from_bytes(name), tree.join(OsStr::from_bytes(&link)))
            .unwrap();
        let pipe = [name, b".device"].concat();
        tool::ok(
            place,
            "sh",
            &[
                "-c",
                "mknod \"$1\" c 1 3",
                "sh",
                tree.join(OsStr::from_bytes(&pipe)).to_str().unwrap(),
            ],
        );
    }
    let label = "\u{1b}[31m\u{9b}red";
    tool::ok(
        place,
        "mke2fs",
        &[
            "-q", "-t", "ext4", "-L", label, "-d", "tree", "fs.raw", "8M",
        ],
    );
    place.ok(&["backup", "web01", "vda=fs.raw", "--point", "one"]);
    true
}

/// All that a command has printed has no character with power, and no line that the guest has begun.
fn check(arguments: &[&str], output: &Output) -> String {
    let mut all = String::new();
    for bytes in [&output.stdout, &output.stderr] {
        let text = std::str::from_utf8(bytes).unwrap();
        let bad = |c: char| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c);
        assert!(!text.contains(bad), "{arguments:?}: {text:?}");
        let begun = text.lines().find(|line| line.starts_with("restorefs: all"));
        assert_eq!(begun, None, "{arguments:?}: {text}");
        all.push_str(text);
    }
    all
}

#[test]
fn a_guest_has_no_power_over_the_terminal() {
    let place = Place::new();
    if !guest(&place) {
        return;
    }
    let said = |arguments: &[&str]| check(arguments, &place.run(arguments));
    let d = "web01@one:/files/d";
    for command in [
        &["ls", d][..],
        &["ls", d, "--json"],
        &["-v", "ls", d],
        &["volumes", "web01@one"],
        &["volumes", "web01@one", "--json"],
        &["info", "web01@one"],
        &["info", "web01@one", "--json"],
        &["restore", d, "--to", "out"],
        // All of it is there already.
        &["restore", d, "--to", "out"],
        &["restore", d, "--to", "out.json", "--json"],
        &["restore", d, "out.tar"],
        &["restore", d, "out.zip"],
        &["restore", d, "out2.tar", "--json"],
        &["ls", "web01@one:/files/\u{1b}[1m"],
        &["restore", "web01@\u{9b}1m", "vda", "x.raw"],
    ] {
        said(command);
    }
    let listed = said(&["ls", d]);
    assert!(listed.contains("\\u{1b}]0;owned\\u{7}"), "{listed}");
    let json: serde_json::Value = serde_json::from_str(&said(&["ls", d, "--json"])).unwrap();
    assert!(json.to_string().contains("2J"), "{json}");
}

/// Six device nodes are left out by choice, and that is no failure, whatever they are called; a file that is there already is one.
#[test]
fn losses_are_told_apart_by_what_they_are() {
    let place = Place::new();
    if !guest(&place) {
        return;
    }
    let d = "web01@one:/files/d";
    let output = place.run(&["restore", d, "--to", "out"]);
    let text = check(&[], &output);
    assert!(output.status.success(), "{text}");
    assert_eq!(text.matches("left out: ").count(), NAMES.len(), "{text}");
    let named = "web01@one:/files/d/a device node; --special makes it";
    let again = ["restore", named, "--to", "out/d"];
    let output = place.run(&again);
    assert_eq!(output.status.code(), Some(1), "{}", check(&again, &output));
}
