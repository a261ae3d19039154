//! `mount.restorefs`: the helper that mount(8) runs for `mount -t restorefs`.
//!
//! If a daemon owns the repository, the helper makes the mount and the daemon serves it. Otherwise
//! the helper starts a follower that serves it read-only.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use super::args::Cli;
use super::context::Context;
use super::output::Output;
use super::{background, mount_config};
use crate::control::Client;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::fuse::{MountOptions, split_options};
use crate::log::{self, LogFormat, LogOptions};
use crate::repo::Repository;

/// The program name that selects the helper.
pub(super) const ARGUMENT: &str = "mount.restorefs";

/// Exit codes of mount(8).
mod code {
    pub(super) const OK: u8 = 0;
    /// Incorrect invocation or permissions.
    pub(super) const USAGE: u8 = 1;
    /// Mount failure.
    pub(super) const FAILED: u8 = 32;
}

/// The command line of a mount helper (mount(8), "External helpers").
#[derive(Debug, Parser)]
#[command(
    name = "mount.restorefs",
    about = "Mounts a repository: the helper of mount -t restorefs",
    version
)]
struct Helper {
    /// The repository
    #[arg(value_name = "REPOSITORY")]
    source: PathBuf,
    /// Where
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,
    /// Options, separated by commas
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    /// Leave out options that are not known
    #[arg(short = 's')]
    sloppy: bool,
    /// Do everything but mount
    #[arg(short = 'f')]
    fake: bool,
    /// Write nothing to /etc/mtab; nothing is written there anyway
    #[arg(short = 'n')]
    no_mtab: bool,
    /// Say more
    #[arg(short = 'v', action = clap::ArgAction::Count)]
    verbose: u8,
    /// Mount namespace: not to be had
    #[arg(short = 'N', value_name = "NAMESPACE")]
    namespace: Option<OsString>,
    /// Type
    #[arg(short = 't', value_name = "TYPE")]
    kind: Option<String>,
}

/// Runs the helper; returns mount(8)'s exit codes.
pub(super) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let name = std::iter::once(OsString::from(ARGUMENT));
    let helper = match Helper::try_parse_from(name.chain(arguments)) {
        Ok(helper) => helper,
        Err(e) => {
            // Help and version go to standard output with code 0, mistakes to standard error.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() {
                code::USAGE
            } else {
                code::OK
            });
        }
    };
    let level = if helper.verbose > 0 { "info" } else { "warn" };
    // The start cannot fail: the level is a known one, and text needs no resource.
    let _ = log::start(&LogOptions {
        level: level.to_owned(),
        format: LogFormat::Text,
    });
    let code = match helper.run() {
        Ok(()) => code::OK,
        Err(e) => {
            Output::error("mount.restorefs", &e);
            match e.kind() {
                ErrorKind::InvalidInput
                | ErrorKind::NameTooLong
                | ErrorKind::PermissionDenied
                | ErrorKind::NotPermitted => code::USAGE,
                _ => code::FAILED,
            }
        }
    };
    ExitCode::from(code)
}

fn absolute(what: &str, path: &Path) -> Result<()> {
    if path.is_absolute() {
        return Ok(());
    }
    Err(
        Error::invalid(format!("the path of the {what} is not absolute"))
            .at_path(path)
            .advise("write it from / on: mount(8) and systemd have a directory of their own"),
    )
}

impl Helper {
    fn run(&self) -> Result<()> {
        absolute("repository", &self.source)?;
        absolute("mountpoint", &self.mountpoint)?;
        if self.namespace.is_some() {
            return Err(
                Error::invalid("-N: mounting into another namespace cannot be had")
                    .advise("run mount there: nsenter -m"),
            );
        }
        let (mut options, mut texts) = self.options()?;
        if let Some(warning) = options.exposure() {
            tracing::warn!("{warning}");
        }
        let repository = Repository::open(&self.source).at_path(&self.source)?;
        // A user other than root cannot mount for the daemon, but gets an own follower through
        // fusermount3.
        let client = if rustix::process::geteuid().is_root() {
            Client::connect(&repository)?
        } else {
            None
        };
        if self.fake {
            return Ok(());
        }
        if let Some(client) = client {
            let text = texts.join(",");
            let options = (&options, text.as_str());
            return mount_config::hand_over(&client, &self.source, &self.mountpoint, options);
        }
        // mount(8) passes rw whenever ro was not given.
        if options.read_only == Some(false) {
            tracing::warn!("no daemon serves the repository: it is mounted read-only");
            options.read_only = None;
            texts.retain(|text| text != "rw");
        }
        options.is_writable(false)?;
        let flags = [
            "restorefs".as_ref(),
            "--repo".as_ref(),
            self.source.as_os_str(),
            "sessions".as_ref(),
        ];
        let cli = Cli::try_parse_from(flags).map_err(|e| {
            Error::invalid("the repository's path cannot be passed on").caused_by(e)
        })?;
        let output = Output {
            json: false,
            quiet: true,
        };
        background::start(&Context::new(&cli, output)?, &self.mountpoint, &texts, &[])
    }

    /// The parsed options, and their texts one by one.
    fn options(&self) -> Result<(MountOptions, Vec<String>)> {
        let mut options = MountOptions::default();
        let mut texts = Vec::new();
        for text in self.options.iter().flat_map(|all| split_options(all)) {
            match options.parse(text) {
                Ok(()) => texts.push(text.to_owned()),
                Err(error) if self.sloppy => {
                    tracing::warn!(error = %error.report(), "an option is left out");
                }
                Err(error) => return Err(error),
            }
        }
        Ok((options, texts))
    }
}
