//! A set of rights.

use super::Right;

/// A set of rights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rights(u8);

impl Rights {
    /// No right.
    pub const NONE: Self = Self(0);

    /// Whether a right is in the set.
    #[must_use]
    pub const fn contains(self, right: Right) -> bool {
        self.0 & Self::bit(right) != 0
    }

    /// The set with one more right.
    #[must_use]
    pub const fn with(self, right: Right) -> Self {
        Self(self.0 | Self::bit(right))
    }

    /// Whether the set is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The rights, in the order of [`Right::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Right> {
        Right::ALL
            .into_iter()
            .filter(move |right| self.contains(*right))
    }

    const fn bit(right: Right) -> u8 {
        match right {
            Right::Read => 1,
            Right::Restore => 1 << 1,
            Right::Ingest => 1 << 2,
            Right::Manage => 1 << 3,
            Right::Admin => 1 << 4,
            Right::Metrics => 1 << 5,
        }
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<I: IntoIterator<Item = Right>>(all: I) -> Self {
        all.into_iter().fold(Self::NONE, Self::with)
    }
}

#[cfg(test)]
mod tests {
    use super::{Right, Rights};

    #[test]
    fn a_set_has_the_rights_it_was_made_of() {
        for only in Right::ALL {
            let set = Rights::NONE.with(only);
            assert_eq!(set.iter().collect::<Vec<_>>(), [only]);
            assert_eq!(only.as_str().parse::<Right>().unwrap(), only);
        }
        let all: Rights = Right::ALL.into_iter().collect();
        assert!(Right::ALL.into_iter().all(|right| all.contains(right)));
        assert!(Rights::NONE.is_empty() && !all.is_empty());
        assert!("write".parse::<Right>().is_err());
    }
}
