//! Progress bars: bytes, speed, changed bytes, time left; only on a terminal.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::output::Output;
use crate::types::printable::printable;
use crate::types::size::Human;

/// The bars of one command.
pub(super) struct Progress {
    bars: MultiProgress,
    visible: bool,
}

impl Progress {
    /// Creates the bars of a command that prints to `output`.
    #[must_use]
    pub(super) fn new(output: Output) -> Self {
        Self {
            bars: MultiProgress::new(),
            visible: output.shows_progress(),
        }
    }

    /// Adds a bar for `total_bytes` of `name`.
    #[must_use]
    pub(super) fn bar(&self, name: &str, total_bytes: u64) -> Bar {
        if !self.visible {
            return Bar(ProgressBar::hidden());
        }
        let bar = self.bars.add(ProgressBar::new(total_bytes));
        let style = ProgressStyle::with_template(
            "{prefix:>10} [{bar:30}] {bytes:>10}/{total_bytes} {binary_bytes_per_sec:>12} {msg} {eta} left",
        );
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(printable(name).into_owned());
        Bar(bar)
    }
}

impl Progress {
    /// A line of text below what is printed, only on a terminal.
    #[must_use]
    pub(super) fn status(&self) -> Bar {
        if !self.visible {
            return Bar(ProgressBar::hidden());
        }
        let line = self.bars.add(ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            line.set_style(style);
        }
        Bar(line)
    }

    /// Prints something that the bars must not overwrite.
    pub(super) fn beside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bars.suspend(print)
    }
}

/// One bar.
#[derive(Clone)]
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// Advances the bar by `bytes`.
    pub(super) fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// Adds bytes that are stored because they changed.
    pub(super) fn changed(&self, bytes: u64) {
        self.0.set_message(format!("{} changed,", Human(bytes)));
    }

    /// Sets the text of a status line.
    pub(super) fn say(&self, text: &str) {
        self.0.set_message(printable(text).into_owned());
    }

    /// Completes the bar.
    pub(super) fn finish(&self) {
        self.0.finish_and_clear();
    }
}
