//! The XML that a backup gives to libvirt (`docs/formatbackup.rst` and `docs/formatcheckpoint.rst` of libvirt).

use std::fmt::Write;
use std::path::Path;

/// The bitmap's name in the exports.
pub(super) const CHANGES: &str = "changes";

/// What a backup job does with a disk.
pub(super) struct Part<'a> {
    /// The disk.
    pub(super) target: &'a str,
    /// Its scratch image; `None` for a disk that is not taken.
    pub(super) scratch: Option<&'a Path>,
    /// The checkpoint whose changes the export shows.
    pub(super) since: Option<&'a str>,
}

/// Text as the value of an attribute or the content of an element.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\'' => escaped.push_str("&apos;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A backup in pull mode on a Unix socket. All disks of the domain are named: libvirt takes those that are not.
pub(super) fn backup(socket: &Path, parts: &[Part<'_>]) -> String {
    let mut xml = format!(
        "<domainbackup mode='pull'>\n<server transport='unix' socket='{}'/>\n<disks>\n",
        escaped(&socket.to_string_lossy())
    );
    for part in parts {
        let target = escaped(part.target);
        // Writing to a string cannot fail.
        let _ = match (part.scratch, part.since) {
            (None, _) => writeln!(xml, "<disk name='{target}' backup='no'/>"),
            (Some(scratch), since) => {
                let mode = match since {
                    Some(id) => format!(
                        "backupmode='incremental' incremental='{}' exportbitmap='{CHANGES}'",
                        escaped(id)
                    ),
                    None => "backupmode='full'".to_owned(),
                };
                writeln!(
                    xml,
                    "<disk name='{target}' backup='yes' type='file' exportname='{target}' {mode}><scratch file='{}'/></disk>",
                    escaped(&scratch.to_string_lossy())
                )
            }
        };
    }
    xml.push_str("</disks>\n</domainbackup>\n");
    xml
}

/// A checkpoint of that name. `created` is needed for one that existed before.
pub(super) fn checkpoint(
    name: &str,
    created: Option<&str>,
    tracked: &[&str],
    others: &[&str],
) -> String {
    let name = escaped(name);
    let mut xml = format!("<domaincheckpoint>\n<name>{name}</name>\n");
    // Writing to a string cannot fail.
    if let Some(created) = created {
        let _ = writeln!(xml, "<creationTime>{}</creationTime>", escaped(created));
    }
    xml.push_str("<disks>\n");
    for target in tracked {
        let target = escaped(target);
        let _ = writeln!(
            xml,
            "<disk name='{target}' checkpoint='bitmap' bitmap='{name}'/>"
        );
    }
    for target in others {
        let _ = writeln!(xml, "<disk name='{}' checkpoint='no'/>", escaped(target));
    }
    xml.push_str("</disks>\n</domaincheckpoint>\n");
    xml
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Part, backup, checkpoint};

    #[test]
    fn names_stay_within_their_quotes() {
        let evil = "a'/><x y=\"<&>";
        let parts = [
            Part {
                target: evil,
                scratch: Some(Path::new(evil)),
                since: Some(evil),
            },
            Part {
                target: "sda",
                scratch: None,
                since: None,
            },
        ];
        let xml = backup(Path::new(evil), &parts);
        let document = roxmltree::Document::parse(&xml).unwrap();
        let server = document.descendants().find(|n| n.has_tag_name("server"));
        assert_eq!(server.unwrap().attribute("socket"), Some(evil));
        let disks: Vec<_> = document
            .descendants()
            .filter(|n| n.has_tag_name("disk"))
            .collect();
        assert_eq!(disks.len(), 2);
        for name in ["name", "exportname", "incremental"] {
            assert_eq!(disks[0].attribute(name), Some(evil));
        }
        assert_eq!(disks[1].attribute("backup"), Some("no"));
        let xml = checkpoint(evil, Some("7"), &[evil], &["sda"]);
        let document = roxmltree::Document::parse(&xml).unwrap();
        let name = document.descendants().find(|n| n.has_tag_name("name"));
        assert_eq!(name.unwrap().text(), Some(evil));
    }
}
