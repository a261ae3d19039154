//! What is copied: which points, and which layers of each. Pure.

use std::collections::HashMap;

use super::chain::LayerFacts;
use crate::error::{Error, ErrorKind, Result};
use crate::repo::Slot;
use crate::repo::leaves::DEPTH_MAX;
use crate::repo::sidecar::Unknown;
use crate::repo::sidecar::arriving::{ArrivingBase, ArrivingLayer};
use crate::repo::sidecar::index::{CheckResult, Index, PointEntry};
use crate::types::{Digest, DiskName, PointId, PointName, RepositoryId};

/// What is to be done about a point of the source.
#[derive(Debug, Clone, PartialEq)]
pub enum Due {
    /// The target lacks it.
    Send(PointEntry),
    /// The target has it, under this name.
    There(PointEntry, PointName),
    /// The target had it, and has forgotten it.
    Gone(PointEntry),
    /// It cannot be copied.
    Refused(PointEntry, String),
}

/// What is due for each point of a VM, by ascending `seq`; of the chosen points alone where `chosen` names some. What the target, whose
/// id is `target_id`, has forgotten is not sent again by itself: it has rules of its own.
#[must_use]
pub fn due(
    source: &Index,
    (target, target_id): (Option<&Index>, RepositoryId),
    chosen: &[PointId],
    is_again: bool,
) -> Vec<Due> {
    let there = target.iter().flat_map(|index| &index.points);
    let there: HashMap<PointId, &PointEntry> = there.map(|point| (point.point_id, point)).collect();
    let mut points: Vec<&PointEntry> = source
        .points
        .iter()
        .filter(|point| chosen.is_empty() || chosen.contains(&point.point_id))
        .collect();
    points.sort_by_key(|point| point.seq);
    let was_there = |point: &PointEntry| {
        let mut copies = point.copies.iter();
        target.is_some() && copies.any(|copy| copy.repository_id == target_id)
    };
    let due = |point: &PointEntry| match there.get(&point.point_id) {
        Some(other) if other.point_blake3 == point.point_blake3 => {
            Due::There(point.clone(), other.name.clone())
        }
        Some(other) => Due::Refused(
            point.clone(),
            format!(
                "the target has it as {}, with another point.json",
                other.name
            ),
        ),
        None if point.check == Some(CheckResult::Damaged) => Due::Refused(
            point.clone(),
            "it is damaged, and is not copied until it is repaired".to_owned(),
        ),
        None if !is_again && chosen.is_empty() && was_there(point) => Due::Gone(point.clone()),
        None => Due::Send(point.clone()),
    };
    points.into_iter().map(due).collect()
}

/// The layers of one disk that the target lacks, each after the one below it, and the layer there on which they stand.
///
/// # Errors
/// `AlreadyExists` when a slot has other content at the target; `Corrupt` for a chain without end, or a disk that has other
/// content than its point states; errors of the two functions.
pub(super) fn missing(
    (disk, key, root): (&DiskName, &str, Digest),
    top: &Slot,
    source: &mut dyn FnMut(&Slot) -> Result<LayerFacts>,
    target: &mut dyn FnMut(&Slot) -> Result<Option<Digest>>,
) -> Result<(Vec<ArrivingLayer>, Option<ArrivingBase>)> {
    let mut layers: Vec<ArrivingLayer> = Vec::new();
    let mut next = Some(top.clone());
    let mut base = None;
    while let Some(slot) = next.take() {
        if layers.len() >= DEPTH_MAX || layers.iter().any(|layer| layer.slot == slot) {
            let what = "the backing chain is a loop, or too deep";
            return Err(Error::corrupt(what, "a chain that ends", &slot).at_path(slot.layer_file()));
        }
        let facts = source(&slot)?;
        if layers.is_empty() && facts.content_root != root {
            let what = format!("the disk {disk} has other content than its point states");
            return Err(Error::corrupt(what, root, facts.content_root).at_path(slot.layer_file()));
        }
        match target(&slot)? {
            Some(found) if found == facts.content_root => {
                base = Some(ArrivingBase {
                    key: key.to_owned(),
                    slot,
                    content_root: found,
                    unknown: Unknown::new(),
                });
                break;
            }
            Some(_) => {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!("the slot {slot} has other content at the target"),
                )
                .at_path(slot.layer_file())
                .advise("copy the VM under another name: --as NAME"));
            }
            None => {}
        }
        next.clone_from(&facts.below);
        layers.push(ArrivingLayer {
            disk: disk.clone(),
            key: key.to_owned(),
            slot,
            layer_id: facts.layer,
            below: facts.below,
            content_root: facts.content_root,
            held_bytes: facts.held_bytes,
            file_bytes: facts.file_bytes,
            unknown: Unknown::new(),
        });
    }
    layers.reverse();
    Ok((layers, base))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::missing;
    use crate::error::ErrorKind;
    use crate::jobs::copy::chain::LayerFacts;
    use crate::repo::Slot;
    use crate::types::{Digest, DiskName, LayerId};

    fn slot(n: u8) -> Slot {
        Slot::of_file(&format!("vda-20261120T02000{n}Z-7f3a9c.qcow2")).unwrap()
    }

    /// A chain of layers 0 (full) to 3.
    fn facts(slot_asked: &Slot) -> LayerFacts {
        let n = (0..4).find(|n| slot(*n) == *slot_asked).unwrap();
        LayerFacts {
            layer: LayerId::from_bytes([n; 16]),
            below: n.checked_sub(1).map(slot),
            content_root: Digest([n; 32]),
            held_bytes: 65_536,
            file_bytes: 65_536,
        }
    }

    fn plan(there: &[(u8, u8)]) -> crate::error::Result<(Vec<Slot>, Option<Slot>)> {
        let there: HashMap<Slot, Digest> = there
            .iter()
            .map(|(n, root)| (slot(*n), Digest([*root; 32])))
            .collect();
        let vda = DiskName::new("vda").unwrap();
        let (layers, base) = missing(
            (&vda, "vda", Digest([3; 32])),
            &slot(3),
            &mut |slot| Ok(facts(slot)),
            &mut |slot| Ok(there.get(slot).copied()),
        )?;
        let layers = layers.into_iter().map(|layer| layer.slot);
        Ok((layers.collect(), base.map(|base| base.slot)))
    }

    #[test]
    fn layers_are_sent_down_to_the_first_that_is_there() {
        let all = (0..4).map(slot).collect();
        assert_eq!(plan(&[]).unwrap(), (all, None));
        assert_eq!(plan(&[(3, 3)]).unwrap(), (vec![], Some(slot(3))));
        // What lies below it does not matter: the target may have merged it away.
        let above = vec![slot(2), slot(3)];
        assert_eq!(plan(&[(1, 1)]).unwrap(), (above.clone(), Some(slot(1))));
        assert_eq!(plan(&[(1, 1), (0, 9)]).unwrap(), (above, Some(slot(1))));
    }

    #[test]
    fn other_content_in_a_slot_is_refused_and_a_loop_ends() {
        let refused = plan(&[(2, 9), (1, 1)]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
        let vda = DiskName::new("vda").unwrap();
        let looped = missing(
            (&vda, "vda", Digest([3; 32])),
            &slot(3),
            &mut |asked| {
                let mut facts = facts(asked);
                facts.below = Some(slot(if *asked == slot(3) { 2 } else { 3 }));
                Ok(facts)
            },
            &mut |_| Ok(None),
        );
        assert_eq!(looped.unwrap_err().kind(), ErrorKind::Corrupt);
        let other = missing(
            (&vda, "vda", Digest([7; 32])),
            &slot(3),
            &mut |slot| Ok(facts(slot)),
            &mut |_| Ok(None),
        );
        assert_eq!(other.unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
