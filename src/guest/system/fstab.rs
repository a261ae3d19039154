//! `/etc/fstab`: which filesystem a guest mounts where (fstab(5)).
//!
//! # Invariants
//! Total: any bytes yield entries; invalid lines are skipped, as in mount(8). Lines and entries are bounded.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

/// LIMIT: entries of one file (our limit).
const ENTRIES_MAX: usize = 1000;

/// LIMIT: remarks on invalid lines.
const NOTES_MAX: usize = 20;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The source: `UUID=...`, `/dev/sda1`, `server:/path`.
    pub source: Vec<u8>,
    /// The target: an absolute path, or `none`.
    pub target: Vec<u8>,
    /// Type of the filesystem: `ext4`, `auto`, `swap`.
    pub fs_type: Vec<u8>,
    /// Options, split at commas.
    pub options: Vec<Vec<u8>>,
}

impl Entry {
    /// Whether the options contain exactly this one.
    #[must_use]
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|o| o == option.as_bytes())
    }

    /// The value of the last option of that name, as in mount(8) (`subvol=@home`).
    #[must_use]
    pub fn option(&self, name: &str) -> Option<&[u8]> {
        self.options
            .iter()
            .rev()
            .find_map(|o| o.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    }
}

/// A field with its octal escapes (`\040` is a blank) decoded; other text stays.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let code = match after {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if *first == b'\\' => {
                let digit = |byte: u8| byte.wrapping_sub(b'0');
                Some((digit(*a) << 6) | (digit(*b) << 3) | digit(*c))
            }
            _ => None,
        };
        match code {
            Some(byte) => {
                out.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

fn parse_line(line: &[u8]) -> Option<Entry> {
    let mut fields = line
        .split(|b| matches!(b, b' ' | b'\t' | b'\r'))
        .filter(|field| !field.is_empty());
    let source = fields.next().filter(|field| !field.starts_with(b"#"))?;
    let target = fields.next()?;
    let fs_type = fields.next().unwrap_or(b"auto");
    let options = fields.next().unwrap_or(b"defaults");
    Some(Entry {
        source: unescaped(source),
        target: unescaped(target),
        fs_type: unescaped(fs_type),
        options: unescaped(options)
            .split(|b| *b == b',')
            .map(<[u8]>::to_vec)
            .collect(),
    })
}

/// Parses a whole file.
#[must_use]
pub fn parse(text: &[u8]) -> Vec<Entry> {
    parse_with_notes(text).0
}

/// Parses a whole file, with remarks on the lines that are skipped.
pub(super) fn parse_with_notes(text: &[u8]) -> (Vec<Entry>, Vec<String>) {
    let mut entries: Vec<Entry> = Vec::new();
    let mut notes = Vec::new();
    for (number, line) in (1usize..).zip(text.split(|b| *b == b'\n')) {
        let trimmed = line.trim_ascii();
        if trimmed.is_empty() || trimmed.starts_with(b"#") {
            continue;
        }
        if entries.len() >= ENTRIES_MAX {
            let note = format!(
                "line {number} of the fstab and what follows is passed over: more than {ENTRIES_MAX} entries"
            );
            notes.push(note);
            break;
        }
        match parse_line(line) {
            Some(entry) => entries.push(entry),
            None if notes.len() < NOTES_MAX => notes.push(format!(
                "line {number} of the fstab is passed over: it has no mount point"
            )),
            None => {}
        }
    }
    (entries, notes)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn entries_with_escapes_comments_and_defaults() {
        let text = b"# a comment\n  # another\n\nUUID=12-34 / ext4 errors=remount-ro 0 1\r\n\
            \tLABEL=My\\040Disk\t/mnt/with\\040blank\\134x  auto\n/dev/sda1 /a\n\
            x /b btrfs subvol=@a,ro,subvol=@b,,noauto 0\nalone\n/dev\\9 /c\\04\n#/dev/sdb1 / ext4\n";
        let entries = parse(text);
        let [root, blank, short, btrfs, odd] = entries.as_slice() else {
            panic!("{entries:?}");
        };
        assert_eq!(root.source, b"UUID=12-34");
        assert_eq!(
            (&root.target[..], &root.fs_type[..]),
            (&b"/"[..], &b"ext4"[..])
        );
        assert!(root.has("errors=remount-ro") && !root.has("ro"));
        assert_eq!(blank.source, b"LABEL=My Disk");
        assert_eq!(blank.target, b"/mnt/with blank\\x");
        assert_eq!(short.fs_type, b"auto");
        assert!(short.has("defaults"));
        assert_eq!(btrfs.option("subvol"), Some(&b"@b"[..]));
        assert_eq!(btrfs.option("subvolid"), None);
        assert!(btrfs.has("noauto"));
        assert_eq!(
            (&odd.source[..], &odd.target[..]),
            (&b"/dev\\9"[..], &b"/c\\04"[..])
        );
    }

    #[test]
    fn anything_else_gives_little() {
        assert!(parse(b"").is_empty());
        assert!(parse(&[0xff; 1000]).is_empty());
        assert_eq!(parse(&b"a b\n".repeat(5000)).len(), 1000);
        assert_eq!(parse(b"a b \\").len(), 1);
    }
}
