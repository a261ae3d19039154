//! An NBD server with a fresh disk for one measurement: a session of ours, or a peer.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Result;
use super::peer::{Peer, nbdkit, qemu_nbd, restorefs, timed, uri};
use super::usage::Usage;
use super::world::Daemon;

/// A server, and what to do with it afterwards.
pub(crate) struct Server {
    pub(crate) uri: String,
    /// The process whose use is measured.
    pub(crate) pid: u32,
    peer: Option<Peer>,
    /// Files that are removed, so that nothing but the page cache's room is shared by two measurements.
    files: Vec<PathBuf>,
    session: Option<Ours>,
}

/// A session of ours.
struct Ours {
    repository: PathBuf,
    vm: String,
    is_committed: bool,
}

impl Ours {
    /// Takes all that the session has stored off the disk again.
    fn end(&self) -> Result<()> {
        let command = || restorefs(&self.repository);
        if self.is_committed {
            timed(command().args(["forget", &format!("{}@latest", self.vm)]))?;
            timed(command().args(["trash", "--empty"])).map(drop)
        } else {
            timed(command().args(["abort", &format!("{}/s", self.vm)])).map(drop)
        }
    }
}

/// The file and the socket of a peer, neither of which is there.
pub(crate) fn places(dir: &Path, name: &str) -> Result<(PathBuf, PathBuf)> {
    let places = (dir.join(name), dir.join(format!("{name}.sock")));
    for path in [&places.0, &places.1] {
        if path.exists() {
            std::fs::remove_file(path)?;
        }
    }
    Ok(places)
}

impl Server {
    /// A session on one disk: a new one of `size_bytes`, or with `None` the disk that the VM has.
    pub(crate) fn session(
        repository: &Path,
        daemon: &Daemon,
        vm: &str,
        size_bytes: Option<u64>,
    ) -> Result<Self> {
        let mut begin = restorefs(repository);
        begin.args(["begin", vm, "--session", "s"]);
        begin.args(size_bytes.map(|bytes| format!("vda={bytes}")));
        timed(&mut begin)?;
        Ok(Self {
            uri: uri(&daemon.socket, &format!("{vm}/s/vda")),
            pid: daemon.id(),
            peer: None,
            files: Vec::new(),
            session: Some(Ours {
                repository: repository.to_owned(),
                vm: vm.to_owned(),
                is_committed: false,
            }),
        })
    }

    /// `qemu-nbd` on a new qcow2 file.
    pub(crate) fn qemu(dir: &Path, size_bytes: u64, backing: Option<&Path>) -> Result<Self> {
        let (file, socket) = places(dir, "qemu.qcow2")?;
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "-f", "qcow2"]);
        if let Some(backing) = backing {
            create.args(["-F", "qcow2", "-b"]).arg(backing);
        }
        timed(create.arg(&file).arg(size_bytes.to_string()))?;
        let peer = qemu_nbd(&socket, "qcow2", false, &file)?;
        Ok(Self::of_peer(peer, &socket, vec![file, socket.clone()]))
    }

    /// `nbdkit file` on a new sparse file.
    pub(crate) fn nbdkit_file(dir: &Path, size_bytes: u64) -> Result<Self> {
        let (file, socket) = places(dir, "nbdkit.raw")?;
        std::fs::File::create_new(&file)?.set_len(size_bytes)?;
        let peer = nbdkit(&socket, &["file".to_owned(), file.display().to_string()])?;
        Ok(Self::of_peer(peer, &socket, vec![file, socket.clone()]))
    }

    /// Another plugin of `nbdkit`, which takes a size: `memory`, `null`.
    pub(crate) fn nbdkit(dir: &Path, plugin: &str, size_bytes: u64) -> Result<Self> {
        let (_, socket) = places(dir, plugin)?;
        let peer = nbdkit(&socket, &[plugin.to_owned(), size_bytes.to_string()])?;
        Ok(Self::of_peer(peer, &socket, vec![socket.clone()]))
    }

    fn of_peer(peer: Peer, socket: &Path, files: Vec<PathBuf>) -> Self {
        Self {
            uri: uri(socket, ""),
            pid: peer.id(),
            peer: Some(peer),
            files,
            session: None,
        }
    }

    /// A server that threads of this process are.
    pub(crate) fn in_process(uri: String, files: Vec<PathBuf>) -> Self {
        Self {
            uri,
            pid: std::process::id(),
            peer: None,
            files,
            session: None,
        }
    }

    /// Runs a client, and answers its time with what the server used.
    pub(crate) fn measured(&self, client: &mut Command) -> Result<Usage> {
        Usage::during(self.pid, || timed(client))
    }

    /// Commits the session, if this is one of ours.
    pub(crate) fn commit(&mut self) -> Result<()> {
        if let Some(ours) = &mut self.session {
            timed(restorefs(&ours.repository).args(["commit", &format!("{}/s", ours.vm)]))?;
            ours.is_committed = true;
        }
        Ok(())
    }

    /// Ends it, and removes what it has written.
    pub(crate) fn end(self) -> Result<()> {
        drop(self.peer);
        self.session.as_ref().map_or(Ok(()), Ours::end)?;
        for file in self.files {
            let _ = std::fs::remove_file(file);
        }
        Ok(())
    }
}
