//! Gives up rights: a process that parses hostile bytes confines itself before it begins.
//!
//! # Invariants
//! - Each step is tried on its own and reported in [`Confinement`]. [`Confinement::lacks`] names the missing
//!   steps. Both landlock and seccomp are required, so that each covers a fault of the other. Kernels from
//!   5.15 on have both, where they are enabled.
//! - [`close_others`] comes first: a descriptor that the parent process left open is a right, too.
//! - [`seal`] comes last, when all threads exist, and applies to all of them. From then on a thread can only
//!   use memory and the clock, and read and write open descriptors.
//!
//! # Why
//! User namespaces are forbidden on many machines and in many containers, and add nothing to landlock and
//! seccomp: they are used where they are available.
#![expect(
    unsafe_code,
    reason = "unshare(2) and close_range(2) have no safe wrappers"
)]

use std::collections::BTreeMap;

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetError, RulesetStatus, Scope,
};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::refuse::{self, Call};
use crate::error::{Error, Result, ResultExt};

/// The resources that a confined process may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Address space in bytes; allocations beyond it fail as if memory were exhausted.
    pub memory_bytes: u64,
    /// Total processor time in seconds; beyond it the kernel kills the process.
    pub cpu_seconds: u64,
}

/// The rights that the process gave up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Confinement {
    /// It has its own user, network, IPC and UTS namespaces.
    pub namespaces: bool,
    /// Version of landlock(7) that denies files and ports; 0 without landlock.
    pub landlock_abi: u32,
    /// It can make only the calls of [`seal`] (seccomp(2)).
    pub seccomp: bool,
}

impl Confinement {
    /// The missing kernel mechanisms; empty when files and network are out of reach.
    #[must_use]
    pub fn lacks(&self) -> Vec<&'static str> {
        let means = [
            (self.landlock_abi > 0, "landlock"),
            (self.seccomp, "seccomp"),
        ];
        let missing = means.into_iter().filter(|(is_there, _)| !is_there);
        missing.map(|(_, name)| name).collect()
    }

    /// Restrictions that this kernel's landlock does not support: only seccomp enforces them.
    #[must_use]
    pub fn weaknesses(&self) -> Vec<&'static str> {
        let unknown = LANDLOCK_LATER.into_iter();
        let unknown = unknown.filter(|(abi, _)| self.landlock_abi < *abi);
        unknown.map(|(_, what)| what).collect()
    }
}

/// Restrictions that later versions of landlock added and that matter to a process without files, with the
/// Linux release that has each.
const LANDLOCK_LATER: [(u32, &str); 4] = [
    (3, "truncation of files (Linux 6.2)"),
    (4, "TCP ports (Linux 6.7)"),
    (5, "ioctls of devices (Linux 6.10)"),
    (6, "signals and abstract sockets (Linux 6.12)"),
];

fn limit(resource: Resource, most: u64) -> Result<()> {
    let both = Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    rustix::process::setrlimit(resource, both)
        .map_err(std::io::Error::from)
        .or_io("cannot limit this process")
}

/// Closes all descriptors but standard input, output and error: the parent process may have left some open.
/// Call it before opening anything.
///
/// # Errors
/// `Io`; `Unsupported` before Linux 5.9.
pub fn close_others() -> Result<()> {
    let all = libc::c_uint::MAX;
    // SAFETY: nothing in this process owns the descriptors from 3 on: the caller has opened none yet.
    let result = unsafe { libc::close_range(3, all, 0) };
    if result == 0 {
        return Ok(());
    }
    Err(Error::io(
        "cannot close inherited descriptors",
        std::io::Error::last_os_error(),
    ))
}

/// The version of landlock in force now; 0 without landlock.
fn landlock() -> u32 {
    if refuse::check(Call::Landlock).is_err() {
        return 0;
    }
    match restrict() {
        Ok(RestrictionStatus {
            ruleset: RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced,
            landlock:
                LandlockStatus::Available {
                    effective_abi,
                    kernel_abi,
                },
            ..
        }) => u32::try_from(kernel_abi.unwrap_or(effective_abi as i32)).unwrap_or(0),
        _ => 0,
    }
}

/// Denies files, ports and signals to other processes, as far as this kernel supports it.
fn restrict() -> Result<RestrictionStatus, RulesetError> {
    let abi = ABI::V6;
    Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .restrict_self()
}

/// Enters new namespaces; false where they are forbidden. There is no new mount namespace: it would hold a
/// copy of every mount, including the daemon's own, and keep them after their unmounting.
fn unshare() -> bool {
    let own =
        UnshareFlags::NEWUSER | UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    // SAFETY: descriptors and memory stay shared; only namespaces change, which no other code of this process relies on.
    unsafe { rustix::thread::unshare_unsafe(own) }.is_ok()
}

/// Gives up everything but memory and threads; call it while the process has one thread.
///
/// # Errors
/// `Io` when a limit cannot be set, or capabilities cannot be dropped.
pub fn confine(limits: Limits) -> Result<Confinement> {
    limit(Resource::As, limits.memory_bytes)?;
    limit(Resource::Cpu, limits.cpu_seconds)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, 0)?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(std::io::Error::from)
        .or_io("cannot hide this process")?;
    rustix::thread::set_no_new_privs(true)
        .map_err(std::io::Error::from)
        .or_io("cannot renounce privileges")?;
    let namespaces = unshare();
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none)
        .map_err(std::io::Error::from)
        .or_io("cannot drop capabilities")?;
    Ok(Confinement {
        namespaces,
        landlock_abi: landlock(),
        seccomp: false,
    })
}

/// The remaining calls: memory, signals to the process itself, futexes, the clock, and open descriptors.
const ALLOWED: [libc::c_long; 31] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_ppoll,
    libc::SYS_close,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The errno of a forbidden call. The filter does not kill the process, because libraries make optional calls
/// and continue without them: glibc reads `/proc/sys/vm/overcommit_memory` before it releases memory.
const EPERM: u32 = libc::EPERM.unsigned_abs();

/// Forbids all other calls, in all threads.
///
/// # Errors
/// `Unsupported` where the kernel has no seccomp.
pub fn seal() -> Result<()> {
    refuse::check(Call::Seccomp).or_io("seccomp cannot be had")?;
    let failed =
        |error: seccompiler::Error| Error::unsupported("seccomp cannot be had").caused_by(error);
    let backend = |error: seccompiler::BackendError| failed(error.into());
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_poll, Vec::new());
    // glibc registers each new thread with these.
    rules.insert(libc::SYS_set_robust_list, Vec::new());
    rules.insert(libc::SYS_rseq, Vec::new());
    // Signals to its own threads only (abort).
    let own = u64::from(std::process::id());
    let is_own = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, own);
    let rule = is_own
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(backend)?;
    rules.insert(libc::SYS_tgkill, vec![rule]);
    let arch = std::env::consts::ARCH.try_into().map_err(backend)?;
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Errno(EPERM),
        SeccompAction::Allow,
        arch,
    )
    .map_err(backend)?;
    let program: BpfProgram = filter.try_into().map_err(backend)?;
    seccompiler::apply_filter_all_threads(&program).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::{Confinement, seal};

    #[test]
    fn what_a_kernel_lacks_is_named() {
        let of = |landlock_abi, seccomp| Confinement {
            namespaces: false,
            landlock_abi,
            seccomp,
        };
        assert_eq!(of(0, false).lacks(), ["landlock", "seccomp"]);
        assert!(of(1, true).lacks().is_empty());
        for (abi, count) in [(1, 4), (2, 4), (3, 3), (4, 2), (5, 1), (6, 0), (7, 0)] {
            assert_eq!(of(abi, true).weaknesses().len(), count, "{abi}");
        }
    }

    /// Set in the sealed process.
    const VARIABLE: &str = "RESTOREFS_TEST_SEALED";

    fn signal(process: libc::pid_t, thread: libc::pid_t) -> bool {
        // SAFETY: the null signal is not delivered.
        let sent = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, 0) };
        sent == 0
    }

    /// A sealed process can signal its own threads, as abort(3) does, and no other process, even where
    /// landlock does not restrict signals.
    #[test]
    fn a_sealed_process_signals_itself_alone() {
        // SAFETY: both calls only return ids.
        let (process, thread) = unsafe { (libc::getpid(), libc::gettid()) };
        if std::env::var_os(VARIABLE).is_some() {
            let parent = std::env::var(VARIABLE).unwrap().parse().unwrap();
            // Without the filter the signal is allowed.
            let before = signal(parent, parent);
            seal().unwrap();
            let is_right = before && signal(process, thread) && !signal(parent, parent);
            std::process::exit(if is_right { 42 } else { 1 });
        }
        let name = "sys::confine::tests::a_sealed_process_signals_itself_alone";
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--test-threads=1"])
            .env(VARIABLE, process.to_string())
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(42), "{status}");
    }
}
