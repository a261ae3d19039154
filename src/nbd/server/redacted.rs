//! The name of an export without the secret in it.

use std::fmt;

/// An export's name for logs and messages, without the token of a session, which follows a tilde and is secret.
#[derive(Debug, Clone, Copy)]
pub struct Redacted<'a>(pub &'a str);

impl fmt::Display for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, part) in self.0.split('/').enumerate() {
            if n > 0 {
                f.write_str("/")?;
            }
            match part.split_once('~') {
                // A selector (latest~2) has no secret.
                Some((name, back))
                    if !back.is_empty()
                        && back.bytes().all(|b| b.is_ascii_digit())
                        && back.len() < 10 =>
                {
                    write!(f, "{}~{back}", name.escape_debug())?;
                }
                Some((name, _)) => write!(f, "{}~...", name.escape_debug())?,
                None => write!(f, "{}", part.escape_debug())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Redacted;

    #[test]
    fn tokens_are_not_shown() {
        let name = "web01/s~00112233445566778899aabbccddeeff/vda";
        assert_eq!(Redacted(name).to_string(), "web01/s~.../vda");
        let name = "web01/s~00112233445566778899001122334455/vda";
        assert_eq!(Redacted(name).to_string(), "web01/s~.../vda");
        assert_eq!(Redacted("a/latest/b").to_string(), "a/latest/b");
        assert_eq!(Redacted("a/latest~2/b").to_string(), "a/latest~2/b");
    }
}
