//! `restorefs serve`: the daemon.

use std::time::Duration;

use super::args::Serve;
use super::context::Context;
use super::mount::parse_options;
use super::target::parse_seconds;
use crate::daemon::serve::{ServeOptions, serve};
use crate::error::{Error, Result};
use crate::tree::TreeOptions;

pub(super) fn run(context: &Context, args: &Serve) -> Result<()> {
    let mount = match &args.mount {
        Some(path) => Some((path.clone(), parse_options(&args.options)?)),
        None if args.options.is_empty() => None,
        None => {
            return Err(Error::invalid(
                "-o says how to mount, but --mount does not say where",
            ));
        }
    };
    let idle_seconds = parse_seconds(&args.nbd_idle)?;
    if idle_seconds == 0 {
        return Err(Error::invalid("--nbd-idle needs a second or more"));
    }
    let options = ServeOptions {
        repository: context.path()?.to_owned(),
        mount,
        nbd: args.nbd.clone(),
        nbd_idle: Duration::from_secs(idle_seconds),
        view: context.tree_options(TreeOptions::default()),
    };
    serve(options, |status| {
        if context.output.json {
            // Whoever started us waits for this line; a closed pipe is his business.
            let _ = context.output.json(status);
            return;
        }
        for socket in &status.nbd_sockets {
            context
                .output
                .remark(format!("NBD on {}", socket.display()));
        }
        if let Some(path) = &status.mountpoint {
            context
                .output
                .remark(format!("mounted on {}", path.display()));
        }
        context.output.remark("ready");
    })
}
