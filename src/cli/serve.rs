//! `restorefs serve`: the daemon.

use std::time::Duration;

use super::args::Serve;
use super::context::Context;
use super::mount::parse_options;
use crate::daemon::serve::{ServeOptions, TcpOptions, serve};
use crate::error::{Error, Result};
use crate::tree::TreeOptions;
use crate::types::duration::parse_seconds;
use crate::types::size;

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
        low_water_bytes: args.low_water.as_deref().map(size::parse).transpose()?,
        nbd_idle: Duration::from_secs(idle_seconds),
        nbd_tcp: tcp_options(args)?,
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
        if let Some(uri) = &status.nbd_tcp {
            context.output.remark(format!("NBD below {uri}"));
        }
        if let Some(path) = &status.mountpoint {
            context
                .output
                .remark(format!("mounted on {}", path.display()));
        }
        context.output.remark("ready");
    })
}

/// What `--nbd-listen` and its companions say.
///
/// # Errors
/// `InvalidInput` when something is missing.
fn tcp_options(args: &Serve) -> Result<Option<TcpOptions>> {
    let Some(address) = args.nbd_listen else {
        return Ok(None);
    };
    let tls = match (&args.tls_certificates, &args.nbd_access) {
        (Some(certificates), Some(access)) => Some((certificates.clone(), access.clone())),
        (Some(_), None) => {
            return Err(
                Error::invalid("nothing says who may use what: --nbd-access is missing")
                    .advise("write a file with [[access]] entries, see the README"),
            );
        }
        (None, _) if args.nbd_plain => None,
        (None, _) => {
            return Err(
                Error::invalid("NBD over TCP needs TLS: --tls-certificates is missing")
                    .advise("on a loopback address --nbd-plain does without"),
            );
        }
    };
    if tls.is_none() && !address.ip().is_loopback() {
        return Err(
            Error::invalid(format!("{address} can be reached from elsewhere"))
                .advise("--nbd-plain is for loopback addresses (127.0.0.1, [::1]) only"),
        );
    }
    Ok(Some(TcpOptions { address, tls }))
}
