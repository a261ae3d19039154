//! Pages of a list.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{Error, Result};

/// Items of a page when the caller names no number.
pub const LIMIT_DEFAULT: usize = 100;
/// LIMIT: items of a page.
pub const LIMIT_MAX: usize = 1_000;

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where the next page begins: the value of `after` for the next request; `null` at the end.
    pub next: Option<String>,
}

/// The part of a list that the caller wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// The `next` of the page before; none for the first page.
    pub after: Option<String>,
    /// Items, from 1 to [`LIMIT_MAX`].
    pub limit: usize,
}

impl Default for Slice {
    fn default() -> Self {
        Self {
            after: None,
            limit: LIMIT_DEFAULT,
        }
    }
}

impl Slice {
    /// The cursor as a number.
    ///
    /// # Errors
    /// `InvalidInput` when it is none.
    pub(super) fn number(&self) -> Result<Option<u64>> {
        let parse = |text: &String| text.parse().map_err(|_| bad_cursor());
        self.after.as_ref().map(parse).transpose()
    }

    /// Cuts a list that may have one item more than the page; `cursor` names the position after an item.
    pub(super) fn cut<T>(&self, mut items: Vec<T>, cursor: impl Fn(&T) -> String) -> Page<T> {
        let has_more = items.len() > self.limit;
        items.truncate(self.limit);
        let next = items.last().filter(|_| has_more).map(cursor);
        Page { items, next }
    }
}

/// The error for a cursor that no page has given.
pub(super) fn bad_cursor() -> Error {
    Error::invalid("this value of \"after\" comes from no page")
        .advise("take the \"next\" of the page before, or leave it out")
}

#[cfg(test)]
mod tests {
    use super::Slice;

    #[test]
    fn a_page_names_the_next_one_only_when_there_is_one() {
        let slice = Slice {
            after: None,
            limit: 2,
        };
        let cursor = |n: &u32| n.to_string();
        let page = slice.cut(vec![1, 2, 3], cursor);
        assert_eq!(
            (page.items.as_slice(), page.next.as_deref()),
            (&[1, 2][..], Some("2"))
        );
        assert_eq!(slice.cut(vec![1, 2], cursor).next, None);
        assert_eq!(slice.cut(vec![], cursor).next, None);
    }

    #[test]
    fn a_cursor_that_no_page_gave_is_refused() {
        let slice = |after: &str| Slice {
            after: Some(after.to_owned()),
            limit: 1,
        };
        assert_eq!(slice("7").number().unwrap(), Some(7));
        for bad in ["", "x", "-1", "1e3", "99999999999999999999"] {
            assert!(slice(bad).number().is_err(), "{bad}");
        }
    }
}
