//! `restorefs quickstart`: makes a mounted repository with two backups, by the same commands that
//! users run.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;

use clap::Parser;

use super::args::{Backup, Cli, Command, Init, Quickstart};
use super::context::Context;
use super::{background, backup, init, ls, sample};
use crate::control::Client;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::service::{LoginAnswer, Service};

pub(super) fn run(context: &Context, args: &Quickstart) -> Result<()> {
    let dir = std::path::absolute(&args.dir)
        .or_io("cannot tell the directory's path")
        .at_path(&args.dir)?;
    if std::fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(
            Error::new(ErrorKind::NotEmpty, "the directory is not empty")
                .at_path(&dir)
                .advise("name a new one"),
        );
    }
    std::fs::create_dir_all(&dir)
        .or_io("cannot make the directory")
        .at_path(&dir)?;
    let (repo, disk, mountpoint) = (dir.join("repo"), dir.join("disk.raw"), dir.join("mnt"));
    let output = context.output;
    let context = context.of(repo.clone());

    output.line(
        "1. A sample disk, built from files of this machine: a GPT with one ext4 filesystem.",
    )?;
    sample::make(&disk, &dir.join("staging"))?;
    std::fs::remove_dir_all(dir.join("staging")).or_io("cannot remove the sample's files")?;
    output.line("")?;
    output.line("2. A repository, and a first backup: everything is stored.")?;
    init::run(&context, &Init { dir: None })?;
    backup::run(&context, &backup_args(&disk, "monday")?)?;
    output.line("")?;
    output.line("3. A file is added to the disk, and a second backup stores only the clusters that changed.")?;
    sample::change(&disk, &dir.join("note.txt"))?;
    backup::run(&context, &backup_args(&disk, "tuesday")?)?;
    output.line("")?;
    ls::run(
        &context,
        &super::args::Ls {
            target: Some("sample".into()),
        },
    )?;

    std::fs::create_dir_all(&mountpoint)
        .or_io("cannot make the mountpoint")
        .at_path(&mountpoint)?;
    let mounted = match args.http {
        Some(address) => serve(&context, &mountpoint, address),
        None => background::start(&context, &mountpoint, &[], &[]).map(|()| None),
    };
    if let Err(e) = &mounted {
        output.line("")?;
        output.line(format!(
            "4. The tree could not be mounted here: {}",
            e.report()
        ))?;
        output.line(
            "   The same tree is reached without a mount: restorefs ls, restorefs restore.",
        )?;
        return explain(&context, &repo, None);
    }
    let pages = mounted.unwrap_or_default();
    output.line("")?;
    output.line(format!(
        "4. The repository is mounted on {}:",
        mountpoint.display()
    ))?;
    show(&context, &mountpoint)?;
    explain(&context, &repo, Some(&mountpoint))?;
    let Some(pages) = pages else {
        return Ok(());
    };
    for line in [
        String::new(),
        "5. The same in a browser; the address works once, within 5 minutes:".to_owned(),
        format!("   {}", pages.login.url),
        format!("   Another one: {} token login", program()),
        format!("Stop the daemon: kill {}", pages.pid),
    ] {
        output.line(line)?;
    }
    Ok(())
}

/// The pages of a daemon.
struct Pages {
    login: LoginAnswer,
    pid: u32,
}

/// Starts a daemon in the background that mounts the repository and serves its pages.
///
/// # Errors
/// The error of the daemon.
fn serve(context: &Context, mountpoint: &Path, address: SocketAddr) -> Result<Option<Pages>> {
    let program = std::env::current_exe().or_io("cannot find this program's file")?;
    let mut command = std::process::Command::new(program);
    command.arg("--repo").arg(context.repo_word()?);
    command.args(context.global_flags());
    command.arg("serve").arg("--mount").arg(mountpoint);
    command.arg("--http").arg(address.to_string());
    background::launch(command, "serving")?;
    let repository = context.repository()?;
    let client = Client::connect(&repository)?
        .ok_or_else(|| Error::new(ErrorKind::Disconnected, "the daemon has ended"))?;
    Ok(Some(Pages {
        login: client.login()?,
        pid: client.status()?.pid,
    }))
}

/// The sample disk as a source.
fn disk_source(disk: &Path) -> OsString {
    let mut source = OsString::from("vda=raw:");
    source.push(disk);
    source
}

/// The command line of a backup of the sample disk.
///
/// # Errors
/// `InvalidInput` when the parser refuses it.
fn backup_args(disk: &Path, point: &str) -> Result<Backup> {
    let words = ["restorefs", "backup", "sample", "--point", point].map(OsString::from);
    let words = words.into_iter().chain([disk_source(disk)]);
    match Cli::try_parse_from(words).map(|cli| cli.command) {
        Ok(Command::Backup(args)) => Ok(*args),
        Ok(_) => Err(Error::invalid("the sample's backup is another command")),
        Err(e) => Err(Error::invalid("the sample's backup cannot be made").caused_by(e)),
    }
}

/// Prints `ls` of the interesting directories.
fn show(context: &Context, mountpoint: &Path) -> Result<()> {
    for place in [
        "",
        "sample",
        "sample/latest/",
        "sample/latest/disks",
        "sample/latest/volumes/vda/part",
        "sample/latest/files",
    ] {
        let path = mountpoint.join(place);
        let mut names: Vec<String> = std::fs::read_dir(&path)
            .or_io("cannot list the mounted tree")
            .at_path(&path)?
            .flatten()
            .map(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => format!("{name}/"),
                    Ok(kind) if kind.is_symlink() => {
                        let to = std::fs::read_link(entry.path()).unwrap_or_default();
                        format!("{name} -> {}", to.display())
                    }
                    _ => name,
                }
            })
            .collect();
        names.sort();
        context.output.line(format!(
            "   {:<36} {}",
            format!("{place}:"),
            names.join("  ")
        ))?;
    }
    Ok(())
}

/// The command that calls this program: its name if the shell finds it, else its path.
fn program() -> String {
    let here = std::env::current_exe().unwrap_or_else(|_| "restorefs".into());
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("restorefs") == here));
    if found {
        "restorefs".to_owned()
    } else {
        here.display().to_string()
    }
}

/// The layer of the newest point's disk.
fn newest_layer(context: &Context) -> Result<String> {
    let selector = "sample@latest".parse()?;
    let (_, _, point) = context.repository()?.find(&selector)?;
    let disk = point.disks.first();
    Ok(disk.map(|disk| disk.layer.layer_file()).unwrap_or_default())
}

fn explain(context: &Context, repo: &Path, mountpoint: Option<&Path>) -> Result<()> {
    let me = program();
    let mut lines = vec![
        String::new(),
        "Try next:".to_owned(),
        format!("  export RESTOREFS_REPO={}", repo.display()),
    ];
    if let Some(mountpoint) = mountpoint {
        let m = mountpoint.display();
        let etc = "files/etc";
        lines.push(format!(
            "  diff -r --no-dereference {m}/sample/monday/{etc} {m}/sample/tuesday/{etc}"
        ));
        lines.push(format!("  cp -a {m}/sample/latest/{etc}/hostname /tmp/"));
    }
    lines.push(format!("  {me} ls sample@latest:/files/etc"));
    lines.push(format!("  {me} volumes sample@latest"));
    lines.push(format!("  {me} info sample@latest"));
    lines.push(format!("  {me} restore sample@monday vda /tmp/monday.raw"));
    lines.push("  # The layers are plain QCOW2, readable without restorefs:".to_owned());
    lines.push(format!(
        "  qemu-img info --backing-chain {}/vms/sample/layers/{}",
        repo.display(),
        newest_layer(context)?
    ));
    if let Some(mountpoint) = mountpoint {
        lines.push(String::new());
        lines.push(format!("Unmount: {me} umount {}", mountpoint.display()));
    }
    lines.iter().try_for_each(|line| context.output.line(line))
}
