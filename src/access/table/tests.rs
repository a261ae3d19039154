//! The rules of the access table.

use jiff::Timestamp;

use super::{Access, Right};
use crate::access::{Caller, Secret};
use crate::types::{RepositoryName, VmName};

const FILE: &str = "
    [[access]]
    identity = \"agent1\"
    vms = [\"web*\", \"db01\"]
    rights = [\"read\", \"ingest\"]

    [[access]]
    certificate = \"spiffe://example/auditor\"
    vms = [\"*\"]
    rights = [\"read\"]
";

fn parse(text: &str) -> Access {
    Access::parse(text).unwrap().access
}

fn vm(name: &str) -> VmName {
    VmName::new(name).unwrap()
}

fn may(access: &Access, caller: &Caller, right: Right, name: &str) -> bool {
    caller.may(right, Some(&vm(name)), access)
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn the_file_says_who_may_do_what() {
    let access = parse(FILE);
    let may = |name: &str, on: &str, right| {
        let names = ["nobody".to_owned(), name.to_owned()];
        access.allows_certificate(&names, Some(&vm(on)), right)
    };
    assert!(may("agent1", "web01", Right::Ingest));
    assert!(may("agent1", "WEB01", Right::Read));
    assert!(may("agent1", "db01", Right::Read));
    assert!(!may("agent1", "db011", Right::Read));
    assert!(!may("Agent1", "web01", Right::Read));
    assert!(may("spiffe://example/auditor", "mail", Right::Read));
    assert!(!may("spiffe://example/auditor", "mail", Right::Ingest));
    assert!(!may("", "web01", Right::Read));
    assert_eq!(parse(""), Access::default());
}

#[test]
fn an_identity_may_tell_which_name_it_means() {
    let access = parse(&FILE.replace("\"agent1\"", "\"cn:agent1\""));
    let may =
        |name: &str| access.allows_certificate(&[name.to_owned()], Some(&vm("web01")), Right::Read);
    assert!(may("cn:agent1") && !may("agent1") && !may("dns:agent1"));
}

/// An entry for user 4001 with this right on these VMs.
fn one(right: &str, vms: &str) -> Access {
    parse(&format!(
        "[[access]]\nuser = 4001\nvms = {vms}\nrights = [\"{right}\"]\n"
    ))
}

#[test]
fn no_right_implies_another() {
    for right in Right::ALL {
        let access = one(right.as_str(), "[\"*\"]");
        let caller = Caller::user(4001);
        for other in Right::ALL {
            assert_eq!(may(&access, &caller, other, "web01"), other == right);
            assert_eq!(caller.may(other, None, &access), other == right);
        }
    }
}

#[test]
fn what_is_asked_of_the_repository_needs_the_pattern_of_all_vms() {
    let caller = Caller::user(4001);
    for right in Right::ALL {
        let some = one(right.as_str(), "[\"web*\", \"**\"]");
        assert!(!caller.may(right, None, &some), "{right}");
        let all = one(right.as_str(), "[\"web*\", \"*\"]");
        assert!(caller.may(right, None, &all), "{right}");
    }
}

#[test]
fn admin_on_some_vms_has_no_effect_and_is_remarked() {
    let text = "\n[[access]]\nuser = 4001\nvms = [\"web*\"]\nrights = [\"admin\", \"read\"]\n";
    let parsed = Access::parse(text).unwrap();
    let caller = Caller::user(4001);
    assert!(may(&parsed.access, &caller, Right::Read, "web01"));
    assert!(!may(&parsed.access, &caller, Right::Admin, "web01"));
    let [remark] = &parsed.remarks[..] else {
        panic!("{:?}", parsed.remarks)
    };
    assert!(
        remark.contains("line 2") && remark.contains("admin"),
        "{remark}"
    );
}

#[test]
fn an_entry_for_a_user_or_a_group_decides_for_all_users() {
    let stranger = Caller::user(4009);
    let without = parse(FILE);
    assert!(!without.decides_for_users());
    assert!(may(&without, &stranger, Right::Ingest, "web01"));
    for subject in ["user = 4001", "group = 5001", "user = \"no-such-account\""] {
        let access = parse(&format!(
            "{FILE}\n[[access]]\n{subject}\nvms = [\"web*\"]\nrights = [\"read\"]\n"
        ));
        assert!(access.decides_for_users());
        for right in Right::ALL {
            assert!(
                !may(&access, &stranger, right, "web01"),
                "{subject} {right}"
            );
            assert!(may(&access, &Caller::user(0), right, "web01"));
        }
    }
}

#[test]
fn users_and_groups_are_found_by_number_and_by_name() {
    let access = parse(
        "[[access]]\nuser = \"4001\"\nvms = [\"web*\"]\nrights = [\"read\"]\n\
         [[access]]\ngroup = \"daemon\"\nvms = [\"db*\"]\nrights = [\"manage\"]\n",
    );
    let daemon = crate::sys::account::group_id("daemon").unwrap().unwrap();
    let user = Caller::user(4001);
    assert!(may(&access, &user, Right::Read, "web01"));
    assert!(!may(&access, &user, Right::Manage, "db01"));
    let member = Caller::member(4002, [7, daemon].into());
    assert!(may(&access, &member, Right::Manage, "db01"));
    assert!(!may(&access, &member, Right::Manage, "web01"));
    // The id of a group is not that of a user.
    assert!(!may(&access, &Caller::user(daemon), Right::Manage, "db01"));
    assert!(!may(
        &access,
        &Caller::member(1, [4001].into()),
        Right::Read,
        "web01"
    ));
}

#[test]
fn a_name_that_no_account_has_is_remarked_and_matches_nobody() {
    let text = "[[access]]\nuser = \"no-such-account\"\nvms = [\"*\"]\nrights = [\"read\"]\n";
    let parsed = Access::parse(text).unwrap();
    assert!(parsed.remarks[0].contains("no-such-account"));
    for uid in [1, 4001, u32::MAX] {
        assert!(!may(
            &parsed.access,
            &Caller::user(uid),
            Right::Read,
            "web01"
        ));
    }
}

#[test]
fn an_entry_for_a_repository_is_for_no_other() {
    let access = parse(
        "[[access]]\nuser = 4001\nvms = [\"*\"]\nrights = [\"read\"]\nrepositories = [\"Offsite\"]\n",
    );
    let user = Caller::user(4001);
    let of = |name: &str| access.of_repository(&RepositoryName::new(name).unwrap());
    assert!(may(&of("offsite"), &user, Right::Read, "web01"));
    let other = of("default");
    assert!(!may(&other, &user, Right::Read, "web01"));
    // The table goes on deciding for users there.
    assert!(other.decides_for_users());
}

fn with_token(secret: &Secret, more: &str) -> Access {
    parse(&format!(
        "[[access]]\ntoken = \"laptop\"\nhash = \"{}\"\nvms = [\"web*\"]\nrights = [\"read\"]\n{more}",
        secret.hash()
    ))
}

#[test]
fn a_token_authenticates_until_it_expires() {
    let secret = Secret::random().unwrap();
    let access = with_token(&secret, "expires = 2027-02-28T10:00:00Z\n");
    let before = at("2027-02-28T09:59:59Z");
    let caller = access.authenticate(secret.reveal(), before).unwrap();
    assert_eq!(caller, Caller::Token("laptop".into()));
    assert!(may(&access, &caller, Right::Read, "web01"));
    assert!(!may(&access, &caller, Right::Read, "db01"));
    assert!(!may(&access, &caller, Right::Restore, "web01"));
    let after = at("2027-02-28T10:00:00Z");
    assert_eq!(access.authenticate(secret.reveal(), after), None);
    assert_eq!(access.token_expiry("laptop"), Some(after));
    let other = Secret::random().unwrap();
    assert_eq!(access.authenticate(other.reveal(), before), None);
    for wrong in [
        "",
        "rfs_",
        &secret.reveal()[1..],
        &secret.hash().to_string(),
    ] {
        assert_eq!(access.authenticate(wrong, before), None);
    }
    assert_eq!(with_token(&secret, "").token_expiry("laptop"), None);
    assert!(!format!("{access:?}").contains(&secret.hash().to_string()));
}

#[test]
fn a_token_of_another_repository_does_not_authenticate_there() {
    let secret = Secret::random().unwrap();
    let access = with_token(&secret, "repositories = [\"offsite\"]\n");
    let now = at("2027-01-01T00:00:00Z");
    let of = |name: &str| access.of_repository(&RepositoryName::new(name).unwrap());
    assert!(of("offsite").authenticate(secret.reveal(), now).is_some());
    assert!(of("default").authenticate(secret.reveal(), now).is_none());
}

#[test]
fn a_new_token_of_an_old_name_is_another_one() {
    let [one, two] = [(); 2].map(|()| with_token(&Secret::random().unwrap(), ""));
    assert_ne!(one.token_identity("laptop"), two.token_identity("laptop"));
    assert_eq!(
        one.token_identity("laptop"),
        one.clone().token_identity("laptop")
    );
    assert_eq!(one.token_identity("other"), None);
}

#[test]
fn what_is_not_understood_is_refused() {
    let hash = "0".repeat(64);
    let token = |more: &str| {
        format!("[[access]]\ntoken = \"a\"\n{more}\nvms = [\"b\"]\nrights = [\"read\"]")
    };
    let entry = |keys: &str| format!("[[access]]\n{keys}\nvms = [\"b\"]\nrights = [\"read\"]");
    for (text, what) in [
        ("[[acess]]".to_owned(), "line 1"),
        ("\n[[access]]\nidentity = 3".to_owned(), "line 3"),
        ("[[access]]\nidentity = \"a\"".to_owned(), "vms"),
        (
            "[[access]]\nidentity = \"a\"\nvms = [\"b\"]\nrights = [\"write\"]".to_owned(),
            "line 4",
        ),
        (
            "\n\n[[access]]\nidentity = \"a\"\nvms = [\"b\"]\nrights = []".to_owned(),
            "line 3: \"a\": rights is empty",
        ),
        (
            "[[access]]\nidentity = \"a\"\nvms = []\nrights = [\"read\"]".to_owned(),
            "vms",
        ),
        (entry("identity = \"\""), "identity"),
        (entry("identity = \"a\"\nwhen = 1"), "line 3"),
        (entry(""), "exactly one"),
        (entry("user = 1\ngroup = 1"), "exactly one"),
        (entry("identity = \"a\"\ncertificate = \"b\""), "line 1"),
        (entry("user = \"\""), "user"),
        (entry("user = -1"), "line 2"),
        (entry("user = 4294967295"), "line 2"),
        (entry("user = true"), "a name or a number"),
        (
            entry(&format!("user = 1\nhash = \"{hash}\"")),
            "hash belongs to a token",
        ),
        (
            entry("user = 1\nrepositories = []"),
            "repositories is empty",
        ),
        (entry("user = 1\nrepositories = [\"a/b\"]"), "repositories"),
        (token(""), "hash is missing"),
        (token("hash = \"12\""), "64 hexadecimal"),
        (
            token(&format!("hash = \"{hash}\"\nexpires = 2027-01-01T00:00:00")),
            "expires",
        ),
        (
            token(&format!("hash = \"{hash}\"")).replace("\"a\"", "\"a b\""),
            "name",
        ),
        (
            token(&format!("hash = \"{hash}\""))
                + "\n"
                + &token(&format!("hash = \"{hash}\"")).replace("\"a\"", "\"A\""),
            "line 6: the token A is there twice",
        ),
    ] {
        let error = match Access::parse(&text) {
            Ok(_) => panic!("{text}"),
            Err(error) => error.report(),
        };
        assert!(error.contains(what), "{what}\n{text}\n{error}");
    }
}
