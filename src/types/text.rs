//! A text in a decoded file, borrowed from the file where it has no escapes.

use std::borrow::Cow;

use serde::Deserialize;

/// A text that the caller checks and converts to its own type.
#[derive(Deserialize)]
pub(crate) struct Text<'t>(#[serde(borrow)] pub(crate) Cow<'t, str>);
