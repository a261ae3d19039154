//! Long work: what a task is, how it is told to stop, how it tells how far it is, and its pieces over threads.

mod monitor;
mod pool;
mod report;
mod table;

pub use monitor::Monitor;
pub use pool::{on_threads, threads};
pub use report::{TaskDisk, TaskKind, TaskReport, TaskState, TaskSubject};
pub use table::TaskTable;
