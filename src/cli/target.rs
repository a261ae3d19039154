//! The forms of points, paths and sessions on the command line.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::repo::selector::Selector;
use crate::types::{DiskName, PointName, SessionRef, VmName};

/// `VM[@POINT][:/PATH]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// A VM.
    Vm(VmName),
    /// A point.
    Point(Selector),
    /// A path below a point, in the guest's own bytes.
    Path(Selector, Vec<u8>),
}

impl Target {
    /// Parses a target.
    ///
    /// # Errors
    /// `InvalidInput`, `NameTooLong`.
    pub(super) fn parse(text: &OsStr) -> Result<Self> {
        let bytes = text.as_bytes();
        let colon = bytes.windows(2).position(|pair| pair == b":/");
        let (point, path) = match colon {
            Some(at) => (bytes.get(..at), bytes.get(at + 1..)),
            None => (Some(bytes), None),
        };
        let point = std::str::from_utf8(point.unwrap_or_default()).map_err(|_| not_plain(text))?;
        match (point.contains('@'), path) {
            (true, Some(path)) => Ok(Self::Path(point.parse()?, path.to_vec())),
            (true, None) => point.parse().map(Self::Point).map_err(|e| {
                if point.contains('/') {
                    e.advise("write VM@POINT:/PATH")
                } else {
                    e
                }
            }),
            (false, Some(path)) => {
                let path = path.escape_ascii();
                Err(Error::invalid(format!("the path {path} needs a point"))
                    .advise(format!("write {point}@latest:{path}")))
            }
            (false, None) if point.contains('/') => Err(Error::invalid(format!(
                "\"{}\" names no VM and no point",
                point.escape_debug()
            ))
            .advise("write VM, VM@POINT or VM@POINT:/PATH")),
            (false, None) => Ok(Self::Vm(VmName::new(point)?)),
        }
    }
}

/// The last component of a path.
pub(super) fn last_name(path: &[u8]) -> Option<&[u8]> {
    path.rsplit(|byte| *byte == b'/')
        .find(|part| !part.is_empty())
}

/// The error for a name that is not plain text; only paths may have other bytes.
fn not_plain(text: &OsStr) -> Error {
    Error::invalid(format!(
        "\"{}\" is no UTF-8, which names of VMs, points and disks are",
        text.as_bytes().escape_ascii()
    ))
}

/// An argument as plain text.
///
/// # Errors
/// `InvalidInput` when it is not UTF-8.
pub(super) fn plain(text: &OsStr) -> Result<&str> {
    text.to_str().ok_or_else(|| not_plain(text))
}

/// Parses `VM/SESSION`.
///
/// # Errors
/// `InvalidInput`, `NameTooLong`.
pub(super) fn parse_session(text: &str) -> Result<SessionRef> {
    let (vm, session) = text.split_once('/').ok_or_else(|| {
        Error::invalid(format!(
            "\"{}\" is not a session; write VM/SESSION",
            text.escape_debug()
        ))
    })?;
    Ok(SessionRef {
        vm: VmName::new(vm)?,
        session: PointName::new(session)?,
    })
}

/// Parses `DISK=VALUE`.
///
/// # Errors
/// `InvalidInput`, `NameTooLong`.
pub(super) fn parse_disk(text: &str, what: &str) -> Result<(DiskName, String)> {
    let (disk, value) = parse_disk_path(OsStr::new(text), what)?;
    Ok((disk, plain(&value)?.to_owned()))
}

/// Parses `DISK=VALUE` where the value is or has a path, of any bytes.
///
/// # Errors
/// `InvalidInput`, `NameTooLong`.
pub(super) fn parse_disk_path(text: &OsStr, what: &str) -> Result<(DiskName, OsString)> {
    let bytes = text.as_bytes();
    let at = bytes.iter().position(|byte| *byte == b'=');
    let disk = at.and_then(|at| bytes.get(..at));
    let value = at.and_then(|at| bytes.get(at + 1..));
    let (disk, value) = disk
        .zip(value.filter(|value| !value.is_empty()))
        .ok_or_else(|| {
            let shown = text.to_string_lossy();
            Error::invalid(format!("\"{}\" is not DISK={what}", shown.escape_debug()))
        })?;
    let disk = plain(OsStr::from_bytes(disk))?;
    Ok((DiskName::new(disk)?, OsStr::from_bytes(value).to_owned()))
}

/// Parses names of disks.
///
/// # Errors
/// `InvalidInput`, `NameTooLong`.
pub(super) fn parse_disks(texts: &[String]) -> Result<Vec<DiskName>> {
    let names = texts.iter().flat_map(|text| split_list(text));
    names.map(DiskName::new).collect()
}

/// Parses `DISK=ID` flags.
///
/// # Errors
/// `InvalidInput`, also for a disk that is named twice; `NameTooLong`.
pub(super) fn parse_ids(texts: &[String]) -> Result<BTreeMap<DiskName, String>> {
    let mut ids = BTreeMap::new();
    for text in texts.iter().flat_map(|text| split_pairs(text)) {
        let (disk, id) = parse_disk(text, "ID")?;
        if ids.insert(disk.clone(), id).is_some() {
            return Err(Error::invalid(format!("disk {disk} was given two ids")));
        }
    }
    Ok(ids)
}

/// Splits `vda,vdb`: an argument that may be repeated may also be a list.
pub(super) fn split_list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
}

/// Splits `vda=1,vdb=2`. A comma that is not followed by `DISK=` belongs to the value.
pub(super) fn split_pairs(text: &str) -> Vec<&str> {
    let mut pairs = Vec::new();
    let mut rest = text;
    let mut from = 0;
    while let Some(comma) = rest.get(from..).and_then(|tail| tail.find(',')) {
        let (head, tail) = rest.split_at(from + comma);
        let tail = tail.get(1..).unwrap_or_default();
        let is_next = tail
            .split_once('=')
            .is_some_and(|(disk, _)| DiskName::new(disk).is_ok());
        if is_next {
            pairs.push(head);
            rest = tail;
            from = 0;
        } else {
            from += comma + 1;
        }
    }
    pairs.push(rest);
    pairs
}

/// Splits paths at commas, unless a file has the whole text as its name.
pub(super) fn split_paths(paths: &[PathBuf]) -> Vec<PathBuf> {
    let split = |path: &PathBuf| match path.to_str() {
        Some(text) if text.contains(',') && !path.exists() => {
            split_list(text).map(PathBuf::from).collect()
        }
        _ => vec![path.clone()],
    };
    paths.iter().flat_map(split).collect()
}

/// Returns what `--full` took for its disk although it was another argument. `--full` may stand
/// alone, so that `backup --full web01 vda=a.raw` and `backup web01 --full vda=a.raw` have the
/// expected meaning. Returns VM, disks, and the disks that are full (an empty name: all).
///
/// # Errors
/// `InvalidInput` for a name that is not UTF-8.
pub(super) fn untangle(
    vm: &OsStr,
    disks: &[OsString],
    full: &[OsString],
) -> Result<(String, Vec<OsString>, Vec<String>)> {
    let has_value = |text: &OsStr| text.as_bytes().contains(&b'=');
    let (mut vm, mut disks) = (vm.to_owned(), disks.to_vec());
    let mut full: Vec<OsString> = full
        .iter()
        .map(|value| {
            if has_value(value) {
                disks.insert(0, value.clone());
                return OsString::new();
            }
            value.clone()
        })
        .collect();
    if has_value(&vm)
        && let Some(name) = full.iter_mut().find(|value| !value.is_empty())
    {
        disks.insert(0, std::mem::replace(&mut vm, std::mem::take(name)));
    }
    let full: Result<_> = full
        .iter()
        .map(|text| plain(text).map(str::to_owned))
        .collect();
    Ok((plain(&vm)?.to_owned(), disks, full?))
}

#[cfg(test)]
mod tests {
    use super::{
        Target, parse_disk, parse_disk_path, parse_disks, parse_ids, parse_session, split_pairs,
        split_paths,
    };
    use crate::types::duration::parse_seconds;
    use std::ffi::{OsStr, OsString};
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn what_may_be_repeated_may_be_a_list() {
        let all = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        assert_eq!(split_pairs("vda=1,vdb=2"), ["vda=1", "vdb=2"]);
        assert_eq!(split_pairs("vda=1"), ["vda=1"]);
        // Ids may contain commas.
        assert_eq!(split_pairs("vda=a,b,vdb=c,,d"), ["vda=a,b", "vdb=c,,d"]);
        assert_eq!(split_pairs("vda=a,/x=y"), ["vda=a,/x=y"]);
        let ids = |words: &[&str]| parse_ids(&all(words)).map(|ids| format!("{ids:?}"));
        let list = ids(&["vda=1,vdb=2"]).unwrap();
        assert_eq!(list, ids(&["vda=1", "vdb=2"]).unwrap());
        assert!(ids(&["vda=1,vda=2"]).is_err() && ids(&["vda"]).is_err());
        let names = parse_disks(&all(&["vda,vdb", "vdc"])).unwrap();
        assert_eq!(names.len(), 3);
        assert!(parse_disks(&all(&["vda,"])).is_err());
        let temp = tempfile::tempdir().unwrap();
        let odd = temp.path().join("a,b");
        std::fs::write(&odd, "").unwrap();
        assert_eq!(split_paths(std::slice::from_ref(&odd)).len(), 1);
        assert_eq!(split_paths(&["x,y".into()]).len(), 2);
    }

    #[test]
    fn full_stands_alone_or_names_disks() {
        let all = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let untangle = |vm: &str, disks: &[OsString], full: &[OsString]| {
            super::untangle(OsStr::new(vm), disks, full).unwrap()
        };
        let same = (
            "web01".to_owned(),
            all(&["vda=a", "vdb=b"]),
            vec![String::new()],
        );
        assert_eq!(
            untangle("web01", &all(&["vda=a", "vdb=b"]), &all(&[""])),
            same
        );
        assert_eq!(untangle("web01", &all(&["vdb=b"]), &all(&["vda=a"])), same);
        assert_eq!(untangle("vda=a", &all(&["vdb=b"]), &all(&["web01"])), same);
        let one = untangle("web01", &all(&["vda=a"]), &all(&["vda"]));
        assert_eq!(
            one,
            ("web01".to_owned(), all(&["vda=a"]), vec!["vda".to_owned()])
        );
    }

    #[test]
    fn targets_parse() {
        let parse = |text: &str| Target::parse(OsStr::new(text));
        assert!(matches!(parse("web01").unwrap(), Target::Vm(_)));
        assert!(matches!(parse("web01@latest").unwrap(), Target::Point(_)));
        match parse("web01@latest:/volumes/vda/part/1/a:b@c").unwrap() {
            Target::Path(_, path) => assert_eq!(path, b"/volumes/vda/part/1/a:b@c"),
            other => panic!("{other:?}"),
        }
        for bad in [
            "",
            "a/b",
            "web01:/etc",
            "web01@",
            "../x",
            "a\n",
            &"x".repeat(300),
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        let odd = OsStr::from_bytes(b"web01@latest:/files/caf\xe9");
        match Target::parse(odd).unwrap() {
            Target::Path(_, path) => assert_eq!(path, b"/files/caf\xe9"),
            other => panic!("{other:?}"),
        }
        let named = OsStr::from_bytes(b"w\xe9b@latest");
        assert!(
            Target::parse(named)
                .unwrap_err()
                .report()
                .contains("w\\xe9b")
        );
        let (disk, source) =
            parse_disk_path(OsStr::from_bytes(b"vda=/srv/caf\xe9.raw"), "SOURCE").unwrap();
        assert_eq!(
            (disk.as_str(), source.as_bytes()),
            ("vda", &b"/srv/caf\xe9.raw"[..])
        );
        assert!(parse_session("web01").is_err());
        assert_eq!(parse_disk("vda=a=b", "SOURCE").unwrap().1, "a=b");
        assert!(parse_disk("vda=", "SOURCE").is_err());
        assert_eq!(parse_seconds("6h").unwrap(), 21_600);
        assert!(parse_seconds("6w").is_err());
    }
}
