//! `restorefs mount` and `restorefs umount`.

use std::path::Path;

use super::args::{Mount, Umount};
use super::context::Context;
use super::{background, mount_config, serve};
use crate::daemon::config::crawler;
use crate::daemon::follower::{FollowerOptions, follow};
use crate::error::{Error, Result, ResultExt};
use crate::fuse::{self, MountOptions};

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
    let limits = serve::limits(&args.nbd_idle)?;
    let socket = args.nbd.as_ref().map(std::path::absolute).transpose();
    let socket = socket.or_io("cannot resolve the socket's path")?;
    if let Some(warning) = options.exposure() {
        context.output.warn(warning);
    }
    // Root's crawlers (updatedb) read what root may read.
    if rustix::process::geteuid().is_root() || options.allow_other {
        crawler::remark()
            .into_iter()
            .for_each(|remark| context.output.remark(format!("restorefs: {remark}")));
    }
    if !args.foreground {
        let mut more = Vec::new();
        if let Some(socket) = socket {
            more.extend(["--nbd".into(), socket.into_os_string()]);
            more.extend(["--nbd-idle".into(), args.nbd_idle.clone().into()]);
        }
        return background::start(context, mountpoint, &args.options, &more);
    }
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let follower = FollowerOptions {
        repository,
        pool: context.pool(),
        view: context.tree_options(options.tree_options(uid, gid, false)),
        mountpoint: mountpoint.to_owned(),
        mount: options,
        nbd: socket.map(|socket| (socket, limits)),
    };
    follow(&follower, background::ready)
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

/// The mountpoint, which the command line must have when there is no configuration.
fn required(mountpoint: Option<&Path>) -> Result<&Path> {
    mountpoint.ok_or_else(|| Error::invalid("no mountpoint was named"))
}
