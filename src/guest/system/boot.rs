//! Entries of boot loaders: they name the root with which a machine is started (Boot Loader Specification).
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use super::filesystem::Filesystems;
use super::tree::Tree;
use super::{FileLocation, Open};
use crate::guest::fs::Subvolume;

/// Directories of entries below the root of a filesystem, in order of precedence. Where ostree writes
/// entries, `loader` is a link to one of the others.
const DIRS: [&[u8]; 6] = [
    b"/loader/entries",
    b"/boot/loader/entries",
    b"/loader.1/entries",
    b"/boot/loader.1/entries",
    b"/loader.0/entries",
    b"/boot/loader.0/entries",
];
/// LIMIT: entries to read (our limit).
const ENTRIES_MAX: usize = 200;

/// One entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// Sort key of the entries.
    version: Vec<Part>,
    name: Vec<Part>,
    /// The kernel's command line.
    options: Vec<String>,
}

/// A part of a version; digits compare as a number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Text(String),
    Number(u64),
}

/// Splits a version into its parts.
fn parts(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_digit = first.is_ascii_digit();
        let end = rest
            .find(|c: char| c.is_ascii_digit() != is_digit)
            .unwrap_or(rest.len());
        let Some((part, after)) = rest.split_at_checked(end) else {
            break;
        };
        parts.push(match part.parse() {
            Ok(number) if is_digit => Part::Number(number),
            _ => Part::Text(part.to_owned()),
        });
        rest = after;
    }
    parts
}

fn parse(name: &[u8], text: &[u8]) -> Entry {
    let mut entry = Entry {
        name: parts(&String::from_utf8_lossy(name)),
        ..Entry::default()
    };
    for line in String::from_utf8_lossy(text).lines() {
        let Some((key, value)) = line.trim().split_once(char::is_whitespace) else {
            continue;
        };
        match key {
            "version" => entry.version = parts(value.trim()),
            "options" => {
                let words = value.split_whitespace().map(str::to_owned);
                entry.options.extend(words);
            }
            _ => {}
        }
    }
    entry
}

impl Entry {
    /// The last value of an option of the command line.
    pub(super) fn option(&self, name: &str) -> Option<&str> {
        self.options
            .iter()
            .rev()
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    /// The subvolume from which the root is mounted.
    pub(super) fn subvolume(&self) -> Option<Vec<u8>> {
        let flags = self.option("rootflags")?;
        let path = flags
            .split(',')
            .rev()
            .find_map(|flag| flag.strip_prefix("subvol="))?;
        Some(path.trim_start_matches('/').as_bytes().to_vec())
    }
}

/// All entries of all volumes, the newest first.
pub(super) fn entries(filesystems: &Filesystems<'_>, open: Open<'_>) -> Vec<Entry> {
    let mut entries = Vec::new();
    for volume in 0..filesystems.volumes.len() {
        let Ok(fs) = filesystems.get(volume) else {
            continue;
        };
        let ino = fs.subvolume(&Subvolume::Default).unwrap_or(fs.root());
        let tree = Tree::new(open, FileLocation { volume, ino });
        let found = DIRS.iter().find_map(|dir| {
            let names = tree.names(dir);
            (!names.is_empty()).then_some((dir, names))
        });
        for (dir, name) in found
            .iter()
            .flat_map(|(dir, names)| names.iter().map(move |name| (dir, name)))
        {
            if !name.ends_with(b".conf") || entries.len() >= ENTRIES_MAX {
                continue;
            }
            if let Ok(text) = tree.read(&[dir, &b"/"[..], name].concat()) {
                entries.push(parse(name, &text));
            }
        }
    }
    entries.sort_by(|a, b| (&b.version, &b.name).cmp(&(&a.version, &a.name)));
    entries
}

#[cfg(test)]
mod tests {
    use super::{parse, parts};

    #[test]
    fn entries_have_versions_and_command_lines() {
        let text = b"title Fedora\nversion 10\noptions root=UUID=x rootflags=subvol=root,ro ostree=/ostree/boot.1/f/a/0\n\
            options  rootflags=compress=zstd:1,subvol=/@/.snapshots/12/snapshot quiet\n";
        let entry = parse(b"ostree-10.conf", text);
        assert_eq!(entry.option("ostree"), Some("/ostree/boot.1/f/a/0"));
        assert_eq!(
            entry.subvolume().as_deref(),
            Some(&b"@/.snapshots/12/snapshot"[..])
        );
        assert!(parts("10") > parts("9") && parts("6.12-a") > parts("6.2-b"));
        assert!(parse(b"", &[0xff; 300]).options.is_empty());
    }
}
