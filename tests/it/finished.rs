//! What the next process is told of a disk whose process was killed: that it is finished, or that it is not.

use std::sync::Arc;

use restorefs::clock::{Clock, ManualClock};
use restorefs::error::{ErrorKind, Result};
use restorefs::ingest::{BeginRequest, DiskRequest, DiskWriter, Engine, Session};
use restorefs::repo::Repository;
use restorefs::store::fault::{FaultStage, FaultStore, Faults};
use restorefs::store::memory::MemoryStore;
use restorefs::types::{DiskName, VmName};

use crate::world::open_engine;

const MEMORY: u64 = 64 << 20;

fn vm() -> VmName {
    VmName::new("web01").unwrap()
}

fn vda() -> DiskName {
    DiskName::new("vda").unwrap()
}

fn begin(engine: &Engine) -> Result<(Arc<Session>, Arc<DiskWriter>)> {
    let mut request = BeginRequest::new(vm());
    request.session = Some("s".parse().unwrap());
    request.disks.push(DiskRequest {
        name: vda(),
        source_bytes: Some(1 << 20),
        key: None,
        full: false,
    });
    let session = Session::begin(engine, &request)?;
    let disk = session.disk(&vda())?;
    Ok((session, disk))
}

/// The process is killed; what the next one knows.
fn is_finished_after_a_kill(engine: &Engine) -> bool {
    let session = Session::resume(engine, &vm(), &"s".parse().unwrap()).unwrap();
    session.disk(&vda()).unwrap().is_finished()
}

/// The log could not be written when the disk was declared finished; who declared it again was told that it is, and the log did not say so.
#[test]
fn a_disk_that_is_declared_finished_again_after_an_error_is_finished_after_a_kill() {
    let clock = Arc::new(ManualClock::at(1_795_226_400));
    let mut failed = 0;
    for n in 0.. {
        let store = MemoryStore::new();
        let shared = Arc::new(store.clone());
        Repository::init_store(shared.clone(), shared.clone(), clock.now()).unwrap();
        let faults = Faults::fail_once(n, ErrorKind::NoSpace);
        let engine = open_engine(
            Arc::new(FaultStore::new(shared.clone(), &faults)),
            Arc::new(FaultStage::new(shared.clone(), &faults)),
            &clock,
            MEMORY,
        );
        let Ok(engine) = engine else { continue };
        let Ok((session, disk)) = begin(&engine) else {
            continue;
        };
        if disk.write(0, &[1; 65_536]).is_err() || session.flush().is_err() {
            continue;
        }
        let before = faults.changes();
        disk.set_finished(true);
        if session.flush().is_err() {
            failed += 1;
            disk.set_finished(true);
            if session.flush().is_err() {
                // An fsync of the layer is never repeated.
                assert!(disk.is_unsure(), "{n}");
                continue;
            }
        }
        drop((disk, session, engine));
        let engine = open_engine(shared.clone(), shared, &clock, MEMORY).unwrap();
        assert!(is_finished_after_a_kill(&engine), "{n}");
        if n > before + 10 {
            break;
        }
    }
    assert!(failed >= 2, "{failed}");
}
