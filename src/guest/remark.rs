//! Remarks for people, limited in number and length whatever a guest has written.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

/// LIMIT: remarks that are kept; further ones are counted.
const REMARKS_MAX: usize = 200;
/// LIMIT: characters of one remark.
const CHARS_MAX: usize = 400;

/// A bounded list of remarks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Remarks {
    texts: Vec<String>,
    more: u64,
}

impl Remarks {
    /// Adds a remark.
    pub(crate) fn push(&mut self, text: impl Into<String>) {
        if self.texts.len() >= REMARKS_MAX {
            self.more = self.more.saturating_add(1);
            return;
        }
        let mut text = text.into();
        if let Some((at, _)) = text.char_indices().nth(CHARS_MAX) {
            text.truncate(at);
            text.push_str("...");
        }
        self.texts.push(text);
    }

    /// Adds all remarks of another list, each with `prefix`.
    pub(crate) fn take(&mut self, prefix: &str, others: Self) {
        for text in others.texts {
            self.push(format!("{prefix}{text}"));
        }
        self.more = self.more.saturating_add(others.more);
    }

    /// The remarks, with the number of further ones.
    pub(crate) fn into_vec(self) -> Vec<String> {
        let mut texts = self.texts;
        if self.more > 0 {
            texts.push(format!("{} more remarks are left out", self.more));
        }
        texts
    }
}

#[cfg(test)]
mod tests {
    use super::Remarks;

    #[test]
    fn there_are_few_and_they_are_short() {
        let mut remarks = Remarks::default();
        for n in 0..150 {
            remarks.push(format!("{n}"));
        }
        remarks.take("x: ", remarks.clone());
        let mut long = Remarks::default();
        long.push("ä".repeat(1000));
        let texts = remarks.into_vec();
        assert_eq!(texts.len(), 201);
        assert_eq!(texts.get(150).map(String::as_str), Some("x: 0"));
        assert_eq!(texts.last().unwrap(), "100 more remarks are left out");
        assert_eq!(long.into_vec().first().unwrap().chars().count(), 403);
    }
}
