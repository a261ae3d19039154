//! Layers that rot while they are downloaded: no client may take what it has for whole.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use crate::curl::{Answer, Request};
use crate::guest;
use crate::kit::certificate::{Authority, can_certify};
use crate::kit::need::has;
use crate::kit::noise::noise;
use crate::kit::wait::eventually;
use crate::scene::{POINT, Scene};

const DISK: &str = "/api/v1/repositories/default/vms/web01/points/one/disks/vda";
const MIB: u64 = 1 << 20;
/// MiB of the disks: more than all buffers between the daemon's thread and a client that reads slowly.
const DISK_MIB: usize = 64;
/// Bytes of the layer that stay: the client is far before their end when the rest rots.
const SOUND_BYTES: u64 = 44 * MIB;

/// The only layer of the VM.
fn layer(scene: &Scene) -> PathBuf {
    let layers = scene.place.repo().join("vms/web01/layers");
    let mut files = std::fs::read_dir(layers)
        .unwrap()
        .map(|file| file.unwrap().path());
    files
        .find(|path| path.extension().is_some_and(|e| e == "qcow2"))
        .unwrap()
}

/// Begins a transfer, and lets the layer rot when its first MiB has arrived.
fn rotting(request: Request<'_>, rot: impl FnOnce()) -> Answer {
    let running = request.with(&["--limit-rate", "6M", "-N"]).spawn();
    eventually("the first MiB", || running.received_bytes() >= MIB);
    rot();
    running.end()
}

fn overwrite(scene: &Scene) {
    let file = File::options().write(true).open(layer(scene)).unwrap();
    let length = file.metadata().unwrap().len();
    let garbage = noise(99, usize::try_from(length - SOUND_BYTES).unwrap());
    file.write_all_at(&garbage, SOUND_BYTES).unwrap();
}

#[test]
fn a_disk_that_rots_on_the_way_is_broken_off() {
    if !can_certify() {
        return;
    }
    let authority = Authority::new();
    let server = authority.server();
    for is_two in [false, true] {
        let Some(mut scene) = Scene::of_disks() else {
            return;
        };
        std::fs::remove_dir_all(scene.place.repo()).unwrap();
        scene.place.ok(&["init"]);
        let source = noise(5, DISK_MIB << 20);
        std::fs::write(scene.place.path("large.raw"), &source).unwrap();
        scene.back_up("web01", "large.raw", "one");
        let tls = ["--tls-certificates", server.to_str().unwrap()];
        scene.start(if is_two { &tls } else { &[] });
        let token = scene.token("laptop", "restore", "*");
        let request = scene.get(DISK).token(&token);
        let request = match is_two {
            true => request.tls(&server).with(&["--http2"]),
            false => request,
        };
        let answer = rotting(request, || overwrite(&scene));
        // CURLE_PARTIAL_FILE, or CURLE_HTTP2_STREAM.
        assert_eq!(
            answer.exit,
            if is_two { 92 } else { 18 },
            "{} {}",
            answer.head,
            scene.log()
        );
        assert_eq!(answer.status, 200);
        let got = answer.body.len();
        assert!(got < source.len() && answer.body == source[..got], "{got}");
        let log = scene.log();
        let line = log
            .lines()
            .find(|line| line.contains("a download was broken off"));
        let line = line.unwrap_or_else(|| panic!("{log}"));
        for word in ["token laptop", "vda of web01@one"] {
            assert!(line.contains(word), "{line}");
        }
        // What is sound is still served, what is rotten not: neither by a range.
        let part = |range: &str| {
            let request = scene
                .get(DISK)
                .token(&token)
                .header(&format!("Range: {range}"));
            match is_two {
                true => request.tls(&server).run(),
                false => request.run(),
            }
        };
        let sound = part("bytes=0-999999");
        assert!(
            sound.exit == 0 && sound.body == source[..1_000_000],
            "{}",
            sound.head
        );
        assert_ne!(part("bytes=-1000000").exit, 0);
    }
}

#[test]
fn an_archive_whose_layer_is_cut_on_the_way_is_broken_off() {
    if !has("tar") {
        return;
    }
    for format in ["tar", "tar.zst", "zip"] {
        let Some(mut scene) = Scene::of_disks() else {
            return;
        };
        std::fs::remove_dir_all(scene.place.repo()).unwrap();
        scene.place.ok(&["init"]);
        let staging = scene.place.path("staging");
        guest::write(
            &staging.join("etc/fstab"),
            b"LABEL=root / ext4 defaults 0 1\n",
        );
        guest::write(&staging.join("srv/large"), &noise(8, (DISK_MIB - 8) << 20));
        guest::format(&scene.place, &staging, "guest.raw", DISK_MIB as u64 + 16);
        scene.back_up("web01", "guest.raw", "one");
        scene.start(&[]);
        let token = scene.token("laptop", "restore", "*");
        let path = format!("{POINT}/archive?format={format}&path=/files/srv");
        let answer = rotting(scene.get(&path).token(&token), || {
            let file = File::options().write(true).open(layer(&scene)).unwrap();
            file.set_len(SOUND_BYTES).unwrap();
        });
        assert_eq!(answer.exit, 18, "{format}: {} {}", answer.head, scene.log());
        assert!(
            scene.log().contains("a download was broken off"),
            "{}",
            scene.log()
        );
        if format == "zip" {
            continue;
        }
        let archive = scene.place.path("a.tar");
        std::fs::write(&archive, &answer.body).unwrap();
        let mut list = Command::new("tar");
        if format == "tar.zst" {
            list.arg("--zstd");
        }
        let listed = list.arg("-tf").arg(&archive).output().unwrap();
        assert!(!listed.status.success(), "{format}: {listed:?}");
    }
}

/// A file that cannot be read at all is not in the archive. The client hears of it, or it would miss the file when it is needed.
#[test]
fn an_archive_that_lacks_a_file_does_not_end_as_if_it_were_whole() {
    let Some(mut scene) = Scene::of_disks() else {
        return;
    };
    std::fs::remove_dir_all(scene.place.repo()).unwrap();
    scene.place.ok(&["init"]);
    let staging = scene.place.path("staging");
    guest::write(
        &staging.join("etc/fstab"),
        b"LABEL=root / ext4 defaults 0 1\n",
    );
    for n in 0..200 {
        guest::write(&staging.join(format!("srv/f{n}")), &noise(n + 1, 100_000));
    }
    guest::format(&scene.place, &staging, "guest.raw", 64);
    scene.back_up("web01", "guest.raw", "one");
    scene.start(&[]);
    let token = scene.token("laptop", "read,restore", "*");
    let path = format!("{POINT}/archive?format=tar&path=/files/srv");
    let whole = scene.get(&path).token(&token).expect(200);
    let file = File::options().write(true).open(layer(&scene)).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length - 6 * MIB).unwrap();
    let answer = scene.get(&path).token(&token).run();
    assert!(
        answer.exit == 18 || answer.status == 500,
        "{} {}",
        answer.exit,
        answer.head
    );
    assert!(answer.body.len() < whole.body.len());
    let log = scene.log();
    assert!(log.contains("a download was broken off"), "{log}");
}
