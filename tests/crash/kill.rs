//! kill -9 at random instants, on a real filesystem: the child commits in a loop and reports each answer on a pipe.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use restorefs::clock::{Clock, ManualClock};
use restorefs::repo::Repository;
use restorefs::store::{LocalStore, Stage, Store, Workspace};

use crate::history::{Log, Model, Random, check, open_engine, run};

/// Set for the child; its value is the repository.
const CHILD: &str = "RESTOREFS_CRASH_CHILD";
const SEED: &str = "RESTOREFS_CRASH_SEED";

fn rounds() -> u64 {
    std::env::var("RESTOREFS_KILLS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(200)
}

/// A log as one line: `answered name v,v,..;..|committing|allowed`.
fn encode(log: &Log) -> String {
    let list = |versions: &[u32]| {
        versions
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",")
    };
    let answered: Vec<String> = log
        .answered
        .iter()
        .map(|(name, v)| format!("{name} {}", list(v)))
        .collect();
    let committing = log.committing.as_ref().map(|v| list(v)).unwrap_or_default();
    let open = log.open.as_ref().map(|model| {
        let sets: Vec<String> = model
            .allowed
            .iter()
            .map(|set| list(&set.iter().copied().collect::<Vec<_>>()))
            .collect();
        sets.join(";")
    });
    format!(
        "{}|{committing}|{}",
        answered.join(";"),
        open.unwrap_or_default()
    )
}

fn decode(line: &str) -> Log {
    let list = |text: &str| {
        text.split(',')
            .map(|n| n.parse().unwrap())
            .collect::<Vec<u32>>()
    };
    let mut parts = line.split('|');
    let answered = parts
        .next()
        .unwrap()
        .split(';')
        .filter(|t| !t.is_empty())
        .map(|t| {
            let (name, versions) = t.split_once(' ').unwrap();
            (name.to_owned(), list(versions))
        });
    let answered = answered.collect();
    let committing = Some(parts.next().unwrap())
        .filter(|t| !t.is_empty())
        .map(list);
    let open = Some(parts.next().unwrap())
        .filter(|t| !t.is_empty())
        .map(|t| {
            let allowed: Vec<BTreeSet<u32>> = t
                .split(';')
                .map(|set| list(set).into_iter().collect())
                .collect();
            Model {
                now: allowed
                    .iter()
                    .map(|set| *set.iter().next_back().unwrap())
                    .collect(),
                allowed,
            }
        });
    Log {
        answered,
        committing,
        open,
    }
}

/// Store and workspace below `dir`: one directory, or two when there is one for the workspace.
fn sides(dir: &Path) -> (Arc<dyn Store>, Arc<dyn Stage>) {
    let open = |name: &str| Arc::new(LocalStore::open(dir.join(name)).unwrap());
    let store = open("store");
    if dir.join("workspace").exists() {
        let workspace = Workspace::new(open("workspace"), store.clone());
        return (store, Arc::new(workspace));
    }
    (store.clone(), store)
}

/// The child's part; in the parent it does nothing.
#[test]
fn child() {
    let Ok(repo) = std::env::var(CHILD) else {
        return;
    };
    let seed = std::env::var(SEED).unwrap().parse().unwrap();
    let engine = open_engine(sides(Path::new(&repo))).unwrap();
    let mut log = Log::default();
    let mut out = std::io::stderr().lock();
    // A line is written before each write, so that every version that may be found has been announced.
    run(&engine, seed, usize::MAX, &mut log, &mut |log| {
        writeln!(out, "LOG {}", encode(log)).unwrap();
    })
    .unwrap();
}

#[test]
fn kill_9_at_random_instants() {
    kill_at_random_instants(&["store"]);
}

#[test]
fn kill_9_at_random_instants_with_a_workspace_elsewhere() {
    kill_at_random_instants(&["store", "workspace"]);
}

fn kill_at_random_instants(dirs: &[&str]) {
    let mut random = Random(42);
    let (mut commits, mut resumed) = (0, 0);
    // Milliseconds within which it is killed; more as long as a busy machine lets it come to nothing.
    let mut reach = 120;
    for round in 0..rounds() {
        let dir = tempfile::tempdir().unwrap();
        for name in dirs {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let (store, stage) = sides(dir.path());
        Repository::init_store(store, stage, ManualClock::at(1_795_226_400).now()).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::child", "--nocapture", "--test-threads=1"])
            .env(CHILD, dir.path())
            .env(SEED, round.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let reader = std::thread::spawn(move || {
            let mut last = None;
            let mut reader = BufReader::new(stderr);
            let mut line = String::new();
            // A line that the kill cut short was not said: what it announces had not begun.
            while reader.read_line(&mut line).is_ok_and(|n| n > 0) && line.ends_with('\n') {
                if let Some(text) = line.trim_end().strip_prefix("LOG ") {
                    last = Some(text.to_owned());
                }
                line.clear();
            }
            last
        });
        std::thread::sleep(Duration::from_millis(5 + random.below(reach)));
        child.kill().unwrap();
        child.wait().unwrap();
        let log = reader
            .join()
            .unwrap()
            .map_or_else(Log::default, |line| decode(&line));
        let engine = open_engine(sides(dir.path())).unwrap();
        commits += log.answered.len();
        resumed += usize::from(log.open.is_some());
        if commits == 0 || resumed == 0 {
            reach = (reach * 5 / 4).min(10_000);
        }
        let shown = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&engine, &log)));
        assert!(shown.is_ok(), "round {round}");
    }
    assert!(
        commits > 0 && resumed > 0,
        "the child was always killed too early: {commits} commits, {resumed} open sessions"
    );
}
