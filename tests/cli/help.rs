//! The help texts and tables as snapshots: a change of the command line shows up as a changed snapshot.

use crate::assets::assets;
use crate::kit::place::Place;

#[test]
fn help_of_every_command() {
    let place = Place::new();
    let all = place.ok(&["--help"]);
    let commands: Vec<&str> = all
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    assert!(commands.len() >= 14, "{commands:?}");
    // The repository's path of this run is not part of the help.
    let plain = |text: &str| text.replace(place.repo().to_str().unwrap(), "REPO");
    insta::assert_snapshot!("restorefs", plain(&all));
    for command in commands {
        insta::assert_snapshot!(command, plain(&place.ok(&[command, "--help"])));
    }
    for action in ["add", "list", "remove", "new-id", "test"] {
        let help = plain(&place.ok(&["repo", action, "--help"]));
        insta::assert_snapshot!(format!("repo-{action}"), help);
    }
    for action in ["add", "list", "revoke", "login"] {
        let help = plain(&place.ok(&["token", action, "--help"]));
        insta::assert_snapshot!(format!("token-{action}"), help);
    }
    for action in [
        "add", "edit", "show", "list", "remove", "assign", "run", "runner",
    ] {
        let help = plain(&place.ok(&["policy", action, "--help"]));
        insta::assert_snapshot!(format!("policy-{action}"), help);
    }
}

#[test]
fn tables_of_ls() {
    let place = Place::new();
    place.disk("a.raw", 30, 1);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "one"]);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "two"]);
    insta::assert_snapshot!("table_of_vms", place.ok(&["ls"]));
    // The time is that of the run.
    let points = place.ok(&["ls", "web01"]);
    let stable: Vec<String> = points
        .lines()
        .map(|line| {
            let words: Vec<&str> = line
                .split_whitespace()
                .filter(|w| !(w.contains(':') || w.len() == 10 && w.contains('-')))
                .collect();
            words.join(" ")
        })
        .collect();
    insta::assert_snapshot!("table_of_points", stable.join("\n"));
}

/// A package has a page for each subcommand; people look into the same sections in each.
#[test]
fn every_man_page_has_its_sections() {
    let dir = assets().join("man");
    let mut pages = 0;
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "1") {
            continue;
        }
        pages += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        for section in [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "EXAMPLES",
            "EXIT STATUS",
            "ENVIRONMENT",
            "FILES",
            "SEE ALSO",
        ] {
            let heading = text.lines().any(|line| {
                let title = line
                    .strip_prefix(".SH ")
                    .map(|title| title.trim_matches('"'));
                title.is_some_and(|title| title.replace("\\ ", " ") == section)
            });
            assert!(heading, "{}: {section}", path.display());
        }
        let title = text.lines().find(|line| line.starts_with(".TH")).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(title.starts_with(&format!(".TH {name} 1 ")), "{title}");
        assert!(
            title.contains(concat!("restorefs ", env!("CARGO_PKG_VERSION"))),
            "{title}"
        );
        assert!(
            !text.contains("guest\\-isolation\\fR]"),
            "{}",
            path.display()
        );
    }
    assert!(pages >= 20, "{pages} in {}", dir.display());
}
