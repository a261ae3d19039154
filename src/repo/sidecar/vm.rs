//! `vm.json`: the name of a VM and its disks.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::copied::Origin;
use super::{Sidecar, Unknown};
use crate::types::{DiskName, PolicyName, VmId, VmName};

/// The sidecar of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    /// Schema number, 1.
    pub schema: u32,
    /// Identity.
    pub vm_id: VmId,
    /// Directory name.
    pub name: VmName,
    /// The hypervisor's name for it, any UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// When the first session began.
    pub created_at: Timestamp,
    /// Serial of the VM's own directory in the mount, from the same number space as points.
    pub serial: u32,
    /// Disks seen so far.
    #[serde(default)]
    pub disks: Vec<DiskKey>,
    /// Labels for people.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// From where the VM is copied; absent where its points are made here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// The VM's own policy, which wins over those whose patterns fit it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyName>,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// The disk for which a name stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskKey {
    /// Name of the disk.
    pub name: DiskName,
    /// Stable key; equal to the name until a real key is given.
    pub key: String,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Sidecar for Vm {
    const WHAT: &'static str = "VM sidecar";
    const SCHEMA: u32 = 1;
}
