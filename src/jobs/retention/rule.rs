//! Rules of retention.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::tz::TimeZone;

use super::period::Period;
use super::span::Span;
use crate::error::{Error, Result};
use crate::repo::sidecar::policy::Keeping;
use crate::types::{RepositoryId, RepositoryName};

/// Which points stay. The default keeps none.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// The newest points.
    pub last: u32,
    /// The newest point of each of the newest periods: how many periods.
    pub periods: BTreeMap<Period, u32>,
    /// All points that are younger.
    pub within: Span,
    /// The newest point of each period, among points that are younger.
    pub within_periods: BTreeMap<Period, Span>,
    /// Points with one of these tags.
    pub tags: Vec<TagRule>,
    /// The zone whose calendar counts; UTC by default.
    pub zone: Zone,
    /// Repositories that are owed a copy: points of which one has none stay.
    pub owed: Vec<Owed>,
    /// Whether points go although they lack such a copy: the filesystem is nearly full.
    pub is_owed_lifted: bool,
}

/// A repository that is owed a copy of every point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    /// Its id.
    pub id: RepositoryId,
    /// Its name, for people.
    pub name: RepositoryName,
}

/// A time zone; UTC by default.
#[derive(Debug, Clone)]
pub struct Zone(pub(super) TimeZone);

impl Default for Zone {
    fn default() -> Self {
        Self(TimeZone::UTC)
    }
}

/// A tag that keeps a point: by its key, or by key and value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagRule {
    key: String,
    value: Option<String>,
}

impl Rules {
    /// The rules of a policy, which count in `zone`.
    ///
    /// # Errors
    /// `InvalidInput` for a span or a tag that cannot be read.
    pub fn of(keep: &Keeping, zone: Zone) -> Result<Self> {
        let span = |text: &Option<String>| -> Result<Span> {
            text.as_deref().map_or(Ok(Span::default()), str::parse)
        };
        Ok(Self {
            last: keep.last,
            periods: [
                (Period::Hour, keep.hourly),
                (Period::Day, keep.daily),
                (Period::Week, keep.weekly),
                (Period::Month, keep.monthly),
                (Period::Year, keep.yearly),
            ]
            .into(),
            within: span(&keep.within)?,
            within_periods: [
                (Period::Hour, span(&keep.within_hourly)?),
                (Period::Day, span(&keep.within_daily)?),
                (Period::Week, span(&keep.within_weekly)?),
                (Period::Month, span(&keep.within_monthly)?),
                (Period::Year, span(&keep.within_yearly)?),
            ]
            .into(),
            tags: keep
                .tags
                .iter()
                .map(|tag| tag.parse())
                .collect::<Result<_>>()?,
            zone,
            owed: Vec::new(),
            is_owed_lifted: false,
        })
    }

    /// Refuses rules that keep no point. `is_ruled`: whether a rule was given at all.
    ///
    /// # Errors
    /// `InvalidInput`.
    pub fn require(self, is_ruled: bool) -> Result<Self> {
        match self.is_empty() {
            false => Ok(self),
            true => Err(Error::invalid(match is_ruled {
                true => "the rules keep no restore point",
                false => "no rule says which restore points stay",
            })),
        }
    }

    /// Whether no rule can keep a point.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.last == 0
            && self.periods.values().all(|n| *n == 0)
            && self.within.is_zero()
            && self.within_periods.values().all(|span| span.is_zero())
            && self.tags.is_empty()
    }
}

impl Zone {
    /// The zone itself.
    #[must_use]
    pub const fn time_zone(&self) -> &TimeZone {
        &self.0
    }
}

impl TagRule {
    /// The tag of a point that the rule fits, as `KEY=VALUE`.
    pub(super) fn find(&self, tags: &BTreeMap<String, String>) -> Option<String> {
        let value = tags.get(&self.key)?;
        let fits = self.value.as_ref().is_none_or(|wanted| wanted == value);
        fits.then(|| format!("{}={value}", self.key))
    }
}

impl FromStr for TagRule {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, None),
        };
        if key.is_empty() {
            return Err(Error::invalid(format!(
                "\"{}\" names no tag; write KEY or KEY=VALUE",
                text.escape_debug()
            )));
        }
        Ok(Self {
            key: key.to_owned(),
            value,
        })
    }
}

impl FromStr for Zone {
    type Err = Error;
    /// A name of the IANA database (`Europe/Berlin`). `UTC` needs no database.
    fn from_str(text: &str) -> Result<Self> {
        if text.eq_ignore_ascii_case("utc") {
            return Ok(Self::default());
        }
        let database = jiff::tz::db();
        if database.is_definitively_empty() {
            return Err(Error::unsupported(format!(
                "the time zone \"{}\" cannot be looked up: this machine has no time zones in /usr/share/zoneinfo",
                text.escape_debug()
            ))
            .advise("install them (the package tzdata), or use UTC"));
        }
        database.get(text).map(Self).map_err(|e| {
            Error::invalid(format!("\"{}\" is not a time zone", text.escape_debug()))
                .caused_by(e)
                .advise(
                    "write a name as in /usr/share/zoneinfo: Europe/Berlin, America/New_York, UTC",
                )
        })
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.iana_name().unwrap_or("UTC"))
    }
}
