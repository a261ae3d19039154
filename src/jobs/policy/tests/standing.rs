//! Whether policies are met, case by case.

use super::{ActionKind, RepositoryId, Scene, at, nightly, offsite, point, ran, scene, vm};
use crate::jobs::policy::{Amount, Target};
use crate::repo::sidecar::policy::Requirement;

fn world(id: RepositoryId) -> Scene {
    let mut web = vm("web01");
    web.points.push(point(at("2026-11-28T02:00:00Z")));
    let mut world = scene(&[nightly(id)], vec![web, vm("mail")]);
    world.targets.push(offsite(id));
    world
}

fn problems(world: &Scene, now: &str) -> Vec<String> {
    let standings = world.standings(at(now));
    // A VM without a policy has no standing.
    assert_eq!(standings.len(), 1);
    standings[0].problems.clone()
}

#[test]
fn the_rpo_is_the_age_of_the_last_point() {
    let id = RepositoryId::random();
    let mut world = world(id);
    let name = world.vms[0].vm.clone();
    world.vms[0].points[0]
        .copies
        .push((id, at("2026-11-28T03:00:00Z")));
    world.runs.note(ran(
        &name,
        ActionKind::Forget,
        at("2026-11-28T04:00:00Z"),
        None,
    ));
    assert_eq!(problems(&world, "2026-11-29T04:00:00Z"), [""; 0]);
    assert_eq!(
        problems(&world, "2026-11-29T04:00:01Z"),
        ["no point of the last 26h"]
    );
    // A point of the future is new.
    assert_eq!(problems(&world, "2026-11-27T00:00:00Z"), [""; 0]);
    world.vms[0].points.clear();
    assert_eq!(problems(&world, "2026-11-28T04:00:01Z"), ["no point"]);
    // A failure is shown, and is no problem before something is late.
    world.vms[0].points.push(point(at("2026-11-28T02:00:00Z")));
    world.runs.note(ran(
        &name,
        ActionKind::Copy,
        at("2026-11-28T04:00:00Z"),
        Some("not mounted"),
    ));
    let standing = &world.standings(at("2026-11-28T05:00:00Z"))[0];
    assert_eq!(standing.failures, ["copy to offsite: not mounted"]);
    assert!(standing.is_met());
    assert_eq!(standing.copies_due, 1);
}

#[test]
fn what_is_due_for_more_than_a_day_is_late() {
    let id = RepositoryId::random();
    let mut world = world(id);
    world.terms[0].rpo = None;
    world.terms[0].schedule = None;
    world.terms[0].keep = None;
    assert_eq!(problems(&world, "2026-11-29T03:00:00Z"), [""; 0]);
    assert_eq!(
        problems(&world, "2026-11-29T03:00:01Z"),
        ["1 point without a copy at offsite, due for 24h"]
    );
    // A repository that is not the one that is meant is told at once.
    world.targets.clear();
    let told = problems(&world, "2026-11-28T03:00:00Z");
    assert!(
        told[0].ends_with(
            "no repository is named offsite; name it with: restorefs repo add offsite DIR"
        ),
        "{told:?}"
    );
    world.terms[0].copies.clear();
    assert_eq!(problems(&world, "2026-12-29T02:00:00Z"), [""; 0]);
    assert_eq!(
        problems(&world, "2026-12-29T02:00:01Z"),
        ["1 point not verified in time, for 24h"]
    );
    world.terms[0].verify_every = None;
    world.terms[0].keep = Some(crate::jobs::retention::Rules::default());
    assert_eq!(problems(&world, "2026-11-29T02:00:00Z"), [""; 0]);
    assert_eq!(
        problems(&world, "2026-11-29T02:00:01Z"),
        ["retention has been due for 24h"]
    );
}

#[test]
fn copies_are_counted_with_their_media_and_places() {
    let (id, own, third) = (
        RepositoryId::random(),
        RepositoryId::random(),
        RepositoryId::random(),
    );
    let mut world = world(id);
    (
        world.terms[0].rpo,
        world.terms[0].schedule,
        world.terms[0].keep,
    ) = (None, None, None);
    world.own_id = Some(own);
    let amount = |world: &Scene| {
        world.standings(at("2026-11-28T12:00:00Z"))[0]
            .copies
            .unwrap()
    };
    let is = |copies, media, offsite| Amount {
        copies,
        media,
        offsite,
    };
    assert_eq!(amount(&world), is(1, 0, 0));
    let named = |name: &str, id, media: &str, offsite| Target {
        name: name.parse().unwrap(),
        id,
        media: Some(media.to_owned()),
        offsite,
    };
    world.targets.push(named("main", own, "disk", false));
    assert_eq!(amount(&world), is(1, 1, 0));
    world.vms[0].points[0]
        .copies
        .push((id, at("2026-11-28T03:00:00Z")));
    assert_eq!(amount(&world), is(2, 2, 1));
    // A second name of a repository is no second copy, and a medium is one in any spelling.
    world.targets.push(named("again", id, "NAS", true));
    assert_eq!(amount(&world), is(2, 2, 1));
    // One that has no name on this machine is a copy of which no more is known.
    world.vms[0].points[0]
        .copies
        .push((third, at("2026-11-28T03:00:00Z")));
    assert_eq!(amount(&world), is(3, 2, 1));

    let met = |world: &Scene, now: &str| world.standings(at(now))[0].copies_met;
    assert_eq!(met(&world, "2026-11-28T12:00:00Z"), None);
    world.terms[0].require = Some(Requirement {
        copies: 3,
        media: 2,
        offsite: 1,
    });
    assert_eq!(met(&world, "2026-11-28T12:00:00Z"), Some(true));
    world.vms[0].points[0].copies.pop();
    assert_eq!(met(&world, "2026-11-28T12:00:00Z"), Some(false));
    // A point whose copy is awaited is not judged yet; the one before it is.
    world.vms[0].points[0]
        .copies
        .push((third, at("2026-11-28T03:00:00Z")));
    world.vms[0].points.push(point(at("2026-11-29T02:00:00Z")));
    assert_eq!(met(&world, "2026-11-30T03:00:00Z"), Some(true));
    assert_eq!(met(&world, "2026-11-30T03:00:01Z"), Some(false));
}
