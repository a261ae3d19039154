//! A layer as its header describes it, and the look at one layer that proves its header.

use std::sync::Arc;

use super::content::CLUSTER;
use super::layout::VmKeys;
use super::repository::Repository;
use super::slot::Slot;
use super::sums::{LayerSums, Sums};
use super::trash;
use crate::block::ReadAt;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::qcow2::Image;
use crate::types::width::usize_from_u64;
use crate::types::{Digest, HostCluster, LayerId, VmId, VmName};

/// What to do about a committed file that is lost or damaged.
pub(super) const FROM_COPY: &str =
    "repair it from a copy of the repository (restorefs repair VM --from REPOSITORY)";

/// An open layer file.
pub struct LayerFile {
    /// The file.
    pub file: Arc<dyn ReadAt>,
    /// The layer's id.
    pub layer: LayerId,
    /// The slot of its backing layer.
    pub below: Option<Slot>,
}

impl LayerFile {
    /// Opens the layer in a slot.
    ///
    /// # Errors
    /// `NotFound` when it is missing; `Corrupt` when it has no layer id, or has a backing file name that is not a
    /// slot's; `Io`.
    pub fn open(repository: &Repository, vm: &VmName, slot: &Slot) -> Result<Self> {
        Self::of(repository.find_layer(vm, slot)?, slot)
    }

    /// Opens the layer in a slot for a reader: a layer that is missing is sought in the trash. What the repository
    /// *has* is told by [`LayerFile::open`].
    ///
    /// # Errors
    /// As [`LayerFile::open`].
    pub fn seek(repository: &Repository, vm: &VmName, id: VmId, slot: &Slot) -> Result<Self> {
        match repository.find_layer(vm, slot) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let replaced = trash::open_layer(repository, id, slot, None)?;
                Self::of(replaced.ok_or(e)?, slot)
            }
            other => Self::of(other?, slot),
        }
    }

    /// The layer in an open file; `slot` is for messages.
    ///
    /// # Errors
    /// As [`LayerFile::open`], but for `NotFound`.
    pub fn of(file: Arc<dyn ReadAt>, slot: &Slot) -> Result<Self> {
        let image = Image::open(Arc::clone(&file))?;
        let layer = image.layer_id().ok_or_else(|| {
            Error::corrupt("a layer has no layer id", "a header extension RFS1", "none")
                .at_path(slot.layer_file())
        })?;
        let below = match image.backing_name() {
            Some(name) => Some(Slot::of_file(&String::from_utf8_lossy(name)).map_err(|e| {
                Error::corrupt(
                    "a layer's backing file is not a layer of this VM",
                    "<slot>.qcow2",
                    e.what().to_owned(),
                )
                .at_path(slot.layer_file())
            })?),
            None => None,
        };
        Ok(Self { file, layer, below })
    }

    /// Opens the layer's sums for a reader: sums that are missing are sought in the trash.
    ///
    /// # Errors
    /// `NotFound` when they are missing; `Corrupt`, `Io`.
    pub fn seek_sums(
        &self,
        repository: &Repository,
        vm: &VmName,
        id: VmId,
        slot: &Slot,
    ) -> Result<LayerSums> {
        match repository.find_sums(vm, slot, self.layer) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let replaced = trash::open_sums(repository, id, slot, self.layer)?;
                Sums::open(replaced.ok_or(e)?)
            }
            other => other,
        }
    }

    /// The file of the layer's sums, for a reader that takes it over as it is; a file that is missing is sought in the trash.
    ///
    /// # Errors
    /// `NotFound` when it is missing; `Io`.
    pub fn seek_sums_file(
        &self,
        repository: &Repository,
        vm: &VmName,
        id: VmId,
        slot: &Slot,
    ) -> Result<Arc<dyn ReadAt>> {
        let key = VmKeys::new(vm)?.sums(slot, self.layer)?;
        match repository.store().open(&key).at_path(key.as_str()) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                trash::open_sums(repository, id, slot, self.layer)?.ok_or(e)
            }
            other => other,
        }
    }

    /// Proves the size and the header cluster of the layer, with the sums that are beside it. The header names the
    /// layer below: a damaged one would lead to another layer.
    ///
    /// # Errors
    /// `Corrupt` naming the file, also when the sums are missing; `Io`.
    pub fn prove_header(
        &self,
        repository: &Repository,
        vm: &VmName,
        slot: &Slot,
    ) -> Result<LayerSums> {
        let sums = repository.open_sums(vm, slot, self.layer)?;
        self.prove_header_with(vm, slot, &sums)?;
        Ok(sums)
    }

    /// [`LayerFile::prove_header`] with these sums.
    ///
    /// # Errors
    /// `Corrupt` naming the file; `Io`.
    pub fn prove_header_with(&self, vm: &VmName, slot: &Slot, sums: &LayerSums) -> Result<()> {
        let key = VmKeys::new(vm)?.layer(slot)?;
        let summary = sums.summary();
        let file_bytes = self.file.size_bytes();
        if summary.layer_bytes != file_bytes || file_bytes < CLUSTER.size_bytes() {
            return Err(Error::corrupt(
                "a layer has another size than its sums record",
                summary.layer_bytes,
                file_bytes,
            )
            .at_path(key.as_str())
            .advise(FROM_COPY));
        }
        if let Some((cluster, stated)) = summary.metadata.first() {
            prove_cluster(self.file.as_ref(), *cluster, stated).at_path(key.as_str())?;
        }
        Ok(())
    }
}

/// Proves one cluster of a layer's metadata; cluster 0 is the header.
///
/// # Errors
/// `Corrupt` naming the offset; `Io`.
pub(super) fn prove_cluster(
    file: &dyn ReadAt,
    cluster: HostCluster,
    stated: &Digest,
) -> Result<()> {
    let offset = cluster.0.saturating_mul(CLUSTER.size_bytes());
    let mut bytes = vec![0; usize_from_u64(CLUSTER.size_bytes())];
    file.read_at(offset, &mut bytes)
        .map_err(|e| match e.kind() {
            // Only damaged sums name a cluster that the file does not have.
            ErrorKind::InvalidInput => e.with_kind(ErrorKind::Corrupt),
            _ => e,
        })?;
    let found = Digest::of(&bytes);
    if found == *stated {
        return Ok(());
    }
    Err(Error::corrupt(
        "header, tables or refcounts of a layer are damaged",
        stated,
        found,
    )
    .at_offset(offset)
    .advise(FROM_COPY))
}
