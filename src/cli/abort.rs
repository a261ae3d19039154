//! `restorefs abort`: ends a session without a point, with or without a daemon.

use super::args::Abort;
use super::context::{Context, Writer};
use super::target::parse_session;
use crate::daemon::control::Request;
use crate::error::Result;
use crate::repo::Ending;

pub(super) fn run(context: &Context, args: &Abort) -> Result<()> {
    let (vm, session) = parse_session(&args.session)?;
    match context.writer("abort")? {
        Writer::Daemon(mut client) => client.ask::<()>(&Request::Abort {
            vm: vm.clone(),
            session: session.clone(),
            failure: None,
        })?,
        Writer::Here(owner) => {
            owner.end_session(&vm, &session, &Ending::aborted())?;
        }
    }
    if context.output.json {
        return context
            .output
            .json(&serde_json::json!({"vm": vm, "session": session, "aborted": true}));
    }
    context
        .output
        .outcome(format!("session {vm}/{session} aborted"))
}
