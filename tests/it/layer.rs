//! Layers that are built without a session, as a merge or an import does: read back through the chain, and proved.

use restorefs::block::{MemoryDisk, ReadAt};
use restorefs::chain::Pool;
use restorefs::ingest::Engine;
use restorefs::jobs::restore::{RestoreOptions, restore};
use restorefs::layer::{Base, LayerDraft, SealedLayer};
use restorefs::point::ProvedDisk;
use restorefs::qcow2::{Compression, Image, LayerOptions};
use restorefs::repo::Slot;
use restorefs::repo::leaves::Leaves;
use restorefs::repo::sidecar::Unknown;
use restorefs::repo::sidecar::point::{Kind, PointDisk};
use restorefs::store::PutMode;
use restorefs::task::Monitor;
use restorefs::types::{DiskName, GuestCluster, LayerId, VmName};

use crate::model_session::plain_root;
use crate::pair::Places;
use crate::world::{World, open_disk, read_all};

const CLUSTER: usize = 65_536;
/// No whole number of clusters.
const BYTES: usize = 13 * CLUSTER + 512;

fn vm() -> VmName {
    VmName::new("web01").unwrap()
}

fn disk() -> DiskName {
    DiskName::new("vda").unwrap()
}

/// A layer that was built: where, and what it states.
struct Built {
    slot: Slot,
    id: LayerId,
    sealed: SealedLayer,
}

impl Built {
    fn as_point_disk(&self) -> PointDisk {
        PointDisk {
            name: disk(),
            key: "vda".to_owned(),
            layer: self.slot.clone(),
            kind: Kind::Full,
            full_reason: None,
            size_bytes: self.sealed.size_bytes,
            source_bytes: self.sealed.size_bytes,
            data_bytes: self.sealed.data_bytes,
            changed_bytes: self.sealed.changed_bytes,
            content_root: self.sealed.content_root,
            parent_content_root: None,
            change_id: None,
            unknown: Unknown::new(),
        }
    }
}

/// Builds a layer in `slot` (a new one if there is none) over `below`: the clusters of `changed` get those bytes.
fn build(
    engine: &Engine,
    slot: Option<&Slot>,
    below: Option<&Built>,
    compression: Compression,
    bytes: &[u8],
    changed: &[usize],
) -> Built {
    let repository = engine.owner.repository();
    let id = LayerId::random();
    let new = Slot::new(&disk(), engine.owner.clock().now(), id);
    let base = below.map(|below| {
        let root = below.sealed.content_root;
        let vm_id = engine.owner.vm_snapshot(&vm()).unwrap().vm.vm_id;
        let leaves = Leaves::open(repository, &vm(), vm_id, &below.slot, root).unwrap();
        Base::new(leaves, below.sealed.data_bytes)
    });
    let options = LayerOptions {
        size_bytes: bytes.len() as u64,
        backing: below.map(|below| below.slot.layer_file()),
        layer_id: id,
        compression,
    };
    let budget = &engine.budget;
    let mode = slot.map_or(PutMode::Create, |_| PutMode::Replace);
    let slot = slot.unwrap_or(&new).clone();
    let draft = LayerDraft::create(repository, &vm(), &slot, options, base, budget).unwrap();
    for &cluster in changed {
        let end = ((cluster + 1) * CLUSTER).min(bytes.len());
        let part = &bytes[cluster * CLUSTER..end];
        draft
            .write(GuestCluster(cluster as u64), part, &())
            .unwrap();
    }
    let sealed = draft.finish(mode).unwrap();
    let stage = repository.stage();
    let layers = restorefs::repo::layout::VmKeys::new(&vm()).unwrap();
    stage.sync_prefix(&layers.layers().unwrap()).unwrap();
    Built { slot, id, sealed }
}

/// Everything that the layer states is held against the bytes, by a restore that proves each of them.
fn prove(engine: &Engine, built: &Built, bytes: &[u8]) {
    let repository = engine.owner.repository();
    assert!(read_all(&open_disk(engine, &vm(), &built.slot)) == bytes);
    let size = bytes.len() as u64;
    assert_eq!(built.sealed.content_root, plain_root(bytes, size));
    let data = bytes.chunks(CLUSTER).filter(|c| c.iter().any(|b| *b != 0));
    assert_eq!(built.sealed.data_bytes, (data.count() * CLUSTER) as u64);
    let vm_id = engine.owner.vm_snapshot(&vm()).unwrap().vm.vm_id;
    let pool = Pool::new(restorefs::chain::PoolLimits::default());
    let meta = built.as_point_disk();
    let proved = ProvedDisk::open(repository, &pool, &vm(), vm_id, &meta).unwrap();
    let target = MemoryDisk::new();
    let options = RestoreOptions {
        threads: Some(1),
        target_is_zero: true,
    };
    restore(&proved, &target, &options, &Monitor::default()).unwrap();
    proved.prove_metadata().unwrap();
    let layer = repository.open_layer(&vm(), &built.slot).unwrap();
    assert_eq!(layer.size_bytes(), built.sealed.file_bytes);
    let report = restorefs::qcow2::check::check(std::sync::Arc::clone(&layer)).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
    assert_eq!(Image::open(layer).unwrap().layer_id(), Some(built.id));
}

fn layers_are_built_without_a_session_and_read_as_a_chain(places: Places) {
    for compression in [Compression::None, Compression::Zstd] {
        let world = World::over(places, 64 << 20);
        let engine = world.engine();
        drop(engine.owner.ensure_vm(&vm()).unwrap());
        let mut bytes = vec![0; BYTES];
        let held = [0, 1, 2, 9, 12, 13];
        let fill = |bytes: &mut [u8], cluster: usize, seed: u8| {
            let end = ((cluster + 1) * CLUSTER).min(BYTES);
            for (n, byte) in bytes[cluster * CLUSTER..end].iter_mut().enumerate() {
                *byte = seed ^ (n / 512) as u8;
            }
        };
        for cluster in held {
            fill(&mut bytes, cluster, 3);
        }
        // Zeroes are written, too: they are not held.
        let written = [&held[..], &[3, 4, 11]].concat();
        let full = build(engine, None, None, compression, &bytes, &written);
        assert_eq!(full.sealed.changed_bytes, (held.len() * CLUSTER) as u64);
        prove(engine, &full, &bytes);

        // A child: one that is new, one that is zero now, some that are as they were.
        let before = bytes.clone();
        fill(&mut bytes, 5, 7);
        bytes[CLUSTER..2 * CLUSTER].fill(0);
        let child = build(
            engine,
            None,
            Some(&full),
            compression,
            &bytes,
            &[0, 1, 2, 5, 13],
        );
        assert_eq!(child.sealed.changed_bytes, 2 * CLUSTER as u64);
        prove(engine, &child, &bytes);

        // A grandchild that takes the change back, and grows nothing.
        let top = build(engine, None, Some(&child), compression, &before, &[1, 5]);
        prove(engine, &top, &before);
        assert_eq!(top.sealed.content_root, full.sealed.content_root);

        // As a merge does: the child is built anew over nothing, in its slot, and whoever has the old one open reads on.
        let opened = open_disk(engine, &vm(), &child.slot);
        let mut head = [0; 512];
        opened.read_at(0, &mut head).unwrap();
        let clusters: Vec<usize> = (0..BYTES.div_ceil(CLUSTER)).collect();
        let merged = build(
            engine,
            Some(&child.slot),
            None,
            compression,
            &bytes,
            &clusters,
        );
        assert_eq!(merged.sealed.content_root, child.sealed.content_root);
        assert_ne!(merged.id, child.id);
        prove(engine, &merged, &bytes);
        assert!(read_all(&opened) == bytes);
        let fresh = Pool::new(restorefs::chain::PoolLimits::default());
        let vm_id = engine.owner.vm_snapshot(&vm()).unwrap().vm.vm_id;
        let source =
            restorefs::point::ChainSource::new(engine.owner.repository(), &vm(), vm_id, false);
        assert!(read_all(&source.open_disk(&fresh, &top.slot).unwrap()) == before);
    }
}

over_places!(layers_are_built_without_a_session_and_read_as_a_chain);
