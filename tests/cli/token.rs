//! Tokens of the access table.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use serde_json::Value;

use crate::kit::need::{can_mount, has};
use crate::kit::place::Place;

/// The rights that most of these tokens have.
const READ: [&str; 4] = ["--rights", "read,restore", "--vms", "web*"];

fn add(place: &Place, name: &str, more: &[&str]) -> Value {
    let mut args = vec!["token", "add", name];
    args.extend(READ);
    args.extend(more);
    place.json(&args)
}

fn is_secret(text: &str) -> bool {
    let digits = text.strip_prefix("rfs_").unwrap_or_default();
    digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

#[test]
fn a_token_is_shown_once_and_kept_as_a_hash() {
    let place = Place::without_repository();
    let made = add(&place, "laptop", &["--expires", "90d"]);
    let secret = made["token"].as_str().unwrap();
    assert!(is_secret(secret), "{secret}");
    assert_eq!(made["name"], "laptop");
    assert_eq!(made["rights"], serde_json::json!(["read", "restore"]));
    assert_eq!(made["vms"], serde_json::json!(["web*"]));
    let at = |key: &str| {
        made[key]
            .as_str()
            .unwrap()
            .parse::<jiff::Timestamp>()
            .unwrap()
    };
    let lasts = at("expires").as_second() - at("created").as_second();
    assert_eq!(lasts, 90 * 86_400);
    let file = place.path("access.toml");
    assert_eq!(made["file"], file.to_str().unwrap());
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        !text.contains(secret) && !text.contains(&secret[4..]),
        "{text}"
    );
    // The hash can be made by other programs.
    let hash = blake3_of(secret);
    assert!(text.contains(&format!("hash = \"{hash}\"")), "{text}");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for list in [
        place.ok(&["token", "list"]),
        place.ok(&["token", "list", "--json"]),
    ] {
        assert!(list.contains("laptop") && list.contains("web*"), "{list}");
        assert!(!list.contains(&hash) && !list.contains(secret), "{list}");
    }
    let list = place.json(&["token", "list"]);
    assert_eq!(list[0]["expires"], made["expires"]);
    assert_eq!(
        (&list[0]["expired"], &list[0]["repositories"]),
        (&false.into(), &Value::Null)
    );
    // Without JSON the secret is all of standard output, also with --quiet.
    let mut args = vec!["token", "add", "script", "-q"];
    args.extend(READ);
    let output = place.run(&args);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(
        is_secret(printed.trim_end()) && output.stderr.is_empty(),
        "{printed}"
    );
}

fn blake3_of(text: &str) -> String {
    restorefs::types::Digest::of(text.as_bytes()).to_string()
}

#[test]
fn revoking_leaves_comments_and_other_entries() {
    let place = Place::without_repository();
    let file = place.path("access.toml");
    let begun = "# The agents.\n[[access]]\nidentity = \"agent1\" # old spelling\nvms = [\"web*\"]\nrights = [\"ingest\"]\n";
    fs::write(&file, begun).unwrap();
    add(&place, "one", &["--repository", "offsite"]);
    add(&place, "two", &[]);
    let list = place.ok(&["token", "list"]);
    assert!(
        list.contains("offsite") && list.lines().count() == 3,
        "{list}"
    );
    let said = place.ok(&["token", "revoke", "ONE"]);
    assert!(said.contains("access.toml"), "{said}");
    assert_eq!(place.json(&["token", "revoke", "two"])["name"], "two");
    assert_eq!(fs::read_to_string(&file).unwrap(), begun);
    let said = place.fails(1, &["token", "revoke", "two"]);
    assert!(said.contains("no token two"), "{said}");
}

#[test]
fn what_has_no_effect_is_refused() {
    let place = Place::without_repository();
    add(&place, "laptop", &[]);
    let [rights, vms] = [["--rights", "read"], ["--vms", "*"]];
    for (args, code, what) in [
        (
            vec!["Laptop", "--rights", "read", "--vms", "*"],
            1,
            "there is a token laptop",
        ),
        (vec!["a b", "--rights", "read", "--vms", "*"], 2, "a b"),
        (
            vec!["latest", "--rights", "read", "--vms", "*"],
            2,
            "reserved",
        ),
        (vec!["a", "--rights", "", "--vms", "*"], 2, "no rights"),
        (
            vec!["a", "--rights", "write", "--vms", "*"],
            2,
            "read, restore, ingest",
        ),
        (vec!["a", "--rights", "read", "--vms", ""], 2, "pattern"),
        (
            vec!["a", "--rights", "admin", "--vms", "web*"],
            2,
            "--vms '*'",
        ),
        (vec!["a", rights[0], rights[1]], 2, "--vms"),
        (vec!["a", vms[0], vms[1]], 2, "--rights"),
        (
            vec!["a", "--rights", "read", "--vms", "*", "--expires", "0d"],
            2,
            "expire at once",
        ),
        (
            vec![
                "a",
                "--rights",
                "read",
                "--vms",
                "*",
                "--expires",
                "yesterday",
            ],
            2,
            "not a time",
        ),
        (
            vec![
                "a",
                "--rights",
                "read",
                "--vms",
                "*",
                "--expires",
                "99999999999999d",
            ],
            2,
            "far",
        ),
        (
            vec!["a", "--rights", "read", "--vms", "*", "--repository", "a/b"],
            2,
            "a/b",
        ),
    ] {
        let mut all = vec!["token", "add"];
        all.extend(&args);
        let said = place.fails(code, &all);
        assert!(said.contains(what), "{args:?}: {said}");
    }
    assert_eq!(place.json(&["token", "list"]).as_array().unwrap().len(), 1);
    // A file with a mistake is left as it is.
    let file = place.path("access.toml");
    let text = fs::read_to_string(&file).unwrap() + "\n[[acess]]\n";
    fs::write(&file, &text).unwrap();
    for args in [&["token", "list"][..], &["token", "revoke", "laptop"]] {
        let said = place.fails(2, args);
        assert!(said.contains("line ") && said.contains("acess"), "{said}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn a_token_that_has_expired_is_listed_so() {
    let place = Place::without_repository();
    add(&place, "short", &["--expires", "1s"]);
    crate::kit::wait::eventually("it expires", || {
        place.json(&["token", "list"])[0]["expired"] == true
    });
    assert!(place.ok(&["token", "list"]).contains("(expired)"));
}

#[test]
fn the_file_is_that_of_the_flag_the_variable_or_the_user() {
    let place = Place::without_repository();
    let other = place.path("other.toml");
    add(&place, "one", &["--access", "other.toml"]);
    assert!(other.exists() && !place.path("access.toml").exists());
    assert_eq!(
        place.json(&["token", "list", "--access", "other.toml"])[0]["name"],
        "one"
    );
    let by_variable = place
        .command(&["token", "list"])
        .env("RESTOREFS_ACCESS", &other)
        .output()
        .unwrap();
    assert!(
        String::from_utf8(by_variable.stdout)
            .unwrap()
            .contains("one")
    );
    place.ok(&["token", "revoke", "one", "--access", "other.toml"]);
    if !has("setpriv") || !rustix::process::geteuid().is_root() {
        return;
    }
    // An ordinary user has a file of its own.
    let home = place.path("home");
    fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(65_534), Some(65_534)).unwrap();
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(place.dir.path(), open).unwrap();
    let program = place.path("restorefs");
    fs::copy(env!("CARGO_BIN_EXE_restorefs"), &program).unwrap();
    let made = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&program)
        .args(["token", "add", "mine"])
        .args(READ)
        .env("HOME", &home)
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("RESTOREFS_CONFIG_DIR")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}");
    let meta = fs::metadata(home.join(".config/restorefs/access.toml")).unwrap();
    assert_eq!((meta.uid(), meta.mode() & 0o777), (65_534, 0o600));
}

#[test]
fn a_file_that_others_may_read_stays_theirs() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let place = Place::without_repository();
    let file = place.path("access.toml");
    fs::write(&file, "# ours\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(&file, Some(0), Some(65_534)).unwrap();
    add(&place, "one", &[]);
    place.ok(&["token", "revoke", "one"]);
    let meta = fs::metadata(&file).unwrap();
    assert_eq!(
        (meta.uid(), meta.gid(), meta.mode() & 0o777),
        (0, 65_534, 0o640)
    );
}

/// The daemon, in the group of the directory, reads what root has made there.
#[test]
fn a_new_file_in_etc_is_for_the_group_of_its_directory() {
    if !can_mount() || !has("unshare") {
        return;
    }
    let place = Place::without_repository();
    let script = format!(
        "mount -t tmpfs none /etc && mkdir -m 750 /etc/restorefs && chgrp 5001 /etc/restorefs && \
         {} token add one --rights read --vms '*' > secret && stat -c %u:%g:%a /etc/restorefs/access.toml && \
         {0} token add two --rights read --vms '*' > secret && stat -c %u:%g:%a /etc/restorefs/access.toml",
        env!("CARGO_BIN_EXE_restorefs")
    );
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .current_dir(place.dir.path())
        .env_remove("RESTOREFS_CONFIG_DIR")
        .env_remove("RESTOREFS_ACCESS")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let standing = String::from_utf8(output.stdout).unwrap();
    assert_eq!(standing, "0:5001:640\n0:5001:640\n");
}

#[test]
fn a_login_is_an_address_of_the_daemon_that_serves_the_repository() {
    let place = Place::new();
    let said = place.fails(1, &["token", "login"]);
    assert!(
        said.contains("no daemon serves this repository") && said.contains("--http"),
        "{said}"
    );
    // A daemon without pages, and one whose pages no browser can open.
    let socket = place.path("http.sock");
    for more in [&[][..], &["--http-socket", socket.to_str().unwrap()]] {
        let daemon = place.serve(more);
        let said = place.fails(1, &["token", "login"]);
        assert!(said.contains("--http 127.0.0.1:8420"), "{said}");
        daemon.stop();
    }
    let daemon = place.serve(&["--http", "127.0.0.1:0"]);
    let login = place.json(&["token", "login"]);
    let (url, code) = (
        login["url"].as_str().unwrap(),
        login["code"].as_str().unwrap(),
    );
    let site = url.strip_suffix(&format!("login#{code}")).unwrap();
    let port = site
        .strip_prefix("http://127.0.0.1:")
        .and_then(|port| port.strip_suffix('/'));
    assert_ne!(port.unwrap().parse::<u16>().unwrap(), 0, "{url}");
    assert_eq!((code.len(), &login["expires_seconds"]), (32, &300.into()));
    let other = place.ok(&["token", "login"]);
    assert!(other.starts_with(site) && other.lines().count() == 1);
    assert_ne!(other.trim_end(), url);
    daemon.stop();
}
