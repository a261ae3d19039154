//! Floors: a module imports only from lower floors, and neighbours on one floor do not import each other.

use crate::source::{Source, Violation, words};

/// Modules and their floors. A module is named by its first component, in `nbd` by two.
const FLOORS: [(&str, u32); 36] = [
    ("error", 0),
    ("types", 1),
    ("clock", 1),
    ("metrics", 1),
    ("log", 2),
    ("sys", 2),
    ("block", 3),
    ("nbd::proto", 3),
    ("tls", 3),
    ("task", 3),
    ("access", 4),
    ("nbd::client", 4),
    ("qcow2", 4),
    ("store", 4),
    ("chain", 5),
    ("guest", 5),
    ("repo", 6),
    ("layer", 7),
    ("point", 7),
    ("ingest", 8),
    ("tree", 9),
    ("capture", 10),
    ("export", 10),
    ("jobs", 10),
    ("service", 11),
    ("control", 12),
    ("fuse", 12),
    ("http", 12),
    ("nbd::server", 12),
    ("daemon", 13),
    ("map", 13),
    ("cli", 14),
    ("main", 15),
    // The module list itself.
    ("lib", 16),
    // Declares its modules and nothing else.
    ("nbd", 16),
    // Documentation that includes files (README) as doctests.
    ("doc", 16),
];

/// Neighbours that may be imported all the same: (importer, imported, why).
const EXCEPTIONS: [(&str, &str, &str); 0] = [];

fn floor(module: &str) -> Option<u32> {
    FLOORS
        .iter()
        .find(|(name, _)| *name == module)
        .map(|(_, floor)| *floor)
}

/// The module that a path of components belongs to.
fn module(parts: &[String]) -> String {
    match parts {
        [first, second, ..] if first == "nbd" => format!("nbd::{second}"),
        [first, ..] => first.clone(),
        [] => String::new(),
    }
}

fn module_of_file(path: &str) -> Option<String> {
    let parts: Vec<String> = path
        .strip_prefix("src/")?
        .strip_suffix(".rs")?
        .split('/')
        .filter(|part| *part != "mod")
        .map(str::to_owned)
        .collect();
    Some(module(&parts))
}

/// All paths of a use tree or path expression: `a::{b, c::d}` gives `a b` and `a c d`.
pub(crate) fn paths(text: &str) -> Vec<Vec<String>> {
    fn tree(chars: &[char], i: &mut usize, prefix: &[String], out: &mut Vec<Vec<String>>) {
        let mut path = prefix.to_vec();
        loop {
            while chars.get(*i).is_some_and(|c| c.is_whitespace()) {
                *i += 1;
            }
            if chars.get(*i) == Some(&'{') {
                *i += 1;
                while chars.get(*i).is_some_and(|c| *c != '}') {
                    let before = *i;
                    tree(chars, i, &path, out);
                    // What follows the path (`as x`, a comma) is skipped to the next branch.
                    while chars.get(*i).is_some_and(|c| *c != ',' && *c != '}') {
                        *i += 1;
                    }
                    if chars.get(*i) == Some(&',') {
                        *i += 1;
                    }
                    if *i == before {
                        break;
                    }
                }
                *i += 1;
                return;
            }
            let start = *i;
            while chars
                .get(*i)
                .is_some_and(|c| c.is_alphanumeric() || *c == '_')
            {
                *i += 1;
            }
            if start == *i {
                break;
            }
            path.push(chars[start..*i].iter().collect());
            if chars.get(*i) == Some(&':') && chars.get(*i + 1) == Some(&':') {
                *i += 2;
            } else {
                break;
            }
        }
        if path.len() > prefix.len() {
            out.push(path);
        }
    }
    let chars: Vec<char> = text.chars().collect();
    let mut out = Vec::new();
    tree(&chars, &mut 0, &[], &mut out);
    out
}

/// Checks a file's mentions of other modules.
pub(crate) fn check(source: &Source) -> Vec<Violation> {
    let Some(from) = module_of_file(&source.path) else {
        return Vec::new();
    };
    let Some(from_floor) = floor(&from) else {
        return vec![source.violation(
            0,
            "floor",
            format!("`{from}` has no floor in tests/tidy/floor.rs"),
        )];
    };
    let mut violations = Vec::new();
    let code = source.code.join("\n");
    let line_of = |at: usize| code[..at].matches('\n').count();
    if source.path == "src/nbd/mod.rs" {
        for (n, line) in source.code.iter().enumerate() {
            let line = line.trim();
            if !(line.is_empty() || line.starts_with("pub mod ") || line.starts_with("#[")) {
                violations.push(source.violation(
                    n,
                    "floor",
                    "nbd/mod.rs only declares its modules, which stand on different floors",
                ));
            }
        }
        return violations;
    }
    for at in words(&code, "super::super") {
        violations.push(source.violation(
            line_of(at),
            "super",
            "say `crate::...`, so that the floor is seen",
        ));
    }
    let is_root = source.path.matches('/').count() == 1
        || (source.path.ends_with("/mod.rs") && source.path.matches('/').count() == 2);
    let roots: &[&str] = match (is_root, source.path.as_str()) {
        (_, "src/main.rs") => &["crate::", "restorefs::"],
        (true, _) => &["crate::", "super::"],
        (false, _) => &["crate::"],
    };
    for root in roots {
        for at in words(&code, root) {
            // `pub(in crate::x)` and the like count too; within the unit tests of a root module, `super` is the module itself.
            if *root == "super::" && source.is_test(line_of(at)) {
                continue;
            }
            for path in paths(&code[at + root.len()..]) {
                let to = module(&path);
                let say = match floor(&to) {
                    _ if to == from => continue,
                    // A macro or item of the crate's root.
                    None if *root == "super::" => continue,
                    None => format!("`{to}` has no floor in tests/tidy/floor.rs"),
                    Some(to_floor) if to_floor > from_floor => {
                        format!(
                            "`{from}` (floor {from_floor}) imports `{to}` (floor {to_floor}) from above"
                        )
                    }
                    Some(to_floor) if to_floor == from_floor => {
                        if EXCEPTIONS.iter().any(|(a, b, _)| *a == from && *b == to) {
                            continue;
                        }
                        format!("`{from}` imports its neighbour `{to}` on floor {to_floor}")
                    }
                    Some(_) => continue,
                };
                violations.push(source.violation(line_of(at), "floor", say));
            }
        }
    }
    violations
}

/// The module list of lib.rs stands in floor order.
#[test]
fn lib_lists_the_modules_from_the_ground_up() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/lib.rs")).unwrap();
    let floors: Vec<(u32, String)> = Source::new("src/lib.rs", &text)
        .code
        .iter()
        .filter_map(|line| line.trim().strip_prefix("pub mod ")?.strip_suffix(';'))
        // nbd spans three floors and is listed with the one in the middle.
        .map(|name| match name {
            "nbd" => (4, name.to_owned()),
            name => (
                floor(name).unwrap_or_else(|| panic!("{name} has no floor")),
                name.to_owned(),
            ),
        })
        .collect();
    assert!(
        floors.is_sorted_by_key(|(floor, _)| *floor),
        "out of floor order: {floors:?}"
    );
}

#[test]
fn planted() {
    use crate::plant;
    plant(
        check,
        "src/block/file.rs",
        "use crate::store::Key;",
        &["floor"],
    );
    plant(
        check,
        "src/block/file.rs",
        "use crate::{error::Result, chain::{A, B}};",
        &["floor", "floor"],
    );
    plant(
        check,
        "src/block/file.rs",
        "fn f() { crate::daemon::run() }",
        &["floor"],
    );
    plant(
        check,
        "src/block/mod.rs",
        "use super::repo::Repo;",
        &["floor"],
    );
    plant(
        check,
        "src/block/file.rs",
        "use super::super::repo;",
        &["super"],
    );
    plant(
        check,
        "src/block/file.rs",
        "$crate::guest::x!()",
        &["floor"],
    );
    plant(
        check,
        "src/nbd/proto/mod.rs",
        "use crate::nbd::server::X;",
        &["floor"],
    );
    plant(
        check,
        "src/nbd/server/mod.rs",
        "use crate::fuse::X;",
        &["floor"],
    );
    plant(
        check,
        "src/nbd/mod.rs",
        "//! x\npub mod client;\nuse crate::error::Result;",
        &["floor"],
    );
    plant(check, "src/unheard/of.rs", "", &["floor"]);
    plant(
        check,
        "src/tree/mod.rs",
        "use crate::unheard::Of;",
        &["floor"],
    );
    plant(check, "src/main.rs", "use restorefs::cli;", &[]);
    plant(
        check,
        "src/guest/mod.rs",
        "use crate::block::{self, ReadAt};\nuse crate::guest::fs; // crate::cli::x",
        &[],
    );
    plant(
        check,
        "src/nbd/client/mod.rs",
        "use crate::nbd::{proto::A, client::B};",
        &[],
    );
    plant(check, "src/cli/mod.rs", "use crate::nbd::client::A;", &[]);
    plant(
        check,
        "src/block/mod.rs",
        "#[cfg(test)]\nmod tests { use super::repo; }",
        &[],
    );
    plant(check, "tests/it/main.rs", "use crate::anything;", &[]);
}

/// Every module in turn imports from every other: what stands on the same floor or above is found, what stands below is not.
#[test]
fn planted_between_any_two_modules() {
    let modules: Vec<_> = FLOORS.iter().filter(|(_, floor)| *floor < 15).collect();
    for (importer, on) in &modules {
        let path = format!("src/{}/x.rs", importer.replace("::", "/"));
        for (imported, below) in &modules {
            let text = format!("use crate::{imported}::Thing;");
            let found = check(&Source::new(&path, &text)).len();
            let expected = usize::from(importer != imported && below >= on);
            assert_eq!(
                found, expected,
                "{importer} ({on}) imports {imported} ({below})"
            );
        }
    }
}
