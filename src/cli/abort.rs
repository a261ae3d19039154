//! `restorefs abort`: ends a session without a point, with or without a daemon.

use super::args::Abort;
use super::context::Context;
use super::target::parse_session;
use crate::error::Result;

pub(super) fn run(context: &Context, args: &Abort) -> Result<()> {
    let session = parse_session(&args.session)?;
    context.writer("abort")?.service.abort(&session, None)?;
    if context.output.json {
        return context.output.json(
            &serde_json::json!({"vm": session.vm, "session": session.session, "aborted": true}),
        );
    }
    context.output.outcome(format!("session {session} aborted"))
}
