//! The caller of an operation.

use std::fmt;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::{Access, Reach, Right, Rights};
use crate::error::Result;
use crate::sys::socket;
use crate::types::VmName;
use crate::types::printable::printable;

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
        /// Ids of the groups of the process at the other end.
        groups: Arc<[u32]>,
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
    /// A client with a token, identified by the token's name.
    Token(Arc<str>),
    /// Somebody who has not proved who it is: it has no right.
    Unknown,
    /// A caller that has given rights up, as a login with fewer rights than its token.
    Restricted {
        /// The caller.
        of: Box<Self>,
        /// The rights that it keeps, as far as it has them.
        to: Rights,
    },
}

impl Caller {
    /// A user on a Unix socket whose groups are not known.
    #[must_use]
    pub fn user(uid: u32) -> Self {
        Self::member(uid, Arc::default())
    }

    /// A user on a Unix socket, with the ids of the process's groups.
    #[must_use]
    pub fn member(uid: u32, groups: Arc<[u32]>) -> Self {
        let is_own = uid == 0 || uid == rustix::process::geteuid().as_raw();
        Self::User {
            uid,
            is_own,
            groups,
        }
    }

    /// The user at the other end of a Unix socket, with its groups as the kernel has them.
    ///
    /// # Errors
    /// `Io` when the kernel does not name the peer.
    pub fn of_socket(stream: impl AsFd) -> Result<Self> {
        let (uid, groups) = socket::peer_with_groups(stream)?;
        Ok(Self::member(uid, groups.into()))
    }

    /// Whether the caller has a right on a VM; when no VM is given, on all of them and the
    /// repository as a whole. `access` is the table as the repository sees it.
    #[must_use]
    pub fn may(&self, right: Right, vm: Option<&VmName>, access: &Access) -> bool {
        self.may_in(right, vm.into(), access)
    }

    /// Whether the caller has a right on at least one VM, which need not exist yet.
    #[must_use]
    pub fn may_some(&self, right: Right, access: &Access) -> bool {
        self.may_in(right, Reach::Some, access)
    }

    fn may_in(&self, right: Right, vm: Reach<'_>, access: &Access) -> bool {
        match self {
            Self::Owner | Self::User { is_own: true, .. } => true,
            Self::User { uid, groups, .. } if access.decides_for_users() => {
                access.allows_user(*uid, groups, vm, right)
            }
            // Without a table, members of the socket's group may read and back up.
            Self::User { .. } | Self::Loopback => is_of_members(right),
            Self::Mount { allow_forget } => {
                is_of_members(right) || (right == Right::Manage && *allow_forget)
            }
            Self::Certified(names) => access.allows_certificate(names, vm, right),
            Self::Token(name) => access.allows_token(name, vm, right),
            Self::Unknown => false,
            Self::Restricted { of, to } => to.contains(right) && of.may_in(right, vm, access),
        }
    }

    /// Whether the caller's rights depend on the access table. Others need no look at its file.
    #[must_use]
    pub fn needs_table(&self) -> bool {
        match self {
            Self::Owner | Self::Mount { .. } | Self::Loopback | Self::Unknown => false,
            Self::User { is_own, .. } => !is_own,
            Self::Certified(_) | Self::Token(_) => true,
            Self::Restricted { of, .. } => of.needs_table(),
        }
    }
}

/// Whether members of the socket's group have the right where no table decides.
const fn is_of_members(right: Right) -> bool {
    matches!(right, Right::Read | Right::Restore | Right::Ingest)
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner => f.write_str("the owner"),
            Self::User { uid, .. } => write!(f, "user {uid}"),
            Self::Mount { .. } => f.write_str("a mount"),
            Self::Loopback => f.write_str("loopback"),
            Self::Certified(names) => match names.first() {
                Some(name) => write!(f, "certificate {}", printable(name)),
                None => f.write_str("certificate without a name"),
            },
            Self::Token(name) => write!(f, "token {}", printable(name)),
            Self::Unknown => f.write_str("somebody unknown"),
            Self::Restricted { of, .. } => write!(f, "{of} (restricted)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Caller, is_of_members};
    use crate::access::{Access, Right, Rights};
    use crate::types::VmName;

    fn has(caller: &Caller, access: &Access) -> Vec<Right> {
        let vm = VmName::new("web01").unwrap();
        let mut all = Right::ALL.to_vec();
        all.retain(|right| caller.may(*right, Some(&vm), access));
        all
    }

    #[test]
    fn each_caller_has_its_rights_and_no_others() {
        let access = Access::default();
        let all = Right::ALL.to_vec();
        let member: Vec<Right> = all.iter().copied().filter(|r| is_of_members(*r)).collect();
        assert_eq!(member, [Right::Read, Right::Restore, Right::Ingest]);
        assert_eq!(has(&Caller::Owner, &access), all);
        assert_eq!(has(&Caller::user(0), &access), all);
        let ours = rustix::process::geteuid().as_raw();
        assert_eq!(has(&Caller::user(ours), &access), all);
        assert_eq!(has(&Caller::user(4_000_000_000), &access), member);
        assert_eq!(has(&Caller::Loopback, &access), member);
        let mount = |allow_forget| Caller::Mount { allow_forget };
        assert_eq!(has(&mount(false), &access), member);
        assert_eq!(
            has(&mount(true), &access),
            [Right::Read, Right::Restore, Right::Ingest, Right::Manage]
        );
        let named = Caller::Certified(["agent1".to_owned()].into());
        assert_eq!(has(&named, &access), []);
        assert_eq!(has(&Caller::Token("laptop".into()), &access), []);
    }

    #[test]
    fn who_is_restricted_keeps_at_most_what_it_has() {
        let access = Access::default();
        let to = |of: Caller, rights: &[Right]| Caller::Restricted {
            of: Box::new(of),
            to: rights.iter().copied().collect(),
        };
        let given = [Right::Read, Right::Manage];
        assert_eq!(has(&to(Caller::Owner, &given), &access), given);
        assert_eq!(
            has(&to(Caller::user(4_000_000_000), &given), &access),
            [Right::Read]
        );
        let twice = to(to(Caller::Owner, &given), &[Right::Manage, Right::Admin]);
        assert_eq!(has(&twice, &access), [Right::Manage]);
        let none = Caller::Restricted {
            of: Box::new(Caller::Owner),
            to: Rights::NONE,
        };
        assert_eq!(has(&none, &access), []);
        assert!(!twice.needs_table() && to(Caller::user(9), &given).needs_table());
    }

    #[test]
    fn a_log_names_the_caller() {
        let certified = |name: &str| Caller::Certified([name.to_owned()].into());
        for (caller, text) in [
            (Caller::Owner, "the owner"),
            (Caller::user(1000), "user 1000"),
            (Caller::Loopback, "loopback"),
            (certified("cn:agent1"), "certificate cn:agent1"),
            (certified("a\n"), "certificate a\\n"),
            (Caller::Token("laptop".into()), "token laptop"),
            (
                Caller::Restricted {
                    of: Box::new(Caller::Token("laptop".into())),
                    to: Rights::NONE,
                },
                "token laptop (restricted)",
            ),
        ] {
            assert_eq!(caller.to_string(), text);
        }
    }
}
