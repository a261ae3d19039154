//! An rsync daemon over the mount: a point is pulled, and pulled again.

use std::process::Command;

use crate::kit::need::free_port;
use crate::world::{OLD, Server, World, ready, run, text};

#[test]
fn a_point_is_pulled_and_there_is_nothing_to_do_the_second_time() {
    if !ready(&["rsync"]) {
        return;
    }
    let world = World::new();
    let mount = world.mount("allow_other");
    let (file, port) = (world.path("rsyncd.conf"), free_port());
    std::fs::write(
        &file,
        format!(
            "use chroot = yes\nuid = root\ngid = root\nread only = yes\naddress = 127.0.0.1\nlog file = {}\n\
             pid file = {}\n[backups]\npath = {}\n",
            text(&world.path("rsyncd.log")),
            text(&world.path("rsyncd.pid")),
            text(mount.root()),
        ),
    )
    .unwrap();
    let mut command = Command::new("rsync");
    command.args([
        "--daemon",
        "--no-detach",
        "--config",
        text(&file),
        "--port",
        &port.to_string(),
    ]);
    let _server = Server::start(&mut command, port);
    let from = format!("rsync://127.0.0.1:{port}/backups/web01/latest/files/");
    let to = world.path("pulled");
    let pull = |more: &[&str]| {
        run(
            "rsync",
            &[&["-aHAX", "--sparse", "-i"], more, &[&from, text(&to)]].concat(),
        )
    };
    let first = pull(&[]);
    assert!(
        first.contains("srv/big") && first.lines().count() > 500,
        "{first}"
    );
    assert_eq!(pull(&[]), "");
    assert_eq!(pull(&["--checksum"]), "");
    // The test can tell.
    std::fs::write(to.join(OLD), "other").unwrap();
    assert!(pull(&[]).contains(".txt"));
    // As the guest was.
    world.assert_copied(&to);
}
