//! The repair of one VM: layer after layer, from the lowest one up.

use std::collections::HashSet;
use std::sync::Arc;

use serde::Serialize;

use super::donor::{Donors, Place};
use super::file::{self, Fetched};
use crate::chain::Pool;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::jobs::merge::{Interval, Mend, MergeOptions, Reach, Swap, Watch, build, check_room};
use crate::jobs::verify::LayerFaults;
use crate::repo::content::CLUSTER_BYTES;
use crate::repo::layer_file::LayerFile;
use crate::repo::leaves::DEPTH_MAX;
use crate::repo::put_back::PutBack;
use crate::repo::sidecar::index::PointEntry;
use crate::repo::sums::LayerSums;
use crate::repo::{Repository, Slot};
use crate::types::width::u64_from_usize;
use crate::types::{PointName, VmId, VmName};

/// What was done for a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerRepair {
    /// Its slot.
    pub slot: Slot,
    /// Whether its file came whole from a copy.
    pub put_back: bool,
    /// Bytes of the disk that have the committed content again.
    pub mended_bytes: u64,
    /// Bytes of the disk whose content nobody has.
    pub left_bytes: u64,
    /// Where content came from: `REPOSITORY: POINT`, or the repository alone.
    pub from: Vec<String>,
    /// Why nothing could be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// What was done for a VM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// Layers that were looked at.
    pub layers_read: u64,
    /// Layers with damage.
    pub layers: Vec<LayerRepair>,
    /// Points whose sidecars were put back.
    pub sidecars: Vec<PointName>,
    /// Attached files that were put back: `POINT/attached/NAME`.
    pub attached: Vec<String>,
    /// Other faults, which stay.
    pub faults: Vec<String>,
}

impl Repaired {
    /// Whether anything was changed.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        let layers = self.layers.iter();
        !self.sidecars.is_empty()
            || !self.attached.is_empty()
            || layers
                .into_iter()
                .any(|layer| layer.put_back || layer.mended_bytes > 0)
    }
}

/// A repair.
pub struct Repair<'a> {
    /// The repository that is repaired.
    pub repository: &'a Arc<Repository>,
    /// The VM.
    pub vm: &'a VmName,
    /// Copies of the VM at other repositories, in the order in which they are asked.
    pub copies: &'a [Place],
    /// Chains that are open.
    pub pool: &'a Arc<Pool>,
    /// Memory and pace.
    pub options: &'a MergeOptions,
    /// Swaps a layer in, with the lock of the repository.
    pub swap: Swap<'a>,
    /// Puts a file back, with the lock of the repository.
    pub put_back: &'a dyn Fn(&PutBack) -> Result<()>,
    /// Watches the reading or building of a layer.
    pub watch: Watch<'a>,
}

/// A layer of a chain that can be opened.
struct Opened {
    file: LayerFile,
    sums: LayerSums,
}

/// Whether an error is a state of the file, which a copy can mend.
fn is_mendable(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::Unsupported | ErrorKind::Io
    )
}

impl Repair<'_> {
    /// Repairs what the chosen points need.
    ///
    /// # Errors
    /// `Cancelled`; `Locked`, `NoSpace`, and other errors that are no damage. What was repaired before stays repaired.
    pub fn run(&self, points: &[PointEntry]) -> Result<Repaired> {
        let mut done = Repaired::default();
        let index = self.repository.index(self.vm)?;
        for entry in points {
            self.sidecar(entry, &mut done)?;
            self.attached(entry, &mut done)?;
        }
        // A layer is put back only where the one below it is there, so that another pass may put back more.
        let chains = loop {
            let mut pass = Repaired::default();
            let chains = self.open_chains(points, &mut pass)?;
            let (put_back, failed): (Vec<_>, Vec<_>) =
                pass.layers.into_iter().partition(|layer| layer.put_back);
            let is_last = put_back.is_empty() || failed.is_empty();
            done.layers.extend(put_back);
            if is_last {
                done.layers.extend(failed);
                break chains;
            }
        };
        // A layer is replaced only when all chains of the VM can be walked, so all files are put back first.
        for (key, chain) in &chains {
            for slot in chain.iter().rev() {
                self.layer(index.vm_id, slot, key, &mut done)?;
            }
        }
        Ok(done)
    }

    /// The chains of the points, each layer once, with the keys of their disks.
    fn open_chains(
        &self,
        points: &[PointEntry],
        done: &mut Repaired,
    ) -> Result<Vec<(String, Vec<Slot>)>> {
        let mut seen: HashSet<Slot> = HashSet::new();
        let mut chains: Vec<(String, Vec<Slot>)> = Vec::new();
        for entry in points {
            let point = match self.repository.point(self.vm, entry) {
                Ok(point) => point,
                // It is among the faults.
                Err(e) if is_mendable(&e) => continue,
                Err(e) => return Err(e),
            };
            for disk in &point.disks {
                let chain = self.open_chain(&disk.layer, &mut seen, done)?;
                chains.push((disk.key.clone(), chain));
            }
        }
        Ok(chains)
    }

    fn sidecar(&self, entry: &PointEntry, done: &mut Repaired) -> Result<()> {
        let fault = match self.repository.point(self.vm, entry) {
            Ok(_) => return Ok(()),
            Err(e) if is_mendable(&e) => e,
            Err(e) => return Err(e),
        };
        let put =
            file::sidecar(self.vm, entry, self.copies).and_then(|what| (self.put_back)(&what));
        match put {
            Ok(()) => done.sidecars.push(entry.name.clone()),
            Err(e) if is_mendable(&e) => {
                tracing::info!(point = %entry.name, error = %e.report(), "a sidecar cannot be put back");
                done.faults.push(fault.report());
            }
            Err(e) => return Err(e),
        }
        Ok(())
    }

    fn attached(&self, entry: &PointEntry, done: &mut Repaired) -> Result<()> {
        // What a sidecar that is damaged names is not known.
        let Ok(point) = self.repository.point(self.vm, entry) else {
            return Ok(());
        };
        for stated in &point.attached {
            let fault = match self.repository.attached(self.vm, &entry.name, stated) {
                Ok(_) => continue,
                Err(e) if is_mendable(&e) => e,
                Err(e) => return Err(e),
            };
            let put = file::attached(self.repository, self.vm, entry, stated, self.copies);
            match put.and_then(|what| (self.put_back)(&what)) {
                Ok(()) => {
                    let what = format!("{}/attached/{}", entry.name, stated.name);
                    done.attached.push(what);
                }
                Err(e) if is_mendable(&e) => {
                    tracing::info!(point = %entry.name, error = %e.report(), "an attached file cannot be put back");
                    done.faults.push(fault.report());
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// The layers of a chain that were not seen before and can be opened, top first. What cannot be opened is put back from a copy.
    fn open_chain(
        &self,
        top: &Slot,
        seen: &mut HashSet<Slot>,
        done: &mut Repaired,
    ) -> Result<Vec<Slot>> {
        let mut chain = Vec::new();
        let mut next = Some(top.clone());
        while let Some(slot) = next {
            if chain.len() >= DEPTH_MAX || !seen.insert(slot.clone()) {
                break;
            }
            let opened = match self.open(&slot) {
                Err(e) if is_mendable(&e) => self.put_layer_back(&slot, &e, done)?,
                other => Some(other?),
            };
            next = match opened {
                Some(opened) => {
                    chain.push(slot);
                    opened.file.below
                }
                None => LayerFile::open(self.repository, self.vm, &slot)
                    .ok()
                    .and_then(|file| file.below),
            };
        }
        Ok(chain)
    }

    fn open(&self, slot: &Slot) -> Result<Opened> {
        let file = LayerFile::open(self.repository, self.vm, slot)?;
        let sums = file.prove_header(self.repository, self.vm, slot)?;
        sums.verify()?;
        Ok(Opened { file, sums })
    }

    fn put_layer_back(
        &self,
        slot: &Slot,
        fault: &Error,
        done: &mut Repaired,
    ) -> Result<Option<Opened>> {
        let monitor = (self.watch)(slot, 0)?;
        let mut why = fault.report();
        for place in self.copies {
            let how = (&self.options.pace, self.options.low_water_bytes);
            let fetched = match Fetched::layer(self.repository, self.vm, slot, place, how, &monitor)
            {
                Ok(fetched) => fetched,
                Err(e) if is_mendable(&e) => {
                    why = format!("{why}; {}: {}", place.label, e.report());
                    continue;
                }
                Err(e) => return Err(e),
            };
            let put = (self.put_back)(&fetched.what);
            let opened = put.and_then(|()| self.open(slot));
            match opened {
                Ok(opened) => {
                    done.layers.push(LayerRepair {
                        slot: slot.clone(),
                        put_back: true,
                        mended_bytes: held_bytes(&opened.sums),
                        left_bytes: 0,
                        from: vec![place.label.clone()],
                        fault: None,
                    });
                    return Ok(Some(opened));
                }
                Err(e) => {
                    fetched.discard(self.repository);
                    if !is_mendable(&e) {
                        return Err(e);
                    }
                    why = format!("{why}; {}: {}", place.label, e.report());
                }
            }
        }
        done.layers.push(LayerRepair {
            slot: slot.clone(),
            put_back: false,
            mended_bytes: 0,
            left_bytes: 0,
            from: Vec::new(),
            fault: Some(why),
        });
        Ok(None)
    }

    /// Reads a layer, and builds it anew where it is damaged.
    fn layer(&self, vm_id: VmId, slot: &Slot, key: &str, done: &mut Repaired) -> Result<()> {
        let opened = self.open(slot)?;
        let held = held_bytes(&opened.sums);
        let monitor = (self.watch)(slot, held)?;
        let pace = &self.options.pace;
        let faults = LayerFaults::of(self.vm, slot, &opened.file, &opened.sums, pace, &monitor)?;
        done.layers_read += 1;
        if faults.is_sound() {
            return Ok(());
        }
        check_room(self.repository, held, self.options.low_water_bytes)?;
        let monitor = (self.watch)(slot, held)?;
        let mut places = self.copies.to_vec();
        places.push(Place {
            repository: Arc::clone(self.repository),
            label: "here".to_owned(),
            vm: self.vm.clone(),
        });
        let donors = Donors::new(&places, slot, key, self.pool, &monitor)?;
        let mend = Mend::new(&faults.clusters, &donors);
        let interval = Interval {
            vm: self.vm.clone(),
            vm_id,
            layers: vec![slot.clone()],
            reach: Reach::Merge,
        };
        let built = build(
            self.repository,
            &interval,
            self.options,
            Some(&mend),
            &monitor,
        );
        let bytes = |clusters: usize| u64_from_usize(clusters) * CLUSTER_BYTES;
        let mut repair = LayerRepair {
            slot: slot.clone(),
            put_back: false,
            mended_bytes: bytes(mend.mended().len()),
            left_bytes: bytes(mend.left().len()),
            from: Vec::new(),
            fault: None,
        };
        repair.from = donors.given();
        let swapped = match built {
            // Nothing would be better than before.
            Ok(built) if repair.mended_bytes == 0 && faults.structure.is_empty() => {
                self.discard(&built.replacement);
                Ok(())
            }
            Ok(built) => {
                let swapped = (self.swap)(&built.replacement);
                if swapped.is_err() {
                    self.discard(&built.replacement);
                }
                swapped
            }
            Err(e) => Err(e),
        };
        match swapped {
            Ok(()) => {}
            Err(e) if is_mendable(&e) || e.kind() == ErrorKind::Stale => {
                repair.mended_bytes = 0;
                repair.left_bytes = bytes(faults.clusters.len());
                repair.fault = Some(e.report());
            }
            Err(e) => return Err(e).at_path(slot.layer_file()),
        }
        done.layers.push(repair);
        Ok(())
    }

    fn discard(&self, replacement: &crate::repo::replace::Replacement) {
        if let Err(e) = replacement.discard(self.repository) {
            tracing::warn!(vm = %self.vm, error = %e.report(), "a build is left over until the repository is next opened");
        }
    }
}

fn held_bytes(sums: &LayerSums) -> u64 {
    let held: u64 = sums.touched().map(|(_, held)| u64::from(held)).sum();
    held.saturating_mul(CLUSTER_BYTES)
}
