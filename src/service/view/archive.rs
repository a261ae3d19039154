//! Files of a point as one archive.

use std::io::Write;

use super::View;
use super::selection::Selection;
use crate::access::Right;
use crate::error::Result;
use crate::export::archive::{ArchiveOptions, Archived, Format, archive};
use crate::export::files::XattrChoice;
use crate::repo::selector::Which;
use crate::task::Monitor;
use crate::types::{PointName, VmName};

/// LIMIT: threads that load files for one archive: several are made at a time.
const THREADS: usize = 2;

/// LIMIT: paths of an archive that the audit log names.
const PATHS_NAMED_MAX: usize = 4;

/// What goes into an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveChoice {
    /// Its format.
    pub format: Format,
    /// Paths below the point.
    pub paths: Vec<Vec<u8>>,
}

/// An archive that is ready to be written.
pub struct TreeArchive {
    selection: Selection,
    format: Format,
    /// The point.
    pub point: PointName,
}

/// What an archive has.
pub type Packed = Archived;

impl TreeArchive {
    /// Writes the archive; an error leaves it without its end mark.
    ///
    /// # Errors
    /// As [`archive`].
    pub fn write(&self, sink: Box<dyn Write + '_>, monitor: &Monitor) -> Result<Packed> {
        let options = ArchiveOptions {
            format: self.format,
            threads: THREADS,
            xattrs: &XattrChoice::default(),
        };
        archive(
            &self.selection,
            self.selection.root,
            b".",
            sink,
            options,
            monitor,
        )
    }
}

impl View {
    /// Prepares an archive: every path must lead to something.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied`; `InvalidInput`; what the guest's reader returns.
    pub fn archive(
        &self,
        vm: &VmName,
        which: &Which,
        choice: &ArchiveChoice,
    ) -> Result<TreeArchive> {
        let opened = self.open_archive(vm, which, choice);
        let paths = choice.paths.iter().take(PATHS_NAMED_MAX);
        let paths: Vec<_> = paths.map(|path| String::from_utf8_lossy(path)).collect();
        let subject = format!("{which}:{}", paths.join(" "));
        self.local()
            .note_result("read-archive", vm, &subject, &opened);
        opened
    }

    fn open_archive(
        &self,
        vm: &VmName,
        which: &Which,
        choice: &ArchiveChoice,
    ) -> Result<TreeArchive> {
        let point = self.point_for(vm, which, Right::Restore)?;
        let start = self.start(&point)?;
        Ok(TreeArchive {
            selection: Selection::of(self.tree(), start, &choice.paths)?,
            format: choice.format,
            point: point.entry.name.clone(),
        })
    }
}
