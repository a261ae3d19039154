//! What the HTTP server serves, and what it remembers between requests.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::login::{Begun, LoginCode, Logins};
use super::peer::{Peer, Way};
use super::place::Downloads;
use crate::access::throttle::Throttle;
use crate::access::{Act, AuditLog, Caller, Door, LiveAccess, Origin};
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Result};
use crate::service::view::{SharedView, View};
use crate::types::{Digest, RepositoryName};
use jiff::Timestamp;

/// LIMIT: requests that read a repository at the same time; others wait. Each takes a thread.
const WORKING_MAX: usize = 64;
/// LIMIT: clients that follow the events at the same time.
const FOLLOWERS_MAX: usize = 64;

/// The settings of a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SiteOptions {
    /// Names by which the server may be called, beside its addresses: `backup01.example.com`.
    pub hosts: Vec<String>,
}

/// What is served.
pub struct Site {
    repositories: Vec<Arc<SharedView>>,
    pub(super) access: Arc<LiveAccess>,
    audit: Arc<AuditLog>,
    clock: Arc<dyn Clock>,
    pub(super) throttle: Throttle,
    pub(super) logins: Logins,
    pub(super) downloads: Downloads,
    pub(super) working: Arc<Semaphore>,
    pub(super) followers: Arc<Semaphore>,
    pub(super) hosts: Vec<String>,
}

impl Site {
    /// Serves these repositories, by the names of their views, to whom the table lets in.
    ///
    /// # Errors
    /// `InvalidInput` for a host that is no name.
    pub fn new(
        repositories: Vec<Arc<SharedView>>,
        access: Arc<LiveAccess>,
        audit: Arc<AuditLog>,
        options: &SiteOptions,
    ) -> Result<Arc<Self>> {
        super::host::check_all(&options.hosts)?;
        Ok(Arc::new(Self {
            repositories,
            access,
            audit,
            clock: Arc::new(SystemClock),
            throttle: Throttle::new(),
            logins: Logins::default(),
            downloads: Downloads::default(),
            working: Arc::new(Semaphore::new(WORKING_MAX)),
            followers: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
            hosts: options.hosts.clone(),
        }))
    }

    /// Makes a code with which somebody logs in once, as this caller.
    ///
    /// # Errors
    /// `LimitExceeded`; `Io` when the system has no random bytes.
    pub fn make_code(&self, caller: Caller) -> Result<LoginCode> {
        self.logins.make_code(caller)
    }

    /// Seconds for which a code can be used.
    #[must_use]
    pub const fn code_seconds(&self) -> u64 {
        super::login::CODE_FOR.as_secs()
    }

    /// Begins a session of a caller who has logged in over this way.
    ///
    /// # Errors
    /// `Io` when the system has no random bytes.
    pub(super) fn begin_login(&self, caller: Caller, way: Way) -> Result<Begun> {
        let identity = self.identity_of(&caller);
        self.logins.begin(caller, way, identity)
    }

    /// Whose session a cookie names. A session that was begun with a token ends with the token.
    pub(super) fn caller_of(&self, secret: &str) -> Option<Caller> {
        let (caller, identity) = self.logins.caller_of(secret)?;
        if identity.is_some() && identity != self.identity_of(&caller) {
            self.logins.end(secret);
            return None;
        }
        Some(caller)
    }

    /// What a token has that another one of its name has not.
    fn identity_of(&self, caller: &Caller) -> Option<Digest> {
        match caller {
            Caller::Token(name) => self.access.fresh().token_identity(name),
            Caller::Restricted { of, .. } => self.identity_of(of),
            _ => None,
        }
    }

    /// The time now.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Notes that a caller at this address has logged in, or why not.
    pub(super) fn note_login(&self, peer: &Peer, caller: &Caller, error: Option<&Error>) {
        self.audit.note(&Act {
            at: self.now(),
            origin: &origin(peer),
            caller,
            operation: "login",
            repository: None,
            vm: None,
            subject: None,
            error,
        });
    }

    /// The time in which limits are counted.
    pub(super) fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    /// All repositories that exist for a caller.
    pub(super) fn views(&self, caller: &Caller, peer: &Peer) -> Vec<View> {
        let views = self
            .repositories
            .iter()
            .map(|shared| shared.of_caller(caller.clone(), origin(peer)));
        views.filter(View::is_visible).collect()
    }

    /// The repository of that name, as the caller sees it.
    ///
    /// # Errors
    /// `NotFound`, also when it does not exist for the caller.
    pub(super) fn view(&self, name: &str, caller: &Caller, peer: &Peer) -> Result<View> {
        let mut all = self.repositories.iter();
        let found = RepositoryName::new(name)
            .ok()
            .and_then(|name| all.find(|shared| shared.name().same_as(&name)))
            .map(|shared| shared.of_caller(caller.clone(), origin(peer)))
            .filter(View::is_visible);
        found.ok_or_else(|| {
            let shown: String = name.escape_debug().take(60).collect();
            Error::not_found(format!("there is no repository {shown}"))
                .advise("list them: GET /api/v1/repositories")
        })
    }

    /// Closes what nobody has used lately.
    pub fn tidy(&self) {
        self.logins.tidy();
        self.repositories.iter().for_each(|shared| shared.tidy());
    }
}

/// Where a caller comes from, for the audit log.
pub(super) fn origin(peer: &Peer) -> Origin {
    match peer.address {
        Some(address) => Origin::at(Door::Http, address),
        None => Origin::of(Door::Http),
    }
}
