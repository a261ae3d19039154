//! Change tracking by the dirty bitmaps of QEMU (`docs/interop/bitmaps.rst` of QEMU).
//!
//! # Invariants
//! - A bitmap counts only if its name is the change id of the parent, and it has recorded without a gap since then. Everything else is
//!   compared with the parent, with the reason.
//! - The new bitmap begins in the same instant as the snapshot. The one of the parent goes on recording until the commit.

use serde_json::{Value, json};

use crate::capture::machine::Extent;
use crate::capture::names::Names;

/// Bytes that one bit of our bitmaps stands for: a cluster of our layers.
pub(super) const GRANULARITY: u64 = 65_536;

/// What a disk's bitmaps say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// What has to be copied.
    pub(super) extent: Extent,
    /// Bitmaps of ours that record for nobody.
    pub(super) superfluous: Vec<String>,
}

fn usable(bitmap: &Value, change_id: &str) -> Result<Extent, String> {
    if bitmap["inconsistent"] == true {
        return Err("QEMU ended without storing its bitmap".to_owned());
    }
    if bitmap["recording"] != true {
        return Err("its bitmap does not record".to_owned());
    }
    if bitmap["busy"] == true {
        return Err("another operation uses its bitmap".to_owned());
    }
    if bitmap["granularity"].as_u64() != Some(GRANULARITY) {
        return Err(
            "its bitmap has another granularity, so it is not the one that was made".to_owned(),
        );
    }
    Ok(Extent::Since {
        change_id: change_id.to_owned(),
        changed_bytes: bitmap["count"].as_u64(),
    })
}

/// Decides what of a disk has to be copied. `bitmaps` are those of its node, `previous` the change id of the parent.
#[must_use]
pub(super) fn decide(names: &Names, bitmaps: &Value, previous: Option<&str>) -> Found {
    let all = || bitmaps.as_array().into_iter().flatten();
    let name = |bitmap: &Value| bitmap["name"].as_str().unwrap_or_default().to_owned();
    let extent = match previous {
        None => Extent::Whole { reason: None },
        Some(id) if !id.starts_with(&names.recording()) => Extent::Whole {
            reason: Some(format!("the parent's change id {id} is none of QEMU's")),
        },
        Some(id) => match all().find(|bitmap| name(bitmap) == id) {
            Some(bitmap) => {
                usable(bitmap, id).unwrap_or_else(|reason| Extent::Whole { reason: Some(reason) })
            }
            None => Extent::Whole {
                reason: Some(
                    "QEMU has no bitmap of the last backup (the machine was restarted, or its disk replaced)".to_owned(),
                ),
            },
        },
    };
    let kept = match &extent {
        Extent::Since { change_id, .. } => Some(change_id.as_str()),
        Extent::Whole { .. } => None,
    };
    let ours = all().map(name).filter(|name| {
        *name == names.copy() || name.starts_with(&names.recording()) && Some(name.as_str()) != kept
    });
    Found {
        superfluous: ours.collect(),
        extent,
    }
}

/// The actions of a transaction that begin the tracking of a node: the new bitmap, and the frozen copy of the old one.
#[must_use]
pub(super) fn begin(
    names: &Names,
    node: &str,
    new: &str,
    old: Option<&str>,
    is_persistent: bool,
) -> Vec<Value> {
    let mut actions = vec![json!({"type": "block-dirty-bitmap-add", "data":
        {"node": node, "name": new, "granularity": GRANULARITY, "persistent": is_persistent}})];
    if let Some(old) = old {
        let copy = names.copy();
        actions.push(json!({"type": "block-dirty-bitmap-add", "data":
            {"node": node, "name": copy, "granularity": GRANULARITY, "disabled": true}}));
        actions.push(json!({"type": "block-dirty-bitmap-merge", "data":
            {"node": node, "target": copy, "bitmaps": [old]}}));
    }
    actions
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::decide;
    use crate::capture::machine::Extent;
    use crate::capture::names::Names;
    use crate::types::{RepositoryId, SessionId};

    fn bitmap(name: &str, change: &[(&str, Value)]) -> Value {
        let mut bitmap = json!({"name": name, "granularity": 65_536, "recording": true, "busy": false,
            "persistent": true, "count": 131_072});
        for (key, value) in change {
            bitmap[*key] = value.clone();
        }
        bitmap
    }

    #[test]
    fn a_bitmap_counts_only_without_a_gap() {
        let names = Names::of(&RepositoryId::random());
        let id = names.bitmap(SessionId::random());
        let other = names.bitmap(SessionId::random());
        let good = decide(
            &names,
            &json!([bitmap(&other, &[]), bitmap(&id, &[])]),
            Some(&id),
        );
        let since = Extent::Since {
            change_id: id.clone(),
            changed_bytes: Some(131_072),
        };
        assert_eq!(
            (good.extent, good.superfluous),
            (since, vec![other.clone()])
        );
        for (change, word) in [
            (("inconsistent", json!(true)), "without storing"),
            (("recording", json!(false)), "does not record"),
            (("busy", json!(true)), "another operation"),
            (("granularity", json!(4096)), "granularity"),
        ] {
            let found = decide(&names, &json!([bitmap(&id, &[change])]), Some(&id));
            let Extent::Whole {
                reason: Some(reason),
            } = found.extent
            else {
                panic!("{word}")
            };
            assert!(reason.contains(word), "{reason}");
            assert_eq!(found.superfluous, std::slice::from_ref(&id));
        }
        // Nameless bitmaps, those of others, and nonsense.
        let others = json!([{"granularity": 65_536}, bitmap("libvirt-1", &[]), bitmap(&names.copy(), &[]), 7]);
        let found = decide(&names, &others, Some(&id));
        assert!(matches!(found.extent, Extent::Whole { reason: Some(_) }));
        assert_eq!(found.superfluous, [names.copy()]);
        let whole = Extent::Whole { reason: None };
        assert_eq!(decide(&names, &Value::Null, None).extent, whole);
        let foreign = decide(&names, &Value::Null, Some("hcs:7")).extent;
        assert!(matches!(foreign, Extent::Whole { reason: Some(_) }));
    }
}
