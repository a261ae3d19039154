//! Work that the owner's process does itself for a caller: verifying a VM, copying it, and forgetting by rules.
//!
//! Verifying and copying take long: each is a task with a thread of its own. The caller has its id at once, sees the bytes of each disk,
//! and can cancel it. Forgetting is answered when it is done.
//!
//! # Invariants
//! - Of one VM at most one verification and one copy are under way here. Work that a command does beside them is not counted.
//! - Before the owner ends, it cancels the works and waits for them. A work has a share of the owner, and so of the lock, until it has
//!   ended.
//! - What a work changes goes through [`Service`](super::Service) for its caller: it is refused from the instant on in which the caller
//!   loses the right.

mod copy;
mod forget;
mod start;
mod verify;

pub use copy::{CopyAnswer, CopyRequest};
pub use forget::{ForgetPlan, ForgetRequest, Forgotten, PlannedPoint, forget_planned};
pub use verify::VerifyRequest;
