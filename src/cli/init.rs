//! `restorefs init`: makes a repository.

use super::args::Init;
use super::context::Context;
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::repo::Repository;
use crate::repo::register::Register;

pub(super) fn run(context: &Context, args: &Init) -> Result<()> {
    let dir = match &args.dir {
        Some(dir) => dir.as_path(),
        None => context.path()?,
    };
    // Below a mountpoint whose filesystem is not mounted nothing is written.
    let register = Register::load()?;
    let named = match &args.dir {
        Some(word) => Register::find(word)?,
        None => context.named().cloned(),
    };
    if let Some(entry) = named.as_ref().or_else(|| register.claim(dir)) {
        entry.open()?;
        let (name, path) = (&entry.name, entry.path.display());
        let what = format!("in {path} there is the repository {name}");
        return Err(Error::new(ErrorKind::AlreadyExists, what).at_path(dir));
    }
    let repository = Repository::init(dir, SystemClock.now())?;
    let id = repository.format().repository_id;
    if context.output.json {
        return context
            .output
            .json(&serde_json::json!({"repository_id": id, "path": dir}));
    }
    context
        .output
        .outcome(format!("made repository {id} in {}", dir.display()))
}
