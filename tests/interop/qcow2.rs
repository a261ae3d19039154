//! Layers that we write against `qemu-img check` and `convert`; images that QEMU writes against our reader.

use std::path::Path;
use std::sync::Arc;

use restorefs::block::page::PageBudget;
use restorefs::block::{ReadAt, WriteAt};
use restorefs::error::ErrorKind;
use restorefs::qcow2::check::{FindingKind, check};
use restorefs::qcow2::source::{Below, DenyAll, OpenedFile, Source};
use restorefs::qcow2::{Compression, LayerOptions, LayerWriter, Mapping, compress};
use restorefs::types::{GuestCluster, LayerId};

use crate::disk::Disk;
use crate::kit::need::has;
use crate::tool;

const CLUSTER: usize = 65_536;

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Bytes that compress a little.
fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            b'a' + u8::try_from(state % 13).unwrap()
        })
        .collect()
}

fn convert(image: &Path) -> Vec<u8> {
    let raw = image.with_extension("flat");
    tool::run(
        "qemu-img",
        &[
            "convert",
            "-f",
            "qcow2",
            "-O",
            "raw",
            &text(image),
            &text(&raw),
        ],
    );
    std::fs::read(raw).unwrap()
}

fn open(image: &Path) -> Source {
    let gate = Below::new(image.parent().unwrap()).unwrap();
    Source::open(OpenedFile::open(image).unwrap(), &gate).unwrap()
}

/// Reads all of a source in pieces of odd sizes, and holds every extent against the bytes.
fn read(source: &Source) -> Vec<u8> {
    let size = usize::try_from(source.size_bytes()).unwrap();
    let mut bytes = vec![0xee; size];
    for (n, chunk) in bytes.chunks_mut(100_001).enumerate() {
        source.read_at(n as u64 * 100_001, chunk).unwrap();
    }
    let mut offset = 0;
    while offset < size {
        let extent = source
            .extent_at(offset as u64, (size - offset) as u64)
            .unwrap();
        let end = offset + usize::try_from(extent.length_bytes).unwrap();
        assert!(end > offset && end <= size);
        if extent.kind.reads_zero() {
            assert!(bytes[offset..end].iter().all(|byte| *byte == 0));
        }
        offset = end;
    }
    bytes
}

fn assert_same(image: &Path, what: &str) {
    let expected = convert(image);
    let found = read(&open(image));
    assert_eq!(found.len(), expected.len(), "{what}");
    let first = found.iter().zip(&expected).position(|(a, b)| a != b);
    assert_eq!(first, None, "{what}");
}

fn assert_clean(image: &Path, what: &str) {
    tool::run("qemu-img", &["check", "-f", "qcow2", &text(image)]);
    let report = check(Disk::open(image)).unwrap();
    assert!(report.is_clean(), "{what}: {:?}", report.findings);
}

/// Writes a layer that changes, zeroes and drops some clusters of `guest`.
fn layer(directory: &Path, number: u64, compression: Compression, guest: &mut [u8]) {
    let disk = Disk::open(&directory.join(format!("vda-{number}.qcow2")));
    let options = LayerOptions {
        size_bytes: guest.len() as u64,
        backing: (number > 0).then(|| format!("vda-{}.qcow2", number - 1)),
        layer_id: LayerId::random(),
        compression,
    };
    let budget = PageBudget::new(1 << 20);
    let layer = LayerWriter::create(disk, options, &budget, || {
        Ok(Arc::new(Nothing) as Arc<dyn WriteAt>)
    })
    .unwrap();
    let clusters = guest.len().div_ceil(CLUSTER);
    for index in 0..clusters {
        let n = (index as u64 + 1) * (number + 3) % 11;
        let at = index * CLUSTER;
        let end = (at + CLUSTER).min(guest.len());
        let cluster = GuestCluster(index as u64);
        let mut bytes = content(number * 1000 + index as u64, CLUSTER);
        bytes[end - at..].fill(0);
        match n {
            0 | 1 => {
                layer.set(cluster, Mapping::Zero { host: None }).unwrap();
                guest[at..end].fill(0);
                continue;
            }
            2..=4 => {
                let host = layer.allocate(1).unwrap();
                layer.write_data(host, &bytes).unwrap();
                layer.set(cluster, Mapping::Data(host)).unwrap();
            }
            5..=7 => match compression.kind().and_then(|kind| compress(kind, &bytes)) {
                Some(packed) => {
                    // Written twice: the first one is dead space.
                    layer.append_compressed(cluster, &packed).unwrap();
                    layer.append_compressed(cluster, &packed).unwrap();
                }
                None => continue,
            },
            8 => {
                let host = layer.allocate(3).unwrap();
                layer.write_data(host, &bytes).unwrap();
                continue;
            }
            _ => continue,
        }
        guest[at..end].copy_from_slice(&bytes[..end - at]);
    }
    layer.seal().unwrap();
}

/// The spill file of tables that fit their budget.
struct Nothing;

impl ReadAt for Nothing {
    fn size_bytes(&self) -> u64 {
        0
    }
    fn read_at(&self, _: u64, _: &mut [u8]) -> restorefs::error::Result<()> {
        panic!("a table was spilled")
    }
}

impl WriteAt for Nothing {
    fn write_at(&self, _: u64, _: &[u8]) -> restorefs::error::Result<()> {
        panic!("a table was spilled")
    }
    fn flush(&self) -> restorefs::error::Result<()> {
        Ok(())
    }
    fn set_size(&self, _: u64) -> restorefs::error::Result<()> {
        Ok(())
    }
    fn punch(&self, _: u64, _: u64) -> restorefs::error::Result<()> {
        Ok(())
    }
}

#[test]
fn layers_are_clean_and_convert_to_what_was_written() {
    if !has("qemu-img") {
        return;
    }
    for compression in [Compression::None, Compression::Zlib, Compression::Zstd] {
        for size in [0, 512, 100 * CLUSTER, 77 * CLUSTER + 512 * 5] {
            let directory = tempfile::tempdir().unwrap();
            let mut guest = vec![0; size];
            for number in 0..4 {
                let what = format!("{compression:?} {size} layer {number}");
                layer(directory.path(), number, compression, &mut guest);
                let image = directory.path().join(format!("vda-{number}.qcow2"));
                assert_clean(&image, &what);
                assert!(convert(&image) == guest, "{what}");
                assert!(read(&open(&image)) == guest, "{what}");
            }
        }
    }
}

#[test]
fn large_sparse_layer_is_clean() {
    if !has("qemu-img") {
        return;
    }
    // 16 TiB: an L1 table of several clusters and more than one refcount block.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.qcow2");
    let options = LayerOptions {
        size_bytes: 16 << 40,
        backing: None,
        layer_id: LayerId::random(),
        compression: Compression::None,
    };
    let budget = PageBudget::new(64 << 20);
    let layer = LayerWriter::create(Disk::open(&path), options, &budget, || {
        Ok(Arc::new(Nothing) as Arc<dyn WriteAt>)
    })
    .unwrap();
    for n in 0..40_u64 {
        // Space that is never used, so that the refcounts pass one block of 32,768.
        layer.allocate(1_000).unwrap();
        let host = layer.allocate(1).unwrap();
        layer.write_data(host, &content(n, CLUSTER)).unwrap();
        layer
            .set(GuestCluster(n * 6_700_417), Mapping::Data(host))
            .unwrap();
    }
    layer.seal().unwrap();
    assert_clean(&path, "16 TiB");
    let source = open(&path);
    let mut bytes = vec![0; CLUSTER];
    source.read_at(39 * 6_700_417 * 65_536, &mut bytes).unwrap();
    assert!(bytes == content(39, CLUSTER));
    let extent = source.extent_at(65_536, 1 << 40).unwrap();
    assert_eq!(extent.length_bytes, (6_700_417 - 1) * 65_536);
}

/// Options of `qemu-img create`, and whether compressed clusters can be written.
fn variants() -> Vec<(String, bool)> {
    let mut variants = vec![
        ("compat=0.10".to_owned(), true),
        ("compat=1.1,lazy_refcounts=on".to_owned(), true),
        ("compat=1.1,compression_type=zstd".to_owned(), true),
        ("extended_l2=on".to_owned(), true),
        ("extended_l2=on,cluster_size=16k".to_owned(), true),
        (
            "extended_l2=on,cluster_size=2M,compression_type=zstd".to_owned(),
            true,
        ),
        ("preallocation=metadata".to_owned(), false),
        ("preallocation=falloc".to_owned(), false),
    ];
    for bits in 9..=21 {
        variants.push((format!("cluster_size={}", 1 << bits), true));
    }
    for bits in [1, 2, 4, 8, 32, 64] {
        variants.push((format!("refcount_bits={bits}"), true));
    }
    variants
}

fn write_some(image: &Path, salt: u32, compressed: bool) {
    // Sizes and places that hit all cluster sizes, in part and as a whole.
    let at = |n: u32| (salt * 7919 + n * 1_299_709) % 7_000_000 / 512 * 512;
    let mut arguments = vec!["-f".to_owned(), "qcow2".to_owned()];
    let mut command = |text: String| arguments.extend(["-c".to_owned(), text]);
    if compressed {
        // First, because QEMU compresses only what is not allocated yet.
        for n in 0..3 {
            let place = 2_097_152 * n;
            command(format!("write -c -P {} {place} 2M", n + salt + 40));
        }
    }
    for n in 0..12 {
        let length = 512 * (1 + (salt + n) * 37 % 600);
        command(format!("write -P {} {} {length}", 1 + n + salt, at(n)));
    }
    for n in 20..23 {
        command(format!("write -z {} {}", at(n), 512 * (1 + n * 11)));
    }
    command(format!("write -zu {} 196608", at(30) / 65_536 * 65_536));
    command(format!("discard {} 131072", at(31) / 65_536 * 65_536));
    command("flush".to_owned());
    arguments.push(text(image));
    tool::run("qemu-io", &arguments);
}

#[test]
fn every_image_of_qemu_reads_as_qemu_reads_it() {
    if !has("qemu-img") || !has("qemu-io") {
        return;
    }
    for (number, (options, compressed)) in variants().into_iter().enumerate() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("a.qcow2");
        let salt = u32::try_from(number).unwrap();
        tool::run(
            "qemu-img",
            &[
                "create",
                "-q",
                "-f",
                "qcow2",
                "-o",
                &options,
                &text(&image),
                "9000448",
            ],
        );
        // Virtual size ends within a cluster of most sizes.
        write_some(&image, salt, compressed);
        assert_same(&image, &options);
        assert_clean(&image, &options);
    }
}

#[test]
fn external_data_files_are_read() {
    if !has("qemu-img") || !has("qemu-io") {
        return;
    }
    for options in ["data_file_raw=on", "data_file_raw=off", "extended_l2=on"] {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("a.qcow2");
        let data = directory.path().join("a.data");
        let options = format!("data_file={},{options}", text(&data));
        tool::run(
            "qemu-img",
            &[
                "create",
                "-q",
                "-f",
                "qcow2",
                "-o",
                &options,
                &text(&image),
                "9000448",
            ],
        );
        write_some(&image, 5, false);
        assert_same(&image, &options);
        assert_clean(&image, &options);
        let refused = Source::open(OpenedFile::open(&image).unwrap(), &DenyAll).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    }
}

#[test]
fn chains_of_mixed_sizes_read_as_qemu_reads_them() {
    if !has("qemu-img") || !has("qemu-io") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("base.raw"), content(1, 3_000_320)).unwrap();
    let chain = [
        ("1.qcow2", "base.raw", "raw", "cluster_size=512", "8388608"),
        ("2.qcow2", "1.qcow2", "qcow2", "cluster_size=2M", "9000448"),
        ("3.qcow2", "2.qcow2", "qcow2", "extended_l2=on", "7000576"),
        (
            "4.qcow2",
            "3.qcow2",
            "qcow2",
            "cluster_size=4k,compression_type=zstd",
            "9000448",
        ),
        (
            "5.qcow2",
            "4.qcow2",
            "qcow2",
            "extended_l2=on,cluster_size=256k",
            "9500160",
        ),
    ];
    for (number, (name, below, format, options, size)) in chain.into_iter().enumerate() {
        tool::run(
            "qemu-img",
            &[
                "create",
                "-q",
                "-f",
                "qcow2",
                "-b",
                below,
                "-F",
                format,
                "-o",
                options,
                &text(&path(name)),
                size,
            ],
        );
        if number != 2 {
            write_some(&path(name), u32::try_from(number).unwrap(), true);
        }
        assert_same(&path(name), name);
        assert_clean(&path(name), name);
    }
    assert_eq!(open(&path("5.qcow2")).depth(), 6);
}

#[test]
fn compressed_images_read_as_qemu_reads_them() {
    if !has("qemu-img") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let raw = directory.path().join("a.raw");
    let mut bytes = content(3, 5_000_192);
    bytes[1_000_000..2_000_000].fill(0);
    std::fs::write(&raw, &bytes).unwrap();
    for options in [
        "compression_type=zlib",
        "compression_type=zstd",
        "compression_type=zstd,cluster_size=2M",
        "cluster_size=512",
        "cluster_size=2M",
        "compat=0.10",
        "extended_l2=on",
    ] {
        let image = directory.path().join("a.qcow2");
        tool::run(
            "qemu-img",
            &[
                "convert",
                "-c",
                "-f",
                "raw",
                "-O",
                "qcow2",
                "-o",
                options,
                &text(&raw),
                &text(&image),
            ],
        );
        assert!(read(&open(&image)) == bytes, "{options}");
        assert_clean(&image, options);
    }
}

#[test]
fn refusals_say_what_is_refused() {
    if !has("qemu-img") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::create_dir(path("inside")).unwrap();
    std::fs::write(path("secret.raw"), [1; 4096]).unwrap();
    std::os::unix::fs::symlink(path("secret.raw"), path("inside/link.raw")).unwrap();
    let image = path("inside/a.qcow2");
    let create = |backing: &str, format: &[&str]| {
        let mut arguments = vec!["create", "-q", "-u", "-f", "qcow2", "-b", backing];
        arguments.extend(format);
        let image = text(&image);
        arguments.extend([image.as_str(), "1M"]);
        tool::run("qemu-img", &arguments);
    };
    let gate = Below::new(&path("inside")).unwrap();
    let refused = || Source::open(OpenedFile::open(&image).unwrap(), &gate).unwrap_err();
    for outside in ["../secret.raw", "link.raw"] {
        create(outside, &["-F", "raw"]);
        let error = refused();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        let report = error.report();
        assert!(
            report.contains(outside) && report.contains("--allow-backing"),
            "{report}"
        );
    }
    create("nbd://localhost/x", &["-F", "raw"]);
    assert_eq!(refused().kind(), ErrorKind::Unsupported);
    create("a.qcow2", &["-F", "qcow2"]);
    assert_eq!(refused().kind(), ErrorKind::Corrupt);
    // Waiting for somebody to write into it would last for ever.
    tool::run("mkfifo", &[text(&path("inside/fifo"))]);
    create("fifo", &["-F", "raw"]);
    assert_eq!(refused().kind(), ErrorKind::InvalidInput);
    create("gone.raw", &["-F", "raw"]);
    assert_eq!(refused().kind(), ErrorKind::NotFound);
}

#[test]
fn check_finds_what_qemu_img_check_finds() {
    if !has("qemu-img") || !has("qemu-io") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("a.qcow2");
    tool::run(
        "qemu-img",
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            "lazy_refcounts=on",
            &text(&image),
            "9M",
        ],
    );
    tool::run(
        "qemu-io",
        &["-f", "qcow2", "-c", "write -P 1 0 1M", &text(&image)],
    );
    // One more cluster, which nothing uses or counts.
    let mut clean = std::fs::read(&image).unwrap();
    clean.resize(clean.len().next_multiple_of(CLUSTER) + CLUSTER, 0);
    let u64_at = |bytes: &[u8], at: usize| {
        usize::try_from(u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())).unwrap()
    };
    let table = u64_at(&clean, 48);
    let block = u64_at(&clean, table);
    let l1 = u64_at(&clean, 40);
    let l2 = u64_at(&clean, l1) & !(1 << 63);
    let last = clean.len() / CLUSTER - 1;
    for (at, byte, kind, qemu_exit) in [
        (block + last * 2 + 1, 1, FindingKind::Leak, 3),
        (block + 5 * 2 + 1, 0, FindingKind::RefcountTooLow, 2),
        (l2, 0, FindingKind::CopiedFlag, 2),
        (l2 + 7, 2, FindingKind::BadEntry, 2),
        (l2 + 5, clean[l2 + 13], FindingKind::Overlap, 2),
    ] {
        let mut bytes = clean.clone();
        bytes[at] = byte;
        std::fs::write(&image, &bytes).unwrap();
        let report = check(Disk::open(&image)).unwrap();
        let kinds: Vec<_> = report.findings.iter().map(|finding| finding.kind).collect();
        assert!(kinds.contains(&kind), "{kind:?}: {:?}", report.findings);
        let status = std::process::Command::new("qemu-img")
            .args(["check", "-f", "qcow2", &text(&image)])
            .output()
            .unwrap()
            .status;
        assert_eq!(status.code(), Some(qemu_exit), "{kind:?}");
    }
}

#[test]
fn snapshots_and_bitmaps_are_passed_over() {
    if !has("qemu-img") || !has("qemu-io") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("a.qcow2");
    let path = text(&image);
    tool::run(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", &path, "9000448"],
    );
    write_some(&image, 1, true);
    tool::run("qemu-img", &["bitmap", "--add", &path, "changed"]);
    write_some(&image, 2, false);
    tool::run("qemu-img", &["snapshot", "-c", "before", &path]);
    write_some(&image, 3, false);
    assert_same(&image, "snapshots and bitmaps");
    let report = check(Disk::open(&image)).unwrap();
    assert!(
        report.is_clean() && report.is_partial,
        "{:?}",
        report.findings
    );
}

#[test]
fn encrypted_images_are_refused() {
    if !has("qemu-img") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("a.qcow2");
    let options = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10";
    tool::run(
        "qemu-img",
        &[
            "create",
            "-q",
            "--object",
            "secret,id=key,data=x",
            "-f",
            "qcow2",
            "-o",
            options,
            &text(&image),
            "1M",
        ],
    );
    let error = Source::open(OpenedFile::open(&image).unwrap(), &DenyAll).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.report().contains("encrypted"), "{}", error.report());
}
