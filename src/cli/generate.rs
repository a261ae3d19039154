//! Man pages and completions, from the table that also parses.

use std::path::Path;

use clap::CommandFactory;

use super::args::{Cli, Completions, Man};
use super::context::Context;
use crate::error::{Error, Result, ResultExt};
use crate::sys::beneath::Dir;
use crate::sys::durable::{self, Replace};

/// Prints the completions of one shell.
pub(super) fn completions(context: &Context, args: &Completions) -> Result<()> {
    let mut bytes = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "restorefs", &mut bytes);
    context.output.text(&String::from_utf8_lossy(&bytes))
}

/// Writes `restorefs.1` and one page for each subcommand.
pub(super) fn man(context: &Context, args: &Man) -> Result<()> {
    let dir = Dir::open(&args.dir)?;
    let mut command = Cli::command();
    command.build();
    let mut pages = vec![(command.clone(), "restorefs".to_owned())];
    pages.extend(
        command
            .get_subcommands()
            .filter(|c| !c.is_hide_set())
            .map(|c| (c.clone(), format!("restorefs-{}", c.get_name()))),
    );
    for (command, name) in pages {
        let mut bytes = Vec::new();
        let title = name.clone();
        let named = command.name(leak(title)?);
        clap_mangen::Man::new(named)
            .render(&mut bytes)
            .or_io("cannot render a man page")?;
        durable::put(
            &dir,
            Path::new(&format!("{name}.1")),
            &bytes,
            0o644,
            Replace::Yes,
        )?;
        context
            .output
            .remark(format!("{}/{name}.1", args.dir.display()));
    }
    Ok(())
}

/// clap wants names that live as long as the program; there are a dozen.
fn leak(name: String) -> Result<&'static str> {
    if name.is_empty() {
        return Err(Error::invalid("a command without a name"));
    }
    Ok(Box::leak(name.into_boxed_str()))
}
