//! The paths of all files in a repository.
//!
//! # On-disk layout
//! `src/FORMATS.md` draws it; this module is the only place that spells the names.

use crate::chain::ChainId;
use crate::error::Result;
use crate::store::Key;
use crate::types::{DiskName, LayerId, PointId, PointName, PolicyName, VmId, VmName};

use super::slot::{OPEN_SUFFIX, Slot};

/// The file that makes a directory a repository.
pub const FORMAT_FILE: &str = "restorefs.json";
/// The sidecar of a point.
pub const POINT_FILE: &str = "point.json";
/// The file that makes a `.partial` directory a session.
pub const SESSION_FILE: &str = "session.json";
/// Attached files of a point or session.
pub const ATTACHED: &str = "attached";
/// Suffix of the results of verifying a layer.
pub const CHECKS_SUFFIX: &str = ".checks.json";
/// Suffix of a policy.
pub const POLICY_SUFFIX: &str = ".json";
/// Suffix of a disk's record log in a session.
pub const MAP_SUFFIX: &str = ".map";

/// Suffix of the record of what has arrived of a layer.
pub const ARRIVED_SUFFIX: &str = ".arrived.json";

fn key(path: &str) -> Result<Key> {
    Key::parse(path)
}

/// `restorefs.json`.
///
/// # Errors
/// None in practice: all names here are valid keys.
pub fn format() -> Result<Key> {
    key(FORMAT_FILE)
}

/// `lock`.
///
/// # Errors
/// As [`format()`].
pub fn lock() -> Result<Key> {
    key("lock")
}

/// `vms`.
///
/// # Errors
/// As [`format()`].
pub fn vms() -> Result<Key> {
    key("vms")
}

/// `trash`.
///
/// # Errors
/// As [`format()`].
pub fn trash() -> Result<Key> {
    key("trash")
}

/// `cache`.
///
/// # Errors
/// As [`format()`].
pub fn cache() -> Result<Key> {
    key("cache")
}

/// `jobs`.
///
/// # Errors
/// As [`format()`].
pub fn jobs() -> Result<Key> {
    key("jobs")
}

/// `policies`.
///
/// # Errors
/// As [`format()`].
pub fn policies() -> Result<Key> {
    key("policies")
}

/// `policies/<name>.json`.
///
/// # Errors
/// As [`format()`].
pub fn policy(name: &PolicyName) -> Result<Key> {
    policies()?.join(&format!("{name}{POLICY_SUFFIX}"))
}

/// `policies/runs.json`.
///
/// # Errors
/// As [`format()`].
pub fn policy_runs() -> Result<Key> {
    policies()?.join("runs.json")
}

/// `policies/runner`.
///
/// # Errors
/// As [`format()`].
pub fn policy_runner() -> Result<Key> {
    policies()?.join("runner")
}

/// `policies/run.lock`: held by the process that runs the policies.
///
/// # Errors
/// As [`format()`].
pub fn policy_lock() -> Result<Key> {
    policies()?.join("run.lock")
}

/// Keys below `vms/<vm>`.
#[derive(Debug, Clone)]
pub struct VmKeys(Key);

impl VmKeys {
    /// Keys of a VM.
    ///
    /// # Errors
    /// As [`format()`].
    pub fn new(vm: &VmName) -> Result<Self> {
        Ok(Self(vms()?.join(vm.as_str())?))
    }
    /// `vms/<vm>`.
    #[must_use]
    pub fn root(&self) -> &Key {
        &self.0
    }
    /// `vm.json`.
    ///
    /// # Errors
    /// As [`format()`].
    pub fn vm(&self) -> Result<Key> {
        self.0.join("vm.json")
    }
    /// `index.json`.
    ///
    /// # Errors
    /// As [`format()`].
    pub fn index(&self) -> Result<Key> {
        self.0.join("index.json")
    }
    /// `points`.
    ///
    /// # Errors
    /// As [`format()`].
    pub fn points(&self) -> Result<Key> {
        self.0.join("points")
    }
    /// `points/<point>`.
    ///
    /// # Errors
    /// As [`format()`].
    pub fn point(&self, point: &PointName) -> Result<Key> {
        self.points()?.join(point.as_str())
    }
    /// `points/<point>/point.json`.
    ///
    /// # Errors
    /// As [`format()`].
    pub fn point_file(&self, point: &PointName) -> Result<Key> {
        self.point(point)?.join(POINT_FILE)
    }
    /// `points/.<name>.partial`.
    ///
    /// # Errors
    /// As [`format()`].
    pub fn session(&self, name: &PointName) -> Result<Key> {
        self.points()?.join(&format!(".{name}.partial"))
    }
    /// `points/.<name>.partial/session.json`.
    ///
    /// # Errors
    /// As [`format()`].
    pub fn session_file(&self, name: &PointName) -> Result<Key> {
        self.session(name)?.join(SESSION_FILE)
    }
    /// `points/.<name>.partial/<disk>.map`.
    ///
    /// # Errors
    /// `NameTooLong` never occurs: a disk's name has at most 128 bytes.
    pub fn map(&self, name: &PointName, log: &str) -> Result<Key> {
        self.session(name)?.join(&format!("{log}{MAP_SUFFIX}"))
    }
    /// `points/.<name>.partial/<slot>.<layer_id>.open`: a layer that arrives from another repository.
    ///
    /// # Errors
    /// As [`format()`].
    pub fn arriving(&self, name: &PointName, slot: &Slot, layer: LayerId) -> Result<Key> {
        self.session(name)?.join(&slot.build_file(layer))
    }
    /// `points/.<name>.partial/<slot>.<layer_id>.sums.open`: the sums of such a layer.
    ///
    /// # Errors
    /// As [`format()`].
    pub fn arriving_sums(&self, name: &PointName, slot: &Slot, layer: LayerId) -> Result<Key> {
        let file = format!("{}{OPEN_SUFFIX}", slot.sums_file(layer));
        self.session(name)?.join(&file)
    }
    /// `points/.<name>.partial/<slot>.<layer_id>.arrived.json`: what of such a layer is durable.
    ///
    /// # Errors
    /// As [`format()`].
    pub fn arrived(&self, name: &PointName, slot: &Slot, layer: LayerId) -> Result<Key> {
        let file = format!("{slot}.{layer}{ARRIVED_SUFFIX}");
        self.session(name)?.join(&file)
    }
    /// `layers`.
    ///
    /// # Errors
    /// As [`format()`].
    pub fn layers(&self) -> Result<Key> {
        self.0.join("layers")
    }
    /// `layers/<slot>.qcow2`.
    ///
    /// # Errors
    /// As [`format()`].
    pub fn layer(&self, slot: &Slot) -> Result<Key> {
        self.layers()?.join(&slot.layer_file())
    }
    /// `layers/<slot>.open`.
    ///
    /// # Errors
    /// As [`format()`].
    pub fn open_layer(&self, slot: &Slot) -> Result<Key> {
        self.layers()?.join(&slot.open_file())
    }
    /// `layers/<slot>.<layer_id>.open`: a layer that is built to replace the one in its slot.
    ///
    /// # Errors
    /// As [`format()`].
    pub fn build(&self, slot: &Slot, layer: LayerId) -> Result<Key> {
        self.layers()?.join(&slot.build_file(layer))
    }
    /// `layers/<slot>.<layer_id>.sums`.
    ///
    /// # Errors
    /// As [`format()`].
    pub fn sums(&self, slot: &Slot, layer: LayerId) -> Result<Key> {
        self.layers()?.join(&slot.sums_file(layer))
    }
    /// `layers/<slot>.<layer_id>.sums.open`: sums that are being written.
    ///
    /// # Errors
    /// As [`format()`].
    pub fn open_sums(&self, slot: &Slot, layer: LayerId) -> Result<Key> {
        let name = format!("{}{OPEN_SUFFIX}", slot.sums_file(layer));
        self.layers()?.join(&name)
    }
    /// `state`.
    ///
    /// # Errors
    /// As [`format()`].
    pub fn state_dir(&self) -> Result<Key> {
        self.0.join("state")
    }
    /// `state/retention.json`.
    ///
    /// # Errors
    /// As [`format()`].
    pub fn retained(&self) -> Result<Key> {
        self.state_dir()?.join("retention.json")
    }
    /// `state/<slot>.<layer_id>.checks.json`.
    ///
    /// # Errors
    /// As [`format()`].
    pub fn checks(&self, slot: &Slot, layer: LayerId) -> Result<Key> {
        self.state_dir()?
            .join(&format!("{slot}.{layer}{CHECKS_SUFFIX}"))
    }
    /// `state/<point_id>.json`.
    ///
    /// # Errors
    /// As [`format()`].
    pub fn state(&self, point: PointId) -> Result<Key> {
        self.state_dir()?.join(&format!("{point}.json"))
    }
}

/// `cache/leaves/<vm>/<disk>.leaves`.
///
/// # Errors
/// As [`format()`].
pub fn leaves(vm: &VmName, disk: &DiskName) -> Result<Key> {
    cache()?
        .join("leaves")?
        .join(vm.as_str())?
        .join(&format!("{disk}.leaves"))
}

/// `cache/maps`.
///
/// # Errors
/// As [`format()`].
pub fn flat_maps() -> Result<Key> {
    cache()?.join("maps")
}

/// `cache/maps/<vm_id>`: the flattened maps of a VM's chains.
///
/// # Errors
/// As [`format()`].
pub fn flat_maps_of(vm: VmId) -> Result<Key> {
    flat_maps()?.join(&vm.to_string())
}

/// `cache/maps/<vm_id>/<chain id>.map`.
///
/// # Errors
/// As [`format()`].
pub fn flat_map(vm: VmId, chain: ChainId) -> Result<Key> {
    flat_maps_of(vm)?.join(&format!("{chain}.map"))
}

/// `cache/flat`: flat disks, which share the extents of layers.
///
/// # Errors
/// As [`format()`].
pub fn flat_disks() -> Result<Key> {
    cache()?.join("flat")
}

/// `cache/flat/<vm_id>`: the flat disks of a VM.
///
/// # Errors
/// As [`format()`].
pub fn flat_disks_of(vm: VmId) -> Result<Key> {
    flat_disks()?.join(&vm.to_string())
}

/// The session's name when `component` is `.<name>.partial`.
#[must_use]
pub fn session_name(component: &str) -> Option<PointName> {
    let name = component.strip_prefix('.')?.strip_suffix(".partial")?;
    PointName::new(name).ok()
}
