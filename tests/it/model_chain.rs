//! Chains of random layers against plain bytes: layers larger and smaller than those below them, with data, zero and
//! compressed clusters, over several ranges.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use proptest::prelude::{ProptestConfig, Strategy, any, prop_oneof};
use restorefs::block::page::PageBudget;
use restorefs::block::{MemoryDisk, ReadAt, WriteAt};
use restorefs::chain::{ChainId, Disk, FlatStore, LayerSource, Pool, PoolLimits};
use restorefs::error::Result;
use restorefs::qcow2::{Compression, LayerOptions, LayerWriter, Mapping, compress};
use restorefs::types::sync::Mutex;
use restorefs::types::{GuestCluster, LayerId};

const CLUSTER: usize = 65_536;
/// Clusters of one range.
const RANGE: u64 = 8192;

/// What a layer says of one cluster.
#[derive(Debug, Clone, Copy)]
enum What {
    Data(u8),
    Compressed(u8),
    Zero,
    /// Zero, with a host cluster kept for it.
    KeptZero,
    /// Data first, then nothing again.
    Dropped,
}

#[derive(Debug, Clone)]
struct Layer {
    size_bytes: u64,
    zstd: bool,
    clusters: Vec<(u64, What)>,
}

fn cluster() -> impl Strategy<Value = u64> {
    // Mostly neighbours at the beginning and around the borders of ranges.
    prop_oneof![
        6 => 0..24u64,
        3 => RANGE - 6..RANGE + 6,
        2 => 2 * RANGE - 3..2 * RANGE + 12,
    ]
}

fn layer() -> impl Strategy<Value = Layer> {
    let what = prop_oneof![
        5 => (1..250u8).prop_map(What::Data),
        3 => (1..250u8).prop_map(What::Compressed),
        2 => proptest::strategy::Just(What::Zero),
        1 => proptest::strategy::Just(What::KeptZero),
        1 => proptest::strategy::Just(What::Dropped),
    ];
    let size = prop_oneof![
        1..40u64 * 128,
        (RANGE - 8) * 128..(RANGE + 20) * 128,
        2 * RANGE * 128..(2 * RANGE + 16) * 128
    ];
    let clusters = proptest::collection::vec((cluster(), what), 0..24);
    (size, any::<bool>(), clusters).prop_map(|(sectors, zstd, clusters)| Layer {
        size_bytes: sectors * 512,
        zstd,
        clusters,
    })
}

/// Bytes of a cluster: they differ by sector, and compress.
fn bytes_of(cluster: u64, seed: u8) -> Vec<u8> {
    (0..CLUSTER)
        .map(|n| seed ^ ((n / 512) as u8).wrapping_add(cluster as u8))
        .collect()
}

/// The one definition of right: clusters that are not zero.
#[derive(Default, Clone)]
struct Model {
    size_bytes: u64,
    clusters: BTreeMap<u64, Vec<u8>>,
}

impl Model {
    fn read(&self, offset: u64, buf: &mut [u8]) {
        buf.fill(0);
        let end = offset + buf.len() as u64;
        let first = offset / CLUSTER as u64;
        for (cluster, bytes) in self.clusters.range(first..end.div_ceil(CLUSTER as u64)) {
            let start = cluster * CLUSTER as u64;
            let (a, b) = (start.max(offset), (start + CLUSTER as u64).min(end));
            buf[(a - offset) as usize..(b - offset) as usize]
                .copy_from_slice(&bytes[(a - start) as usize..(b - start) as usize]);
        }
    }

    /// What shows through a layer of `size_bytes` above.
    fn cut(&mut self, size_bytes: u64) {
        self.size_bytes = size_bytes;
        self.clusters.retain(|cluster, bytes| {
            let start = cluster * CLUSTER as u64;
            let length = size_bytes.saturating_sub(start).min(CLUSTER as u64) as usize;
            bytes[length..].fill(0);
            length > 0
        });
    }
}

/// Layers by slot, and maps by chain.
#[derive(Default)]
struct Shelf {
    layers: BTreeMap<String, Arc<MemoryDisk>>,
    maps: Mutex<HashMap<ChainId, Arc<MemoryDisk>>>,
    keeps_map: bool,
}

impl LayerSource for Shelf {
    fn open_layer(&self, slot: &str) -> Result<Arc<dyn ReadAt>> {
        Ok(Arc::clone(&self.layers[slot]) as Arc<dyn ReadAt>)
    }
    fn scope(&self) -> u128 {
        7
    }
}

impl FlatStore for Shelf {
    fn open_flat(&self, chain: ChainId) -> Result<Option<Arc<dyn WriteAt>>> {
        let mut maps = self.maps.lock();
        Ok(self.keeps_map.then(|| {
            let map = maps.entry(chain).or_default();
            Arc::clone(map) as Arc<dyn WriteAt>
        }))
    }
    fn discard_flat(&self, chain: ChainId) -> Result<()> {
        self.maps.lock().remove(&chain);
        Ok(())
    }
}

fn build(shelf: &mut Shelf, model: &mut Model, number: usize, layer: &Layer) {
    let below = model.size_bytes;
    let mut size_bytes = layer.size_bytes;
    if number > 0 && size_bytes < below {
        // A layer of ours ends within a cluster only where nothing larger lies below it.
        size_bytes = size_bytes.next_multiple_of(CLUSTER as u64);
    }
    let disk = Arc::new(MemoryDisk::new());
    let compression = if layer.zstd {
        Compression::Zstd
    } else {
        Compression::Zlib
    };
    let writer = LayerWriter::create(
        Arc::clone(&disk) as Arc<dyn WriteAt>,
        LayerOptions {
            size_bytes,
            backing: (number > 0).then(|| format!("l{}.qcow2", number - 1)),
            layer_id: LayerId::random(),
            compression,
        },
        &PageBudget::new(1 << 20),
        || Ok(Arc::new(MemoryDisk::new()) as Arc<dyn WriteAt>),
    )
    .unwrap();
    model.cut(size_bytes);
    let clusters = size_bytes.div_ceil(CLUSTER as u64);
    for (cluster, what) in &layer.clusters {
        let cluster = cluster % clusters;
        let guest = GuestCluster(cluster);
        let length = (size_bytes - cluster * CLUSTER as u64).min(CLUSTER as u64) as usize;
        let data = |seed: u8| {
            let mut bytes = bytes_of(cluster, seed);
            bytes[length..].fill(0);
            bytes
        };
        let store = |bytes: &[u8]| {
            let host = writer.allocate(1).unwrap();
            writer.write_data(host, bytes).unwrap();
            writer.set(guest, Mapping::Data(host)).unwrap();
            host
        };
        match *what {
            What::Data(seed) => {
                store(&data(seed));
                model.clusters.insert(cluster, data(seed));
            }
            What::Compressed(seed) => {
                let packed = compress(compression.kind().unwrap(), &data(seed)).unwrap();
                writer.append_compressed(guest, &packed).unwrap();
                model.clusters.insert(cluster, data(seed));
            }
            What::Zero => {
                writer.set(guest, Mapping::Zero { host: None }).unwrap();
                model.clusters.remove(&cluster);
            }
            What::KeptZero => {
                let host = store(&data(77));
                writer
                    .set(guest, Mapping::Zero { host: Some(host) })
                    .unwrap();
                model.clusters.remove(&cluster);
            }
            What::Dropped => {
                // Only clusters that this layer has not spoken of: dropping brings the lower one back.
                if writer.get(guest).unwrap() == Mapping::Unallocated {
                    store(&data(99));
                    writer.set(guest, Mapping::Unallocated).unwrap();
                }
            }
        }
    }
    writer.seal().unwrap();
    shelf.layers.insert(format!("l{number}"), disk);
}

/// Reads and extents at every place that any layer speaks of, and over borders.
fn check(disk: &Disk, model: &Model, places: &[u64], seed: u64) {
    assert_eq!(disk.size_bytes(), model.size_bytes);
    let size = model.size_bytes;
    let mut at_once = vec![0; 3 * CLUSTER + 1234];
    let mut expected = at_once.clone();
    for (n, cluster) in places.iter().enumerate() {
        let shift = (seed >> (n % 40)) % (2 * CLUSTER as u64);
        let offset = (cluster * CLUSTER as u64).saturating_sub(shift);
        if offset >= size {
            continue;
        }
        let length = (at_once.len() as u64).min(size - offset) as usize;
        let (found, expected) = (&mut at_once[..length], &mut expected[..length]);
        found.fill(0xee);
        disk.read_at(offset, found).unwrap();
        model.read(offset, expected);
        assert!(
            found == expected,
            "{length} bytes at {offset}: first at {:?}",
            found.iter().zip(expected.iter()).position(|(a, b)| a != b)
        );
        let extent = disk.extent_at(offset, length as u64).unwrap();
        assert!(extent.length_bytes > 0 && extent.length_bytes <= length as u64);
        if extent.kind.reads_zero() {
            let zeroes = &expected[..extent.length_bytes as usize];
            assert!(
                zeroes.iter().all(|b| *b == 0),
                "an extent of zeroes at {offset}"
            );
        }
    }
    // Extents tile the disk, and what they call zero is.
    let mut at = 0;
    let mut data = 0;
    while at < size {
        let extent = disk.extent_at(at, size - at).unwrap();
        assert!(extent.length_bytes > 0 && extent.length_bytes <= size - at);
        if extent.kind.reads_zero() {
            let first = at / CLUSTER as u64;
            let end = (at + extent.length_bytes).div_ceil(CLUSTER as u64);
            assert!(
                model
                    .clusters
                    .range(first..end)
                    .all(|(_, b)| b.iter().all(|b| *b == 0))
            );
        } else {
            data += extent.length_bytes;
        }
        at += extent.length_bytes;
    }
    assert!(data <= (model.clusters.len() * CLUSTER) as u64);
    assert!(disk.read_at(size, &mut [0]).is_err());
}

fn run(stack: &[Layer], seed: u64, memory_bytes: u64, keeps_map: bool) {
    let mut shelf = Shelf {
        keeps_map,
        ..Shelf::default()
    };
    let mut model = Model::default();
    for (number, layer) in stack.iter().enumerate() {
        build(&mut shelf, &mut model, number, layer);
    }
    let mut places: Vec<u64> = stack
        .iter()
        .flat_map(|layer| {
            let ends = [layer.size_bytes / CLUSTER as u64];
            layer.clusters.iter().map(|(c, _)| *c).chain(ends)
        })
        .collect();
    places.sort_unstable();
    places.dedup();
    let shelf = Arc::new(shelf);
    let top = format!("l{}", stack.len() - 1);
    // The second time, a chain of more than 64 layers is read by the map that the first one left.
    for _ in 0..2 {
        let pool = Pool::new(PoolLimits {
            layers: 3,
            memory_bytes,
        });
        let source: Arc<dyn LayerSource> = Arc::<Shelf>::clone(&shelf);
        let flat: Arc<dyn FlatStore> = Arc::<Shelf>::clone(&shelf);
        let disk = Disk::open(&pool, source, &top, Some(flat)).unwrap();
        assert_eq!(disk.depth(), stack.len());
        check(&disk, &model, &places, seed);
        check(&disk, &model, &places, seed.rotate_left(17));
    }
}

fn cases() -> u32 {
    std::env::var("RESTOREFS_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(48)
}

proptest::proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn stacks_of_random_layers_read_as_their_model(
        stack in proptest::collection::vec(layer(), 1..8), seed in any::<u64>(), tight in any::<bool>()
    ) {
        run(&stack, seed, if tight { 1 } else { 1 << 24 }, false);
    }
}

proptest::proptest! {
    #![proptest_config(ProptestConfig { cases: cases() / 8 + 1, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn deep_stacks_read_the_same_by_their_flattened_map(
        stack in proptest::collection::vec(layer(), 66..80), seed in any::<u64>()
    ) {
        run(&stack, seed, 1 << 24, true);
    }
}
