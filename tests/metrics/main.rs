//! Metrics: their text as promtool and a real Prometheus read it, their figures beside an independent count, and the
//! page and the alerts that name them.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::float_cmp,
    clippy::cast_precision_loss,
    reason = "a test stops at the first surprise and says what it skips; its numbers are small and whole"
)]

mod alert;
mod figure;
mod hot;
#[path = "../kit/mod.rs"]
mod kit;
mod page;
mod scrape;
mod world;
