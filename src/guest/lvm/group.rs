//! A volume group: its physical and logical volumes according to its text.
//!
//! # Invariants
//! Names are checked: a name that LVM itself would not accept never becomes a path.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::collections::BTreeMap;

use super::config::{self, Section};
use super::segment::{self, Layout, Segment, bytes, is_name};
use crate::error::{Error, ErrorKind, Result};
use crate::guest::remark::Remarks;

/// LIMIT: physical volumes of a group (our limit).
const PHYSICAL_MAX: usize = 4096;

/// A physical volume in the text of its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Physical {
    /// The group's own name for it (`pv0`).
    pub(crate) key: String,
    /// Its identifier.
    pub(crate) id: String,
    /// Whether the group marks it as missing.
    pub(crate) is_missing: bool,
    /// First byte of its first extent.
    pub(super) start_bytes: u64,
    /// Number of extents.
    pub(super) extents: u64,
}

/// A logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Logical {
    /// Its name.
    pub(crate) name: String,
    /// Its identifier, if it is valid.
    pub(crate) id: Option<String>,
    /// Whether LVM shows it; parts of other volumes are hidden.
    pub(crate) is_visible: bool,
    pub(super) segments: Result<Vec<Segment>, String>,
}

/// A volume group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    /// Its name.
    pub(crate) name: String,
    /// Its identifier.
    pub(crate) id: String,
    /// Number of writes of its text.
    pub(crate) seqno: u64,
    pub(super) extent_bytes: u64,
    /// Its physical volumes.
    pub(crate) physical: Vec<Physical>,
    /// Its logical volumes, in the order of the text.
    pub(crate) logical: Vec<Logical>,
    /// Irregularities, for people.
    pub(crate) notes: Remarks,
    by_name: BTreeMap<String, usize>,
    by_key: BTreeMap<String, usize>,
}

/// An identifier: letters, digits and dashes, 38 in all.
fn id(section: &Section) -> Option<String> {
    let text = section.text("id")?;
    let is_id = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    (text.len() <= 38 && text.bytes().all(is_id)).then(|| text.to_owned())
}

impl Group {
    /// Parses the text of a group.
    ///
    /// # Errors
    /// `Corrupt`; `Unsupported`; `LimitExceeded`.
    pub(crate) fn parse(text: &[u8]) -> Result<Self> {
        let root = config::parse(text)?;
        let missing = |what: &'static str| Error::corrupt("the LVM metadata", what, "none");
        let (name, vg) = root.sections().next().ok_or_else(|| missing("a group"))?;
        if !is_name(name) {
            let what = "the name of an LVM group";
            return Err(Error::corrupt(
                what,
                "one that LVM accepts",
                name.escape_debug(),
            ));
        }
        if let Some(format) = vg.text("format").filter(|format| *format != "lvm2") {
            return Err(Error::unsupported(format!(
                "LVM metadata of format {format}"
            )));
        }
        let extent_bytes = bytes(vg, "extent_size").filter(|n| *n > 0);
        let mut group = Self {
            name: name.to_owned(),
            id: id(vg).ok_or_else(|| missing("its id"))?,
            seqno: vg.number("seqno").ok_or_else(|| missing("its seqno"))?,
            extent_bytes: extent_bytes.ok_or_else(|| missing("its extent_size"))?,
            physical: Vec::new(),
            logical: Vec::new(),
            notes: Remarks::default(),
            by_name: BTreeMap::new(),
            by_key: BTreeMap::new(),
        };
        for (key, pv) in vg
            .section("physical_volumes")
            .iter()
            .flat_map(|s| s.sections())
        {
            let at = group.physical.len();
            if at >= PHYSICAL_MAX {
                let what = format!("an LVM group of more than {PHYSICAL_MAX} devices");
                return Err(Error::new(ErrorKind::LimitExceeded, what));
            }
            if !is_name(key) {
                return Err(missing("a PV with a name that LVM accepts"));
            }
            group.by_key.insert(key.to_owned(), at);
            group.physical.push(Physical {
                key: key.to_owned(),
                id: id(pv).ok_or_else(|| missing("a PV's id"))?,
                is_missing: pv.has("flags", "MISSING") || pv.has("status", "MISSING"),
                start_bytes: bytes(pv, "pe_start").ok_or_else(|| missing("a PV's pe_start"))?,
                extents: pv.number("pe_count").unwrap_or(0),
            });
        }
        for (name, lv) in vg
            .section("logical_volumes")
            .iter()
            .flat_map(|s| s.sections())
        {
            group.add(name, lv);
        }
        group.show_snapshots();
        Ok(group)
    }

    fn add(&mut self, name: &str, lv: &Section) {
        let group = &self.name;
        if !is_name(name) || self.by_name.contains_key(name) {
            let name = name.escape_debug();
            self.notes
                .push(format!("lvm/{group}: a volume named \"{name}\" is refused"));
            return;
        }
        self.by_name.insert(name.to_owned(), self.logical.len());
        self.logical.push(Logical {
            name: name.to_owned(),
            id: id(lv),
            is_visible: lv.has("status", "VISIBLE"),
            segments: segment::parse(lv),
        });
    }

    /// The logical volume of that name.
    pub(super) fn logical(&self, name: &str) -> Option<&Logical> {
        self.logical.get(*self.by_name.get(name)?)
    }

    /// The segments of a logical volume.
    pub(super) fn segments(&self, name: &str) -> Result<&[Segment]> {
        let volume = self.logical(name).ok_or_else(|| {
            Error::corrupt("an LVM volume", format!("{name} in the metadata"), "none")
        })?;
        match &volume.segments {
            Ok(segments) => Ok(segments),
            Err(why) => Err(Error::new(ErrorKind::Corrupt, why.clone())),
        }
    }

    /// The physical volume with that key.
    pub(super) fn physical(&self, key: &str) -> Option<&Physical> {
        self.physical.get(*self.by_key.get(key)?)
    }

    /// The snapshot as which a volume reads: its own, if the volume is the snapshot's store, or one that is
    /// being merged into it.
    pub(super) fn snapshot(&self, name: &str) -> Option<&Segment> {
        let snapshots = self
            .logical
            .iter()
            .filter_map(|lv| lv.segments.as_ref().ok()?.first());
        snapshots.into_iter().find(|segment| match &segment.layout {
            Layout::Snapshot {
                origin,
                is_merging: true,
                ..
            } => origin == name,
            Layout::Snapshot { store, .. } => store == name,
            _ => false,
        })
    }

    /// Sets the visibility of volumes where the text of another one decides: a snapshot is shown under the
    /// name of its store.
    fn show_snapshots(&mut self) {
        let mut stores = BTreeMap::new();
        for lv in &mut self.logical {
            let first = lv.segments.as_ref().ok().and_then(|s| s.first());
            if let Some(Layout::Snapshot {
                store, is_merging, ..
            }) = first.map(|s| &s.layout)
            {
                stores.insert(store.clone(), !is_merging);
                lv.is_visible = false;
            }
        }
        for lv in &mut self.logical {
            if let Some(is_shown) = stores.get(&lv.name) {
                lv.is_visible = *is_shown;
            }
        }
    }

    /// Kind of a volume, for people: the types of its segments, and whether it is a snapshot.
    pub(crate) fn kind(&self, lv: &Logical) -> String {
        if self.snapshot(&lv.name).is_some() {
            return "LVM snapshot".to_owned();
        }
        let Some(first) = lv.segments.as_ref().ok().and_then(|s| s.first()) else {
            return "LVM volume".to_owned();
        };
        match &first.layout {
            Layout::Striped { areas, .. } if areas.len() == 1 => "LVM linear".to_owned(),
            Layout::Striped { .. } => "LVM striped".to_owned(),
            Layout::Mirror { .. } => "LVM mirror".to_owned(),
            Layout::Raid0 { .. } => "LVM raid0".to_owned(),
            Layout::Raid1 { .. } => "LVM raid1".to_owned(),
            Layout::ThinPool { .. } => "LVM thin pool".to_owned(),
            Layout::Thin { .. } => "LVM thin".to_owned(),
            Layout::Snapshot { .. } => "LVM snapshot".to_owned(),
            Layout::Zero => "LVM zero".to_owned(),
            Layout::Other(name) => format!("LVM {name}"),
        }
    }

    /// Whether a volume only contains others (a thin pool).
    pub(crate) fn is_pool(lv: &Logical) -> bool {
        let first = lv.segments.as_ref().ok().and_then(|s| s.first());
        first.is_some_and(|segment| matches!(segment.layout, Layout::ThinPool { .. }))
    }
}

#[cfg(test)]
#[expect(
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]
mod tests {
    use super::{Group, Layout};
    use crate::error::ErrorKind;

    fn text(lvs: &str) -> String {
        format!(
            "vg0 {{ id = \"I\" seqno = 4 format = \"lvm2\" extent_size = 8192
             physical_volumes {{ pv0 {{ id = \"P\" pe_start = 2048 pe_count = 9 flags = [\"MISSING\"] }} }}
             logical_volumes {{ {lvs} }} }}"
        )
    }

    #[test]
    fn segments_are_understood() {
        let text = text(
            "a { id = \"A\" status = [\"READ\", \"VISIBLE\"]
               segment2 { start_extent = 2 extent_count = 4 type = \"striped\" stripe_size = 128 stripes = [\"pv0\", 1, \"pv1\", 2] }
               segment1 { start_extent = 0 extent_count = 2 type = \"striped\" stripes = [\"pv0\", 0] } }
             b { segment1 { start_extent = 0 extent_count = 2 type = \"raid5\" } }
             c { segment1 { start_extent = 1 extent_count = 2 type = \"zero\" } }
             d { segment1 { start_extent = 0 extent_count = 2 type = \"striped\" stripes = [\"pv0\"] } }",
        );
        let group = Group::parse(text.as_bytes()).unwrap();
        assert!(group.physical("pv0").unwrap().is_missing);
        let segments = group.segments("a").unwrap();
        assert_eq!(
            segments.iter().map(|s| s.extents).collect::<Vec<_>>(),
            [2, 4]
        );
        assert!(matches!(
            &segments[1].layout,
            Layout::Striped { stripe_bytes: 65_536, areas } if areas.len() == 2
        ));
        let b = &group.segments("b").unwrap()[0];
        assert_eq!(b.layout, Layout::Other("raid5".to_owned()));
        for name in ["c", "d", "none"] {
            let error = group.segments(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
        let visible: Vec<bool> = group.logical.iter().map(|lv| lv.is_visible).collect();
        assert_eq!(visible, [true, false, false, false]);
    }

    #[test]
    fn hostile_names_are_refused() {
        let long = "x".repeat(128);
        for name in [
            "\"..\"",
            "\".\"",
            "\"a/b\"",
            "-a",
            "\"\"",
            "\"a\\\"\"",
            long.as_str(),
        ] {
            let lvs = text(&format!("{name} {{ }}"));
            let group = Group::parse(lvs.as_bytes()).unwrap();
            assert_eq!(
                (group.logical.len(), group.notes.clone().into_vec().len()),
                (0, 1),
                "{name}"
            );
            let group = format!("{name} {{ id = \"I\" seqno = 1 extent_size = 1 }}");
            assert!(Group::parse(group.as_bytes()).is_err(), "{name}");
        }
        let twice = Group::parse(text("a { } a { }").as_bytes()).unwrap();
        assert_eq!(
            (twice.logical.len(), twice.notes.clone().into_vec().len()),
            (1, 1)
        );
    }
}
