//! A volume group: its physical volumes, logical volumes and their segments, as its text tells them.
//!
//! # Invariants
//! Names are checked: what LVM itself would not accept as a name never becomes a path.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::collections::BTreeMap;

use super::config::{self, Section, Value};
use crate::error::{Error, ErrorKind, Result};

const SECTOR_BYTES: u64 = 512;
/// LIMIT: characters of a name (LVM's `NAME_LEN`).
const NAME_MAX: usize = 127;
/// LIMIT: areas of one segment (LVM allows 128 stripes, 253 images).
const AREAS_MAX: usize = 512;

/// A physical volume as its group knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Physical {
    /// The group's own name for it (`pv0`).
    pub(crate) key: String,
    /// Its identifier.
    pub(crate) id: String,
    /// Whether the group has given it up.
    pub(crate) is_missing: bool,
    /// First byte of its first extent.
    pub(super) start_bytes: u64,
    /// Number of extents.
    pub(super) extents: u64,
}

/// Where an area of a segment begins: extent `extent` of a physical or logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) name: String,
    pub(super) extent: u64,
}

/// An image of a RAID volume, and the small volume that keeps its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) state: Option<String>,
    pub(super) data: String,
}

/// What a segment is made of. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Layout {
    Striped {
        stripe_bytes: u64,
        areas: Vec<Area>,
    },
    Mirror {
        legs: Vec<Area>,
    },
    Raid0 {
        stripe_bytes: u64,
        images: Vec<Image>,
    },
    Raid1 {
        images: Vec<Image>,
    },
    ThinPool {
        metadata: String,
        data: String,
        chunk_bytes: u64,
    },
    Thin {
        pool: String,
        device: u64,
        external_origin: Option<String>,
    },
    Snapshot {
        origin: String,
        store: String,
    },
    Zero,
    /// A type that is not read, by LVM's name for it.
    Other(String),
}

/// Extents of a logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) start: u64,
    pub(super) extents: u64,
    pub(super) layout: Layout,
}

/// A logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Logical {
    /// Its name.
    pub(crate) name: String,
    /// Its identifier.
    pub(crate) id: Option<String>,
    /// Whether LVM shows it; parts of other volumes are not.
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
    /// How often its text was written.
    pub(crate) seqno: u64,
    pub(super) extent_bytes: u64,
    /// Its physical volumes.
    pub(crate) physical: Vec<Physical>,
    /// Its logical volumes, in the order of the text.
    pub(crate) logical: Vec<Logical>,
    /// What is odd about it, for people.
    pub(crate) notes: Vec<String>,
    by_name: BTreeMap<String, usize>,
}

/// Whether LVM would accept this name (`lvm(8)`, VALID NAMES).
fn is_name(name: &str) -> bool {
    let is_letter = |b: u8| b.is_ascii_alphanumeric() || b"+_.-".contains(&b);
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name.bytes().all(is_letter)
        && !name.starts_with('-')
        && name != "."
        && name != ".."
}

/// Items of a list in twos, threes, ...
fn text(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

fn areas(list: &[Value]) -> Option<Vec<Area>> {
    if list.len().checked_rem(2) != Some(0) || list.len() > AREAS_MAX {
        return None;
    }
    list.chunks_exact(2)
        .map(|pair| match pair {
            [Value::Text(name), Value::Integer(extent)] => Some(Area {
                name: name.clone(),
                extent: u64::try_from(*extent).ok()?,
            }),
            _ => None,
        })
        .collect()
}

/// Names of images, each behind that of its state where `has_state`.
fn images(list: &[Value], has_state: bool) -> Option<Vec<Image>> {
    if list.len() > AREAS_MAX {
        return None;
    }
    let names: Vec<&str> = list.iter().filter_map(text).collect();
    let width = if has_state { 2 } else { 1 };
    let chunks = names.chunks_exact(width);
    if !chunks.remainder().is_empty() {
        return None;
    }
    chunks
        .map(|names| {
            Some(Image {
                state: names.first().filter(|_| has_state).map(|n| (*n).to_owned()),
                data: (*names.last()?).to_owned(),
            })
        })
        .collect()
}

fn bytes(section: &Section, key: &str) -> Option<u64> {
    section.number(key)?.checked_mul(SECTOR_BYTES)
}

fn layout(section: &Section) -> Option<Layout> {
    let name = |key: &str| section.text(key).map(str::to_owned);
    let kind = section.text("type")?;
    // "striped+NOTE" carries what old releases must not misread.
    let kind = kind.split('+').next()?;
    Some(match kind {
        "striped" | "linear" => {
            let areas = areas(section.list("stripes"))?;
            let stripe_bytes = match areas.len() {
                0 => return None,
                1 => 0,
                _ => bytes(section, "stripe_size").filter(|n| *n > 0)?,
            };
            Layout::Striped {
                stripe_bytes,
                areas,
            }
        }
        "mirror" => Layout::Mirror {
            legs: areas(section.list("mirrors")).filter(|legs| !legs.is_empty())?,
        },
        "raid1" => Layout::Raid1 {
            images: images(section.list("raids"), true).filter(|images| !images.is_empty())?,
        },
        "raid0" | "raid0_meta" => Layout::Raid0 {
            stripe_bytes: bytes(section, "stripe_size").filter(|n| *n > 0)?,
            images: images(section.list("raid0_lvs"), kind == "raid0_meta")
                .filter(|images| !images.is_empty())?,
        },
        "thin-pool" => Layout::ThinPool {
            metadata: name("metadata")?,
            data: name("pool")?,
            chunk_bytes: bytes(section, "chunk_size").filter(|n| *n > 0)?,
        },
        "thin" => Layout::Thin {
            pool: name("thin_pool")?,
            device: section.number("device_id")?,
            external_origin: name("external_origin"),
        },
        "snapshot" => Layout::Snapshot {
            origin: name("origin")?,
            store: name("cow_store").or_else(|| name("merging_store"))?,
        },
        "zero" => Layout::Zero,
        other => Layout::Other(other.to_owned()),
    })
}

/// The segments in order, or what is wrong with them.
fn segments(lv: &Section) -> Result<Vec<Segment>, String> {
    let mut segments = Vec::new();
    for (name, section) in lv
        .sections()
        .filter(|(name, _)| name.starts_with("segment"))
    {
        let extents = section.number("extent_count").filter(|n| *n > 0);
        let (Some(start), Some(extents)) = (section.number("start_extent"), extents) else {
            return Err(format!("{name} has no place"));
        };
        let layout = layout(section).ok_or_else(|| {
            let kind = section.text("type").unwrap_or("?");
            format!("{name} of type {kind} is not whole")
        })?;
        segments.push(Segment {
            start,
            extents,
            layout,
        });
    }
    segments.sort_by_key(|segment| segment.start);
    let mut end = 0u64;
    for segment in &segments {
        if segment.start != end {
            let start = segment.start;
            return Err(format!(
                "a segment begins at extent {start}, the one before ends at {end}"
            ));
        }
        end = end
            .checked_add(segment.extents)
            .ok_or("its extents are too many")?;
    }
    Ok(segments)
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
            id: vg.text("id").ok_or_else(|| missing("its id"))?.to_owned(),
            seqno: vg.number("seqno").ok_or_else(|| missing("its seqno"))?,
            extent_bytes: extent_bytes.ok_or_else(|| missing("its extent_size"))?,
            physical: Vec::new(),
            logical: Vec::new(),
            notes: Vec::new(),
            by_name: BTreeMap::new(),
        };
        for (key, pv) in vg
            .section("physical_volumes")
            .iter()
            .flat_map(|s| s.sections())
        {
            group.physical.push(Physical {
                key: key.to_owned(),
                id: pv
                    .text("id")
                    .ok_or_else(|| missing("a PV's id"))?
                    .to_owned(),
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
            id: lv.text("id").map(str::to_owned),
            is_visible: lv.has("status", "VISIBLE"),
            segments: segments(lv),
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
        self.physical.iter().find(|pv| pv.key == key)
    }

    /// The hidden volume that describes the snapshot whose visible name is `store`.
    pub(super) fn snapshot(&self, store: &str) -> Option<&Segment> {
        self.logical
            .iter()
            .filter_map(|lv| lv.segments.as_ref().ok()?.first())
            .find(|segment| {
                matches!(&segment.layout, Layout::Snapshot { store: named, .. } if named == store)
            })
    }

    /// What kind a volume is, for people: the types of its segments, and whether it is a snapshot's.
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

    /// Whether a volume only holds others (a thin pool).
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
            assert_eq!((group.logical.len(), group.notes.len()), (0, 1), "{name}");
            let group = format!("{name} {{ id = \"I\" seqno = 1 extent_size = 1 }}");
            assert!(Group::parse(group.as_bytes()).is_err(), "{name}");
        }
        let twice = Group::parse(text("a { } a { }").as_bytes()).unwrap();
        assert_eq!((twice.logical.len(), twice.notes.len()), (1, 1));
    }
}
