//! Access: which caller may do what, and the record of what callers did.
//!
//! # Invariants
//! - What is not explicitly allowed is forbidden. A VM that a caller may not read does not exist for
//!   that caller.
//! - One table, the file `access.toml`, decides for certificates, users, groups and tokens. A running
//!   process follows the file ([`LiveAccess`]).
//! - A secret is stored nowhere; the table has its BLAKE3 hash.

pub mod audit;
mod authentication;
mod caller;
mod file;
mod live;
mod origin;
mod place;
mod right;
mod rights;
mod secret;
mod table;
pub mod throttle;
mod written;

pub use audit::{Act, AuditLog};
pub use caller::Caller;
pub use file::{AccessFile, NewToken};
pub use live::LiveAccess;
pub use origin::{Door, Origin};
pub use place::default_file;
pub use right::Right;
pub use rights::Rights;
pub use secret::Secret;
pub use table::{Access, Grant, Reach, TokenEntry};
pub use throttle::Throttle;
