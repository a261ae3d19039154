//! The shipped files: units that systemd accepts and that grant few rights, and the Debian package.

#![expect(clippy::print_stdout, reason = "what is skipped is said")]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[allow(dead_code, unreachable_pub, reason = "it is a program, too")]
#[path = "../../src/cli/assets.rs"]
mod assets;
mod configuration;
mod deb;
#[path = "../kit/mod.rs"]
mod kit;
mod unit;
