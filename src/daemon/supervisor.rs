//! The service manager's side (sd_notify(3)): readiness, reload, what is going on, and signs of life.

use std::time::Duration;

use sd_notify::NotifyState;

/// LIMIT: bytes of a line of status.
const STATUS_BYTES_MAX: usize = 200;

/// How a service manager is told. Where there is none, nothing is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Supervisor;

impl Supervisor {
    fn tell(states: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(states) {
            tracing::warn!(%error, "the service manager could not be told");
        }
    }

    /// All is served.
    pub(super) fn ready(self, status: &str) {
        Self::tell(&[NotifyState::Ready, NotifyState::Status(cut(status))]);
    }

    /// The configuration is read again; [`Supervisor::ready`] ends it.
    pub(super) fn reloading(self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => Self::tell(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "there is no clock for the service manager"),
        }
    }

    /// The daemon stops, and takes so long at most until the next word.
    pub(super) fn stopping(self, status: &str, patience: Duration) {
        let micros = u32::try_from(patience.as_micros()).unwrap_or(u32::MAX);
        Self::tell(&[
            NotifyState::Stopping,
            NotifyState::ExtendTimeoutUsec(micros),
            NotifyState::Status(cut(status)),
        ]);
    }

    /// It is alive.
    pub(super) fn alive(self) {
        Self::tell(&[NotifyState::Watchdog]);
    }

    /// How often it wants to hear that: half of the time after which it takes us for dead.
    pub(super) fn interval(self) -> Option<Duration> {
        sd_notify::watchdog_enabled().map(|limit| limit / 2)
    }
}

fn cut(text: &str) -> &str {
    let line = text.lines().next().unwrap_or_default();
    let mut end = line.len().min(STATUS_BYTES_MAX);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line.get(..end).unwrap_or_default()
}
