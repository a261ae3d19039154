//! Policies that contradict themselves, and policies that overlap.

use super::{Policy, nightly, policy, vm};
use crate::error::ErrorKind;
use crate::jobs::policy::{Terms, check_overlap};
use crate::repo::sidecar::Sidecar;
use crate::repo::sidecar::policy::{Keeping, Requirement};
use crate::types::RepositoryId;

/// The reason why a changed [`nightly`] is refused.
fn refused(change: impl Fn(&mut Policy)) -> String {
    let mut changed = nightly(RepositoryId::random());
    change(&mut changed);
    let error = Terms::of(&changed).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let text = error.report();
    assert!(
        text.starts_with("the policy nightly cannot be used: "),
        "{text}"
    );
    text
}

#[test]
fn a_policy_that_contradicts_itself_is_refused_with_the_reason() {
    assert!(Terms::of(&nightly(RepositoryId::random())).is_ok());
    let has = |text: String, part: &str| assert!(text.contains(part), "{text}");
    has(refused(|one| one.vms.clear()), "it names no VM");
    has(refused(|one| one.vms = vec!["../x".to_owned()]), "\"../x\"");
    has(
        refused(|one| one.vms = vec!["a b*".to_owned()]),
        "no name of a VM fits",
    );
    has(
        refused(|one| one.vms = vec!["..*".to_owned()]),
        "no name of a VM fits",
    );
    has(
        refused(|one| one.vms = vec!["latest".to_owned()]),
        "is reserved",
    );
    has(
        refused(|one| one.vms = vec!["*".repeat(4_000)]),
        "no name of a VM fits",
    );
    has(
        refused(|one| one.vms = vec!["x*".to_owned(); 2_000]),
        "more than 1000 patterns",
    );
    has(
        refused(|one| one.zone = Some("Mars/Base".to_owned())),
        "Mars/Base",
    );
    has(
        refused(|one| one.schedule = Some("daily 25:00".to_owned())),
        "25:00",
    );
    has(refused(|one| one.schedule = None), "no time to run it");
    has(
        refused(|one| one.command = vec![String::new()]),
        "cannot be run",
    );
    has(
        refused(|one| one.keep = Some(Keeping::default())),
        "keep no restore point",
    );
    let within = Keeping {
        within: Some("soon".to_owned()),
        ..Keeping::default()
    };
    has(refused(|one| one.keep = Some(within.clone())), "soon");
    has(refused(|one| one.rpo_seconds = Some(0)), "--rpo");
    has(
        refused(|one| one.rpo_seconds = Some(3_600)),
        "cannot be met by backups that are 24h apart",
    );
    has(
        refused(|one| one.rpo_seconds = Some(u64::MAX)),
        "hundred years",
    );
    has(
        refused(|one| one.verify_every_seconds = Some(0)),
        "--verify-every",
    );
    has(refused(|one| one.max_depth = Some(1)), "--max-depth 1");
    has(refused(|one| one.max_depth = Some(900)), "--max-depth 900");
    has(
        refused(|one| one.copies.push(one.copies[0].clone())),
        "copies twice",
    );
    let three = Requirement {
        copies: 3,
        media: 2,
        offsite: 1,
    };
    has(
        refused(|one| one.require = Some(three)),
        "requires 3 copies",
    );
    let mut idle = policy("idle", &["web*"]);
    idle.max_depth = Some(100);
    assert!(
        Terms::of(&idle)
            .unwrap_err()
            .report()
            .contains("it does nothing")
    );
}

#[test]
fn policies_that_overlap_are_told_by_their_vms_or_by_the_pattern() {
    let terms = |name: &str, vms: &[&str]| {
        let mut one = policy(name, vms);
        one.rpo_seconds = Some(3_600);
        Terms::of(&one).unwrap()
    };
    let others = [terms("web", &["web*"]), terms("db", &["db01"])];
    let mut vms = vec![
        vm("web01"),
        vm("web02"),
        vm("web03"),
        vm("web04"),
        vm("mail"),
    ];
    let check = |new: &Terms, vms: &[_]| {
        check_overlap(new, &others, vms).map_err(|e| {
            assert_eq!(e.kind(), ErrorKind::InvalidInput);
            e.what().to_owned()
        })
    };
    assert_eq!(check(&terms("mail", &["mail*"]), &vms), Ok(()));
    // The policy itself is no other one.
    assert_eq!(check(&terms("WEB", &["web*", "mail"]), &vms), Ok(()));
    assert_eq!(
        check(&terms("all", &["*"]), &vms).unwrap_err(),
        "the policies all and web overlap: both fit web01, web02, web03 and 1 more"
    );
    assert_eq!(
        check(&terms("same", &["WEB*"]), &[]).unwrap_err(),
        "the policies same and web overlap: both have \"web*\""
    );
    // A VM that is named in full need not be there.
    assert_eq!(
        check(&terms("d", &["d*"]), &[]).unwrap_err(),
        "the policies d and db overlap: both fit db01"
    );
    // Patterns may meet in names that no VM has, and in VMs with a policy of their own.
    assert_eq!(check(&terms("w", &["*05"]), &vms), Ok(()));
    vms[0].own_policy = Some("web".parse().unwrap());
    assert_eq!(check(&terms("one", &["w*01"]), &vms), Ok(()));
}

/// A policy is a file of a repository, which may be anybody's: what is not a policy is an error, and no panic.
#[test]
fn a_policy_round_trips_and_keeps_what_it_does_not_know() {
    use crate::repo::sidecar::{encode, parse};
    let before = nightly(RepositoryId::random());
    let bytes = encode(&before).unwrap();
    assert_eq!(parse::<Policy>(&bytes).unwrap(), before);
    let text = String::from_utf8(bytes.clone()).unwrap();
    let newer = text.replace("\"daily\": 7", "\"daily\": 7, \"lunar\": 2");
    let newer = newer.split(",\n  \"blake3\"").next().unwrap().to_owned() + "\n}\n";
    let known = parse::<Policy>(newer.as_bytes()).unwrap();
    let again = String::from_utf8(encode(&known).unwrap()).unwrap();
    assert!(again.contains("\"lunar\": 2"), "{again}");
    for n in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[n] ^= 0x20;
        let error = parse::<Policy>(&bad).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {n}");
    }
    let text = text.replace("\"schema\": 1", "\"schema\": 2");
    let text = text.split(",\n  \"blake3\"").next().unwrap().to_owned() + "\n}\n";
    let newer = parse::<Policy>(text.as_bytes()).unwrap_err();
    assert_eq!(newer.kind(), ErrorKind::Unsupported);
    assert_eq!(Policy::SCHEMA, 1);
}
