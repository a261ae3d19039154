//! A text of a file that is decoded, borrowed from it where it has no escapes.

use std::borrow::Cow;

use serde::Deserialize;

/// A text, to be checked and taken into a type of its own.
#[derive(Deserialize)]
pub(crate) struct Text<'t>(#[serde(borrow)] pub(crate) Cow<'t, str>);
