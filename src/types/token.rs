//! A secret that authenticates the clients of a session.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Digest;

/// 32 hexadecimal digits that cannot be guessed. `Debug` does not show them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token(String);

impl Token {
    /// Length in bytes.
    pub const BYTES: usize = 32;

    /// Creates a token: 128 bits of the system's randomness.
    #[must_use]
    pub fn random() -> Self {
        // A random UUID has 122 bits; the hash of two of them has more than the 128 bits that the
        // token takes.
        let (a, b) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
        let digest = Digest::of(&[*a.as_bytes(), *b.as_bytes()].concat());
        let mut text = digest.to_string();
        text.truncate(Self::BYTES);
        Self(text)
    }

    /// The token's digits.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether `text` is the token. The time does not depend on the position of the first
    /// difference.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let (own, other) = (self.0.as_bytes(), text.as_bytes());
        if own.len() != Self::BYTES || other.len() != Self::BYTES {
            return false;
        }
        let difference = own
            .iter()
            .zip(other)
            .fold(0, |sum, (a, b)| std::hint::black_box(sum | (a ^ b)));
        difference == 0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

#[cfg(test)]
mod tests {
    use super::Token;

    #[test]
    fn only_the_same_digits_match() {
        let token = Token::random();
        let text = token.reveal().to_owned();
        assert_eq!(text.len(), 32);
        assert!(text.bytes().all(|b| b.is_ascii_hexdigit()));
        assert!(token.matches(&text));
        for at in 0..32 {
            let mut other = text.clone().into_bytes();
            other[at] ^= 1;
            assert!(!token.matches(&String::from_utf8(other).unwrap()));
        }
        assert!(!token.matches("") && !token.matches(&text[1..]));
        assert!(!token.matches(&format!("{text}0")));
        // A sidecar whose token was emptied admits nobody.
        let empty: Token = serde_json::from_str("\"\"").unwrap();
        assert!(!empty.matches(""));
        assert_ne!(Token::random(), token);
        assert_eq!(format!("{token:?}"), "Token");
    }
}
