//! A domain of libvirt, running or shut off.
//!
//! # Invariants
//! - All disks are of one instant: libvirt begins a backup job of all in one transaction; the files of a domain that is shut off do not
//!   change, and a point of a domain that started meanwhile is discarded.
//! - What is made in libvirt and in the scratch directory has our prefix, and is gone after [`Capture::end`].
//!
//! # Why
//! By `virsh` and not by QEMU's monitor: libvirt owns the monitor, and does not know of what is done there behind its back.

mod attachment;
mod checkpoint;
mod description;
mod export;
mod image;
mod off;
mod running;
mod xml;

use std::path::{Path, PathBuf};

use super::guard::message::Held;
use super::machine::{Capture, Extent, Instant, LeftOut, MachineDisk, Order, TakenDisk};
use super::names::Names;
use super::virsh::Virsh;
use crate::error::{Error, ErrorKind, Result};
use crate::types::{DiskName, RepositoryId};
use attachment::Attachments;
use checkpoint::Checkpoints;
use description::Description;
use off::Files;
use running::{Running, Taken};

/// What names a domain.
#[derive(Debug, Clone)]
pub struct Named {
    /// The libvirt.
    pub uri: String,
    /// The domain's name, id or UUID.
    pub domain: String,
    /// Directories below which files of a domain that is shut off may name backing files, besides those that its XML names.
    pub allow_backing: Vec<PathBuf>,
}

/// A domain of libvirt.
pub struct Domain {
    /// The program that the guard is started as.
    program: PathBuf,
    virsh: Virsh,
    names: Names,
    description: Description,
    /// The files of a domain that is shut off.
    files: Option<Files>,
    /// The number of this run of the domain; `None` while it is shut off.
    run: Option<String>,
    disks: Vec<MachineDisk>,
    attachments: Attachments,
    taken: Option<State>,
}

/// What was taken.
enum State {
    Running(Box<Taken>),
    Off(Files),
}

/// The number of a domain's run; `None` while it is shut off.
fn run_of(virsh: &Virsh, domain: &str) -> Result<Option<String>> {
    let id = virsh.call_lasting(&["domid", "--domain", domain])?;
    let id = id.trim();
    Ok((!matches!(id, "-" | "")).then(|| id.to_owned()))
}

/// Capacity and allocation of a domain's disk, from `virsh domblkinfo --all` (`Target Capacity Allocation Physical`).
fn size_bytes(table: &str, target: &str) -> Option<(u64, Option<u64>)> {
    table.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        if fields.next()? != target {
            return None;
        }
        let capacity = fields.next()?.parse().ok()?;
        Some((capacity, fields.next().and_then(|field| field.parse().ok())))
    })
}

impl Domain {
    /// Looks at a domain. `program` is started as the guard of its guest while the instant is taken.
    ///
    /// # Errors
    /// As [`Virsh::new`], [`Virsh::call`]; `InvalidInput` for a domain without a disk that could be backed up.
    pub fn open(program: &Path, named: &Named, repository: &RepositoryId) -> Result<Self> {
        let virsh = Virsh::new(&named.uri)?;
        let xml = virsh.call(&["dumpxml", "--domain", &named.domain])?;
        let mut description = Description::parse(&xml)?;
        let run = run_of(&virsh, &description.uuid)?;
        let files = match run {
            Some(_) => None,
            None => {
                let files = Files::open(&virsh, &description.disks, &named.allow_backing)?;
                // The XML of a domain that runs has its backing chain; that of another one need not.
                for (disk, chain) in description.disks.iter_mut().zip(files.chains()) {
                    if !disk.chain.is_empty() {
                        disk.chain = chain;
                    }
                }
                Some(files)
            }
        };
        let uuid = &description.uuid;
        let table = virsh.call(&["domblkinfo", "--domain", uuid, "--all"])?;
        let mut disks = Vec::new();
        for disk in &description.disks {
            let sizes = size_bytes(&table, &disk.target);
            let (size_bytes, data_bytes) = sizes.ok_or_else(|| {
                Error::unsupported(format!("libvirt does not tell the size of {}", disk.name))
                    .advise("start the domain, and back it up while it runs")
            })?;
            disks.push(MachineDisk {
                name: disk.name.clone(),
                key: Some(disk.key()),
                size_bytes,
                data_bytes: data_bytes.map(|bytes| bytes.min(size_bytes)),
            });
        }
        let attachments = Attachments::load(&virsh, uuid, &description)?;
        Ok(Self {
            program: program.to_owned(),
            virsh,
            names: Names::of(repository),
            description,
            files,
            run,
            disks,
            attachments,
            taken: None,
        })
    }

    fn domain(&self) -> &str {
        &self.description.uuid
    }

    /// Refuses a domain that was started, stopped or restarted since it was looked at.
    fn check_run(&self) -> Result<()> {
        let now = run_of(&self.virsh, self.domain())?;
        let what = match (&self.run, &now) {
            (before, now) if before == now => return Ok(()),
            (None, _) => "the domain was started",
            (Some(_), None) => "the domain was shut off",
            (Some(_), Some(_)) => "the domain was restarted",
        };
        Err(Error::new(
            ErrorKind::Busy,
            format!("{what} meanwhile: the point is discarded"),
        )
        .advise("begin again"))
    }

    /// What is said of a disk of a domain that is shut off.
    fn whole(&self, order: &Order, disk: &DiskName) -> Extent {
        let mut previous = order.previous.keys();
        let has_parent = previous.any(|name| name.same_as(disk));
        Extent::Whole {
            reason: has_parent.then(|| "the domain is shut off".to_owned()),
        }
    }

    fn take_running(&mut self, order: &Order) -> Result<Instant> {
        let others = self.description.left_out.iter();
        let others: Vec<String> = others.map(|left| left.name.clone()).collect();
        let running = Running {
            virsh: &self.virsh,
            domain: &self.description.uuid,
            disks: &self.description.disks,
            sizes: &self.disks,
            others: &others,
            owner: self.description.owner,
            names: &self.names,
        };
        let (taken, disks, moment) = running.take(&self.program, order)?;
        self.taken = Some(State::Running(Box::new(taken)));
        Ok(Instant {
            disks,
            consistency: Some(moment.consistency),
            note: moment.note,
            held: moment.held,
            remarks: [moment.remarks, self.attachments.remarks.clone()].concat(),
        })
    }

    fn take_off(&mut self, order: &Order) -> Result<Instant> {
        let files = self
            .files
            .take()
            .ok_or_else(|| Error::invalid("the instant was taken already"))?;
        let mut disks = Vec::new();
        for (disk, source) in self.disks.iter().zip(files.contents()) {
            if source.size_bytes() != disk.size_bytes {
                return Err(Error::new(
                    ErrorKind::Stale,
                    format!("{} has another size now", disk.name),
                )
                .advise("begin again"));
            }
            disks.push(TakenDisk {
                name: disk.name.clone(),
                source,
                extent: self.whole(order, &disk.name),
                changes: None,
                // A bitmap in the file counts from an earlier instant, and nothing would notice an older copy of the file.
                change_id: Some(Names::shut_off(order.session)),
            });
        }
        self.taken = Some(State::Off(files));
        Ok(Instant {
            disks,
            consistency: None,
            note: None,
            held: Held::default(),
            remarks: self.attachments.remarks.clone(),
        })
    }
}

impl Capture for Domain {
    fn disks(&self) -> &[MachineDisk] {
        &self.disks
    }

    fn left_out(&self) -> &[LeftOut] {
        &self.description.left_out
    }

    fn attachments(&self) -> &[(String, Vec<u8>)] {
        &self.attachments.files
    }

    fn plan(&mut self, order: &Order) -> Result<Vec<(DiskName, Extent)>> {
        let disks = &self.description.disks;
        let extents = match &self.run {
            None => disks
                .iter()
                .map(|disk| self.whole(order, &disk.name))
                .collect(),
            Some(_) => Checkpoints {
                virsh: &self.virsh,
                domain: self.domain(),
            }
            .decide(&self.names, disks, &order.previous, false)?,
        };
        let names = disks.iter().map(|disk| disk.name.clone());
        Ok(names.zip(extents).collect())
    }

    fn take(&mut self, order: &Order) -> Result<Instant> {
        self.check_run()?;
        match self.run {
            Some(_) => self.take_running(order),
            None => self.take_off(order),
        }
    }

    fn check(&mut self) -> Result<Option<String>> {
        self.check_run()?;
        match &self.taken {
            Some(State::Running(taken)) => taken.check()?,
            Some(State::Off(files)) => files.check()?,
            None => return Err(Error::invalid("no instant was taken")),
        }
        Ok(None)
    }

    fn end(&mut self, is_committed: bool) -> Result<()> {
        match self.taken.take() {
            Some(State::Running(taken)) => taken.end(&self.virsh, self.domain(), is_committed),
            Some(State::Off(_)) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::size_bytes;

    #[test]
    fn sizes_are_found_by_target() {
        let table = " vda   8388608   200704   196616\n vdb   -   -   -\n sda   1048576   0  1048576\n vdc  4096\n";
        assert_eq!(size_bytes(table, "vda"), Some((8_388_608, Some(200_704))));
        assert_eq!(size_bytes(table, "sda"), Some((1_048_576, Some(0))));
        assert_eq!(size_bytes(table, "vdc"), Some((4096, None)));
        assert_eq!(size_bytes(table, "vdb"), None);
        assert_eq!(size_bytes(table, "da"), None);
        assert_eq!(size_bytes("", "vda"), None);
    }
}
