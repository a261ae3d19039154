//! A machine of plain QEMU, by its monitor socket (QMP).
//!
//! # Invariants
//! - The guest does not suffer: its writes wait at most for a copy to a scratch file, and never fail for it.
//! - All disks are of one instant: the filters are put in while the guest is stopped, or the jobs begin in one transaction.
//! - What is made in QEMU has our prefix, and is gone after [`Capture::end`].

mod device;
mod schema;
mod server;
mod snapshot;
mod tracking;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::guard::{Guard, not_thawed};
use super::machine::{Capture, Extent, Instant, LeftOut, MachineDisk, Order, TakenDisk};
use super::monitor::Monitor;
use super::monitor::sweep::sweep;
use super::names::Names;
use super::reopen::{Again, Reopened};
use crate::block::ReadAt;
use crate::block::piece::Changes;
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::client::Client;
use crate::nbd::proto::uri::Uri;
use crate::repo::sidecar::point::Consistency;
use crate::types::sync::Mutex;
use crate::types::{DiskName, RepositoryId};
use device::Device;
pub use schema::Way;
use server::Server;
use snapshot::Snapshot;
use tracking::Found;

/// The sockets of a machine.
#[derive(Debug, Clone)]
pub struct Sockets {
    /// Its monitor.
    pub qmp: PathBuf,
    /// Its guest agent.
    pub agent: Option<PathBuf>,
}

/// A machine of plain QEMU.
pub struct Machine {
    guard: Arc<Mutex<Guard>>,
    names: Names,
    way: Way,
    devices: Vec<Device>,
    disks: Vec<MachineDisk>,
    left_out: Vec<LeftOut>,
    pid: Option<u32>,
    taken: Option<Taken>,
}

/// What has to be undone at the end.
#[derive(Default)]
struct Taken {
    /// Each tracked node with its new bitmap, and with the one of the parent.
    bitmaps: Vec<(String, String, Option<String>)>,
    exports: Vec<String>,
    /// Sources that can tell whether their snapshot still stands.
    watched: Vec<Arc<dyn ReadAt>>,
    server: Option<Server>,
    snapshots: Vec<Snapshot>,
}

impl Machine {
    /// Connects to a machine, by a guard that `program` is started as. `way` is the way to take the instant; by default QEMU's best.
    ///
    /// # Errors
    /// As [`Guard::start`]; `Unsupported` for a QEMU without a way; those of the monitor.
    pub fn open(
        program: &Path,
        sockets: &Sockets,
        repository: &RepositoryId,
        way: Option<Way>,
    ) -> Result<Self> {
        let names = Names::of(repository);
        let prefix = names.prefix();
        let (mut guard, pid) =
            Guard::start(program, &sockets.qmp, sockets.agent.as_deref(), &prefix)?;
        let schema = guard.execute("query-qmp-schema", json!({}))?;
        let best = Way::of(&schema).ok_or_else(|| {
            Error::unsupported("this QEMU can neither filter writes nor back up a disk")
                .advise("shut the machine down, and back up its files: DISK=SOURCE")
        })?;
        let (devices, left_out) = device::list(&mut guard)?;
        let disks = devices
            .iter()
            .map(|device| MachineDisk {
                name: device.name.clone(),
                key: device.serial.clone(),
                size_bytes: device.size_bytes,
                data_bytes: device.data_bytes.map(|bytes| bytes.min(device.size_bytes)),
            })
            .collect();
        Ok(Self {
            guard: Arc::new(Mutex::new(guard)),
            names,
            way: way.unwrap_or(best),
            devices,
            disks,
            left_out,
            pid,
            taken: None,
        })
    }

    /// Removes what an earlier backup has left; returns what people should know of it. The session keeps other backups of the VM away.
    fn clear(&mut self, guard: &mut Guard) -> Result<Vec<String>> {
        let swept = sweep(guard, &self.names.prefix())?;
        if swept.names.is_empty() {
            return Ok(Vec::new());
        }
        // A filter that was left stood for the disk's own node.
        let (devices, _) = device::list(guard)?;
        let same = |one: &Device, other: &Device| {
            (&one.name, &one.serial, one.size_bytes)
                == (&other.name, &other.serial, other.size_bytes)
        };
        let is_same = devices.len() == self.devices.len()
            && devices
                .iter()
                .zip(&self.devices)
                .all(|(one, other)| same(one, other));
        if !is_same {
            return Err(
                Error::new(ErrorKind::Stale, "the machine has other disks now")
                    .advise("begin again"),
            );
        }
        self.devices = devices;
        Ok(vec![format!(
            "an earlier backup was killed; what it left in QEMU is removed: {}",
            swept.names.join(", ")
        )])
    }

    /// What the bitmaps of each disk say.
    fn tracked(&self, guard: &mut Guard, order: &Order) -> Result<Vec<Found>> {
        let nodes = guard.execute("query-named-block-nodes", json!({"flat": true}))?;
        let nodes: BTreeMap<&str, &Value> = nodes
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|node| Some((node["node-name"].as_str()?, node)))
            .collect();
        let found = self.devices.iter().map(|device| {
            let bitmaps = nodes
                .get(device.node.as_str())
                .map(|node| &node["dirty-bitmaps"]);
            let mut previous = order.previous.iter();
            let previous = previous.find(|(name, _)| name.same_as(&device.name));
            let previous = previous.map(|(_, id)| id.as_str());
            let found = tracking::decide(&self.names, bitmaps.unwrap_or(&Value::Null), previous);
            match device.is_read_only {
                true => Found {
                    extent: Extent::Whole {
                        reason: previous
                            .map(|_| "the guest cannot write it, so it has no bitmap".to_owned()),
                    },
                    ..found
                },
                false => found,
            }
        });
        Ok(found.collect())
    }

    fn try_take(&mut self, order: &Order) -> Result<Instant> {
        let guard = Arc::clone(&self.guard);
        let mut guard = guard.lock();
        let mut remarks = self.clear(&mut guard)?;
        let tracked = self.tracked(&mut guard, order)?;
        for (device, found) in self.devices.iter().zip(&tracked) {
            for name in &found.superfluous {
                let gone = guard.execute(
                    "block-dirty-bitmap-remove",
                    json!({"node": device.node, "name": name}),
                );
                if let Err(e) = gone {
                    remarks.push(format!(
                        "the bitmap {name} of {} stays: {}",
                        device.name,
                        e.report()
                    ));
                }
            }
        }
        let new = self.names.bitmap(order.session);
        let taken = self.taken.insert(Taken::default());
        for (number, device) in self.devices.iter().enumerate() {
            let snapshot = Snapshot::prepare(
                &mut *guard,
                self.way,
                |what| self.names.of_disk(order.session, number, what),
                device,
                &order.scratch,
            )?;
            taken.snapshots.push(snapshot);
        }
        let mut actions = Vec::new();
        for (device, found) in self.devices.iter().zip(&tracked) {
            if device.is_read_only {
                continue;
            }
            let is_persistent = match can_persist(&mut guard, &self.names, device) {
                Ok(can) => can,
                Err(reason) => {
                    remarks.push(format!(
                        "the changes of {} are tracked until QEMU ends only: {}",
                        device.name,
                        reason.what()
                    ));
                    false
                }
            };
            let old = match &found.extent {
                Extent::Since { change_id, .. } => Some(change_id.clone()),
                Extent::Whole { .. } => None,
            };
            actions.extend(tracking::begin(
                &self.names,
                &device.node,
                &new,
                old.as_deref(),
                is_persistent,
            ));
            // Noted before it is made: QEMU may do it, and the answer be lost.
            taken.bitmaps.push((device.node.clone(), new.clone(), old));
        }
        let pairs = || taken.snapshots.iter().zip(&self.devices);
        actions.extend(pairs().filter_map(|(snapshot, device)| snapshot.action(device)));
        // From here on until `resume` the guest waits.
        let mut consistency = (Consistency::Crash, None);
        if order.quiesce {
            match guard.freeze() {
                Ok(_) => consistency.0 = Consistency::Filesystem,
                Err(e) => {
                    let note = format!("the guest's filesystems were not frozen: {}", e.report());
                    remarks.push(note.clone());
                    consistency.1 = Some(note);
                }
            }
        }
        let instant = match self.way {
            Way::Filter => guard.stop().and_then(|()| {
                pairs().try_for_each(|(snapshot, device)| snapshot.insert(&mut *guard, device))
            }),
            Way::Job => Ok(()),
        };
        let instant = instant.and_then(|()| match actions.is_empty() {
            true => Ok(()),
            false => guard
                .execute("transaction", json!({"actions": actions}))
                .map(drop),
        });
        let held = guard.resume();
        instant?;
        let (held, left) = held?;
        remarks.extend(left.map(|e| not_thawed(&e)));
        for snapshot in &taken.snapshots {
            snapshot.open_view(&mut *guard)?;
        }
        let server =
            taken
                .server
                .insert(Server::start(&mut *guard, &self.names.prefix(), self.pid)?);
        for (number, ((device, found), snapshot)) in self
            .devices
            .iter()
            .zip(&tracked)
            .zip(&taken.snapshots)
            .enumerate()
        {
            let id = self.names.of_disk(order.session, number, "export");
            let mut export = json!({"type": "nbd", "id": id, "node-name": snapshot.view, "name": id, "writable": false});
            if matches!(found.extent, Extent::Since { .. }) {
                export["bitmaps"] = json!([{"node": device.node, "name": self.names.copy()}]);
            }
            guard.execute("block-export-add", export)?;
            taken.exports.push(id);
        }
        let uris = taken
            .exports
            .iter()
            .map(|id| server.uri(id))
            .collect::<Result<Vec<Uri>>>()?;
        drop(guard);
        let mut disks = Vec::new();
        for (number, (device, found)) in self.devices.iter().zip(tracked).enumerate() {
            let is_since = matches!(found.extent, Extent::Since { .. });
            let export = Export {
                guard: Arc::clone(&self.guard),
                id: taken.exports.get(number).cloned().unwrap_or_default(),
                node: taken
                    .snapshots
                    .get(number)
                    .map(|one| one.view.clone())
                    .unwrap_or_default(),
                uri: uris.get(number).cloned(),
                bitmap: is_since.then(|| self.names.copy()),
            };
            let source = Arc::new(Reopened::new(export)?);
            if source.size_bytes() != device.size_bytes {
                return Err(Error::new(
                    ErrorKind::Stale,
                    format!("{} has another size now", device.name),
                )
                .advise("begin again"));
            }
            let changes = is_since.then(|| Arc::clone(&source) as Arc<dyn Changes>);
            taken.watched.push(Arc::clone(&source) as Arc<dyn ReadAt>);
            disks.push(TakenDisk {
                name: device.name.clone(),
                source,
                extent: found.extent,
                changes,
                change_id: (!device.is_read_only).then(|| new.clone()),
            });
        }
        Ok(Instant {
            disks,
            consistency: Some(consistency.0),
            note: consistency.1,
            held,
            remarks,
        })
    }
}

/// Whether the changes of a device can be tracked beyond QEMU's end.
fn can_persist(guard: &mut Guard, names: &Names, device: &Device) -> Result<bool> {
    if device.driver != "qcow2" {
        return Err(Error::unsupported(format!(
            "the format {} cannot store a bitmap",
            device.driver
        )));
    }
    let name = names.copy();
    guard.execute(
        "block-dirty-bitmap-add",
        json!({"node": device.node, "name": name,
        "granularity": tracking::GRANULARITY, "persistent": true, "disabled": true}),
    )?;
    guard.execute(
        "block-dirty-bitmap-remove",
        json!({"node": device.node, "name": name}),
    )?;
    Ok(true)
}

/// An export of ours.
struct Export {
    guard: Arc<Mutex<Guard>>,
    id: String,
    node: String,
    uri: Option<Uri>,
    bitmap: Option<String>,
}

impl Export {
    /// The export's URI, while QEMU has the same export of the same node.
    fn proven(&self) -> Result<&Uri> {
        let exports = self
            .guard
            .lock()
            .execute("query-block-exports", json!({}))
            .map_err(|e| Error::new(ErrorKind::Stale, "QEMU has ended").caused_by(e))?;
        let mut exports = exports.as_array().into_iter().flatten();
        let is_same = |export: &Value| {
            export["id"] == self.id.as_str()
                && export["node-name"] == self.node.as_str()
                && export["shutting-down"] != true
        };
        match (exports.any(is_same), &self.uri) {
            (true, Some(uri)) => Ok(uri),
            _ => Err(Error::new(
                ErrorKind::Stale,
                "QEMU does not have the snapshot of this backup any more",
            )),
        }
    }
}

impl Again for Export {
    type Source = Client;

    fn open(&self) -> Result<Client> {
        let uri = self.proven()?;
        match &self.bitmap {
            Some(name) => Client::connect_with_bitmap(uri, name),
            None => Client::connect(uri),
        }
    }
}

impl Capture for Machine {
    fn disks(&self) -> &[MachineDisk] {
        &self.disks
    }

    fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    fn attachments(&self) -> &[(String, Vec<u8>)] {
        &[]
    }

    fn plan(&mut self, order: &Order) -> Result<Vec<(DiskName, Extent)>> {
        let guard = Arc::clone(&self.guard);
        let tracked = self.tracked(&mut guard.lock(), order)?;
        let names = self.devices.iter().map(|device| device.name.clone());
        Ok(names
            .zip(tracked.into_iter().map(|found| found.extent))
            .collect())
    }

    fn take(&mut self, order: &Order) -> Result<Instant> {
        let taken = self.try_take(order);
        if taken.is_err()
            && let Err(left) = self.end(false)
        {
            tracing::warn!(error = %left.report(), "something of the backup is left in QEMU; the next one removes it");
        }
        taken
    }

    fn check(&mut self) -> Result<Option<String>> {
        let Some(taken) = &self.taken else {
            return Err(Error::invalid("no instant was taken"));
        };
        let broken = |what: &str| {
            Error::new(
                ErrorKind::Io,
                format!("the snapshot was given up while it was copied: {what}"),
            )
            .advise("give the scratch files more room (--scratch DIR), or let the copy be faster")
        };
        if self.way == Way::Filter {
            // A snapshot that was given up answers no read.
            for source in &taken.watched {
                source
                    .read_at(0, &mut [0; 512])
                    .map_err(|e| broken("it answers no read").caused_by(e))?;
            }
        }
        let mut guard = self.guard.lock();
        let jobs = guard.execute("query-jobs", json!({}))?;
        let lives = |id: &str| {
            let mut jobs = jobs.as_array().into_iter().flatten();
            jobs.any(|job| {
                job["id"] == id && job["status"] != "concluded" && job["status"] != "aborting"
            })
        };
        let mut ours = taken.snapshots.iter().filter_map(Snapshot::job);
        match ours.find(|id| !lives(id)) {
            Some(id) => Err(broken(&format!("its job {id} has ended"))),
            None => Ok(None),
        }
    }

    fn end(&mut self, is_committed: bool) -> Result<()> {
        let Some(taken) = self.taken.take() else {
            return Ok(());
        };
        let mut guard = self.guard.lock();
        drop(taken.watched);
        let mut failed = sweep(&mut *guard, &self.names.prefix()).map(drop);
        if failed.is_ok() {
            // A job that still runs needs its room: without it the guest's writes would fail.
            taken.snapshots.iter().for_each(Snapshot::free);
        }
        for (node, new, old) in &taken.bitmaps {
            let copy = old.as_ref().map(|_| self.names.copy());
            let ended = if is_committed {
                old.clone()
            } else {
                Some(new.clone())
            };
            for name in copy.into_iter().chain(ended) {
                let removed = guard.execute(
                    "block-dirty-bitmap-remove",
                    json!({"node": node, "name": name}),
                );
                match removed {
                    // It was noted before it was made.
                    Err(e) if e.what().contains("not found") => {}
                    removed => failed = failed.and(removed.map(drop)),
                }
            }
        }
        failed
    }
}
