//! Tests of domain XML.
#![expect(clippy::indexing_slicing, reason = "a test stops at what is missing")]

use super::{Description, Disk, Place, directories};

fn domain(disks: &str) -> String {
    format!(
        "<domain type='kvm' id='3'><name>web01</name><uuid>u-1</uuid>
        <os><type>hvm</type><nvram template='/t'>/var/lib/nvram/web01.fd</nvram></os>
        <devices>{disks}<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm></devices>
        <seclabel type='dynamic' model='apparmor'><label>libvirt-x</label></seclabel>
        <seclabel type='dynamic' model='dac'><label>+64055:+993</label></seclabel></domain>"
    )
}

fn one(target: &str, more: &str) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
        <source file='/i/{target}.qcow2'/><target dev='{target}'/>{more}</disk>"
    )
}

fn parsed(disks: &str) -> Description {
    Description::parse(&domain(disks)).unwrap()
}

#[test]
fn disks_are_taken_or_left_out_by_name() {
    let found = parsed(&[
        one("vda", "<serial> S1 </serial>"),
        "<disk type='block'><source dev='/dev/vg0/b'/><target dev='vdb'/><readonly/></disk>".to_owned(),
        "<disk type='volume'><driver type='raw'/><source pool='p' volume='v'/><target dev='vdc'/></disk>".to_owned(),
        "<disk type='network'><driver type='raw'/><source protocol='rbd' name='pool/image'><host name='h'/></source><target dev='vdd'/></disk>".to_owned(),
        "<disk type='file' device='cdrom'><source file='/a.iso'/><target dev='sda'/></disk>".to_owned(),
        "<disk type='file' device='floppy'><target dev='fda'/></disk>".to_owned(),
        "<disk type='block' device='lun'><source dev='/dev/sdx'/><target dev='sdb'/></disk>".to_owned(),
        one("vde", "<shareable/>"),
        one("vdf", "<transient/>"),
        "<disk type='file'><target dev='vdg'/></disk>".to_owned(),
        "<disk type='vhostuser'><source type='unix' path='/s'/><target dev='vdh'/></disk>".to_owned(),
    ].concat());
    assert_eq!(found.uuid, "u-1");
    assert_eq!(found.owner, Some((64055, 993)));
    assert!(found.has_tpm);
    assert_eq!(
        found.nvram.as_deref(),
        Some("/var/lib/nvram/web01.fd".as_ref())
    );
    let taken: Vec<_> = found
        .disks
        .iter()
        .map(|disk| disk.target.as_str())
        .collect();
    assert_eq!(taken, ["vda", "vdb", "vdc", "vdd"]);
    let keys: Vec<_> = found.disks.iter().map(Disk::key).collect();
    assert_eq!(
        keys,
        [
            "S1",
            "vdb:/dev/vg0/b",
            "vdc:p/v",
            "vdd:network:rbd/pool/image"
        ]
    );
    let tracked: Vec<_> = found.disks.iter().map(Disk::is_untracked).collect();
    let word = |number: usize, word: &str| {
        let reason = tracked.get(number).unwrap().as_ref();
        reason.unwrap().contains(word)
    };
    assert!(tracked.first().unwrap().is_none());
    assert!(word(1, "cannot write") && word(2, "raw"));
    assert_eq!(
        found.disks.get(1).unwrap().place,
        Place::Block("/dev/vg0/b".into())
    );
    let left: Vec<_> = found
        .left_out
        .iter()
        .map(|left| left.name.as_str())
        .collect();
    assert_eq!(left, ["sda", "fda", "sdb", "vde", "vdf", "vdg", "vdh"]);
    for (left, word) in found.left_out.iter().zip([
        "cdrom",
        "floppy",
        "lun",
        "shareable",
        "transient",
        "empty",
        "vhostuser",
    ]) {
        assert!(left.reason.contains(word), "{left:?}");
    }
}

#[test]
fn a_disk_is_known_by_what_stays() {
    // Another target, the same serial.
    let serial = "<serial>S1</serial>";
    let [a, b] = ["vda", "vdb"].map(|name| parsed(&one(name, serial)).disks[0].key());
    assert_eq!(a, b);
    // A serial that two have identifies neither.
    let both = parsed(&[one("vda", serial), one("vdb", serial)].concat());
    assert_eq!(both.disks[0].key(), "vda:/i/vda.qcow2");
    assert_eq!(both.disks[1].key(), "vdb:/i/vdb.qcow2");
    // A snapshot of the domain puts an overlay above the file.
    let overlay = "<disk type='file'><driver type='qcow2'/><source file='/s/vda.snap1'/>
        <backingStore type='file'><format type='qcow2'/><source file='/i/vda.qcow2'/><backingStore/></backingStore>
        <target dev='vda'/></disk>";
    let above = &parsed(overlay).disks[0];
    assert_eq!(above.key(), "vda:/i/vda.qcow2");
    assert_eq!(
        directories(above),
        [std::path::Path::new("/i"), "/s".as_ref()]
    );
    let long = overlay.replace("/i/vda", &format!("/i/{}", "x".repeat(300)));
    let key = parsed(&long).disks[0].key();
    assert!(key.starts_with("vda:") && key.len() == 68, "{key}");
}

#[test]
fn hostile_xml_is_refused_within_limits() {
    let deep = "<a>".repeat(200_000);
    let closed = format!("{}{}", "<a>".repeat(150_000), "</a>".repeat(150_000));
    let store = "<backingStore type='file'><source file='/x'/>";
    let chain = format!(
        "{}{}",
        store.repeat(100_000),
        "</backingStore>".repeat(100_000)
    );
    let wide = "<disk/>".repeat(300_000);
    for xml in [
        "",
        "nonsense",
        "<domain/>",
        "<domain><uuid>u</uuid><devices/></domain>",
        "<network><uuid>u</uuid><devices/></network>",
        "<!DOCTYPE d [<!ENTITY a 'b'>]><domain>&a;</domain>",
        &deep,
        &closed,
        &domain(&wide),
        &domain(&one("vda", &chain)),
        &domain("<disk><source file='/x'/></disk>"),
        &domain("<disk><source file='/x'/><target dev='../x'/></disk>"),
        &domain("<disk><source file='/x'/><target dev=''/></disk>"),
        &domain(&[one("vda", ""), one("VDA", "")].concat()),
    ] {
        assert!(Description::parse(xml).is_err(), "{xml:.60}");
    }
    // Cut anywhere, it is refused or read.
    let whole = domain(&one("vda", "<serial>S</serial>"));
    for at in 0..whole.len() {
        if let Some(part) = whole.get(..at) {
            assert!(Description::parse(part).is_err());
        }
    }
}
