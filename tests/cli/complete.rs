//! Completion of names in the shells: what the built scripts offer.

use std::fs;
use std::path::PathBuf;

use crate::assets::assets;
use crate::kit::need::has;
use crate::kit::place::Place;
use crate::tool;

fn asset(name: &str) -> PathBuf {
    assets().join("completions").join(name)
}

fn place() -> Place {
    let place = Place::new();
    place.disk("a.raw", 2, 1);
    for (vm, point) in [
        ("web01", "one"),
        ("web01", "two"),
        ("web02", "one"),
        ("db01", "one"),
    ] {
        place.ok(&["backup", vm, "vda=a.raw", "--point", point]);
    }
    place
}

fn names(place: &Place, args: &[&str]) -> Vec<String> {
    let mut all = vec!["complete-names"];
    all.extend_from_slice(args);
    place.ok(&all).lines().map(str::to_owned).collect()
}

#[test]
fn words_become_names() {
    let place = place();
    assert_eq!(names(&place, &["we"]), ["web01", "web02"]);
    assert_eq!(names(&place, &[""]), ["db01", "web01", "web02"]);
    assert_eq!(
        names(&place, &["WEB01@"]),
        ["web01@latest", "web01@two", "web01@one"]
    );
    assert_eq!(names(&place, &["web01@o"]), ["web01@one"]);
    for nothing in ["vda=/x", "nobody@", "web01@latest:/", "\u{1b}"] {
        assert!(names(&place, &[nothing]).is_empty(), "{nothing}");
    }
    let repo = place.repo().display().to_string();
    for line in [vec!["-r", &repo, "info"], vec![&format!("--repo={repo}")]] {
        let mut args = vec!["complete-names", "db", "--"];
        args.extend(line.iter().map(|word| &**word));
        let output = place
            .command(&args)
            .env_remove("RESTOREFS_REPO")
            .output()
            .unwrap();
        assert_eq!(output.stdout, b"db01\n", "{line:?}");
    }
    // No repository is no reason to disturb who types.
    let output = place
        .command(&["-r", "nowhere", "complete-names", "x"])
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty() && output.stdout.is_empty());
    let daemon = place.serve(&[]);
    place.ok(&["begin", "web01", "--session", "nightly"]);
    assert_eq!(names(&place, &["web01/"]), ["web01/nightly"]);
    daemon.stop();
}

fn shell(place: &Place, program: &str, args: &[&str]) -> Vec<String> {
    // The scripts call the program by its name.
    let bin = place.path("bin");
    fs::create_dir_all(&bin).unwrap();
    let link = bin.join("restorefs");
    let _ = std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_restorefs"), &link);
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let output = tool::command(place, program, args)
        .env("PATH", path)
        .env("RESTOREFS_REPO", place.repo())
        .env("HOME", place.dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {said}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Bash cuts the line into words at @, as COMP_WORDBREAKS says; what is offered goes in the place of the last one.
#[test]
fn bash_offers_names() {
    let place = place();
    let complete = |line: &str, words: &str, count: usize| {
        let script = format!(
            ". {}; COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=({words}); COMP_CWORD={count}
             _restorefs_names restorefs \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"
             printf '%s\\n' \"${{COMPREPLY[@]}}\"; complete -p restorefs",
            asset("restorefs.bash").display()
        );
        shell(&place, "bash", &["--norc", "-c", &script])
    };
    let offered = complete("restorefs info web", "restorefs info web", 2);
    assert!(
        offered.contains(&"web01".to_owned()) && !offered.contains(&"db01".to_owned()),
        "{offered:?}"
    );
    assert!(
        offered.last().unwrap().contains("_restorefs_names"),
        "{offered:?}"
    );
    let offered = complete("restorefs info web01@o", "restorefs info web01 @ o", 4);
    assert!(
        offered.contains(&"one".to_owned()) && !offered.contains(&"two".to_owned()),
        "{offered:?}"
    );
    let offered = complete("restorefs info web01@", "restorefs info web01 @", 3);
    assert!(offered.contains(&"latest".to_owned()), "{offered:?}");
    let offered = complete("restorefs info --j", "restorefs info --j", 2);
    assert!(offered.contains(&"--json".to_owned()), "{offered:?}");
}

#[test]
fn fish_offers_names() {
    if !has("fish") {
        return;
    }
    let place = place();
    let complete = |line: &str| {
        let script = format!(
            "source {}; complete -C '{line}'",
            asset("restorefs.fish").display()
        );
        shell(&place, "fish", &["--no-config", "-c", &script])
    };
    let offered = complete("restorefs info we");
    assert!(
        offered.contains(&"web01".to_owned()) && offered.contains(&"web02".to_owned()),
        "{offered:?}"
    );
    let offered = complete("restorefs info web01@");
    assert!(offered.contains(&"web01@latest".to_owned()), "{offered:?}");
}

#[test]
fn zsh_offers_names() {
    if !has("zsh") {
        return;
    }
    let place = place();
    let script = format!(
        "autoload -Uz compinit; compinit -u -D; . {}
         _call_program() {{ shift; eval \"$*\" }}
         compadd() {{ print -l \"${{(@P)argv[-1]}}\" }}
         words=(restorefs info web01@); CURRENT=3; PREFIX=web01@; _restorefs_names",
        asset("_restorefs").display()
    );
    let offered = shell(&place, "zsh", &["-f", "-c", &script]);
    assert_eq!(offered, ["web01@latest", "web01@two", "web01@one"]);
    // The arguments that are names ask for them.
    let text = fs::read_to_string(asset("_restorefs")).unwrap();
    assert!(text.matches(":_restorefs_names'").count() >= 8);
}
