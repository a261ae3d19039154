//! SIGHUP: possible changes of the configuration take effect, no connection is lost, and a mistake changes nothing.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use restorefs::block::{ReadAt, WriteAt};
use restorefs::error::Result;
use restorefs::nbd::client::Client;
use rustix::process::Signal;

use crate::helper::{Site, names};
use crate::house::{House, PATIENCE, Service, nbd};
use crate::kit::certificate::{Authority, can_certify};
use crate::kit::need::can_mount;
use crate::kit::wait::eventually;

fn reload(house: &House, service: &Service) -> String {
    service.signal(Signal::HUP);
    let said = house.hear("RELOADING=1");
    assert!(said.contains("MONOTONIC_USEC="), "{said}");
    house.hear("READY=1")
}

/// A connection, once those that have been dropped have given their places back.
fn connect_in_time(house: &House, export: &str) -> Client {
    let begun = Instant::now();
    loop {
        match house.try_connect(export) {
            Ok(client) => return client,
            Err(e) => assert!(begun.elapsed() < PATIENCE, "{} {}", e.report(), house.log()),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A house with one point of `web01`, and its bytes.
fn with_point() -> (House, Vec<u8>) {
    let house = House::new();
    let bytes = house.place.disk("a.raw", 32, 5);
    house
        .place
        .ok(&["backup", "web01", "vda=a.raw", "--point", "p1"]);
    (house, bytes)
}

#[test]
fn no_connection_is_lost_and_new_limits_hold() {
    let (house, bytes) = with_point();
    house
        .place
        .ok(&["backup", "web02", "vda=a.raw", "--point", "p1"]);
    house.configure("", &nbd(&house, "export_connections = 4"));
    let service = house.start();
    let begun = house.place.json(&["begin", "web01", "--point", "p2"]);
    let session = format!("web01/{}", begun["session"].as_str().unwrap());
    let writer = house.connect(&format!("{session}/vda"));
    let stop = Arc::new(AtomicBool::new(false));
    let rounds = Arc::new(AtomicU64::new(0));
    let reader = {
        let client = house.connect("web01/p1/vda");
        let (stop, rounds) = (Arc::clone(&stop), Arc::clone(&rounds));
        std::thread::spawn(move || -> Result<()> {
            let mut found = vec![0; bytes.len()];
            while !stop.load(Ordering::SeqCst) {
                client.read_at(0, &mut found)?;
                assert!(found == bytes);
                rounds.fetch_add(1, Ordering::SeqCst);
            }
            client.disconnect()
        })
    };
    // Clients that ask for nothing have one connection each.
    let first = house.connect("web02/p1/vda");
    for connections in [1_u8, 3, 2] {
        let limit = format!("export_connections = {connections}");
        house.configure("", &nbd(&house, &limit));
        let before = rounds.load(Ordering::SeqCst);
        reload(&house, &service);
        writer.write_at(0, &vec![connections; 65_536]).unwrap();
        let more: Vec<Client> = (1..connections)
            .map(|_| connect_in_time(&house, "web02/p1/vda"))
            .collect();
        let said = house.try_connect("web02/p1/vda").unwrap_err().report();
        assert!(
            said.contains(&format!("{connections} connections")),
            "{said}"
        );
        eventually("the reader goes on", || {
            rounds.load(Ordering::SeqCst) > before + 2
        });
        drop(more);
    }
    first.disconnect().unwrap();
    stop.store(true, Ordering::SeqCst);
    reader.join().unwrap().unwrap();
    writer.flush().unwrap();
    writer.disconnect().unwrap();
    house.place.ok(&["commit", &session]);
    assert_eq!(
        house.place.restored("web01@p2", "vda")[..65_536],
        vec![2; 65_536]
    );
    service.stop();
}

#[test]
fn a_mistake_changes_nothing_and_is_told() {
    let (house, _) = with_point();
    house.configure("", &nbd(&house, "export_connections = 1"));
    let service = house.start();
    let held = house.connect("web01/p1/vda");
    house.configure(
        "",
        &nbd(&house, "export_connections = 5\nexport_conections = 6"),
    );
    let said = reload(&house, &service);
    assert!(said.contains("export_conections"), "{said}");
    assert!(
        house.try_connect("web01/p1/vda").is_err(),
        "the old limit holds"
    );
    house.wait_for_log("all stays as it was");
    // What takes a restart is said, and the rest is taken.
    house.configure("memory = \"64M\"", &nbd(&house, "export_connections = 5"));
    reload(&house, &service);
    house.wait_for_log("takes a restart");
    assert!(house.log().contains("memory"));
    house.connect("web01/p1/vda").disconnect().unwrap();
    held.disconnect().unwrap();
    service.stop();
}

#[test]
fn a_mount_that_is_new_is_made_and_what_cannot_be_is_told() {
    if !can_mount() {
        return;
    }
    let site = Site::new(&["a", "b", "full"]);
    let house = &site.house;
    std::fs::write(site.points[2].join("something"), "").unwrap();
    let mount = |n: usize, options: &str| {
        let at = site.points[n].display();
        format!("[[repository.mount]]\nat = \"{at}\"\noptions = \"{options}\"\n")
    };
    house.configure("", &mount(0, "ro"));
    let service = house.start();
    assert_eq!(names(&site.points[0]).len(), 3);
    let held = std::fs::File::open(site.points[0].join("web01/p1/info.json")).unwrap();
    // The first as it was; of the others one is made, and one cannot be.
    house.configure(
        "",
        &(mount(0, "ro") + &mount(2, "ro") + &mount(1, "ro,vm=db*")),
    );
    let said = reload(house, &service);
    assert!(said.contains("not empty"), "{said}");
    assert_eq!(names(&site.points[0]).len(), 3);
    assert_eq!(names(&site.points[1]), ["db01"]);
    assert_eq!(names(&site.points[2]), ["something"]);
    std::io::Read::read_to_end(&mut &held, &mut Vec::new()).unwrap();
    assert!(!house.log().contains("takes a restart"), "{}", house.log());
    // What is there already goes on as it began; what has been unmounted is mounted again.
    site.umount(1);
    std::fs::remove_file(site.points[2].join("something")).unwrap();
    house.configure(
        "",
        &(mount(0, "ro,vm=web*") + &mount(2, "ro") + &mount(1, "ro,vm=db*")),
    );
    let said = reload(house, &service);
    assert!(!said.contains("not empty"), "{said}");
    house.wait_for_log("takes a restart");
    assert!(
        house
            .log()
            .contains(&format!("mount {}", site.points[0].display()))
    );
    for (n, vms) in [(0, 3), (1, 1), (2, 3)] {
        assert_eq!(names(&site.points[n]).len(), vms, "{n}");
    }
    drop(held);
    service.stop();
    assert!(site.points.iter().all(|point| names(point).is_empty()));
}

fn secure(house: &House, certificates: &Path, access: &str) {
    let file = house.place.path("access.toml");
    std::fs::write(&file, access).unwrap();
    house.configure(
        "",
        &nbd(
            house,
            &format!(
                "listen = \"127.0.0.1:0\"\ntls_certificates = \"{}\"\naccess = \"{}\"",
                certificates.display(),
                file.display()
            ),
        ),
    );
}

fn connect(address: SocketAddr, client: &Path) -> Result<Client> {
    let uri = format!(
        "nbds://{address}/web01/p1/vda?tls-certificates={}",
        client.display()
    );
    Client::connect(&uri.parse().unwrap())
}

#[test]
fn new_certificates_and_rights_hold_for_new_connections() {
    if !can_certify() {
        return;
    }
    let (house, bytes) = with_point();
    let (old, new) = (Authority::new(), Authority::new());
    let rights = "[[access]]\nidentity = \"agent1\"\nvms = [\"web*\"]\nrights = [\"read\"]\n";
    let (old_server, new_server) = (old.server(), new.server());
    let (old_client, new_client) = (old.client("agent1"), new.client("agent1"));
    secure(&house, &old_server, rights);
    let service = house.start();
    let begun = house.place.json(&["begin", "web01"]);
    let tcp = begun["nbd_targets_tcp"].as_str().unwrap();
    let address: SocketAddr = tcp
        .split("nbds://")
        .nth(1)
        .unwrap()
        .split('/')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let kept = connect(address, &old_client).unwrap();
    assert!(connect(address, &new_client).is_err());
    // Certificates are renewed in place, as administrators do it.
    for name in ["ca-cert.pem", "server-cert.pem", "server-key.pem"] {
        std::fs::copy(new_server.join(name), old_server.join(name)).unwrap();
    }
    reload(&house, &service);
    assert!(connect(address, &old_client).is_err());
    let mut found = vec![0; bytes.len()];
    connect(address, &new_client)
        .unwrap()
        .read_at(0, &mut found)
        .unwrap();
    assert!(found == bytes);
    found.fill(0);
    kept.read_at(0, &mut found).unwrap();
    assert!(found == bytes, "the old connection goes on");
    // Rights that are taken away count at once, without a signal.
    secure(&house, &old_server, "");
    let error = connect(address, &new_client).unwrap_err();
    assert_eq!(
        error.kind(),
        restorefs::error::ErrorKind::NotFound,
        "{error}"
    );
    secure(&house, &old_server, rights);
    connect(address, &new_client).unwrap();
    // Half of a renewal: the key does not fit. All stays as it was.
    std::fs::copy(
        old_client.join("client-key.pem"),
        old_server.join("server-key.pem"),
    )
    .unwrap();
    let said = reload(&house, &service);
    assert!(said.contains("mistake"), "{said}");
    connect(address, &new_client).unwrap();
    kept.disconnect().unwrap();
    service.kill();
}

#[test]
fn a_reload_while_the_daemon_starts_does_not_end_it() {
    if !can_mount() {
        return;
    }
    let house = House::new();
    let at = house.place.path("mnt");
    std::fs::create_dir(&at).unwrap();
    // A mount that nobody answers: the daemon waits for it five seconds, and takes it for dead.
    let device = crate::house::mount_unanswered(&at, &house.place.repo(), "fuse.restorefs");
    let of_mount = format!("[[repository.mount]]\nat = \"{}\"\n", at.display());
    house.configure("", &of_mount);
    let mut service = house.spawn(house.command(&[]));
    std::thread::sleep(Duration::from_millis(1500));
    assert!(!service.has_ended(), "{}", house.log());
    service.signal(Signal::HUP);
    house.hear("READY=1");
    house.wait_for_log("read again");
    drop(device);
    service.stop();
}
