//! What the daemon makes of whatever a reader's process says: answers, bytes, and requests for blocks.

use std::sync::Arc;
use std::time::Duration;

use restorefs::block::{MemoryDisk, ReadAt};
use restorefs::guest::worker::{Isolation, Limits, Readers, line};

use super::{guest, script};

/// LIMIT: how long a question may wait for a side that says nothing.
const PATIENCE: Duration = Duration::from_secs(2);

/// Opens a filesystem through a reader that says the bytes, and walks it.
pub(crate) fn run(data: &[u8]) {
    let Ok((here, there)) = line() else { return };
    let limits = Limits {
        answer_time: PATIENCE,
        open_time: PATIENCE,
        read_bytes: 1 << 20,
        open_read_bytes: 1 << 20,
        rest: Duration::from_secs(3600),
        ..Limits::default()
    };
    let readers = Readers::new(Isolation::Thread, limits, 1 << 20);
    let disk: Arc<dyn ReadAt> = Arc::new(MemoryDisk::from_bytes(&[9; 8192]));
    std::thread::scope(|scope| {
        scope.spawn(move || script::play(&there, data, false));
        let opening = readers.open_played(vec![disk], here);
        if let Some(fs) = &opening.fs {
            guest::look_around(&**fs);
        }
    });
}
