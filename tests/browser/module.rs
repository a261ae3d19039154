//! The packages that drive the browser, as `package-lock.json` names them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kit::need::need;

/// Installs the packages where they are missing; returns the directory of `node_modules`.
pub(crate) fn installed() -> Option<PathBuf> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser");
    std::fs::create_dir_all(&to).unwrap();
    let lock = std::fs::read(from.join("package-lock.json")).unwrap();
    // Written last: what was broken off is installed again.
    let done = to.join("installed.json");
    if std::fs::read(&done).is_ok_and(|installed| installed == lock) {
        return Some(to);
    }
    for file in ["package.json", "package-lock.json", ".npmrc"] {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
    let output = Command::new("npm")
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .current_dir(&to)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let is_there = output.status.success();
    if is_there {
        std::fs::write(&done, lock).unwrap();
    }
    need(
        is_there,
        &format!("packages for the browser (npm ci): {said}"),
    )
    .then_some(to)
}
