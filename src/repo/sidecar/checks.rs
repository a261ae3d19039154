//! `state/<slot>.<layer_id>.checks.json`: when each part of a layer was verified, and the result.
//!
//! # Invariants
//! A layer that replaces another one in its slot has another id, and no results: nothing of it counts as verified until it is read.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Sidecar, Unknown};
use crate::repo::content::Region;
use crate::repo::slot::Slot;
use crate::types::LayerId;

/// The results of one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checks {
    /// Schema number, 1.
    pub schema: u32,
    /// The slot of the layer.
    pub slot: Slot,
    /// The layer.
    pub layer_id: LayerId,
    /// The result for header, tables, refcounts and sums; absent when they were never verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub structure: Option<StructureCheck>,
    /// The results for the data, by ascending regions. Regions that were never verified are in none of them.
    #[serde(default)]
    pub regions: Vec<RegionCheck>,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// The result for everything in a layer but its data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StructureCheck {
    /// When it was verified.
    pub checked_at: Timestamp,
    /// What is damaged; absent when nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// The result for the data of consecutive regions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionCheck {
    /// The first region.
    pub first: Region,
    /// The last region.
    pub last: Region,
    /// When they were verified.
    pub checked_at: Timestamp,
    /// Damaged ranges of the disk, in whole clusters, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<DamagedRange>,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A range of the disk whose content in a layer is not what was committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedRange {
    /// Byte offset in the disk.
    pub offset: u64,
    /// Length in bytes.
    pub length_bytes: u64,
    /// Byte offset in the layer's file, where the cluster lies in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_offset: Option<u64>,
    /// What is wrong.
    pub fault: String,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Sidecar for Checks {
    const WHAT: &'static str = "checks of the layer";
    const SCHEMA: u32 = 1;
}

impl RegionCheck {
    /// The result for one region.
    #[must_use]
    pub const fn of(region: Region, checked_at: Timestamp, damaged: Vec<DamagedRange>) -> Self {
        Self {
            first: region,
            last: region,
            checked_at,
            damaged,
            unknown: Unknown::new(),
        }
    }

    /// Whether `next` can be told with it in one entry.
    fn continues(&self, next: &Self) -> bool {
        let is_plain = |check: &Self| check.damaged.is_empty() && check.unknown == Unknown::new();
        self.last.0.checked_add(1) == Some(next.first.0)
            && self.checked_at == next.checked_at
            && is_plain(self)
            && is_plain(next)
    }

    /// The part of the entry within `[first, last]`; `None` when it is empty.
    fn clip(&self, first: Region, last: Region) -> Option<Self> {
        let (first, last) = (self.first.max(first), self.last.min(last));
        (first <= last).then(|| Self {
            first,
            last,
            damaged: self
                .damaged
                .iter()
                .filter(|range| {
                    let region = Region::at(range.offset);
                    first <= region && region <= last
                })
                .cloned()
                .collect(),
            ..self.clone()
        })
    }
}

impl Checks {
    /// No results.
    #[must_use]
    pub const fn none(slot: Slot, layer_id: LayerId) -> Self {
        Self {
            schema: Self::SCHEMA,
            slot,
            layer_id,
            structure: None,
            regions: Vec::new(),
            unknown: Unknown::new(),
        }
    }

    /// The result for a region.
    #[must_use]
    pub fn region(&self, region: Region) -> Option<&RegionCheck> {
        let at = self.regions.partition_point(|check| check.last < region);
        self.regions.get(at).filter(|check| check.first <= region)
    }

    /// The damaged ranges, ascending.
    pub fn damaged(&self) -> impl Iterator<Item = &DamagedRange> {
        self.regions.iter().flat_map(|check| &check.damaged)
    }

    /// Takes over newer results of the same layer: each replaces what is known of its part.
    pub fn take(&mut self, newer: &Self) {
        if let Some(structure) = &newer.structure {
            self.structure = Some(structure.clone());
        }
        let mut newer = newer.clone();
        newer.join();
        for new in &newer.regions {
            let mut kept = Vec::with_capacity(self.regions.len() + 2);
            for old in &self.regions {
                if let Some(before) = new.first.0.checked_sub(1) {
                    kept.extend(old.clip(Region(0), Region(before)));
                }
                if let Some(after) = new.last.0.checked_add(1) {
                    kept.extend(old.clip(Region(after), Region(u64::MAX)));
                }
            }
            let at = kept.partition_point(|check| check.first < new.first);
            kept.insert(at, new.clone());
            self.regions = kept;
        }
        self.join();
    }

    /// The same results in parts with about `ranges_max` damaged ranges at most; each part can be taken over by itself.
    #[must_use]
    pub fn parts(&self, ranges_max: usize) -> Vec<Self> {
        let mut whole = self.clone();
        whole.join();
        let empty = || Self::none(self.slot.clone(), self.layer_id);
        let mut parts = vec![Self {
            structure: self.structure.clone(),
            ..empty()
        }];
        let mut ranges = 0;
        for check in whole.regions {
            if ranges > 0 && ranges + check.damaged.len() > ranges_max {
                parts.push(empty());
                ranges = 0;
            }
            ranges += check.damaged.len();
            if let Some(last) = parts.last_mut() {
                last.regions.push(check);
            }
        }
        parts
    }

    /// Joins neighbours that say the same.
    fn join(&mut self) {
        let mut joined: Vec<RegionCheck> = Vec::with_capacity(self.regions.len());
        for check in std::mem::take(&mut self.regions) {
            match joined.last_mut() {
                Some(last) if last.continues(&check) => last.last = check.last,
                _ => joined.push(check),
            }
        }
        self.regions = joined;
    }
}

#[cfg(test)]
mod tests {
    use super::{Checks, DamagedRange, RegionCheck, StructureCheck, Timestamp, Unknown};
    use crate::repo::content::{REGION_BYTES, Region};
    use crate::repo::sidecar::{encode, parse};
    use crate::repo::slot::Slot;
    use crate::types::LayerId;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn checks() -> Checks {
        let slot = Slot::parse("vda-20261120T020000Z-7f3a9c").unwrap();
        Checks::none(slot, LayerId::from_bytes([7; 16]))
    }

    fn damage(region: u64) -> Vec<DamagedRange> {
        vec![DamagedRange {
            offset: region * REGION_BYTES + 65_536,
            length_bytes: 65_536,
            file_offset: Some(4096),
            fault: "other content".to_owned(),
            unknown: Unknown::new(),
        }]
    }

    fn of(entries: &[(u64, u64, i64, Vec<DamagedRange>)]) -> Checks {
        let mut checks = checks();
        for (first, last, second, damaged) in entries {
            checks.regions.push(RegionCheck {
                last: Region(*last),
                ..RegionCheck::of(Region(*first), at(*second), damaged.clone())
            });
        }
        checks
    }

    #[test]
    fn newer_results_replace_those_of_the_same_regions_and_neighbours_are_joined() {
        let mut known = checks();
        known.take(&of(&[
            (0, 0, 1, vec![]),
            (1, 1, 1, vec![]),
            (2, 2, 1, damage(2)),
            (3, 9, 1, vec![]),
        ]));
        let whole = of(&[(0, 1, 1, vec![]), (2, 2, 1, damage(2)), (3, 9, 1, vec![])]);
        assert_eq!(known, whole);
        known.take(&of(&[(5, 5, 2, damage(5))]));
        assert_eq!(known.regions.len(), 5);
        assert_eq!(known.region(Region(5)).unwrap().damaged, damage(5));
        assert_eq!(known.region(Region(4)).unwrap().checked_at, at(1));
        assert_eq!(known.region(Region(6)).unwrap().last, Region(9));
        assert_eq!(known.region(Region(10)), None);
        known.take(&of(&[(1, 12, 3, vec![])]));
        assert_eq!(known, of(&[(0, 0, 1, vec![]), (1, 12, 3, vec![])]));
    }

    #[test]
    fn a_result_that_is_cut_keeps_the_damage_of_the_rest() {
        let mut both = damage(2);
        both.extend(damage(4));
        let mut known = of(&[(2, 4, 1, both)]);
        known.take(&of(&[(3, 4, 2, vec![])]));
        assert_eq!(known, of(&[(2, 2, 1, damage(2)), (3, 4, 2, vec![])]));
    }

    #[test]
    fn parts_together_say_the_same() {
        let mut many = of(&[
            (0, 0, 1, damage(0)),
            (1, 1, 1, damage(1)),
            (2, 8, 1, vec![]),
        ]);
        many.structure = Some(StructureCheck {
            checked_at: at(1),
            fault: None,
            unknown: Unknown::new(),
        });
        let parts = many.parts(1);
        assert_eq!(parts.len(), 2);
        let mut known = checks();
        parts.iter().for_each(|part| known.take(part));
        assert_eq!(known, many);
        assert_eq!(many.parts(9), [many]);
    }

    #[test]
    fn a_file_of_checks_is_read_as_it_was_written() {
        let mut known = of(&[(0, 3, 1, damage(3))]);
        known.structure = Some(StructureCheck {
            checked_at: at(5),
            fault: Some("a table".to_owned()),
            unknown: Unknown::new(),
        });
        let bytes = encode(&known).unwrap();
        assert_eq!(parse::<Checks>(&bytes).unwrap(), known);
    }
}
