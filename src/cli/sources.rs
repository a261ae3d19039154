//! The sources of one `backup`: opened and checked before the first byte is read, and checked again
//! before the commit.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::args::Backup;
use super::context::Context;
use super::target::{parse_disk_path, split_paths};
use crate::block::{ReadAt, magic};
use crate::capture::source::{OpenSource, Source};
use crate::error::{Error, Result};
use crate::ingest::{Lookalike, Origin};
use crate::types::{DiskName, ImageFormat};

/// A disk and its source.
pub(super) struct Copied {
    pub(super) name: DiskName,
    pub(super) open: OpenSource,
    source: Source,
    text: OsString,
}

/// All sources.
pub(super) struct Sources {
    all: Vec<Copied>,
    force_share: bool,
    /// Remarks from the check before the first byte.
    notes: Vec<String>,
}

impl Sources {
    /// Opens what `DISK=SOURCE` names.
    ///
    /// # Errors
    /// `InvalidInput`: an argument without `=`, an empty source, one file for two disks; what
    /// opening returns.
    pub(super) fn open(args: &Backup, texts: &[OsString]) -> Result<Self> {
        let format = args.format.as_deref().map(str::parse::<ImageFormat>);
        let format = format.transpose()?;
        let allow_backing = split_paths(&args.allow_backing);
        let mut all: Vec<Copied> = Vec::new();
        for text in texts {
            let (name, text) = parse_disk_path(text, "SOURCE")?;
            let source = Source::parse(&text, format)?;
            let open = source.open(&allow_backing)?;
            if open.disk.size_bytes() == 0 {
                return Err(
                    Error::invalid(format!("the source of disk {name} is empty")).at_path(&text),
                );
            }
            let one = Copied {
                name,
                open,
                source,
                text,
            };
            if let Some(other) = all.iter().find(|other| other.is_same(&one)) {
                return Err(Error::invalid(format!(
                    "disks {} and {} have the same source",
                    other.name, one.name
                ))
                .at_path(&one.text)
                .advise("name each disk's own file"));
            }
            all.push(one);
        }
        Ok(Self {
            all,
            force_share: args.force_share,
            notes: Vec::new(),
        })
    }

    pub(super) fn all(&self) -> &[Copied] {
        &self.all
    }

    /// The disks by name.
    pub(super) fn disks(&self) -> impl Iterator<Item = (DiskName, &dyn ReadAt)> {
        self.all
            .iter()
            .map(|one| (one.name.clone(), one.open.disk.as_ref()))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &DiskName> {
        self.all.iter().map(|one| &one.name)
    }

    /// Refuses sources that a program writes, before the first byte is read.
    ///
    /// # Errors
    /// `Busy`, which names the file and the program; `Io`.
    pub(super) fn check_before(&mut self, context: &Context) -> Result<()> {
        for one in &self.all {
            let Some(finding) = one.open.watch.look()? else {
                continue;
            };
            if !self.force_share {
                return Err(finding.refusal());
            }
            context.output.warn(format!(
                "disk {}: {}; it is copied all the same (--force-share), and the point's consistency is unknown",
                one.name,
                finding.note()
            ));
            self.notes
                .push(format!("disk {}: {}", one.name, finding.note()));
        }
        Ok(())
    }

    /// Refuses sources that a program writes or has written meanwhile; with `--force-share` returns
    /// a description of the writers.
    ///
    /// # Errors
    /// `Busy`, which names the file and the program; `Io`.
    pub(super) fn check_after(&self, context: &Context) -> Result<Option<String>> {
        let mut notes = self.notes.clone();
        for one in &self.all {
            let Some(finding) = one.open.watch.look()? else {
                continue;
            };
            if !self.force_share {
                return Err(finding.refusal());
            }
            let note = format!("disk {}: {}", one.name, finding.note());
            if !notes.contains(&note) {
                context.output.warn(format!("{note} while it was copied"));
                notes.push(note);
            }
        }
        Ok((!notes.is_empty()).then(|| notes.join("; ")))
    }

    /// The origins of the disks, for the request that begins the session. With `counts_data` they
    /// have the bytes that the sources report as data.
    ///
    /// # Errors
    /// What a source returns.
    pub(super) fn origins(&self, counts_data: bool) -> Result<BTreeMap<DiskName, Origin>> {
        let origin = |one: &Copied| -> Result<(DiskName, Origin)> {
            let data_bytes = match counts_data {
                true => one.open.data_bytes()?,
                false => None,
            };
            let lookalike = one.open.lookalike.map(|format| Lookalike {
                source: one.text.to_string_lossy().into_owned(),
                format: format.to_owned(),
                ways_out: one.source.ways_out(format),
            });
            Ok((
                one.name.clone(),
                Origin {
                    data_bytes,
                    lookalike,
                },
            ))
        };
        self.all.iter().map(origin).collect()
    }
}

impl Copied {
    fn is_same(&self, other: &Self) -> bool {
        match (&self.source, &other.source) {
            (Source::Nbd { uri, .. }, Source::Nbd { uri: second, .. }) => uri == second,
            _ => {
                let identity = self.open.watch.identity();
                identity.is_some() && identity == other.open.watch.identity()
            }
        }
    }

    /// The warning for a source that begins as an image and is copied byte by byte, because the
    /// disk had a point before.
    pub(super) fn lookalike_warning(&self) -> Option<String> {
        let format = self.open.lookalike?;
        Some(format!(
            "the source of disk {} begins as a {format} {}; it is copied byte by byte, as the disk before it was: {}",
            self.name,
            if magic::is_packed(format) {
                "archive"
            } else {
                "image"
            },
            self.source.ways_out(format)
        ))
    }
}
