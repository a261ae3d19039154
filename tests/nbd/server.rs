//! Our server with the clients that people have: libnbd's, QEMU's, fio, the `nbd` crate's, and our own.

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use restorefs::block::filter::{Fault, OpKind};
use restorefs::block::{MemoryDisk, ReadAt, WriteAt};
use restorefs::error::ErrorKind;
use restorefs::ingest::CommitRequest;
use restorefs::metrics::Sheet;
use restorefs::nbd::client::{Client, list};
use restorefs::nbd::proto::flag::TransmissionFlags;
use restorefs::nbd::proto::uri::Uri;
use restorefs::nbd::server::{Guests, Server, ServerLimits, Service};
use restorefs::repo::Ending;

use crate::client::{check_writes, pattern, read};
use crate::kit::need::has;
use crate::kit::prometheus::Samples;
use crate::kit::wait::eventually;
use crate::tool::{attempt, run};
use crate::world::World;

const MIB: usize = 1 << 20;
const SIZE: u64 = 32 << 20;

/// A sparse raw disk with some data, and its bytes.
fn raw(path: &Path, seed: u8) -> Vec<u8> {
    let mut all = vec![0; 32 * MIB];
    for (at, length) in [
        (0, MIB),
        (5 * MIB + 4096, 3 * MIB),
        (20 * MIB, 65_536),
        (32 * MIB - 512, 512),
    ] {
        let data = pattern(length);
        all[at..at + length].copy_from_slice(&data);
    }
    all[6 * MIB..6 * MIB + 100_000].fill(seed);
    let file = std::fs::File::create(path).unwrap();
    file.set_len(SIZE).unwrap();
    for (n, block) in all.chunks(4096).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, n as u64 * 4096).unwrap();
        }
    }
    all
}

fn whole(uri: &str) -> Vec<u8> {
    let client = Client::connect(&uri.parse().unwrap()).unwrap();
    let length = usize::try_from(client.size_bytes()).unwrap();
    read(&client, 0, length)
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// The counters are of the whole process, so other tests may add to them.
#[test]
fn requests_and_errors_are_counted_by_command() {
    let world = World::new();
    let disk = Fault::new(Arc::new(MemoryDisk::from_bytes(&pattern(MIB))));
    disk.fail_range(OpKind::Read, 65_536, 1, ErrorKind::Io);
    world.add("a", Arc::new(disk));
    let now = || Samples::parse(&Sheet::default().into_text().unwrap());
    let before = now();
    let client = Client::connect(&world.uri("a").parse().unwrap()).unwrap();
    assert!(now().value("restorefs_nbd_connections", &[]) >= 1.0);
    for n in 0..5 {
        client.read_at(n * 4096, &mut [0; 4096]).unwrap();
    }
    assert!(client.read_at(65_536, &mut [0; 4096]).is_err());
    let after = now();
    let rise = |name: &str, command: &str| {
        let labels = [("command", command)];
        let name = format!("restorefs_nbd_request_{name}");
        after.value(&name, &labels) - before.value(&name, &labels)
    };
    assert!(rise("duration_seconds_count", "read") >= 6.0);
    assert!(rise("errors_total", "read") >= 1.0);
    assert!(rise("duration_seconds_sum", "read") > 0.0);
}

#[test]
fn nbdcopy_brings_and_fetches_disks_and_nbdinfo_tells_of_them() {
    if !has("nbdcopy") || !has("nbdinfo") {
        return;
    }
    let world = World::new();
    let first = raw(&world.path("a.raw"), 1);
    let (_, disk) = world.begin("s1", SIZE);
    let source = text(&world.path("a.raw"));
    run("nbdcopy", &[&source, &world.uri("web01/s1/vda")]);
    eventually("four goodbyes", || disk.is_finished());
    world.commit("s1");
    let latest = world.uri("web01/latest/vda");
    assert!(whole(&latest) == first);
    // The second point stores what has changed, however the client cuts it.
    let second = raw(&world.path("b.raw"), 2);
    let (_, disk) = world.begin("s2", SIZE);
    let source = text(&world.path("b.raw"));
    run(
        "nbdcopy",
        &[
            "--connections=2",
            "--request-size=131072",
            &source,
            &world.uri("web01/s2/vda"),
        ],
    );
    eventually("two goodbyes", || disk.is_finished());
    assert!(
        disk.stats().stored_bytes <= 2 * 131_072,
        "{:?}",
        disk.stats()
    );
    world.commit("s2");
    assert!(whole(&latest) == second);

    let target = text(&world.path("c.raw"));
    run("nbdcopy", &[&latest, &target]);
    assert!(std::fs::read(&target).unwrap() == second);
    assert_eq!(
        run("nbdinfo", &["--size", &latest]).trim(),
        SIZE.to_string()
    );
    let json = run("nbdinfo", &["--json", &latest]);
    for fact in [
        "\"protocol\": \"newstyle-fixed\"",
        "\"structured\": true",
        "\"is_read_only\": true",
        "\"can_multi_conn\": true",
        "\"block_size_minimum\": 512",
        "\"block_size_preferred\": 65536",
        "\"block_size_maximum\": 33554432",
        "\"base:allocation\"",
    ] {
        assert!(json.contains(fact), "{fact} is not in {json}");
    }
    let map = run("nbdinfo", &["--map", &latest]);
    let covered: u64 = map
        .lines()
        .map(|line| {
            line.split_whitespace()
                .nth(1)
                .unwrap()
                .parse::<u64>()
                .unwrap()
        })
        .sum();
    assert_eq!(covered, SIZE);
    assert!(map.contains("data") && map.contains("hole,zero"), "{map}");
    world.begin("s3", SIZE);
    world.add("other/one", Arc::new(MemoryDisk::sparse(4096)));
    let all = run("nbdinfo", &["--list", "--json", &world.uri("")]);
    for name in ["web01/s3/vda", "other/one"] {
        assert!(
            all.contains(&format!("\"export-name\": \"{name}\"")),
            "{all}"
        );
    }
    assert!(all.contains("the disk other/one"), "{all}");
    let missing = attempt("nbdinfo", &[&world.uri("web01/latest/vdz")]);
    assert!(!missing.status.success());
}

#[test]
fn qemu_img_converts_compares_and_keeps_the_increment_small() {
    if !has("qemu-img") {
        return;
    }
    let world = World::new();
    for (name, seed) in [("s1", 1), ("s2", 2)] {
        let expected = raw(&world.path("a.raw"), seed);
        let (_, disk) = world.begin(name, SIZE);
        let (source, target) = (
            text(&world.path("a.raw")),
            world.uri(&format!("web01/{name}/vda")),
        );
        run(
            "qemu-img",
            &["convert", "-n", "-f", "raw", "-O", "raw", &source, &target],
        );
        eventually("a goodbye", || disk.is_finished());
        if seed == 2 {
            // What the parent has is not stored again: the client did not zero the disk first.
            assert!(
                disk.stats().stored_bytes <= 4 * 65_536,
                "{:?}",
                disk.stats()
            );
        }
        world.commit(name);
        let latest = world.uri("web01/latest/vda");
        assert!(whole(&latest) == expected);
        run(
            "qemu-img",
            &["compare", "-f", "raw", "-F", "raw", &source, &latest],
        );
        let back = text(&world.path("back.qcow2"));
        run(
            "qemu-img",
            &["convert", "-f", "raw", "-O", "qcow2", &latest, &back],
        );
        run(
            "qemu-img",
            &["compare", "-f", "raw", "-F", "qcow2", &source, &back],
        );
        let info = run("qemu-img", &["info", "--output=json", "-f", "raw", &latest]);
        assert!(
            info.contains(&format!("\"virtual-size\": {SIZE}")),
            "{info}"
        );
        let map = run("qemu-img", &["map", "--output=json", "-f", "raw", &latest]);
        assert!(map.contains("\"zero\": true"), "{map}");
    }
}

#[test]
fn qemu_io_writes_zeroes_discards_flushes_and_is_refused_where_nothing_is_written() {
    if !has("qemu-io") {
        return;
    }
    let world = World::new();
    let (_, disk) = world.begin("s1", SIZE);
    let uri = world.uri("web01/s1/vda");
    let commands = [
        "write -P 0x11 0 1M",
        "write -f -P 0x22 512k 1M",
        "write -z 64k 128k",
        "write -z -u 300k 512",
        "discard 1M 64k",
        "write -P 0x33 1048064 1024",
        "flush",
        "read -P 0x11 0 64k",
        "read -P 0 64k 128k",
        "read -P 0 300k 512",
        "read -P 0x33 1048064 1024",
        "read -P 0 1049088 65024",
        "read -P 0x22 1114112 64k",
    ];
    let mut arguments = vec!["-f", "raw"];
    for command in &commands {
        arguments.extend(["-c", command]);
    }
    arguments.push(&uri);
    let said = run("qemu-io", &arguments);
    assert!(
        !said.contains("failed") && !said.contains("error"),
        "{said}"
    );
    eventually("a goodbye", || disk.is_finished());
    world.commit("s1");
    let latest = world.uri("web01/latest/vda");
    let said = run(
        "qemu-io",
        &["-r", "-f", "raw", "-c", "read -P 0x11 0 64k", &latest],
    );
    assert!(!said.contains("failed"), "{said}");
    let refused = attempt("qemu-io", &["-f", "raw", "-c", "write 0 512", &latest]);
    assert!(!refused.status.success() || String::from_utf8_lossy(&refused.stderr).contains("ead"));
    assert_eq!(whole(&latest)[..65_536], [0x11; 65_536]);
}

#[test]
fn fio_reads_back_what_it_wrote() {
    if !has("fio") {
        return;
    }
    let world = World::new();
    let (_, disk) = world.begin("s1", SIZE);
    let uri = format!("--uri={}", world.uri("web01/s1/vda"));
    let said = run(
        "fio",
        &[
            "--name=verify",
            "--ioengine=nbd",
            &uri,
            "--rw=randwrite",
            "--bs=4k",
            "--size=16M",
            "--iodepth=16",
            "--verify=crc32c",
            "--do_verify=1",
            "--verify_fatal=1",
            "--verify_state_save=0",
            "--randrepeat=1",
        ],
    );
    assert!(said.contains("err= 0"), "{said}");
    let size = disk.stats().received_bytes;
    assert!(size >= 16 << 20, "{size}");
}

#[test]
fn the_crate_nbd_is_served() {
    let world = World::new();
    let (_, disk) = world.begin("s1", SIZE);
    let stream = UnixStream::connect(world.socket()).unwrap();
    let export = nbd::client::handshake(&stream, b"web01/s1/vda").unwrap();
    assert_eq!(export.size, SIZE);
    assert!(!export.readonly && export.send_flush);
    let mut client = nbd::client::NbdClient::new(&stream, &export);
    client.seek(SeekFrom::Start(70_001)).unwrap();
    client.write_all(&[5; 1000]).unwrap();
    client.flush().unwrap();
    client.seek(SeekFrom::Start(70_000)).unwrap();
    let mut bytes = [9; 1002];
    client.read_exact(&mut bytes).unwrap();
    assert_eq!((bytes[0], bytes[1], bytes[1000], bytes[1001]), (0, 5, 5, 0));
    // It knows no goodbye.
    drop(stream);
    eventually("the connection has ended", || disk.writers() == 0);
    assert!(!disk.is_finished());
}

#[test]
fn our_client_writes_whatever_the_alignment() {
    let world = World::new();
    let (_, disk) = world.begin("s1", 8 << 20);
    let uri = world.uri("web01/s1/vda");
    check_writes(&uri);
    let client = Client::connect(&uri.parse().unwrap()).unwrap();
    assert_eq!(client.block_size().minimum, 512);
    let flags = client.flags();
    assert!(flags.contains(TransmissionFlags::CAN_MULTI_CONN | TransmissionFlags::SEND_FUA));
    client.write_at(0, &[1; 4096]).unwrap();
    client.punch(0, 1024).unwrap();
    assert_eq!(read(&client, 1000, 48), [[0; 24], [1; 24]].concat());
    assert!(!disk.is_finished());
    client.disconnect().unwrap();
    // Without waiting: the client returns when the server has heard the goodbye.
    assert!(disk.is_finished());
    let names: Vec<String> = list(&uri.parse().unwrap())
        .unwrap()
        .into_iter()
        .map(|e| e.name)
        .collect();
    assert_eq!(names, ["web01/s1/vda"]);
    let error = Client::connect(&world.uri("nothing").parse().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("nothing"), "{error}");
}

#[test]
fn one_of_four_connections_that_dies_leaves_the_disk_unfinished() {
    let world = World::new();
    let (session, disk) = world.begin("s1", 8 << 20);
    let uri: Uri = world.uri("web01/s1/vda").parse().unwrap();
    let clients: Vec<Client> = (0..4u8)
        .map(|n| {
            let client = Client::connect(&uri).unwrap();
            client.write_at(u64::from(n) << 20, &[n; 65_536]).unwrap();
            client
        })
        .collect();
    for (n, client) in clients.into_iter().enumerate() {
        if n == 2 {
            drop(client);
        } else {
            client.disconnect().unwrap();
        }
    }
    eventually("all have ended", || disk.writers() == 0);
    assert!(!disk.is_finished());
    let error = session
        .commit(&CommitRequest::default(), &|| ())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    // One that only looks changes nothing; one that writes and ends well finishes the disk.
    Client::connect(&uri).unwrap().disconnect().unwrap();
    assert!(!disk.is_finished());
    let client = Client::connect(&uri).unwrap();
    client.flush().unwrap();
    client.disconnect().unwrap();
    assert!(disk.is_finished());
}

#[test]
fn a_session_that_has_ended_takes_no_writes() {
    let world = World::new();
    let (session, _) = world.begin("s1", 8 << 20);
    let uri: Uri = world.uri("web01/s1/vda").parse().unwrap();
    let client = Client::connect(&uri).unwrap();
    client.write_at(0, &[1; 4096]).unwrap();
    session.end(&Ending::aborted()).unwrap();
    let error = client.write_at(0, &[1; 4096]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Disconnected);
    assert!(error.to_string().contains("aborted"), "{error}");
    assert!(Client::connect(&uri).is_err());
}

#[test]
fn shutting_down_lets_go_of_clients_and_leaves_their_disks_unfinished() {
    let mut world = World::new();
    let (_, disk) = world.begin("s1", 8 << 20);
    let uri: Uri = world.uri("web01/s1/vda").parse().unwrap();
    let client = Client::connect(&uri).unwrap();
    client.write_at(0, &[1; 4096]).unwrap();
    let idle = UnixStream::connect(world.socket()).unwrap();
    world.stop();
    assert!(!world.socket().exists());
    assert!(client.read_at(0, &mut [0; 512]).is_err());
    assert!(client.disconnect().is_err());
    assert_eq!(disk.writers(), 0);
    assert!(!disk.is_finished());
    drop(idle);
}

#[test]
fn a_socket_that_is_taken_is_left_alone() {
    let world = World::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _entered = runtime.enter();
    let service = Service::new(world.catalog.clone(), ServerLimits::default());
    let bind = |path: &Path| Server::bind_unix(path, Guests::Group, &service);
    assert_eq!(bind(&world.socket()).unwrap_err().kind(), ErrorKind::Busy);
    let long = world.path(&"x".repeat(108));
    assert_eq!(bind(&long).unwrap_err().kind(), ErrorKind::NameTooLong);
    assert!(list(&world.uri("").parse().unwrap()).unwrap().is_empty());
}
