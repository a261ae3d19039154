//! Programs that tests compare with. One that is missing skips the test, or fails it where `CI_REQUIRE=1`.

use std::process::{Command, Output};

/// Whether a program can be started; prints `SKIP` when not.
pub(crate) fn has(tool: &str) -> bool {
    let is_there = Command::new(tool).arg("--version").output().is_ok();
    if !is_there {
        assert!(
            std::env::var_os("CI_REQUIRE").is_none_or(|value| value != "1"),
            "{tool} is missing"
        );
        println!("SKIP: {tool}");
    }
    is_there
}

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
