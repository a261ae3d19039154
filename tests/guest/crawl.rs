//! A crawler that walks every restore point (updatedb, an agent of another backup): the daemon keeps its bounds, others are answered, and
//! nothing is left; with the documented line it does not come in at all.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::kernel::text;
use crate::kit::need::has;
use crate::layout::{Guest, Home, ready};
use crate::process::{is_reader, readers_of, resident};
use crate::stress::add_point;

const MIB: u64 = 1 << 20;
const POINTS: usize = 12;
/// Bytes of the daemon and all its readers: `--memory 128M`, and buffers.
const TOGETHER_MAX: u64 = 160 * MIB;

/// Runs updatedb over the mount; answers the index.
fn crawl(guest: &Guest, prune: &str, watch: &mut dyn FnMut()) -> String {
    // From above the mount: what is named is walked, whatever it is.
    let (top, index) = (guest.place.dir.path(), guest.path("index"));
    let config = guest.path("updatedb.conf");
    let lines = format!("PRUNE_BIND_MOUNTS=\"no\"\nPRUNEFS=\"{prune}\"\nPRUNEPATHS=\"\"\n");
    std::fs::write(&config, lines).unwrap();
    // The file has no flag: it is put where updatedb looks, in a namespace of its own.
    let script = format!(
        "touch /etc/updatedb.conf 2>/dev/null; mount --bind {} /etc/updatedb.conf && exec updatedb.plocate -U {} -o {}",
        text(&config),
        text(top),
        text(&index)
    );
    let mut child = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .spawn()
        .unwrap();
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(
            began.elapsed() < Duration::from_secs(300),
            "the crawl does not end"
        );
        watch();
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(status.success(), "{status}");
    let found = Command::new("plocate")
        .args(["-d", text(&index), "-c", ""])
        .output()
        .unwrap();
    String::from_utf8_lossy(&found.stdout).trim().to_owned()
}

#[test]
fn a_crawl_of_all_points_stays_within_its_bounds() {
    if !ready() || !has("updatedb.plocate") || !has("unshare") {
        return;
    }
    let guest = Guest::new(Home::Xfs, 400);
    for n in 0..POINTS {
        add_point(&guest, n);
    }
    std::fs::create_dir(guest.path("mnt")).unwrap();
    let mnt = guest.path("mnt");
    let daemon = guest
        .place
        .serve(&["--mount", text(&mnt), "--memory", "128M"]);
    let pid = daemon.child.id();
    let (mut most, mut seen, mut slowest) = (0, Vec::new(), Duration::ZERO);
    let names = crawl(&guest, "proc", &mut || {
        let readers = readers_of(pid);
        let all: u64 = readers.iter().map(|reader| resident(*reader)).sum();
        most = most.max(resident(pid) + all);
        seen.extend(readers);
        // Somebody else lists a point meanwhile.
        let began = Instant::now();
        assert!(
            std::fs::read_dir(mnt.join("db01/point-0/disks"))
                .unwrap()
                .count()
                > 0
        );
        slowest = slowest.max(began.elapsed());
    });
    seen.sort_unstable();
    seen.dedup();
    println!(
        "{names} names; daemon and readers at most {} MiB, {} readers in all; the slowest listing {slowest:?}",
        most / MIB,
        seen.len()
    );
    let names: u64 = names.parse().unwrap();
    assert!(names > 400 * POINTS as u64, "{names}");
    assert!(most <= TOGETHER_MAX, "{most} bytes");
    // With the documented line it does not come in.
    let pruned = crawl(&guest, "proc fuse.restorefs", &mut || ());
    let pruned: u64 = pruned.parse().unwrap();
    // What is left are the repository's own names and what the guest was made of.
    assert!(pruned < names / POINTS as u64, "{pruned} names");
    daemon.stop();
    // A reader ends when its daemon has let go of it; on a busy machine that takes a moment.
    let began = Instant::now();
    loop {
        seen.retain(|reader| is_reader(*reader));
        if seen.is_empty() {
            break;
        }
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "{seen:?} are left"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}
