//! Random identities (UUID version 4) of repositories, VMs, points, layers and sessions.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::schema;
use crate::error::{Error, Result};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Creates a random id.
            #[must_use]
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }
            /// The id with these 16 bytes (network order).
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
            /// The 16 bytes (network order).
            #[must_use]
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.into_bytes()
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                schema::uuid()
            }
        }

        impl utoipa::ToSchema for $name {}

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                Uuid::parse_str(text)
                    .map(Self)
                    .map_err(|e| Error::invalid("not a UUID").caused_by(e))
            }
        }
    };
}

id!(
    /// Identity of a repository.
    RepositoryId
);
id!(
    /// Identity of a VM within a repository.
    VmId
);
id!(
    /// Identity of a restore point.
    PointId
);
id!(
    /// Identity of a layer's exact bytes (QCOW2 header extension): a merged layer gets a new one.
    LayerId
);
id!(
    /// Identity of an ingest session.
    SessionId
);
id!(
    /// Identity of a job in the history.
    JobId
);
