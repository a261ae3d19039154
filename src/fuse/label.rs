//! Mount options that give a whole mount SELinux labels (`context=` and similar ones, mount(8)). On RHEL and
//! related systems they are the only way to let Samba, httpd or containers read a FUSE mount.

use std::path::Path;

use crate::error::{Error, Result};

/// Names of the options.
const NAMES: [&str; 4] = ["context", "fscontext", "defcontext", "rootcontext"];
/// LIMIT: bytes of a label: the kernel receives all options in one page.
const LABEL_BYTES_MAX: usize = 1_024;

/// One option with its label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    name: &'static str,
    value: String,
}

/// Splits options at commas outside double quotes: MCS labels contain commas (`s0:c1,c2`).
#[must_use]
pub fn split_options(text: &str) -> Vec<&str> {
    let mut is_quoted = false;
    text.split(move |c| {
        if c == '"' {
            is_quoted = !is_quoted;
        }
        c == ',' && !is_quoted
    })
    .map(str::trim)
    .filter(|option| !option.is_empty())
    .collect()
}

impl Label {
    /// The label in an option; `None` for any other option.
    ///
    /// # Errors
    /// `InvalidInput` for a label that cannot be passed to the kernel.
    pub(super) fn parse(name: &str, value: Option<&str>) -> Result<Option<Self>> {
        let Some(name) = NAMES.into_iter().find(|known| *known == name) else {
            return Ok(None);
        };
        let value = value.unwrap_or_default();
        let value = match value.strip_prefix('"') {
            Some(rest) => rest.strip_suffix('"').unwrap_or_default(),
            None => value,
        };
        let is_plain = value
            .bytes()
            .all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
        if value.is_empty() || value.len() > LABEL_BYTES_MAX || !is_plain {
            return Err(Error::invalid(format!(
                "mount option {name} needs a label: {name}=\"system_u:object_r:samba_share_t:s0\""
            )));
        }
        Ok(Some(Self {
            name,
            value: value.to_owned(),
        }))
    }

    /// The option in the form of mount(2).
    pub(super) fn kernel_option(&self) -> String {
        format!("{}=\"{}\"", self.name, self.value)
    }
}

/// The labels that this kernel accepts: all with SELinux; none without, with a warning in the log.
///
/// # Errors
/// `InvalidInput` when the user is not root: neither the kernel nor fusermount3 then accepts labels.
pub fn effective(labels: &[Label]) -> Result<&[Label]> {
    let Some(first) = labels.first() else {
        return Ok(&[]);
    };
    if !has_selinux(&std::fs::read_to_string("/proc/filesystems").unwrap_or_default()) {
        tracing::warn!(
            option = first.name,
            "this kernel has no SELinux, or it is switched off: the mount has no label"
        );
        return Ok(&[]);
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Error::invalid(format!(
            "mount option {} is for root's mounts",
            first.name
        )));
    }
    Ok(labels)
}

fn has_selinux(filesystems: &str) -> bool {
    filesystems.lines().any(|line| line.ends_with("selinuxfs"))
        && Path::new("/sys/fs/selinux").exists()
}

#[cfg(test)]
mod tests {
    use super::{Label, has_selinux, split_options};

    #[test]
    fn commas_within_quotes_belong_to_the_label() {
        let text = "ro,context=\"system_u:object_r:svirt_t:s0:c1,c2\",,allow_other";
        assert_eq!(
            split_options(text),
            [
                "ro",
                "context=\"system_u:object_r:svirt_t:s0:c1,c2\"",
                "allow_other"
            ]
        );
        // An unclosed quote takes the rest; no label contains one.
        assert_eq!(split_options("ro,context=\"a,b"), ["ro", "context=\"a,b"]);
    }

    #[test]
    fn a_label_is_plain_text() {
        let parse = |name: &str, value: &str| Label::parse(name, Some(value));
        let label = parse("context", "\"u:r:t:s0:c1,c2\"").unwrap().unwrap();
        assert_eq!(label.kernel_option(), "context=\"u:r:t:s0:c1,c2\"");
        let label = parse("rootcontext", "u:r:t").unwrap().unwrap();
        assert_eq!(label.kernel_option(), "rootcontext=\"u:r:t\"");
        assert!(parse("contexts", "x").unwrap().is_none());
        for bad in ["", "\"", "\"a", "a b", "a\\054b", "a\"b", "a\u{e9}"] {
            assert!(parse("fscontext", bad).is_err(), "{bad:?}");
        }
        assert!(Label::parse("defcontext", None).is_err());
        assert!(!has_selinux("nodev\tsysfs\n\text4\n"));
    }
}
