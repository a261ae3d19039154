//! The file of the access table where none is named.

use std::path::{Path, PathBuf};

use crate::sys::account;

/// Name of the file.
const FILE: &str = "access.toml";

/// The directory for the whole machine.
pub(super) const SYSTEM: &str = "/etc/restorefs";

/// Variable that names the file.
const OVERRIDE: &str = "RESTOREFS_ACCESS";

/// Variable that names the directory of all such files, as of the names of repositories.
const OVERRIDE_DIR: &str = "RESTOREFS_CONFIG_DIR";

/// The user of the daemon in a package.
const SERVICE_USER: &str = "restorefs";

/// The file: `$RESTOREFS_ACCESS`; `access.toml` in `$RESTOREFS_CONFIG_DIR`; for root and the user
/// `restorefs` `/etc/restorefs/access.toml`; for others `$XDG_CONFIG_HOME/restorefs/access.toml`
/// (`~/.config` by default). A variable counts when its path is absolute.
#[must_use]
pub fn default_file() -> PathBuf {
    let absolute = |name: &str| {
        let path = std::env::var_os(name).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    if let Some(file) = absolute(OVERRIDE) {
        return file;
    }
    if let Some(dir) = absolute(OVERRIDE_DIR) {
        return dir.join(FILE);
    }
    let system = Path::new(SYSTEM).join(FILE);
    let user = rustix::process::geteuid();
    let is_service =
        || matches!(account::user_id(SERVICE_USER), Ok(Some(id)) if id == user.as_raw());
    if user.is_root() || is_service() {
        return system;
    }
    let own = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
    own.map_or(system, |dir| dir.join("restorefs").join(FILE))
}
