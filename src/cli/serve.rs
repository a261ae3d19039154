//! `restorefs serve`: the daemon.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::args::Serve;
use super::background;
use super::context::Context;
use crate::daemon::config::{
    Config, HttpConfig, MountConfig, NbdConfig, RepositoryConfig, STOP_TIMEOUT, TcpConfig,
};
use crate::daemon::serve::{Ready, ServeOptions, Source, serve};
use crate::error::{Error, Result};
use crate::fuse::MountOptions;
use crate::http::Listening;
use crate::log::{self, LogOptions};
use crate::nbd::server::ServerLimits;
use crate::service::{LoginAnswer, Status};
use crate::tree::TreeOptions;
use crate::types::duration::parse_seconds;
use crate::types::size;

pub(super) fn run(context: &Context, args: &Serve) -> Result<()> {
    let options = match &args.config {
        Some(path) => {
            let (config, source) = load(context, path)?;
            log::change(&config.log)?;
            ServeOptions {
                config,
                source: Some(source),
                mounts: !args.no_mount,
                logs_in: false,
            }
        }
        None => ServeOptions {
            config: of_flags(context, args)?,
            source: None,
            mounts: true,
            logs_in: true,
        },
    };
    for repository in &options.config.repositories {
        context.wait_for_lock(&repository.path);
    }
    serve(options, |ready| tell(context, ready))
}

/// Where HTTP is served, in the answer of a daemon that has just started.
#[derive(Serialize)]
struct HttpAnswer<'a> {
    #[serde(flatten)]
    status: &'a Status,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    http: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    login: Option<&'a LoginAnswer>,
}

/// Prints what is served.
fn tell(context: &Context, ready: &Ready) {
    let http: Vec<String> = ready
        .http
        .iter()
        .map(|place| match place {
            Listening::Unix(path) => path.display().to_string(),
            Listening::Url(url) => url.clone(),
        })
        .collect();
    let output = context.output;
    if output.json {
        for status in &ready.repositories {
            // The process that started the daemon waits for this line; it may have closed the pipe.
            let _ = output.json(&HttpAnswer {
                status,
                http: http.clone(),
                login: ready.login.as_ref(),
            });
        }
        return;
    }
    for status in &ready.repositories {
        for socket in &status.nbd_sockets {
            output.remark(format!("NBD on {}", socket.display()));
        }
        if let Some(uri) = &status.nbd_tcp {
            output.remark(format!("NBD below {uri}"));
        }
        for mount in &status.mounts {
            output.remark(format!("mounted on {}", mount.mountpoint.display()));
        }
    }
    for place in &http {
        output.remark(format!("HTTP on {place}"));
    }
    if let Some(login) = &ready.login {
        let minutes = login.expires_seconds / 60;
        output.remark(format!(
            "log in once, within {minutes} minutes: {}",
            login.url
        ));
    }
    output.remark("ready");
    // The command that has started it in the background goes on.
    if let Err(e) = background::ready() {
        tracing::warn!(error = %e.report(), "the terminal is not let go of");
    }
}

/// Loads a configuration, and returns it with its source.
///
/// # Errors
/// As [`Config::load`].
pub(super) fn load(context: &Context, path: &Path) -> Result<(Config, Source)> {
    let view = context.tree_options(TreeOptions::default());
    let defaults = Config {
        memory: view.memory,
        stop_timeout: STOP_TIMEOUT,
        log: LogOptions::default(),
        access: None,
        audit: None,
        http: HttpConfig::default(),
        repositories: Vec::new(),
    };
    let config = Config::load(path, &defaults, &view.isolation)?;
    let source = Source {
        path: path.to_owned(),
        defaults,
        isolation: view.isolation,
    };
    Ok((config, source))
}

/// The limits of a server, with `--nbd-idle` applied.
///
/// # Errors
/// `InvalidInput`.
pub(super) fn limits(idle: &str) -> Result<ServerLimits> {
    let idle_seconds = parse_seconds(idle)?;
    if idle_seconds == 0 {
        return Err(Error::invalid("--nbd-idle needs a second or more"));
    }
    Ok(ServerLimits {
        idle_timeout: Duration::from_secs(idle_seconds),
        ..ServerLimits::default()
    })
}

/// The configuration that the flags describe.
fn of_flags(context: &Context, args: &Serve) -> Result<Config> {
    let view = context.tree_options(TreeOptions::default());
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut options = MountOptions::default();
    for text in &args.options {
        options.parse(text)?;
    }
    let mount = args.mount.as_ref().map(|at| MountConfig {
        at: at.clone(),
        options,
        text: args.options.join(","),
    });
    if mount.is_none() && !args.options.is_empty() {
        return Err(Error::invalid("-o needs a mountpoint: --mount DIR"));
    }
    let tcp = args.nbd_listen.map(|address| {
        TcpConfig::new(
            address,
            args.tls_certificates.as_deref().map(absolute),
            args.nbd_access.as_deref().map(absolute),
            args.nbd_plain,
        )
    });
    let http = HttpConfig {
        listen: args.http,
        sockets: args.http_socket.iter().map(|path| absolute(path)).collect(),
        certificates: match args.http {
            Some(_) => args.tls_certificates.as_deref().map(absolute),
            None => None,
        },
        hosts: args.http_host.clone(),
    };
    http.check()?;
    let nbd = NbdConfig {
        sockets: args.nbd.iter().map(|path| absolute(path)).collect(),
        tcp: tcp.transpose()?,
        limits: limits(&args.nbd_idle)?,
    };
    let repository = RepositoryConfig {
        path: context.path()?.to_owned(),
        named: context.named().cloned(),
        low_water_bytes: args.low_water.as_deref().map(size::parse).transpose()?,
        isolation: view.isolation,
        mounts: mount.into_iter().collect(),
        nbd,
    };
    Ok(Config {
        memory: view.memory,
        stop_timeout: Duration::from_secs(parse_seconds(&args.stop_timeout)?),
        log: LogOptions::default(),
        access: args.access.as_deref().map(absolute),
        audit: args.audit.as_deref().map(absolute),
        http,
        repositories: vec![repository],
    })
}
