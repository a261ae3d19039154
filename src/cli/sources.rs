//! The sources of one `backup` by files and NBD exports: opened and checked before the first byte is read, and checked again before the
//! commit.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;

use super::args::Backup;
use super::context::Context;
use super::target::{parse_disk_path, parse_ids, split_paths};
use crate::block::magic;
use crate::capture::guard::message::Held;
use crate::capture::machine::{Capture, Extent, Instant, LeftOut, MachineDisk, Order, TakenDisk};
use crate::capture::source::{OpenSource, Source};
use crate::error::{Error, Result};
use crate::ingest::{Lookalike, Origin};
use crate::repo::sidecar::point::Consistency;
use crate::types::{DiskName, ImageFormat};

/// A disk and its source.
pub(super) struct Copied {
    pub(super) name: DiskName,
    pub(super) open: OpenSource,
    source: Source,
    text: OsString,
    /// The dirty bitmap of the export that may be used.
    bitmap: Option<String>,
}

/// All sources.
pub(super) struct Sources {
    all: Vec<Copied>,
    disks: Vec<MachineDisk>,
    force_share: bool,
    /// Whether they are exports of something that may go on writing.
    is_pulled: bool,
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
        let is_pulled = !args.capture.pull.is_empty();
        let mut bitmaps = parse_ids(&args.capture.bitmap)?;
        let mut all: Vec<Copied> = Vec::new();
        for text in texts {
            let (name, text) = parse_disk_path(text, "SOURCE")?;
            let mut source = Source::parse(&text, format)?;
            let named = bitmaps.keys().find(|other| other.same_as(&name)).cloned();
            let wanted = named.and_then(|other| bitmaps.remove(&other));
            if let Source::Nbd { bitmap, .. } = &mut source {
                bitmap.clone_from(&wanted);
            }
            if is_pulled && !matches!(source, Source::Nbd { .. }) {
                return Err(Error::invalid(format!(
                    "--pull {name} takes the URI of an NBD export"
                ))
                .at_path(&text)
                .advise("a file is named without --pull: DISK=SOURCE"));
            }
            let open = source.open(&allow_backing)?;
            if open.disk.size_bytes() == 0 {
                return Err(
                    Error::invalid(format!("the source of disk {name} is empty")).at_path(&text),
                );
            }
            let one = Copied {
                bitmap: wanted,
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
        if let Some(name) = bitmaps.keys().next() {
            return Err(Error::not_found(format!(
                "--bitmap names {name}, which --pull does not"
            )));
        }
        let disks = all.iter().map(|one| MachineDisk {
            name: one.name.clone(),
            key: None,
            size_bytes: one.open.disk.size_bytes(),
            data_bytes: None,
        });
        Ok(Self {
            disks: disks.collect(),
            all,
            force_share: args.force_share,
            is_pulled,
            notes: Vec::new(),
        })
    }

    pub(super) fn all(&self) -> &[Copied] {
        &self.all
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

fn previous<'a>(order: &'a Order, name: &DiskName) -> Option<&'a String> {
    let mut all = order.previous.iter();
    all.find(|(other, _)| other.same_as(name)).map(|(_, id)| id)
}

impl Capture for Sources {
    fn disks(&self) -> &[MachineDisk] {
        &self.disks
    }

    fn left_out(&self) -> &[LeftOut] {
        &[]
    }

    fn attachments(&self) -> &[(String, Vec<u8>)] {
        &[]
    }

    fn plan(&mut self, order: &Order) -> Result<Vec<(DiskName, Extent)>> {
        let extent = |one: &Copied| (one.name.clone(), one.extent(previous(order, &one.name)));
        Ok(self.all.iter().map(extent).collect())
    }

    fn take(&mut self, order: &Order) -> Result<Instant> {
        let mut disks = Vec::new();
        for one in &self.all {
            let extent = one.extent(previous(order, &one.name));
            disks.push(TakenDisk {
                name: one.name.clone(),
                source: Arc::clone(&one.open.disk),
                changes: match extent {
                    Extent::Since { .. } => one.open.changes.clone(),
                    Extent::Whole { .. } => None,
                },
                extent,
                change_id: None,
            });
        }
        Ok(Instant {
            disks,
            consistency: self.is_pulled.then_some(Consistency::Unknown),
            note: match self.is_pulled {
                true => Some(
                    "the disks were pulled from NBD exports: whether these are of one instant is not known".to_owned(),
                ),
                false => (!self.notes.is_empty()).then(|| self.notes.join("; ")),
            },
            held: Held::default(),
            remarks: Vec::new(),
        })
    }

    /// Refuses sources that a program writes or has written meanwhile; with `--force-share` it returns who did.
    fn check(&mut self) -> Result<Option<String>> {
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
                notes.push(note);
            }
        }
        Ok((!notes.is_empty()).then(|| notes.join("; ")))
    }

    fn end(&mut self, _: bool) -> Result<()> {
        Ok(())
    }
}

impl Copied {
    /// What of the source has to be copied for a disk whose parent has this change id.
    fn extent(&self, previous: Option<&String>) -> Extent {
        let name = self.bitmap.as_ref();
        let reason = match (name, previous) {
            (None, _) | (_, None) => None,
            (Some(name), Some(id)) if name == id => {
                return Extent::Since {
                    change_id: id.clone(),
                    changed_bytes: None,
                };
            }
            (Some(name), Some(id)) => Some(format!(
                "the bitmap {name} does not count from the parent, whose change id is {id}"
            )),
        };
        Extent::Whole { reason }
    }

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
