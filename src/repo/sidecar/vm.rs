//! `vm.json`: what a VM is called and which disks it has.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Sidecar, Unknown};
use crate::types::{DiskName, VmId, VmName};

/// The sidecar of a VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vm {
    /// Schema number, 1.
    pub schema: u32,
    /// Identity.
    pub vm_id: VmId,
    /// Directory name.
    pub name: VmName,
    /// What the hypervisor calls it, any UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// When the first session began.
    pub created_at: Timestamp,
    /// Serial of the VM's own directory in the mount, of the same number space as points.
    pub serial: u32,
    /// Disks seen so far.
    #[serde(default)]
    pub disks: Vec<DiskKey>,
    /// Labels for people.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Fields of newer releases.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Which disk a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskKey {
    /// Name of the disk.
    pub name: DiskName,
    /// Stable key; equal to the name until a real one is given.
    pub key: String,
    /// Fields of newer releases.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Sidecar for Vm {
    const WHAT: &'static str = "VM sidecar";
    const SCHEMA: u32 = 1;
}
