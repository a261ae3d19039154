//! A mount by an ordinary user: that user owns all files, and the guest's owners and modes are in xattrs.

use std::os::unix::fs::MetadataExt;

use restorefs::chain::{Pool, PoolLimits};
use restorefs::fuse::{MountOptions, mount};
use restorefs::repo::Repository;
use restorefs::tree::Tree;

use crate::world::{World, ready, run, text, unmount};

#[test]
fn all_is_owned_by_who_mounts() {
    if !ready() {
        return;
    }
    let world = World::with_guest();
    let options = MountOptions::default();
    // The view of user 1000; root mounts it here, because the test cannot rely on a setuid helper.
    let view = options.tree_options(1000, 1001, false);
    assert!(view.single_user);
    let repository = Repository::open(&world.repository()).unwrap();
    let pool = Pool::new(PoolLimits::default());
    let tree = Tree::new(repository.into(), pool, view).unwrap();
    let mounted = mount(&tree, &world.path("mnt"), &options).unwrap();
    for path in ["etc/deep", "etc/deep/big", "setuid", "many"] {
        let metadata = std::fs::metadata(world.guest(path)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (1000, 1001), "{path}");
        assert_eq!(metadata.mode() & 0o400, 0o400, "{path}");
    }
    let said = run(
        "getfattr",
        &[
            "-d",
            "-m",
            "user.restorefs",
            text(&world.guest("etc/deep/big")),
        ],
    );
    for line in [
        "user.restorefs.uid=\"1234\"",
        "user.restorefs.gid=\"5678\"",
        "user.restorefs.mode=\"0664\"",
    ] {
        assert!(said.contains(line), "{said}");
    }
    unmount(&mounted);
}
