//! Programs that tests compare with.

use std::process::{Command, Output};

/// Runs a program, which must succeed.
pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(tool: &str, arguments: &[S]) -> Output {
    let output = Command::new(tool).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{tool} {:?}: {}{}",
        arguments.iter().map(AsRef::as_ref).collect::<Vec<_>>(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}
