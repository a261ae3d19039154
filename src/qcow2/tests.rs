//! A golden image with every field flipped, and random damage that must never panic.

use std::sync::{Arc, OnceLock};

use proptest::prelude::{any, proptest};

use super::check::check;
use super::header::Header;
use super::source::{DenyAll, OpenedFile, Source};
use super::testing::Disk;
use super::{Compression, Image, LayerOptions, LayerWriter, Mapping, compress};
use crate::block::page::PageBudget;
use crate::block::{ReadAt, WriteAt};
use crate::error::{Error, ErrorKind};
use crate::types::sync::Mutex;
use crate::types::{GuestCluster, LayerId};

const CLUSTER: usize = 65_536;

/// A layer with data, zeroes and compressed clusters.
fn golden() -> &'static [u8] {
    static GOLDEN: OnceLock<Vec<u8>> = OnceLock::new();
    GOLDEN.get_or_init(|| build(None))
}

fn build(backing: Option<String>) -> Vec<u8> {
    let disk = Disk::new(Vec::new());
    let options = LayerOptions {
        size_bytes: 20 * 65_536,
        backing,
        layer_id: LayerId::from_bytes([9; 16]),
        compression: Compression::Zlib,
    };
    let layer = LayerWriter::create(
        Arc::clone(&disk) as Arc<dyn WriteAt>,
        options,
        &PageBudget::new(1 << 20),
        || Ok(Disk::new(Vec::new()) as Arc<dyn WriteAt>),
    )
    .unwrap();
    let kind = Compression::Zlib.kind().unwrap();
    for guest in 0..4 {
        let host = layer.allocate(1).unwrap();
        layer.write_data(host, &[5; CLUSTER]).unwrap();
        layer.set(GuestCluster(guest), Mapping::Data(host)).unwrap();
        let packed = compress(kind, &[6; CLUSTER]).unwrap();
        layer
            .append_compressed(GuestCluster(guest + 10), &packed)
            .unwrap();
    }
    layer
        .set(GuestCluster(6), Mapping::Zero { host: None })
        .unwrap();
    layer.seal().unwrap();
    disk.bytes()
}

fn with(at: usize, value: &[u8]) -> Vec<u8> {
    let mut bytes = golden()[..CLUSTER].to_vec();
    bytes[at..at + value.len()].copy_from_slice(value);
    bytes
}

fn parse(bytes: &[u8]) -> Error {
    Header::parse(bytes).unwrap_err()
}

#[test]
fn every_wrong_field_has_its_error() {
    let golden_header = Header::parse(&golden()[..CLUSTER]).unwrap();
    assert_eq!(golden_header.layer_id, Some(LayerId::from_bytes([9; 16])));
    let corrupt = ErrorKind::Corrupt;
    let unsupported = ErrorKind::Unsupported;
    let cases: [(usize, &[u8], ErrorKind, &str, u64); 21] = [
        (0, b"RIFF", corrupt, "this is no QCOW2 image", 0),
        (7, &[4], unsupported, "QCOW2 version 4 is not supported", 4),
        (
            23,
            &[8],
            corrupt,
            "the QCOW2 header field cluster_bits is wrong",
            20,
        ),
        (
            23,
            &[22],
            corrupt,
            "the QCOW2 header field cluster_bits is wrong",
            20,
        ),
        (
            19,
            &[1],
            corrupt,
            "the QCOW2 header field backing_file_offset is wrong",
            8,
        ),
        (
            24,
            &[0, 0, 1],
            corrupt,
            "the QCOW2 header field l1_size is wrong",
            36,
        ),
        (
            35,
            &[2],
            unsupported,
            "the image is encrypted (crypt_method 2)",
            32,
        ),
        (
            36,
            &[1],
            corrupt,
            "the QCOW2 header field l1_size is wrong",
            36,
        ),
        (
            39,
            &[0],
            corrupt,
            "the QCOW2 header field l1_size is wrong",
            36,
        ),
        (
            47,
            &[1],
            corrupt,
            "the QCOW2 header field l1_table_offset is wrong",
            40,
        ),
        (
            55,
            &[1],
            corrupt,
            "the QCOW2 header field refcount_table_offset is wrong",
            48,
        ),
        (
            56,
            &[1],
            corrupt,
            "the QCOW2 header field refcount_table_clusters is wrong",
            56,
        ),
        (
            59,
            &[0],
            corrupt,
            "the QCOW2 header field refcount_table_clusters is wrong",
            56,
        ),
        (79, &[2], corrupt, "the image is marked as corrupt", 72),
        (
            78,
            &[1],
            unsupported,
            "the image needs unknown incompatible features: bit 8",
            72,
        ),
        (
            99,
            &[7],
            corrupt,
            "the QCOW2 header field refcount_order is wrong",
            96,
        ),
        (
            103,
            &[113],
            corrupt,
            "the QCOW2 header field header_length is wrong",
            100,
        ),
        (
            103,
            &[96],
            corrupt,
            "the QCOW2 header field header_length is wrong",
            100,
        ),
        (
            104,
            &[1],
            corrupt,
            "the QCOW2 header field compression_type is wrong",
            104,
        ),
        (
            104,
            &[2],
            unsupported,
            "compression type 2 is not supported",
            104,
        ),
        (119, &[15], corrupt, "the layer id has a wrong length", 112),
    ];
    for (at, value, kind, what, offset) in cases {
        let mut bytes = with(at, value);
        if at == 19 {
            // A name needs an offset, too.
            bytes[8..16].copy_from_slice(&65_536_u64.to_be_bytes());
        }
        let error = parse(&bytes);
        assert_eq!((error.kind(), error.what()), (kind, what), "byte {at}");
        assert_eq!(error.context().offset, Some(offset), "byte {at}");
    }
    let error = parse(&with(116, &[1]));
    assert_eq!(
        error.what(),
        "the header extension 0x52465331 passes the end of the header"
    );
    assert_eq!(parse(&golden()[..71]).kind(), corrupt);
    assert_eq!(parse(&[]).kind(), corrupt);
}

#[test]
fn unknown_features_are_named_by_the_image() {
    // The name of bit 0 in the image's own table is changed to belong to bit 9.
    let mut bytes = with(78, &[2]);
    let table = bytes
        .windows(9)
        .position(|window| window == b"dirty bit")
        .unwrap();
    bytes[table - 1] = 9;
    bytes[table..table + 9].copy_from_slice(b"teleport\0");
    assert_eq!(
        parse(&bytes).what(),
        "the image needs unknown incompatible features: bit 9 (teleport)"
    );
}

#[test]
fn truncated_files_are_corrupt() {
    for length in [0, 3, 111, 600, CLUSTER, golden().len() - 6 * CLUSTER] {
        let disk = Disk::new(golden()[..length].to_vec());
        let result = Image::open(disk as Arc<dyn ReadAt>);
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Corrupt, "{length}");
    }
}

#[test]
fn an_image_in_an_image_decompresses_on_one_thread() {
    // The inner image is padded into a compressed outer one; both use the thread's decompressor at once.
    let inner = golden();
    let disk = Disk::new(Vec::new());
    let outer = LayerWriter::create(
        Arc::clone(&disk) as Arc<dyn WriteAt>,
        LayerOptions {
            size_bytes: inner.len() as u64,
            backing: None,
            layer_id: LayerId::random(),
            compression: Compression::Zlib,
        },
        &PageBudget::new(1 << 20),
        || Ok(Disk::new(Vec::new()) as Arc<dyn WriteAt>),
    )
    .unwrap();
    for (guest, cluster) in (0..).zip(inner.chunks(CLUSTER)) {
        let packed = compress(Compression::Zlib.kind().unwrap(), cluster).unwrap();
        outer
            .append_compressed(GuestCluster(guest), &packed)
            .unwrap();
    }
    outer.seal().unwrap();
    let outer = source(disk).unwrap();
    let inner = source(Arc::new(outer)).unwrap();
    let mut bytes = vec![0; 20 * CLUSTER];
    inner.read_at(0, &mut bytes).unwrap();
    assert!(bytes[..4 * CLUSTER].iter().all(|byte| *byte == 5));
    assert!(
        bytes[10 * CLUSTER..14 * CLUSTER]
            .iter()
            .all(|byte| *byte == 6)
    );
    assert!(bytes[14 * CLUSTER..].iter().all(|byte| *byte == 0));
}

fn source(file: Arc<dyn ReadAt>) -> crate::error::Result<Source> {
    let top = OpenedFile {
        path: "memory".into(),
        file,
        identity: None,
        local: None,
    };
    Source::open(top, &DenyAll)
}

/// Opens, reads everything and checks; the test only requires that it returns.
fn survive(bytes: Vec<u8>) {
    let disk = Disk::new(bytes);
    if let Ok(report) = check(Arc::clone(&disk) as Arc<dyn ReadAt>) {
        assert!(report.findings.len() <= super::check::FINDINGS_MAX);
    }
    let Ok(source) = source(disk) else {
        return;
    };
    // A damaged size may have any value: both ends are read.
    let size = source.size_bytes();
    let mut buf = vec![0; 3 * CLUSTER + 512];
    for n in 0..24 {
        for start in [n * 65_536, size.saturating_sub((n + 1) * 65_536)] {
            let length = (size.saturating_sub(start)).min(buf.len() as u64);
            let part = &mut buf[..usize::try_from(length).unwrap()];
            // Any result is right.
            let _ = source.read_at(start, part);
            let _ = source.extent_at(start, length);
        }
    }
}

/// Places of structures: header, tables, and the rest.
fn places() -> &'static [(usize, usize)] {
    static PLACES: Mutex<Option<&'static [(usize, usize)]>> = Mutex::new(None);
    let mut places = PLACES.lock();
    places.get_or_insert_with(|| {
        let end = golden().len();
        // L2, L1, refcount block and refcount table are the last four clusters.
        let tables = (1..=4).map(|n| (end - n * CLUSTER, 128));
        let all = [(0, 700), (0, 700)].into_iter().chain(tables);
        Box::leak(all.collect::<Vec<_>>().into_boxed_slice())
    })
}

proptest! {
    #[test]
    fn damage_never_panics(
        flips in proptest::collection::vec((any::<u16>(), any::<u16>(), any::<u8>()), 1..8),
        cut in proptest::option::of(any::<u32>()),
    ) {
        let mut bytes = golden().to_vec();
        for (place, within, value) in flips {
            let places = places();
            let (start, length) = places[usize::from(place) % places.len()];
            bytes[start + usize::from(within) % length] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(usize::try_from(cut).unwrap() % (golden().len() + 1));
        }
        survive(bytes);
    }
}
