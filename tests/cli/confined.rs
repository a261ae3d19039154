//! What a kernel lacks is named, and nothing of a guest is read without it.

use crate::kit::need::has;
use crate::kit::place::Place;
use crate::tool;

#[test]
fn without_landlock_or_seccomp_no_guest_is_read() {
    if !has("mke2fs") {
        return;
    }
    let place = Place::new();
    tool::ok(&place, "truncate", &["-s", "16M", "fs.raw"]);
    tool::ok(&place, "mke2fs", &["-qF", "fs.raw"]);
    place.ok(&["backup", "web01", "vda=fs.raw"]);
    let run = |refused: &str, args: &[&str]| {
        let output = place
            .command(args)
            .env("RESTOREFS_REFUSE", refused)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    };
    let volumes = |refused: &str| {
        let output = place
            .command(&["volumes", "web01@latest", "--json"])
            .env("RESTOREFS_REFUSE", refused)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // What was found at the backup is kept; a look of one's own is taken without it.
    for state in std::fs::read_dir(place.repo().join("vms/web01/state"))
        .unwrap()
        .flatten()
    {
        std::fs::remove_file(state.path()).unwrap();
    }
    for lacks in ["landlock", "seccomp"] {
        let said = volumes(lacks);
        assert!(said.contains(&format!("has no {lacks}")), "{lacks}: {said}");
        assert!(!said.contains("\"readable\""), "{said}");
        assert!(!run(lacks, &["ls", "web01@latest:/volumes/vda/raw"]).0);
    }
    assert!(volumes("landlock,seccomp").contains("no landlock and no seccomp"));
    let args = [
        "--guest-isolation",
        "thread",
        "ls",
        "web01@latest:/volumes/vda/raw",
    ];
    assert!(run("landlock", &args).0);
    assert!(run("", &args[2..]).0);
}
