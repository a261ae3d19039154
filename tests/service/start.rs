//! Starting: readiness, signs of life, sockets of the manager, and what an earlier daemon has left.

use std::path::Path;
use std::process::{Command, Stdio};

use restorefs::block::ReadAt;

use crate::house::{House, nbd};
use crate::kit::need::{can_mount, has};
use crate::kit::wait::eventually;

#[test]
fn it_is_ready_when_all_is_served() {
    let house = House::new();
    house.configure("", &nbd(&house, ""));
    let mut command = house.command(&[]);
    let service = {
        command.env("WATCHDOG_USEC", "400000");
        house.start_by(command)
    };
    // Ready means that commands are answered, at once and without another try.
    let status = house.place.json(&["begin", "web01", "vda=1M"]);
    assert!(
        status["nbd_targets_string"]
            .as_str()
            .unwrap()
            .contains("nbd.sock")
    );
    let said = house.try_connect("web01/nothing/vda").unwrap_err();
    assert_eq!(said.kind(), restorefs::error::ErrorKind::NotFound, "{said}");
    for _ in 0..3 {
        house.hear("WATCHDOG=1");
    }
    service.kill();
}

#[test]
fn a_second_daemon_is_told_who_has_the_lock() {
    let house = House::new();
    house.configure("", "");
    let service = house.start();
    let config = house.place.path("config.toml");
    let said = house
        .place
        .fails(11, &["serve", "--config", config.to_str().unwrap()]);
    assert!(said.contains("restorefs serve (pid "), "{said}");
    // The first one is as it was.
    house.place.ok(&["sessions"]);
    service.stop();
    house.start().stop();
}

#[test]
fn several_repositories_are_served_by_one_process() {
    let house = House::new();
    let second = house.place.path("second");
    house.place.ok(&["init", second.to_str().unwrap()]);
    let repository = |path: &Path, socket: &str| {
        format!(
            "[[repository]]\npath = \"{}\"\n[repository.nbd]\nsockets = [\"{}\"]\n",
            path.display(),
            house.place.path(socket).display()
        )
    };
    house.write(
        &("[log]\nlevel = \"error\"\n".to_owned()
            + &repository(&house.place.repo(), "a.sock")
            + &repository(&second, "b.sock")),
    );
    let service = house.start();
    for (repo, socket) in [(house.place.repo(), "a.sock"), (second.clone(), "b.sock")] {
        let answer = house
            .place
            .json(&["-r", repo.to_str().unwrap(), "begin", "web01", "vda=1M"]);
        let uri = answer["disk_results"][0]["uri"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(uri.ends_with(socket), "{uri}");
        let client = restorefs::nbd::client::Client::connect(&uri.parse().unwrap()).unwrap();
        assert_eq!(client.size_bytes(), 1 << 20);
    }
    service.kill();
    // One that is not there keeps the other from being served: all or nothing.
    std::fs::rename(&second, house.place.path("moved")).unwrap();
    let config = house.place.path("config.toml");
    let said = house
        .place
        .fails(10, &["serve", "--config", config.to_str().unwrap()]);
    assert!(said.contains("second"), "{said}");
}

/// The daemon below a service manager that listens for it; it is started by the first connection.
fn activated(house: &House, listen: &[&str]) -> std::process::Child {
    let config = house.place.path("config.toml");
    let mut activator = Command::new("systemd-socket-activate");
    for socket in listen {
        activator.args(["--listen", socket]);
    }
    let log = std::fs::File::create(house.place.path("log")).unwrap();
    activator
        .args(["-E", "RESTOREFS_RUNTIME_DIR", "-E", "NOTIFY_SOCKET"])
        .arg(env!("CARGO_BIN_EXE_restorefs"))
        .args(["serve", "--config", config.to_str().unwrap()])
        .env("RESTOREFS_RUNTIME_DIR", house.place.dir.path())
        .env("NOTIFY_SOCKET", house.place.path("notify"))
        .env("HOME", house.place.dir.path())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn terminate(mut process: std::process::Child) -> std::process::ExitStatus {
    let pid = rustix::process::Pid::from_raw(i32::try_from(process.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    process.wait().unwrap()
}

/// A house with the point `web01@p1`.
fn with_point() -> House {
    let house = House::new();
    house.place.disk("a.raw", 4, 1);
    house
        .place
        .ok(&["backup", "web01", "vda=a.raw", "--point", "p1"]);
    house
}

#[test]
fn sockets_of_a_manager_are_served_and_stay() {
    if !has("systemd-socket-activate") {
        return;
    }
    let house = with_point();
    house.configure("", "");
    let socket = house.place.path("nbd.sock");
    let process = activated(&house, &[socket.to_str().unwrap()]);
    eventually("the socket", || socket.exists());
    // The connection comes before the daemon: it waits, and is served.
    let client = house.connect("web01/p1/vda");
    let mut bytes = [0; 512];
    client.read_at(0, &mut bytes).unwrap();
    let expected = std::fs::read(house.place.path("a.raw")).unwrap();
    assert_eq!(bytes[..], expected[..512]);
    house.hear("READY=1");
    let uri = house.place.json(&["begin", "web01"])["nbd_targets_string"].clone();
    assert!(uri.as_str().unwrap().contains("nbd.sock"), "{uri}");
    drop(client);
    assert!(terminate(process).success());
    assert!(socket.exists(), "the socket is the manager's");
}

#[test]
fn a_tcp_socket_of_a_manager_needs_its_address_in_the_configuration() {
    if !has("systemd-socket-activate") {
        return;
    }
    let house = with_point();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let connect = || {
        let uri = format!("nbd://{address}/web01/p1/vda");
        restorefs::nbd::client::Client::connect(&uri.parse().unwrap())
    };
    house.configure(
        "",
        &format!("[repository.nbd]\nlisten = \"{address}\"\nplain = true\n"),
    );
    let process = activated(&house, &[&address]);
    let mut client = None;
    eventually("the address is listened on", || {
        client = connect().ok();
        client.is_some()
    });
    client.unwrap().read_at(0, &mut [0; 512]).unwrap();
    assert!(terminate(process).success());
    // Nobody said that it is to be served, or that it may be in the clear.
    house.configure("", "");
    let mut process = activated(&house, &[&address]);
    eventually("the daemon refuses", || {
        let _ = connect();
        process.try_wait().unwrap().is_some()
    });
    assert_eq!(process.wait().unwrap().code(), Some(2), "{}", house.log());
    assert!(house.log().contains(&address), "{}", house.log());
}

#[test]
fn what_a_killed_daemon_left_is_taken_away() {
    if !can_mount() {
        return;
    }
    let house = House::new();
    let mnt = house.place.path("mnt");
    std::fs::create_dir(&mnt).unwrap();
    let mount = format!("[[repository.mount]]\nat = \"{}\"\n", mnt.display());
    house.configure("", &format!("{mount}{}", nbd(&house, "")));
    let service = house.start();
    let begun = house.place.json(&["begin", "web01", "vda=1M"]);
    let session = begun["session"].as_str().unwrap().to_owned();
    service.kill();
    assert!(rustix::fs::statfs(&mnt).is_err(), "the mount is dead");
    assert!(house.place.path("nbd.sock").exists());
    let service = house.start();
    assert!(mnt.join(format!("web01/{session}.partial")).exists());
    house
        .connect(&format!("web01/{session}/vda"))
        .disconnect()
        .unwrap();
    service.stop();
    assert_eq!(std::fs::read_dir(&mnt).unwrap().count(), 0);
    assert!(!house.place.path("nbd.sock").exists());
}

#[test]
fn a_socket_that_somebody_listens_on_is_not_taken_away() {
    let house = House::new();
    let _other = std::os::unix::net::UnixListener::bind(house.place.path("nbd.sock")).unwrap();
    house.configure("", &nbd(&house, ""));
    let config = house.place.path("config.toml");
    let said = house
        .place
        .fails(1, &["serve", "--config", config.to_str().unwrap()]);
    assert!(
        said.contains("another process listens") && said.contains("nbd.sock"),
        "{said}"
    );
    // Nothing is left of the attempt.
    house.place.ok(&["sessions"]);
    assert!(house.place.path("nbd.sock").exists());
}

#[test]
fn what_others_have_mounted_is_not_taken_away() {
    if !can_mount() {
        return;
    }
    let house = House::new();
    let at = house.place.path("mnt");
    std::fs::create_dir(&at).unwrap();
    let mount = format!("[[repository.mount]]\nat = \"{}\"\n", at.display());
    house.configure("", &mount);
    let elsewhere = std::path::Path::new("/elsewhere");
    // A process that has ended; one that does not answer, like a network filesystem whose server is away, or a daemon on a slow disk.
    for (is_dead, kind) in [
        (true, "fuse.other"),
        (false, "fuse.other"),
        (false, "fuse.restorefs"),
    ] {
        let device = crate::house::mount_unanswered(&at, elsewhere, kind);
        let device = (!is_dead).then_some(device);
        let mut service = house.spawn(house.command(&[]));
        eventually("the daemon refuses", || service.has_ended());
        let said = house.log();
        assert!(said.contains(kind), "{said}");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(mounts.contains(at.to_str().unwrap()), "it is mounted still");
        drop(device);
        rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}
