//! The `restorefs` program: parse, run, print one error, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    restorefs::cli::run()
}
