//! `restorefs mount` and `restorefs umount`.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::args::{Mount, Umount};
use super::context::Context;
use super::{background, mount_config};
use crate::daemon::interrupt;
use crate::error::{Error, Result};
use crate::fuse::{self, MountOptions};
use crate::tree::Tree;

pub(super) fn run(context: &Context, args: &Mount) -> Result<()> {
    if let Some(config) = &args.config {
        return mount_config::mount(context, config);
    }
    let mountpoint = required(args.mountpoint.as_deref())?;
    let mut options = MountOptions::default();
    args.options
        .iter()
        .try_for_each(|text| options.parse(text))?;
    let repository = context.repository()?;
    if !args.foreground {
        return background::start(context, mountpoint, &args.options);
    }
    let stop = interrupt::flag()?;
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let view = context.tree_options(options.tree_options(uid, gid, false));
    let tree = Tree::new(repository, context.pool(), view)?;
    let mounted = Arc::new(fuse::mount(&tree, mountpoint, &options)?);
    background::ready()?;
    // The one thread waits for the mount to end, the other for a signal; whoever is first ends both.
    let ended = Arc::new(Mutex::new(None));
    let waiter = {
        let (mounted, ended) = (Arc::clone(&mounted), Arc::clone(&ended));
        std::thread::spawn(move || {
            let result = mounted.wait();
            *ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        })
    };
    loop {
        if let Some(result) = ended.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return result;
        }
        if stop.swap(false, Ordering::SeqCst) {
            // Somebody may be using it: a signal ends the mount all the same, and he sees the last of it.
            fuse::umount(mounted.mountpoint(), true)?;
            return waiter.join().map_or(Ok(()), |()| {
                ended
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take()
                    .unwrap_or(Ok(()))
            });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(super) fn umount(context: &Context, args: &Umount) -> Result<()> {
    if let Some(config) = &args.config {
        return mount_config::umount(context, config);
    }
    let mountpoint = required(args.mountpoint.as_deref())?;
    fuse::umount(mountpoint, args.lazy)?;
    if context.output.json {
        return context
            .output
            .json(&serde_json::json!({"unmounted": mountpoint}));
    }
    Ok(())
}

/// The mountpoint, which the command line has without a configuration.
fn required(mountpoint: Option<&Path>) -> Result<&Path> {
    mountpoint.ok_or_else(|| Error::invalid("no mountpoint was named"))
}
