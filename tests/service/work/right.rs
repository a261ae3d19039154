//! Rights of works, with callers that no control socket has.

use std::sync::Arc;

use restorefs::access::{Caller, Door, LiveAccess, Origin};
use restorefs::chain::{Pool, PoolLimits};
use restorefs::clock::SystemClock;
use restorefs::error::{Error, ErrorKind};
use restorefs::ingest::{Engine, Registry};
use restorefs::repo::register::Registered;
use restorefs::repo::sidecar::policy::Keeping;
use restorefs::repo::{Owner, Repository};
use restorefs::service::work::ForgetRequest;
use restorefs::service::{Destination, Elsewhere, OwnedRepository, Service};
use restorefs::task::Monitor;
use restorefs::types::RepositoryName;
use serde_json::json;

use super::{CANCELLED_WITHIN, SLOW, copy, verify, vm, with_points};

/// The way to one registered repository, which nothing reaches.
struct Only(Registered);

impl Elsewhere for Only {
    fn find(&self, name: &RepositoryName) -> Result<Destination, Error> {
        match self.0.name.same_as(name) {
            true => Ok(Destination::Registered(self.0.clone())),
            false => Err(Error::not_found("no repository has that name")),
        }
    }

    fn writer(&self, _: &Arc<Repository>, _: &Monitor) -> Result<Box<dyn Service>, Error> {
        Err(Error::invalid("nothing is reached"))
    }
}

fn origin() -> Origin {
    Origin::of(Door::Command)
}

#[test]
fn who_may_only_read_gets_a_plan_and_nothing_else() {
    let place = with_points(1);
    let repository = Arc::new(Repository::open(&place.repo()).unwrap());
    let owner = Owner::open(repository, Arc::new(SystemClock), "test").unwrap();
    let engine = Engine::new(Arc::new(owner), Pool::new(PoolLimits::default()));
    let served = OwnedRepository::new(Registry::empty(engine), Vec::new(), LiveAccess::none());
    let member = served.of_caller(Caller::user(4_000_000_000), origin());
    let request = |dry_run| ForgetRequest {
        keep: Some(Keeping {
            last: 1,
            ..Keeping::default()
        }),
        dry_run,
        ..ForgetRequest::default()
    };
    assert_eq!(
        member
            .forget_by(&vm(), &request(true))
            .unwrap()
            .points
            .len(),
        1
    );
    let denied = |error: Error| assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    denied(member.forget_by(&vm(), &request(false)).unwrap_err());
    denied(member.start_verify(&verify(&json!({}))).unwrap_err());
    denied(member.copy(&copy(&json!({}))).unwrap_err());
    denied(member.copy(&copy(&json!({"dry_run": true}))).unwrap_err());
    let stranger = served.of_caller(Caller::Certified(["x".to_owned()].into()), origin());
    let hidden = stranger.start_verify(&verify(&json!({}))).unwrap_err();
    assert_eq!(hidden.kind(), ErrorKind::NotFound);

    // Another repository takes the right to administer this one, and does not exist for others.
    let manager = served.of_caller(Caller::Mount { allow_forget: true }, origin());
    place.ok(&["init", "b"]);
    let b = Repository::open(&place.path("b")).unwrap();
    let entry = Registered {
        name: "b".parse().unwrap(),
        id: b.format().repository_id,
        path: place.path("b"),
        media: None,
        offsite: false,
        file: place.path("repositories.toml"),
    };
    let unknown = manager.copy(&copy(&json!({}))).unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound, "no way to others");
    served.set_elsewhere(Arc::new(Only(entry)));
    let to_b = manager.copy(&copy(&json!({}))).unwrap_err();
    let to_c = manager.copy(&copy(&json!({"to": "c"}))).unwrap_err();
    assert_eq!(to_b.report().replace(" b", " c"), to_c.report());
    assert_eq!(to_b.kind(), ErrorKind::NotFound);

    // Who may stop it is who may start it.
    let own = served.of_caller(Caller::Owner, origin());
    let task = own
        .start_verify(&verify(&json!({"limit_bytes": SLOW})))
        .unwrap();
    assert!(!member.may_cancel(task.id));
    denied(member.cancel(task.id).unwrap_err());
    assert!(manager.may_cancel(task.id));
    manager.cancel(task.id).unwrap();
    assert!(served.works().wait(CANCELLED_WITHIN));
}
