//! Notifications to the service manager (sd_notify(3)): readiness, reload, status, and watchdog.

use std::time::Duration;

use sd_notify::NotifyState;

/// LIMIT: bytes of a status line.
const STATUS_BYTES_MAX: usize = 200;

/// The service manager, if there is one; without one, notifications do nothing.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Supervisor;

impl Supervisor {
    fn tell(states: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(states) {
            tracing::warn!(%error, "the notification of the service manager failed");
        }
    }

    /// Reports that everything is served.
    pub(super) fn ready(self, status: &str) {
        Self::tell(&[NotifyState::Ready, NotifyState::Status(cut(status))]);
    }

    /// Reports that the configuration is being reloaded; [`Supervisor::ready`] ends the reload.
    pub(super) fn reloading(self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => Self::tell(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "there is no clock for the service manager"),
        }
    }

    /// Reports that the daemon stops, and that the next notification will come within `patience`.
    pub(super) fn stopping(self, status: &str, patience: Duration) {
        let micros = u32::try_from(patience.as_micros()).unwrap_or(u32::MAX);
        Self::tell(&[
            NotifyState::Stopping,
            NotifyState::ExtendTimeoutUsec(micros),
            NotifyState::Status(cut(status)),
        ]);
    }

    /// Reports that the daemon is alive.
    pub(super) fn alive(self) {
        Self::tell(&[NotifyState::Watchdog]);
    }

    /// The watchdog interval: half of the time after which the service manager considers the daemon
    /// dead.
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
