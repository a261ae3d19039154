//! What a `backup` reads: files and exports, or a machine that runs.

use std::path::{Path, PathBuf};

use super::args::Backup;
use super::args::capture::Method;
use super::context::Context;
use super::sources::Sources;
use super::target::split_paths;
use crate::capture::libvirt::{Domain, Named};
use crate::capture::machine::Capture;
use crate::capture::qemu::{Machine, Sockets, Way};
use crate::error::{Error, Result};
use crate::types::RepositoryId;

/// The program that the guard of a guest is started as: this one.
const PROGRAM: &str = "/proc/self/exe";

/// The libvirt of this host, unless another one is named.
const LIBVIRT: &str = "qemu:///system";

/// Directory for scratch files, unless another one is named.
const SCRATCH: &str = "/var/tmp";

/// What a backup reads.
pub(super) enum Input {
    /// Files and exports.
    Sources(Box<Sources>),
    /// All disks of a machine.
    Machine(Box<dyn Capture>),
}

impl Input {
    /// Opens what the arguments name; `texts` are its `DISK=SOURCE`.
    ///
    /// # Errors
    /// `InvalidInput` when nothing is named; as [`Sources::open`], [`Machine::open`] and [`Domain::open`].
    pub(super) fn open(
        context: &Context,
        args: &Backup,
        texts: &[std::ffi::OsString],
        repository: &RepositoryId,
    ) -> Result<Self> {
        if let Some(domain) = &args.capture.libvirt {
            let uri = args.capture.connect.as_deref();
            let named = Named {
                uri: uri.unwrap_or(LIBVIRT).to_owned(),
                domain: domain.clone(),
                allow_backing: split_paths(&args.allow_backing),
            };
            let domain = Domain::open(Path::new(PROGRAM), &named, repository)?;
            return Ok(Self::Machine(Box::new(domain)));
        }
        if let Some(qmp) = &args.capture.qmp {
            let sockets = Sockets {
                qmp: qmp.clone(),
                agent: args.capture.guest_agent.clone(),
            };
            if args.capture.quiesce && sockets.agent.is_none() {
                return Err(Error::invalid("--quiesce needs the guest agent's socket")
                    .advise("name it: --guest-agent SOCKET"));
            }
            let way = args.capture.method.map(|method| match method {
                Method::CopyBeforeWrite => Way::Filter,
                Method::BlockdevBackup => Way::Job,
            });
            let machine = Machine::open(Path::new(PROGRAM), &sockets, repository, way)?;
            return Ok(Self::Machine(Box::new(machine)));
        }
        if args.capture.quiesce {
            return Err(Error::invalid("--quiesce needs a machine that runs")
                .advise("name it: --libvirt DOMAIN, or --qmp SOCKET --guest-agent SOCKET"));
        }
        let pulled = args.capture.pull.iter().map(Into::into);
        let texts: Vec<_> = texts.iter().cloned().chain(pulled).collect();
        if texts.is_empty() {
            return Err(Error::invalid("no disk was named")
                .advise("name each: DISK=SOURCE; or a machine: --libvirt DOMAIN, --qmp SOCKET"));
        }
        let mut sources = Sources::open(args, &texts)?;
        sources.check_before(context)?;
        Ok(Self::Sources(Box::new(sources)))
    }

    /// The machine.
    pub(super) fn capture(&mut self) -> &mut dyn Capture {
        match self {
            Self::Sources(sources) => sources.as_mut(),
            Self::Machine(machine) => machine.as_mut(),
        }
    }
}

/// The directory of scratch files.
pub(super) fn scratch(args: &Backup) -> PathBuf {
    let named = args.capture.scratch.clone();
    named.unwrap_or_else(|| SCRATCH.into())
}
