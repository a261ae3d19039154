//! Decodes sidecars without unknown members, as nearly all are, in one pass.
//!
//! # Why
//! A repository of 1,000 VMs has 60 MB of indexes, and every listing command reads all of them. To keep
//! unknown members, the general parser decodes each object into a tree and compares its names beforehand.
//! Here neither is needed: an unknown or repeated member ends the attempt.

use std::fmt;
use std::marker::PhantomData;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::Unknown;
use super::index::{DiskEntry, Index, PointEntry};
use super::point::{Attached, Consistency, Kind, Point, PointDisk, PointParent};
use super::state::State;
use crate::repo::slot::Slot;
use crate::types::{Digest, DiskName, PointId, PointName, VmId, VmName};

/// A twin of a sidecar's struct, with the same members and no others.
macro_rules! plain {
    ($plain:ident of $full:ident { $($(#[$attribute:meta])* $field:ident: $kind:ty,)* }) => {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $plain {
            $($(#[$attribute])* $field: $kind,)*
        }

        impl From<$plain> for $full {
            fn from(plain: $plain) -> Self {
                Self {
                    $($field: plain.$field,)*
                    unknown: Unknown::new(),
                }
            }
        }
    };
}

plain!(PlainIndex of Index {
    schema: u32,
    vm_id: VmId,
    name: VmName,
    serial: u32,
    generation: u64,
    seq_high: u64,
    serial_high: u32,
    #[serde(deserialize_with = "each::<PlainPoint, _, _>")]
    points: Vec<PointEntry>,
});

plain!(PlainPoint of PointEntry {
    name: PointName,
    point_id: PointId,
    seq: u64,
    serial: u32,
    kind: Kind,
    captured_at: Timestamp,
    committed_at: Timestamp,
    point_blake3: Digest,
    #[serde(default, deserialize_with = "maybe")]
    parent: Option<PointParent>,
    #[serde(deserialize_with = "each::<PlainDisk, _, _>")]
    disks: Vec<DiskEntry>,
    #[serde(default, deserialize_with = "each::<PlainAttached, _, _>")]
    attached: Vec<Attached>,
});

plain!(PlainPointSidecar of Point {
    schema: u32,
    point_id: PointId,
    vm_id: VmId,
    vm: VmName,
    name: PointName,
    seq: u64,
    kind: Kind,
    captured_at: Timestamp,
    committed_at: Timestamp,
    #[serde(default)]
    consistency: Option<Consistency>,
    #[serde(default)]
    consistency_note: Option<String>,
    #[serde(deserialize_with = "maybe")]
    parent: Option<PointParent>,
    #[serde(deserialize_with = "each::<PlainPointDisk, _, _>")]
    disks: Vec<PointDisk>,
    #[serde(deserialize_with = "each::<PlainAttached, _, _>")]
    attached: Vec<Attached>,
    writer: String,
});

plain!(PlainPointDisk of PointDisk {
    name: DiskName,
    key: String,
    layer: Slot,
    kind: Kind,
    #[serde(default)]
    full_reason: Option<String>,
    size_bytes: u64,
    source_bytes: u64,
    data_bytes: u64,
    changed_bytes: u64,
    content_root: Digest,
    #[serde(default)]
    parent_content_root: Option<Digest>,
    #[serde(default)]
    change_id: Option<String>,
});

// The names in the volumes are compared beforehand, as in any sidecar.
plain!(PlainState of State {
    schema: u32,
    point_id: PointId,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    #[serde(default)]
    volumes: Option<Value>,
});

plain!(PlainParent of PointParent {
    point_id: PointId,
    name: PointName,
});

plain!(PlainDisk of DiskEntry {
    name: DiskName,
    layer: Slot,
    size_bytes: u64,
    source_bytes: u64,
    data_bytes: u64,
    changed_bytes: u64,
});

plain!(PlainAttached of Attached {
    name: String,
    size_bytes: u64,
    blake3: Digest,
});

/// Decodes an array of twins into the structs that they stand for.
fn each<'de, P, F, D>(deserializer: D) -> Result<Vec<F>, D::Error>
where
    P: Deserialize<'de> + Into<F>,
    D: Deserializer<'de>,
{
    struct Each<P, F>(PhantomData<(P, F)>);
    impl<'de, P: Deserialize<'de> + Into<F>, F> Visitor<'de> for Each<P, F> {
        type Value = Vec<F>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<F>, A::Error> {
            let mut all = Vec::new();
            while let Some(plain) = seq.next_element::<P>()? {
                all.push(plain.into());
            }
            all.shrink_to_fit();
            Ok(all)
        }
    }
    deserializer.deserialize_seq(Each::<P, F>(PhantomData))
}

fn maybe<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PointParent>, D::Error> {
    Ok(Option::<PlainParent>::deserialize(deserializer)?.map(Into::into))
}
