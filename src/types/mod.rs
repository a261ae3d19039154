//! Newtypes for values that are easily confused: offsets, clusters, lengths, ids, names, digests.
//!
//! Conversions happen by method only, so that a guest offset never becomes a host offset by
//! accident.

pub mod digest;
pub mod duration;
pub mod id;
pub mod image_format;
pub mod likeness;
pub mod memory;
pub mod name;
pub mod offset;
pub mod pattern;
pub mod printable;
pub(crate) mod schema;
pub mod session_ref;
pub mod size;
pub mod sync;
pub(crate) mod text;
pub mod token;
pub mod width;

pub use digest::Digest;
pub use id::{JobId, LayerId, PointId, RepositoryId, SessionId, VmId};
pub use image_format::ImageFormat;
pub use memory::Memory;
pub use name::{DiskName, PointName, PolicyName, RepositoryName, TokenName, VmName};
pub use offset::{ClusterBits, GuestCluster, GuestOffset, HostCluster, HostOffset};
pub use session_ref::SessionRef;
pub use token::Token;
