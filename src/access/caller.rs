//! The caller of an operation.

use std::sync::Arc;

use super::{Access, Right};
use crate::types::VmName;

/// The caller of an operation, as authenticated by the door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// The process that owns the repository, for its own operations.
    Owner,
    /// A user admitted by a Unix socket.
    User {
        /// User id.
        uid: u32,
        /// Whether this is root, or the user of the process itself.
        is_own: bool,
    },
    /// A mounted tree.
    Mount {
        /// Whether restore points may be removed there (mount option `allow_forget`).
        allow_forget: bool,
    },
    /// A client on a TCP address of this machine's loopback.
    Loopback,
    /// A client with a certificate, identified by the names in it.
    Certified(Arc<[String]>),
}

impl Caller {
    /// A user on a Unix socket.
    #[must_use]
    pub fn user(uid: u32) -> Self {
        let is_own = uid == 0 || uid == rustix::process::geteuid().as_raw();
        Self::User { uid, is_own }
    }

    /// Whether the caller has a right on a VM, or on the repository when no VM is given. `access`
    /// lists the rights of certificates.
    #[must_use]
    pub fn may(&self, right: Right, vm: Option<&VmName>, access: &Access) -> bool {
        match self {
            Self::Owner | Self::User { is_own: true, .. } => true,
            // The members of the socket's group may read and back up.
            Self::User { is_own: false, .. } | Self::Loopback => {
                matches!(right, Right::Read | Right::Ingest)
            }
            Self::Mount { allow_forget } => match right {
                Right::Read | Right::Ingest => true,
                Right::Manage => *allow_forget,
                Right::Admin => false,
            },
            Self::Certified(names) => vm.is_some_and(|vm| access.allows(names, vm, right)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Caller;
    use crate::access::{Access, Right};
    use crate::types::VmName;

    #[test]
    fn each_caller_has_its_rights_and_no_others() {
        let access = Access::default();
        let vm = VmName::new("web01").unwrap();
        let rights = [Right::Read, Right::Ingest, Right::Manage, Right::Admin];
        let has = |caller: &Caller| rights.map(|right| caller.may(right, Some(&vm), &access));
        assert_eq!(has(&Caller::Owner), [true; 4]);
        assert_eq!(has(&Caller::user(0)), [true; 4]);
        let ours = rustix::process::geteuid().as_raw();
        assert_eq!(has(&Caller::user(ours)), [true; 4]);
        let [member, most] = [[true, true, false, false], [true, true, true, false]];
        assert_eq!(has(&Caller::user(4_000_000_000)), member);
        assert_eq!(has(&Caller::Loopback), member);
        let mount = |allow_forget| Caller::Mount { allow_forget };
        assert_eq!(has(&mount(false)), member);
        assert_eq!(has(&mount(true)), most);
        let named = Caller::Certified(["agent1".to_owned()].into());
        assert_eq!(has(&named), [false; 4]);
    }
}
