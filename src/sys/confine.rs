//! Giving up rights: what a process that parses hostile bytes does to itself before it begins.
//!
//! # Invariants
//! - Each step is tried on its own and reported in [`Confinement`]; [`Confinement::lacks`] names what is missing: both landlock and seccomp
//!   are demanded, so that a fault of one is held by the other. Kernels from 5.15 on have both, where they are switched on.
//! - [`close_others`] comes first: a descriptor that the caller has left open is a right, too.
//! - [`seal`] comes last, when all threads are there, and holds for all of them: from then on only memory, the clock, and reading and
//!   writing what is open already are possible.
//!
//! # Why
//! User namespaces are forbidden on many machines and in many containers, and give nothing that landlock and seccomp do not
//! give: they are taken where they are to be had.
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

/// What a confined process may still use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Address space in bytes; what passes it fails as if there were no memory.
    pub memory_bytes: u64,
    /// Processor time in seconds, in all; beyond it the kernel ends the process.
    pub cpu_seconds: u64,
}

/// What was given up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Confinement {
    /// User, network, IPC and UTS namespaces of its own.
    pub namespaces: bool,
    /// Version of landlock(7) that keeps files and ports out of reach; 0 where nothing does.
    pub landlock_abi: u32,
    /// Only the calls of [`seal`] (seccomp(2)).
    pub seccomp: bool,
}

impl Confinement {
    /// What of the kernel's means is missing; empty when files and network are out of reach.
    #[must_use]
    pub fn lacks(&self) -> Vec<&'static str> {
        let means = [
            (self.landlock_abi > 0, "landlock"),
            (self.seccomp, "seccomp"),
        ];
        let missing = means.into_iter().filter(|(is_there, _)| !is_there);
        missing.map(|(_, name)| name).collect()
    }

    /// What this kernel's landlock does not know yet: seccomp alone forbids it.
    #[must_use]
    pub fn weaknesses(&self) -> Vec<&'static str> {
        let unknown = LANDLOCK_LATER.into_iter();
        let unknown = unknown.filter(|(abi, _)| self.landlock_abi < *abi);
        unknown.map(|(_, what)| what).collect()
    }
}

/// What versions of landlock after the first have added that matters to who has no files, and the Linux release that has it.
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

/// Closes every descriptor but standard input, output and error: whoever started this process may have left some open. Call it before
/// anything is opened.
///
/// # Errors
/// `Io`; `Unsupported` before Linux 5.9.
pub fn close_others() -> Result<()> {
    let all = libc::c_uint::MAX;
    // SAFETY: descriptors from 3 on are nobody's in this process: the caller has opened none yet.
    let result = unsafe { libc::close_range(3, all, 0) };
    if result == 0 {
        return Ok(());
    }
    Err(Error::io(
        "cannot close inherited descriptors",
        std::io::Error::last_os_error(),
    ))
}

/// The version of landlock that is in force now; 0 when none could be had.
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

/// No files, no ports, no signals to others: as much of it as this kernel knows.
fn restrict() -> Result<RestrictionStatus, RulesetError> {
    let abi = ABI::V6;
    Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .restrict_self()
}

/// Namespaces of its own; false where they are forbidden. None of mounts: it would have a copy of each, also of the daemon's own, which
/// would then outlive their unmounting.
fn unshare() -> bool {
    let own =
        UnshareFlags::NEWUSER | UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    // SAFETY: descriptors and memory stay shared; only namespaces change, which no other code of this process relies on.
    unsafe { rustix::thread::unshare_unsafe(own) }.is_ok()
}

/// Gives up all but memory and threads; call it while there is one thread.
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

/// The calls that remain: memory, signals of its own, futexes, the clock, what is open already.
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

/// What a call that is not allowed answers. Not the end of the process: libraries ask for things by themselves and do without, as glibc
/// does, which looks into `/proc/sys/vm/overcommit_memory` before it gives memory back.
const EPERM: u32 = libc::EPERM.unsigned_abs();

/// Forbids every other call, in all threads.
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
    // Signals to its own threads (abort), to nobody else.
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

    /// Set in the process that is sealed.
    const VARIABLE: &str = "RESTOREFS_TEST_SEALED";

    fn signal(process: libc::pid_t, thread: libc::pid_t) -> bool {
        // SAFETY: the null signal is delivered to nobody.
        let sent = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, 0) };
        sent == 0
    }

    /// Whoever parses hostile bytes signals its own threads, as abort(3) does, and nobody else, also where landlock does not know signals.
    #[test]
    fn a_sealed_process_signals_itself_alone() {
        // SAFETY: both calls only ask.
        let (process, thread) = unsafe { (libc::getpid(), libc::gettid()) };
        if std::env::var_os(VARIABLE).is_some() {
            let parent = std::env::var(VARIABLE).unwrap().parse().unwrap();
            // Without the filter it may.
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
