//! Configurations with mistakes in them: each is named, nothing is served.

use std::os::unix::fs::{PermissionsExt, symlink};

use crate::house::House;
use crate::kit::certificate::{Authority, can_certify};

/// Expects that both `check-config` and `serve` refuse it with this exit code, and say all of this.
fn refused(house: &House, code: i32, words: &[&str]) {
    let config = house.place.path("config.toml");
    let config = config.to_str().unwrap();
    for args in [
        ["check-config", config].as_slice(),
        &["serve", "--config", config],
    ] {
        let said = house.place.fails(code, args);
        for word in words {
            assert!(said.contains(word), "{args:?} does not say {word}: {said}");
        }
    }
}

#[test]
fn a_good_one_is_said_to_be_good() {
    let house = House::new();
    let mnt = house.place.path("mnt");
    std::fs::create_dir(&mnt).unwrap();
    let path = house.configure(
        "memory = \"64M\"\nstop_timeout = \"5s\"\n[log]\nlevel = \"debug\"\n",
        &format!(
            "[[repository.mount]]\nat = \"{}\"\noptions = \"umask=027\"",
            mnt.display()
        ),
    );
    let answer = house.place.json(&["check-config", path.to_str().unwrap()]);
    assert_eq!(
        answer["repositories"][0]["mounts"][0],
        mnt.to_str().unwrap()
    );
    assert!(
        !house
            .place
            .repo()
            .join("lock")
            .metadata()
            .is_ok_and(|meta| meta.len() > 0)
    );
}

#[test]
fn what_is_not_known_is_named_with_its_line_and_the_nearest_key() {
    let house = House::new();
    house.configure("stop_timout = \"5s\"", "");
    refused(
        &house,
        2,
        &["config.toml", "line 1", "stop_timout", "\"stop_timeout\"?"],
    );
    house.configure(
        "",
        "[[repository.mount]]\nat = \"/mnt\"\noptions = \"colour=blue\"",
    );
    refused(&house, 2, &["mount /mnt", "colour=blue"]);
    house.configure("memory = 3", "");
    refused(&house, 2, &["line 1 (memory = 3)", "in quotes"]);
    house.configure("", "[repository.nbd]\nlisten = \"localhost:10809\"");
    refused(
        &house,
        2,
        &["(listen = \"localhost:10809\")", "192.0.2.7:10809"],
    );
    house.configure("", "[repository.nbd]\nsockets = \"/run/x\"");
    refused(&house, 2, &["(sockets = \"/run/x\")", "write a list"]);
    house.write("[repository]\npath = \"/srv/repo\"\n");
    refused(&house, 2, &["([repository])", "double brackets"]);
    house.configure("[[[", "");
    refused(&house, 2, &["line 1"]);
}

#[test]
fn mountpoints_that_are_in_the_way_are_named() {
    let house = House::new();
    let path = |name: &str| house.place.path(name).display().to_string();
    std::fs::create_dir_all(house.place.path("mnt/below")).unwrap();
    symlink(path("mnt"), path("link")).unwrap();
    let (inside, above) = (format!("{}/vms", path("repo")), path(""));
    let config = house.place.path("config.toml");
    for (places, words) in [
        (vec![inside], "lies in the repository"),
        (vec![above], "would hide the repository"),
        (vec![path("mnt"), path("link")], "are one directory"),
        (
            vec![path("mnt"), path("mnt/below")],
            "one lies in the other",
        ),
        (
            vec![path("mnt/below"), path("mnt")],
            "one lies in the other",
        ),
    ] {
        let mounts = places
            .iter()
            .map(|at| format!("[[repository.mount]]\nat = \"{at}\"\n"));
        house.configure("", &mounts.collect::<String>());
        let said = house
            .place
            .fails(2, &["check-config", config.to_str().unwrap()]);
        assert!(said.contains(words), "{places:?}: {said}");
    }
    house.configure(
        "",
        "[[repository.mount]]\nat = \"/mnt\"\noptions = \"ro,allow_forget\"",
    );
    refused(&house, 2, &["mount /mnt", "allow_forget"]);
}

#[test]
fn what_cannot_be_read_is_said() {
    let house = House::new();
    let config = house.place.path("config.toml");
    refused(&house, 1, &["cannot read the configuration", "config.toml"]);
    std::fs::create_dir(&config).unwrap();
    refused(&house, 1, &["config.toml"]);
    std::fs::remove_dir(&config).unwrap();
    std::fs::write(&config, [0xff, 0xfe, 0x00]).unwrap();
    refused(&house, 1, &["config.toml"]);
    std::fs::write(&config, vec![b'#'; 2 << 20]).unwrap();
    refused(&house, 1, &["1 MiB"]);
}

#[test]
fn who_may_not_read_it_is_told_so() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let house = House::new();
    let config = house.configure("", "");
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::set_permissions(
        house.place.dir.path(),
        std::fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    let output = std::process::Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(env!("CARGO_BIN_EXE_restorefs"))
        .args(["check-config", config.to_str().unwrap()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("ermission denied") && said.contains("config.toml"),
        "{said}"
    );
}

#[test]
fn one_repository_under_two_names_is_refused() {
    let house = House::new();
    let repo = house.place.repo();
    let alias = house.place.path("alias");
    symlink(&repo, &alias).unwrap();
    let two = |a: &std::path::Path, b: &std::path::Path| {
        format!(
            "[[repository]]\npath = \"{}\"\n[[repository]]\npath = \"{}\"\n",
            a.display(),
            b.display()
        )
    };
    house.write(&two(&repo, &repo.join(".")));
    refused(&house, 2, &["is there twice"]);
    // What only the machine knows: the daemon meets its own lock.
    house.write(&two(&repo, &alias));
    let config = house.place.path("config.toml");
    let said = house
        .place
        .fails(2, &["check-config", config.to_str().unwrap()]);
    assert!(said.contains("are one repository"), "{said}");
    let said = house
        .place
        .fails(2, &["serve", "--config", config.to_str().unwrap()]);
    assert!(said.contains("are one repository"), "{said}");
}

#[test]
fn two_repositories_without_names_are_not_served_over_http() {
    let house = House::new();
    let other = house.place.path("other");
    house.place.ok(&["init", other.to_str().unwrap()]);
    let all = |http: &str| {
        format!(
            "{http}[[repository]]\npath = \"{}\"\n[[repository]]\npath = \"{}\"\n",
            house.place.repo().display(),
            other.display()
        )
    };
    let config = house.place.path("config.toml");
    let check = ["check-config", config.to_str().unwrap()];
    house.write(&all(""));
    house.place.ok(&check);
    let http = all("[http]\nlisten = \"127.0.0.1:0\"\n");
    house.write(&http);
    refused(&house, 2, &["two repositories would be served as default"]);
    house
        .place
        .ok(&["repo", "add", "other", other.to_str().unwrap()]);
    house.place.ok(&check);
}

#[test]
fn sockets_and_paths_that_cannot_be_had_are_named() {
    let house = House::new();
    let long = format!("/run/{}", "x".repeat(103));
    house.configure("", &format!("[repository.nbd]\nsockets = [\"{long}\"]"));
    refused(&house, 2, &["108 bytes, 107 are possible"]);
    house.configure("", "[repository.nbd]\nsockets = [\"nbd.sock\"]");
    refused(&house, 2, &["not absolute", "nbd.sock"]);
    house.configure("", "[repository.nbd]\nlisten = \"192.0.2.1:10809\"");
    refused(&house, 2, &["needs TLS"]);
    house.write("[[repository]]\npath = \"/nowhere/at/all\"\n");
    let config = house.place.path("config.toml");
    let said = house
        .place
        .fails(2, &["check-config", config.to_str().unwrap()]);
    assert!(said.contains("restorefs init /nowhere/at/all"), "{said}");
}

#[test]
fn a_key_that_everybody_can_read_is_refused() {
    if !can_certify() {
        return;
    }
    let house = House::new();
    let authority = Authority::new();
    let certificates = authority.server();
    let access = house.place.path("access.toml");
    std::fs::write(&access, "").unwrap();
    house.configure(
        "",
        &format!(
            "[repository.nbd]\nlisten = \"127.0.0.1:0\"\ntls_certificates = \"{}\"\naccess = \"{}\"",
            certificates.display(),
            access.display()
        ),
    );
    let config = house.place.path("config.toml");
    house.place.ok(&["check-config", config.to_str().unwrap()]);
    let key = certificates.join("server-key.pem");
    // Members of the group are agents: with the key one of them would play the daemon.
    for mode in [0o644, 0o640] {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
        refused(
            &house,
            2,
            &["server-key.pem", &format!("mode {mode:04o}"), "chmod"],
        );
    }
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o400)).unwrap();
    house.place.ok(&["check-config", config.to_str().unwrap()]);
}
