//! From volumes to systems: roots are looked for, their fstabs joined.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::collections::{BTreeMap, BTreeSet};

use super::filesystem::Filesystems;
use super::fstab::{self, Entry};
use super::os_release::{self, OsRelease};
use super::source::{find, is_kernel_name};
use super::tree::Tree;
use super::{Files, MountAt, Open, Place, System, Unjoined, VolumeFacts};
use crate::error::{ErrorKind, Result};
use crate::guest::fs::{FileType, GuestFs, Subvolume};
use crate::types::PointName;

/// Subvolumes of btrfs that distributions put their root in.
const ROOT_SUBVOLUMES: [&[u8]; 3] = [b"@", b"root", b"@rootfs"];
/// Filesystems of the kernel and of memory: nobody looks for their files in a backup.
const PSEUDO: [&str; 26] = [
    "swap",
    "proc",
    "sysfs",
    "devpts",
    "tmpfs",
    "devtmpfs",
    "securityfs",
    "cgroup",
    "cgroup2",
    "debugfs",
    "tracefs",
    "configfs",
    "mqueue",
    "hugetlbfs",
    "fusectl",
    "binfmt_misc",
    "efivarfs",
    "pstore",
    "bpf",
    "ramfs",
    "rpc_pipefs",
    "autofs",
    "nfsd",
    "usbfs",
    "ignore",
    "selinuxfs",
];
/// Filesystems on other machines.
const NETWORK: [&str; 16] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "ceph",
    "glusterfs",
    "afs",
    "9p",
    "virtiofs",
    "lustre",
    "davfs",
    "beegfs",
    "gfs2",
    "ocfs2",
    "pvfs2",
];
/// Drives whose medium is no part of the machine.
const REMOVABLE: [&str; 4] = ["/dev/cdrom", "/dev/sr", "/dev/fd", "/dev/dvd"];

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether the tree from here on looks like that of a system.
fn is_system(tree: &Tree<'_>) -> bool {
    tree.is(b"/etc", FileType::Directory)
        && [
            &b"/etc/fstab"[..],
            b"/etc/os-release",
            b"/usr/lib/os-release",
        ]
        .iter()
        .any(|path| tree.is(path, FileType::Regular))
}

/// Where a system begins on a volume, if it has one.
fn root_of(volume: usize, fs: &dyn GuestFs, open: Open<'_>) -> Option<Place> {
    let named = ROOT_SUBVOLUMES
        .iter()
        .map(|name| Subvolume::Path(name.to_vec()));
    std::iter::once(Subvolume::Default)
        .chain(named)
        .filter_map(|which| fs.subvolume(&which).ok())
        .chain(std::iter::once(fs.root()))
        .map(|ino| Place { volume, ino })
        .find(|root| is_system(&Tree::new(open, *root)))
}

/// The subvolume that the options name.
fn subvolume(entry: &Entry) -> Result<Subvolume, String> {
    if let Some(path) = entry.option("subvol") {
        let path = path.strip_prefix(b"/").unwrap_or(path);
        return Ok(Subvolume::Path(path.to_vec()));
    }
    match entry.option("subvolid") {
        None => Ok(Subvolume::Default),
        Some(id) => std::str::from_utf8(id)
            .ok()
            .and_then(|id| id.parse().ok())
            .map(Subvolume::Id)
            .ok_or_else(|| "its subvolid is no number".to_owned()),
    }
}

/// A system whose tree is being joined.
struct Joiner<'a> {
    filesystems: &'a Filesystems<'a>,
    open: Open<'a>,
    tree: Tree<'a>,
    mapped: Vec<(String, String)>,
    unjoined: Vec<Unjoined>,
}

impl Joiner<'_> {
    /// The directory that an entry's source and options name; of several volumes of one name `own` comes first.
    fn root(&self, entry: &Entry, own: Option<usize>) -> Result<Place, String> {
        let source = shown(&entry.source);
        let found = find(&self.filesystems.volumes, &source, &self.mapped)?;
        let volume = match own.filter(|own| found.contains(own)) {
            Some(own) => own,
            // The members of one filesystem have its UUID too.
            None => *found
                .iter()
                .find(|volume| self.filesystems.may_open(**volume))
                .or(found.first())
                .ok_or("there is no such volume")?,
        };
        self.subvolume_of(volume, entry)
    }

    /// The directory of a volume that an entry's options name.
    fn subvolume_of(&self, volume: usize, entry: &Entry) -> Result<Place, String> {
        let fs = self
            .filesystems
            .get(volume)
            .map_err(|error| error.report())?;
        let ino = fs
            .subvolume(&subvolume(entry)?)
            .map_err(|error| format!("its subvolume: {}", error.report()))?;
        Ok(Place { volume, ino })
    }

    fn refuse(&mut self, entry: &Entry, reason: String) {
        self.unjoined.push(Unjoined {
            source: shown(&entry.source),
            target: shown(&entry.target),
            reason,
        });
    }

    /// Mounts `root` at the entry's target.
    fn mount(&mut self, entry: &Entry, root: Place) -> Result<(), String> {
        let over = self
            .tree
            .resolve(&entry.target)
            .map_err(|error| format!("its mount point: {}", error.report()))?;
        if over.file_type != FileType::Directory {
            return Err("its mount point is no directory".to_owned());
        }
        if over.path == b"/" {
            return Err("another filesystem is mounted there".to_owned());
        }
        self.tree.mounts.push(MountAt {
            path: over.path,
            over: over.place,
            root,
        });
        Ok(())
    }

    fn bind(&mut self, entry: &Entry) -> Result<(), String> {
        let source = self
            .tree
            .resolve(&entry.source)
            .map_err(|error| format!("what it shows: {}", error.report()))?;
        if source.file_type != FileType::Directory {
            return Err("what it shows is no directory".to_owned());
        }
        self.mount(entry, source.place)
    }

    /// Joins all entries: parents before children, then what shows parts of the tree a second time.
    fn join(&mut self, entries: &[Entry], own: usize) {
        let mut volumes = Vec::new();
        let mut binds = Vec::new();
        for entry in entries {
            match kind(entry) {
                Kind::Silent | Kind::Root => {}
                Kind::Refused(reason) => self.refuse(entry, reason.to_owned()),
                Kind::Bind => binds.push(entry),
                Kind::Volume => volumes.push(entry),
            }
        }
        let depth = |entry: &&Entry| {
            let parts = entry.target.split(|b| *b == b'/');
            parts.filter(|part| !part.is_empty()).count()
        };
        volumes.sort_by_key(depth);
        for entry in volumes {
            let joined = self
                .root(entry, Some(own))
                .and_then(|root| self.mount(entry, root));
            if let Err(reason) = joined {
                self.refuse(entry, reason);
            }
        }
        for entry in binds {
            if let Err(reason) = self.bind(entry) {
                self.refuse(entry, reason);
            }
        }
    }

    fn read(&self, path: &[u8]) -> Vec<u8> {
        self.tree.read(path).unwrap_or_default()
    }
}

/// What becomes of an entry.
enum Kind {
    Root,
    Volume,
    Bind,
    Refused(&'static str),
    /// Nobody would look for it.
    Silent,
}

fn kind(entry: &Entry) -> Kind {
    let fs_type = shown(&entry.fs_type);
    let source = shown(&entry.source);
    let types = || fs_type.split(',');
    let has_type = |known: &[&str]| types().any(|name| known.contains(&name));
    if has_type(&PSEUDO) || !entry.target.starts_with(b"/") {
        return Kind::Silent;
    }
    if REMOVABLE.iter().any(|drive| source.starts_with(drive)) {
        return Kind::Silent;
    }
    let is_remote = source.starts_with("//")
        || source.contains(":/")
        || (entry.has("_netdev") && !source.starts_with("/dev/") && !source.contains('='));
    if has_type(&NETWORK) || is_remote {
        return Kind::Refused("it is on another machine");
    }
    if entry.has("noauto") && !entry.has("x-systemd.automount") {
        return Kind::Refused("noauto: it is not mounted at boot");
    }
    let is_bind = entry.has("bind") || entry.has("rbind");
    if is_bind || (fs_type == "none" && source.starts_with('/')) {
        return Kind::Bind;
    }
    if types().any(|name| name == "overlay" || name.starts_with("fuse")) {
        return Kind::Refused("a program of the guest shows it");
    }
    if entry.target.iter().all(|b| *b == b'/') {
        return Kind::Root;
    }
    Kind::Volume
}

/// Names of `/etc/crypttab` and the devices that they open.
fn parse_crypttab(text: &[u8]) -> Vec<(String, String)> {
    String::from_utf8_lossy(text)
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
        })
        .collect()
}

/// Gives names that are good for directories, each once.
#[derive(Default)]
struct Labels(BTreeSet<String>);

impl Labels {
    fn take(&mut self, wished: &[Option<String>], path: &str) -> String {
        let good = |name: &String| PointName::new(name.clone()).is_ok();
        let plain: String = path
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || "._".contains(c) {
                    c
                } else {
                    '-'
                }
            })
            .take(100)
            .collect();
        let first = wished.iter().flatten().find(|name| good(name)).cloned();
        let first = first.unwrap_or_else(|| {
            let plain = plain.replace("..", "-");
            Some(plain.clone())
                .filter(good)
                .unwrap_or_else(|| format!("volume{plain}"))
        });
        let mut name = first.clone();
        for n in 2u64.. {
            if self.0.insert(name.to_ascii_lowercase()) {
                break;
            }
            let short: String = first.chars().take(100).collect();
            name = format!("{short}-{n}");
        }
        name
    }
}

/// The label of the filesystem on a volume.
fn label(filesystems: &Filesystems<'_>, volume: usize) -> Option<String> {
    filesystems.volumes.get(volume)?.label.clone()
}

/// What a system calls itself.
fn release(joiner: &Joiner<'_>) -> OsRelease {
    [&b"/etc/os-release"[..], b"/usr/lib/os-release"]
        .iter()
        .map(|path| joiner.read(path))
        .find(|text| !text.is_empty())
        .map(|text| os_release::parse(&text))
        .unwrap_or_default()
}

/// The text of the fstab; one that cannot be read is said.
fn fstab_text(tree: &Tree<'_>) -> (Vec<u8>, Option<Unjoined>) {
    match tree.read(b"/etc/fstab") {
        Ok(text) => (text, None),
        Err(error) if error.kind() == ErrorKind::NotFound => (Vec::new(), None),
        Err(error) => {
            let unread = Unjoined {
                source: "/etc/fstab".to_owned(),
                target: "/".to_owned(),
                reason: format!("it cannot be read: {}", error.report()),
            };
            (Vec::new(), Some(unread))
        }
    }
}

/// The systems of a point in the order of their volumes.
fn plan(filesystems: &Filesystems<'_>, roots: &BTreeMap<usize, Place>) -> Vec<System> {
    let open: Open<'_> = &|volume| filesystems.get(volume);
    let mut systems: Vec<System> = Vec::new();
    let mut labels = Labels::default();
    for (volume, found) in roots {
        let mut joiner = Joiner {
            filesystems,
            open,
            tree: Tree::new(open, *found),
            mapped: Vec::new(),
            unjoined: Vec::new(),
        };
        joiner.mapped = parse_crypttab(&joiner.read(b"/etc/crypttab"));
        let (text, unread) = fstab_text(&joiner.tree);
        let entries = fstab::parse(&text);
        let own = entries
            .iter()
            .rfind(|entry| matches!(kind(entry), Kind::Root));
        let mut root = *found;
        let told = own.map(|entry| {
            // A disk's name in the kernel may be another one here: the volume that was found is meant.
            if is_kernel_name(&shown(&entry.source)) {
                joiner.subvolume_of(*volume, entry)
            } else {
                joiner.root(entry, Some(*volume))
            }
        });
        match told {
            // It is a copy of another system, which is there too.
            Some(Ok(told)) if told.volume != *volume && roots.contains_key(&told.volume) => {
                continue;
            }
            Some(Ok(told)) if is_system(&Tree::new(open, told)) => root = told,
            // What it says cannot be found (a renamed disk): what was found looks like a system all the same.
            _ => {}
        }
        if systems.iter().any(|system| system.root == root) {
            continue;
        }
        joiner.tree = Tree::new(joiner.open, root);
        joiner.unjoined.extend(unread);
        joiner.join(&entries, root.volume);
        let release = release(&joiner);
        let version = match (release.id, release.version_id) {
            (Some(id), Some(version)) => Some(format!("{id}-{version}")),
            (id, _) => id,
        };
        let path = filesystems
            .volumes
            .get(root.volume)
            .map_or("", |facts| &facts.path);
        systems.push(System {
            label: labels.take(&[label(filesystems, root.volume), version], path),
            name: release.pretty_name,
            root,
            mounts: joiner.tree.mounts,
            unjoined: joiner.unjoined,
        });
    }
    systems
}

/// Looks at every filesystem once: what it says of itself, and whether a system begins on it.
fn look(filesystems: &mut Filesystems<'_>) -> BTreeMap<usize, Place> {
    let mut roots = BTreeMap::new();
    for volume in 0..filesystems.volumes.len() {
        let Ok(fs) = filesystems.get(volume) else {
            continue;
        };
        filesystems.complete(volume, &*fs);
        let open: Open<'_> = &|volume| filesystems.get(volume);
        if let Some(root) = root_of(volume, &*fs, open) {
            roots.insert(volume, root);
        }
    }
    roots
}

/// The systems on these volumes, each with the tree that its fstab tells, in the order of the volumes of their roots.
///
/// A filesystem that cannot be opened is none of them; one that an fstab names is listed there with the reason. `open` is asked for each
/// volume that may have a filesystem, and again when more than a few are in use.
#[must_use]
pub fn plan_systems(volumes: &[VolumeFacts], open: Open<'_>) -> Vec<System> {
    let mut filesystems = Filesystems::new(volumes, open);
    let roots = look(&mut filesystems);
    plan(&filesystems, &roots)
}

/// What `files/` of a point is: its systems, else the filesystems of its data disks.
#[must_use]
pub fn plan_files(volumes: &[VolumeFacts], open: Open<'_>) -> Files {
    let mut filesystems = Filesystems::new(volumes, open);
    let roots = look(&mut filesystems);
    let systems = plan(&filesystems, &roots);
    if !systems.is_empty() {
        return Files::Systems(systems);
    }
    let mut labels = Labels::default();
    let mut places: Vec<(String, Place)> = volumes
        .iter()
        .enumerate()
        .filter_map(|(volume, facts)| {
            let fs = filesystems.get(volume).ok()?;
            let ino = fs.subvolume(&Subvolume::Default).unwrap_or(fs.root());
            let name = labels.take(&[label(&filesystems, volume)], &facts.path);
            Some((name, Place { volume, ino }))
        })
        .collect();
    match places.len() {
        0 => Files::Nothing,
        1 => places
            .pop()
            .map_or(Files::Nothing, |(_, place)| Files::One(place)),
        _ => Files::Several(places),
    }
}
