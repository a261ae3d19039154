//! The example of a configuration is one: as it is shipped, and with everything in it that is commented out.

use std::path::Path;

use crate::kit::place::Place;

fn shipped() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/config.toml");
    std::fs::read_to_string(path).unwrap()
}

/// The example with the places of this test instead of its own.
fn moved(place: &Place, text: &str) -> String {
    let at = |name: &str| place.path(name).to_str().unwrap().to_owned();
    text.replace("/var/lib/restorefs/repo", &at("repo"))
        .replace("/run/restorefs", &at("run"))
        .replace("/mnt/backups", &at("mnt"))
}

#[test]
fn the_example_is_good_once_there_is_a_repository() {
    let place = Place::without_repository();
    for dir in ["run", "mnt"] {
        std::fs::create_dir(place.path(dir)).unwrap();
    }
    std::fs::write(place.path("config.toml"), moved(&place, &shipped())).unwrap();
    let check = ["check-config", "config.toml"];
    let said = place.fails(2, &check);
    assert!(said.contains("repo"), "{said}");
    place.ok(&["init"]);
    place.ok(&check);
}

#[test]
fn what_is_commented_out_in_the_example_is_known() {
    let place = Place::new();
    let text: Vec<String> = shipped()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            // Sentences have a space; settings and tables have none.
            Some(rest) if !rest.starts_with(' ') => rest.to_owned(),
            _ => line.to_owned(),
        })
        .collect();
    let text = moved(&place, &text.join("\n"));
    for key in [
        "low_water",
        "listen",
        "access",
        "[[repository.mount]]",
        "export_connections",
    ] {
        assert!(text.lines().any(|l| l.starts_with(key)), "{key} in {text}");
    }
    std::fs::write(place.path("config.toml"), &text).unwrap();
    // There are no certificates here: that, and nothing about keys, is what it says.
    let said = place.fails(2, &["check-config", "config.toml"]);
    assert!(
        said.contains("/etc/restorefs/tls") || said.contains("access.toml"),
        "{said}"
    );
    assert!(
        !said.contains("unknown field") && !said.contains("line "),
        "{said}"
    );
}
