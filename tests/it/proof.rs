//! Proves a whole repository: every point reads, and every recorded fact is recomputed from the bytes.

use restorefs::block::ReadAt;
use restorefs::ingest::Engine;
use restorefs::qcow2::Image;
use restorefs::qcow2::check::check;
use restorefs::repo::content::{
    PAGE_BYTES, Region, content_root, data_leaves, region_hash, set_leaf, zero_page,
};
use restorefs::repo::sidecar::index::PointEntry;
use restorefs::repo::sidecar::point::PointDisk;
use restorefs::types::{Digest, VmName};

use crate::world::{open_disk, read_all};

const CLUSTER: usize = 65_536;

/// The leaves of one region, from the disk's bytes.
fn page_of(bytes: &[u8], region: usize) -> Vec<u8> {
    let mut page = zero_page().to_vec();
    let part = bytes.get(region * 8192 * CLUSTER..).unwrap_or_default();
    for (index, chunk) in part.chunks(CLUSTER).take(8192).enumerate() {
        let mut cluster = chunk.to_vec();
        cluster.resize(CLUSTER, 0);
        set_leaf(&mut page, index, &Digest::of(&cluster));
    }
    assert_eq!(page.len(), PAGE_BYTES);
    page
}

/// Recomputes sums, content root and counts of one disk of a point; returns its bytes.
pub(crate) fn prove_disk(
    engine: &Engine,
    vm: &VmName,
    point: &PointEntry,
    meta: &PointDisk,
) -> Vec<u8> {
    let what = format!("{vm}@{} {}", point.name, meta.name);
    let repository = engine.owner.repository();
    let bytes = read_all(&open_disk(engine, vm, &meta.layer));
    assert_eq!(bytes.len() as u64, meta.size_bytes, "{what}");
    let count = Region::count(meta.size_bytes) as usize;
    let pages: Vec<Vec<u8>> = (0..count).map(|region| page_of(&bytes, region)).collect();
    let regions: Vec<Digest> = pages.iter().map(|page| region_hash(page)).collect();
    assert_eq!(
        meta.content_root,
        content_root(meta.size_bytes, &regions),
        "{what}: content root"
    );
    let data: u64 = pages.iter().map(|page| data_leaves(page)).sum();
    assert_eq!(meta.data_bytes, data * CLUSTER as u64, "{what}: data");

    let layer = repository.open_layer(vm, &meta.layer).unwrap();
    let report = check(std::sync::Arc::clone(&layer)).unwrap();
    assert!(report.is_clean(), "{what}: {:?}", report.findings);
    let image = Image::open(std::sync::Arc::clone(&layer)).unwrap();
    let id = image.layer_id().unwrap();
    let sums = repository.open_sums(vm, &meta.layer, id).unwrap();
    sums.verify().unwrap();
    let summary = sums.summary();
    assert_eq!(summary.size_bytes, meta.size_bytes, "{what}");
    assert_eq!(summary.layer_bytes, layer.size_bytes(), "{what}");
    assert!(summary.regions == regions, "{what}: region hashes");
    for (cluster, stated) in &summary.metadata {
        let mut found = vec![0; CLUSTER];
        layer
            .read_at(cluster.0 * CLUSTER as u64, &mut found)
            .unwrap();
        assert_eq!(*stated, Digest::of(&found), "{what}: metadata {cluster:?}");
    }
    let mut held = 0;
    for (region, said) in sums.touched() {
        let touched = sums.load_region(region).unwrap().unwrap();
        let page = &pages[region.0 as usize];
        let mut stated = page.clone();
        touched.spread(&mut stated, |_| true);
        assert!(&stated == page, "{what}: leaves of region {}", region.0);
        let table = image.load_l2(region.0).unwrap();
        for index in 0..8192 {
            let mapped = table.as_ref().is_some_and(|table| {
                table.mapping(index as u64).unwrap() != restorefs::qcow2::Mapping::Unallocated
            });
            assert_eq!(touched.holds(index), mapped, "{what}: cluster {index}");
        }
        assert_eq!(touched.leaves.len() / 32, said as usize, "{what}");
        held += u64::from(said);
    }
    assert_eq!(meta.changed_bytes, held * CLUSTER as u64, "{what}: changed");
    bytes
}
