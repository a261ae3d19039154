//! Change tracking by libvirt's checkpoints, each of which is a bitmap of the same name in every tracked disk.
//!
//! # Invariants
//! - A checkpoint counts only if its name is the change id of the parent, and libvirt finds the disk's bitmap, without a gap. Everything
//!   else is compared with the parent, with the reason.
//! - What libvirt knows of a checkpoint is only a description, which may be lost or name disks as they were called before: it is written
//!   again. What counts is the bitmap, whose size libvirt tells only if it is whole.
//! - Checkpoints of others are not touched.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::description::{Disk, document};
use super::xml;
use crate::capture::machine::Extent;
use crate::capture::names::Names;
use crate::capture::virsh::Virsh;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::sys::beneath::Dir;
use crate::sys::private_dir::PrivateDir;
use crate::types::DiskName;

/// Creation time of a checkpoint that is described again: libvirt wants one, and nothing depends on it.
const CREATED: &str = "1";

/// The checkpoints of a domain.
pub(super) struct Checkpoints<'a> {
    pub(super) virsh: &'a Virsh,
    pub(super) domain: &'a str,
}

/// What libvirt knows of a checkpoint: for each disk that it tracks, the changed bytes, where the bitmap is whole.
type Known = BTreeMap<String, Option<u64>>;

/// Reads the XML of a checkpoint.
fn parse(xml: &str) -> Result<Known> {
    let document = document(xml)?;
    let nodes = document.descendants();
    let disks = nodes.filter(|node| node.has_tag_name("disk"));
    let tracked = disks.filter(|disk| disk.attribute("checkpoint") == Some("bitmap"));
    Ok(tracked
        .filter_map(|disk| {
            let size = disk.attribute("size").and_then(|size| size.parse().ok());
            Some((disk.attribute("name")?.to_owned(), size))
        })
        .collect())
}

/// Writes XML where virsh can read it, and nobody else.
///
/// # Errors
/// `Io`.
pub(super) fn written(directory: &PrivateDir, name: &str, xml: &str) -> Result<PathBuf> {
    let mut file = Dir::open(directory.path())?.create_file(name, 0o600)?;
    let path = directory.path().join(name);
    std::io::Write::write_all(&mut file, xml.as_bytes())
        .or_io("cannot write XML for libvirt")
        .at_path(&path)?;
    Ok(path)
}

impl Checkpoints<'_> {
    /// What libvirt knows of a checkpoint of a domain that runs; `None` if it does not exist.
    fn known(&self, name: &str) -> Result<Option<Known>> {
        let dumped = self.virsh.call_lasting(&[
            "checkpoint-dumpxml",
            "--domain",
            self.domain,
            "--checkpointname",
            name,
            "--no-domain",
            "--size",
        ]);
        match dumped {
            Ok(xml) => parse(&xml).map(Some),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Describes a checkpoint again, with these disks.
    fn redefine(&self, name: &str, targets: &[&str]) -> Result<()> {
        let directory = PrivateDir::new()?;
        let xml = xml::checkpoint(name, Some(CREATED), targets, &[]);
        let path = written(&directory, "checkpoint.xml", &xml)?;
        let path = path.to_string_lossy();
        let arguments = [
            "checkpoint-create",
            "--domain",
            self.domain,
            "--xmlfile",
            &path,
            "--redefine",
        ];
        self.virsh.call_lasting(&arguments).map(drop)
    }

    /// Decides what of each disk has to be copied. Without `is_real` nothing is changed in libvirt.
    ///
    /// # Errors
    /// As [`Virsh::call`].
    pub(super) fn decide(
        &self,
        names: &Names,
        disks: &[Disk],
        previous: &BTreeMap<DiskName, String>,
        is_real: bool,
    ) -> Result<Vec<Extent>> {
        let mut candidates: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let mut extents = Vec::new();
        for disk in disks {
            let mut all = previous.iter();
            let found = all.find(|(name, _)| name.same_as(&disk.name));
            let Some((_, id)) = found else {
                extents.push(Extent::Whole { reason: None });
                continue;
            };
            let reason = if let Some(reason) = disk.is_untracked() {
                Some(reason)
            } else if Names::is_shut_off(id) {
                Some("the domain was shut off at the last backup, and then nothing tracks what changes".to_owned())
            } else if Names::is_untracked(id) {
                Some("its changes were not tracked since the last backup".to_owned())
            } else if id.starts_with(&names.recording()) {
                candidates.entry(id).or_default().push(&disk.target);
                None
            } else {
                Some(format!(
                    "the parent's change id {id} is no checkpoint of libvirt"
                ))
            };
            extents.push(match reason {
                Some(_) => Extent::Whole { reason },
                // To be looked for.
                None => Extent::Since {
                    change_id: id.clone(),
                    changed_bytes: None,
                },
            });
        }
        let mut found = BTreeMap::new();
        for (id, targets) in &candidates {
            found.insert((*id).to_owned(), self.look(id, targets, is_real)?);
        }
        for (disk, extent) in disks.iter().zip(&mut extents) {
            let Extent::Since { change_id, .. } = &*extent else {
                continue;
            };
            let known = found.get(change_id).and_then(Option::as_ref);
            *extent = match known.map(|known| known.get(&disk.target)) {
                Some(Some(Some(bytes))) => Extent::Since {
                    change_id: change_id.clone(),
                    changed_bytes: Some(*bytes),
                },
                Some(_) if is_real => Extent::Whole {
                    reason: Some("it has no whole bitmap of the last backup (QEMU ended without storing it, or the disk's file was replaced)".to_owned()),
                },
                _ => Extent::Whole {
                    reason: Some("libvirt has no checkpoint of the last backup".to_owned()),
                },
            };
        }
        Ok(extents)
    }

    /// What libvirt knows of a checkpoint, which is described again where it does not have these disks.
    fn look(&self, name: &str, targets: &[&str], is_real: bool) -> Result<Option<Known>> {
        let known = self.known(name)?;
        let has_all = known
            .as_ref()
            .is_some_and(|known| targets.iter().all(|target| known.contains_key(*target)));
        if has_all || !is_real {
            return Ok(known);
        }
        match self.redefine(name, targets) {
            Ok(()) => self.known(name),
            // Its reason is a detail: the disk is compared with the parent.
            Err(e) if e.kind() != ErrorKind::Disconnected => {
                tracing::warn!(error = %e.report(), "libvirt does not take the description of a checkpoint");
                Ok(known)
            }
            Err(e) => Err(e),
        }
    }

    /// Removes the checkpoints of ours that record for nobody; returns what people should know.
    ///
    /// # Errors
    /// As [`Virsh::call`].
    pub(super) fn prune(&self, names: &Names, kept: &[&str]) -> Result<Vec<String>> {
        let list = ["checkpoint-list", "--domain", self.domain, "--name"];
        let list = self.virsh.call_lasting(&list)?;
        let all = list.lines().map(str::trim);
        let ours = all.filter(|name| name.starts_with(&names.recording()) && !kept.contains(name));
        let mut remarks = Vec::new();
        for name in ours {
            if let Err(e) = self.remove(name) {
                remarks.push(format!("the checkpoint {name} stays: {}", e.report()));
            }
        }
        Ok(remarks)
    }

    /// Removes a checkpoint with its bitmaps; one that is gone is no error.
    ///
    /// # Errors
    /// `NotFound` for a domain that does not run; as [`Virsh::call`].
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        match self.delete(name, false) {
            Err(e) if e.kind() == ErrorKind::InvalidInput => {}
            done => return done,
        }
        // Libvirt refuses the whole where one disk lacks the bitmap.
        let known = self.known(name)?.unwrap_or_default();
        for target in known.keys() {
            let removed = self
                .redefine(name, &[target])
                .and_then(|()| self.delete(name, false));
            if let Err(e) = removed {
                tracing::debug!(target, error = %e.report(), "a disk has no bitmap of a checkpoint");
            }
        }
        self.delete(name, true)
    }

    fn delete(&self, name: &str, is_only_metadata: bool) -> Result<()> {
        let mut arguments = vec![
            "checkpoint-delete",
            "--domain",
            self.domain,
            "--checkpointname",
            name,
        ];
        if is_only_metadata {
            arguments.push("--metadata");
        }
        match self.virsh.call_lasting(&arguments) {
            Err(e) if e.kind() == ErrorKind::NotFound && is_gone(&e) => Ok(()),
            done => done.map(drop),
        }
    }
}

fn is_gone(error: &Error) -> bool {
    error.what().contains("checkpoint not found")
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn only_whole_bitmaps_have_a_size() {
        let known = parse(
            "<domaincheckpoint><name>c</name><disks>
            <disk name='vda' checkpoint='bitmap' bitmap='c' size='65536'/>
            <disk name='vdb' checkpoint='bitmap' bitmap='c'/>
            <disk name='vdc' checkpoint='no'/></disks></domaincheckpoint>",
        );
        let known: Vec<_> = known.unwrap().into_iter().collect();
        let expected = [("vda", Some(65_536)), ("vdb", None)];
        assert_eq!(known, expected.map(|(name, size)| (name.to_owned(), size)));
        assert!(parse("<a>").is_err());
        assert!(parse("<a/>").unwrap().is_empty());
    }
}
