//! Files that go with the point.

use std::fs;
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

use crate::stand::{Stand, errno, ready};

#[test]
fn attached_files_are_plain_files() {
    if !ready(&[]) {
        return;
    }
    let (stand, bytes) = Stand::with_point("");
    stand.begin("s");
    let at = |name: &str| stand.at("vm/s.partial/attached").join(name);
    fs::write(at("domain.xml"), "<domain/>\n").unwrap();
    fs::write(at(".domain.xml.Xy1"), "<better/>\n").unwrap();
    fs::rename(at(".domain.xml.Xy1"), at("domain.xml")).unwrap();
    assert_eq!(fs::read_to_string(at("domain.xml")).unwrap(), "<better/>\n");
    let file = fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(at("ä notes"))
        .unwrap();
    file.write_all_at(b"end", 10_000).unwrap();
    file.set_len(10_001).unwrap();
    file.sync_all().unwrap();
    let large = fs::File::create(at("large")).unwrap();
    large.write_all_at(b"x", (16 << 20) - 1).unwrap();
    assert_eq!(errno(large.write_all_at(b"x", 16 << 20)), Errno::FBIG);
    assert_eq!(errno(large.set_len((16 << 20) + 1)), Errno::FBIG);
    assert!(stand.last_error("s").contains("16 MiB"));
    fs::rename(at("large"), at("gone")).unwrap();
    fs::write(at("gone"), "x").unwrap();
    fs::remove_file(at("gone")).unwrap();
    assert_eq!(errno(fs::read(at("gone"))), Errno::NOENT);
    assert_eq!(
        errno(fs::remove_dir(stand.at("vm/s.partial/attached"))),
        Errno::NOTEMPTY
    );
    // The same through the command line, seen here.
    let names = |dir: &str| -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(stand.at(dir))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("vm/s.partial/attached"), ["domain.xml", "ä notes"]);
    fs::write(stand.disk("s"), &bytes).unwrap();
    stand.commit("s", "p1").unwrap();
    assert_eq!(names("vm/p1/attached"), ["domain.xml", "ä notes"]);
    let notes = fs::read(stand.at("vm/p1/attached/ä notes")).unwrap();
    assert!(notes.len() == 10_001 && notes[10_000] == b'e');
    assert_eq!(errno(file.write_all_at(b"x", 0)), Errno::ROFS);
    let read = fs::read(stand.at("vm/p1/attached/domain.xml")).unwrap();
    assert_eq!(read, b"<better/>\n");
}
