//! The context of every command: the repository, its owner or its daemon, and the output.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::args::{Cli, GuestIsolation};
use super::output::Output;
use crate::chain::{Pool, PoolLimits};
use crate::daemon::writer::{LOCK_PAUSE, PATIENCE, WriterMeans, patiently};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::guest::worker::Isolation;
use crate::repo::Repository;
use crate::repo::lock::Holder;
use crate::repo::register::{Register, Registered};
use crate::tree::{Tree, TreeOptions};
use crate::types::duration::parse_seconds;
use crate::types::{Memory, VmName, likeness, size};

pub(super) use crate::daemon::writer::Writer;

/// The context of a command.
pub(super) struct Context {
    repo: Option<PathBuf>,
    /// The repository by its name, if it was given so.
    named: Option<Registered>,
    isolation: GuestIsolation,
    memory: Memory,
    /// How long the command waits for the lock.
    wait: Duration,
    /// The output.
    pub(super) output: Output,
}

/// The remark for a new VM beside VMs of these names.
pub(super) fn new_vm(names: &[VmName], vm: &VmName) -> String {
    let nearest = likeness::nearest(names.iter().map(VmName::as_str), vm.as_str());
    let like = nearest.map_or_else(String::new, |name| format!(" (there is {name}, too)"));
    format!("restorefs: {vm} is a new VM{like}")
}

impl Context {
    /// Creates a context from the global flags.
    ///
    /// # Errors
    /// `InvalidInput` when a flag is invalid.
    pub(super) fn new(cli: &Cli, output: Output) -> Result<Self> {
        let named = cli.repo.as_deref().map(Register::find).transpose()?;
        let named = named.flatten();
        let path = named.as_ref().map(|entry| entry.path.clone());
        Ok(Self {
            repo: path.or_else(|| cli.repo.clone()),
            named,
            isolation: cli.guest_isolation,
            memory: Memory::new(size::parse(&cli.memory)?),
            wait: Duration::from_secs(cli.wait.as_deref().map_or(Ok(0), parse_seconds)?),
            output,
        })
    }

    /// The same context for the repository that `word` names: a name or a directory.
    ///
    /// # Errors
    /// As [`Register::find`].
    pub(super) fn of_word(&self, word: &Path) -> Result<Self> {
        let named = Register::find(word)?;
        let path = named.as_ref().map(|entry| entry.path.clone());
        Ok(Self {
            repo: Some(path.unwrap_or_else(|| word.to_owned())),
            named,
            ..*self
        })
    }

    /// The same context for another repository.
    pub(super) fn of(&self, repo: PathBuf) -> Self {
        Self {
            repo: Some(repo),
            named: None,
            ..*self
        }
    }

    /// The global flags to pass to a process that continues this command.
    pub(super) fn global_flags(&self) -> Vec<String> {
        let isolation = match self.isolation {
            GuestIsolation::Process => "process",
            GuestIsolation::Thread => "thread",
        };
        let (flag, memory) = ("--guest-isolation".to_owned(), "--memory".to_owned());
        vec![
            flag,
            isolation.to_owned(),
            memory,
            self.memory.bytes().to_string(),
        ]
    }

    /// Adds the global flags to the options of a tree.
    pub(super) fn tree_options(&self, mut options: TreeOptions) -> TreeOptions {
        options.memory = self.memory;
        options.isolation = self.isolation();
        options
    }

    /// The isolation of the readers of guests' filesystems.
    pub(super) fn isolation(&self) -> Isolation {
        match self.isolation {
            GuestIsolation::Thread => Isolation::Thread,
            GuestIsolation::Process => Isolation::of_this_program(),
        }
    }

    /// The tree of the repository, for a command that reads from it.
    ///
    /// # Errors
    /// As [`Context::repository`] and [`Tree::new`].
    pub(super) fn tree(&self) -> Result<Arc<Tree>> {
        let options = self.tree_options(TreeOptions::default());
        Tree::new(self.repository()?, self.pool(), options)
    }

    /// The tree of a single VM, without reading other VMs.
    ///
    /// # Errors
    /// As [`Context::tree`].
    pub(super) fn tree_of(&self, vm: &VmName) -> Result<Arc<Tree>> {
        let options = self.tree_options(TreeOptions::default());
        Tree::of_vm(self.repository()?, self.pool(), options, vm.clone())
    }

    /// Path of the repository.
    ///
    /// # Errors
    /// `InvalidInput` when none was named.
    pub(super) fn path(&self) -> Result<&Path> {
        self.repo.as_deref().ok_or_else(|| {
            Error::new(ErrorKind::NoRepository, "no repository was named")
                .advise("use --repo DIR, or set RESTOREFS_REPO")
        })
    }

    /// What `--repo` or the environment names, as it was written or registered.
    pub(super) fn word(&self) -> Option<&Path> {
        match &self.named {
            Some(entry) => Some(Path::new(entry.name.as_str())),
            None => self.repo.as_deref(),
        }
    }

    /// The entry of the register, when the repository was given by its name.
    pub(super) const fn named(&self) -> Option<&Registered> {
        self.named.as_ref()
    }

    /// The value of `--repo` for a process that continues this command.
    ///
    /// # Errors
    /// As [`Context::path`]; `Io`.
    pub(super) fn repo_word(&self) -> Result<OsString> {
        match &self.named {
            Some(entry) => Ok(entry.name.as_str().into()),
            None => std::path::absolute(self.path()?)
                .or_io("cannot tell the repository's path")
                .map(PathBuf::into_os_string),
        }
    }

    /// Opens the repository for reading.
    ///
    /// # Errors
    /// As [`Repository::open`] and [`Registered::open`].
    pub(super) fn repository(&self) -> Result<Arc<Repository>> {
        match &self.named {
            Some(entry) => entry.open(),
            None => Repository::open(self.path()?).map_err(|e| self.nearest_name(e)),
        }
        .map(Arc::new)
    }

    /// The error about a repository that is not there, with the name that may have been meant.
    fn nearest_name(&self, error: Error) -> Error {
        let word = self.repo.as_ref().and_then(|path| path.to_str());
        match word.filter(|word| !word.contains('/')) {
            Some(word) if error.kind() == ErrorKind::NoRepository => {
                let register = Register::load().unwrap_or_default();
                match likeness::nearest(register.names(), word) {
                    Some(near) => Error::new(error.kind(), error.what().to_owned())
                        .advise(format!("did you mean {near}?")),
                    None => error,
                }
            }
            _ => error,
        }
    }

    /// Connects to the daemon that owns the repository, or takes the lock. The lock names `role` as
    /// its holder's role. Waits for a lock of another process for at most the time of `--wait`.
    ///
    /// # Errors
    /// `Locked` when a process other than a daemon has it; as [`Owner::open`].
    pub(super) fn writer(&self, role: &str) -> Result<Writer> {
        self.writer_within(role, self.wait)
    }

    /// [`Context::writer`] for a step that comes after long work, which would be lost: it waits for a minute at
    /// least.
    ///
    /// # Errors
    /// As [`Context::writer`].
    pub(super) fn patient_writer(&self, role: &str) -> Result<Writer> {
        self.writer_within(role, self.wait.max(PATIENCE))
    }

    fn writer_within(&self, role: &str, wait: Duration) -> Result<Writer> {
        let mut is_told = false;
        patiently(
            wait,
            || self.writer_now(role),
            |refused| {
                if !is_told {
                    self.output.remark(format!("waiting: {}", refused.what()));
                    is_told = true;
                }
                Ok(())
            },
        )
    }

    /// Waits until the lock of the repository at `path` is free, for at most the time of `--wait`.
    /// Another process may still take it first.
    pub(super) fn wait_for_lock(&self, path: &Path) {
        let begun = Instant::now();
        let is_held = || {
            Repository::open(path)
                .is_ok_and(|repository| !matches!(Holder::of(&repository), Holder::Nobody))
        };
        while begun.elapsed() < self.wait && is_held() {
            std::thread::sleep(LOCK_PAUSE);
        }
    }

    /// [`Context::writer`], without waiting.
    ///
    /// # Errors
    /// As [`Context::writer`].
    pub(super) fn writer_now(&self, role: &str) -> Result<Writer> {
        let means = WriterMeans {
            role,
            pool: &|| self.pool(),
            ingest_bytes: self.memory.ingest_bytes(),
        };
        Writer::open(self.repository()?, &means)
    }

    /// The remark for a VM whose name is new, with a similar existing name: a mistyped name begins
    /// a new chain.
    ///
    /// # Errors
    /// As [`Context::repository`]; `Io`.
    pub(super) fn new_vm_remark(&self, vm: &VmName) -> Result<Option<String>> {
        let repository = self.repository()?;
        let names = repository.vm_names()?;
        if names.iter().any(|name| name.same_as(vm)) {
            return Ok(None);
        }
        Ok(Some(new_vm(&names, vm)))
    }

    /// Bytes of memory for the tables of layers that are written.
    #[must_use]
    pub(super) const fn ingest_bytes(&self) -> u64 {
        self.memory.ingest_bytes()
    }

    /// The pool for chains.
    #[must_use]
    pub(super) fn pool(&self) -> Arc<Pool> {
        // More descriptors make deep chains faster; without them the pool only reopens layers.
        let _ = crate::sys::limit::raise_open_files();
        Pool::new(PoolLimits {
            memory_bytes: self.memory.chain_bytes(),
            ..PoolLimits::default()
        })
    }
}
