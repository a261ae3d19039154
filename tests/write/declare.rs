//! Declarations: extended attributes of a session.

use std::fs;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::stand::{Stand, ready, run, text};

fn set(stand: &Stand, name: &str, value: &str) -> Result<(), Errno> {
    let path = stand.at("vm/s.partial");
    rustix::fs::setxattr(
        path,
        format!("user.restorefs.{name}"),
        value.as_bytes(),
        XattrFlags::empty(),
    )
}

fn get(stand: &Stand, name: &str) -> Result<String, Errno> {
    let mut value = vec![0; 1000];
    let path = stand.at("vm/s.partial");
    let length = rustix::fs::getxattr(path, format!("user.restorefs.{name}"), &mut value[..])?;
    value.truncate(length);
    Ok(String::from_utf8(value).unwrap())
}

#[test]
fn what_flags_say_elsewhere() {
    if !ready(&[]) {
        return;
    }
    let (mut stand, bytes) = Stand::with_point("");
    stand.begin("first");
    fs::write(stand.disk("first"), &bytes).unwrap();
    for name in ["vdb", "vdc"] {
        let path = stand.at(&format!("vm/first.partial/disks/{name}.raw"));
        fs::write(path, &bytes).unwrap();
    }
    stand.commit("first", "p1").unwrap();
    stand.begin("s");
    assert_eq!(get(&stand, "ttl").unwrap(), "86400");
    set(&stand, "ttl", "6h").unwrap();
    assert_eq!(get(&stand, "ttl").unwrap(), "21600");
    assert_eq!(stand.status("s")["ttl_seconds"], 21_600);
    set(&stand, "change_id.vda", "52 de 1c/7").unwrap();
    set(&stand, "unchanged", "vdb").unwrap();
    set(&stand, "without", "vdc").unwrap();
    set(&stand, "finished", "vda").unwrap();
    assert_eq!(stand.status("s")["disks"][0]["finished"], true);
    // Asked for by name only: a tool that makes the attributes of its source of those that it finds takes none of them back.
    let mut list = vec![0; 1000];
    let length = rustix::fs::listxattr(stand.at("vm/s.partial"), &mut list[..]).unwrap();
    assert_eq!(String::from_utf8_lossy(&list[..length]), "");
    assert_eq!(get(&stand, "finished").unwrap(), "vda");
    assert_eq!(get(&stand, "unchanged").unwrap(), "vdb");
    for (name, value, expected) in [
        ("unchanged", "vdx", Errno::INVAL),
        ("ttl", "soon", Errno::INVAL),
        ("ttl", "0", Errno::INVAL),
        ("colour", "blue", Errno::INVAL),
        ("change_id.vdx", "1", Errno::INVAL),
    ] {
        assert_eq!(set(&stand, name, value).unwrap_err(), expected, "{name}");
    }
    let path = stand.at("vm/s.partial");
    let other = rustix::fs::setxattr(&path, "user.colour", b"blue", XattrFlags::empty());
    assert_eq!(other.unwrap_err(), Errno::OPNOTSUPP);
    // They are kept over a restart.
    stand.stop();
    stand.start("");
    assert_eq!(get(&stand, "change_id.vda").unwrap(), "52 de 1c/7");
    assert_eq!(get(&stand, "without").unwrap(), "vdc");
    stand.commit("s", "p2").unwrap();
    let info = fs::read_to_string(stand.at("vm/p2/info.json")).unwrap();
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["disks"].as_array().unwrap().len(), 2);
    assert_eq!(info["disks"][0]["change_id"], "52 de 1c/7");
    assert_eq!(info["disks"][1]["name"], "vdb");
}

#[test]
fn declarations_can_be_taken_back() {
    if !ready(&[]) {
        return;
    }
    let (stand, _) = Stand::with_point("");
    stand.begin("s");
    set(&stand, "unchanged", "*").unwrap();
    assert_eq!(get(&stand, "unchanged").unwrap(), "vda");
    let remove = |name: &str| {
        rustix::fs::removexattr(stand.at("vm/s.partial"), format!("user.restorefs.{name}"))
    };
    remove("unchanged").unwrap();
    assert_eq!(get(&stand, "unchanged").unwrap_err(), Errno::NODATA);
    assert_eq!(remove("unchanged").unwrap_err(), Errno::NODATA);
    assert_eq!(remove("ttl").unwrap_err(), Errno::INVAL);
    assert_eq!(stand.commit("s", "p1").unwrap_err(), Errno::BUSY);
    set(&stand, "unchanged", "vda").unwrap();
    stand.commit("s", "p1").unwrap();
}

/// `cp disk.img S/disks/vda.raw` of an image: nobody would find its content in the point.
#[test]
fn an_image_that_is_copied_as_a_new_disk_is_refused_until_that_is_declared() {
    if !ready(&["qemu-img"]) {
        return;
    }
    let stand = Stand::new("");
    fs::create_dir(stand.at("vm")).unwrap();
    stand.begin("s");
    let image = stand.place.path("disk.img");
    run(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", text(&image), "4M"],
    );
    run("cp", &[text(&image), text(&stand.disk("s"))]);
    assert_eq!(stand.commit("s", "p1").unwrap_err(), Errno::BUSY);
    let why = stand.last_error("s");
    assert!(
        why.contains("begins as a qcow2 image") && why.contains("user.restorefs.raw"),
        "{why}"
    );
    set(&stand, "raw", "vda").unwrap();
    assert_eq!(get(&stand, "raw").unwrap(), "vda");
    stand.commit("s", "p1").unwrap();
    assert_eq!(stand.point("p1"), fs::read(&image).unwrap());
}
