//! The access table of a running process, which follows its file.
//!
//! # Invariants
//! - [`LiveAccess::fresh`] answers the table as the file had it when the call began, or as after a
//!   mistake below. A right that was taken away before the call does not count in it.
//! - A file with a mistake gives nothing new. Tokens whose hash is no longer in its text end all the
//!   same: who revokes a token by hand and makes a mistake has revoked it. Everything else stays as
//!   it was, so that a mistyped line does not stop the backups of all others. A file that vanishes
//!   is a mistake without text.
//!
//! # Concurrency
//! One mutex is held while the file is looked at and loaded: nobody is answered from a table that a
//! concurrent caller already knows to be old.
//!
//! # Why
//! The file is looked at in each call (stat(2), about a microsecond): a pause between two looks
//! would be a time in which a revoked token still counts.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use super::Access;
use super::table::{missing, read};
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::types::RepositoryName;
use crate::types::sync::Mutex;

/// A file that changed less than this before it was read may change again without a difference in
/// its times, whose steps are those of the kernel's ticks.
const STEP_NANOSECONDS: i128 = 100_000_000;

/// What distinguishes two contents of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stamp {
    /// There is no file.
    Missing,
    /// The file cannot be looked at, for this reason.
    Unknown(String),
    /// A file.
    File {
        device: u64,
        inode: u64,
        size_bytes: u64,
        modified: (i64, i64),
        changed: (i64, i64),
    },
}

impl Stamp {
    fn of(path: &Path) -> Self {
        match std::fs::metadata(path) {
            Ok(meta) => Self::File {
                device: meta.dev(),
                inode: meta.ino(),
                size_bytes: meta.size(),
                modified: (meta.mtime(), meta.mtime_nsec()),
                changed: (meta.ctime(), meta.ctime_nsec()),
            },
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Self::Missing,
            Err(e) => Self::Unknown(e.to_string()),
        }
    }

    /// Whether the file is so young at `now` that its next content may have the same stamp.
    fn is_young(&self, now: Timestamp) -> bool {
        let Self::File {
            changed: (seconds, nanoseconds),
            ..
        } = self
        else {
            return false;
        };
        let changed = i128::from(*seconds) * 1_000_000_000 + i128::from(*nanoseconds);
        (now.as_nanosecond() - changed).abs() < STEP_NANOSECONDS
    }
}

/// The table of a file, as of the last look.
struct Seen {
    stamp: Stamp,
    is_young: bool,
    table: Arc<Access>,
    /// When the next token of the table expires.
    next_expiry: Option<Timestamp>,
}

impl Seen {
    fn set(&mut self, table: Access) {
        self.next_expiry = table.tokens().filter_map(|(token, _)| token.expires).min();
        if *self.table != table {
            self.table = table.shared();
        }
    }
}

/// A file that is followed.
struct Followed {
    path: PathBuf,
    must_exist: bool,
    clock: Arc<dyn Clock>,
    seen: Mutex<Seen>,
}

/// The table that a view was made of, and the view.
type Viewed = (Arc<Access>, Arc<Access>);

enum Source {
    Fixed(Arc<Access>),
    File(Followed),
    View {
        of: Arc<LiveAccess>,
        name: RepositoryName,
        last: Mutex<Option<Viewed>>,
    },
}

/// The access table of a running process.
pub struct LiveAccess {
    source: Source,
}

impl std::fmt::Debug for LiveAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveAccess")
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}

impl LiveAccess {
    /// A table without entries and without a file.
    #[must_use]
    pub fn none() -> Arc<Self> {
        Self::fixed(Access::default())
    }

    /// A table without a file.
    #[must_use]
    pub fn fixed(access: Access) -> Arc<Self> {
        Arc::new(Self {
            source: Source::Fixed(access.shared()),
        })
    }

    /// The table of a file. With `must_exist` false the file may be missing, and is used as soon as
    /// it is there.
    ///
    /// # Errors
    /// `NotFound` when it is missing and must exist; `InvalidInput` with the line of a mistake;
    /// `PermissionDenied`, `LimitExceeded`, `Io`.
    pub fn open(path: &Path, must_exist: bool) -> Result<Arc<Self>> {
        Self::open_at(path, must_exist, Arc::new(SystemClock))
    }

    /// [`LiveAccess::open`] with a clock.
    ///
    /// # Errors
    /// As [`LiveAccess::open`].
    pub fn open_at(path: &Path, must_exist: bool, clock: Arc<dyn Clock>) -> Result<Arc<Self>> {
        let followed = Followed {
            path: path.to_owned(),
            must_exist,
            clock,
            seen: Mutex::new(Seen {
                stamp: Stamp::Missing,
                is_young: false,
                table: Arc::default(),
                next_expiry: None,
            }),
        };
        followed.reload()?;
        Ok(Arc::new(Self {
            source: Source::File(followed),
        }))
    }

    /// The table as the repository of that name sees it.
    #[must_use]
    pub fn of_repository(self: &Arc<Self>, name: &RepositoryName) -> Arc<Self> {
        Arc::new(Self {
            source: Source::View {
                of: Arc::clone(self),
                name: name.clone(),
                last: Mutex::default(),
            },
        })
    }

    /// The repository whose view this is.
    #[must_use]
    pub const fn repository(&self) -> Option<&RepositoryName> {
        match &self.source {
            Source::View { name, .. } => Some(name),
            _ => None,
        }
    }

    /// The followed file.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.source {
            Source::Fixed(_) => None,
            Source::File(followed) => Some(&followed.path),
            Source::View { of, .. } => of.path(),
        }
    }

    /// The table as of the last look at the file.
    #[must_use]
    pub fn current(&self) -> Arc<Access> {
        match &self.source {
            Source::Fixed(table) => Arc::clone(table),
            Source::File(followed) => Arc::clone(&followed.seen.lock().table),
            Source::View { of, name, last } => view(&of.current(), name, last),
        }
    }

    /// The table as the file has it now, without expired tokens.
    #[must_use]
    pub fn fresh(&self) -> Arc<Access> {
        match &self.source {
            Source::Fixed(table) => Arc::clone(table),
            Source::File(followed) => followed.fresh(),
            Source::View { of, name, last } => view(&of.fresh(), name, last),
        }
    }

    /// Loads the file again, also when it looks unchanged: names of users and groups are looked up
    /// anew.
    ///
    /// # Errors
    /// As [`LiveAccess::open`]; the table stays as it was.
    pub fn reload(&self) -> Result<()> {
        match &self.source {
            Source::Fixed(_) => Ok(()),
            Source::File(followed) => followed.reload(),
            Source::View { of, .. } => of.reload(),
        }
    }
}

/// The view of a table, made anew when the table has changed.
fn view(table: &Arc<Access>, name: &RepositoryName, last: &Mutex<Option<Viewed>>) -> Arc<Access> {
    let mut last = last.lock();
    match &*last {
        Some((of, view)) if Arc::ptr_eq(of, table) => Arc::clone(view),
        _ => {
            let view = table.of_repository(name).shared();
            *last = Some((Arc::clone(table), Arc::clone(&view)));
            view
        }
    }
}

impl Followed {
    fn fresh(&self) -> Arc<Access> {
        let mut seen = self.seen.lock();
        let now = self.clock.now();
        let stamp = Stamp::of(&self.path);
        if stamp != seen.stamp || seen.is_young {
            let is_new = stamp != seen.stamp;
            // The stamp is that of before the file is read: what changes meanwhile is seen next time.
            seen.is_young = stamp.is_young(now);
            seen.stamp = stamp;
            self.follow(&mut seen, is_new, now);
        }
        if seen.next_expiry.is_some_and(|next| next <= now) {
            let left = seen.table.retaining_tokens(|token| !token.has_expired(now));
            seen.set(left);
        }
        Arc::clone(&seen.table)
    }

    /// Takes over what the file has now; a mistake is logged once for each change.
    fn follow(&self, seen: &mut Seen, is_new: bool, now: Timestamp) {
        let text = read(&self.path);
        let parsed = match &text {
            Ok(Some(text)) => Access::parse(text).at_path(&self.path),
            Ok(None) => Err(missing(&self.path)),
            Err(e) => Err(Error::new(e.kind(), e.what().to_owned()).at_path(&self.path)),
        };
        match parsed {
            Ok(parsed) => {
                let table = parsed
                    .access
                    .retaining_tokens(|token| !token.has_expired(now));
                if *seen.table != table {
                    self.tell(&parsed.remarks);
                    tracing::info!(path = %self.path.display(), "the access table has changed");
                }
                seen.set(table);
            }
            Err(error) => {
                // A file that cannot be read says nothing about its tokens.
                let left = match &text {
                    Ok(text) => seen
                        .table
                        .retaining_named_in(text.as_deref().unwrap_or_default()),
                    Err(_) => (*seen.table).clone(),
                };
                let ended = seen.table.tokens().count() - left.tokens().count();
                seen.set(left);
                if is_new || ended > 0 {
                    tracing::error!(
                        error = %error.report(),
                        ended_tokens = ended,
                        "the access table has a mistake in it; all else stays as it was until it is corrected"
                    );
                }
            }
        }
    }

    fn reload(&self) -> Result<()> {
        let mut seen = self.seen.lock();
        let now = self.clock.now();
        let stamp = Stamp::of(&self.path);
        let table = match self.read_or_none(&stamp)? {
            Some(text) => {
                let parsed = Access::parse(&text).at_path(&self.path)?;
                self.tell(&parsed.remarks);
                parsed.access
            }
            None if self.must_exist => return Err(missing(&self.path)),
            None => Access::default(),
        };
        seen.is_young = stamp.is_young(now);
        seen.stamp = stamp;
        seen.set(table.retaining_tokens(|token| !token.has_expired(now)));
        Ok(())
    }

    /// The text of the file. A file that need not exist, and lies where this user cannot look, is not this user's: HOME is that of another
    /// user (su, setpriv). One that is there and cannot be read is an error.
    fn read_or_none(&self, stamp: &Stamp) -> Result<Option<String>> {
        match read(&self.path) {
            Err(e) if e.kind() == ErrorKind::PermissionDenied => match stamp {
                Stamp::Unknown(_) if !self.must_exist => {
                    tracing::info!(error = %e.report(), "an access table that this user may not look for is passed over");
                    Ok(None)
                }
                _ => Err(e),
            },
            other => other,
        }
    }

    fn tell(&self, remarks: &[String]) {
        for remark in remarks {
            tracing::warn!(path = %self.path.display(), "access table: {remark}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::LiveAccess;
    use crate::access::{Access, Caller, Right, Secret};
    use crate::clock::ManualClock;
    use crate::error::ErrorKind;
    use crate::types::{RepositoryName, VmName};

    const USER: &str = "[[access]]\nuser = 4001\nvms = [\"*\"]\nrights = [\"read\"]\n";

    fn token(name: &str, secret: &Secret, more: &str) -> String {
        format!(
            "[[access]]\ntoken = \"{name}\"\nhash = \"{}\"\nvms = [\"*\"]\nrights = [\"read\"]\n{more}",
            secret.hash()
        )
    }

    /// A file in a directory, replaced as `token` replaces it.
    struct File {
        _dir: tempfile::TempDir,
        path: PathBuf,
    }

    impl File {
        fn new(text: Option<&str>) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("access.toml");
            let file = Self { _dir: dir, path };
            if let Some(text) = text {
                file.put(text);
            }
            file
        }

        fn put(&self, text: &str) {
            let new = self.path.with_extension("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(&new, &self.path).unwrap();
        }

        fn open(&self, must_exist: bool) -> Arc<LiveAccess> {
            LiveAccess::open(&self.path, must_exist).unwrap()
        }
    }

    fn may_read(access: &Access, caller: &Caller) -> bool {
        let vm = VmName::new("web01").unwrap();
        caller.may(Right::Read, Some(&vm), access)
    }

    fn laptop() -> Caller {
        Caller::Token("laptop".into())
    }

    #[test]
    fn each_change_counts_at_the_next_call() {
        let file = File::new(Some(""));
        let live = file.open(true);
        let secret = Secret::random().unwrap();
        let text = token("laptop", &secret, "");
        // Both contents have the same size, and follow each other within a tick of the clock.
        let other = text.replace("laptop", "tablet");
        for n in 0..200 {
            file.put(if n % 2 == 0 { &text } else { &other });
            assert_eq!(may_read(&live.fresh(), &laptop()), n % 2 == 0, "{n}");
        }
        file.put("");
        assert!(!may_read(&live.fresh(), &laptop()));
    }

    #[test]
    fn a_file_that_appears_later_is_used() {
        let file = File::new(None);
        let error = LiveAccess::open(&file.path, true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let live = file.open(false);
        assert!(!live.fresh().decides_for_users());
        file.put(USER);
        assert!(live.fresh().decides_for_users());
        assert!(may_read(&live.current(), &Caller::user(4001)));
    }

    #[test]
    fn an_unchanged_file_is_one_table() {
        let file = File::new(Some(USER));
        let live = file.open(true);
        let first = live.fresh();
        // Young files are read again; the table is the same nevertheless.
        assert!(Arc::ptr_eq(&first, &live.fresh()));
        let view = live.of_repository(&RepositoryName::new("default").unwrap());
        assert!(Arc::ptr_eq(&view.fresh(), &view.fresh()));
    }

    /// Who revokes a token with an editor and mistypes another line has revoked the token.
    #[test]
    fn a_mistake_gives_nothing_and_keeps_no_token_that_is_gone() {
        let [one, two] = [(); 2].map(|()| Secret::random().unwrap());
        let both = format!(
            "{USER}{}{}",
            token("laptop", &one, ""),
            token("two", &two, "")
        );
        let file = File::new(Some(&both));
        let live = file.open(true);
        assert!(may_read(&live.fresh(), &laptop()));
        let third = Secret::random().unwrap();
        let broken = format!(
            "{}\n[[access]\n{}{}",
            USER.replace("4001", "4002"),
            token("two", &two, ""),
            token("three", &third, "")
        );
        file.put(&broken);
        let table = live.fresh();
        assert!(!may_read(&table, &laptop()), "it is revoked");
        assert!(may_read(&table, &Caller::Token("two".into())));
        assert!(!may_read(&table, &Caller::Token("three".into())));
        // Users stay as they were.
        assert!(may_read(&table, &Caller::user(4001)));
        assert!(!may_read(&table, &Caller::user(4002)));
        assert!(live.reload().unwrap_err().report().contains("line 6"));
        assert!(may_read(&live.fresh(), &Caller::user(4001)));
        file.put(&broken.replace("[[access]\n", ""));
        assert!(may_read(&live.fresh(), &Caller::user(4002)));
    }

    #[test]
    fn a_file_that_vanishes_ends_its_tokens_and_opens_nothing() {
        let secret = Secret::random().unwrap();
        let file = File::new(Some(&format!("{USER}{}", token("laptop", &secret, ""))));
        for must_exist in [true, false] {
            file.put(&format!("{USER}{}", token("laptop", &secret, "")));
            let live = file.open(must_exist);
            std::fs::remove_file(&file.path).unwrap();
            let table = live.fresh();
            assert!(!may_read(&table, &laptop()));
            // Without a table every member of the socket's group would read.
            assert!(table.decides_for_users());
            assert!(!may_read(&table, &Caller::user(4009)));
            // Who asks for it by a signal has it so.
            assert_eq!(live.reload().is_ok(), !must_exist);
            assert_eq!(live.fresh().decides_for_users(), must_exist);
        }
    }

    #[test]
    fn a_token_ends_when_it_expires_without_a_change_of_the_file() {
        let secret = Secret::random().unwrap();
        let text = token("laptop", &secret, "expires = 1970-01-01T00:01:40Z\n");
        let file = File::new(Some(&text));
        let clock = Arc::new(ManualClock::at(50));
        let live = LiveAccess::open_at(&file.path, true, Arc::clone(&clock) as _).unwrap();
        assert!(may_read(&live.fresh(), &laptop()));
        clock.advance(49);
        assert!(may_read(&live.fresh(), &laptop()));
        clock.advance(1);
        assert!(!may_read(&live.fresh(), &laptop()));
        let again = LiveAccess::open_at(&file.path, true, clock).unwrap();
        assert!(!may_read(&again.fresh(), &laptop()));
    }

    #[test]
    fn a_view_follows_the_file() {
        let file = File::new(Some(USER));
        let live = file.open(true);
        let name = RepositoryName::new("offsite").unwrap();
        let view = live.of_repository(&name);
        assert_eq!(view.repository(), Some(&name));
        let user = Caller::user(4001);
        assert!(may_read(&view.fresh(), &user));
        file.put(&format!("{USER}repositories = [\"default\"]\n"));
        assert!(!may_read(&view.fresh(), &user));
        assert!(may_read(&live.fresh(), &user));
    }
}
