//! Long work: how it is told to stop, how it tells how far it is, and its pieces over threads.

mod monitor;
mod pool;

pub use monitor::Monitor;
pub use pool::{on_threads, threads};
