//! `backup --server`: the repository is on another host, reached by its daemon over HTTPS and NBD with TLS.

use serde_json::Value;

use crate::kit::need::has_all;
use crate::kit::noise::noise;
use crate::pair::{Pair, fails, said, with_bitmap};
use crate::scene::{Scene, VMS};

#[test]
fn a_backup_from_an_empty_environment_and_a_second_one() {
    let Some(pair) = Pair::new() else {
        return;
    };
    let token = pair.token("agent", "read,ingest", "web*");
    let secret = std::fs::read_to_string(&token).unwrap().trim().to_owned();
    let mut bytes = noise(31, 5 << 20);
    bytes[1 << 20..2 << 20].fill(0);
    let disk = pair.write("a.raw", &bytes);
    std::fs::write(pair.path("domain.xml"), "<domain/>").unwrap();
    let more = [
        disk.as_str(),
        "--attach",
        "domain.xml",
        "--point",
        "one",
        "-vvv",
    ];
    let (out, err) = pair.done(&token, &more);
    assert!(out.contains("web01@one committed: full"), "{out}");
    assert!(!err.contains("new VM"), "there is no other VM: {err}");
    // Neither the token nor the session's secret is in a log, here or there.
    assert!(!err.contains(&secret) && !err.contains('~'), "{err}");
    assert!(!pair.server.log().contains(&secret));
    assert!(pair.server.place.restored("web01@one", "vda") == bytes);
    let attached = format!("{VMS}/web01/points/one/attached/domain.xml");
    assert_eq!(
        pair.server.get(&attached).unix().expect(200).body,
        b"<domain/>"
    );
    // The second one stores what has changed, and answers as a local one does.
    bytes[3 << 20..(3 << 20) + 65_536].fill(7);
    pair.write("a.raw", &bytes);
    let (out, err) = pair.done(&token, &[&disk, "--json"]);
    assert!(!err.contains("new VM"), "{err}");
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&answer["vm"], &answer["point"]["kind"]),
        (&"web01".into(), &"incremental".into())
    );
    assert_eq!(answer["report"]["disks"][0]["name"], "vda");
    assert_eq!(answer["report"]["disks"][0]["stored_bytes"], 65_536);
    assert_eq!(answer["point"]["disks"][0]["changed_bytes"], 65_536);
    assert!(pair.server.place.restored("web01@latest", "vda") == bytes);
    assert!(pair.sessions().is_empty());
    // The history is the server's; the machine has nothing but what it had.
    let jobs = pair.server.place.json(&["jobs", "web01"]);
    let committed = |job: &&Value| job["result"] == "committed";
    assert_eq!(
        jobs.as_array().unwrap().iter().filter(committed).count(),
        2,
        "{jobs}"
    );
    let mut left: Vec<_> = std::fs::read_dir(pair.machine.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["a.raw", "agent", "domain.xml"]);
    let mut near = pair.backup_of("web02", &pair.tls, &token, &[&disk]);
    let output = near.output().unwrap();
    let told = said(&output);
    assert!(
        output.status.success() && told.contains("web02 is a new VM (there is web01, too)"),
        "{told}"
    );
    pair.server.check_layers();
    pair.server.place.ok(&["check"]);
}

#[test]
fn a_token_that_only_writes_is_enough_and_a_certificate_alone_is_too() {
    let Some(pair) = Pair::new() else {
        return;
    };
    let token = pair.token("writer", "ingest", "web01");
    let bytes = noise(32, 1 << 20);
    let disk = pair.write("a.raw", &bytes);
    for point in ["one", "two"] {
        let (out, _) = pair.done(&token, &[&disk, "--point", point]);
        assert!(out.contains(&format!("web01@{point} committed")), "{out}");
    }
    let (url, tls) = (pair.url(), pair.tls.to_str().unwrap());
    let certified = [
        "backup",
        "web01",
        "--server",
        &url,
        "--tls-dir",
        tls,
        &disk,
        "--point",
        "three",
    ];
    let output = pair.command(&certified).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    for point in ["one", "two", "three"] {
        assert!(pair.server.place.restored(&format!("web01@{point}"), "vda") == bytes);
    }
    // A dry run reads the latest point, and changes nothing.
    let (_, err) = pair.done(&token, &[&disk, "--dry-run"]);
    assert!(err.contains("the right read"), "{err}");
    let reader = pair.token("reader", "read,ingest", "*");
    pair.done(
        &token,
        &[&disk, "--point", "four", "--change-id", "vda=seven"],
    );
    let (_qemu, socket, _) = with_bitmap(&pair.server);
    let pulled = format!("vda=nbd+unix:///vda?socket={socket}");
    let more = [
        "--pull",
        &pulled,
        "--bitmap",
        "vda=seven",
        "--dry-run",
        "--json",
    ];
    let (out, err) = pair.done(&reader, &more);
    let planned: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(planned["disks"][0]["size_bytes"], 1 << 20);
    assert_eq!(planned["disks"][0]["bitmap"], "seven");
    assert!(!err.contains("the right read"), "{err}");
    assert!(pair.sessions().is_empty());
}

#[test]
fn the_socket_of_this_machine_needs_neither_a_token_nor_certificates() {
    if !has_all(&["curl"]) {
        return;
    }
    let scene = Scene::empty().started();
    let bytes = scene.place.disk("a.raw", 20, 3);
    let server = format!("unix:{}", scene.path_of("http.sock"));
    let args = ["backup", "web01", "vda=a.raw", "--server", &server];
    let run = |repo: Option<&str>, more: &[&str]| {
        let mut command = scene.place.command(&[&args[..], more].concat());
        match repo {
            Some(repo) => command.env("RESTOREFS_REPO", repo),
            None => command.env_remove("RESTOREFS_REPO"),
        };
        command
    };
    let output = run(None, &[]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(scene.place.restored("web01@latest", "vda") == bytes);
    // A directory in the environment is no name of the server's: that is told.
    let output = run(Some("/srv/other"), &[]).output().unwrap();
    let told = said(&output);
    assert!(
        output.status.success() && told.contains("/srv/other"),
        "{told}"
    );
    let told = fails(run(None, &["--repo", "/srv/other"]), 2);
    assert!(told.contains("not a directory"), "{told}");
    let told = fails(run(Some("other"), &[]), 1);
    assert!(told.contains("other"), "{told}");
    // Loopback without TLS has a token all the same.
    let token = scene.path_of("token");
    std::fs::write(&token, scene.token("agent", "ingest", "web01")).unwrap();
    let args = ["backup", "web01", "vda=a.raw", "--server", &scene.base];
    let told = fails(scene.place.command(&args), 1);
    assert!(
        told.contains("does not know who asks") && told.contains("--token-file"),
        "{told}"
    );
    let more = ["--token-file", &token, "--repo", "default"];
    let output = scene
        .place
        .command(&[&args[..], &more].concat())
        .output()
        .unwrap();
    let told = said(&output);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("other users may read the token"), "{told}");
}

/// The tracking of a disk told that nothing had changed: the copy wrote nothing, the server took a goodbye after nothing for no
/// statement, and refused the commit.
#[test]
fn a_disk_without_changes_is_finished_too() {
    if !has_all(&["curl", "qemu-img", "qemu-nbd"]) {
        return;
    }
    let scene = Scene::empty().started();
    let (_qemu, socket, bytes) = with_bitmap(&scene);
    let server = format!("unix:{}", scene.path_of("http.sock"));
    let pulled = format!("vda=nbd+unix:///vda?socket={socket}");
    let backup = |more: &[&str]| {
        let args = ["backup", "web01", "--pull", &pulled];
        scene.place.json(&[&args[..], more].concat())
    };
    backup(&["--change-id", "vda=seven", "--point", "one"]);
    for (more, point) in [(&["--server", &server][..], "two"), (&[], "three")] {
        let flags = [
            "--bitmap",
            "vda=seven",
            "--change-id",
            "vda=seven",
            "--point",
            point,
        ];
        let answer = backup(&[&flags, more].concat());
        assert_eq!(answer["report"]["disks"][0]["changed_bytes"], 0, "{answer}");
        assert_eq!(answer["point"]["kind"], "incremental");
        assert!(scene.place.restored(&format!("web01@{point}"), "vda") == bytes);
    }
}
