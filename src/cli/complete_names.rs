//! `restorefs complete-names WORD -- WORDS`: the hidden command that shell completions call. It
//! prints the names that a word can become, one a line; for an unreadable repository it prints
//! nothing.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::args::CompleteNames;
use super::context::Context;
use crate::error::{Error, Result};
use crate::repo::Repository;
use crate::repo::register::Register;
use crate::types::{PointName, VmName};

/// LIMIT: printed names; nobody reads more in a terminal.
const NAMES_MAX: usize = 1_000;

pub(super) fn run(context: &Context, args: &CompleteNames) -> Result<()> {
    let Some(word) = args.word.to_str() else {
        return Ok(());
    };
    if is_repository_word(&args.line, &args.word) {
        return names_of_repositories(context, word);
    }
    let repository = match repository_in(&args.line) {
        Some(path) => context.of_word(&path).and_then(|named| named.repository()),
        None => context.repository(),
    };
    // Shell completion shows no errors.
    let names = repository.and_then(|repository| names(&repository, word));
    for name in names.unwrap_or_default().iter().take(NAMES_MAX) {
        context.output.line(name)?;
    }
    Ok(())
}

/// Whether the word at the cursor is the value of `--repo`. Some shells give it as the last of the words, too.
fn is_repository_word(line: &[OsString], word: &OsStr) -> bool {
    let before = match line {
        [before @ .., last] if last == word => before,
        all => all,
    };
    before
        .last()
        .is_some_and(|last| last == "-r" || last == "--repo")
}

/// Prints the names of repositories that a word can become.
fn names_of_repositories(context: &Context, word: &str) -> Result<()> {
    let register = Register::load().unwrap_or_default();
    register
        .names()
        .filter(|name| name.to_lowercase().starts_with(&word.to_lowercase()))
        .take(NAMES_MAX)
        .try_for_each(|name| context.output.line(name))
}

/// The repository that the words before the cursor name.
fn repository_in(line: &[OsString]) -> Option<PathBuf> {
    let mut words = line.iter();
    while let Some(word) = words.next() {
        if word == "-r" || word == "--repo" {
            return words.next().map(PathBuf::from);
        }
        let joined = word.as_bytes().strip_prefix(b"--repo=");
        if let Some(path) = joined {
            return Some(PathBuf::from(OsStr::from_bytes(path)));
        }
    }
    None
}

fn names(repository: &Repository, word: &str) -> Result<Vec<String>> {
    let begins = |name: &String| name.to_lowercase().starts_with(&word.to_lowercase());
    let of_vm = |vm: &str| -> Result<VmName> { repository.spelled(&VmName::new(vm)?) };
    let all: Vec<String> = if let Some((vm, _)) = word.split_once('@') {
        let vm = of_vm(vm)?;
        let index = repository.index(&vm)?;
        let newest = index.points.iter().rev();
        let latest = (!index.points.is_empty()).then(|| format!("{vm}@latest"));
        latest
            .into_iter()
            .chain(newest.map(|point| format!("{vm}@{}", point.name)))
            .collect()
    } else if let Some((vm, _)) = word.split_once('/') {
        let vm = of_vm(vm)?;
        let sessions: Vec<PointName> = repository.session_names(&vm)?;
        sessions.iter().map(|name| format!("{vm}/{name}")).collect()
    } else if word.contains(['=', ':']) {
        return Err(Error::invalid("a path, which the shell completes"));
    } else {
        let names = repository.vm_names()?;
        names.iter().map(ToString::to_string).collect()
    };
    Ok(all.into_iter().filter(begins).collect())
}
