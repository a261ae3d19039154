//! A realistic guest, from `restorefs backup` to `rsync`: its tree, load, readers that are killed,
//! and hostile content.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(clippy::print_stdout, reason = "what is skipped or measured is said")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "patterns are made of the low bytes of numbers"
)]

mod content;
mod crawl;
mod hostile;
mod kernel;
#[path = "../kit/mod.rs"]
mod kit;
mod layout;
mod load;
mod process;
mod stress;
mod system;
