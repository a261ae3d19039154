//! Poorer filesystems (NFS, SMB): the same history where renameat2 flags, reflink, the immutable flag, punching and
//! openat2 are refused. `RESTOREFS_REFUSE` is read once by a process, so the history runs in a child.

use std::process::Command;
use std::sync::Arc;

use restorefs::clock::{Clock, ManualClock};
use restorefs::repo::Repository;
use restorefs::store::local::LocalStore;

use crate::history::{Log, check, open_engine, run};

const CHILD: &str = "RESTOREFS_POOR_CHILD";

#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(LocalStore::open(dir.path()).unwrap());
    Repository::init_store(
        store.clone(),
        store.clone(),
        ManualClock::at(1_795_226_400).now(),
    )
    .unwrap();
    drop(store);
    let mut log = Log::default();
    {
        let store = Arc::new(LocalStore::open(dir.path()).unwrap());
        let engine = open_engine((store.clone(), store)).unwrap();
        run(&engine, 3, 6, &mut log, &mut |_| ()).unwrap();
    }
    let store = Arc::new(LocalStore::open(dir.path()).unwrap());
    check(&open_engine((store.clone(), store)).unwrap(), &log);
    assert_eq!(log.answered.len(), 6);
}

#[test]
fn the_same_without_the_calls_that_nfs_and_smb_refuse() {
    for refused in [
        "renameat2",
        "punch",
        "openat2",
        "renameat2,reflink,immutable,punch,openat2",
    ] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "poor::child", "--nocapture"])
            .env(CHILD, "1")
            .env("RESTOREFS_REFUSE", refused)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{refused}: {said}");
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("1 passed"),
            "{refused}: the child ran nothing"
        );
    }
}
