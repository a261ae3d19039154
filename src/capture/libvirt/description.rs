//! What a domain consists of, from its XML (`docs/formatdomain.rst` of libvirt).
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::path::{Path, PathBuf};

use roxmltree::{Document, Node, ParsingOptions};

use crate::capture::machine::LeftOut;
use crate::error::{Error, ErrorKind, Result};
use crate::types::digest::Digest;
use crate::types::printable::printable;
use crate::types::{DiskName, ImageFormat};

/// LIMIT: nodes of a domain's XML. A domain with a thousand disks has some 30,000.
const NODES_MAX: u32 = 200_000;

/// LIMIT: elements within each other. Those of a backing chain are, and libvirt allows 200 images.
const DEPTH_MAX: usize = 1000;

/// LIMIT: bytes of a disk's key (`ingest/request/limit.rs`).
const KEY_BYTES_MAX: usize = 255;

/// A domain.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Description {
    /// What identifies it, whatever its name.
    pub(super) uuid: String,
    /// Disks that a backup takes.
    pub(super) disks: Vec<Disk>,
    /// Targets of other disks, with the reasons.
    pub(super) left_out: Vec<LeftOut>,
    /// The file of its firmware's variables.
    pub(super) nvram: Option<PathBuf>,
    /// Whether it has a TPM whose state libvirt keeps.
    pub(super) has_tpm: bool,
    /// User and group of its QEMU, where libvirt chose them.
    pub(super) owner: Option<(u32, u32)>,
}

/// A disk of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Disk {
    /// What libvirt calls it.
    pub(super) target: String,
    /// Its name in the repository: the target.
    pub(super) name: DiskName,
    /// Its serial.
    pub(super) serial: Option<String>,
    /// Where its content is.
    pub(super) place: Place,
    /// The format there, as QEMU calls it.
    pub(super) format: String,
    /// Files of its backing chain, as far as the XML names them; the last has no backing file.
    pub(super) chain: Vec<PathBuf>,
    /// Whether the guest cannot write it.
    pub(super) is_read_only: bool,
}

/// Where the content of a disk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A file.
    File(PathBuf),
    /// A block device.
    Block(PathBuf),
    /// A volume of a pool.
    Volume {
        /// The pool.
        pool: String,
        /// The volume.
        volume: String,
    },
    /// Something that only QEMU reaches.
    Other(String),
}

impl Place {
    /// The place as text.
    fn text(&self) -> String {
        match self {
            Self::File(path) | Self::Block(path) => path.display().to_string(),
            Self::Volume { pool, volume } => format!("{pool}/{volume}"),
            Self::Other(text) => text.clone(),
        }
    }
}

impl Disk {
    /// Why its changes cannot be tracked, if they cannot.
    pub(super) fn is_untracked(&self) -> Option<String> {
        if self.is_read_only {
            return Some("the guest cannot write it, so it has no bitmap".to_owned());
        }
        (self.format != "qcow2").then(|| format!("the format {} cannot keep a bitmap", self.format))
    }

    /// What identifies the disk more than its name does: its serial; else its target with the file at the bottom of its backing chain,
    /// which stays when a snapshot is made of the domain, or removed.
    pub(super) fn key(&self) -> String {
        if let Some(serial) = &self.serial {
            return serial.clone();
        }
        let bottom = match self.chain.last() {
            Some(path) => resolved(path).display().to_string(),
            None => self.place.text(),
        };
        let key = format!("{}:{bottom}", self.target);
        match key.len() > KEY_BYTES_MAX || key.chars().any(char::is_control) {
            true => format!("{}:{}", self.target, Digest::of(bottom.as_bytes())),
            false => key,
        }
    }

    /// The image format.
    ///
    /// # Errors
    /// `Unsupported`.
    pub(super) fn image_format(&self) -> Result<ImageFormat> {
        self.format.parse()
    }
}

/// A file without symlinks; the name of a device stays, because its number is another after each start.
fn resolved(path: &Path) -> PathBuf {
    let is_file = path.metadata().is_ok_and(|metadata| metadata.is_file());
    let resolved = is_file.then(|| path.canonicalize().ok()).flatten();
    resolved.unwrap_or_else(|| path.to_owned())
}

fn child<'a>(node: Node<'a, 'a>, name: &str) -> Option<Node<'a, 'a>> {
    node.children().find(|child| child.has_tag_name(name))
}

fn has(node: Node<'_, '_>, name: &str) -> bool {
    node.children().any(|child| child.has_tag_name(name))
}

/// The text of a child; `None` where it is empty.
fn text<'a>(node: Node<'a, 'a>, name: &str) -> Option<&'a str> {
    let text = child(node, name)?.text()?.trim();
    (!text.is_empty()).then_some(text)
}

/// Refuses elements that are too deep within each other, before anything follows them.
fn check_depth(xml: &str) -> Result<()> {
    let (mut depth, mut most) = (0_usize, 0_usize);
    let mut bytes = xml.as_bytes().iter().peekable();
    let mut last = 0_u8;
    while let Some(byte) = bytes.next() {
        match (byte, bytes.peek()) {
            (b'<', Some(b'/')) => depth = depth.saturating_sub(1),
            (b'<', Some(b'!' | b'?')) => {}
            (b'<', _) => depth = depth.saturating_add(1),
            (b'>', _) if last == b'/' => depth = depth.saturating_sub(1),
            _ => {}
        }
        most = most.max(depth);
        last = *byte;
    }
    match most > DEPTH_MAX {
        true => Err(Error::new(
            ErrorKind::LimitExceeded,
            format!("the domain's XML has more than {DEPTH_MAX} elements within each other"),
        )),
        false => Ok(()),
    }
}

/// Parses XML of libvirt, within limits.
///
/// # Errors
/// `InvalidInput`, `LimitExceeded`.
pub(super) fn document(xml: &str) -> Result<Document<'_>> {
    check_depth(xml)?;
    let options = ParsingOptions {
        allow_dtd: false,
        nodes_limit: NODES_MAX,
        ..ParsingOptions::default()
    };
    Document::parse_with_options(xml, options)
        .map_err(|e| Error::invalid(format!("libvirt's XML cannot be read: {e}")))
}

impl Description {
    /// Reads the XML of a domain.
    ///
    /// # Errors
    /// `InvalidInput`, `LimitExceeded`.
    pub(super) fn parse(xml: &str) -> Result<Self> {
        let document = document(xml)?;
        let root = document.root_element();
        let missing = || Error::invalid("libvirt's XML describes no domain");
        if !root.has_tag_name("domain") {
            return Err(missing());
        }
        let uuid = text(root, "uuid").ok_or_else(missing)?.to_owned();
        let devices = child(root, "devices").ok_or_else(missing)?;
        let (mut disks, mut left_out): (Vec<Disk>, Vec<LeftOut>) = (Vec::new(), Vec::new());
        for node in devices.children().filter(|node| node.has_tag_name("disk")) {
            match disk(node)? {
                Ok(disk) => disks.push(disk),
                Err(left) => left_out.push(left),
            }
        }
        if disks.is_empty() {
            return Err(Error::invalid(
                "the domain has no disk that could be backed up",
            ));
        }
        keep_unique(&mut disks)?;
        let nvram = child(root, "os").and_then(|os| nvram(os));
        let mut tpms = devices.children().filter(|node| node.has_tag_name("tpm"));
        Ok(Self {
            uuid,
            disks,
            left_out,
            nvram,
            has_tpm: tpms.any(|tpm| {
                let backend = child(tpm, "backend");
                backend.and_then(|node| node.attribute("type")) == Some("emulator")
            }),
            owner: root.children().find_map(owner),
        })
    }
}

/// Drops serials that two disks have, which identify neither, and refuses two disks of one name.
fn keep_unique(disks: &mut [Disk]) -> Result<()> {
    let all: Vec<(DiskName, Option<String>)> = disks
        .iter()
        .map(|disk| (disk.name.clone(), disk.serial.clone()))
        .collect();
    for disk in disks {
        let same = |(name, serial): &&(DiskName, Option<String>)| {
            (name.same_as(&disk.name), *serial == disk.serial)
        };
        if all.iter().filter(|one| same(one).0).count() > 1 {
            return Err(Error::invalid(format!(
                "the domain has two disks {}",
                disk.name
            )));
        }
        if disk.serial.is_some() && all.iter().filter(|one| same(one).1).count() > 1 {
            disk.serial = None;
        }
    }
    Ok(())
}

/// The file of the firmware's variables: as text, or as a source of its own.
fn nvram(os: Node<'_, '_>) -> Option<PathBuf> {
    let nvram = child(os, "nvram")?;
    let source = child(nvram, "source").and_then(|source| source.attribute("file"));
    let path = source.or_else(|| nvram.text()).map(str::trim)?;
    path.starts_with('/').then(|| PathBuf::from(path))
}

/// User and group of QEMU, from the label of the security model `dac` (`+UID:+GID`).
fn owner(label: Node<'_, '_>) -> Option<(u32, u32)> {
    if !label.has_tag_name("seclabel") || label.attribute("model") != Some("dac") {
        return None;
    }
    let (user, group) = text(label, "label")?.split_once(':')?;
    let number = |text: &str| text.trim_start_matches('+').parse().ok();
    Some((number(user)?, number(group)?))
}

/// A disk, or why it is in no backup.
fn disk(node: Node<'_, '_>) -> Result<Result<Disk, LeftOut>> {
    let target = child(node, "target").and_then(|target| target.attribute("dev"));
    let target = target.ok_or_else(|| Error::invalid("a disk of the domain has no target"))?;
    let left_out = |reason: &str| {
        Ok(Err(LeftOut {
            name: target.to_owned(),
            reason: reason.to_owned(),
        }))
    };
    match node.attribute("device").unwrap_or("disk") {
        "disk" => {}
        medium @ ("cdrom" | "floppy") => {
            return left_out(&format!("it is a removable medium ({medium})"));
        }
        "lun" => {
            return left_out("it is a device of the host that the guest commands itself (lun)");
        }
        other => return left_out(&format!("it is no disk ({})", printable(other))),
    }
    if has(node, "shareable") {
        return left_out("other machines write it, too (shareable)");
    }
    if has(node, "transient") {
        return left_out("what is written to it is thrown away at the end (transient)");
    }
    let kind = node.attribute("type").unwrap_or("file");
    if matches!(kind, "vhostuser" | "vhostvdpa" | "dir") {
        return left_out(&format!("QEMU does not read and write it itself ({kind})"));
    }
    let Some(place) = child(node, "source").and_then(|source| place(kind, source)) else {
        return left_out("it is empty");
    };
    let format = child(node, "driver").and_then(|driver| driver.attribute("type"));
    Ok(Ok(Disk {
        name: DiskName::new(target)?,
        target: target.to_owned(),
        serial: text(node, "serial").map(ToOwned::to_owned),
        chain: chain(&place, node),
        place,
        // What libvirt assumes without one.
        format: format.unwrap_or("raw").to_owned(),
        is_read_only: has(node, "readonly"),
    }))
}

fn place(kind: &str, source: Node<'_, '_>) -> Option<Place> {
    let attribute = |name: &str| {
        let text = source.attribute(name)?;
        (!text.is_empty()).then(|| text.to_owned())
    };
    match kind {
        "file" => attribute("file").map(|path| Place::File(path.into())),
        "block" => attribute("dev").map(|path| Place::Block(path.into())),
        "volume" => Some(Place::Volume {
            pool: attribute("pool")?,
            volume: attribute("volume")?,
        }),
        _ => {
            let parts = ["protocol", "type", "name", "managed", "namespace"];
            let parts: Vec<String> = parts.into_iter().filter_map(attribute).collect();
            Some(Place::Other(format!("{kind}:{}", parts.join("/"))))
        }
    }
}

/// The files of a disk from the top down. A bottom that is no file gives none.
fn chain(place: &Place, node: Node<'_, '_>) -> Vec<PathBuf> {
    let path = |place: &Place| match place {
        Place::File(path) | Place::Block(path) => Some(path.clone()),
        Place::Volume { .. } | Place::Other(_) => None,
    };
    let Some(top) = path(place) else {
        return Vec::new();
    };
    let mut files = vec![top];
    let mut at = child(node, "backingStore");
    while let Some(store) = at {
        let kind = store.attribute("type").unwrap_or("file");
        let Some(source) = child(store, "source") else {
            break;
        };
        match self::place(kind, source).as_ref().and_then(path) {
            Some(file) => files.push(file),
            None => return Vec::new(),
        }
        at = child(store, "backingStore");
    }
    files
}

/// Directories of the files of a disk.
pub(super) fn directories(disk: &Disk) -> Vec<PathBuf> {
    let parents = disk.chain.iter().filter_map(|path| path.parent());
    let mut all: Vec<PathBuf> = parents.map(Path::to_owned).collect();
    all.sort();
    all.dedup();
    all
}

#[cfg(test)]
mod tests;
