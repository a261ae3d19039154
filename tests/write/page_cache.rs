//! What the kernel holds back: pages that were written by mmap, and pages of what another door has written.

use std::fs;
use std::os::unix::fs::FileExt;

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};

use crate::stand::{Stand, ready};

/// A shared mapping of the first bytes of a file.
struct Mapping {
    at: *mut std::ffi::c_void,
    length: usize,
}

#[expect(unsafe_code, reason = "mapped memory is what this is about")]
impl Mapping {
    fn new(file: &fs::File, length: usize) -> Self {
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a fresh mapping of its own; nothing else refers to it.
        let at = unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, prot, flags, file, 0) };
        Self {
            at: at.unwrap(),
            length,
        }
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.length);
        // SAFETY: within the mapping, which lives as long as self.
        unsafe {
            let to = self.at.cast::<u8>().add(offset);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }

    fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        assert!(offset + length <= self.length);
        // SAFETY: within the mapping, which lives as long as self.
        unsafe { std::slice::from_raw_parts(self.at.cast::<u8>().add(offset), length).to_vec() }
    }

    fn sync(&self) -> rustix::io::Result<()> {
        // SAFETY: the mapping is ours.
        unsafe { rustix::mm::msync(self.at, self.length, MsyncFlags::SYNC) }
    }
}

#[expect(unsafe_code, reason = "mapped memory is what this is about")]
impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nobody reads it any more.
        let _ = unsafe { rustix::mm::munmap(self.at, self.length) };
    }
}

fn open(path: &std::path::Path) -> fs::File {
    fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap()
}

#[test]
fn mapped_writes_reach_the_disk() {
    if !ready(&[]) {
        return;
    }
    let (stand, mut bytes) = Stand::with_point("");
    stand.begin("s");
    let file = open(&stand.disk("s"));
    let mapping = Mapping::new(&file, 1 << 20);
    assert!(mapping.read(0, 1 << 20) == bytes[..1 << 20]);
    for at in [10, 65_530, 700_000] {
        mapping.write(at, b"by memory");
        bytes[at..at + 9].copy_from_slice(b"by memory");
    }
    mapping.sync().unwrap();
    file.write_all_at(b"by hand", 20).unwrap();
    bytes[20..27].copy_from_slice(b"by hand");
    assert_eq!(mapping.read(20, 7), b"by hand");
    assert!(fs::read(stand.disk("s")).unwrap() == bytes);
    stand.commit("s", "p1").unwrap();
    assert!(stand.point("p1") == bytes);
}

/// What is dirty at the commit comes in; what becomes dirty after it is nowhere, also not in the page cache of the point.
#[test]
fn dirty_pages_do_not_outlive_a_commit() {
    if !ready(&[]) {
        return;
    }
    for options in ["threads=1", ""] {
        let (mut stand, mut bytes) = Stand::with_point(options);
        stand.begin("s");
        let file = open(&stand.disk("s"));
        let mapping = Mapping::new(&file, 1 << 20);
        mapping.write(4096, b"in time");
        mapping.write(300_000, b"in time, too");
        bytes[4096..4103].copy_from_slice(b"in time");
        bytes[300_000..300_012].copy_from_slice(b"in time, too");
        stand.commit("s", "p1").unwrap();
        assert!(stand.point("p1") == bytes, "{options}");
        // The page is gone with its inode; if the kernel lets it be dirtied once more, it goes nowhere.
        let written = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| mapping.sync()));
        drop(written);
        assert!(file.write_all_at(b"late", 0).is_err());
        assert!(stand.point("p1") == bytes, "{options}");
        drop(mapping);
        drop(file);
        stand.stop();
        stand.start("");
        assert!(stand.point("p1") == bytes, "{options}");
        assert!(stand.place.restored("vm@p1", "vda") == bytes);
    }
}

/// Committed through another door: the mapping's bytes come in all the same.
#[test]
fn dirty_pages_come_in_when_somebody_else_commits() {
    if !ready(&[]) {
        return;
    }
    let (stand, mut bytes) = Stand::with_point("");
    stand.begin("s");
    let file = open(&stand.disk("s"));
    let mapping = Mapping::new(&file, 1 << 20);
    mapping.write(0, b"mapped");
    bytes[..6].copy_from_slice(b"mapped");
    run_touch(&stand);
    stand.place.ok(&["commit", "vm/s", "--point", "p1"]);
    assert!(stand.point("p1") == bytes);
}

fn run_touch(stand: &Stand) {
    crate::stand::run("touch", &[crate::stand::text(&stand.disk("s"))]);
}

/// A listing and a size that were seen before are not believed after another door has changed them.
#[test]
fn what_comes_over_nbd_is_seen_at_once() {
    use restorefs::block::WriteAt;
    use restorefs::nbd::client::Client;

    if !ready(&[]) {
        return;
    }
    let (stand, mut bytes) = Stand::with_point("");
    stand.begin("s");
    let file = open(&stand.disk("s"));
    let mut read = vec![0; 5];
    file.read_exact_at(&mut read, 100).unwrap();
    let uri = stand.daemon().uri("vm/s/vda");
    let client = Client::connect(&uri.parse().unwrap()).unwrap();
    client.write_at(0, &[0x5a; 65_536]).unwrap();
    client.flush().unwrap();
    bytes[..65_536].fill(0x5a);
    file.read_exact_at(&mut read, 100).unwrap();
    assert_eq!(read, [0x5a; 5]);
    assert!(fs::read(stand.disk("s")).unwrap() == bytes);
}
