//! systemd mount units, which a guest may have instead of lines in an fstab (systemd.mount(5),
//! systemd.unit(5)).
//!
//! # Invariants
//! Total: any bytes yield a bounded number of entries. Only units that another unit wants are used, as at
//! boot.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::collections::BTreeMap;

use super::fstab::Entry;
use super::shown;
use super::tree::Tree;

/// Directories of units, in order of precedence.
const DIRS: [&[u8]; 4] = [
    b"/etc/systemd/system",
    b"/usr/local/lib/systemd/system",
    b"/usr/lib/systemd/system",
    b"/lib/systemd/system",
];
/// LIMIT: units to read (our limit).
const UNITS_MAX: usize = 500;

/// The path of a unit's name: `srv-my\x2ddata.mount` is `/srv/my-data`.
fn path_of(name: &[u8]) -> Option<Vec<u8>> {
    let stem = name.strip_suffix(b".mount")?;
    if stem == b"-" {
        return Some(b"/".to_vec());
    }
    let mut path = vec![b'/'];
    let mut rest = stem;
    while let Some((first, after)) = rest.split_first() {
        let code = match after {
            [b'x', high, low, ..] if *first == b'\\' => std::str::from_utf8(&[*high, *low])
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 16).ok()),
            _ => None,
        };
        rest = match code {
            Some(byte) => {
                path.push(byte);
                after.get(3..).unwrap_or_default()
            }
            None => {
                path.push(if *first == b'-' { b'/' } else { *first });
                after
            }
        };
    }
    Some(path)
}

/// A path without empty components.
pub(super) fn plain(path: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> = path
        .split(|b| *b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    let mut plain = b"/".to_vec();
    plain.extend(parts.join(&b'/'));
    plain
}

/// The settings of the section `[Mount]`; of several with one name the last counts.
fn settings(text: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(text).replace("\\\n", " ");
    let mut is_mount = false;
    let mut found = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            is_mount = line == "[Mount]";
        } else if let (true, false, Some((name, value))) =
            (is_mount, line.starts_with(['#', ';']), line.split_once('='))
        {
            let value = value.trim().replace("%%", "%");
            found.insert(name.trim().to_owned(), value);
        }
    }
    found
}

/// The entry of a unit, or why it has none.
fn parse(name: &[u8], text: &[u8], is_required: bool) -> Result<Entry, &'static str> {
    let target = path_of(name).ok_or("its name is none of a mount")?;
    let mut settings = settings(text);
    let source = settings.remove("What").filter(|what| !what.is_empty());
    let source = source.ok_or("it has no What=")?;
    // systemd refuses a unit whose name differs from its mount point.
    if let Some(place) = settings.remove("Where")
        && plain(place.as_bytes()) != plain(&target)
    {
        return Err("its Where= is not what its name says");
    }
    let options = settings.remove("Options").unwrap_or_default();
    let mut options: Vec<Vec<u8>> = options
        .split(',')
        .map(|option| option.trim().as_bytes().to_vec())
        .filter(|option| !option.is_empty())
        .collect();
    if !is_required {
        options.push(b"nofail".to_vec());
    }
    Ok(Entry {
        source: source.into_bytes(),
        target,
        fs_type: settings
            .remove("Type")
            .unwrap_or_else(|| "auto".to_owned())
            .into_bytes(),
        options,
    })
}

/// The names of all mounts that a unit wants, and whether one requires them.
fn wanted(tree: &Tree<'_>) -> BTreeMap<Vec<u8>, bool> {
    let mut wanted: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
    for dir in DIRS {
        for target in tree.names(dir) {
            let is_required = target.ends_with(b".requires");
            if !is_required && !target.ends_with(b".wants") {
                continue;
            }
            let below = [dir, b"/", &target].concat();
            for unit in tree.names(&below) {
                let mount = match unit.strip_suffix(b".automount") {
                    Some(stem) => [stem, b".mount"].concat(),
                    None => unit,
                };
                if mount.ends_with(b".mount") && wanted.len() < UNITS_MAX {
                    *wanted.entry(mount).or_default() |= is_required;
                }
            }
        }
    }
    wanted
}

/// The drop-ins of a unit, in the order of their names; of several with one name, the one with the highest
/// precedence.
fn drop_ins(tree: &Tree<'_>, name: &[u8]) -> Vec<u8> {
    let mut found: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for dir in DIRS {
        let dir = [dir, b"/", name, b".d"].concat();
        for file in tree.names(&dir) {
            if file.ends_with(b".conf") && !found.contains_key(&file) {
                let text = tree.read(&[&dir[..], b"/", &file].concat());
                found.insert(file, text.unwrap_or_default());
            }
        }
    }
    let texts: Vec<Vec<u8>> = found.into_values().collect();
    [&b"\n"[..], &texts.join(&b'\n')].concat()
}

/// The entries of the enabled mount units, with remarks on units that cannot be used.
pub(super) fn entries(tree: &Tree<'_>) -> (Vec<Entry>, Vec<String>) {
    let mut entries = Vec::new();
    let mut notes = Vec::new();
    let wanted = wanted(tree);
    if wanted.is_empty() {
        return (entries, notes);
    }
    let dirs: Vec<(&[u8], Vec<Vec<u8>>)> = DIRS.iter().map(|dir| (*dir, tree.names(dir))).collect();
    for (name, is_required) in wanted {
        let Some((dir, _)) = dirs.iter().find(|(_, names)| names.contains(&name)) else {
            continue;
        };
        // A masked unit is a link to /dev/null, which is not in a backup.
        let Ok(mut text) = tree.read(&[dir, &b"/"[..], &name].concat()) else {
            continue;
        };
        text.extend(drop_ins(tree, &name));
        match parse(&name, &text, is_required) {
            Ok(entry) => entries.push(entry),
            Err(why) => notes.push(format!("the unit {} is passed over: {why}", shown(&name))),
        }
    }
    (entries, notes)
}

#[cfg(test)]
mod tests {
    use super::{parse, path_of, plain};

    /// Examples from systemd-escape(1).
    #[test]
    fn names_are_paths() {
        for (name, path) in [
            ("srv-data.mount", "/srv/data"),
            ("srv-my\\x2ddata.mount", "/srv/my-data"),
            ("-.mount", "/"),
            ("var-lib-a\\x20b.mount", "/var/lib/a b"),
            ("a\\x.mount", "/a\\x"),
        ] {
            assert_eq!(path_of(name.as_bytes()).unwrap(), path.as_bytes(), "{name}");
        }
        assert_eq!(path_of(b"x.service"), None);
        assert_eq!(plain(b"//srv/./data/"), b"/srv/data");
    }

    #[test]
    fn units_are_entries() {
        let text = b"[Unit]\nWhat=no\n[Mount]\n# What=no\nWhat=/dev/x\nWhat = LABEL=a%%b\nWhere=/srv/data/\n\
            Options=noatime,\\\n subvol=@x\n[Install]\nWantedBy=x\n";
        let entry = parse(b"srv-data.mount", text, true).unwrap();
        assert_eq!(entry.source, b"LABEL=a%b");
        assert_eq!(entry.fs_type, b"auto");
        assert_eq!(entry.option("subvol"), Some(&b"@x"[..]));
        assert!(entry.has("noatime") && !entry.has("nofail"));
        assert!(parse(b"srv-data.mount", text, false).unwrap().has("nofail"));
        assert!(parse(b"srv-other.mount", text, true).is_err());
        assert!(parse(b"srv.mount", b"[Mount]\n", true).is_err());
        assert!(parse(b"srv.mount", &[0xff; 100], true).is_err());
    }
}
