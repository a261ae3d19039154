//! The parts that a run verifies.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::subset::{Subset, number};
use super::survey::{Header, Look, Survey};
use crate::error::{ErrorKind, Result};
use crate::repo::content::{CLUSTER_BYTES, Region};
use crate::repo::sidecar::checks::Checks;
use crate::repo::{Repository, Slot};
use crate::task::{Monitor, on_threads, threads};
use crate::types::sync::Mutex;
use crate::types::{DiskName, LayerId, VmId, VmName};

/// LIMIT: VMs that are looked at at the same time.
const THREADS_MAX: usize = 8;

/// The choice of a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Choice {
    /// The share of the parts.
    pub subset: Subset,
    /// Only parts without a result since this instant.
    pub outdated_since: Option<Timestamp>,
    /// Data, too; otherwise only everything else in the layers.
    pub data: bool,
}

/// The parts of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LayerParts {
    pub(super) slot: Slot,
    pub(super) layer: LayerId,
    /// Regions whose data is verified; everything else in the layer is, too.
    pub(super) regions: Vec<Region>,
    /// Bytes of all that.
    pub(super) bytes: u64,
    /// Whether one of these parts was never verified.
    pub(super) is_new: bool,
}

/// The parts of one VM.
#[derive(Debug, Clone)]
pub struct VmParts {
    /// The VM.
    pub vm: VmName,
    pub(super) layers: Vec<LayerParts>,
}

impl VmParts {
    /// Leaves out all layers but these, and those of which a part was never verified.
    pub fn retain(&mut self, slots: &HashSet<&Slot>) {
        self.layers
            .retain(|layer| layer.is_new || slots.contains(&layer.slot));
    }

    /// Bytes of all parts.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.bytes).sum()
    }

    /// Bytes of all parts, by the disk as the slots name it.
    #[must_use]
    pub fn disk_bytes(&self) -> BTreeMap<Option<DiskName>, u64> {
        let mut disks = BTreeMap::new();
        for layer in &self.layers {
            *disks.entry(layer.slot.disk_hint()).or_default() += layer.bytes;
        }
        disks
    }
}

/// A part that may be chosen. `vm` and `layer` are positions.
struct Part {
    vm: usize,
    layer: usize,
    region: Option<Region>,
    bytes: u64,
    checked_at: Option<Timestamp>,
    number: u64,
}

/// A VM with the parts of its layers.
struct Candidates {
    vm: VmName,
    layers: Vec<(Slot, LayerId, u64)>,
    parts: Vec<Part>,
}

impl Choice {
    /// The parts of VMs that this choice takes, by VM, in their order. A VM that cannot be read has its error instead.
    ///
    /// # Errors
    /// `Io` when a thread panicked; `Cancelled`.
    pub fn plan(
        &self,
        repository: &Arc<Repository>,
        vms: &[VmName],
        monitor: &Monitor,
    ) -> Result<Vec<(VmName, Result<VmParts>)>> {
        let found: Vec<_> = vms.iter().map(|_| Mutex::new(None)).collect();
        let mut next = vms.iter().zip(&found);
        on_threads(
            threads(None, THREADS_MAX.min(vms.len())),
            monitor,
            || Ok(next.next()),
            || (),
            |(), (vm, slot)| {
                *slot.lock() = Some(candidates(repository, vm, self.data));
                Ok(())
            },
        )?;
        let (mut all, mut left) = (Vec::new(), Vec::new());
        for (n, (vm, found)) in vms.iter().zip(found).enumerate() {
            match found.into_inner() {
                Some(Ok(mut candidates)) => {
                    for part in &mut candidates.parts {
                        part.vm = n;
                    }
                    left.append(&mut candidates.parts);
                    all.push((vm, Ok(candidates)));
                }
                Some(Err(e)) => all.push((vm, Err(e))),
                // It was not begun; the error of the threads was returned above.
                None => {}
            }
        }
        let mut chosen: HashMap<(usize, usize), Vec<Part>> = HashMap::new();
        for part in self.choose(left) {
            chosen.entry((part.vm, part.layer)).or_default().push(part);
        }
        let plans = all.into_iter().enumerate().map(|(n, (vm, found))| {
            let parts = found.map(|candidates| {
                let layers = candidates.layers.into_iter().enumerate();
                let layers = layers.filter_map(|(at, (slot, layer, structure))| {
                    let parts = chosen.remove(&(n, at))?;
                    Some(layer_parts(slot, layer, structure, &parts))
                });
                VmParts {
                    vm: candidates.vm,
                    layers: layers.collect(),
                }
            });
            (vm.clone(), parts)
        });
        Ok(plans.collect())
    }

    fn choose(&self, mut parts: Vec<Part>) -> Vec<Part> {
        if let Some(since) = self.outdated_since {
            parts.retain(|part| part.checked_at.is_none_or(|at| at < since));
        }
        let budget = match self.subset {
            Subset::All => return parts,
            Subset::Share { number, of } => {
                parts.retain(|part| part.checked_at.is_none() || part.number % of == number - 1);
                return parts;
            }
            Subset::Percent(percent) => {
                let all: u128 = parts.iter().map(|part| u128::from(part.bytes)).sum();
                u64::try_from(all * u128::from(percent) / 100).unwrap_or(u64::MAX)
            }
            Subset::Bytes(bytes) => bytes,
        };
        // `None`, never verified, is first.
        parts.sort_by_key(|part| (part.checked_at, part.number));
        let mut taken = 0_u64;
        parts
            .into_iter()
            .take_while(|part| {
                // The budget is reached, not kept below: a run makes progress however small it is.
                let is_open = taken < budget;
                taken = taken.saturating_add(part.bytes);
                is_open
            })
            .collect()
    }
}

fn layer_parts(slot: Slot, layer: LayerId, structure: u64, parts: &[Part]) -> LayerParts {
    let data = parts.iter().filter(|part| part.region.is_some());
    let data: u64 = data.map(|part| part.bytes).sum();
    let mut regions: Vec<Region> = parts.iter().filter_map(|part| part.region).collect();
    regions.sort_unstable();
    LayerParts {
        slot,
        layer,
        regions,
        bytes: structure.saturating_add(data),
        is_new: parts.iter().any(|part| part.checked_at.is_none()),
    }
}

/// The parts of a VM. A VM that is gone meanwhile has none.
fn candidates(repository: &Repository, vm: &VmName, data: bool) -> Result<Candidates> {
    let mut candidates = Candidates {
        vm: vm.clone(),
        layers: Vec::new(),
        parts: Vec::new(),
    };
    let survey = match Survey::of(repository, vm, Header::Read) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(candidates),
        other => other?,
    };
    let vm_id: VmId = survey.index.vm_id;
    for (slot, look) in &survey.looks {
        let Look::Layer(found) = look else { continue };
        let known = repository.checks(vm, slot, found.layer)?;
        let layer = candidates.layers.len();
        let part = |region: Option<Region>, bytes, checked_at| Part {
            vm: 0,
            layer,
            region,
            bytes,
            checked_at,
            number: number(vm_id, slot, region),
        };
        let structure_at = known.structure.as_ref().map(|check| check.checked_at);
        let mut parts = vec![part(None, found.structure_bytes, structure_at)];
        if data {
            parts.extend(found.regions.iter().map(|(region, held)| {
                let bytes = u64::from(*held).saturating_mul(CLUSTER_BYTES);
                part(Some(*region), bytes, checked_at(&known, *region))
            }));
        }
        candidates
            .layers
            .push((slot.clone(), found.layer, found.structure_bytes));
        candidates.parts.append(&mut parts);
    }
    Ok(candidates)
}

fn checked_at(known: &Checks, region: Region) -> Option<Timestamp> {
    known.region(region).map(|check| check.checked_at)
}

#[cfg(test)]
mod tests {
    use super::{Choice, Part, Subset, Timestamp};
    use crate::repo::content::Region;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn parts() -> Vec<Part> {
        (0..100_u64)
            .map(|n| Part {
                vm: 0,
                layer: 0,
                region: Some(Region(n)),
                bytes: 10,
                // A fourth of them was never verified.
                checked_at: (n % 4 != 0).then(|| at(i64::try_from(n).unwrap())),
                number: n.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            })
            .collect()
    }

    fn chosen(choice: Choice) -> Vec<u64> {
        let chosen = choice.choose(parts()).into_iter();
        let mut chosen: Vec<u64> = chosen.filter_map(|part| Some(part.region?.0)).collect();
        chosen.sort_unstable();
        chosen
    }

    fn subset(subset: Subset) -> Choice {
        Choice {
            subset,
            outdated_since: None,
            data: true,
        }
    }

    #[test]
    fn shares_cover_everything_and_each_has_what_was_never_verified() {
        let mut seen = std::collections::BTreeSet::new();
        for number in 1..=7 {
            let share = chosen(subset(Subset::Share { number, of: 7 }));
            assert!((0..100).step_by(4).all(|n| share.contains(&n)), "{share:?}");
            assert!(share.len() < 60, "{share:?}");
            seen.extend(share);
        }
        assert_eq!(seen.len(), 100);
    }

    #[test]
    fn what_waits_for_longest_is_first_and_the_rest_of_the_bytes_is_reached() {
        let never: Vec<u64> = (0..100).step_by(4).collect();
        assert_eq!(chosen(subset(Subset::Percent(25))), never);
        let mut more = never.clone();
        more.extend([1, 2]);
        more.sort_unstable();
        assert_eq!(chosen(subset(Subset::Bytes(261))), more);
        assert_eq!(chosen(subset(Subset::Bytes(1))).len(), 1);
        assert_eq!(chosen(subset(Subset::All)).len(), 100);
    }

    #[test]
    fn what_has_a_result_since_an_instant_is_left_out() {
        let outdated = chosen(Choice {
            outdated_since: Some(at(50)),
            ..subset(Subset::All)
        });
        let is_due = |n: &u64| n.is_multiple_of(4) || *n < 50;
        assert_eq!(outdated, (0..100).filter(is_due).collect::<Vec<_>>());
    }
}
