//! Selectors: names of points as people write them: `web01@latest`, `web01@latest~2`,
//! `web01@2026-11-20_02-00-00`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::sidecar::index::{Index, PointEntry};
use crate::error::{Error, Result};
use crate::types::size::Count;
use crate::types::{PointName, VmName};

/// One point of a VM. Its JSON form is the string that a person writes behind the `@`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Which {
    /// The point `n` places before the one with the highest `seq`.
    Latest(usize),
    /// By name.
    Named(PointName),
}

/// `VM@POINT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// The VM.
    pub vm: VmName,
    /// The point.
    pub which: Which,
}

impl FromStr for Which {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let (base, back) = match text.split_once('~') {
            Some((base, back)) => {
                let back = back.parse().map_err(|_| {
                    Error::invalid(format!("\"~{back}\" is not a number of points to go back"))
                })?;
                (base, Some(back))
            }
            None => (text, None),
        };
        match (base, back) {
            ("latest", back) => Ok(Self::Latest(back.unwrap_or(0))),
            (_, Some(_)) => Err(Error::invalid("only latest can be followed by ~N")),
            (name, None) => Ok(Self::Named(PointName::new(name)?)),
        }
    }
}

impl FromStr for Selector {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let (vm, point) = text.split_once('@').ok_or_else(|| {
            Error::invalid(format!(
                "\"{}\" names no restore point; write VM@POINT or VM@latest",
                text.escape_debug()
            ))
        })?;
        Ok(Self {
            vm: VmName::new(vm)?,
            which: point.parse()?,
        })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.vm, self.which)
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest(0) => f.write_str("latest"),
            Self::Latest(back) => write!(f, "latest~{back}"),
            Self::Named(name) => name.fmt(f),
        }
    }
}

impl TryFrom<String> for Which {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Which> for String {
    fn from(which: Which) -> Self {
        which.to_string()
    }
}

impl Which {
    /// Finds the point in the index.
    ///
    /// # Errors
    /// `NotFound` naming VM and point.
    pub fn find<'a>(&self, index: &'a Index) -> Result<&'a PointEntry> {
        let vm = &index.name;
        let missing = |what: String| {
            Err(Error::not_found(what).advise(format!("list the points with: restorefs ls {vm}")))
        };
        match self {
            Self::Named(name) => match index.point(name) {
                Some(point) => Ok(point),
                None => missing(format!("there is no restore point {vm}@{name}")),
            },
            Self::Latest(back) => {
                let mut points: Vec<&PointEntry> = index.points.iter().collect();
                points.sort_by_key(|point| std::cmp::Reverse(point.seq));
                match points.get(*back) {
                    Some(point) => Ok(point),
                    None if points.is_empty() => missing(format!("{vm} has no restore points yet")),
                    None => missing(format!(
                        "{vm} has only {}",
                        Count::of(points.len(), "restore point")
                    )),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Selector, Which};

    #[test]
    fn selectors_parse() {
        let parse = |text: &str| text.parse::<Selector>();
        assert_eq!(parse("web01@latest").unwrap().which, Which::Latest(0));
        assert_eq!(parse("web01@latest~2").unwrap().which, Which::Latest(2));
        assert_eq!(
            parse("web01@2026-11-20_02-00-00").unwrap().to_string(),
            "web01@2026-11-20_02-00-00"
        );
        for bad in [
            "web01",
            "web01@",
            "@latest",
            "web01@x~1",
            "web01@latest~x",
            "a/b@latest",
            "web01@..",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
