//! The NBD server: exports restore points for reading, and disks of open sessions for writing. It handles
//! only the protocol, not storage.
//!
//! The protocol is fixed newstyle as in [`crate::nbd::proto`]; [`Exports`] defines the meaning of export
//! names.
//!
//! # Invariants
//! - Only NBD_CMD_DISC finishes a disk of a session. Any other end of a connection (a dead client, a protocol
//!   error, a server that shuts down) drops its [`crate::ingest::Connection`] without finishing the disk.
//! - When a client sees the connection closed after its DISC, the session has recorded that the disk is
//!   finished, and the record survives a restart of the daemon.
//! - An export is the object that was opened: a connection reads, writes and describes only this object, even
//!   when its name later refers to another.
//! - No input from a client can end more than its own connection.
//! - Over TCP the server answers only STARTTLS and ABORT before TLS, and ignores afterwards everything that
//!   came before it.
//! - The payload of a WRITE is received into the session's buffer and used there, without a copy.
//!
//! # Concurrency
//! For each connection one task receives requests and one sends replies. Those of a connection that writes
//! run on a thread of its own, which executes writes itself where that is faster; every other request runs on
//! a blocking thread, as many at once as [`ServerLimits`] allow. A request holds its share of the bytes in
//! flight, of the connection and of the server, from before its payload is received until its reply is sent.
//! So the server stops reading from a client that does not take its replies, and such a client takes no more
//! memory.
//!
//! # Why
//! FAST_ZERO succeeds only where the disk reads as zero already. Zeroing a whole disk would be fast as well,
//! but a client that does so before it copies would make all of the parent's data appear changed.

mod check;
mod connection;
mod context;
mod context_option;
mod export;
mod handshake;
mod in_flight;
mod inline;
mod limit;
mod listen;
mod lobby;
mod meta_context;
mod redacted;
mod reply;
mod secure;
mod service;
mod step;
mod stream;
mod thread;
mod work;

pub use crate::access::Caller;
pub use crate::nbd::proto::option::ExportInfo;
pub use export::{Content, Export, Exports, Opening};
pub use limit::ServerLimits;
pub use listen::{Guests, Security, Server, serve_client};
pub use meta_context::{ContextExtent, ContextSource, MetaContexts};
pub use redacted::Redacted;
pub use service::Service;
