//! Writes man pages and completions from the argument table of the parser, for packages:
//! `cargo run --profile dist --example assets [DIR]`; by default to `target/<profile>/assets/{man,completions}`.
//!
//! # Why
//! It is no build script: what only packages need costs the first build nothing.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_complete::Shell;

#[expect(unreachable_pub, reason = "only the definitions are used here")]
#[path = "args.rs"]
mod args;
#[expect(unreachable_pub, reason = "only the definitions are used here")]
#[path = "manual.rs"]
mod manual;

fn main() -> std::io::Result<()> {
    let directory = match std::env::args_os().nth(1) {
        Some(directory) => PathBuf::from(directory),
        // The program is target/<profile>/examples/assets.
        None => {
            let program = std::env::current_exe()?;
            let profile = program.ancestors().nth(2).unwrap_or(&program);
            profile.join("assets")
        }
    };
    write(&directory)
}

/// Writes `man/`, `man/gz/` and `completions/` in a directory, which is made when it is missing.
///
/// # Errors
/// Of making and writing files.
pub fn write(directory: &Path) -> std::io::Result<()> {
    man_pages(&directory.join("man"))?;
    let completions = directory.join("completions");
    std::fs::create_dir_all(&completions)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut command = args::Cli::command();
        let file = clap_complete::generate_to(shell, &mut command, "restorefs", &completions)?;
        let script = with_names(shell, std::fs::read_to_string(&file)?);
        std::fs::write(&file, script)?;
    }
    Ok(())
}

/// A completion script that also asks the program for the names of VMs, points and sessions.
fn with_names(shell: Shell, script: String) -> String {
    match shell {
        Shell::Bash => script + include_str!("completion/names.bash"),
        Shell::Fish => script + include_str!("completion/names.fish"),
        // Arguments by their names in the table. The functions are inserted before the last lines,
        // which call the first of them.
        _ => {
            let is_named = |line: &str| {
                ["vm", "vms", "session", "target", "point", "from"]
                    .iter()
                    .any(|id| {
                        line.starts_with(&format!("':{id} "))
                            || line.starts_with(&format!("'::{id} "))
                            || line.starts_with(&format!("'*::{id} "))
                    })
            };
            let mut lines: Vec<String> = script
                .lines()
                .map(|line| match is_named(line) {
                    true => line.replace(":_default'", ":_restorefs_names'"),
                    false => line.to_owned(),
                })
                .collect();
            let end = lines
                .iter()
                .rposition(|line| line.starts_with("if [ \"$funcstack[1]\""))
                .unwrap_or(lines.len());
            lines.insert(end, include_str!("completion/names.zsh").to_owned());
            lines.join("\n") + "\n"
        }
    }
}

/// Writes a page: the table of arguments, then the parts from `manual`.
fn man_page(
    command: &clap::Command,
    name: &str,
    subcommands: &[&clap::Command],
    dir: &Path,
) -> std::io::Result<()> {
    let release = concat!("restorefs ", env!("CARGO_PKG_VERSION"));
    let man = clap_mangen::Man::new(command.clone())
        .source(release)
        .manual("Virtual-machine backups");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    if command.get_after_help().is_some() {
        man.render_extra_section(&mut page)?;
    }
    let mut roff = roff::Roff::new();
    let mut section = |title: &str, rows: &[(&str, &str)]| {
        roff.control("SH", [title]);
        for (term, text) in rows {
            roff.control("TP", []);
            roff.text([roff::bold(*term)]).text([roff::roman(*text)]);
        }
    };
    let mut all = manual::EXAMPLES.iter();
    if let Some((_, examples)) = all.find(|(of, _)| *of == name) {
        section("EXAMPLES", examples);
    }
    section("EXIT STATUS", &manual::EXIT_STATUS);
    section("ENVIRONMENT", &manual::ENVIRONMENT);
    section("FILES", &manual::FILES);
    let mut also = manual::SEE_ALSO.iter();
    let foreign = also.find(|(of, _)| *of == name).map(|(_, pages)| *pages);
    let own: Vec<String> = match name {
        "" => subcommands
            .iter()
            .map(|c| format!("restorefs-{}(1)", c.get_name()))
            .collect(),
        _ => vec!["restorefs(1)".to_owned()],
    };
    let pages: Vec<&str> = own.iter().map(String::as_str).chain(foreign).collect();
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roff::roman(pages.join(", "))]);
    roff.to_writer(&mut page)?;
    std::fs::write(dir.join(man.get_filename()), page)
}

/// `restorefs.1`, and `restorefs-<command>.1` for each subcommand; compressed, as packages want them, in `gz/`.
fn man_pages(dir: &Path) -> std::io::Result<()> {
    let compressed = dir.join("gz");
    std::fs::create_dir_all(&compressed)?;
    let mut program = args::Cli::command().disable_help_subcommand(true);
    program.build();
    let visible = |command: &&clap::Command| !command.is_hide_set();
    let subcommands: Vec<_> = program.get_subcommands().filter(visible).collect();
    man_page(&program, "", &subcommands, dir)?;
    for command in &subcommands {
        man_page(command, command.get_name(), &subcommands, dir)?;
        // They have the examples of the command to which they belong.
        for action in command.get_subcommands().filter(visible) {
            if action.get_name() != "help" {
                man_page(action, command.get_name(), &subcommands, dir)?;
            }
        }
    }
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let Some(name) = path.file_name().filter(|_| path.is_file()) else {
            continue;
        };
        let mut name = name.to_owned();
        name.push(".gz");
        // The header has no name and time, so that the same page gives the same file.
        let mut out = flate2::GzBuilder::new().write(Vec::new(), flate2::Compression::best());
        out.write_all(&std::fs::read(&path)?)?;
        std::fs::write(compressed.join(name), out.finish()?)?;
    }
    Ok(())
}
