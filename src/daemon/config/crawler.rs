//! Warns when `updatedb` (locate) would walk every restore point each night: that does no harm, but
//! its index would hold the names of all guests' files many times.

use std::path::Path;

/// The configuration of plocate and mlocate (updatedb.conf(5)).
const FILE: &str = "/etc/updatedb.conf";
/// Type of the mounts.
const TYPE: &str = "fuse.restorefs";

/// The warning when this machine's `updatedb` does not exclude the mounts.
#[must_use]
pub fn remark() -> Option<String> {
    let text = std::fs::read_to_string(Path::new(FILE)).ok()?;
    (!is_pruned(&text)).then(|| {
        format!(
            "updatedb would index the files of all restore points: add {TYPE} to PRUNEFS in {FILE}"
        )
    })
}

fn is_pruned(text: &str) -> bool {
    text.lines().any(|line| {
        let value = line.trim().strip_prefix("PRUNEFS").map(str::trim_start);
        let value = value.and_then(|rest| rest.strip_prefix('='));
        value.is_some_and(|value| {
            let mut words = value.trim().trim_matches('"').split_ascii_whitespace();
            words.any(|word| word.eq_ignore_ascii_case(TYPE))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::is_pruned;

    #[test]
    fn the_type_is_looked_for_in_prunefs_alone() {
        assert!(is_pruned("PRUNEFS=\"NFS afs fuse.restorefs proc\"\n"));
        assert!(is_pruned(
            "PRUNE_BIND_MOUNTS=\"yes\"\n PRUNEFS = \"FUSE.RESTOREFS\""
        ));
        assert!(!is_pruned(
            "PRUNEFS=\"NFS fuse.sshfs\"\nPRUNEPATHS=\"/x/fuse.restorefs\""
        ));
        assert!(!is_pruned(
            "# PRUNEFS=\"fuse.restorefs\"\nPRUNEFS=\"fuse.restorefs2\""
        ));
        assert!(!is_pruned(""));
    }
}
