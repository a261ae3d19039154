//! The NBD protocol: what both sides share, the client, and the server. Three modules on two floors.

pub mod client;
pub mod proto;
pub mod server;
