//! The user who owns a repository puts other files of the machine into it: root's commands neither show nor change them.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::kit::need::is_root;
use crate::kit::place::Place;

/// Whoever owns the repository.
const DAEMON: u32 = 65_534;
const SECRET: &str = "SECRETSECRETSECRET";

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        } else {
            found.push(path.clone());
        }
        std::os::unix::fs::lchown(&path, Some(DAEMON), Some(DAEMON)).unwrap();
    }
}

/// Content, mode, owner and group.
fn facts(path: &Path) -> (Vec<u8>, u32, u32, u32) {
    let meta = path.metadata().unwrap();
    (
        std::fs::read(path).unwrap(),
        meta.mode(),
        meta.uid(),
        meta.gid(),
    )
}

#[test]
fn root_changes_no_file_that_the_repositorys_owner_has_linked_into_it() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    place.disk("a.raw", 4, 1);
    place.disk("b.raw", 4, 2);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "one"]);
    let repo = place.repo();
    let (mut files, spare) = (Vec::new(), place.path("spare"));
    walk(&repo, &mut files);
    std::os::unix::fs::chown(&repo, Some(DAEMON), Some(DAEMON)).unwrap();
    std::fs::rename(&repo, &spare).unwrap();
    assert!(files.len() > 10, "{files:?}");
    let secret = place.path("secret");
    for file in &files {
        for is_hard in [true, false] {
            let copied = std::process::Command::new("cp")
                .arg("-a")
                .args([&spare, &repo])
                .status();
            assert!(copied.unwrap().success());
            std::fs::write(&secret, SECRET.repeat(4000)).unwrap();
            std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
            let before = facts(&secret);
            std::fs::remove_file(file).unwrap();
            if is_hard {
                std::fs::hard_link(&secret, file).unwrap();
            } else {
                symlink(&secret, file).unwrap();
            }
            for command in [
                &["backup", "web01", "vda=b.raw", "--point", "two"][..],
                &["rebuild-catalog"],
                &["info", "web01@one"],
                &["restore", "web01@one", "vda", "out.raw", "--force"],
            ] {
                let output = place.run(command);
                let said = [output.stdout, output.stderr].concat();
                let said = String::from_utf8_lossy(&said);
                assert!(
                    !said.contains(SECRET) && !said.contains("panicked"),
                    "{said}"
                );
                assert_eq!(
                    facts(&secret),
                    before,
                    "{} {command:?}: {said}",
                    file.display()
                );
            }
            let _ = std::fs::remove_file(place.path("out.raw"));
            std::fs::remove_file(&secret).unwrap();
            std::fs::remove_dir_all(&repo).unwrap();
        }
    }
}
