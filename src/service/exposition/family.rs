//! The families of a repository and of its VMs.

use crate::metrics::Family;

const REPOSITORY: &[&str] = &["repository"];
const VM: &[&str] = &["repository", "vm"];

/// Defines the families, and [`FAMILIES`], which has all of them.
macro_rules! families {
    ($($name:ident: $text:literal, $labels:expr, $help:literal;)+) => {
        $(pub(super) static $name: Family = Family::gauge($text, $labels, $help);)+

        /// The families of repositories and of VMs, which a process has only where it serves repositories.
        pub const FAMILIES: &[&Family] = &[$(&$name),+];
    };
}

families! {
    UP: "restorefs_repository_up", REPOSITORY,
        "1 when the last look at the repository succeeded; otherwise 0, and the figures of that look are not there.";
    SEEN: "restorefs_repository_seen_timestamp_seconds", REPOSITORY,
        "Unix time of the look from which the figures of the repository and of its VMs come.";
    VMS: "restorefs_repository_vms", REPOSITORY,
        "VMs of the repository.";
    POINTS: "restorefs_repository_points", REPOSITORY,
        "Restore points.";
    STORED: "restorefs_repository_stored_bytes", REPOSITORY,
        "Bytes that the files of all layers take on the filesystem.";
    HIDDEN: "restorefs_repository_hidden_bytes", REPOSITORY,
        "Bytes of them that layers take which no restore point names: merging frees at most these.";
    DEPTH: "restorefs_repository_chain_depth_layers", REPOSITORY,
        "Layers of the deepest chain.";
    DEPTH_MAX: "restorefs_repository_chain_depth_max_layers", REPOSITORY,
        "Layers that a chain may have before it is merged at any price.";
    OLDEST_CHECK: "restorefs_repository_oldest_verification_timestamp_seconds", REPOSITORY,
        "Unix time at which the restore point was verified that waits for longest, of those that were verified.";
    UNCHECKED: "restorefs_repository_unverified_points", REPOSITORY,
        "Restore points of which not everything was verified yet.";
    DAMAGED_POINTS: "restorefs_repository_damaged_points", REPOSITORY,
        "Restore points that are known to be damaged.";
    DAMAGED_VMS: "restorefs_repository_damaged_vms", REPOSITORY,
        "VMs with known damage, those that cannot be read included.";
    COPIES_DUE: "restorefs_repository_copies_due", REPOSITORY,
        "Copies of points that policies owe other repositories, and that are due and missing.";
    UNMET: "restorefs_repository_vms_with_unmet_policy", REPOSITORY,
        "VMs of which a policy is not met.";
    UNUSABLE: "restorefs_repository_unusable_policies", REPOSITORY,
        "Policies that cannot be used.";
    FREE: "restorefs_repository_free_bytes", REPOSITORY,
        "Bytes that can still be written on the repository's filesystem.";
    SIZE: "restorefs_repository_filesystem_size_bytes", REPOSITORY,
        "Bytes of the repository's filesystem.";
    TRASH: "restorefs_repository_trash_bytes", REPOSITORY,
        "Bytes of what is in the trash.";
    FLAT: "restorefs_repository_flat_disks_bytes", REPOSITORY,
        "Bytes that the flat disks in the cache take, as du counts: nearly all of them are shared with layers.";
    FULL_IN: "restorefs_repository_full_in_seconds", REPOSITORY,
        "Time until the filesystem is full at the pace of the last 30 days, in whole days, if nothing is forgotten; absent when nothing was stored.";
    HELD: "restorefs_repository_held", REPOSITORY,
        "1 while somebody holds the repository (restorefs hold): nothing is merged or forgotten then.";
    SESSIONS: "restorefs_repository_sessions_open", REPOSITORY,
        "Sessions that are open.";
    RUNNING: "restorefs_repository_jobs_running", &["repository", "kind"],
        "Jobs that run now, by what they do.";
    LEFT_OUT: "restorefs_repository_vms_left_out", REPOSITORY,
        "VMs that this scrape may name, and that have no series because it would have too many.";
    VM_SUCCESS: "restorefs_vm_last_success_timestamp_seconds", VM,
        "Unix time at which the capture of the VM's last restore point began; absent without a point.";
    VM_POINTS: "restorefs_vm_points", VM,
        "Restore points of the VM.";
    VM_STORED: "restorefs_vm_stored_bytes", VM,
        "Bytes that the files of the VM's layers take on the filesystem.";
    VM_DEPTH: "restorefs_vm_chain_depth_layers", VM,
        "Layers of the VM's deepest chain; absent when that is not known.";
    VM_OLDEST_CHECK: "restorefs_vm_oldest_verification_timestamp_seconds", VM,
        "Unix time at which the VM's restore point was verified that waits for longest, of those that were verified.";
    VM_UNCHECKED: "restorefs_vm_unverified_points", VM,
        "Restore points of the VM of which not everything was verified yet.";
    VM_DAMAGED: "restorefs_vm_damaged", VM,
        "1 when damage of the VM is known, or the VM cannot be read.";
    VM_DAMAGED_POINTS: "restorefs_vm_damaged_points", VM,
        "Restore points of the VM that are known to be damaged.";
    VM_COPIES_DUE: "restorefs_vm_copies_due", VM,
        "Copies of the VM's points that a policy owes, and that are due and missing; absent without a policy.";
    VM_MET: "restorefs_vm_policy_met", VM,
        "1 when all policies of the VM are met, otherwise 0; absent without a policy.";
}
