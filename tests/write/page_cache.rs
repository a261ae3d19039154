//! Dirty pages in the kernel: pages that were written by mmap, and pages of data that another door wrote.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::stand::{Stand, ready, run, text};

/// What the process that has the mapping runs: `w OFFSET LENGTH BYTE`, `r OFFSET`, `s`; each is answered with a line.
const SCRIPT: &str = r#"
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    memory = mmap.mmap(file.fileno(), 1 << 20)
for line in sys.stdin:
    word, *numbers = line.split()
    numbers = [int(number) for number in numbers]
    if word == "w":
        memory[numbers[0]:numbers[0] + numbers[1]] = bytes([numbers[2]]) * numbers[1]
    if word == "s":
        memory.flush()
    print(memory[numbers[0]] if numbers else "done", flush=True)
"#;

/// A shared mapping of the first MiB of a file, in a process of its own.
struct Mapping {
    child: Child,
    commands: ChildStdin,
    said: BufReader<ChildStdout>,
}

impl Mapping {
    fn new(path: &std::path::Path) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", SCRIPT, path.to_str().unwrap()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let commands = child.stdin.take().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            commands,
            said,
        }
    }

    fn ask(&mut self, command: &str) -> String {
        writeln!(self.commands, "{command}").unwrap();
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Fills a range; returns once it is done.
    fn write(&mut self, offset: usize, length: usize, fill: u8) {
        let read = self.ask(&format!("w {offset} {length} {fill}"));
        assert_eq!(read, fill.to_string());
    }

    /// One byte.
    fn read(&mut self, offset: usize) -> u8 {
        self.ask(&format!("r {offset}")).parse().unwrap()
    }

    fn sync(&mut self) {
        assert_eq!(self.ask("s"), "done");
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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
    if !ready(&["python3"]) {
        return;
    }
    let (stand, mut bytes) = Stand::with_point("");
    stand.begin("s");
    let file = open(&stand.disk("s"));
    let mut mapping = Mapping::new(&stand.disk("s"));
    assert_eq!(mapping.read(5), bytes[5]);
    for at in [10, 65_530, 700_000] {
        mapping.write(at, 9, 0x6d);
        bytes[at..at + 9].fill(0x6d);
    }
    mapping.sync();
    file.write_all_at(b"by hand", 20).unwrap();
    bytes[20..27].copy_from_slice(b"by hand");
    assert_eq!(mapping.read(20), b'b');
    assert!(fs::read(stand.disk("s")).unwrap() == bytes);
    drop(mapping);
    stand.commit("s", "p1").unwrap();
    assert!(stand.point("p1") == bytes);
}

/// What is dirty at the commit comes in; what becomes dirty after it is nowhere, also not in the page cache of the point.
#[test]
fn dirty_pages_do_not_outlive_a_commit() {
    if !ready(&["python3"]) {
        return;
    }
    for options in ["threads=1", ""] {
        let (mut stand, mut bytes) = Stand::with_point(options);
        stand.begin("s");
        let file = open(&stand.disk("s"));
        let mut mapping = Mapping::new(&stand.disk("s"));
        mapping.write(4096, 7, 0x11);
        mapping.write(300_000, 12, 0x22);
        bytes[4096..4103].fill(0x11);
        bytes[300_000..300_012].fill(0x22);
        stand.commit("s", "p1").unwrap();
        assert!(stand.point("p1") == bytes, "{options}");
        // What is dirtied once more goes nowhere; the program that does it may be killed for it.
        let _ = writeln!(mapping.commands, "w 4096 7 51");
        let _ = writeln!(mapping.commands, "s");
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(file.write_all_at(b"late", 0).is_err());
        assert!(stand.point("p1") == bytes, "{options}");
        drop(mapping);
        drop(file);
        assert!(stand.point("p1") == bytes, "{options}");
        stand.stop();
        stand.start("");
        assert!(stand.point("p1") == bytes, "{options}");
        assert!(stand.place.restored("vm@p1", "vda") == bytes);
    }
}

/// Committed through another door: the mapping's bytes come in all the same.
#[test]
fn dirty_pages_come_in_when_somebody_else_commits() {
    if !ready(&["python3"]) {
        return;
    }
    let (stand, mut bytes) = Stand::with_point("");
    stand.begin("s");
    let mut mapping = Mapping::new(&stand.disk("s"));
    mapping.write(0, 6, 0x44);
    bytes[..6].fill(0x44);
    run("touch", &[text(&stand.disk("s"))]);
    stand.place.ok(&["commit", "vm/s", "--point", "p1"]);
    assert!(stand.point("p1") == bytes);
}

/// A listing and a size that were seen before are not believed after another door has changed them.
#[test]
fn what_comes_over_nbd_is_seen_at_once() {
    use restorefs::block::WriteAt;
    use restorefs::nbd::client::Client;

    if !ready(&["python3"]) {
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
