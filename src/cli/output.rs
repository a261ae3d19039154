//! The output of commands: tables for people, JSON for programs.
//!
//! # Invariants
//! All output is escaped here ([`printable`]), once, whatever its source: text of a guest, a peer
//! or a file cannot affect the terminal, and adds no line of its own.

use std::borrow::Cow;
use std::io::{IsTerminal, Write};

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::types::DiskName;
use crate::types::printable::{printable, printable_json};

/// The form of a command's output.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    /// JSON instead of text.
    pub(super) json: bool,
    /// Suppress progress, remarks and results of success.
    pub(super) quiet: bool,
}

impl Output {
    /// Writes text that contains only our own line ends: foreign names and text in it are already
    /// escaped.
    fn put(text: &str) -> Result<()> {
        Self::offer(text).map(|_| ())
    }

    /// [`Output::put`]; returns whether somebody still reads.
    fn offer(text: &str) -> Result<bool> {
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // The reader has closed the pipe, as in `restorefs ls | head`.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
            Err(e) => Err(Error::io("cannot write to standard output", e)),
            Ok(()) => Ok(true),
        }
    }

    /// Prints a line of text for a command that goes on; returns whether somebody still reads.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn live_line(self, text: &str) -> Result<bool> {
        Self::offer(&format!("{}\n", printable(text)))
    }

    /// Prints a value as one line of JSON for a command that goes on; returns whether somebody still reads.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn json_line(self, value: &impl Serialize) -> Result<bool> {
        let text = serde_json::to_string(value)
            .map_err(|e| Error::new(ErrorKind::Io, "cannot encode the answer").caused_by(e))?;
        Self::offer(&format!("{}\n", printable_json(&text)))
    }

    /// Prints a line of text.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn line(self, text: impl AsRef<str>) -> Result<()> {
        Self::put(&format!("{}\n", printable(text.as_ref())))
    }

    /// Prints the result of a successful command, unless `--quiet` was given.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn outcome(self, text: impl AsRef<str>) -> Result<()> {
        match self.quiet {
            true => Ok(()),
            false => self.line(text),
        }
    }

    /// Prints a warning on standard error, also with `--quiet`.
    pub(super) fn warn(self, text: impl AsRef<str>) {
        // A failure to print must not fail the command.
        let _ = writeln!(
            std::io::stderr(),
            "restorefs: warning: {}",
            printable(text.as_ref())
        );
    }

    /// Prints a value as JSON on standard error, because standard output has an archive.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn json_aside(self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|e| Error::new(ErrorKind::Io, "cannot encode the answer").caused_by(e))?;
        writeln!(std::io::stderr(), "{}", printable_json(&text))
            .map_err(|e| Error::io("cannot write to standard error", e))
    }

    /// Prints damage on standard error.
    pub(super) fn fault(text: &str) {
        // A failure to print must not hide the damage.
        let _ = writeln!(std::io::stderr(), "restorefs: damaged: {}", printable(text));
    }

    /// Prints an error on standard error, as the program `name`.
    pub(super) fn error(name: &str, error: &Error) {
        // A failure to print changes nothing: the exit code reports the error.
        let _ = writeln!(std::io::stderr(), "{name}: {}", printable(&error.report()));
    }

    /// Prints a value as JSON.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn json(self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|e| Error::new(ErrorKind::Io, "cannot encode the answer").caused_by(e))?;
        Self::put(&format!("{}\n", printable_json(&text)))
    }

    /// Prints rows in columns, with control characters escaped; the first row is the heading.
    /// Columns named in `right` are right-aligned.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn table(
        self,
        heading: &[&str],
        right: &[&str],
        rows: &[Vec<String>],
    ) -> Result<()> {
        let rows: Vec<Vec<Cow<'_, str>>> = rows
            .iter()
            .map(|row| row.iter().map(|cell| printable(cell)).collect())
            .collect();
        let mut widths: Vec<usize> = heading.iter().map(|h| h.chars().count()).collect();
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        let first: Vec<Cow<'_, str>> = heading.iter().map(|h| Cow::Borrowed(*h)).collect();
        for row in std::iter::once(&first).chain(&rows) {
            let mut line = String::new();
            for ((cell, width), name) in row.iter().zip(&widths).zip(heading) {
                if right.contains(name) {
                    line.push_str(&format!("{cell:>width$}  "));
                } else {
                    line.push_str(&format!("{cell:<width$}  "));
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        Self::put(&text)
    }

    /// Prints a line on standard error, unless `--quiet` was given.
    pub(super) fn remark(self, text: impl AsRef<str>) {
        if !self.quiet {
            // A failure to print must not fail the command.
            let _ = writeln!(std::io::stderr(), "{}", printable(text.as_ref()));
        }
    }

    /// Prints the reason why a disk is stored in full although it has a predecessor.
    pub(super) fn full(self, disk: &DiskName, reason: &str) {
        self.warn(format!("disk {disk} is stored in full: {reason}"));
    }

    /// Whether progress bars are wanted and visible.
    #[must_use]
    pub(super) fn shows_progress(self) -> bool {
        !self.quiet && std::io::stderr().is_terminal()
    }
}
