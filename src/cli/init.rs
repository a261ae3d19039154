//! `restorefs init`: makes a repository.

use super::args::Init;
use super::context::Context;
use crate::clock::{Clock, SystemClock};
use crate::error::Result;
use crate::repo::Repository;

pub(super) fn run(context: &Context, args: &Init) -> Result<()> {
    let dir = match &args.dir {
        Some(dir) => dir.as_path(),
        None => context.path()?,
    };
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
