//! The command line: one file for each subcommand.

mod abort;
mod announced;
mod archive;
pub mod args;
mod background;
mod backup;
mod begin;
mod cancel;
mod check_config;
mod commit;
mod complete_names;
mod context;
mod copy;
mod damage;
mod document;
pub mod exit;
mod extract;
mod failure;
mod follow;
mod forget;
mod hold;
mod home;
mod info;
mod init;
mod job;
mod jobs;
mod keep;
mod ls;
mod machine;
#[cfg(test)]
#[expect(dead_code, unreachable_pub, reason = "the build uses all of it")]
mod manual;
mod map;
mod merge;
mod mount;
mod mount_config;
mod mount_helper;
mod openapi;
mod output;
mod policy;
mod policy_act;
mod policy_run;
mod progress;
mod quickstart;
mod rebuild_catalog;
mod repair;
mod report;
mod repository;
mod restore;
mod sample;
mod serve;
mod sessions;
mod shorten;
mod sources;
mod status;
mod synthetic_full;
mod tag;
mod target;
mod token;
mod trash;
mod unmap;
mod unread;
mod verify;
mod vm;
mod vm_pattern;
mod volumes;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use context::Context;
use exit::Code;
use output::Output;

use crate::capture::guard::server as guard;
use crate::error::Result;
use crate::export::archive::ReaderGone;
use crate::guest::worker::server;
use crate::log::{self, LogFormat, LogOptions};
use crate::map::device_helper;

/// Runs the program on the process's arguments: parses them, runs the command, prints its error,
/// and returns the exit code.
#[must_use]
pub fn run() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next();
    if first
        .as_ref()
        .is_some_and(|first| first == mount_helper::ARGUMENT)
    {
        // The helper has mount(8)'s exit codes.
        return mount_helper::run(arguments);
    }
    if let Some(first) = &first
        && arguments.next().is_none()
    {
        // These are not subcommands, because only this program starts them.
        if first == server::ARGUMENT {
            return code_of(&server::run()).into();
        }
        if first == guard::ARGUMENT {
            start_log(0);
            return code_of(&guard::run()).into();
        }
        if first == device_helper::ARGUMENT {
            return code_of(&device_helper::run()).into();
        }
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version go to standard output with code 0, usage errors to standard error
            // with 2.
            let code = if e.use_stderr() {
                Code::Usage
            } else {
                Code::Ok
            };
            let _ = e.print();
            return code.into();
        }
    };
    start_log(cli.verbose);
    let output = Output {
        json: cli.json,
        quiet: cli.quiet,
    };
    let result = Context::new(&cli, output).and_then(|context| run_command(&context, cli.command));
    // A reader of standard output may stop early: a closed pipe is no error of the archive.
    if let Err(e) = &result
        && !ReaderGone::caused(e)
    {
        Output::error("restorefs", e);
    }
    result.unwrap_or_else(|e| Code::of(e.kind()).into())
}

fn run_command(context: &Context, command: Command) -> Result<ExitCode> {
    let done = match command {
        // The exit code is that of the command that it runs.
        Command::Hold(args) => return hold::run(context, &args),
        Command::Init(args) => init::run(context, &args),
        Command::Backup(args) => backup::run(context, &args),
        Command::Begin(args) => begin::run(context, &args),
        Command::Commit(args) => commit::run(context, &args),
        Command::Abort(args) => abort::run(context, &args),
        Command::Sessions(_) => sessions::run(context),
        Command::Jobs(args) => jobs::run(context, &args),
        Command::Cancel(args) => cancel::run(context, &args),
        Command::Ls(args) => ls::run(context, &args),
        Command::Info(args) => info::run(context, &args),
        Command::Volumes(args) => volumes::run(context, &args),
        Command::Restore(args) => restore::run(context, &args),
        Command::Forget(args) => forget::run(context, &args),
        Command::Tag(args) => tag::tag(context, &args),
        Command::Keep(args) => tag::keep(context, &args),
        Command::Trash(args) => trash::run(context, &args),
        Command::Status(args) => status::run(context, &args),
        Command::Mount(args) => mount::run(context, &args),
        Command::Umount(args) => mount::umount(context, &args),
        Command::Map(args) => map::run(context, &args),
        Command::Unmap(args) => unmap::run(context, &args),
        Command::Serve(args) => serve::run(context, &args),
        Command::CheckConfig(args) => check_config::run(context, &args),
        Command::Quickstart(args) => quickstart::run(context, &args),
        Command::Undelete(args) => vm::undelete(context, &args),
        Command::Rename(args) => vm::rename(context, &args),
        Command::Remove(args) => vm::remove(context, &args),
        Command::Verify(args) => verify::verify(context, &args),
        Command::Check(args) => verify::check(context, &args),
        Command::Repair(args) => repair::run(context, &args),
        Command::SyntheticFull(args) => synthetic_full::run(context, &args),
        Command::Copy(args) => copy::run(context, &args),
        Command::Adopt(args) => copy::adopt(context, &args),
        Command::Policy(args) => policy::run(context, &args),
        Command::Repo(args) => repository::run(context, &args),
        Command::Token(args) => token::run(context, &args),
        Command::Openapi(_) => openapi::run(context),
        Command::RebuildCatalog(_) => rebuild_catalog::run(context),
        Command::CompleteNames(args) => complete_names::run(context, &args),
    };
    done.map(|()| Code::Ok.into())
}

/// Prints the error of a command on standard error.
fn code_of(result: &Result<()>) -> Code {
    if let Err(e) = result {
        Output::error("restorefs", e);
    }
    Code::of_result(result)
}

/// Starts the log on standard error; `RUST_LOG` overrides `-v`. A daemon with a configuration
/// changes the log accordingly.
fn start_log(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let options = |format| LogOptions {
        level: level.to_owned(),
        format,
    };
    // The start cannot fail: the level is one of those above, and text needs no resource.
    let _ =
        log::start(&options(LogFormat::Auto)).or_else(|_| log::start(&options(LogFormat::Text)));
}

#[cfg(test)]
mod tests {
    use super::args::Cli;
    use super::manual;
    use clap::{CommandFactory, Parser};

    #[test]
    fn every_subcommand_has_examples_that_parse() {
        let program = Cli::command();
        let subcommands = program.get_subcommands().filter(|c| !c.is_hide_set());
        let names = subcommands.map(|c| c.get_name());
        for name in std::iter::once("").chain(names) {
            let mut all = manual::EXAMPLES.iter();
            let (_, examples) = all.find(|(of, _)| *of == name).expect(name);
            for (line, _) in *examples {
                let words = line.split_whitespace();
                let cli = Cli::try_parse_from(words).map_err(|e| format!("{line}: {e}"));
                assert!(cli.is_ok(), "{cli:?}");
            }
        }
    }
}
