//! The NBD server: restore points to read, disks of open sessions to write. It knows the protocol and nothing of storage.
//!
//! The protocol is fixed newstyle as in [`crate::nbd::proto`]; what an export name means is said by [`Exports`].
//!
//! # Invariants
//! - A disk of a session is finished only by NBD_CMD_DISC: a connection that ends otherwise (a dead client, a broken
//!   protocol, a server that shuts down) drops its [`crate::ingest::Connection`] without finishing it.
//! - When a client sees the connection closed after its DISC, the session knows that the disk is finished, and so will
//!   the next daemon.
//! - An export is what was opened: a connection reads and writes that object and has contexts of no other, whatever has its name later.
//! - Whatever a client sends ends at most its own connection.
//! - Over TCP nothing but STARTTLS and ABORT is answered before TLS, and nothing that was said before it counts afterwards.
//! - The payload of a WRITE is received into the session's buffer and taken from there; no byte is copied between.
//!
//! # Concurrency
//! Per connection one task receives requests and one sends replies; each request works on a blocking thread, as many at
//! once as [`ServerLimits`] allow. A request holds its share of the bytes in flight, of the connection and of the
//! server, from before its payload is received until its reply is sent: a client that does not take its replies
//! is not read from any more, and takes no more memory.
//!
//! # Why
//! FAST_ZERO succeeds only where the disk reads as zero already. To zero a whole disk is fast for us as well, but a client that
//! does so before it copies would make all that the parent has look changed.

mod check;
mod connection;
mod context;
mod export;
mod handshake;
mod limit;
mod listen;
mod lobby;
mod meta_context;
mod reply;
mod secure;
mod service;
mod step;
mod stream;
mod work;

pub use crate::access::Caller;
pub use crate::nbd::proto::option::ExportInfo;
pub use export::{Content, Export, Exports};
pub use limit::ServerLimits;
pub use listen::{Guests, Security, Server, serve_client};
pub use meta_context::{ContextExtent, ContextSource, MetaContexts};
pub use service::Service;
