//! Random operations, compared with plain bytes before and after the seal, and after a resume.

use std::sync::Arc;

use proptest::prelude::{
    Strategy, TestCaseError, any, prop_assert, prop_assert_eq, prop_oneof, proptest,
};

use super::{CLUSTER_BYTES, Compression, LayerOptions, LayerWriter};
use crate::block::page::PageBudget;
use crate::block::{ReadAt, WriteAt};
use crate::error::ErrorKind;
use crate::qcow2::testing::Disk;
use crate::qcow2::{Image, Mapping, compress};
use crate::types::{Digest, GuestCluster, HostOffset, LayerId};

const GUEST_CLUSTERS: u64 = 8192 * 2 + 100;

fn options(compression: Compression) -> LayerOptions {
    LayerOptions {
        size_bytes: GUEST_CLUSTERS * CLUSTER_BYTES,
        backing: Some("vda-0.qcow2".to_owned()),
        layer_id: LayerId::from_bytes([7; 16]),
        compression,
    }
}

fn spill() -> crate::error::Result<Arc<dyn WriteAt>> {
    Ok(Disk::new(Vec::new()))
}

fn layer(disk: &Arc<Disk>, compression: Compression) -> LayerWriter {
    // A budget of two pages: most of the tables are spilled at any time.
    let budget = PageBudget::new(2 * CLUSTER_BYTES);
    LayerWriter::create(
        Arc::clone(disk) as Arc<dyn WriteAt>,
        options(compression),
        &budget,
        spill,
    )
    .unwrap()
}

fn cluster(seed: u8) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..=255).cycle().take(65_536).collect();
    bytes[..4].fill(seed);
    bytes
}

#[derive(Debug, Clone)]
enum Op {
    Data(u64, u8),
    Packed(u64, u8),
    Zero(u64, bool),
    Drop(u64),
    Waste(u64),
    Size(u64),
}

fn guest() -> impl Strategy<Value = u64> {
    prop_oneof![0_u64..6, 8190_u64..8196, 16_384_u64..16_390]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (guest(), any::<u8>()).prop_map(|(g, s)| Op::Data(g, s)),
        3 => (guest(), any::<u8>()).prop_map(|(g, s)| Op::Packed(g, s)),
        1 => (guest(), any::<bool>()).prop_map(|(g, keep)| Op::Zero(g, keep)),
        1 => guest().prop_map(Op::Drop),
        1 => (1_u64..4).prop_map(Op::Waste),
        1 => prop_oneof![0_u64..6, 8190_u64..8196].prop_map(Op::Size),
    ]
}

/// The expected content of each guest cluster: absent, zero (`None`), or data of a seed.
type Model = std::collections::BTreeMap<u64, Option<u8>>;

fn run(layer: &LayerWriter, ops: &[Op]) -> Model {
    let mut model = Model::new();
    for op in ops {
        match *op {
            Op::Data(guest, seed) => {
                let host = match layer.get(GuestCluster(guest)).unwrap() {
                    Mapping::Data(host) | Mapping::Zero { host: Some(host) } => host,
                    _ => layer.allocate(1).unwrap(),
                };
                layer.write_data(host, &cluster(seed)).unwrap();
                layer.set(GuestCluster(guest), Mapping::Data(host)).unwrap();
                model.insert(guest, Some(seed));
            }
            Op::Packed(guest, seed) => {
                let Some(kind) = layer.compression().kind() else {
                    continue;
                };
                let packed = compress(kind, &cluster(seed)).unwrap();
                let there = layer
                    .append_compressed(GuestCluster(guest), &packed)
                    .unwrap();
                assert_eq!(
                    layer.get(GuestCluster(guest)).unwrap(),
                    Mapping::Compressed(there)
                );
                model.insert(guest, Some(seed));
            }
            Op::Zero(guest, keep) => {
                let host = match layer.get(GuestCluster(guest)).unwrap() {
                    Mapping::Data(host) if keep => Some(host),
                    _ => None,
                };
                layer
                    .set(GuestCluster(guest), Mapping::Zero { host })
                    .unwrap();
                model.insert(guest, None);
            }
            Op::Drop(guest) => {
                layer
                    .set(GuestCluster(guest), Mapping::Unallocated)
                    .unwrap();
                model.remove(&guest);
            }
            Op::Waste(clusters) => {
                let host = layer.allocate(clusters).unwrap();
                layer.write_data(host, &cluster(9)).unwrap();
            }
            Op::Size(clusters) => {
                layer.set_size(clusters * CLUSTER_BYTES).unwrap();
                layer.set_size(GUEST_CLUSTERS * CLUSTER_BYTES).unwrap();
                model.retain(|guest, _| *guest < clusters);
            }
        }
    }
    model
}

fn compare(disk: &Arc<Disk>, model: &Model) -> Result<(), TestCaseError> {
    let image = Image::open(Arc::clone(disk) as Arc<dyn ReadAt>).unwrap();
    prop_assert_eq!(image.layer_id(), Some(LayerId::from_bytes([7; 16])));
    prop_assert_eq!(image.backing_name(), Some(&b"vda-0.qcow2"[..]));
    prop_assert_eq!(image.backing_format(), Some("qcow2"));
    prop_assert_eq!(image.size_bytes(), GUEST_CLUSTERS * CLUSTER_BYTES);
    let mut found = Model::new();
    for l1_index in image.l1_indices().collect::<Vec<_>>() {
        let table = image.load_l2(l1_index).unwrap().unwrap();
        for index in 0..table.len() {
            let guest = l1_index * image.l2_entries() + index;
            let mut bytes = vec![0; 65_536];
            match table.mapping(index).unwrap() {
                Mapping::Unallocated => continue,
                Mapping::Zero { .. } => {
                    found.insert(guest, None);
                    continue;
                }
                Mapping::Data(host) => image.read_data(host, &mut bytes).unwrap(),
                Mapping::Compressed(there) => image.read_compressed(there, &mut bytes).unwrap(),
                Mapping::Subclusters { .. } => prop_assert!(false, "subclusters in a layer"),
            }
            prop_assert!(bytes == cluster(bytes[0]));
            found.insert(guest, Some(bytes[0]));
        }
    }
    prop_assert_eq!(&found, model);
    Ok(())
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]
    #[test]
    fn reads_back_what_was_written(
        ops in proptest::collection::vec(op(), 1..40),
        compression in prop_oneof![
            proptest::prelude::Just(Compression::None),
            proptest::prelude::Just(Compression::Zlib),
            proptest::prelude::Just(Compression::Zstd),
        ],
    ) {
        let disk = Disk::new(Vec::new());
        let layer = layer(&disk, compression);
        let model = run(&layer, &ops);
        let stored = model.values().filter(|value| value.is_some()).count() as u64;
        prop_assert_eq!(layer.stored_clusters(), stored);

        // A second writer continues the half-written file with the facts from a log.
        let copy = Disk::new(disk.bytes());
        let again = LayerWriter::resume(
            Arc::clone(&copy) as Arc<dyn WriteAt>,
            options(compression),
            &PageBudget::new(CLUSTER_BYTES),
            spill,
        )
        .unwrap();
        for guest in model.keys() {
            let mapping = layer.get(GuestCluster(*guest)).unwrap();
            again.restore_mapping(GuestCluster(*guest), mapping).unwrap();
        }
        again.restore_next(layer.next_host()).unwrap();
        prop_assert_eq!(again.stored_clusters(), stored);

        for (layer, disk) in [(&layer, &disk), (&again, &copy)] {
            let sealed = layer.seal().unwrap();
            compare(disk, &model)?;
            let bytes = disk.bytes();
            prop_assert_eq!(sealed.file_bytes, bytes.len() as u64);
            for (cluster, digest) in &sealed.metadata {
                let at = usize::try_from(cluster.get() * CLUSTER_BYTES).unwrap();
                prop_assert_eq!(*digest, Digest::of(&bytes[at..at + 65_536]));
            }
        }
    }
}

#[test]
fn unused_space_is_punched_and_a_sealed_layer_takes_no_more() {
    let disk = Disk::new(Vec::new());
    let layer = layer(&disk, Compression::None);
    let host = layer.allocate(2).unwrap();
    layer.write_data(host, &[1; 131_072]).unwrap();
    let second = HostOffset(host.get() + CLUSTER_BYTES);
    layer.set(GuestCluster(3), Mapping::Data(second)).unwrap();
    let sealed = layer.seal().unwrap();
    assert_eq!(sealed.data_bytes, CLUSTER_BYTES);
    let bytes = disk.bytes();
    assert!(bytes[65_536..131_072].iter().all(|byte| *byte == 0));
    assert!(bytes[131_072..196_608].iter().all(|byte| *byte == 1));
    let error = layer.allocate(1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(layer.seal().is_err());
}

#[test]
fn misuse_is_refused() {
    let layer = layer(&Disk::new(Vec::new()), Compression::None);
    let host = layer.allocate(1).unwrap();
    layer.set(GuestCluster(0), Mapping::Data(host)).unwrap();
    for (guest, mapping) in [
        (1, Mapping::Data(host)),
        (1, Mapping::Data(HostOffset(0))),
        (1, Mapping::Data(HostOffset(host.get() + 512))),
        (1, Mapping::Data(HostOffset(host.get() + CLUSTER_BYTES))),
        (
            1,
            Mapping::Subclusters {
                host: Some(host),
                allocated: 1,
                zero: 0,
            },
        ),
        (GUEST_CLUSTERS, Mapping::Unallocated),
    ] {
        let error = layer.set(GuestCluster(guest), mapping).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{mapping:?}");
    }
    assert!(layer.write_data(HostOffset(0), &[1]).is_err());
    assert!(layer.append_compressed(GuestCluster(0), &[1]).is_err());
    assert!(layer.set_size(513).is_err());
}

#[test]
fn a_seal_that_fails_can_be_tried_again() {
    let mut failures = 0;
    for changes in 0.. {
        let disk = Disk::new(Vec::new());
        let layer = layer(&disk, Compression::Zstd);
        let ops: Vec<Op> = (0..6)
            .flat_map(|n| [Op::Data(n, 1), Op::Packed(8190 + n, 2), Op::Waste(1)])
            .collect();
        let mut model = run(&layer, &ops);
        disk.fail_after(changes);
        if layer.seal().is_ok() {
            break;
        }
        failures += 1;
        // Either there is no image, or a whole one whose last flush failed.
        if Image::open(Arc::clone(&disk) as Arc<dyn ReadAt>).is_ok() {
            compare(&disk, &model).unwrap();
        }
        disk.fail_after(i64::MAX);
        model.extend(run(&layer, &[Op::Data(50, 3), Op::Packed(51, 4)]));
        layer.seal().unwrap();
        compare(&disk, &model).unwrap();
    }
    assert!(failures > 5);
}

#[test]
fn threads_share_a_layer() {
    let disk = Disk::new(Vec::new());
    let layer = layer(&disk, Compression::Zlib);
    let model = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4_u64)
            .map(|thread| {
                let layer = &layer;
                scope.spawn(move || {
                    let ops: Vec<Op> = (0..40)
                        .map(|n| {
                            let guest = (n * 4 + thread) * 97;
                            let seed = u8::try_from(n).unwrap();
                            match n % 4 {
                                0 => Op::Data(guest, seed),
                                1 => Op::Waste(1),
                                2 => Op::Zero(guest, false),
                                _ => Op::Packed(guest, seed),
                            }
                        })
                        .collect();
                    run(layer, &ops)
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect::<Model>()
    });
    layer.seal().unwrap();
    compare(&disk, &model).unwrap();
    let report = crate::qcow2::check::check(disk).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
}
