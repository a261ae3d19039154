//! Rules of retention on the command line.

use std::str::FromStr;

use super::args::retention::Keep;
use crate::error::{Error, Result};
use crate::jobs::retention::{Rules, Span, TagRule};
use crate::repo::sidecar::Unknown;
use crate::repo::sidecar::policy::Keeping;

/// Parses the value of a rule; the error names its flag.
fn value<T: FromStr>(flag: &str, text: Option<&String>, what: &str) -> Result<Option<T>>
where
    T::Err: std::fmt::Display,
{
    let parsed = text.map(|text| {
        text.parse().map_err(|_| {
            let shown = text.escape_debug();
            Error::invalid(format!("--{flag} wants {what}, not \"{shown}\""))
        })
    });
    parsed.transpose()
}

/// The rules as a policy keeps them.
///
/// # Errors
/// `InvalidInput` naming the flag.
pub(super) fn keeping(keep: &Keep) -> Result<Keeping> {
    let count = |flag: &str, text: &Option<String>| {
        value::<u32>(flag, text.as_ref(), "a number from 0 to 4294967295")
            .map(Option::unwrap_or_default)
    };
    let span = |flag: &str, text: &Option<String>| -> Result<Option<String>> {
        let span = value::<Span>(
            flag,
            text.as_ref(),
            "years, months, days and hours (1y6m, 14d, 2d12h)",
        )?;
        Ok(span
            .filter(|span| !span.is_zero())
            .map(|span| span.to_string()))
    };
    for tag in &keep.keep_tag {
        tag.parse::<TagRule>()?;
    }
    Ok(Keeping {
        last: count("keep-last", &keep.keep_last)?,
        hourly: count("keep-hourly", &keep.keep_hourly)?,
        daily: count("keep-daily", &keep.keep_daily)?,
        weekly: count("keep-weekly", &keep.keep_weekly)?,
        monthly: count("keep-monthly", &keep.keep_monthly)?,
        yearly: count("keep-yearly", &keep.keep_yearly)?,
        within: span("keep-within", &keep.keep_within)?,
        within_hourly: span("keep-within-hourly", &keep.keep_within_hourly)?,
        within_daily: span("keep-within-daily", &keep.keep_within_daily)?,
        within_weekly: span("keep-within-weekly", &keep.keep_within_weekly)?,
        within_monthly: span("keep-within-monthly", &keep.keep_within_monthly)?,
        within_yearly: span("keep-within-yearly", &keep.keep_within_yearly)?,
        tags: keep.keep_tag.clone(),
        unknown: Unknown::new(),
    })
}

/// The rules of `forget`.
///
/// # Errors
/// `InvalidInput` naming the flag; `Unsupported` where this machine has no time zones.
pub(super) fn rules(keep: &Keep) -> Result<Rules> {
    let keeping = keeping(keep)?;
    let zone = keep
        .time_zone
        .as_deref()
        .map_or_else(|| Ok(Default::default()), str::parse)?;
    Rules::of(&keeping, zone)
}
