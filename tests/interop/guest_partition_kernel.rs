//! Partition tables that are hard to tell, against what sfdisk makes of them, and the kernel where it has parsers of tables: other sector
//! sizes, remains of filesystems, damage.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use restorefs::block::{FileDisk, ReadAt};
use restorefs::guest::fs::VolumeState;
use restorefs::guest::volume::{Known, Origin, Scan, scan_point};
use restorefs::sys::beneath::Access;

use crate::kit::need::{has, need};
use crate::tool::run;

const MIB: u64 = 1 << 20;

/// A loop device with partitions, detached when dropped.
struct Loop(String);

impl Loop {
    fn new(file: &Path, sector: u64) -> Option<Self> {
        let size = sector.to_string();
        let output = Command::new("losetup")
            .args(["-f", "--show", "-P", "-b", &size])
            .arg(file)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        if !need(output.status.success(), &format!("losetup: {said}")) {
            return None;
        }
        let name = String::from_utf8(output.stdout).unwrap();
        Some(Self(name.trim().to_owned()))
    }

    /// Number, start and length in bytes of each partition as the kernel has it; none where it was built without parsers of tables.
    fn kernel(&self) -> Vec<(u32, u64, u64)> {
        let name = self.0.trim_start_matches("/dev/");
        let mut found = Vec::new();
        for entry in std::fs::read_dir(format!("/sys/block/{name}")).unwrap() {
            let entry = entry.unwrap().path();
            let number = |file: &str| {
                let text = std::fs::read_to_string(entry.join(file)).ok()?;
                text.trim().parse::<u64>().ok()
            };
            if let (Some(n), Some(start), Some(size)) =
                (number("partition"), number("start"), number("size"))
            {
                found.push((u32::try_from(n).unwrap(), start * 512, size * 512));
            }
        }
        found.sort_unstable();
        found
    }

    /// The same as sfdisk has it, which counts in the device's sectors; the kernel's, if it has any, must be that.
    fn partitions(&self) -> Vec<(u32, u64, u64)> {
        let output = run("sfdisk", &["-J", &self.0]);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let table = &json["partitiontable"];
        let sector = table["sectorsize"].as_u64().unwrap();
        let mut found: Vec<(u32, u64, u64)> = table["partitions"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|part| {
                let node = part["node"].as_str().unwrap();
                let number = node.strip_prefix(&format!("{}p", self.0)).unwrap();
                let bytes = |key: &str| part[key].as_u64().unwrap() * sector;
                let is_extended = part["type"].as_str() == Some("5");
                let length = if is_extended { 0 } else { bytes("size") };
                (number.parse().unwrap(), bytes("start"), length)
            })
            .collect();
        found.sort_unstable();
        let kernel = self.kernel();
        if !kernel.is_empty() {
            let starts = |list: &[(u32, u64, u64)]| -> Vec<(u32, u64)> {
                list.iter().map(|(n, start, _)| (*n, *start)).collect()
            };
            assert_eq!(starts(&kernel), starts(&found));
        }
        found
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

fn disk(path: &Path, size_mib: u64) {
    let file = std::fs::File::create(path).unwrap();
    file.set_len(size_mib * MIB).unwrap();
}

fn sfdisk(target: &str, script: &str) {
    let command = format!("printf '{script}' | sfdisk -q --wipe never --no-reread {target}");
    run("sh", &["-c", &command]);
}

/// An ext4 with that label at an offset of a file.
fn ext4(path: &Path, offset: u64, label: &str) {
    let offset = format!("offset={offset}");
    let name = path.to_str().unwrap();
    run(
        "mkfs.ext4",
        &["-q", "-F", "-L", label, "-E", &offset, name, "8M"],
    );
}

fn scan(path: &Path) -> (Scan, Arc<dyn ReadAt>) {
    let disk: Arc<dyn ReadAt> = Arc::new(FileDisk::open(path, Access::Read).unwrap());
    let scan = scan_point(&[("vda".to_owned(), Arc::clone(&disk))]);
    assert!(scan.complete);
    (scan, disk)
}

/// The partitions of a disk as we have them; the length of an extended one is left out.
fn ours(scan: &Scan) -> Vec<(u32, u64, u64)> {
    let place = |volume: &restorefs::guest::volume::Volume| match volume.origin {
        Origin::Partition {
            disk: Some(0),
            number,
        } => {
            let run = volume.map.run_at(0, 1)?;
            let restorefs::block::run::Target::Source { offset, .. } = run.target else {
                return None;
            };
            let is_extended = volume.type_name.as_deref() == Some("extended");
            let length = if is_extended {
                0
            } else {
                volume.map.size_bytes()
            };
            Some((number, offset, length))
        }
        _ => None,
    };
    let mut found: Vec<_> = scan.volumes.iter().filter_map(place).collect();
    found.sort_unstable();
    found
}

/// Labels of the filesystems that can be read, by path.
fn labels(scan: &Scan, disk: &Arc<dyn ReadAt>) -> Vec<(String, String)> {
    scan.volumes
        .iter()
        .filter_map(|volume| {
            let (state, fs) = volume.open(std::slice::from_ref(disk));
            let label = fs?.info().label.clone().unwrap_or_default();
            (state == VolumeState::Readable).then(|| (volume.path.clone(), label))
        })
        .collect()
}

/// Tables in sectors of 4096 bytes, with logical partitions, and of 512.
#[test]
fn sectors_of_both_sizes() {
    if !has("sfdisk") || !has("mkfs.ext4") || !has("losetup") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let dos = "label: dos\\nstart=1MiB,size=40MiB\\nstart=41MiB,size=120MiB,type=5\\nstart=42MiB,size=30MiB\\nstart=80MiB,size=30MiB\\n";
    let gpt = "label: gpt\\nsize=40MiB\\nsize=40MiB\\n";
    for (sector, script) in [(512, dos), (4096, dos), (512, gpt), (4096, gpt)] {
        let path = temp.path().join("disk");
        disk(&path, 200);
        let Some(device) = Loop::new(&path, sector) else {
            return;
        };
        sfdisk(&device.0, script);
        drop(device);
        let Some(device) = Loop::new(&path, sector) else {
            return;
        };
        let kernel = device.partitions();
        drop(device);
        assert!(kernel.len() >= 2, "{kernel:?}");
        for (number, start, length) in &kernel {
            if *length > MIB {
                ext4(&path, *start, &format!("fs{number}"));
            }
        }
        let (scan, disk) = scan(&path);
        assert_eq!(ours(&scan), kernel, "{sector} {script}");
        let expected: Vec<_> = kernel
            .iter()
            .filter(|(.., length)| *length > 0)
            .map(|(n, ..)| (format!("vda/part/{n}"), format!("fs{n}")))
            .collect();
        assert_eq!(labels(&scan, &disk), expected);
        for volume in &scan.volumes {
            assert_eq!(volume.sector_bytes, Some(sector), "{}", volume.path);
        }
        assert!(scan.notes.is_empty(), "{:?}", scan.notes);
    }
}

/// A GPT in each size, of which one is stale: that counts whose partitions hold something.
#[test]
fn a_disk_with_headers_of_both_sizes() {
    if !has("sfdisk") || !has("mkfs.ext4") || !has("losetup") {
        return;
    }
    for (current, stale) in [(512, 4096), (4096, 512)] {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("disk");
        disk(&path, 100);
        let mut places = Vec::new();
        for sector in [stale, current] {
            // The headers of one size lie at 512, the other's at 4096, and a table of 4 entries leaves room for both.
            let script = "label: gpt\\ntable-length: 4\\nfirst-lba: 100\\nstart=4096,size=18432\\n";
            let other = temp.path().join("other");
            disk(&other, 100);
            let Some(device) = Loop::new(&other, sector) else {
                return;
            };
            sfdisk(&device.0, script);
            drop(device);
            let bytes = std::fs::read(&other).unwrap();
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            let at = usize::try_from(sector).unwrap();
            // The header, and its entries in the sector behind.
            file.write_all_at(&bytes[..512], 0).unwrap();
            file.write_all_at(&bytes[at..at + 512], sector).unwrap();
            file.write_all_at(&bytes[2 * at..2 * at + 512], 2 * sector)
                .unwrap();
            places.push(4096 * sector);
        }
        ext4(&path, places[1], "current");
        let (scan, disk) = scan(&path);
        let found = labels(&scan, &disk);
        assert_eq!(
            found,
            [("vda/part/1".to_owned(), "current".to_owned())],
            "{scan:?}"
        );
        assert!(
            scan.notes[0].contains(&format!("that for {current}")),
            "{:?}",
            scan.notes
        );
    }
}

/// A disk that was one FAT, partitioned anew: the kernel sees the partitions, though the boot sector of old is still there.
#[test]
fn a_table_in_the_boot_sector_of_a_filesystem_of_old() {
    if !has("sfdisk") || !has("mkfs.ext4") || !has("mkfs.vfat") || !has("losetup") {
        return;
    }
    for (old, clusters) in [("-F12", "64"), ("-F16", "32"), ("-F32", "8")] {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("disk");
        let size = if old == "-F12" { 64 } else { 300 };
        disk(&path, size);
        let name = path.to_str().unwrap();
        run("mkfs.vfat", &["-I", old, "-s", clusters, name]);
        // Whole, it has no partitions, by the kernel's account too.
        let Some(device) = Loop::new(&path, 512) else {
            return;
        };
        assert!(device.kernel().is_empty());
        drop(device);
        let (whole, _) = scan(&path);
        assert_eq!(whole.volumes[0].known, Known::Filesystem);
        assert_eq!(whole.volumes[0].path, "vda/raw");
        let mut code = vec![0; 440];
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        file.read_exact_at(&mut code, 0).unwrap();
        sfdisk(
            name,
            "label: dos\\nstart=1MiB,size=16MiB\\nsize=16MiB,type=5\\nsize=8MiB\\n",
        );
        file.write_all_at(&code, 0).unwrap();
        let device = Loop::new(&path, 512).unwrap();
        let kernel = device.partitions();
        drop(device);
        assert_eq!(kernel.len(), 3);
        ext4(&path, kernel[0].1, "new");
        let (scan, disk) = scan(&path);
        let found: Vec<_> = ours(&scan)
            .iter()
            .map(|(n, start, _)| (*n, *start))
            .collect();
        let kernel: Vec<_> = kernel.iter().map(|(n, start, _)| (*n, *start)).collect();
        assert_eq!(found, kernel, "{old}");
        assert_eq!(labels(&scan, &disk)[0].1, "new");
    }
}

/// A disk of 300 MiB with two filesystems, by sgdisk.
fn two(path: &Path) -> PathBuf {
    disk(path, 300);
    let name = path.to_str().unwrap();
    run("sgdisk", &["-n1:1M:+100M", "-n2:0:+100M", name]);
    ext4(path, MIB, "one");
    ext4(path, 101 * MIB, "two");
    path.to_owned()
}

/// Grown with a damaged primary, cut, overwritten at its start, and with nothing but the protective MBR.
#[test]
fn a_gpt_that_is_not_whole() {
    if !has("sgdisk") || !has("mkfs.ext4") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let path = two(&temp.path().join("disk"));
    let write = |bytes: &[u8], at: u64| {
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(bytes, at).unwrap();
    };
    let resize = |size_mib: u64| {
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(size_mib * MIB).unwrap();
    };
    let both = |dir: &str| {
        ["one", "two"]
            .iter()
            .zip(1..)
            .map(|(label, n)| (format!("vda/{dir}/{n}"), (*label).to_owned()))
            .collect::<Vec<_>>()
    };
    // Grown: the backup is where the last sector was, as the damaged header and the protective MBR have it.
    resize(500);
    write(&[0x5a], 512 + 16);
    let (found, disk) = scan(&path);
    assert_eq!(labels(&found, &disk), both("part"));
    assert!(
        found.notes[0].contains("backup in sector 614399"),
        "{:?}",
        found.notes
    );
    write(&[0; 512], 512);
    let (found, disk) = scan(&path);
    assert_eq!(labels(&found, &disk), both("part"));
    // Cut: what is there is read.
    two(&path);
    resize(150);
    let (found, disk) = scan(&path);
    assert_eq!(labels(&found, &disk), both("part"));
    assert!(
        found.volumes[1]
            .damage
            .as_ref()
            .unwrap()
            .contains("passes the end")
    );
    // Overwritten: Linux sees a disk without partitions, and the copy at the end is named.
    two(&path);
    write(&vec![0; 1 << 20], 0);
    let (found, disk) = scan(&path);
    assert_eq!(found.volumes[0].path, "vda/raw");
    assert_eq!(labels(&found, &disk), both("backup-gpt"));
    assert!(
        found.notes[0].contains("vda/backup-gpt"),
        "{:?}",
        found.notes
    );
    assert!(found.volumes[1..].iter().all(|volume| volume.is_left_over));
    let device = Loop::new(&path, 512);
    assert!(device.is_none_or(|device| device.kernel().is_empty()));
    // A filesystem over the whole disk since then is what counts.
    ext4(&path, 0, "whole");
    let (found, disk) = scan(&path);
    assert_eq!(
        labels(&found, &disk)[0],
        ("vda/raw".to_owned(), "whole".to_owned())
    );
    // Nothing but the protective MBR.
    two(&path);
    write(&[0; 512], 512);
    write(&[0; 512], 300 * MIB - 512);
    let (found, _) = scan(&path);
    assert!(
        matches!(&found.volumes[0].known, Known::Damaged(why) if why.contains("neither") || why.contains("GPT"))
    );
}
