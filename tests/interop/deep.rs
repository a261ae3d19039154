//! A chain of 1,000 layers whose points have names of 128 bytes.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use restorefs::qcow2::Compression;
use restorefs::types::{DiskName, PointName};

use crate::kit::need::has;
use crate::repository::{Present, Truth, Writer, assert_reads, layers, open};
use crate::tool::run;

const CLUSTER: usize = 65_536;
const DEPTH: usize = 1000;

fn build(root: &std::path::Path) -> Truth {
    let writer = Writer::new(root);
    let name = "d".repeat(128);
    let mut disks = [Present {
        name: DiskName::new(name).unwrap(),
        bytes: vec![0; 48 * CLUSTER],
    }];
    let mut last = None;
    for number in 0..DEPTH {
        if number % 100 == 50 {
            let disk = &mut disks[0].bytes;
            disk.resize(disk.len() + 3 * CLUSTER + 512, 0);
        }
        let point = format!("{:x>128}", format!("-{number:04}")).replacen('x', "p", 1);
        assert_eq!(point.len(), 128);
        let compression = [Compression::None, Compression::Zstd][number % 2];
        let point = PointName::new(point).unwrap();
        let session = writer.begin(&disks, compression, Some(point));
        let target = session.disk(&disks[0].name).unwrap();
        let bytes = &mut disks[0].bytes;
        let clusters = bytes.len() / CLUSTER;
        for (cluster, byte) in [(number * 7 % clusters, number), (number % 5, number + 1)] {
            let at = cluster * CLUSTER;
            let text = format!("{byte} ").repeat(CLUSTER);
            bytes[at..at + CLUSTER].copy_from_slice(&text.as_bytes()[..CLUSTER]);
            target.write(at as u64, &bytes[at..at + CLUSTER]).unwrap();
        }
        if number % 10 == 9 {
            let at = (number * 3 % clusters) * CLUSTER;
            bytes[at..at + CLUSTER].fill(0);
            target.zero(at as u64, CLUSTER as u64).unwrap();
        }
        last = writer.commit(&session, &disks).pop();
    }
    last.unwrap()
}

#[test]
fn a_chain_of_a_thousand_layers_is_flattened_by_qemu_and_read_by_us() {
    if !has("qemu-img") {
        return;
    }
    // A thousand commits sync many thousand times: in memory where there is a place for it.
    let memory = std::path::Path::new("/dev/shm");
    let dir = match tempfile::tempdir_in(memory) {
        Ok(dir) => dir,
        Err(_) => tempfile::tempdir().unwrap(),
    };
    let root = dir.path().join("repo");
    let truth = build(&root);
    let layer = layers(&root).join(&truth.layer);

    let flat = dir.path().join("flat.raw");
    let (from, to) = (layer.to_str().unwrap(), flat.to_str().unwrap());
    // One open file for each layer, and QEMU asks for as many as it is let.
    let command = "ulimit -n 4096; exec qemu-img convert -f qcow2 -O raw \"$0\" \"$1\"";
    run("sh", &["-c", command, from, to]);
    assert!(
        std::fs::read(&flat).unwrap() == truth.bytes,
        "qemu-img convert"
    );
    run("qemu-img", &["check", "-q", "-f", "qcow2", from]);

    // Without a map, making one, with one, and with one that is damaged.
    let cache = root.join("cache");
    std::fs::remove_dir_all(&cache).unwrap();
    let disk = open(&root, &truth, false);
    assert_eq!(disk.depth(), DEPTH);
    assert_reads(&disk, &truth.bytes, "read-only, without a cache");
    assert!(
        !cache.join("maps").exists(),
        "a reader that is not the owner writes nothing"
    );
    assert_reads(&open(&root, &truth, true), &truth.bytes, "cold");
    let below = |dir: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    // A directory for the VM, with a map for the chain.
    let vms = below(&cache.join("maps"));
    assert_eq!(vms.len(), 1);
    let maps = below(&vms[0]);
    assert_eq!(maps.len(), 1);
    let before = std::fs::read(&maps[0]).unwrap();
    assert_reads(&open(&root, &truth, true), &truth.bytes, "warm");
    assert!(
        std::fs::read(&maps[0]).unwrap() == before,
        "the warm map was not used"
    );
    let file = std::fs::File::options().write(true).open(&maps[0]).unwrap();
    file.write_all_at(&[0xff; 8], before.len() as u64 / 2)
        .unwrap();
    assert_reads(&open(&root, &truth, true), &truth.bytes, "damaged");
    file.set_len(60).unwrap();
    assert_reads(&open(&root, &truth, true), &truth.bytes, "cut");
    std::fs::remove_dir_all(&cache).unwrap();
    assert_reads(
        &open(&root, &truth, true),
        &truth.bytes,
        "after the cache was deleted",
    );
}
