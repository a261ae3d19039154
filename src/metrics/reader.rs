//! The processes that read guests' filesystems.

use prometheus::{IntCounter, IntGauge, Registry};

use super::Family;
use super::family::Registered;
use super::label::labelled;

static STARTED: Family = Family::counter(
    "restorefs_reader_processes_started_total",
    &[],
    "Processes that were started to read a guest's filesystem.",
);
static DIED: Family = Family::counter(
    "restorefs_reader_processes_died_total",
    &["reason"],
    "Reader processes that ended while they were needed: start (it did not begin), exit (by itself), killed (by a signal, as at its limit of memory), forbidden (a system call that it may not make), late, greedy (it read too much for one answer), nonsense (its answers).",
);
static RUNNING: Family = Family::gauge(
    "restorefs_reader_processes",
    &[],
    "Reader processes that run.",
);

pub(super) const FAMILIES: &[&Family] = &[&STARTED, &DIED, &RUNNING];

labelled! {
    /// Why a reader's process ended while it was needed.
    pub enum Death {
        /// It did not begin.
        Start = "start",
        /// It ended by itself.
        Exit = "exit",
        /// A signal ended it: at its limit of memory or processor time, or from outside.
        Killed = "killed",
        /// It made a system call that it may not make.
        Forbidden = "forbidden",
        /// It took too long for an answer.
        Late = "late",
        /// It read too much for one answer.
        Greedy = "greedy",
        /// Its answers made no sense.
        Nonsense = "nonsense",
    }
}

pub(super) struct Series {
    started: IntCounter,
    died: Vec<IntCounter>,
    running: IntGauge,
}

impl Series {
    pub(super) fn register(registry: &Registry) -> Registered<Self> {
        Ok(Self {
            started: STARTED.single_counter(registry)?,
            died: DIED.counters(registry, Death::LABELS)?,
            running: RUNNING.single_gauge(registry)?,
        })
    }
}

/// A process that counts as running until this is dropped.
#[derive(Debug)]
pub struct Running(());

impl Running {
    /// Counts a process that has started.
    #[must_use]
    pub fn start() -> Self {
        if let Some(series) = super::series() {
            series.reader.started.inc();
            series.reader.running.inc();
        }
        Self(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(series) = super::series() {
            series.reader.running.dec();
        }
    }
}

/// Counts a process that ended while it was needed.
pub fn note_death(death: Death) {
    let series = super::series();
    if let Some(counter) = series.and_then(|s| s.reader.died.get(death as usize)) {
        counter.inc();
    }
}
