//! A repository made by the library, and its daemon.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use restorefs::block::FileDisk;
use restorefs::block::piece::CopySource;
use restorefs::chain::{Disk, Pool, PoolLimits};
use restorefs::clock::{Clock, SystemClock};
use restorefs::ingest::copy::copy_into;
use restorefs::ingest::{BeginRequest, CommitRequest, DiskRequest, Engine, Session};
use restorefs::point::ChainSource;
use restorefs::repo::selector::Which;
use restorefs::repo::{Owner, Repository};
use restorefs::sys::beneath::Access;
use restorefs::task::Monitor;
use restorefs::types::{DiskName, PointName, VmName};

use super::disk::CLUSTER_BYTES;
use super::peer::{Peer, is_mounted, restorefs};
use super::{Options, Result, disk};

/// A repository, with its lock while the world lives.
pub(crate) struct World {
    path: PathBuf,
    engine: Engine,
}

impl World {
    /// A new repository.
    pub(crate) fn make(path: &Path) -> Result<Self> {
        let repository = Arc::new(Repository::init(path, SystemClock.now())?);
        let owner = Owner::open(repository, Arc::new(SystemClock), "bench")?;
        let _ = restorefs::sys::limit::raise_open_files();
        let pool = Pool::new(PoolLimits::default());
        Ok(Self {
            path: path.to_owned(),
            engine: Engine::new(Arc::new(owner), pool),
        })
    }

    /// A VM whose disk `vda` has `depth` layers: `raw`, then `depth - 1` times `changed` clusters of it changed.
    pub(crate) fn chain(
        &self,
        vm: &str,
        raw: &Path,
        data: &[u64],
        depth: usize,
        changed: usize,
    ) -> Result<()> {
        let source = FileDisk::open(raw, Access::Read)?;
        for layer in 0..depth {
            let mut request = BeginRequest::new(VmName::new(vm)?);
            request.point = Some(PointName::new(format!("p{layer:04}"))?);
            let name = DiskName::new("vda")?;
            if layer == 0 {
                request.disks.push(DiskRequest {
                    name: name.clone(),
                    source_bytes: Some(restorefs::block::ReadAt::size_bytes(&source)),
                    key: None,
                    full: false,
                });
            }
            let session = Session::begin(&self.engine, &request)?;
            let disk = session.disk(&name)?;
            if layer == 0 {
                copy_into(
                    &session,
                    &disk,
                    CopySource::whole(&source),
                    &Monitor::default(),
                )?;
            } else {
                for (cluster, bytes) in disk::changes(data, changed, layer as u64)? {
                    disk.write(cluster * CLUSTER_BYTES, &bytes)?;
                }
                disk.set_finished(true);
            }
            session.commit(&CommitRequest::default(), &|| ())?;
        }
        Ok(())
    }

    /// The newest point's disk, and the file of its top layer.
    pub(crate) fn open(&self, vm: &str) -> Result<(Disk, PathBuf)> {
        let vm = VmName::new(vm)?;
        let repository = self.engine.owner.repository();
        let entry = self.engine.owner.vm_snapshot(&vm)?;
        let found = "latest".parse::<Which>()?.find(&entry.index)?.clone();
        let point = repository.point(&vm, &found)?;
        let disk = point.disk(&DiskName::new("vda")?).ok_or("no disk vda")?;
        let source = ChainSource::new(repository, &vm, entry.vm.vm_id, false);
        let layer = format!("vms/{vm}/layers/{}", disk.layer.layer_file());
        Ok((
            source.open_disk(&self.engine.pool, &disk.layer)?,
            self.path.join(layer),
        ))
    }
}

/// `restorefs serve`: the mounted tree and NBD in one process.
pub(crate) struct Daemon {
    peer: Peer,
    /// The mounted tree.
    pub(crate) mountpoint: PathBuf,
    /// The NBD socket.
    pub(crate) socket: PathBuf,
}

impl Daemon {
    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.peer.id()
    }

    /// Starts it; nobody may hold the repository's lock.
    pub(crate) fn start(repository: &Path, dir: &Path) -> Result<Self> {
        let (mountpoint, socket) = (dir.join("mnt"), dir.join("nbd.sock"));
        std::fs::create_dir_all(&mountpoint)?;
        let mut command = restorefs(repository);
        command.arg("serve").arg("--mount").arg(&mountpoint);
        command.arg("--nbd").arg(&socket);
        // It warns of clients that leave without a goodbye, as fio does.
        command.stderr(std::process::Stdio::null());
        let peer = Peer::start(&mut command, Some(&mountpoint), || {
            socket.exists() && is_mounted(&mountpoint)
        })?;
        Ok(Self {
            peer,
            mountpoint,
            socket,
        })
    }
}

/// The layers of one VM, `web01`, with a full layer and a chain above it.
pub(crate) struct Layered {
    pub(crate) repository: PathBuf,
    /// Files of `layers/`, sorted.
    pub(crate) files: Vec<PathBuf>,
    /// Bytes that they take.
    pub(crate) bytes: u64,
}

impl Layered {
    /// Makes it in the directory of the options; `files` are those that `is_wanted`.
    pub(crate) fn make(options: &Options, is_wanted: impl Fn(&Path) -> bool) -> Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let raw = options.dir().join("disk.raw");
        let data = disk::make(&raw, options.pick(1 << 30, 8 << 30), 1)?;
        let repository = options.dir().join("repo");
        World::make(&repository)?.chain("web01", &raw, &data, 7, (data.len() / 20).max(16))?;
        let (mut files, mut bytes) = (Vec::new(), 0);
        for entry in std::fs::read_dir(repository.join("vms/web01/layers"))? {
            let path = entry?.path();
            if is_wanted(&path) {
                bytes += std::fs::metadata(&path)?.blocks() * 512;
                files.push(path);
            }
        }
        files.sort();
        Ok(Self {
            repository,
            files,
            bytes,
        })
    }

    /// Drops what the kernel keeps of the files.
    pub(crate) fn forget(&self) -> Result<()> {
        for path in &self.files {
            let file = std::fs::File::open(path)?;
            file.sync_all()?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
        Ok(())
    }
}
