//! LVM as lvm2 writes it: groups over loop devices, with ext4 written to where `lvs` says that a volume lies.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use restorefs::block::{FileDisk, ReadAt, WriteAt};
use restorefs::guest::fs::VolumeState;
use restorefs::guest::volume::{Known, Scan, Volume, scan_point};
use restorefs::sys::beneath::Access;

use crate::kit::need::{can_loop, has};
use crate::kit::noise::noise;
use crate::tool::run;

const MIB: u64 = 1 << 20;

/// A loop device, undone when dropped.
struct Loop(String);

impl Loop {
    fn new(file: &Path, offset: u64, size: u64) -> Self {
        let (offset, size) = (offset.to_string(), size.to_string());
        let output = run(
            "losetup",
            &[
                "-f",
                "--show",
                "-o",
                &offset,
                "--sizelimit",
                &size,
                file.to_str().unwrap(),
            ],
        );
        Self(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

/// Disks with physical volumes, as long as LVM works on them.
pub(crate) struct Lab {
    pub(crate) dir: tempfile::TempDir,
    loops: Vec<Loop>,
    files: Vec<PathBuf>,
}

impl Lab {
    /// Disks of 64 MiB each, with a physical volume from `starts` MiB on; `None`, with SKIP, where they cannot be made.
    pub(crate) fn new(starts: &[u64]) -> Option<Self> {
        if !has("lvm") || !has("losetup") || !has("mkfs.ext4") || !has("sfdisk") {
            return None;
        }
        if !can_loop() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut lab = Self {
            dir,
            loops: Vec::new(),
            files: Vec::new(),
        };
        for (n, start) in starts.iter().enumerate() {
            let file = lab.dir.path().join(format!("disk{n}"));
            std::fs::File::create(&file)
                .unwrap()
                .set_len(64 * MIB)
                .unwrap();
            if *start > 0 {
                table(&file, &format!("label: gpt\nstart={start}MiB, type=lvm\n"));
            }
            lab.loops
                .push(Loop::new(&file, start * MIB, (62 - start) * MIB));
            lab.files.push(file);
        }
        Some(lab)
    }

    /// Runs an LVM command that sees these devices only and touches nothing else.
    pub(crate) fn lvm(&self, command: &str) -> String {
        let devices: Vec<String> = self
            .loops
            .iter()
            .map(|device| format!("\"a|^{}$|\"", device.0))
            .collect();
        let config = format!(
            "devices {{ filter=[{},\"r|.*|\"] use_devicesfile=0 }} backup {{ backup=0 archive=0 }} \
             activation {{ udev_sync=0 udev_rules=0 }}",
            devices.join(",")
        );
        let mut words: Vec<&str> = command.split_whitespace().collect();
        words.extend(["--config", &config]);
        let output = run("lvm", &words);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Makes a group of all devices, or of those named.
    pub(crate) fn group(&self, name: &str, devices: &[usize]) {
        for n in devices {
            self.physical(*n, "");
        }
        self.join(name, devices);
    }

    fn physical(&self, device: usize, arguments: &str) {
        let name = &self.loops[device].0;
        self.lvm(&format!("pvcreate -q {arguments} {name}"));
    }

    fn join(&self, name: &str, devices: &[usize]) {
        let names: Vec<&str> = devices
            .iter()
            .filter_map(|n| self.loops.get(*n))
            .map(|device| device.0.as_str())
            .collect();
        let names = names.join(" ");
        self.lvm(&format!("vgcreate -q -s 1M {name} {names}"));
    }

    pub(crate) fn create(&self, arguments: &str) {
        self.lvm(&format!(
            "lvcreate --driverloaded n -an -Zn -Wn -y {arguments}"
        ));
    }

    /// Writes `bytes` where `lvs` says that the volume lies.
    pub(crate) fn write(&self, group: &str, volume: &str, bytes: &[u8]) {
        let starts =
            self.lvm("pvs --noheadings --units b --nosuffix --separator ; -o pv_name,pe_start");
        let start_of = |device: &str| {
            let line = starts
                .lines()
                .find_map(|line| line.trim().strip_prefix(device));
            line.unwrap()
                .trim_start_matches(';')
                .parse::<u64>()
                .unwrap()
        };
        let columns = "lv_name,seg_start,seg_size,stripe_size,devices";
        let report = self.lvm(&format!(
            "lvs --driverloaded n -a --segments --noheadings --units b --nosuffix --separator ; -o {columns} {group}"
        ));
        for line in report.lines() {
            let fields: Vec<&str> = line.trim().split(';').collect();
            let [name, start, size, stripe, devices] = fields[..] else {
                panic!("{line}");
            };
            if name != volume {
                continue;
            }
            let number = |text: &str| text.parse::<u64>().unwrap();
            let (start, size) = (number(start), number(size));
            let areas: Vec<(FileDisk, u64)> = devices
                .split(',')
                .map(|area| {
                    let (device, extent) = area.strip_suffix(')').unwrap().split_once('(').unwrap();
                    let disk = FileDisk::open(Path::new(device), Access::ReadWrite).unwrap();
                    (disk, start_of(device) + number(extent) * MIB)
                })
                .collect();
            let stripe = if areas.len() == 1 {
                size
            } else {
                number(stripe)
            };
            for n in 0..size / stripe {
                let (disk, from) = &areas[usize::try_from(n).unwrap() % areas.len()];
                let row = n / u64::try_from(areas.len()).unwrap();
                let at = usize::try_from(start + n * stripe).unwrap();
                let end = (at + usize::try_from(stripe).unwrap()).min(bytes.len());
                if let Some(part) = bytes.get(at..end) {
                    disk.write_at(from + row * stripe, part).unwrap();
                }
            }
            for (disk, _) in &areas {
                disk.flush().unwrap();
            }
        }
    }

    /// An ext4 of `size_mib` with a file of that seed, as bytes.
    fn ext4(&self, label: &str, size_mib: u64) -> Vec<u8> {
        let root = self.dir.path().join(format!("root-{label}"));
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(root.join("etc/name"), label).unwrap();
        std::fs::write(root.join("data"), noise(size_mib, 1_500_000)).unwrap();
        let image = self.dir.path().join(format!("image-{label}"));
        let size = format!("{size_mib}M");
        run(
            "mkfs.ext4",
            &[
                "-q",
                "-F",
                "-L",
                label,
                "-d",
                root.to_str().unwrap(),
                image.to_str().unwrap(),
                &size,
            ],
        );
        std::fs::read(image).unwrap()
    }

    /// Ends LVM's work; the files are the disks.
    pub(crate) fn disks(mut self) -> (tempfile::TempDir, Vec<Arc<dyn ReadAt>>) {
        self.loops.clear();
        let disks = self
            .files
            .iter()
            .map(|file| Arc::new(FileDisk::open(file, Access::Read).unwrap()) as Arc<dyn ReadAt>)
            .collect();
        (self.dir, disks)
    }
}

pub(crate) fn table(file: &Path, script: &str) {
    let command = format!(
        "printf '{}' | sfdisk -q {}",
        script.replace('\n', "\\n"),
        file.display()
    );
    run("sh", &["-c", &command]);
}

fn scan(disks: &[(&str, &Arc<dyn ReadAt>)]) -> Scan {
    let disks: Vec<_> = disks
        .iter()
        .map(|(name, disk)| ((*name).to_owned(), Arc::clone(*disk)))
        .collect();
    let scan = scan_point(&disks);
    assert!(scan.complete && scan.settled == scan.volumes.len());
    scan
}

fn at<'a>(scan: &'a Scan, path: &str) -> &'a Volume {
    scan.volumes
        .iter()
        .find(|volume| volume.path == path)
        .unwrap_or_else(|| panic!("no {path} in {:#?}", shown(scan)))
}

fn shown(scan: &Scan) -> Vec<(&str, &Known)> {
    scan.volumes
        .iter()
        .map(|volume| (volume.path.as_str(), &volume.known))
        .collect()
}

fn bytes(volume: &Volume, disks: &[Arc<dyn ReadAt>]) -> Vec<u8> {
    let reader = volume.reader(disks);
    let mut bytes = vec![0; usize::try_from(reader.size_bytes()).unwrap()];
    reader.read_at(0, &mut bytes).unwrap();
    bytes
}

/// Asserts that a volume begins with `expected` and opens as the ext4 labelled `label`.
fn check(scan: &Scan, disks: &[Arc<dyn ReadAt>], path: &str, label: &str, expected: &[u8]) {
    let volume = at(scan, path);
    assert_eq!(volume.known, Known::Filesystem, "{path}");
    let found = bytes(volume, disks);
    let found = found.get(..expected.len()).unwrap();
    assert_eq!(blake3::hash(found), blake3::hash(expected), "{path}");
    let (state, fs) = volume.open(disks);
    assert_eq!(state, VolumeState::Readable, "{path}");
    let fs = fs.unwrap();
    assert_eq!(fs.info().label.as_deref(), Some(label), "{path}");
    let etc = fs.lookup(fs.root(), b"etc").unwrap();
    let name = fs.lookup(etc, b"name").unwrap();
    let mut content = vec![0; label.len()];
    fs.read_encoded(name, 0, &mut content).unwrap();
    assert_eq!(content, label.as_bytes(), "{path}");
}

/// vda: a partition with a physical volume; vdb: a whole disk. Volumes in two pieces, in stripes, and one that is a guest's disk.
#[test]
fn linear_striped_and_nested() {
    let Some(lab) = Lab::new(&[1, 0]) else { return };
    lab.group("vg0", &[0, 1]);
    lab.create("-n root -L 8M vg0");
    lab.create("-n str -i 2 -I 8k -L 12M vg0");
    lab.create("-n r0 --type raid0 -i 2 -L 6M vg0");
    lab.create("-n disk1 -L 16M vg0");
    lab.lvm("lvextend --driverloaded n -L +8M vg0/root");
    let (root, striped) = (lab.ext4("root", 16), lab.ext4("striped", 12));
    lab.write("vg0", "root", &root);
    lab.write("vg0", "str", &striped);
    let inner = lab.ext4("inner", 12);
    let image = lab.dir.path().join("inner-disk");
    std::fs::write(&image, vec![0; 16 << 20]).unwrap();
    table(&image, "label: dos\nstart=1MiB, size=12MiB\n");
    let mut nested = std::fs::read(&image).unwrap();
    nested[1 << 20..13 << 20].copy_from_slice(&inner);
    lab.write("vg0", "disk1", &nested);
    let stripes = noise(9, 6 << 20);
    let halves: Vec<Vec<u8>> = (0..2)
        .map(|half| {
            let chunks = stripes.chunks(65_536).skip(half).step_by(2);
            chunks.flatten().copied().collect()
        })
        .collect();
    lab.write("vg0", "[r0_rimage_0]", &halves[0]);
    lab.write("vg0", "[r0_rimage_1]", &halves[1]);
    let (_dir, disks) = lab.disks();
    let found = scan(&[("vda", &disks[0]), ("vdb", &disks[1])]);
    let member = Known::Member("LVM group vg0".to_owned());
    assert_eq!(
        shown(&found),
        [
            ("vda/part/1", &member),
            ("vdb/raw", &member),
            ("lvm/vg0/root", &Known::Filesystem),
            ("lvm/vg0/str", &Known::Filesystem),
            ("lvm/vg0/r0", &Known::NoFilesystem),
            ("lvm/vg0/disk1", &Known::Partitioned),
            ("lvm/vg0/disk1.part/1", &Known::Filesystem),
        ]
    );
    assert!(found.notes.is_empty(), "{:?}", found.notes);
    check(&found, &disks, "lvm/vg0/root", "root", &root);
    check(&found, &disks, "lvm/vg0/str", "striped", &striped);
    check(&found, &disks, "lvm/vg0/disk1.part/1", "inner", &inner);
    let r0 = bytes(at(&found, "lvm/vg0/r0"), &disks);
    assert_eq!(blake3::hash(&r0), blake3::hash(&stripes));
    // The order of the disks changes nothing but theirs.
    let turned = [Arc::clone(&disks[1]), Arc::clone(&disks[0])];
    let found = scan(&[("vdb", &turned[0]), ("vda", &turned[1])]);
    check(&found, &turned, "lvm/vg0/str", "striped", &striped);
    assert_eq!(found.volumes.len(), 7);
}

#[test]
fn a_missing_device_and_a_cloned_one_are_said() {
    let Some(lab) = Lab::new(&[0, 1]) else { return };
    lab.group("vg0", &[0, 1]);
    lab.create("-n whole -L 12M vg0");
    lab.create("-n str -i 2 -I 8k -L 12M vg0");
    let whole = lab.ext4("whole", 12);
    lab.write("vg0", "whole", &whole);
    let (_dir, disks) = lab.disks();
    let found = scan(&[("vda", &disks[0])]);
    check(&found, &disks, "lvm/vg0/whole", "whole", &whole);
    let Known::Damaged(why) = &at(&found, "lvm/vg0/str").known else {
        panic!("{:?}", shown(&found));
    };
    assert!(why.contains("(pv1) is missing"), "{why}");
    assert_eq!(found.notes.len(), 1, "{:?}", found.notes);
    // A copy of the first disk: neither is newer, so what lies on it cannot be told.
    let found = scan(&[("vda", &disks[0]), ("vdb", &disks[1]), ("vdc", &disks[0])]);
    for lv in ["str", "whole"] {
        let why = damage(&found, &format!("lvm/vg0/{lv}"));
        assert!(why.contains("vda/raw") && why.contains("vdc/raw"), "{why}");
    }
    let Known::Member(role) = &at(&found, "vdc/raw").known else {
        panic!("{:?}", shown(&found));
    };
    assert!(role.contains("more than once"), "{role}");
    assert_eq!(found.notes.len(), 1, "{:?}", found.notes);
}

fn damage<'a>(scan: &'a Scan, path: &str) -> &'a str {
    match &at(scan, path).known {
        Known::Damaged(why) => why,
        other => panic!("{path}: {other:?}"),
    }
}

/// Every order of `items`.
fn orders<T: Clone>(items: &[T]) -> Vec<Vec<T>> {
    if items.len() < 2 {
        return vec![items.to_vec()];
    }
    let mut all = Vec::new();
    for n in 0..items.len() {
        let mut rest = items.to_vec();
        let first = rest.remove(n);
        for mut order in orders(&rest) {
            order.insert(0, first.clone());
            all.push(order);
        }
    }
    all
}

/// Old copies of a physical volume beside the current one, in any order: what LVM wrote last (the higher `vg_seqno`) is shown.
#[test]
fn of_copies_of_a_device_the_newest_counts() {
    let Some(lab) = Lab::new(&[0, 0]) else { return };
    let keep = |name: &str, device: usize| {
        let copy = lab.dir.path().join(name);
        std::fs::copy(&lab.files[device], &copy).unwrap();
        Arc::new(FileDisk::open(&copy, Access::Read).unwrap()) as Arc<dyn ReadAt>
    };
    lab.group("vg0", &[0, 1]);
    lab.create("-n lv -L 12M vg0");
    let seqno = || {
        lab.lvm("vgs --noheadings -o vg_seqno vg0")
            .trim()
            .to_owned()
    };
    let (old, mut copies) = (lab.ext4("old", 12), Vec::new());
    lab.write("vg0", "lv", &old);
    copies.push(keep("first", 0));
    let first = seqno();
    lab.create("-n more -L 1M vg0");
    copies.push(keep("second", 0));
    lab.lvm("vgchange -q --addtag newer vg0");
    assert_ne!(seqno(), first);
    let new = lab.ext4("new", 12);
    lab.write("vg0", "lv", &new);
    let other = Arc::clone(&copies[0]);
    let (_dir, disks) = lab.disks();
    let mut devices: Vec<_> = copies.into_iter().map(|disk| (false, disk)).collect();
    devices.extend(disks.iter().map(|disk| (true, Arc::clone(disk))));
    for order in orders(&devices) {
        let named: Vec<_> = ["vda", "vdb", "vdc", "vdd"]
            .into_iter()
            .zip(&order)
            .collect();
        let given: Vec<_> = named
            .iter()
            .map(|(name, (_, disk))| (*name, disk))
            .collect();
        let found = scan(&given);
        let sources: Vec<_> = order.iter().map(|(_, disk)| Arc::clone(disk)).collect();
        check(&found, &sources, "lvm/vg0/lv", "new", &new);
        for (name, (is_current, _)) in &named {
            let known = &at(&found, &format!("{name}/raw")).known;
            let is_copy = matches!(known, Known::Member(role) if role.contains("a copy of"));
            assert_eq!(is_copy, !is_current, "{name}: {known:?}");
        }
    }
    // An old one alone is used, as LVM does, and its age is noted.
    let found = scan(&[("vda", &other), ("vdb", &disks[1])]);
    let sources = [other, Arc::clone(&disks[1])];
    check(&found, &sources, "lvm/vg0/lv", "old", &old);
    assert!(
        found
            .notes
            .iter()
            .any(|note| note.contains("vda/raw has an older text")),
        "{:?}",
        found.notes
    );
}

/// Copies that cannot be compared: without a text of their own, or of different groups.
#[test]
fn copies_of_a_device_that_cannot_be_compared_are_refused() {
    let Some(lab) = Lab::new(&[0, 0]) else { return };
    lab.physical(0, "");
    lab.physical(1, "--pvmetadatacopies 0");
    lab.join("vg0", &[0, 1]);
    lab.create(&format!("-n first -L 12M vg0 {}", lab.loops[0].0));
    lab.create(&format!("-n second -L 12M vg0 {}", lab.loops[1].0));
    let image = lab.ext4("first", 12);
    lab.write("vg0", "first", &image);
    let (_dir, disks) = lab.disks();
    let found = scan(&[("vda", &disks[0]), ("vdb", &disks[1]), ("vdc", &disks[1])]);
    check(&found, &disks, "lvm/vg0/first", "first", &image);
    let why = damage(&found, "lvm/vg0/second");
    assert!(why.contains("vdb/raw (without a text)"), "{why}");
    let Some(lab) = Lab::new(&[0, 0]) else { return };
    lab.group("old", &[0]);
    lab.create("-n lv -L 12M old");
    let copy = lab.dir.path().join("copy");
    std::fs::copy(&lab.files[0], &copy).unwrap();
    let copy: Arc<dyn ReadAt> = Arc::new(FileDisk::open(&copy, Access::Read).unwrap());
    lab.lvm("vgremove -q -f --driverloaded n old");
    lab.join("new", &[0]);
    lab.create("-n lv -L 12M new");
    let (_dir, disks) = lab.disks();
    let found = scan(&[("vda", &disks[0]), ("vdb", &copy)]);
    for path in ["lvm/new/lv", "lvm/old/lv"] {
        let why = damage(&found, path);
        assert!(why.contains("vda/raw") && why.contains("vdb/raw"), "{why}");
    }
}

#[test]
fn groups_of_one_name_are_told_apart() {
    let (Some(one), Some(two)) = (Lab::new(&[0]), Lab::new(&[0])) else {
        return;
    };
    let mut images = Vec::new();
    for (lab, label) in [(&one, "first"), (&two, "second")] {
        lab.group("data", &[0]);
        lab.create("-n lv -L 12M data");
        let image = lab.ext4(label, 12);
        lab.write("data", "lv", &image);
        let id = lab.lvm("vgs --noheadings -o vg_uuid data");
        images.push((id.trim().to_owned(), label, image));
    }
    images.sort();
    let ((_dir, mut disks), (_dir2, others)) = (one.disks(), two.disks());
    disks.extend(others);
    let found = scan(&[("vda", &disks[0]), ("vdb", &disks[1])]);
    let (_, label, image) = &images[0];
    check(&found, &disks, "lvm/data/lv", label, image);
    let (id, label, image) = &images[1];
    let short: String = id.chars().filter(|c| *c != '-').take(8).collect();
    let path = format!("lvm/data@{short}/lv");
    check(&found, &disks, &path, label, image);
    assert_eq!(found.notes.len(), 1, "{:?}", found.notes);
}

/// Devices with two texts, with none, and with a label in another sector; a text that was written so often that it went around its ring.
#[test]
fn unusual_devices_and_a_text_that_wraps() {
    let Some(lab) = Lab::new(&[0, 1, 0]) else {
        return;
    };
    lab.physical(0, "--pvmetadatacopies 2 --metadatasize 32k --labelsector 3");
    lab.physical(1, "--pvmetadatacopies 0");
    lab.physical(2, "--metadatasize 32k --bootloaderareasize 64k");
    lab.join("vg0", &[0, 1, 2]);
    lab.create("-n lv -i 3 -I 16k -L 12M vg0");
    for n in 0..40 {
        lab.lvm(&format!(
            "vgchange -q --addtag a-tag-of-some-length-{n} vg0"
        ));
    }
    let image = lab.ext4("wrapped", 12);
    lab.write("vg0", "lv", &image);
    let (_dir, disks) = lab.disks();
    let found = scan(&[("vda", &disks[0]), ("vdb", &disks[1]), ("vdc", &disks[2])]);
    check(&found, &disks, "lvm/vg0/lv", "wrapped", &image);
    assert!(found.notes.is_empty(), "{:?}", found.notes);
    let member = Known::Member("LVM group vg0".to_owned());
    for path in ["vda/raw", "vdb/part/1", "vdc/raw"] {
        assert_eq!(at(&found, path).known, member, "{path}");
        assert_eq!(
            at(&found, path).content.as_ref().unwrap().format,
            "LVM2_member"
        );
    }
}
