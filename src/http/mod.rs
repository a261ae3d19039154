//! HTTP: a REST API, web pages, and metrics, over the same operations as every other door.
//!
//! # Invariants
//! - Nothing is decided here: rights, defaults and errors are those of `service`. This module is a codec.
//! - A request is let in before anything of it is executed: its Host is one of ours, its caller is known, and, where it changes
//!   something, no foreign page has sent it.
//! - Bytes of guests never run in a browser: they are attachments, or escaped text, or pictures of four known types.
//! - A download that meets an error breaks its connection; it never ends as if it were whole.
//!
//! # Concurrency
//! Connections are tasks of the runtime. What reads a repository runs on blocking threads, of which there is a bounded number. A download
//! has one such thread, which a slow reader cannot hold for ever.

mod activity;
mod api;
mod body;
mod call;
pub mod client;
mod connection;
mod content;
mod cookie;
mod credential;
mod download;
mod fault;
mod guard;
mod host;
mod login;
mod metric;
mod name;
mod openapi;
mod origin;
mod page;
mod patience;
mod peer;
mod place;
mod query;
mod range;
mod reply;
mod router;
mod server;
mod site;
mod standing;

pub use host::check_all as check_hosts;
pub use login::LoginCode;
pub use openapi::text as openapi_text;
pub use server::{Listening, Server};
pub use site::{Site, SiteOptions};
