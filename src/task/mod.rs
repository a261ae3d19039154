//! Long work: tasks, how a caller stops them and follows their progress, and the distribution of their pieces
//! over threads.

mod monitor;
mod pace;
mod patience;
mod pool;
mod progress;
mod report;
mod table;

pub use monitor::Monitor;
pub use pace::Pace;
pub use patience::{Patience, nap};
pub use pool::{on_threads, threads};
pub use progress::DiskProgress;
pub use report::{TaskDisk, TaskKind, TaskReport, TaskRequest, TaskState, TaskSubject};
pub use table::{TaskTable, no_such_task};
