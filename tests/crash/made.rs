//! What is made in a session while it is open: a disk, a replacement, an attached file. What was synced is there after the power was lost.

use restorefs::block::ReadAt;
use restorefs::block::filter::Power;
use restorefs::ingest::{BeginRequest, DiskRequest, Session};
use restorefs::types::DiskName;

use crate::history::{disk, open_engine, vm};
use crate::pair::Places;
use crate::volatile_pair::{VolatilePair, fresh};

fn bytes_of(session: &Session, name: &DiskName) -> Vec<u8> {
    let disk = session.disk(name).unwrap();
    let mut found = vec![0xaa; disk.source_bytes() as usize];
    disk.read_at(0, &mut found).unwrap();
    found
}

/// `session.json` named a disk whose layer and log had no durable names yet: after a loss of power the whole session could not go on,
/// with all that had been synced into its other disks.
fn a_disk_that_was_made_does_not_cost_the_session(places: Places) {
    let store = VolatilePair::new(&Power::steady(), &fresh(places));
    let engine = open_engine(store.sides()).unwrap();
    let mut request = BeginRequest::new(vm());
    request.disks.push(DiskRequest {
        name: disk(),
        source_bytes: Some(4096),
        key: None,
        full: false,
    });
    let session = Session::begin(&engine, &request).unwrap();
    session.disk(&disk()).unwrap().write(0, &[1; 4096]).unwrap();
    session.flush().unwrap();
    let name = session.name();
    let other = DiskName::new("vdb").unwrap();

    let made = session.create_file(&other, None).unwrap();
    for seed in 0..12 {
        let left = store.after_power_loss(seed);
        let engine = open_engine(left.sides()).unwrap();
        let session = Session::resume(&engine, &vm(), &name)
            .unwrap_or_else(|e| panic!("seed {seed}: {}", e.report()));
        assert!(bytes_of(&session, &disk()) == [1; 4096], "seed {seed}");
    }
    made.write_growing(0, &[2; 5000]).unwrap();
    made.flush().unwrap();
    session.create_attached("note").unwrap();
    session.write_attached("note", 0, b"synced").unwrap();
    session.flush_attached("note").unwrap();
    for seed in 0..12 {
        let left = store.after_power_loss(seed);
        let engine = open_engine(left.sides()).unwrap();
        let session = Session::resume(&engine, &vm(), &name).unwrap();
        assert!(bytes_of(&session, &disk()) == [1; 4096], "seed {seed}");
        assert!(bytes_of(&session, &other) == [2; 5000], "seed {seed}");
        let note = session
            .read_attached("note")
            .unwrap_or_else(|e| panic!("seed {seed}: {}", e.report()));
        let mut found = [0; 6];
        note.read_at(0, &mut found).unwrap();
        assert_eq!(&found, b"synced", "seed {seed}");
    }
}

over_memories!(a_disk_that_was_made_does_not_cost_the_session);
