//! Bounds of what looks cost.

use std::time::Duration;

/// Bounds of what looks cost; the default ones are those of a scrape.
#[derive(Debug, Clone, Copy)]
pub struct LookLimits {
    /// LIMIT: age of a look that still serves (ours; less than the usual interval of 15 s to 60 s, so that each scrape of
    /// one Prometheus has new figures).
    pub look_age_max: Duration,
    /// LIMIT: age of the sizes of files (ours: a look asks for the size of each layer of the repository).
    pub content_age_max: Duration,
    /// LIMIT: how long somebody waits for a look (Prometheus waits 10 s for a scrape by default).
    pub patience: Duration,
    /// LIMIT: VMs with series in one scrape (ours; 10 series of about 100 bytes each make 20 MB).
    pub vms: usize,
}

impl Default for LookLimits {
    fn default() -> Self {
        Self {
            look_age_max: Duration::from_secs(10),
            content_age_max: Duration::from_secs(300),
            patience: Duration::from_secs(8),
            vms: 20_000,
        }
    }
}
