//! What is due, case by case.

use super::{
    ActionKind, RepositoryId, at, due, hours, nightly, offsite, point, policy, ran, scene, vm,
};

#[test]
fn a_backup_is_due_at_its_time_and_once_however_many_were_missed() {
    let id = RepositoryId::random();
    let mut web = vm("web01");
    web.points.push(point(at("2026-11-28T02:00:07Z")));
    let mut world = scene(&[nightly(id)], vec![web]);
    let name = world.vms[0].vm.clone();
    let all = [ActionKind::Forget, ActionKind::Copy];
    for kind in all {
        world
            .runs
            .note(ran(&name, kind, at("2026-11-28T03:30:00Z"), None));
    }
    world.vms[0].points[0]
        .copies
        .push((id, at("2026-11-28T03:00:00Z")));
    assert_eq!(due(&world, "2026-11-28T23:00:00Z"), [""; 0]);
    assert_eq!(due(&world, "2026-11-29T01:59:59Z"), [""; 0]);
    let backup = ["backup web01 since 2026-11-29T02:00:00Z"];
    assert_eq!(due(&world, "2026-11-29T02:00:00Z"), backup);
    // A failure changes nothing: the next run tries again.
    let failed = ran(
        &name,
        ActionKind::Backup,
        at("2026-11-29T02:00:00Z"),
        Some("no"),
    );
    world.runs.note(failed);
    assert_eq!(due(&world, "2026-11-29T02:15:00Z"), backup);
    // The machine was off for two nights: one backup, and the third one at its time.
    let late = due(&world, "2026-12-01T09:00:00Z");
    assert_eq!(
        late.iter().filter(|one| one.starts_with("backup")).count(),
        1
    );
    let done = ran(&name, ActionKind::Backup, at("2026-12-01T09:00:00Z"), None);
    world.runs.note(done);
    let after = due(&world, "2026-12-02T01:59:00Z");
    assert!(
        !after.iter().any(|one| one.starts_with("backup")),
        "{after:?}"
    );
    let after = due(&world, "2026-12-02T02:00:00Z");
    assert_eq!(after[0], "backup web01 since 2026-12-02T02:00:00Z");
}

#[test]
fn a_point_that_somebody_else_has_made_counts() {
    let mut web = vm("web01");
    web.points.push(point(at("2026-11-30T02:30:00Z")));
    let mut only = nightly(RepositoryId::random());
    (only.keep, only.copies) = (None, Vec::new());
    let world = scene(&[only.clone()], vec![web.clone()]);
    assert_eq!(due(&world, "2026-11-30T12:00:00Z"), [""; 0]);
    // Before: the last one was due.
    web.points[0].captured_at = at("2026-11-30T01:30:00Z");
    let world = scene(&[only.clone()], vec![web.clone()]);
    assert_eq!(
        due(&world, "2026-11-30T12:00:00Z"),
        ["backup web01 since 2026-11-30T02:00:00Z"]
    );
    // No backup is made of a VM that is copied from elsewhere.
    web.is_copied = true;
    let world = scene(&[only.clone()], vec![web]);
    assert_eq!(due(&world, "2026-11-30T12:00:00Z"), [""; 0]);
    // Without a command it is due, and cannot be done.
    only.command.clear();
    let world = scene(&[only], vec![vm("web01")]);
    let plan = world.plan(at("2026-11-30T12:00:00Z"));
    assert!(plan[0].blocked.as_ref().unwrap().contains("has no command"));
}

/// The clock was wrong by a year and is right again: nothing waits for a year.
#[test]
fn times_in_the_future_put_nothing_off() {
    let id = RepositoryId::random();
    let mut web = vm("web01");
    web.points.push(point(at("2027-11-30T02:00:00Z")));
    web.points[0].checked_at = Some(at("2027-11-30T04:00:00Z"));
    web.hidden_layers = 1;
    let mut world = scene(&[nightly(id)], vec![web]);
    world.targets.push(offsite(id));
    let name = world.vms[0].vm.clone();
    for kind in ActionKind::ALL {
        world
            .runs
            .note(ran(&name, kind, at("2027-11-30T03:00:00Z"), None));
    }
    let now = "2026-11-30T12:00:00Z";
    assert_eq!(
        due(&world, now),
        [
            "backup web01 since 2026-11-30T02:00:00Z",
            "copy web01 since 2026-11-30T12:00:00Z",
            "verify web01 since 2026-11-30T12:00:00Z",
        ]
    );
    // A backup of now is the last one.
    world.vms[0].points.push(point(at(now)));
    let done = due(&world, "2026-11-30T12:15:00Z");
    assert_eq!(done[0], "forget web01 since 2026-11-30T12:00:00Z");
}

#[test]
fn retention_runs_when_points_or_copies_are_new_and_once_a_day() {
    let id = RepositoryId::random();
    let mut only = nightly(id);
    (only.schedule, only.verify_every_seconds) = (None, None);
    only.command.clear();
    let mut web = vm("web01");
    web.points.push(point(at("2026-11-28T02:00:00Z")));
    let mut world = scene(&[only], vec![web]);
    world.targets.push(offsite(id));
    let name = world.vms[0].vm.clone();
    assert_eq!(
        due(&world, "2026-11-28T02:10:00Z"),
        ["forget web01 since 2026-11-28T02:00:00Z"]
    );
    world.runs.note(ran(
        &name,
        ActionKind::Forget,
        at("2026-11-28T02:10:00Z"),
        None,
    ));
    assert_eq!(due(&world, "2026-11-28T02:30:00Z"), [""; 0]);
    world.vms[0].points[0]
        .copies
        .push((id, at("2026-11-28T03:00:00Z")));
    assert_eq!(
        due(&world, "2026-11-28T03:15:00Z"),
        ["forget web01 since 2026-11-28T03:00:00Z"]
    );
    world.runs.note(ran(
        &name,
        ActionKind::Forget,
        at("2026-11-28T03:15:00Z"),
        None,
    ));
    assert_eq!(due(&world, "2026-11-29T03:14:00Z"), [""; 0]);
    assert_eq!(
        due(&world, "2026-11-29T03:15:00Z"),
        ["forget web01 since 2026-11-29T03:15:00Z"]
    );
    // Merging follows what was forgotten, and happens once.
    world.vms[0].hidden_layers = 2;
    let merge = ["merge web01 since 2026-11-28T03:15:00Z"];
    assert_eq!(due(&world, "2026-11-28T03:16:00Z"), merge);
    world.runs.note(ran(
        &name,
        ActionKind::Merge,
        at("2026-11-28T03:16:00Z"),
        None,
    ));
    assert_eq!(due(&world, "2026-11-28T03:30:00Z"), [""; 0]);
    // A chain that is too deep is merged when it has grown.
    world.vms[0].depth = Some(501);
    assert_eq!(due(&world, "2026-11-28T03:30:00Z"), [""; 0]);
    world.vms[0].points.push(point(at("2026-11-28T03:20:00Z")));
    world.vms[0].points[1]
        .copies
        .push((id, at("2026-11-28T03:20:00Z")));
    let plan = world.plan(at("2026-11-28T03:30:00Z"));
    assert_eq!(plan.last().unwrap().action, ActionKind::Merge);
    assert!(plan.last().unwrap().at_any_price);
}

#[test]
fn a_copy_is_due_after_its_time_and_to_the_repository_that_is_meant() {
    let id = RepositoryId::random();
    let mut only = nightly(id);
    (only.schedule, only.verify_every_seconds, only.keep) = (None, None, None);
    only.command.clear();
    let mut web = vm("web01");
    web.points.push(point(at("2026-11-28T02:00:00Z")));
    web.points.push(point(at("2026-11-29T02:00:00Z")));
    let mut world = scene(&[only], vec![web]);
    world.targets.push(offsite(id));
    assert_eq!(
        due(&world, "2026-11-28T02:59:59Z"),
        ["copy web01 since 2026-11-28T02:59:59Z"]
    );
    world.vms[0].points.pop();
    assert_eq!(due(&world, "2026-11-28T02:59:59Z"), [""; 0]);
    assert_eq!(
        due(&world, "2026-11-28T03:00:00Z"),
        ["copy web01 since 2026-11-28T03:00:00Z"]
    );
    let blocked = |world: &super::Scene| {
        let plan = world.plan(at("2026-11-28T03:00:00Z"));
        plan[0].blocked.clone().unwrap_or_default()
    };
    assert_eq!(blocked(&world), "");
    world.targets[0].id = RepositoryId::random();
    assert!(blocked(&world).contains("has the id"));
    world.targets.clear();
    assert!(blocked(&world).contains("no repository is named offsite"));
    world.own_id = Some(id);
    assert_eq!(blocked(&world), "offsite is this repository");
    // A damaged point is not copied.
    world.vms[0].points[0].is_damaged = true;
    assert_eq!(due(&world, "2026-11-28T03:00:00Z"), [""; 0]);
}

#[test]
fn each_point_is_verified_in_its_interval() {
    let mut only = nightly(RepositoryId::random());
    (only.schedule, only.keep) = (None, None);
    only.command.clear();
    only.copies.clear();
    let mut web = vm("web01");
    web.points.push(point(at("2026-10-01T00:00:00Z")));
    web.points.push(point(at("2026-11-20T00:00:00Z")));
    let mut world = scene(&[only], vec![web]);
    assert_eq!(
        due(&world, "2026-10-30T23:59:59Z").len(),
        1,
        "the second point is of the future"
    );
    world.vms[0].points[1].committed_at = at("2026-10-02T00:00:00Z");
    assert_eq!(due(&world, "2026-10-30T23:59:59Z"), [""; 0]);
    assert_eq!(
        due(&world, "2026-10-31T00:00:00Z"),
        ["verify web01 since 2026-10-31T00:00:00Z"]
    );
    world.vms[0].points[0].checked_at = Some(at("2026-10-31T01:00:00Z"));
    assert_eq!(due(&world, "2026-10-31T12:00:00Z"), [""; 0]);
    assert_eq!(
        due(&world, "2026-11-01T00:00:00Z"),
        ["verify web01 since 2026-11-01T00:00:00Z"]
    );
}

#[test]
fn the_policy_of_a_vm_itself_wins_and_two_policies_forget_nothing() {
    let mut weekly = policy("weekly", &["*01"]);
    weekly.keep = Some(crate::repo::sidecar::policy::Keeping {
        last: 1,
        ..Default::default()
    });
    let mut daily = nightly(RepositoryId::random());
    (daily.schedule, daily.verify_every_seconds) = (None, None);
    daily.command.clear();
    daily.copies.clear();
    let mut web = vm("web01");
    web.points.push(point(at("2026-11-28T02:00:00Z")));
    let mut world = scene(&[daily, weekly], vec![web]);
    let now = "2026-11-28T12:00:00Z";
    assert_eq!(due(&world, now), [""; 0]);
    let problems = |world: &super::Scene| world.standings(at(now))[0].problems.clone();
    assert_eq!(problems(&world).len(), 1);
    assert!(
        problems(&world)[0].starts_with("the policies nightly, weekly all fit it: none forgets")
    );
    world.vms[0].own_policy = Some("WEEKLY".parse().unwrap());
    assert_eq!(world.plan(at(now))[0].policy.as_str(), "weekly");
    assert_eq!(problems(&world), [""; 0]);
    // A policy that is gone is not replaced by those whose patterns fit.
    world.vms[0].own_policy = Some("gold".parse().unwrap());
    assert_eq!(due(&world, now), [""; 0]);
    assert_eq!(
        problems(&world),
        ["its own policy gold does not apply: there is none of that name"]
    );
    // What cannot be read is left alone.
    world.vms[0].own_policy = None;
    world.terms.pop();
    assert_eq!(due(&world, now).len(), 1);
    world.vms[0].unreadable = Some("damaged".to_owned());
    assert_eq!(due(&world, now), [""; 0]);
}

#[test]
fn a_run_has_its_order() {
    let id = RepositoryId::random();
    let (mut a, mut b) = (vm("web01"), vm("web02"));
    for (vm, day) in [
        (&mut a, "2026-10-02T02:00:00Z"),
        (&mut b, "2026-10-01T02:00:00Z"),
    ] {
        vm.points.push(point(at(day)));
        vm.hidden_layers = 1;
        vm.depth = Some(600);
    }
    let mut world = scene(&[nightly(id)], vec![a, b]);
    world.targets.push(offsite(id));
    let plan = world.plan(at("2026-11-30T12:00:00Z"));
    let order: Vec<String> = plan
        .iter()
        .map(|one| format!("{} {}", one.action.as_str(), one.vm))
        .collect();
    // Of each kind, what waits for longest comes first.
    let expected = ActionKind::ALL
        .iter()
        .flat_map(|kind| ["web02", "web01"].map(|vm| format!("{} {vm}", kind.as_str())));
    assert_eq!(order, expected.collect::<Vec<_>>());
    // Nothing was due before there was a policy.
    let created = at("2026-11-30T00:00:00Z");
    world.terms[0].created_at = created;
    let since = world.plan(at("2026-11-30T12:00:00Z"));
    assert!(
        since.iter().all(|one| one.due_since == created),
        "{since:?}"
    );
    assert_eq!(hours(1).as_secs(), 3_600);
}

/// Times that no clock shows, as a file from elsewhere may have them.
#[test]
fn the_ends_of_the_calendar_are_no_panic() {
    use super::Timestamp;
    let id = RepositoryId::random();
    for edge in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
        for schedule in ["hourly", "daily 02:00", "weekly sun 02:00", "every 7h"] {
            let mut policy = nightly(id);
            policy.schedule = Some(schedule.to_owned());
            policy.rpo_seconds = Some(8 * 86_400);
            policy.verify_every_seconds = Some(100 * 366 * 86_400);
            policy.copies[0].after_seconds = 100 * 366 * 86_400;
            policy.created_at = edge;
            let mut web = vm("web01");
            web.points = [Timestamp::MAX, Timestamp::MIN, at("2026-11-30T02:00:00Z")]
                .map(point)
                .into();
            web.points[0].checked_at = Some(Timestamp::MIN);
            web.points[1].copies.push((id, Timestamp::MAX));
            web.hidden_layers = usize::MAX;
            web.depth = Some(u32::MAX);
            let mut world = scene(&[policy], vec![web]);
            let name = world.vms[0].vm.clone();
            for kind in ActionKind::ALL {
                world.runs.note(ran(&name, kind, edge, None));
            }
            for now in [Timestamp::MIN, at("2026-11-30T12:00:00Z"), Timestamp::MAX] {
                let plan = world.plan(now);
                assert!(plan.iter().all(|one| one.due_since <= now), "{plan:?}");
                assert_eq!(world.standings(now).len(), 1);
            }
        }
    }
}
