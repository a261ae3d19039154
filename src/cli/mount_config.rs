//! `restorefs mount --config` and `restorefs umount --config`: makes and ends, in this namespace,
//! the mounts of daemons that may not mount.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::context::Context;
use super::serve::load;
use crate::control::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::fuse::{self, HandedMount, MountOptions};
use crate::service::{MountRequest, Service};

/// Mounts a repository's tree and hands the mount to the repository's daemon.
///
/// # Errors
/// As the checks of the mountpoint; the daemon's error, after which nothing is mounted.
pub(super) fn hand_over(
    client: &Client,
    repository: &Path,
    mountpoint: &Path,
    (options, text): (&MountOptions, &str),
) -> Result<()> {
    let device = HandedMount::mount(repository, mountpoint, options)?;
    let request = MountRequest {
        mountpoint: device.mountpoint().to_owned(),
        options: text.to_owned(),
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
    };
    client.hand_over(request, std::os::fd::AsFd::as_fd(&device))?;
    device.served();
    Ok(())
}

/// Whether the mount is the daemon's, rather than another repository's or a read-only follower's.
fn is_served(client: &Client, mountpoint: &Path) -> Result<bool> {
    let status = client.status()?;
    let resolved = fuse::resolve(mountpoint);
    let resolved = resolved.as_deref().unwrap_or(mountpoint);
    Ok(status.mounts.iter().any(|one| one.mountpoint == resolved))
}

fn stranger(mountpoint: &Path) -> Error {
    let advice = format!(
        "unmount it first: restorefs umount {}",
        mountpoint.display()
    );
    Error::new(
        ErrorKind::Busy,
        "the mount there shows another repository, or one that this daemon does not serve",
    )
    .at_path(mountpoint)
    .advise(advice)
}

/// Keeps the first of several errors for the end, and logs the others at once.
fn first(so_far: Result<()>, error: Error) -> Result<()> {
    match so_far {
        Ok(()) => Err(error),
        Err(first) => {
            tracing::error!(error = %error.report(), "and a further one");
            Err(first)
        }
    }
}

/// Makes all mounts of a configuration; returns the first error after it has tried all of them.
pub(super) fn mount(context: &Context, path: &Path) -> Result<()> {
    let (config, _) = load(context, path)?;
    let mut result = Ok(());
    for repository in &config.repositories {
        if repository.mounts.is_empty() {
            continue;
        }
        let client = repository.open().and_then(|repo| Client::require(&repo));
        let client = match client {
            Ok(client) => client,
            Err(error) => {
                result = first(result, error);
                continue;
            }
        };
        for mount in &repository.mounts {
            let options = (&mount.options, mount.text.as_str());
            match hand_over(&client, &repository.path, &mount.at, options) {
                Ok(()) => context
                    .output
                    .remark(format!("mounted on {}", mount.at.display())),
                Err(e) if e.kind() == ErrorKind::Busy => match is_served(&client, &mount.at) {
                    Ok(true) => context
                        .output
                        .remark(format!("{} is mounted already", mount.at.display())),
                    Ok(false) => result = first(result, stranger(&mount.at)),
                    Err(error) => result = first(result, error),
                },
                Err(error) => result = first(result, error),
            }
        }
    }
    result
}

/// Unmounts all mounts of a configuration, even those in use, and those that dead daemons have
/// left. A mount that does not answer is removed by force.
pub(super) fn umount(context: &Context, path: &Path) -> Result<()> {
    let (config, _) = load(context, path)?;
    let mut result = Ok(());
    for repository in &config.repositories {
        let owner = repository.path.metadata().ok().map(|meta| meta.uid());
        for mount in &repository.mounts {
            // If the process could not be killed while it waited for its own mount, this is the
            // only way to end it.
            let unmounted = match fuse::umount_silent(&mount.at, owner) {
                Ok(true) => continue,
                // There is no mount, or one of another user.
                Ok(false) if !fuse::is_ours(&mount.at, owner) => continue,
                Ok(false) => fuse::umount(&mount.at, false),
                Err(error) => Err(error),
            };
            match unmounted {
                Err(e) if e.kind() == ErrorKind::Busy => {
                    tracing::warn!(mountpoint = %mount.at.display(), "it is in use; it is unmounted as soon as its users have ended");
                    result = result.and(fuse::umount(&mount.at, true));
                }
                // It is not mounted.
                Err(e) if e.kind() == ErrorKind::InvalidInput => {}
                other => result = result.and(other),
            }
        }
        let source = repository.path.canonicalize();
        let dead = fuse::umount_dead(source.as_ref().unwrap_or(&repository.path), owner)?;
        for mountpoint in dead {
            context.output.remark(format!(
                "{} was dead and is unmounted",
                mountpoint.display()
            ));
        }
    }
    result
}
