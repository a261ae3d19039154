//! Why a point stays or goes.

use std::fmt;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::period::Period;
use super::span::Span;
use crate::types::RepositoryName;

/// Why a point stays or goes. In JSON it is its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It is one of the newest points.
    Last,
    /// It is the newest of a period.
    Newest(Period),
    /// It is young enough.
    Within(Span),
    /// It is young enough, and the newest of a period.
    NewestWithin(Period, Span),
    /// It is the oldest point, and a rule is not filled.
    Oldest,
    /// It has a tag that keeps it.
    Tag(String),
    /// Somebody keeps it by hand.
    Kept,
    /// It was captured later than now: a clock was wrong.
    Future,
    /// It is damaged.
    Damaged,
    /// These repositories are owed a copy of it, and have none.
    Uncopied(Vec<RepositoryName>),
    /// It is locked.
    Locked(Timestamp),
    /// Somebody uses it: the reason in words.
    Used(String),
    /// No rule keeps it.
    Unkept,
    /// The request names it.
    Named,
    /// It could not be forgotten: the reason in words.
    Failed(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Last => f.write_str("last"),
            Self::Newest(period) => write!(f, "{period}"),
            Self::Within(span) => write!(f, "within {span}"),
            Self::NewestWithin(period, span) => write!(f, "{period} within {span}"),
            Self::Oldest => f.write_str("oldest"),
            Self::Tag(tag) => write!(f, "tag {tag}"),
            Self::Kept => f.write_str("kept by hand"),
            Self::Future => f.write_str("captured in the future"),
            Self::Damaged => f.write_str("damaged"),
            Self::Uncopied(at) => {
                let names: Vec<&str> = at.iter().map(RepositoryName::as_str).collect();
                write!(f, "uncopied ({})", names.join(", "))
            }
            Self::Locked(until) => write!(f, "locked until {until}"),
            Self::Used(who) => write!(f, "in use: {who}"),
            Self::Unkept => f.write_str("no rule keeps it"),
            Self::Named => f.write_str("named"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
