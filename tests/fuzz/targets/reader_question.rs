//! What a reader's process makes of whatever a daemon says: questions, and blocks of the volume.

use std::sync::Arc;

use restorefs::block::ReadAt;
use restorefs::error::Result;
use restorefs::guest::fs::{GuestFs, VolumeState};
use restorefs::guest::memory::MemoryFs;
use restorefs::guest::worker::{line, server};

use super::script;

/// LIMIT: devices of which something is read.
const DEVICES_MAX: usize = 4;

fn tree() -> Result<MemoryFs> {
    let mut fs = MemoryFs::new();
    fs.directory("etc")?;
    fs.file("etc/fstab", &[b'#'; 5000])?;
    fs.symlink("link", "/etc/fstab")?;
    fs.set_subvolume("etc", 256)?;
    Ok(fs)
}

/// Reads a little of the volume, and answers a tree of its own.
fn open(devices: &[Arc<dyn ReadAt>]) -> (VolumeState, Option<Box<dyn GuestFs>>) {
    for device in devices.iter().take(DEVICES_MAX) {
        let length = usize::try_from(device.size_bytes().min(4096)).unwrap_or(0);
        let mut bytes = vec![0; length];
        if let Err(error) = device.read_at(0, &mut bytes) {
            return (VolumeState::Damaged(error.report()), None);
        }
    }
    match tree() {
        Ok(fs) => (VolumeState::Readable, Some(Box::new(fs))),
        Err(error) => (VolumeState::Damaged(error.report()), None),
    }
}

/// Asks a reader whatever the bytes say.
pub(crate) fn run(data: &[u8]) {
    let Ok((here, there)) = line() else { return };
    std::thread::scope(|scope| {
        scope.spawn(move || script::play(&there, data, true));
        server::answer_played(here, open);
    });
}
