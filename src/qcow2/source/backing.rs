//! Opens an image of a chain and its backing file, if the gate permits.

use std::sync::Arc;

use super::gate::{Gate, OpenedFile};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::qcow2::image::Image;

/// Opens an image, and its external data file if it has one.
pub(super) fn open_image(
    opened: &OpenedFile,
    gate: &dyn Gate,
) -> Result<(Image, Option<OpenedFile>)> {
    let image = Image::open(Arc::clone(&opened.file)).at_path(&opened.path)?;
    if !image.header().has_data_file() {
        return Ok((image, None));
    }
    let name = image.data_file_name().ok_or_else(|| {
        Error::new(
            ErrorKind::Corrupt,
            "the image does not name its external data file",
        )
        .at_path(&opened.path)
    })?;
    let data = gate.open_data_file(&opened.path, name)?;
    Ok((image.with_data_file(Arc::clone(&data.file)), Some(data)))
}

/// The backing file of an image, and whether it is QCOW2.
pub(super) fn open_backing(
    opened: &OpenedFile,
    image: &Image,
    gate: &dyn Gate,
) -> Result<Option<(OpenedFile, bool)>> {
    let Some(name) = image.backing_name() else {
        return Ok(None);
    };
    let advice = "record it: qemu-img rebase -u -b FILE -F FORMAT IMAGE";
    let format = image.backing_format();
    let backing = gate.open_backing(&opened.path, name, format)?;
    let is_qcow2 = match format {
        Some("qcow2") => true,
        Some("raw") => false,
        None => {
            return Err(Error::invalid(format!(
                "the image does not record the format of its backing file \"{}\"",
                name.escape_ascii()
            ))
            .at_path(&opened.path)
            .advise(advice));
        }
        Some(other) => {
            return Err(Error::unsupported(format!(
                "the backing file has the format \"{}\"",
                other.escape_debug()
            ))
            .at_path(&opened.path)
            .advise("raw and qcow2 can be read"));
        }
    };
    Ok(Some((backing, is_qcow2)))
}
