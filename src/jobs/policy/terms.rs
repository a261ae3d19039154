//! The terms of a policy: what its file says, parsed and found to be consistent.

use jiff::{SignedDuration, Timestamp};

use super::schedule::Schedule;
use crate::error::{Error, Result, ResultExt};
use crate::jobs::retention::{Owed, Rules, Zone};
use crate::repo::sidecar::policy::{Policy, Requirement};
use crate::types::duration::Age;
use crate::types::pattern::fits;
use crate::types::size::Count;
use crate::types::{PolicyName, RepositoryId, RepositoryName, VmName};

/// LIMIT: patterns of a policy.
const PATTERNS_MAX: usize = 1_000;
/// LIMIT: repositories to which a policy copies.
const COPIES_MAX: usize = 32;
/// LIMIT: words of a command, and bytes of each.
const WORDS_MAX: usize = 1_000;
const WORD_BYTES_MAX: usize = 64 << 10;
/// LIMIT: seconds of an interval: a hundred years.
const SECONDS_MAX: u64 = 100 * 366 * 86_400;
/// Depths that a policy may set: from a layer on a full one to what QEMU can still read.
const DEPTHS: std::ops::RangeInclusive<u32> = 2..=800;

/// The terms of a policy.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Its name.
    pub name: PolicyName,
    /// Names and patterns of the VMs, in lower case.
    pub(super) patterns: Vec<String>,
    /// The zone of the schedule.
    pub zone: Zone,
    /// When it was added.
    pub created_at: Timestamp,
    /// When backups are due.
    pub schedule: Option<Schedule>,
    /// The command that makes one.
    pub command: Vec<String>,
    /// The rules of retention.
    pub keep: Option<Rules>,
    /// Where copies go.
    pub copies: Vec<CopyTerms>,
    /// What copies must amount to.
    pub require: Option<Requirement>,
    /// The longest time for which a point stays unverified.
    pub verify_every: Option<SignedDuration>,
    /// The greatest age of a VM's last point.
    pub rpo: Option<SignedDuration>,
    /// Layers of a chain beyond which it is merged at any price.
    pub max_depth: Option<u32>,
}

/// Where copies go, and when they are due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyTerms {
    /// The repository.
    pub to: RepositoryName,
    /// The id that it must have.
    pub id: RepositoryId,
    /// The time from the commit of a point.
    pub after: SignedDuration,
}

fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// A pattern in lower case.
fn pattern(text: &str) -> Result<String> {
    let plain = text.replace(['*', '?'], "x");
    match is_pattern(text) {
        // What no name can fit is a mistake: `web 01*`, `../*`.
        true => {
            let is_short = text.len() <= crate::types::name::NAME_BYTES_MAX;
            let is_of_names = text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-*?".contains(&b));
            if !is_short || !is_of_names || plain.contains("..") {
                let shown: String = text.chars().take(40).collect();
                return Err(Error::invalid(format!(
                    "no name of a VM fits the pattern \"{}\"",
                    shown.escape_debug()
                ))
                .advise("write a name, or a pattern with * and ? as in a shell: web*"));
            }
        }
        false => drop(VmName::new(text)?),
    }
    Ok(text.to_ascii_lowercase())
}

fn interval(what: &str, seconds: Option<u64>) -> Result<Option<SignedDuration>> {
    match seconds {
        None => Ok(None),
        Some(seconds @ 1..=SECONDS_MAX) => Ok(Some(SignedDuration::from_secs(
            i64::try_from(seconds).unwrap_or(i64::MAX),
        ))),
        Some(0) => Err(Error::invalid(format!("{what} of no time is never met"))
            .advise("write for example 26h or 30d")),
        Some(_) => Err(Error::invalid(format!(
            "{what} is longer than a hundred years"
        ))),
    }
}

impl Terms {
    /// Parses a policy, and refuses one that contradicts itself.
    ///
    /// # Errors
    /// `InvalidInput` naming the policy; `Unsupported` where this machine has no time zones.
    pub fn of(policy: &Policy) -> Result<Self> {
        Self::parse(policy).or_io(format!("the policy {} cannot be used", policy.name))
    }

    fn parse(policy: &Policy) -> Result<Self> {
        if policy.vms.is_empty() {
            return Err(Error::invalid("it names no VM"));
        }
        let is_long = |word: &String| word.len() > WORD_BYTES_MAX;
        if policy.vms.len() > PATTERNS_MAX
            || policy.copies.len() > COPIES_MAX
            || policy.command.len() > WORDS_MAX
            || policy.command.iter().any(is_long)
        {
            return Err(Error::invalid(format!(
                "it has more than {PATTERNS_MAX} patterns, {COPIES_MAX} repositories, or {WORDS_MAX} words of a command"
            )));
        }
        let zone: Zone = policy
            .zone
            .as_deref()
            .map_or_else(|| Ok(Zone::default()), str::parse)?;
        let schedule: Option<Schedule> = policy.schedule.as_deref().map(str::parse).transpose()?;
        let keep = policy.keep.as_ref();
        let mut keep = keep.map(|keep| Rules::of(keep, zone.clone())).transpose()?;
        if keep.as_ref().is_some_and(Rules::is_empty) {
            return Err(Error::invalid("its rules keep no restore point").advise(
                "write for example --keep-daily 7, or no rule: then nothing is forgotten",
            ));
        }
        let mut copies: Vec<CopyTerms> = Vec::new();
        for rule in &policy.copies {
            let is_same =
                |other: &&CopyTerms| other.to.same_as(&rule.to) || other.id == rule.repository_id;
            if let Some(other) = copies.iter().find(is_same) {
                return Err(Error::invalid(format!(
                    "it copies twice to the repository {}",
                    other.to
                )));
            }
            let after = match rule.after_seconds {
                0 => SignedDuration::ZERO,
                some => interval("--copy-after", Some(some))?.unwrap_or_default(),
            };
            copies.push(CopyTerms {
                to: rule.to.clone(),
                id: rule.repository_id,
                after,
            });
        }
        if let Some(keep) = &mut keep {
            let owed = copies.iter().map(|copy| Owed {
                id: copy.id,
                name: copy.to.clone(),
            });
            keep.owed = owed.collect();
        }
        let terms = Self {
            name: policy.name.clone(),
            patterns: policy
                .vms
                .iter()
                .map(|text| pattern(text))
                .collect::<Result<_>>()?,
            zone,
            created_at: policy.created_at,
            schedule,
            command: policy.command.clone(),
            keep,
            copies,
            require: policy.require,
            verify_every: interval("--verify-every", policy.verify_every_seconds)?,
            rpo: interval("--rpo", policy.rpo_seconds)?,
            max_depth: policy.max_depth,
        };
        terms.check()?;
        Ok(terms)
    }

    /// Refuses terms that contradict each other.
    fn check(&self) -> Result<()> {
        let is_idle = self.schedule.is_none()
            && self.keep.is_none()
            && self.copies.is_empty()
            && self.verify_every.is_none()
            && self.rpo.is_none()
            && self.require.is_none();
        if is_idle {
            return Err(Error::invalid("it does nothing").advise(
                "give it a schedule, rules (--keep-daily 7), --copy-to, --verify-every or --rpo",
            ));
        }
        if !self.command.is_empty() && self.schedule.is_none() {
            return Err(Error::invalid("it has a command, and no time to run it")
                .advise("add --hourly, --daily HH:MM, --weekly DAY@HH:MM or --every Nh"));
        }
        if self.command.first().is_some_and(String::is_empty)
            || self.command.iter().any(|word| word.contains('\0'))
        {
            return Err(Error::invalid("its command cannot be run"));
        }
        if let (Some(schedule), Some(rpo)) = (self.schedule, self.rpo)
            && rpo.as_secs() < schedule.length_seconds()
        {
            let (rpo, length) = (rpo.as_secs(), schedule.length_seconds());
            let age = |seconds: i64| Age(u64::try_from(seconds).unwrap_or_default());
            return Err(Error::invalid(format!(
                "its rpo of {} cannot be met by backups that are {} apart ({schedule})",
                age(rpo),
                age(length)
            )));
        }
        if let Some(depth) = self.max_depth.filter(|depth| !DEPTHS.contains(depth)) {
            let (least, most) = (DEPTHS.start(), DEPTHS.end());
            return Err(Error::invalid(format!(
                "its --max-depth {depth} is not from {least} to {most}"
            )));
        }
        match self.require {
            Some(require) => self.check_requirement(require),
            None => Ok(()),
        }
    }

    fn check_requirement(&self, require: Requirement) -> Result<()> {
        let Requirement {
            copies,
            media,
            offsite,
        } = require;
        let there = self.copies.len() + 1;
        let is_met = usize::try_from(copies).is_ok_and(|copies| copies <= there);
        if !is_met || media > copies || offsite > copies || copies == 0 {
            return Err(Error::invalid(format!(
                "it requires {copies} copies on {media} kinds of media, {offsite} of them off-site, and with {} there are {there}",
                Count::of(self.copies.len(), "--copy-to")
            ))
            .advise("the point itself is one copy; name a repository with --copy-to for each other one"));
        }
        Ok(())
    }

    /// Whether one of the patterns fits a VM.
    #[must_use]
    pub fn fits(&self, vm: &VmName) -> bool {
        let name = vm.folded();
        self.patterns.iter().any(|pattern| fits(pattern, &name))
    }

    /// The VMs that it names in full.
    pub(super) fn named(&self) -> impl Iterator<Item = VmName> {
        let names = self.patterns.iter().filter(|text| !is_pattern(text));
        names.filter_map(|text| VmName::new(text.as_str()).ok())
    }
}
