//! Logins of people: a code that is used once, and the session that a browser's cookie names.
//!
//! # Invariants
//! - A code and a session's secret are kept as BLAKE3 hashes only.
//! - A code works once, for five minutes. A GET consumes none.
//! - A session on plain loopback has the rights to read and restore alone, for an hour: a cookie knows no ports, so another program of
//!   this machine may come by it.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use super::peer::Way;
use crate::access::{Caller, Right, Rights};
use crate::error::{Error, ErrorKind, Result};
use crate::types::Digest;
use crate::types::sync::Mutex;

/// How long a code can be used.
pub(super) const CODE_FOR: Duration = Duration::from_secs(5 * 60);
/// LIMIT: codes that are waiting for their use.
const CODES_MAX: usize = 64;
/// How long a session on plain loopback lasts.
const PLAIN_FOR: Duration = Duration::from_secs(60 * 60);
/// How long a session over TLS lasts.
const TLS_FOR: Duration = Duration::from_secs(12 * 60 * 60);
/// LIMIT: sessions; the oldest ends for a new one.
const SESSIONS_MAX: usize = 1_024;
/// Random bytes of a code (DESIGN: 128 bits).
const CODE_BYTES: usize = 16;
/// Random bytes of a session's secret.
const SECRET_BYTES: usize = 32;

/// A code with which somebody logs in once.
pub struct LoginCode(String);

impl LoginCode {
    /// The code, for the person.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for LoginCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LoginCode")
    }
}

type Hash = [u8; 32];

struct Code {
    hash: Hash,
    caller: Caller,
    made: Instant,
}

struct Session {
    caller: Caller,
    /// What the caller's token has that another one of its name has not.
    identity: Option<Digest>,
    made: Instant,
    lasts: Duration,
}

/// Codes and sessions.
#[derive(Default)]
pub(super) struct Logins {
    codes: Mutex<Vec<Code>>,
    sessions: Mutex<HashMap<Hash, Session>>,
}

/// A session that has just begun.
pub(super) struct Begun {
    /// The cookie's value.
    pub(super) secret: String,
    pub(super) lasts: Duration,
}

fn hash(text: &str) -> Hash {
    *blake3::hash(text.as_bytes()).as_bytes()
}

fn random<const N: usize>() -> Result<String> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|e| Error::new(ErrorKind::Io, "the system gives no random bytes").caused_by(e))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A code as it was made, whatever a person has typed between its digits.
fn plain(code: &str) -> String {
    let digits = code.chars().filter(char::is_ascii_alphanumeric);
    digits.collect::<String>().to_ascii_lowercase()
}

impl Logins {
    pub(super) fn make_code(&self, caller: Caller) -> Result<LoginCode> {
        let code = random::<CODE_BYTES>()?;
        let mut codes = self.codes.lock();
        codes.retain(|code| code.made.elapsed() < CODE_FOR);
        if codes.len() >= CODES_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!("{CODES_MAX} login codes wait for their use already"),
            )
            .advise("use one of them, or wait five minutes"));
        }
        codes.push(Code {
            hash: hash(&code),
            caller,
            made: Instant::now(),
        });
        Ok(LoginCode(code))
    }

    /// Who may log in with a code; the code is used up.
    pub(super) fn take_code(&self, code: &str) -> Option<Caller> {
        let wanted = hash(&plain(code));
        let mut codes = self.codes.lock();
        codes.retain(|code| code.made.elapsed() < CODE_FOR);
        // The hashes are of secrets, so that comparing them byte by byte tells nothing of a code.
        let at = codes.iter().position(|code| code.hash == wanted)?;
        Some(codes.remove(at).caller)
    }

    /// Begins a session of a caller who has logged in over this way.
    pub(super) fn begin(
        &self,
        caller: Caller,
        way: Way,
        identity: Option<Digest>,
    ) -> Result<Begun> {
        let secret = random::<SECRET_BYTES>()?;
        let (caller, lasts) = match way {
            Way::Tls => (caller, TLS_FOR),
            Way::Plain | Way::Unix => {
                let to = Rights::NONE.with(Right::Read).with(Right::Restore);
                let of = Box::new(caller);
                (Caller::Restricted { of, to }, PLAIN_FOR)
            }
        };
        let mut sessions = self.sessions.lock();
        sessions.retain(|_, session| session.made.elapsed() < session.lasts);
        if sessions.len() >= SESSIONS_MAX {
            let oldest = sessions.iter().min_by_key(|(_, session)| session.made);
            if let Some(oldest) = oldest.map(|(hash, _)| *hash) {
                sessions.remove(&oldest);
            }
        }
        sessions.insert(
            hash(&secret),
            Session {
                caller,
                identity,
                made: Instant::now(),
                lasts,
            },
        );
        Ok(Begun { secret, lasts })
    }

    /// Whose session a cookie names, and what its token was.
    pub(super) fn caller_of(&self, secret: &str) -> Option<(Caller, Option<Digest>)> {
        let sessions = self.sessions.lock();
        let session = sessions.get(&hash(secret))?;
        (session.made.elapsed() < session.lasts).then(|| (session.caller.clone(), session.identity))
    }

    /// Ends a session.
    pub(super) fn end(&self, secret: &str) {
        self.sessions.lock().remove(&hash(secret));
    }

    pub(super) fn tidy(&self) {
        let mut codes = self.codes.lock();
        codes.retain(|code| code.made.elapsed() < CODE_FOR);
        drop(codes);
        let mut sessions = self.sessions.lock();
        sessions.retain(|_, session| session.made.elapsed() < session.lasts);
    }
}

#[cfg(test)]
mod tests {
    use super::{CODES_MAX, Logins, SESSIONS_MAX};
    use crate::access::{Access, Caller, Right};
    use crate::http::peer::Way;

    #[test]
    fn a_code_works_once_however_it_is_typed() {
        let logins = Logins::default();
        let code = logins.make_code(Caller::Owner).unwrap();
        assert_eq!(code.reveal().len(), 32, "128 bits as hexadecimal digits");
        assert!(logins.take_code("0000").is_none());
        let typed = format!(
            " {}-{} ",
            &code.reveal()[..5],
            code.reveal()[5..].to_uppercase()
        );
        assert_eq!(logins.take_code(&typed), Some(Caller::Owner));
        assert!(logins.take_code(code.reveal()).is_none());
    }

    #[test]
    fn a_session_on_plain_loopback_reads_and_restores_and_no_more() {
        let logins = Logins::default();
        let access = Access::default();
        let rights = |way| {
            let begun = logins.begin(Caller::Owner, way, None).unwrap();
            let (caller, _) = logins.caller_of(&begun.secret).unwrap();
            let mut all = Right::ALL.to_vec();
            all.retain(|right| caller.may(*right, None, &access));
            (all, begun.lasts.as_secs())
        };
        assert_eq!(
            rights(Way::Plain),
            (vec![Right::Read, Right::Restore], 3600)
        );
        assert_eq!(rights(Way::Tls).0, Right::ALL);
    }

    #[test]
    fn codes_and_sessions_are_bounded_and_end() {
        let logins = Logins::default();
        for _ in 0..CODES_MAX {
            logins.make_code(Caller::Owner).unwrap();
        }
        assert!(logins.make_code(Caller::Owner).is_err());
        let first = logins.begin(Caller::Owner, Way::Tls, None).unwrap();
        for _ in 0..SESSIONS_MAX {
            logins.begin(Caller::Owner, Way::Tls, None).unwrap();
        }
        assert!(logins.caller_of(&first.secret).is_none());
        let last = logins.begin(Caller::Owner, Way::Tls, None).unwrap();
        logins.end(&last.secret);
        assert!(logins.caller_of(&last.secret).is_none());
        assert!(logins.caller_of("").is_none());
    }
}
