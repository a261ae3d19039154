//! `restorefs openapi`: prints the description of the HTTP API.

use super::context::Context;
use crate::error::Result;
use crate::http;

pub(super) fn run(context: &Context) -> Result<()> {
    let text = http::openapi_text()?;
    text.lines().try_for_each(|line| context.output.line(line))
}
