//! Whether a disk is finished, as the next process finds it after its writer was killed.

use std::sync::Arc;

use restorefs::clock::ManualClock;
use restorefs::error::{ErrorKind, Result};
use restorefs::ingest::{BeginRequest, Connection, DiskRequest, DiskWriter, Door, Engine, Session};
use restorefs::store::fault::{Faults, Moment};
use restorefs::types::{DiskName, VmName};

use crate::pair::Places;
use crate::world::{World, init, note_write, open_engine, read_all};

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

/// Writes as the tree does, up to the moment when the bytes are handed in.
fn write(disk: &DiskWriter, fill: u8) {
    let _writing = disk.begin_write().unwrap();
    let written = disk.write_growing(0, &[fill; 65_536]);
    disk.note_handed_in(0, 65_536, written).unwrap();
}

/// It was declared finished between a write's header and its payload, which overwrote in place what the log called finished.
fn a_disk_that_is_declared_finished_while_a_client_writes_is_not_after_a_kill(places: Places) {
    let mut world = World::over(places, MEMORY);
    let (session, disk) = begin(world.engine()).unwrap();
    let connection = session.enter(&disk).unwrap();
    note_write(&connection, &disk).unwrap();
    disk.write(0, &[1; 65_536]).unwrap();
    // The next write: its header is here.
    note_write(&connection, &disk).unwrap();
    disk.set_finished(true);
    session.flush().unwrap();
    assert!(!disk.is_finished());
    disk.write(0, &[2; 65_536]).unwrap();
    drop((connection, disk, session));
    world.start();
    assert!(!is_finished_after_a_kill(world.engine()));
}

/// Somebody synced or touched the file while another one's write was under way, which came after that.
fn a_file_that_is_synced_during_a_write_is_not_finished_after_a_kill(places: Places) {
    for touch in [false, true] {
        let mut world = World::over(places, MEMORY);
        let (session, disk) = begin(world.engine()).unwrap();
        disk.claim(Door::Tree).unwrap();
        write(&disk, 1);
        let writing = disk.begin_write().unwrap();
        if touch {
            disk.set_finished(true);
        }
        disk.sync_file().unwrap();
        disk.write_growing(0, &[2; 65_536]).unwrap();
        drop(writing);
        drop((disk, session));
        world.start();
        assert!(!is_finished_after_a_kill(world.engine()), "{touch}");
        // A sync after the write says it again.
        let session = Session::resume(world.engine(), &vm(), &"s".parse().unwrap()).unwrap();
        let disk = session.disk(&vda()).unwrap();
        write(&disk, 3);
        disk.sync_file().unwrap();
        drop((disk, session));
        world.start();
        assert!(is_finished_after_a_kill(world.engine()), "{touch}");
    }
}

/// The log could not be written when the disk was declared finished; who declared it again was told that it is, and the log did not say so.
fn a_disk_that_is_declared_finished_again_after_an_error_is_finished_after_a_kill(places: Places) {
    let clock = Arc::new(ManualClock::at(1_795_226_400));
    let mut failed = 0;
    for n in 0.. {
        let pair = init(places, &clock);
        let faults = Faults::fail_once(n, ErrorKind::NoSpace);
        let engine = open_engine(pair.faulty(&faults), &clock, MEMORY);
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
        let engine = open_engine(pair.sides(), &clock, MEMORY).unwrap();
        assert!(is_finished_after_a_kill(&engine), "{n}");
        if n > before + 10 {
            break;
        }
    }
    assert!(failed >= 2, "{failed}");
}

const CLUSTERS: u64 = 4;

/// Writes the half of the disk that begins at `from`, over NBD, in pieces that are no clusters, and says goodbye. As clients do that look
/// at no errors.
fn write_half(session: &Session, client: (Arc<DiskWriter>, Connection), from: u64, fill: u8) {
    let (disk, connection) = client;
    let end = from + CLUSTERS / 2 * 65_536;
    let mut at = from;
    while at < end {
        let length = (end - at).min(40_000);
        if note_write(&connection, &disk).is_ok() {
            let Ok(mut reserved) = session.reserve(&disk, at, length) else {
                break;
            };
            reserved.bytes_mut().fill(fill);
            // What could not be written is missing.
            drop(reserved.submit());
        } else {
            // Whoever is refused tells of it and dies.
            return;
        }
        at += length;
    }
    drop(connection.finish());
}

/// Two clients write the disk again and again, and say goodbye at the same time; somebody flushes beside them.
fn rounds(engine: &Engine) {
    let Ok((session, disk)) = begin(engine) else {
        return;
    };
    for fill in 1..4 {
        // Both have begun before one can end.
        let client = || {
            let connection = session.enter(&disk)?;
            note_write(&connection, &disk)?;
            Ok::<_, restorefs::error::Error>((Arc::clone(&disk), connection))
        };
        let (Ok(one), Ok(other)) = (client(), client()) else {
            continue;
        };
        std::thread::scope(|scope| {
            scope.spawn(|| write_half(&session, one, 0, fill));
            scope.spawn(|| write_half(&session, other, CLUSTERS / 2 * 65_536, fill));
            scope.spawn(|| disk.flush().is_ok());
        });
    }
}

/// Wherever the process is killed, or a change fails, what is finished afterwards has been written by both and to the end.
fn what_is_finished_after_a_kill_is_whole(places: Places) {
    let clock = Arc::new(ManualClock::at(1_795_226_400));
    let mut finished = 0;
    let mut n = 0;
    loop {
        let mut most = 0;
        for faults in [
            Faults::kill_at(n, Moment::Before),
            Faults::kill_at(n, Moment::After),
            Faults::fail_once(n, ErrorKind::NoSpace),
            Faults::fail_once(n, ErrorKind::Io),
        ] {
            let pair = init(places, &clock);
            let engine = open_engine(pair.faulty(&faults), &clock, MEMORY);
            let Ok(engine) = engine else { continue };
            rounds(&engine);
            most = most.max(faults.changes());
            drop(engine);
            let engine = open_engine(pair.sides(), &clock, MEMORY).unwrap();
            let Ok(session) = Session::resume(&engine, &vm(), &"s".parse().unwrap()) else {
                continue;
            };
            let disk = session.disk(&vda()).unwrap();
            if disk.is_finished() {
                finished += 1;
                let bytes = read_all(disk.as_ref());
                let fill = bytes[0];
                assert!(
                    fill > 0
                        && bytes[..CLUSTERS as usize * 65_536]
                            .iter()
                            .all(|b| *b == fill),
                    "{n} {faults:?}"
                );
            }
        }
        n += 1;
        if most > 0 && n > most {
            break;
        }
    }
    assert!(finished > 20, "{finished}");
}

over_memories!(
    a_disk_that_is_declared_finished_while_a_client_writes_is_not_after_a_kill,
    a_file_that_is_synced_during_a_write_is_not_finished_after_a_kill,
    a_disk_that_is_declared_finished_again_after_an_error_is_finished_after_a_kill,
    what_is_finished_after_a_kill_is_whole,
);
