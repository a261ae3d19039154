//! Man pages and completions, as packages have them.

use std::path::Path;
use std::sync::OnceLock;

#[allow(dead_code, unreachable_pub, reason = "it is a program, too")]
#[path = "../../src/cli/assets.rs"]
mod program;

/// The directory in which they are written once.
pub(crate) fn assets() -> &'static Path {
    static MADE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        program::write(dir.path()).unwrap();
        dir
    });
    made.path()
}
