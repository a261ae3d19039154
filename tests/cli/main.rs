//! The program as users run it: every command, bad input, and exit codes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "patterns are made of the low bytes of numbers"
)]
#![expect(clippy::print_stdout, reason = "what is skipped is said")]

mod archive;
mod assets;
mod attribute;
mod backup;
mod bad_input;
mod believed;
mod broken;
mod bytes;
mod cancel;
mod changed_only;
mod complete;
mod confined;
mod copied;
mod copy;
mod copy_fire;
mod daemon;
mod filesystem;
mod follow;
mod forget;
mod format;
mod help;
mod hold;
mod jobs;
mod joined;
#[path = "../kit/mod.rs"]
mod kit;
mod life;
mod linked;
mod listing;
mod merge;
mod older;
mod openapi;
mod policy;
mod policy_copies;
mod policy_input;
mod quickstart;
mod remark;
mod rename;
mod repair;
mod repo;
mod restore;
mod restore_changed;
mod resume;
mod share;
mod space;
mod status;
mod target;
mod task;
mod terminal;
mod token;
mod tool;
mod unread;
mod verify;
