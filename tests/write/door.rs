//! A disk belongs to the door that writes it first.

use std::fs;
use std::os::unix::fs::FileExt;

use restorefs::block::WriteAt;
use restorefs::error::ErrorKind;
use restorefs::nbd::client::Client;
use rustix::io::Errno;

use crate::stand::{Stand, errno, ready};

fn client(stand: &Stand, disk: &str) -> Client {
    let uri = stand.daemon().uri(&format!("vm/s/{disk}"));
    Client::connect(&uri.parse().unwrap()).unwrap()
}

#[test]
fn the_first_door_has_the_disk() {
    if !ready(&[]) {
        return;
    }
    let (stand, bytes) = Stand::with_point("");
    stand.begin("two");
    fs::write(stand.at("vm/two.partial/disks/vdb.raw"), &bytes).unwrap();
    fs::write(stand.disk("two"), &bytes).unwrap();
    stand.commit("two", "p1").unwrap();
    stand.begin("s");
    let (by_nbd, by_tree) = (stand.disk("s"), stand.at("vm/s.partial/disks/vdb.raw"));
    let writer = client(&stand, "vda");
    writer.write_at(0, &[1; 512]).unwrap();
    let file = fs::File::options().write(true).open(&by_nbd).unwrap();
    assert_eq!(errno(file.write_all_at(b"x", 0)), Errno::BUSY);
    assert_eq!(errno(file.set_len(5)), Errno::BUSY);
    assert_eq!(errno(fs::remove_file(&by_nbd)), Errno::BUSY);
    assert!(
        stand.last_error("s").contains("another door (nbd)")
            || stand.last_error("s").contains("over NBD")
    );
    // And the other way round.
    let file = fs::File::options().write(true).open(&by_tree).unwrap();
    file.write_all_at(b"tree", 0).unwrap();
    let other = client(&stand, "vdb");
    let refused = other.write_at(0, &[1; 512]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{refused:?}");
    // While the NBD client is there, and writing, there is no point.
    assert_eq!(stand.commit("s", "p2").unwrap_err(), Errno::BUSY);
    assert!(stand.last_error("s").contains("vda"));
    writer.flush().unwrap();
    writer.disconnect().unwrap();
    drop(other);
    stand.commit("s", "p2").unwrap();
    assert_eq!(stand.point("p2")[..512], [1; 512]);
    let vdb = fs::read(stand.at("vm/p2/disks/vdb.raw")).unwrap();
    assert!(vdb[..4] == *b"tree" && vdb[4..] == bytes[4..]);
}
