//! The NBD protocol: what both sides share, TLS, the client, and the server. Four modules on two floors.

pub mod client;
pub mod proto;
pub mod server;
