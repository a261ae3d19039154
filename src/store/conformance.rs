//! The conformance suite: what every [`Store`] and [`Stage`] promises, run against each implementation and wrapper.
//!
//! Public, so that integration tests run it too. It panics with a description of the fault and has no other
//! use.

use super::{Key, PutMode, Stage, Store};
use crate::block::{MemoryDisk, WriteAt};
use crate::error::{ErrorKind, Result};

fn key(path: &str) -> Key {
    Key::parse(path).expect("a key of the suite")
}

#[track_caller]
fn fails<T>(result: Result<T>, kind: ErrorKind) {
    match result {
        Ok(_) => panic!("this must fail with {kind:?}"),
        Err(error) => assert_eq!(error.kind(), kind, "{error:?}"),
    }
}

fn names(entries: Result<Vec<super::Entry>>) -> Vec<String> {
    entries
        .expect("a listing")
        .into_iter()
        .map(|entry| {
            let slash = if entry.is_prefix { "/" } else { "" };
            format!("{}{slash}={}", entry.name, entry.size_bytes)
        })
        .collect()
}

/// Checks a store, which must be empty.
///
/// # Panics
/// Panics with a description of the fault.
pub fn check_store(store: &dyn Store) {
    check_objects(store);
    check_names(store);
    check_large(store);
    check_append(store);
    check_lock(store);
}

fn check_objects(store: &dyn Store) {
    let object = key("a/b/object");
    fails(store.get(&object, 10), ErrorKind::NotFound);
    fails(store.open(&object).map(drop), ErrorKind::NotFound);
    fails(store.list(&key("a")), ErrorKind::NotFound);
    store.put(&object, b"first", PutMode::Create).expect("put");
    fails(
        store.put(&object, b"other", PutMode::Create),
        ErrorKind::AlreadyExists,
    );
    assert_eq!(store.get(&object, 5).expect("get"), b"first");
    fails(store.get(&object, 4), ErrorKind::LimitExceeded);
    let opened = store.open(&object).expect("open");
    store
        .put(&object, b"the second", PutMode::Replace)
        .expect("replace");
    assert_eq!(store.get(&object, 100).expect("get"), b"the second");
    let mut bytes = [0; 3];
    opened.read_at(1, &mut bytes).expect("a ranged read");
    assert_eq!(&bytes, b"irs", "an open object is the one that was opened");
    assert_eq!(opened.size_bytes(), 5);
    store.stored_bytes(&object).expect("what it takes");
    fails(store.stored_bytes(&key("a/none")), ErrorKind::NotFound);
    store
        .put(&key("a/empty"), b"", PutMode::Replace)
        .expect("put");
    assert_eq!(store.get(&key("a/empty"), 0).expect("get"), b"");
    assert_eq!(names(store.list(&key("a"))), ["b/=0", "empty=0"]);
    assert_eq!(names(store.list(&key("a/b"))), ["object=10"]);
    assert_eq!(names(store.list(&Key::root())), ["a/=0"]);
    fails(store.open(&key("a/b")).map(drop), ErrorKind::Corrupt);
    fails(store.get(&key("a/b"), 9), ErrorKind::Corrupt);
    assert!(store.put(&key("a/b"), b"x", PutMode::Replace).is_err());
    fails(store.list(&object), ErrorKind::NotADirectory);
    fails(
        store.put(&key("a/empty/x"), b"", PutMode::Create),
        ErrorKind::NotADirectory,
    );
}

/// Checks uploads, and the deletion of a prefix with everything below it.
fn check_large(store: &dyn Store) {
    let object = key("large/deep/object");
    let source = MemoryDisk::sparse(3 << 20);
    source.write_at((2 << 20) + 7, b"bytes").expect("write");
    let upload = |mode| store.upload(&object, &source, mode);
    upload(PutMode::Create).expect("upload");
    fails(upload(PutMode::Create), ErrorKind::AlreadyExists);
    let opened = store.open(&object).expect("open");
    assert_eq!(opened.size_bytes(), 3 << 20);
    let mut bytes = [1; 6];
    opened.read_at((2 << 20) + 6, &mut bytes).expect("read");
    assert_eq!(&bytes, b"\0bytes");
    source.set_size(1).expect("cut");
    upload(PutMode::Replace).expect("replace");
    assert_eq!(store.get(&object, 9).expect("get"), b"\0");
    assert_eq!(opened.size_bytes(), 3 << 20);
    store.make_prefix(&key("large/hollow")).expect("make");
    store.make_prefix(&key("large/hollow")).expect("make again");
    store.sweep(&key("large")).expect("sweep");
    store.sweep(&key("none")).expect("nothing to sweep");
    assert_eq!(store.get(&object, 9).expect("get"), b"\0");
    store.delete_all(&key("large")).expect("delete all");
    fails(store.delete_all(&key("large")), ErrorKind::NotFound);
    fails(store.get(&object, 9), ErrorKind::NotFound);
}

fn check_append(store: &dyn Store) {
    let object = key("history/lines");
    store.append(&object, b"one\n").expect("append");
    store.append(&object, b"two\n").expect("append");
    assert_eq!(store.get(&object, 99).expect("get"), b"one\ntwo\n");
    store.delete_all(&object).expect("delete all of an object");
    store.delete(&key("history")).expect("delete");
}

fn check_names(store: &dyn Store) {
    fails(store.delete(&key("a")), ErrorKind::NotEmpty);
    fails(store.delete(&key("none")), ErrorKind::NotFound);
    fails(store.rename(&key("none"), &key("x")), ErrorKind::NotFound);
    fails(
        store.rename(&key("a/b/object"), &key("a/empty")),
        ErrorKind::AlreadyExists,
    );
    fails(
        store.rename(&key("a/b"), &key("a/empty")),
        ErrorKind::AlreadyExists,
    );
    fails(
        store.rename(&key("a"), &key("a/into/itself")),
        ErrorKind::InvalidInput,
    );
    // An empty prefix exists too.
    store
        .put(&key("hollow/x"), b"", PutMode::Create)
        .expect("put");
    store.delete(&key("hollow/x")).expect("delete");
    assert_eq!(names(store.list(&key("hollow"))), [""; 0]);
    fails(
        store.rename(&key("a/b"), &key("hollow")),
        ErrorKind::AlreadyExists,
    );
    store
        .rename(&key("a/b"), &key("trash/deep/b"))
        .expect("a rename into a new prefix");
    assert_eq!(
        store.get(&key("trash/deep/b/object"), 99).expect("get"),
        b"the second"
    );
    fails(store.get(&key("a/b/object"), 99), ErrorKind::NotFound);
    for name in [
        "hollow",
        "a/empty",
        "a",
        "trash/deep/b/object",
        "trash/deep/b",
        "trash/deep",
        "trash",
    ] {
        store.delete(&key(name)).expect("delete");
    }
    assert_eq!(names(store.list(&Key::root())), [""; 0]);
}

fn check_lock(store: &dyn Store) {
    let lock = key("lock");
    assert_eq!(store.lock_note(&lock).expect("no note"), None);
    let held = store.lock(&lock, b"host a, pid 1").expect("lock");
    held.verify().expect("ours");
    let error = store
        .lock(&lock, b"host b, pid 2")
        .map(drop)
        .expect_err("a second locker");
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(error.to_string().contains("host a, pid 1"), "{error}");
    held.renew(b"later").expect("renew");
    assert_eq!(
        store.lock_note(&lock).expect("a note").as_deref(),
        Some(&b"later"[..])
    );
    held.verify().expect("still ours");
    drop(held);
    assert_eq!(store.lock_note(&lock).expect("released"), None);
    drop(store.lock(&lock, b"host b, pid 2").expect("lock again"));
    store.delete(&lock).expect("delete");
}

/// Checks a stage, which must be empty. `store` is the store that it publishes to, if the test can read it
/// back.
///
/// # Panics
/// Panics with a description of the fault.
pub fn check_stage(stage: &dyn Stage, store: Option<&dyn Store>) {
    let session = key("points/.s.partial");
    fails(
        stage.create(&key("points/.s.partial/x")).map(drop),
        ErrorKind::NotFound,
    );
    stage.make_prefix(&session).expect("make");
    stage.make_prefix(&session).expect("make again");
    let path = key("points/.s.partial/vda.map");
    let file = stage.create(&path).expect("create");
    fails(stage.create(&path).map(drop), ErrorKind::AlreadyExists);
    file.write_at(3, b"bytes").expect("write");
    file.flush().expect("flush");
    let again = stage.open(&path).expect("open");
    assert_eq!(again.size_bytes(), 8);
    again.write_at(0, b"abc").expect("write");
    let mut bytes = [0; 8];
    file.read_at(0, &mut bytes).expect("read");
    assert_eq!(&bytes, b"abcbytes");
    fails(
        stage.open(&key("points/none")).map(drop),
        ErrorKind::NotFound,
    );

    let json = key("points/.s.partial/session.json");
    stage.put(&json, b"{}", PutMode::Create).expect("put");
    fails(
        stage.put(&json, b"", PutMode::Create),
        ErrorKind::AlreadyExists,
    );
    stage.put(&json, b"{1}", PutMode::Replace).expect("put");
    assert_eq!(stage.get(&json, 9).expect("get"), b"{1}");
    fails(stage.get(&json, 2), ErrorKind::LimitExceeded);
    assert_eq!(names(stage.list(&session)), ["session.json=3", "vda.map=8"]);
    stage.sync_prefix(&session).expect("sync");
    check_publish(stage, store, &session);
}

fn check_publish(stage: &dyn Stage, store: Option<&dyn Store>, session: &Key) {
    let (open, done) = (key("layers/x.open"), key("layers/x.qcow2"));
    stage.make_prefix(&key("layers")).expect("make");
    stage
        .create(&open)
        .and_then(|file| file.write_at(0, b"layer"))
        .expect("a file to publish");
    let publish = |mode| stage.publish(&open, &done, mode);
    fails(
        stage.publish(&key("layers/none"), &done, PutMode::Create),
        ErrorKind::NotFound,
    );
    publish(PutMode::Create).expect("publish");
    stage.sync_prefix(&key("layers")).expect("sync");
    if let Some(store) = store {
        assert_eq!(store.get(&done, 9).expect("get"), b"layer");
    }
    // After `reclaim` the file belongs to the workspace again and can be published anew.
    stage.reclaim(&done, &open).expect("reclaim");
    stage.reclaim(&done, &open).expect("it is its own already");
    if let Some(store) = store {
        fails(store.get(&done, 9), ErrorKind::NotFound);
    }
    stage
        .open(&open)
        .and_then(|file| file.write_at(0, b"LAYER"))
        .expect("what was taken back is writable");
    publish(PutMode::Create).expect("publish again");
    fails(
        stage.reclaim(&key("layers/none"), &key("layers/none.open")),
        ErrorKind::NotFound,
    );
    let opened = store.map(|store| store.open(&done).expect("open"));
    let _ = stage.delete(&open);
    stage
        .create(&open)
        .and_then(|file| file.write_at(0, b"other"))
        .expect("create again");
    fails(publish(PutMode::Create), ErrorKind::AlreadyExists);
    stage
        .open(&open)
        .expect("what was not published stays writable");
    publish(PutMode::Replace).expect("replace");
    if let (Some(store), Some(opened)) = (store, opened) {
        assert_eq!(store.get(&done, 9).expect("get"), b"other");
        let mut bytes = [0; 5];
        opened.read_at(0, &mut bytes).expect("read");
        assert_eq!(
            &bytes, b"LAYER",
            "an open object is the one that was opened"
        );
    }

    let point = key("points/p");
    fails(
        stage.publish_prefix(session, &point, "point.json"),
        ErrorKind::NotFound,
    );
    let last = key("points/.s.partial/point.json");
    stage.put(&last, b"{}", PutMode::Create).expect("put");
    if let Some(store) = store {
        let other = key("points/p/point.json");
        store.put(&other, b"other", PutMode::Create).expect("put");
        fails(
            stage.publish_prefix(session, &point, "point.json"),
            ErrorKind::AlreadyExists,
        );
        assert_eq!(store.get(&other, 9).expect("get"), b"other");
        store.delete_all(&point).expect("delete all");
    }
    stage
        .publish_prefix(session, &point, "point.json")
        .expect("publish");
    fails(stage.list(session), ErrorKind::NotFound);
    fails(
        stage.publish_prefix(session, &point, "point.json"),
        ErrorKind::NotFound,
    );
    if let Some(store) = store {
        assert_eq!(
            names(store.list(&point)),
            ["point.json=2", "session.json=3", "vda.map=8"]
        );
    }
    stage.make_prefix(&key("aborted/deep")).expect("make");
    stage
        .put(&key("aborted/deep/x"), b"x", PutMode::Create)
        .expect("put");
    stage
        .delete(&key("aborted"))
        .expect("a prefix with all below");
    fails(stage.delete(&key("aborted")), ErrorKind::NotFound);
    fails(stage.list(&key("aborted")), ErrorKind::NotFound);
}
