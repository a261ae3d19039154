//! Second opinions: the readers of two other crates over chains that restorefs wrote, and the chains that they cannot
//! read.

use std::path::{Path, PathBuf};

use qcow2_rs::dev::{Qcow2Dev, Qcow2DevParams};
use qcow2_rs::helpers::Qcow2IoBuf;
use qcow2_rs::sync_io::Qcow2IoSync;
use qcow2_rs::utils::{qcow2_alloc_dev_sync, qcow2_setup_dev_sync};
use restorefs::qcow2::Compression;
use restorefs::types::DiskName;

use crate::repository::{Present, Truth, Writer, layers};

const CLUSTER: usize = 65_536;

/// A chain of four layers: data, a rewrite, zeroes, growth if wanted.
fn chain(root: &Path, compression: Compression, grows: bool) -> Truth {
    let writer = Writer::new(root);
    let mut disks = [Present {
        name: DiskName::new("vda").unwrap(),
        bytes: vec![0; 40 * CLUSTER],
    }];
    let mut last = None;
    for number in 0..4_usize {
        if grows && number == 3 {
            disks[0].bytes.resize(50 * CLUSTER, 0);
        }
        let session = writer.begin(&disks, compression, None);
        let target = session.disk(&disks[0].name).unwrap();
        let bytes = &mut disks[0].bytes;
        for cluster in (number..bytes.len() / CLUSTER).step_by(number + 2) {
            let at = cluster * CLUSTER;
            let text = format!("{number} {cluster} ").repeat(CLUSTER / 4);
            bytes[at..at + CLUSTER].copy_from_slice(&text.as_bytes()[..CLUSTER]);
            target.write(at as u64, &bytes[at..at + CLUSTER]).unwrap();
        }
        let (at, length) = ((5 + number) * CLUSTER, 2 * CLUSTER);
        bytes[at..at + length].fill(0);
        target.zero(at as u64, length as u64).unwrap();
        last = writer.commit(&session, &disks).pop();
    }
    last.unwrap()
}

/// Opens a chain layer by layer, because the crate looks for backing files in the working directory.
fn open_qcow2_rs(path: &Path) -> Result<Qcow2Dev<Qcow2IoSync>, String> {
    let params = Qcow2DevParams::new(9, None, None, true, false);
    let io = Qcow2IoSync::new(path, true, false);
    let (mut dev, backing) =
        qcow2_alloc_dev_sync(path, io, &params).map_err(|e| format!("{e:?}"))?;
    if let Some(backing) = backing {
        let below: PathBuf = path.parent().unwrap().join(backing);
        dev.set_backing_dev(Box::new(open_qcow2_rs(&below)?));
    }
    Ok(dev)
}

fn read_qcow2_rs(path: &Path, length: usize) -> Result<Vec<u8>, String> {
    let dev = open_qcow2_rs(path)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        dev.qcow2_prep_io().await.map_err(|e| format!("{e:?}"))?;
        let mut bytes = Vec::new();
        for at in (0..length).step_by(CLUSTER) {
            let mut buf = Qcow2IoBuf::<u8>::new(CLUSTER);
            buf.fill(0xee);
            dev.read_at(&mut buf, at as u64)
                .await
                .map_err(|e| format!("{e:?}"))?;
            bytes.extend_from_slice(&buf);
        }
        Ok(bytes)
    })
}

fn read_imago(path: &Path, length: usize) -> std::io::Result<Vec<u8>> {
    let mut image = imago::qcow2::Qcow2::<imago::file::File>::open_path_sync(path, false)?;
    image.open_implicit_dependencies_sync()?;
    let image = imago::SyncFormatAccess::new(image)?;
    assert_eq!(image.size(), length as u64);
    let mut bytes = vec![0xee; length];
    image.read(&mut bytes[..], 0)?;
    Ok(bytes)
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).position(|(a, b)| a != b)
}

#[test]
fn imago_reads_chains_but_for_zstd() {
    for compression in [Compression::None, Compression::Zlib, Compression::Zstd] {
        let dir = tempfile::tempdir().unwrap();
        let truth = chain(&dir.path().join("repo"), compression, true);
        let layer = layers(&dir.path().join("repo")).join(&truth.layer);
        let read = read_imago(&layer, truth.bytes.len());
        if compression == Compression::Zstd {
            let error = read.unwrap_err().to_string();
            assert!(error.contains("compression type"), "{error}");
            continue;
        }
        let difference = first_difference(&read.unwrap(), &truth.bytes);
        assert_eq!(difference, None, "{compression:?}");
    }
}

#[test]
fn qcow2_rs_reads_chains_without_incompatible_features_that_have_not_grown() {
    for compression in [Compression::None, Compression::Zlib] {
        for grows in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let truth = chain(&dir.path().join("repo"), compression, grows);
            let layer = layers(&dir.path().join("repo")).join(&truth.layer);
            let read = read_qcow2_rs(&layer, truth.bytes.len());
            if grows {
                // What lies beyond the end of a smaller backing file is zero; it reads on and fails.
                let error = read.unwrap_err();
                assert!(error.contains("eof"), "{error}");
                continue;
            }
            let difference = first_difference(&read.unwrap(), &truth.bytes);
            assert_eq!(difference, None, "{compression:?}");
        }
    }
}

#[test]
fn qcow2_rs_refuses_zstd() {
    let dir = tempfile::tempdir().unwrap();
    let truth = chain(&dir.path().join("repo"), Compression::Zstd, false);
    let layer = layers(&dir.path().join("repo")).join(&truth.layer);
    let refused = read_qcow2_rs(&layer, truth.bytes.len());
    assert!(refused.is_err(), "incompatible bit 3 is read");
}

/// Its own way of opening a chain takes the backing name as it stands: below the working directory, where it panics when there
/// is no such file.
#[test]
fn qcow2_rs_panics_when_the_backing_file_is_not_in_the_working_directory() {
    let dir = tempfile::tempdir().unwrap();
    let truth = chain(&dir.path().join("repo"), Compression::None, false);
    let layer = layers(&dir.path().join("repo")).join(&truth.layer);
    let opened = std::panic::catch_unwind(|| {
        let params = Qcow2DevParams::new(9, None, None, true, false);
        qcow2_setup_dev_sync(&layer, &params).is_ok()
    });
    assert!(opened.is_err(), "it opened, or said why not");
}
