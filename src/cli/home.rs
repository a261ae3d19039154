//! Where a backup makes its restore point: in a repository of this machine, or of another one (`--server`).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::args::Backup;
use super::context::{Context, new_vm};
use crate::error::{Error, Result};
use crate::http::client::{Address, Remote, Secret};
use crate::repo::Repository;
use crate::service::DEFAULT_NAME;
use crate::task::Monitor;
use crate::tls;
use crate::types::{DiskName, RepositoryId, RepositoryName, VmName};

/// The variable that names the repository.
const VARIABLE: &str = "RESTOREFS_REPO";

/// Where the restore point is made.
pub(super) enum Home {
    /// In a repository of this machine.
    Here(Arc<Repository>),
    /// In one of another machine.
    There(Arc<Remote>),
}

impl Home {
    /// Opens the repository, or connects to the server.
    ///
    /// # Errors
    /// As [`Context::repository`] and [`Remote::connect`].
    pub(super) fn open(context: &Context, args: &Backup, monitor: &Monitor) -> Result<Self> {
        let Some(server) = &args.capture.server else {
            return Ok(Self::Here(context.repository()?));
        };
        let address: Address = server.parse()?;
        let token = args.capture.token_file.as_deref();
        let secret = token.map(Secret::load).transpose()?;
        let tls_dir = args.capture.tls_dir.clone();
        let certificates = tls_dir.unwrap_or_else(tls::default_directory);
        let name = served_name(context)?;
        let remote = Remote::connect(address, secret, certificates, name, monitor.clone())?;
        Ok(Self::There(Arc::new(remote)))
    }

    /// The repository's identity.
    pub(super) fn repository_id(&self) -> RepositoryId {
        match self {
            Self::Here(repository) => repository.format().repository_id,
            Self::There(remote) => remote.repository_id(),
        }
    }

    /// The remark for a VM whose name is new.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn new_vm_remark(&self, context: &Context, vm: &VmName) -> Result<Option<String>> {
        let remote = match self {
            Self::Here(_) => return context.new_vm_remark(vm),
            Self::There(remote) => remote,
        };
        let names = match remote.vm_names() {
            // A token that may only write sees no VM: nothing is known of names.
            Ok(Some(names)) if !names.is_empty() => names,
            Ok(_) => return Ok(None),
            Err(e) => {
                tracing::info!(error = %e.report(), "the server's VMs could not be listed");
                return Ok(None);
            }
        };
        let is_known = names.iter().any(|name| name.same_as(vm));
        Ok((!is_known).then(|| new_vm(&names, vm)))
    }

    /// The change ids that the next backup of a VM would be compared with, a differential one with those of the last full point.
    ///
    /// # Errors
    /// What reading them returns; `Unsupported` for a differential backup to a server, which shows the newest point only.
    pub(super) fn previous(
        &self,
        context: &Context,
        vm: &VmName,
        is_differential: bool,
    ) -> Result<BTreeMap<DiskName, String>> {
        let repository = match self {
            Self::Here(repository) => repository,
            Self::There(_) if is_differential => {
                return Err(Error::unsupported(
                    "a trial of a differential backup needs the last full point, which is not asked of a server",
                )
                .advise("leave --differential out, or run it where the repository is"));
            }
            Self::There(remote) => {
                let latest = remote.latest(vm)?;
                if !latest.is_there {
                    context.output.remark(format!(
                        "restorefs: the server shows no restore point of {vm} (a token needs the right read to see one)"
                    ));
                }
                return Ok(latest.change_ids);
            }
        };
        let names = repository.vm_names()?;
        if !names.iter().any(|name| name.same_as(vm)) {
            return Ok(BTreeMap::new());
        }
        let index = repository.index(vm)?;
        let full = || {
            let full = index.points.iter().filter(|point| point.is_full());
            full.max_by_key(|point| point.seq)
        };
        let compared = if is_differential {
            full()
        } else {
            index.latest()
        };
        let Some(compared) = compared else {
            return Ok(BTreeMap::new());
        };
        let disks = repository.point(vm, compared)?.disks.into_iter();
        Ok(disks
            .filter_map(|disk| Some((disk.name, disk.change_id?)))
            .collect())
    }
}

/// The name by which the server serves the repository: that of `--repo`.
fn served_name(context: &Context) -> Result<RepositoryName> {
    let Some(word) = context.word() else {
        return RepositoryName::new(DEFAULT_NAME);
    };
    let is_of_environment = std::env::var_os(VARIABLE).is_some_and(|value| value == word);
    let is_path = |word: &Path| {
        word.components().count() != 1
            || word.as_os_str().as_encoded_bytes().contains(&b'/')
            || (is_of_environment && word.is_dir())
    };
    let name = word.to_str().filter(|_| !is_path(word));
    match (name, is_of_environment) {
        (Some(name), _) => RepositoryName::new(name),
        (None, true) => {
            context.output.remark(format!(
                "restorefs: {VARIABLE} ({}) is a directory of this machine, which --server has no use for: the server's repository is \"{DEFAULT_NAME}\" (--repo NAME for another one)",
                word.display()
            ));
            RepositoryName::new(DEFAULT_NAME)
        }
        (None, false) => Err(Error::invalid(
            "with --server, --repo is the name by which the server serves the repository, not a directory",
        )
        .at_path(word)
        .advise("leave it out for the server's \"default\"")),
    }
}
