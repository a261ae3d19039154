//! An image under another name is never stored as a raw disk by mistake. The expected content is that of
//! `qemu-img convert`.

use std::fs;

use crate::kit::need::has;
use crate::kit::need::is_root;
use crate::kit::place::Place;
use crate::tool::{self, Loop, QemuNbd};

/// QEMU's formats with the options that make their different first and last bytes.
const MADE: [(&str, &[&str]); 11] = [
    ("qcow2", &[]),
    ("qcow", &[]),
    ("qed", &[]),
    ("vmdk", &["-o", "subformat=monolithicSparse"]),
    ("vmdk", &["-o", "subformat=monolithicFlat"]),
    ("vmdk", &["-o", "subformat=streamOptimized"]),
    ("vpc", &["-o", "subformat=dynamic"]),
    ("vpc", &["-o", "subformat=fixed,force_size=on"]),
    ("vhdx", &[]),
    ("vdi", &[]),
    ("parallels", &[]),
];

/// Names that say nothing: a cloud image, Nova's disk, oVirt's volume, libvirt's external snapshot.
const NAMES: [&str; 4] = [
    "noble.img",
    "disk",
    "6b0e5b52-2d0b-4f0c-9a55-0a3a1e4b6a51",
    "web01.snap1",
];

fn make(place: &Place, format: &str, options: &[&str], name: &str) {
    let mut args = vec!["convert", "-f", "raw", "-O", format];
    args.extend_from_slice(options);
    args.extend_from_slice(&["content.raw", name]);
    tool::ok(place, "qemu-img", &args);
}

fn content(place: &Place) -> Vec<u8> {
    place.disk("content.raw", 32, 3)
}

#[test]
fn an_image_that_nobody_has_called_one_is_refused_for_a_new_disk() {
    if !has("qemu-img") {
        return;
    }
    let place = Place::new();
    content(&place);
    let formats = MADE.iter().zip(NAMES.iter().cycle());
    for ((format, options), name) in formats {
        make(&place, format, options, name);
        let source = format!("vda={name}");
        let said = place.fails(2, &["backup", "web01", &source]);
        assert!(said.contains(&format!("as a {format} image")), "{said}");
        assert!(said.contains(&format!("raw:{name}")), "{said}");
        let way_out = match *format {
            "qcow" | "parallels" => "qemu-img convert".to_owned(),
            other => format!("{other}:{name}"),
        };
        assert!(said.contains(&way_out), "{said}");
        assert!(!place.repo().join("vms/web01").exists(), "{format}");
        for left in fs::read_dir(place.dir.path()).unwrap().flatten() {
            if left.file_name() != "repo" && left.file_name() != "content.raw" {
                let _ = fs::remove_file(left.path());
            }
        }
    }
    // What qemu-img does not write: VMware's SE sparse and the COW of ESX.
    let heads: [&[u8]; 2] = [b"\xbe\xba\xfe\xca\0\0\0\0", b"COWD\x01\0\0\0"];
    for head in heads {
        let mut bytes = head.to_vec();
        bytes.resize(65_536, 0);
        fs::write(place.path("disk"), bytes).unwrap();
        let said = place.fails(2, &["backup", "web01", "vda=disk"]);
        assert!(said.contains("as a vmdk image"), "{said}");
    }
}

/// A disk that is still packed is no disk either.
#[test]
fn what_is_packed_is_refused_for_a_new_disk() {
    let place = Place::new();
    let bytes = content(&place);
    let packers = [
        ("gzip", "gzip -c content.raw >", "disk.raw.gz"),
        ("xz", "xz -0c content.raw >", "noble.img"),
        ("zstd", "zstd -qc content.raw >", "a.raw.zst"),
        ("bzip2", "bzip2 -1c content.raw >", "disk"),
        (
            "ova",
            "touch a.ovf; tar -cf- a.ovf content.raw >",
            "web01.ova",
        ),
    ];
    for (format, pack, name) in packers {
        if format != "ova" && !has(format) {
            continue;
        }
        tool::ok(&place, "sh", &["-ec", &format!("{pack} {name}")]);
        let source = format!("vda={name}");
        let said = place.fails(2, &["backup", "web01", &source]);
        assert!(said.contains(&format!("as a {format} archive")), "{said}");
        assert!(said.contains("unpack it"), "{said}");
        assert!(said.contains(&format!("raw:{name}")), "{said}");
    }
    // A guest that uses a disk as a tape.
    tool::ok(&place, "sh", &["-ec", "tar -cf tape content.raw"]);
    place.ok(&["backup", "tape", "vda=tape"]);
    // What the caller writes is what is read, and what the disk was before it remains.
    place.ok(&["backup", "web01", "vda=content.raw"]);
    assert!(place.restored("web01@latest", "vda") == bytes);
    if has("gzip") {
        place.ok(&["backup", "db01", "vda=raw:disk.raw.gz"]);
    }
}

#[test]
fn what_the_caller_writes_is_what_is_read() {
    if !has("qemu-img") {
        return;
    }
    let place = Place::new();
    let want = content(&place);
    for (n, (format, options)) in MADE.iter().enumerate() {
        if ["qcow", "parallels"].contains(format) {
            continue;
        }
        let name = format!("d{n}");
        make(&place, format, options, &name);
        let mut args = vec!["backup".to_owned(), name.clone()];
        args.push(format!("vda={format}:{name}"));
        // A flat VMDK names its data.
        args.extend(["--allow-backing".to_owned(), ".".to_owned()]);
        place.ok(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let mut got = place.restored(&format!("{name}@latest"), "vda");
        // Formats round the size up (VHD to cylinders, unless told otherwise).
        assert!(got.len() >= want.len() && got[want.len()..].iter().all(|b| *b == 0));
        got.truncate(want.len());
        assert!(got == want, "{format} {options:?}");
    }
    // `raw:` and --format mean the container.
    make(&place, "qcow2", &[], "odd");
    for args in [
        ["backup", "rawly", "vda=raw:odd"].as_slice(),
        &["backup", "flagged", "vda=odd", "--format", "raw"],
    ] {
        place.ok(args);
        let got = place.restored(&format!("{}@latest", args[1]), "vda");
        assert!(got == fs::read(place.path("odd")).unwrap());
    }
    // A file with the extension of an image is one, also when the point has none of that kind.
    fs::copy(place.path("odd"), place.path("named.qcow2")).unwrap();
    place.ok(&["backup", "named", "vda=named.qcow2"]);
    assert!(place.restored("named@latest", "vda") == want);
}

#[test]
fn encrypted_and_plain_disks_of_any_name_are_taken() {
    let place = Place::new();
    for (vm, name, head) in [
        ("luks1", "crypt.img", &b"LUKS\xba\xbe\0\x01"[..]),
        ("luks2", "disk", b"LUKS\xba\xbe\0\x02"),
        ("plain", "6b0e5b52", b"\xeb\x63\x90"),
        ("almost", "a.img", b"QFI\xfa"),
    ] {
        let mut bytes = head.to_vec();
        bytes.resize(65_536, 7);
        fs::write(place.path(name), &bytes).unwrap();
        place.ok(&["backup", vm, &format!("vda={name}")]);
        assert!(place.restored(&format!("{vm}@latest"), "vda") == bytes);
    }
}

#[test]
fn a_guest_that_writes_an_images_header_does_not_stop_its_backups() {
    let place = Place::new();
    let mut bytes = place.disk("disk", 8, 1);
    place.ok(&["backup", "web01", "vda=disk"]);
    bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    fs::write(place.path("disk"), &bytes).unwrap();
    // Alone, in full, through the daemon.
    for (more, daemon) in [(None, false), (Some("--full"), false), (None, true)] {
        let running = daemon.then(|| place.serve(&[]));
        let mut args = vec!["backup", "web01", "vda=disk"];
        args.extend(more);
        let output = place.run(&args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        assert!(
            said.contains("warning") && said.contains("qcow2:disk"),
            "{said}"
        );
        assert!(place.restored("web01@latest", "vda") == bytes);
        drop(running);
    }
    // A further disk is a new one.
    let daemon = place.serve(&[]);
    fs::copy(place.path("disk"), place.path("other")).unwrap();
    let said = place.fails(2, &["backup", "web01", "vda=disk", "vdb=other"]);
    assert!(
        said.contains("disk vdb") && said.contains("raw:other"),
        "{said}"
    );
    daemon.stop();
}

#[test]
fn an_export_of_an_image_is_refused_as_well() {
    if !has("qemu-nbd") {
        return;
    }
    let place = Place::new();
    let want = content(&place);
    make(&place, "qcow2", &[], "a.qcow2");
    let server = QemuNbd::start(&place, "raw", "a.qcow2", &["-r"]);
    let said = place.fails(2, &["backup", "web01", &format!("vda={}", server.uri)]);
    assert!(
        said.contains("as a qcow2 image") && said.contains("raw:nbd+unix"),
        "{said}"
    );
    place.ok(&["backup", "web01", &format!("vda=raw:{}", server.uri)]);
    drop(server);
    let server = QemuNbd::start(&place, "qcow2", "a.qcow2", &["-r"]);
    place.ok(&["backup", "web02", &format!("vda={}", server.uri)]);
    assert!(place.restored("web02@latest", "vda") == want);
    let said = place.fails(
        2,
        &["backup", "web03", &format!("vda=qcow2:{}", server.uri)],
    );
    assert!(said.contains("qemu-nbd -f"), "{said}");
}

#[test]
fn a_chain_of_images_on_block_devices_is_read() {
    if !has("qemu-img") || !is_root() {
        return;
    }
    let place = Place::new();
    tool::create(&place, "base 64M");
    tool::ok(
        &place,
        "qemu-io",
        &["-f", "qcow2", "-c", "write -P 1 0 8M", "base"],
    );
    // A volume is longer than the image in it.
    tool::ok(&place, "truncate", &["-s", "100M", "base"]);
    let base = Loop::attach(&place, "base", &[]);
    tool::create(&place, &format!("-F qcow2 -b {} top", base.device));
    tool::ok(
        &place,
        "qemu-io",
        &["-f", "qcow2", "-c", "write -P 2 4M 8M", "top"],
    );
    tool::ok(&place, "truncate", &["-s", "100M", "top"]);
    let top = Loop::attach(&place, "top", &[]);
    tool::ok(
        &place,
        "qemu-img",
        &[
            "convert",
            "-f",
            "qcow2",
            "-O",
            "raw",
            &top.device,
            "want.raw",
        ],
    );
    let want = fs::read(place.path("want.raw")).unwrap();
    // Not guessed, also not for a device.
    let said = place.fails(2, &["backup", "web01", &format!("vda={}", top.device)]);
    assert!(said.contains(&format!("qcow2:{}", top.device)), "{said}");
    let source = format!("vda=qcow2:{}", top.device);
    let said = place.fails(1, &["backup", "web01", &source]);
    assert!(
        said.contains(&base.device) && said.contains("--allow-backing"),
        "{said}"
    );
    place.ok(&["backup", "web01", &source, "--allow-backing", "/dev"]);
    assert!(place.restored("web01@latest", "vda") == want);
    // An image whose data lies on a device, which qemu-img empties when it makes the image.
    fs::write(place.path("data"), &want).unwrap();
    let data = Loop::attach(&place, "data", &[]);
    let option = format!("data_file={},data_file_raw=on", data.device);
    tool::create(&place, &format!("-o {option} meta.qcow2 64M"));
    tool::ok(
        &place,
        "dd",
        &[
            "if=want.raw",
            &format!("of={}", data.device),
            "bs=1M",
            "conv=fsync",
            "status=none",
        ],
    );
    place.fails(1, &["backup", "web02", "vda=meta.qcow2"]);
    place.ok(&[
        "backup",
        "web02",
        "vda=meta.qcow2",
        "--allow-backing",
        "/dev",
    ]);
    assert!(place.restored("web02@latest", "vda") == want);
}

#[test]
fn a_foreign_image_opens_no_other_file() {
    if !has("qemu-nbd") {
        return;
    }
    let place = Place::new();
    content(&place);
    let secret = place.path("secret");
    fs::write(&secret, vec![5; 2 << 20]).unwrap();
    let descriptor = format!(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\n\
         RW 4096 FLAT \"{}\" 0\n\nddb.adapterType = \"ide\"\nddb.geometry.cylinders = \"4\"\n",
        secret.display()
    );
    fs::create_dir(place.path("images")).unwrap();
    fs::write(place.path("images/a.vmdk"), descriptor).unwrap();
    let said = place.fails(1, &["backup", "web01", "vda=images/a.vmdk"]);
    assert!(
        said.contains("secret") && said.contains("--allow-backing"),
        "{said}"
    );
    place.fails(
        1,
        &[
            "backup",
            "web01",
            "vda=images/a.vmdk",
            "--allow-backing",
            "images",
        ],
    );
    assert!(!place.repo().join("vms/web01").exists());
    place.ok(&[
        "backup",
        "web01",
        "vda=images/a.vmdk",
        "--allow-backing",
        ".",
    ]);
    assert!(
        place
            .restored("web01@latest", "vda")
            .iter()
            .all(|b| *b == 5)
    );
}

/// `qemu-nbd` listens before it has opened all files of the image: many extents before the foreign one make that long.
#[test]
fn a_foreign_image_opens_no_other_file_late() {
    if !has("qemu-nbd") {
        return;
    }
    let place = Place::new();
    fs::create_dir(place.path("images")).unwrap();
    fs::write(place.path("secret"), vec![5; 512]).unwrap();
    fs::write(place.path("images/e"), vec![1; 512]).unwrap();
    let near = "RW 1 FLAT \"e\" 0\n".repeat(400);
    let descriptor = format!(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"twoGbMaxExtentFlat\"\n\n\
         {near}RW 1 FLAT \"{}\" 0\n\nddb.adapterType = \"ide\"\nddb.geometry.cylinders = \"4\"\n",
        place.path("secret").display()
    );
    fs::write(place.path("images/a.vmdk"), descriptor).unwrap();
    for _ in 0..4 {
        let said = place.fails(
            1,
            &[
                "backup",
                "web01",
                "vda=images/a.vmdk",
                "--allow-backing",
                "images",
            ],
        );
        assert!(said.contains("secret"), "{said}");
    }
    assert!(!place.repo().join("vms/web01").exists());
}

/// What QEMU opens by other means than a file is in no list of open files.
#[test]
fn a_foreign_image_names_no_directory_and_no_server() {
    if !has("qemu-nbd") || !has("qemu-img") {
        return;
    }
    let place = Place::new();
    fs::create_dir(place.path("private")).unwrap();
    fs::write(place.path("private/key"), "secret").unwrap();
    let directory = format!("fat:{}", place.path("private").display());
    let json = format!(
        "json:{{\"driver\":\"vvfat\",\"dir\":\"{}\"}}",
        place.path("private").display()
    );
    let names = [&directory, &json, "nbd+unix:///?socket=/nowhere"];
    for (index, name) in names.into_iter().enumerate() {
        let (top, middle) = (format!("{index}.qed"), format!("{index}-middle.qed"));
        let make = |backing: &str, format: &str, file: &str| {
            let options = [
                "create", "-q", "-u", "-f", "qed", "-F", format, "-b", backing,
            ];
            tool::ok(
                &place,
                "qemu-img",
                &[&options[..], &[file, "504M"]].concat(),
            );
        };
        make(name, "raw", &middle);
        make(&middle, "qed", &top);
        for source in [&middle, &top] {
            let disk = format!("vda={source}");
            let said = place.fails(1, &["backup", "web01", &disk, "--allow-backing", "/"]);
            assert!(said.contains("may not be opened"), "{said}");
        }
    }
    assert!(!place.repo().join("vms/web01").exists());
}

#[test]
fn one_source_for_two_disks_is_refused() {
    let place = Place::new();
    place.disk("a.raw", 4, 1);
    place.disk("b.raw", 4, 2);
    fs::hard_link(place.path("a.raw"), place.path("hard.raw")).unwrap();
    std::os::unix::fs::symlink("a.raw", place.path("soft.raw")).unwrap();
    for same in ["a.raw", "hard.raw", "soft.raw", "./a.raw"] {
        let said = place.fails(2, &["backup", "web01", "vda=a.raw", &format!("vdb={same}")]);
        assert!(said.contains("the same source"), "{said}");
    }
    if is_root() {
        let device = Loop::attach(&place, "b.raw", &[]);
        let (one, two) = (
            format!("vda={}", device.device),
            format!("vdb={}", device.device),
        );
        place.fails(2, &["backup", "web01", &one, &two]);
    }
    place.ok(&["backup", "web01", "vda=a.raw", "vdb=b.raw"]);
}

/// The same mistake through the other doors: the file of an image written where a disk belongs.
#[test]
fn an_image_written_into_a_session_is_refused_for_a_new_disk() {
    if !has("qemu-img") || !has("nbdcopy") {
        return;
    }
    let place = Place::new();
    let want = content(&place);
    make(&place, "qcow2", &[], "a.qcow2");
    let length = fs::metadata(place.path("a.qcow2")).unwrap().len();
    let daemon = place.serve(&[]);
    let write = |session: &str, file: &str| {
        tool::ok(
            &place,
            "nbdcopy",
            &[file, &daemon.uri(&format!("web01/{session}/vda"))],
        );
    };
    place.ok(&["begin", "web01", &format!("vda={length}"), "--session", "s"]);
    write("s", "a.qcow2");
    let said = place.fails(2, &["commit", "web01/s"]);
    assert!(
        said.contains("begins as a qcow2 image") && said.contains("--raw vda"),
        "{said}"
    );
    place.ok(&["abort", "web01/s"]);
    // What is meant is written, and what is meant otherwise is declared.
    place.ok(&[
        "begin",
        "web01",
        &format!("vda={}", want.len()),
        "--session",
        "s",
    ]);
    write("s", "content.raw");
    place.ok(&["commit", "web01/s", "--point", "right"]);
    place.ok(&["begin", "rawly", &format!("vda={length}"), "--session", "s"]);
    tool::ok(&place, "nbdcopy", &["a.qcow2", &daemon.uri("rawly/s/vda")]);
    place.ok(&["commit", "rawly/s", "--raw", "vda"]);
    assert!(place.restored("rawly@latest", "vda") == fs::read(place.path("a.qcow2")).unwrap());
    // A guest may write what it likes.
    place.ok(&["begin", "web01", "--session", "s"]);
    write("s", "a.qcow2");
    place.ok(&["commit", "web01/s"]);
    daemon.stop();
}

/// A disk that was raw and whose file is now an image, smaller than the disk in it: the image is advised, not a new disk of its bytes.
#[test]
fn an_image_that_is_smaller_than_the_disk_before_it_is_called_one() {
    if !has("qemu-img") {
        return;
    }
    let place = Place::new();
    fs::write(place.path("before.raw"), vec![5; 32 << 20]).unwrap();
    place.ok(&["backup", "web01", "vda=before.raw"]);
    fs::write(place.path("content.raw"), vec![0; 32 << 20]).unwrap();
    make(&place, "qcow2", &[], "noble.img");
    let said = place.fails(2, &["backup", "web01", "vda=noble.img"]);
    assert!(said.contains("smaller than its parent"), "{said}");
    assert!(said.contains("begins as a qcow2 image"), "{said}");
    assert!(
        said.contains("qcow2:noble.img") && !said.contains("--full"),
        "{said}"
    );
    place.ok(&["backup", "web01", "vda=qcow2:noble.img"]);
}
