//! Forgetting by rules in the daemon's process.

use restorefs::error::ErrorKind;
use restorefs::service::Service;
use restorefs::service::work::{ForgetPlan, ForgetRequest};
use restorefs::types::VmName;
use serde_json::{Value, json};

use super::{client, client_of, vm, with_points};
use crate::kit::place::Place;
use crate::kit::wait::eventually;

fn forget(more: &Value) -> ForgetRequest {
    serde_json::from_value(more.clone()).unwrap()
}

fn names(place: &Place) -> Vec<String> {
    let points = place.json(&["ls", "web01"]);
    let points = points.as_array().unwrap().iter();
    points
        .map(|p| p["name"].as_str().unwrap().to_owned())
        .collect()
}

/// The same of the plan as the command line prints.
fn as_printed(plan: &ForgetPlan) -> Value {
    let plan = serde_json::to_value(plan).unwrap();
    json!({"vm": plan["vm"], "points": plan["points"], "freed_bytes": plan["freed_bytes"]})
}

#[test]
fn a_plan_is_what_is_forgotten_and_what_the_command_line_plans() {
    let place = Place::new();
    for n in 1..=5 {
        place.disk("a.raw", 8, n);
        place.ok(&["backup", "web01", "vda=a.raw", "--point", &format!("p{n}")]);
    }
    place.ok(&["keep", "web01@p2"]);
    let daemon = place.serve(&[]);
    let client = client(&place);
    let web = vm();
    let rules = |dry_run: bool| {
        forget(
            &json!({"keep": {"last": 2, "monthly": 2, "within": "0d"}, "zone": "UTC", "dry_run": dry_run}),
        )
    };
    let words = [
        "forget",
        "web01",
        "--keep-last",
        "2",
        "--keep-monthly",
        "2",
        "--time-zone",
        "UTC",
    ];
    let mut printed = place.json(&[&words[..], &["--dry-run"]].concat())["vms"][0].clone();
    printed.as_object_mut().unwrap().remove("mergeable_bytes");
    let plan = client.forget_by(&web, &rules(true)).unwrap();
    assert_eq!(as_printed(&plan), printed);
    assert_eq!((plan.forgotten.len(), plan.kept.len()), (0, 0));
    assert_eq!(names(&place).len(), 5, "a dry run changes nothing");
    let planned: Vec<_> = plan
        .points
        .iter()
        .filter(|p| !p.keep)
        .map(|p| p.point.clone())
        .collect();
    assert_eq!(
        planned.iter().map(|p| p.as_str()).collect::<Vec<_>>(),
        ["p3"]
    );
    let kept = plan
        .points
        .iter()
        .find(|point| point.point.as_str() == "p2");
    assert_eq!(kept.unwrap().reasons, ["kept by hand"]);

    // A point in use is skipped by rules, with the reason.
    let which = "p3".parse().unwrap();
    client.hold(&web, &which, "a test").unwrap();
    let skipped = client.forget_by(&web, &rules(false)).unwrap();
    assert!(skipped.forgotten.is_empty());
    assert_eq!(skipped.kept[0].problem.kind, ErrorKind::Busy.name());
    let shown = skipped
        .points
        .iter()
        .find(|p| p.point.as_str() == "p3")
        .unwrap();
    assert!(
        shown.keep && shown.reasons[0].starts_with("in use"),
        "{shown:?}"
    );
    drop(client);
    let client = client_of(&place.repo());
    let mut done = None;
    eventually("the use ends with its connection", || {
        let answer = client.forget_by(&web, &rules(false)).unwrap();
        let is_done = answer.kept.is_empty();
        done = Some(answer);
        is_done
    });
    let done = done.unwrap();
    assert_eq!(done.forgotten, planned);
    assert_eq!(as_printed(&done), as_printed(&plan));
    assert_eq!(names(&place), ["p1", "p2", "p4", "p5"]);
    let jobs = place.json(&["jobs", "web01", "--kind", "forget"]);
    assert_eq!(jobs[0]["result"], "completed");

    // What the last run has kept is recorded, and an unattended run goes by it.
    let most = json!({"keep": {"last": 1}, "unattended": true});
    place.ok(&["keep", "web01@p2", "--remove"]);
    let alone = client.forget_by(&web, &forget(&most)).unwrap();
    assert!(
        alone.left_alone.is_some() && alone.forgotten.is_empty(),
        "{alone:?}"
    );
    let output = place.run(&[
        "forget",
        "web01",
        "--keep-last",
        "1",
        "--unattended",
        "--dry-run",
        "--json",
    ]);
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed["vms"][0]["left_alone"], alone.left_alone.unwrap());
    assert_eq!(names(&place).len(), 4);

    let named = client.forget_by(&web, &forget(&json!({"points": ["latest~1", "p1"]})));
    assert_eq!(named.unwrap().forgotten.len(), 2);
    assert_eq!(names(&place), ["p2", "p5"]);
    let all = client
        .forget_by(&web, &forget(&json!({"all": true})))
        .unwrap();
    assert_eq!(all.forgotten.len(), 2);
    assert!(names(&place).is_empty());
    daemon.stop();
}

#[test]
fn what_keeps_nothing_or_contradicts_itself_is_refused() {
    let place = with_points(1);
    let daemon = place.serve(&[]);
    let client = client(&place);
    for (request, what) in [
        (json!({}), "no rule says which restore points stay"),
        (
            json!({"keep": {"last": 0, "daily": 0}}),
            "keep no restore point",
        ),
        (json!({"zone": "UTC"}), "keep no restore point"),
        (json!({"keep": {"last": 1, "dayly": 7}}), "\"dayly\""),
        (json!({"keep": {"last": 1}, "all": true}), "rules"),
        (json!({"points": ["p0"], "keep": {"last": 1}}), "rules"),
        (json!({"points": ["p0"], "all": true}), "all"),
        (json!({"points": ["p0"], "unattended": true}), "unattended"),
        (json!({"all": true, "unattended": true}), "unattended"),
        (json!({"points": ["latest~x"]}), "~x"),
        (json!({"keep": {"within": "7 days"}}), "7 days"),
        (
            json!({"keep": {"last": 1}, "zone": "Europe/Nowhere"}),
            "Nowhere",
        ),
    ] {
        for dry_run in [true, false] {
            let mut request = request.clone();
            request["dry_run"] = dry_run.into();
            let refused = client.forget_by(&vm(), &forget(&request)).unwrap_err();
            assert_eq!(
                refused.kind(),
                ErrorKind::InvalidInput,
                "{request}: {refused}"
            );
            assert!(refused.report().contains(what), "{request}: {refused}");
        }
    }
    let missing = client.forget_by(&vm(), &forget(&json!({"points": ["p9"]})));
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    let nobody = VmName::new("nobody").unwrap();
    let missing = client.forget_by(&nobody, &forget(&json!({"all": true})));
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(serde_json::from_value::<ForgetRequest>(json!({"everything": true})).is_err());
    assert_eq!(names(&place), ["p0"]);
    daemon.stop();
}
