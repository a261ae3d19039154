//! From the secret of a token to its caller.

use jiff::Timestamp;

use super::{Access, Caller, secret};

impl Access {
    /// The caller whose token has this secret; `None` when there is no such token, or it has
    /// expired. The time does not depend on the position of the first difference, nor on which
    /// token it is.
    #[must_use]
    pub fn authenticate(&self, secret: &str, now: Timestamp) -> Option<Caller> {
        if !secret::is_shaped(secret) {
            return None;
        }
        let hash = blake3::hash(secret.as_bytes());
        let mut found = None;
        for (token, _) in self.tokens() {
            if token.is_of(&hash) {
                found = Some(token);
            }
        }
        let token = found.filter(|token| !token.has_expired(now))?;
        Some(Caller::Token(token.name.as_str().into()))
    }
}
