//! Sidecars: the JSON files beside the layers. Facts for people and programs, in an open format.
//!
//! # Invariants
//! - Each has a `schema` number; a file with a newer number is refused.
//! - Each carries a BLAKE3 of itself, which is checked when it is read ([`seal`]).
//! - Members that this release does not know are kept when a file is rewritten: in every object, in their
//!   order, numbers with all their digits (`serde_json` therefore keeps numbers as text, which changes only
//!   the spelling of an exponent).

pub mod arriving;
pub mod checks;
pub mod copied;
pub mod hidden;
pub mod index;
mod member;
mod plain;
pub mod point;
pub mod policy;
pub mod policy_run;
pub mod retained;
pub mod seal;
pub mod session;
pub mod state;
#[cfg(test)]
mod tests;
mod unknown;
pub mod vm;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use unknown::Unknown;

use crate::error::{Error, Result};

/// LIMIT: largest sidecar in bytes. An index of 100,000 points with four disks has about 100 MB.
pub const SIDECAR_BYTES_MAX: u64 = 256 << 20;

/// A JSON file with a schema number.
pub trait Sidecar: Serialize + DeserializeOwned {
    /// Its name in messages.
    const WHAT: &'static str;
    /// The schema that this release writes and the newest that it reads.
    const SCHEMA: u32;

    /// Decodes an object that has each known member once, and no others; `None` when the general parser must
    /// decide.
    fn parse_plain(_object: &[u8]) -> Option<Self> {
        None
    }
}

#[derive(Deserialize)]
struct SchemaOnly {
    schema: u32,
}

/// Decodes a sidecar.
///
/// # Errors
/// `Corrupt` when it is empty, cut or malformed; `Unsupported` when it is newer than this release.
pub fn parse<T: Sidecar>(bytes: &[u8]) -> Result<T> {
    if bytes.is_empty() {
        return Err(Error::corrupt(
            format!("the {} is empty", T::WHAT),
            "JSON",
            "0 bytes",
        ));
    }
    let object = seal::open(bytes, T::WHAT)?;
    if let Some(plain) = T::parse_plain(&object) {
        return Ok(plain);
    }
    member::check(&object, T::WHAT)?;
    let broken = |e: serde_json::Error| {
        let found = format!("{e}");
        Error::corrupt(
            format!("the {} cannot be read", T::WHAT),
            format!("JSON with the fields of schema {}", T::SCHEMA),
            found,
        )
    };
    let SchemaOnly { schema } = serde_json::from_slice(&object).map_err(broken)?;
    if schema > T::SCHEMA {
        return Err(Error::unsupported(format!(
            "the {} has schema {schema}, this release reads up to {}",
            T::WHAT,
            T::SCHEMA
        ))
        .advise("use the release that wrote it, or a newer one"));
    }
    serde_json::from_slice(&object).map_err(broken)
}

/// Decodes a part of a sealed sidecar: `P` has the wanted members. `None` when [`parse`] must decide.
pub(super) fn parse_part<T: Sidecar, P: DeserializeOwned>(bytes: &[u8]) -> Option<P> {
    if !seal::is_sealed(bytes) {
        return None;
    }
    let object = seal::open(bytes, T::WHAT).ok()?;
    let SchemaOnly { schema } = serde_json::from_slice(&object).ok()?;
    (schema <= T::SCHEMA).then(|| serde_json::from_slice(&object).ok())?
}

/// Encodes a sidecar: indented for people, with a newline at the end, and with its own hash.
///
/// # Errors
/// None in practice.
pub fn encode<T: Sidecar>(sidecar: &T) -> Result<Vec<u8>> {
    let object = serde_json::to_vec_pretty(sidecar)
        .map_err(|e| Error::invalid(format!("the {} cannot be encoded", T::WHAT)).caused_by(e))?;
    Ok(seal::seal(object))
}
