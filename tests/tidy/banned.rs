//! Banned calls, each with what to use instead.

use crate::source::{Source, Violation, words};

/// A banned word: where the ban holds, whether also in tests, and what to say.
struct Ban {
    rule: &'static str,
    words: &'static [&'static str],
    /// Path prefixes where it is allowed.
    allowed: &'static [&'static str],
    in_tests: bool,
    say: &'static str,
}

const BANS: [Ban; 6] = [
    Ban {
        rule: "unfinished",
        words: &["todo!", "unimplemented!", "dbg!"],
        allowed: &["tests/tidy/"],
        in_tests: true,
        say: "finish it before it is committed",
    },
    Ban {
        rule: "ignored",
        // Put together, so that a search for ignored tests finds none here.
        words: &[concat!("#[", "ignore")],
        allowed: &["tests/tidy/"],
        in_tests: true,
        say: "a test runs, or prints SKIP and fails with CI_REQUIRE=1",
    },
    Ban {
        rule: "print",
        words: &["println!", "print!", "eprintln!", "eprint!"],
        allowed: &["src/cli/", "src/main.rs"],
        in_tests: false,
        say: "only the command line talks to the terminal; use tracing",
    },
    Ban {
        rule: "durable",
        words: &[
            "fs::write",
            "fs::rename",
            "fs::remove_file",
            "fs::remove_dir",
            "fs::remove_dir_all",
            "fs::create_dir",
            "fs::create_dir_all",
            "fs::hard_link",
            "fs::set_permissions",
            "fs::copy",
            "File::create",
            "File::create_new",
        ],
        allowed: &["src/sys/"],
        in_tests: false,
        say: "changes of names and files go through sys (durable, beneath), which syncs and follows no symlinks",
    },
    Ban {
        rule: "clock",
        words: &["Timestamp::now", "SystemTime::now", "Zoned::now"],
        allowed: &["src/clock/"],
        in_tests: false,
        say: "`now` is passed in: take a `Clock`",
    },
    Ban {
        rule: "exit",
        words: &["process::exit", "process::abort"],
        allowed: &["src/main.rs", "src/guest/worker/"],
        in_tests: false,
        say: "return an error: destructors release locks and mounts",
    },
];

/// Single places where a ban is lifted: (path, word, why).
const ALLOWED: [(&str, &str, &str); 10] = [
    (
        "src/cli/extract.rs",
        "fs::create_dir_all",
        "the target that the caller names; what goes below it goes through sys",
    ),
    (
        "src/daemon/interrupt.rs",
        "process::exit",
        "a second signal: whoever sends it does not want to wait for destructors",
    ),
    (
        "src/cli/assets.rs",
        "fs::create_dir_all",
        "the directory that the caller names, in a program that is not installed",
    ),
    (
        "src/cli/assets.rs",
        "fs::write",
        "the directory that the caller names, in a program that is not installed",
    ),
    (
        "src/service/restore/mod.rs",
        "fs::create_dir_all",
        "the target that the caller names; what goes below it goes through sys",
    ),
    (
        "src/cli/quickstart.rs",
        "fs::create_dir_all",
        "a sample that is made anew",
    ),
    (
        "src/cli/quickstart.rs",
        "fs::remove_dir_all",
        "a sample that is made anew",
    ),
    (
        "src/cli/sample.rs",
        "fs::create_dir_all",
        "a sample that is made anew",
    ),
    (
        "src/cli/sample.rs",
        "fs::write",
        "a sample that is made anew",
    ),
    (
        "src/cli/sample.rs",
        "fs::copy",
        "a sample that is made anew",
    ),
];

/// Checks a file for banned words.
pub(crate) fn check(source: &Source) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (n, line) in source.code.iter().enumerate() {
        for ban in &BANS {
            if source.is_below(ban.allowed) || (source.is_test(n) && !ban.in_tests) {
                continue;
            }
            for word in ban.words {
                let allowed = ALLOWED
                    .iter()
                    .any(|(path, allowed, _)| *path == source.path && allowed == word);
                if !allowed && words(line, word).next().is_some() {
                    let say = format!("`{word}`: {}", ban.say);
                    violations.push(source.violation(n, ban.rule, say));
                }
            }
        }
    }
    violations
}

#[test]
fn planted() {
    use crate::plant;
    plant(check, "src/repo/mod.rs", "todo!()", &["unfinished"]);
    plant(
        check,
        "src/repo/mod.rs",
        "unimplemented!()",
        &["unfinished"],
    );
    plant(check, "tests/it/main.rs", "dbg!(x)", &["unfinished"]);
    plant(
        check,
        "tests/it/main.rs",
        concat!("#[", "ignore]\nfn f() {}"),
        &["ignored"],
    );
    plant(check, "src/repo/mod.rs", "println!(\"x\")", &["print"]);
    plant(
        check,
        "src/repo/mod.rs",
        "std::fs::write(a, b)",
        &["durable"],
    );
    plant(check, "src/repo/mod.rs", "File::create(a)", &["durable"]);
    plant(
        check,
        "src/repo/mod.rs",
        "jiff::Timestamp::now()",
        &["clock"],
    );
    plant(check, "src/repo/mod.rs", "std::process::exit(1)", &["exit"]);
    plant(check, "src/cli/ls.rs", "println!(\"x\")", &[]);
    plant(check, "src/sys/durable.rs", "std::fs::rename(a, b)", &[]);
    plant(
        check,
        "src/repo/mod.rs",
        "#[cfg(test)]\nmod tests { std::fs::write(a, b) }",
        &[],
    );
    // What follows the tests is code again.
    plant(
        check,
        "src/repo/mod.rs",
        "#[cfg(test)]\nmod tests;\nfn f() { std::fs::write(a, b) }",
        &["durable"],
    );
    plant(
        check,
        "src/repo/mod.rs",
        "// todo!()\nlet x = \"todo!()\";",
        &[],
    );
}
