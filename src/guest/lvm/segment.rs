//! Segments: the composition of a logical volume's extents.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use super::config::{Section, Value};

const SECTOR_BYTES: u64 = 512;
/// LIMIT: areas of one segment (LVM allows 128 stripes, 253 images).
const AREAS_MAX: usize = 512;
/// LIMIT: characters of a name (LVM's `NAME_LEN`).
const NAME_MAX: usize = 127;

/// A guest's text for display: short and without control characters.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(40).collect()
}

/// Whether LVM would accept this name (`lvm(8)`, VALID NAMES).
pub(super) fn is_name(name: &str) -> bool {
    let is_letter = |b: u8| b.is_ascii_alphanumeric() || b"+_.-".contains(&b);
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name.bytes().all(is_letter)
        && !name.starts_with('-')
        && name != "."
        && name != ".."
}

/// Start of an area of a segment: extent `extent` of a physical or logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) name: String,
    pub(super) extent: u64,
}

/// An image of a RAID volume, and the small volume that contains its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) state: Option<String>,
    pub(super) data: String,
}

/// Composition of a segment. Sizes are in bytes.
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
        /// The transaction that the pool's own metadata must have.
        transaction: u64,
        /// Whether the pool may be one transaction behind, because LVM had pending messages for it.
        is_pending: bool,
    },
    Thin {
        pool: String,
        device: u64,
        external_origin: Option<String>,
    },
    Snapshot {
        origin: String,
        store: String,
        /// Whether it is being merged into its origin, which already reads as the snapshot.
        is_merging: bool,
    },
    Zero,
    /// An unsupported type, by LVM's name.
    Other(String),
}

/// A range of extents of a logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) start: u64,
    pub(super) extents: u64,
    pub(super) layout: Layout,
}

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
            [Value::Text(name), Value::Integer(extent)] if is_name(name) => Some(Area {
                name: name.clone(),
                extent: u64::try_from(*extent).ok()?,
            }),
            _ => None,
        })
        .collect()
}

/// Names of images; with `has_state` each follows that of its state.
fn images(list: &[Value], has_state: bool) -> Option<Vec<Image>> {
    if list.len() > AREAS_MAX {
        return None;
    }
    let names: Vec<&str> = list
        .iter()
        .map(|value| text(value).filter(|name| is_name(name)))
        .collect::<Option<_>>()?;
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

/// A number of sectors, converted to bytes.
pub(super) fn bytes(section: &Section, key: &str) -> Option<u64> {
    section.number(key)?.checked_mul(SECTOR_BYTES)
}

fn layout(section: &Section) -> Option<Layout> {
    let name = |key: &str| {
        section
            .text(key)
            .filter(|name| is_name(name))
            .map(str::to_owned)
    };
    let kind = section.text("type")?;
    // "striped+NOTE": the note marks properties that old releases must not misread.
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
            transaction: section.number("transaction_id").unwrap_or(0),
            is_pending: section
                .sections()
                .any(|(name, _)| name.starts_with("message")),
        },
        "thin" => Layout::Thin {
            pool: name("thin_pool")?,
            device: section.number("device_id")?,
            external_origin: match section.text("external_origin") {
                Some(_) => Some(name("external_origin")?),
                None => None,
            },
        },
        "snapshot" => Layout::Snapshot {
            origin: name("origin")?,
            store: name("cow_store").or_else(|| name("merging_store"))?,
            is_merging: section.text("merging_store").is_some(),
        },
        "zero" => Layout::Zero,
        other => Layout::Other(shown(other)),
    })
}

/// The segments in order, or the fault in them.
pub(super) fn parse(lv: &Section) -> Result<Vec<Segment>, String> {
    let mut segments = Vec::new();
    for (name, section) in lv
        .sections()
        .filter(|(name, _)| name.starts_with("segment"))
    {
        let extents = section.number("extent_count").filter(|n| *n > 0);
        let (Some(start), Some(extents)) = (section.number("start_extent"), extents) else {
            return Err(format!("{} has no place", shown(name)));
        };
        let layout = layout(section).filter(|layout| {
            // LVM makes such volumes with one segment only, and each segment costs a walk.
            let is_alone = !matches!(
                layout,
                Layout::Thin { .. } | Layout::ThinPool { .. } | Layout::Snapshot { .. }
            );
            is_alone || start == 0
        });
        let layout = layout.ok_or_else(|| {
            let kind = shown(section.text("type").unwrap_or("?"));
            format!("{} of type {kind} is not whole", shown(name))
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
