//! The entries of a directory as a page shows them: filtered, in an order, and a part of them.

use std::cmp::Ordering;

use crate::service::view::{EntryAnswer, EntryKind};

/// Entries on a page.
pub(super) const PAGE_ENTRIES: usize = 500;

/// What entries are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Key {
    #[default]
    Name,
    Size,
    Time,
}

impl Key {
    pub(super) const ALL: [Self; 3] = [Self::Name, Self::Size, Self::Time];

    /// The spelling in addresses.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Size => "size",
            Self::Time => "time",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.as_str() == text)
    }
}

/// Names as people look for them: without regard to case, then by bytes.
fn by_name(a: &EntryAnswer, b: &EntryAnswer) -> Ordering {
    let folded = |entry: &EntryAnswer| entry.bytes.to_ascii_lowercase();
    folded(a)
        .cmp(&folded(b))
        .then_with(|| a.bytes.cmp(&b.bytes))
}

/// Sorts entries: by name and size directories come first, whatever the direction.
pub(super) fn sort(entries: &mut [EntryAnswer], key: Key, is_descending: bool) {
    let turn = |order: Ordering| {
        if is_descending {
            order.reverse()
        } else {
            order
        }
    };
    let is_file = |entry: &EntryAnswer| entry.kind != EntryKind::Directory;
    entries.sort_by(|a, b| match key {
        Key::Name => is_file(a)
            .cmp(&is_file(b))
            .then_with(|| turn(by_name(a, b))),
        Key::Size => is_file(a)
            .cmp(&is_file(b))
            .then_with(|| turn(a.size_bytes.cmp(&b.size_bytes)))
            .then_with(|| by_name(a, b)),
        Key::Time => turn(a.mtime.cmp(&b.mtime)).then_with(|| by_name(a, b)),
    });
}

/// Keeps the entries whose names have these letters, without regard to the case of ASCII letters.
pub(super) fn filter(entries: &mut Vec<EntryAnswer>, letters: &str) {
    let wanted = letters.as_bytes().to_ascii_lowercase();
    if wanted.is_empty() {
        return;
    }
    entries.retain(|entry| {
        let name = entry.bytes.to_ascii_lowercase();
        name.windows(wanted.len()).any(|part| part == wanted)
    });
}

/// The number of pages for so many entries; an empty directory has one.
pub(super) fn pages(entries: usize) -> usize {
    entries.div_ceil(PAGE_ENTRIES).max(1)
}

#[cfg(test)]
mod tests {
    use super::{Key, PAGE_ENTRIES, filter, pages, sort};
    use crate::service::view::{EntryAnswer, EntryKind};

    fn entry(name: &[u8], size: Option<u64>) -> EntryAnswer {
        EntryAnswer {
            name: String::from_utf8_lossy(name).into_owned(),
            name_b64: None,
            kind: if size.is_some() {
                EntryKind::File
            } else {
                EntryKind::Directory
            },
            size_bytes: size,
            mtime: size
                .and_then(|size| jiff::Timestamp::from_second(i64::try_from(size).ok()?).ok()),
            mode: None,
            uid: None,
            gid: None,
            target: None,
            bytes: name.to_vec(),
        }
    }

    fn sorted(key: Key, is_descending: bool) -> Vec<Vec<u8>> {
        let mut all = vec![
            entry(b"b", Some(1)),
            entry(b"A", Some(2)),
            entry(b"etc", None),
            entry(b"\xff", Some(3)),
            entry(b"Dir", None),
        ];
        sort(&mut all, key, is_descending);
        all.into_iter().map(|entry| entry.bytes).collect()
    }

    #[test]
    fn directories_come_first_in_both_directions() {
        assert_eq!(
            sorted(Key::Name, false),
            [&b"Dir"[..], b"etc", b"A", b"b", b"\xff"]
        );
        assert_eq!(
            sorted(Key::Name, true),
            [&b"etc"[..], b"Dir", b"\xff", b"b", b"A"]
        );
        assert_eq!(
            sorted(Key::Size, true),
            [&b"Dir"[..], b"etc", b"\xff", b"A", b"b"]
        );
        assert_eq!(sorted(Key::Time, true)[0], b"\xff");
    }

    #[test]
    fn a_filter_finds_letters_in_names_that_are_bytes() {
        let mut all = vec![
            entry(b"Passwd", Some(1)),
            entry(b"\xffpass", Some(1)),
            entry(b"x", None),
        ];
        filter(&mut all, "PASS");
        assert_eq!(all.len(), 2);
        filter(&mut all, "");
        assert_eq!(all.len(), 2);
        assert_eq!(
            (pages(0), pages(PAGE_ENTRIES), pages(PAGE_ENTRIES + 1)),
            (1, 1, 2)
        );
    }
}
