//! Suggestions: the known word that a mistyped one is most like.

/// The least Jaro-Winkler likeness of a suggested word.
const LIKENESS_MIN: f64 = 0.75;

/// The known word that is most like `word`, if any is similar enough.
pub fn nearest<'a>(known: impl IntoIterator<Item = &'a str>, word: &str) -> Option<&'a str> {
    let likeness = |other: &str| strsim::jaro_winkler(other, word);
    let known = known.into_iter();
    let best = known.max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) >= LIKENESS_MIN).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_word_that_is_like_none_has_no_nearest() {
        assert_eq!(nearest(["web01", "db01"], "wbe01"), Some("web01"));
        assert_eq!(nearest(["web01"], "frankfurt"), None);
        assert_eq!(nearest([], "x"), None);
    }
}
