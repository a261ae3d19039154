//! What the owner keeps of a VM in memory.

use super::sidecar::index::Index;
use super::sidecar::vm::Vm;

/// What the owner keeps of a VM.
#[derive(Debug, Clone)]
pub struct VmEntry {
    /// Its sidecar.
    pub vm: Vm,
    /// Its index.
    pub index: Index,
    /// Whether the VM was removed: whoever waited for this entry looks for the VM anew.
    pub gone: bool,
}
