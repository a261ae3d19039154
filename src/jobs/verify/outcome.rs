//! What a verification amounts to: its faults in short, and how its task ends.

use super::work::VmReport;
use crate::error::{Error, ErrorKind, Result};
use crate::types::PointName;

impl VmReport {
    /// The faults of the VM's own files, and one line for its damaged points.
    #[must_use]
    pub fn summary(&self) -> Vec<String> {
        let vm = &self.vm;
        let faults = self.faults.iter();
        let mut lines: Vec<String> = faults.map(|fault| format!("{vm}: {fault}")).collect();
        let damaged = self.points.iter().filter(|point| point.damage.is_some());
        let damaged: Vec<&PointName> = damaged.map(|point| &point.point).collect();
        if !damaged.is_empty() {
            lines.push(format!("{vm}: damage in {}", points_in_short(&damaged)));
        }
        lines
    }

    /// The result of the task that verified the VM.
    ///
    /// # Errors
    /// `Corrupt` with the summary when damage was found.
    pub fn outcome(&self) -> Result<()> {
        match self.is_damaged() {
            true => Err(Error::new(ErrorKind::Corrupt, self.summary().join("; "))),
            false => Ok(()),
        }
    }
}

/// `a, b` or `a to z (26 points)`.
#[must_use]
pub fn points_in_short(points: &[&PointName]) -> String {
    match points {
        [first, .., last] if points.len() > 3 => {
            format!("{first} to {last} ({} points)", points.len())
        }
        few => {
            let few: Vec<&str> = few.iter().map(|point| point.as_str()).collect();
            few.join(", ")
        }
    }
}
