//! A repository that the program has made, and its owner in this process.

use std::path::PathBuf;
use std::sync::Arc;

use restorefs::access::{Caller, Door, LiveAccess, Origin};
use restorefs::chain::{Pool, PoolLimits};
use restorefs::clock::{Clock, ManualClock, SystemClock};
use restorefs::ingest::{Engine, Registry};
use restorefs::repo::{Owner, Repository};
use restorefs::service::exposition::{LookLimits, Scraped, expose_within};
use restorefs::service::{LocalService, OwnedRepository};
use restorefs::types::{RepositoryName, VmName};

use crate::kit::noise::noise;
use crate::kit::place::Place;
use crate::kit::prometheus::Samples;

pub(crate) const CLUSTER: usize = 65_536;
/// Clusters of each disk.
pub(crate) const CLUSTERS: usize = 16;

/// The repository's name in its series.
pub(crate) const NAME: &str = "main";

/// A look for each scrape.
pub(crate) const EAGER: LookLimits = LookLimits {
    look_age_max: std::time::Duration::ZERO,
    content_age_max: std::time::Duration::ZERO,
    patience: std::time::Duration::from_secs(60),
    vms: 20_000,
};

/// Backs up points `p<first>` to `p<first + count - 1>` of a disk of which each has one more changed cluster.
pub(crate) fn back_up(place: &Place, vm: &str, first: usize, count: usize) {
    for n in first..first + count {
        let mut bytes = noise(7, CLUSTERS * CLUSTER);
        for changed in 0..=n {
            let at = changed * CLUSTER;
            bytes[at..at + CLUSTER].copy_from_slice(&noise(100 + changed as u64, CLUSTER));
        }
        std::fs::write(place.path("a.raw"), &bytes).unwrap();
        let point = format!("p{n}");
        place.ok(&["backup", vm, "vda=a.raw", "--point", &point]);
    }
}

/// The layer files of a VM.
pub(crate) fn layers(place: &Place, vm: &str) -> Vec<PathBuf> {
    let dir = place.repo().join("vms").join(vm).join("layers");
    let all = std::fs::read_dir(dir).unwrap();
    all.map(|entry| entry.unwrap().path()).collect()
}

/// The repository of a place, owned by this process.
pub(crate) struct World {
    pub(crate) served: Arc<OwnedRepository>,
    pub(crate) clock: Arc<ManualClock>,
    name: RepositoryName,
}

impl World {
    /// Takes the lock. The clock stands still, `later` seconds after now.
    pub(crate) fn of(place: &Place, later: i64) -> Self {
        let repository = Arc::new(Repository::open(&place.repo()).unwrap());
        let clock = Arc::new(ManualClock::at(SystemClock.now().as_second() + later));
        let owner = Owner::open(repository, clock.clone(), "test").unwrap();
        let engine = Engine::new(Arc::new(owner), Pool::new(PoolLimits::default()));
        let sessions = Registry::resume(engine).unwrap();
        Self {
            served: OwnedRepository::new(sessions, Vec::new(), LiveAccess::none()),
            clock,
            name: RepositoryName::new(NAME).unwrap(),
        }
    }

    pub(crate) fn service(&self) -> LocalService {
        self.served
            .of_caller(Caller::Owner, Origin::of(Door::Command))
    }

    /// The text for a caller that may name these VMs; all without a list.
    pub(crate) fn text(&self, may_name: Option<&[&str]>, limits: &LookLimits) -> String {
        let scraped = Scraped {
            name: &self.name,
            served: &self.served,
        };
        let may = |_: &RepositoryName, vm: &VmName| {
            may_name.is_none_or(|names| names.contains(&vm.as_str()))
        };
        expose_within(&[scraped], &may, limits).unwrap()
    }

    pub(crate) fn samples(&self) -> Samples {
        Samples::parse(&self.text(None, &EAGER))
    }
}

/// The labels of the repository.
pub(crate) const REPOSITORY: [(&str, &str); 1] = [("repository", NAME)];

/// The labels of a VM.
pub(crate) const fn of_vm(vm: &str) -> [(&str, &str); 2] {
    [("repository", NAME), ("vm", vm)]
}

/// A place with `web01` (three verified points and one that is not, a policy that owes copies), `db01` (two points of which the
/// second is damaged, a policy) and `old01` (one point, no policy).
pub(crate) fn furnished() -> Place {
    let place = Place::new();
    back_up(&place, "web01", 0, 3);
    place.ok(&["verify", "web01"]);
    back_up(&place, "web01", 3, 1);
    back_up(&place, "db01", 0, 1);
    let before = layers(&place, "db01");
    back_up(&place, "db01", 1, 1);
    let mut new = layers(&place, "db01");
    new.retain(|path| !before.contains(path) && path.extension().is_some_and(|e| e == "qcow2"));
    damage(&new[0]);
    place.fails(3, &["verify", "db01"]);
    back_up(&place, "old01", 0, 1);
    let vault = place.path("vault");
    let vault = vault.to_str().unwrap();
    place.ok(&["-r", vault, "init"]);
    place.ok(&["repo", "add", "vault", vault]);
    let owed = ["policy", "add", "owed", "--vms", "web*", "--rpo", "26h"];
    place.ok(&[&owed[..], &["--copy-to", "vault"]].concat());
    place.ok(&["policy", "add", "loose", "--vms", "db*", "--rpo", "30d"]);
    place
}

/// Changes a byte of the last cluster of a layer: its data.
fn damage(layer: &std::path::Path) {
    use std::os::unix::fs::{FileExt, PermissionsExt};
    std::fs::set_permissions(layer, PermissionsExt::from_mode(0o644)).unwrap();
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(layer)
        .unwrap();
    let data = find(&std::fs::read(layer).unwrap(), &noise(101, CLUSTER)[..512]);
    let mut byte = [0];
    file.read_exact_at(&mut byte, data).unwrap();
    file.write_all_at(&[byte[0] ^ 1], data).unwrap();
}

fn find(bytes: &[u8], part: &[u8]) -> u64 {
    let at = bytes.chunks(512).position(|sector| sector == part);
    512 * at.unwrap() as u64
}
