//! Circles: the files and rooms of a module import each other in one direction only.
//!
//! A room's own `mod.rs` ties its files together and is left out; a name that it re-exports counts as an import
//! of the file that has it. Unit tests do not count.

use std::collections::{BTreeMap, BTreeSet};

use crate::floor::paths;
use crate::source::{Source, Violation, words};

/// Circles that are still there, each as `room: a b c`. The list may only shrink.
const KNOWN: [&str; 0] = [];

/// Components of a module's path below the crate.
type Module = Vec<String>;

/// The module of a source file.
fn module_of(path: &str) -> Option<Module> {
    let parts = path.strip_prefix("src/")?.strip_suffix(".rs")?.split('/');
    Some(
        parts
            .filter(|part| *part != "mod")
            .map(str::to_owned)
            .collect(),
    )
}

/// The code of a file without the items that are compiled for tests only.
fn code_of(source: &Source) -> String {
    let lines = source.code.iter().enumerate();
    let code = lines.filter(|(line, _)| !source.is_test(*line));
    code.flat_map(|(_, line)| [line.as_str(), "\n"]).collect()
}

/// Modules that a file declares for its tests only.
fn test_modules(source: &Source) -> Vec<String> {
    let lines = source.code.windows(2);
    let declared = lines.filter(|pair| pair[0].trim() == "#[cfg(test)]");
    declared
        .filter_map(|pair| pair[1].trim().rsplit_once("mod ")?.1.strip_suffix(';'))
        .map(str::to_owned)
        .collect()
}

/// The absolute paths in a text: from `crate`, `super` and `self`.
fn absolute(module: &Module, text: &str) -> Vec<Module> {
    let above = module.split_last().map_or(&[][..], |(_, above)| above);
    let roots: [(&str, &[String]); 3] = [("crate::", &[]), ("super::", above), ("self::", module)];
    let mut all = Vec::new();
    for (root, base) in roots {
        for at in words(text, root) {
            // `use a::{self, b}` is no root, and neither is a crate's own `x::super`.
            if text[..at].ends_with("::") {
                continue;
            }
            let found = paths(&text[at + root.len()..]);
            all.extend(found.into_iter().map(|path| [base, &path].concat()));
        }
    }
    all
}

/// The modules of the crate, and the names that they re-export.
struct Crate {
    modules: BTreeMap<Module, String>,
    exports: BTreeMap<Module, Module>,
}

impl Crate {
    fn of(sources: &[Source]) -> Self {
        let named = |source: &Source| Some((module_of(&source.path)?, code_of(source)));
        let mut modules: BTreeMap<Module, String> = sources.iter().filter_map(named).collect();
        for source in sources {
            let Some(module) = module_of(&source.path) else {
                continue;
            };
            for test in test_modules(source) {
                let inner = [&module[..], &[test]].concat();
                modules.retain(|other, _| !other.starts_with(&inner));
            }
        }
        let mut exports = BTreeMap::new();
        for (module, code) in &modules {
            for statement in code.split(';') {
                let Some((head, tree)) = statement.rsplit_once("use ") else {
                    continue;
                };
                let head = head.rsplit('\n').next().unwrap_or_default();
                if !head.trim_start().starts_with("pub") {
                    continue;
                }
                // A path that begins with no root begins in the module itself.
                let is_rooted = ["crate::", "super::", "self::"]
                    .iter()
                    .any(|root| tree.starts_with(root));
                let rooted = if is_rooted {
                    tree.to_owned()
                } else {
                    format!("self::{tree}")
                };
                for path in absolute(module, &rooted) {
                    if let Some(name) = path.last() {
                        exports.insert(
                            [&module[..], std::slice::from_ref(name)].concat(),
                            path.clone(),
                        );
                    }
                }
            }
        }
        Self { modules, exports }
    }

    /// The module that a path leads to, through re-exports.
    fn resolve(&self, path: &Module) -> Module {
        let mut path = path.clone();
        // LIMIT: re-exports of re-exports.
        for _ in 0..8 {
            let length = (0..=path.len())
                .rev()
                .find(|length| self.modules.contains_key(&path[..*length]))
                .unwrap_or(0);
            let named = path.get(..=length).and_then(|name| self.exports.get(name));
            match named {
                Some(real) if *real != path => {
                    path = [real, &path[length + 1..]].concat();
                }
                _ => return path[..length].to_vec(),
            }
        }
        path
    }

    /// Which modules each module imports.
    fn imports(&self) -> BTreeMap<&Module, BTreeSet<Module>> {
        let of = |(module, code): (_, &String)| {
            let paths = absolute(module, code);
            (
                module,
                paths.iter().map(|path| self.resolve(path)).collect(),
            )
        };
        self.modules.iter().map(of).collect()
    }

    /// The circles in all rooms, each as `room: a b c`.
    fn circles(&self) -> Vec<String> {
        let imports = self.imports();
        let rooms: BTreeSet<&[String]> = self
            .modules
            .keys()
            .flat_map(|module| (1..module.len()).map(|length| &module[..length]))
            .collect();
        let mut found = Vec::new();
        for room in rooms {
            let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
            for (from, all) in &imports {
                let Some(a) = child(room, from) else { continue };
                let inner = all.iter().filter_map(|to| child(room, to));
                let inner = inner.filter(|b| *b != a);
                edges.entry(a).or_default().extend(inner);
            }
            for circle in components(&edges) {
                let names: Vec<&str> = circle.into_iter().collect();
                found.push(format!("{}: {}", room.join("::"), names.join(" ")));
            }
        }
        found
    }
}

/// The file or room directly in `room` that a module belongs to.
fn child<'a>(room: &[String], module: &'a Module) -> Option<&'a str> {
    let rest = module.strip_prefix(room)?;
    rest.first().map(String::as_str)
}

/// Sets of nodes that reach each other.
fn components<'a>(edges: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<BTreeSet<&'a str>> {
    let reach = |from: &'a str| {
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let mut open = vec![from];
        while let Some(next) = open.pop() {
            for to in edges.get(next).into_iter().flatten() {
                if seen.insert(to) {
                    open.push(to);
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        edges.keys().map(|node| (*node, reach(node))).collect();
    let on_circle = reached.iter().filter(|(node, seen)| seen.contains(*node));
    on_circle
        .map(|(node, seen)| {
            let back = |other: &&&str| reached.get(**other).is_some_and(|seen| seen.contains(node));
            seen.iter().filter(back).copied().collect()
        })
        .collect()
}

/// Checks all files of the crate together.
pub(crate) fn check(sources: &[Source]) -> Vec<Violation> {
    let circles = Crate::of(sources).circles();
    let gone = KNOWN
        .iter()
        .filter(|known| !circles.iter().any(|circle| circle == **known))
        .map(|known| {
            (
                known.to_string(),
                "the circle is gone: strike it off the list",
            )
        });
    let new = circles
        .iter()
        .filter(|circle| !KNOWN.contains(&circle.as_str()))
        .map(|circle| {
            let say = "these import each other: move what they share into a file of its own noun";
            (circle.clone(), say)
        });
    new.chain(gone)
        .map(|(circle, say)| Violation {
            place: circle,
            rule: "circle",
            say: say.to_owned(),
        })
        .collect()
}

fn found(files: &[(&str, &str)]) -> Vec<String> {
    let sources: Vec<Source> = files
        .iter()
        .map(|(path, text)| Source::new(path, text))
        .collect();
    Crate::of(&sources).circles()
}

#[test]
fn planted() {
    // Two files; a path in an expression counts as an import.
    let one = ("src/a/one.rs", "use super::two::Two;\nstruct One;");
    let two = ("src/a/two.rs", "fn f() -> crate::a::one::One { g() }");
    assert_eq!(found(&[one, two]), ["a: one two"]);
    // Three files, one import by a group and one by a name that the room re-exports.
    let room = ("src/a/mod.rs", "pub use three::{Three, X};\nmod three;");
    let grouped = ("src/a/two.rs", "use crate::{b::B, a::{self, Three}};");
    let three = ("src/a/three.rs", "use super::{one, other};");
    assert_eq!(found(&[room, one, grouped, three]), ["a: one three two"]);
    // A room within a room, and a circle within that.
    let inner = ("src/a/inner/x.rs", "use crate::a::one::One;\nuse super::y;");
    let other = ("src/a/inner/y.rs", "use super::x::X;");
    let outer = ("src/a/one.rs", "use super::inner::y::Y;");
    assert_eq!(
        found(&[inner, other, outer]),
        ["a: inner one", "a::inner: x y"]
    );
}

#[test]
fn no_circles_are_found_where_there_are_none() {
    let one = (
        "src/a/one.rs",
        "use super::two::Two; // super::three\nuse super::A;",
    );
    let two = (
        "src/a/two.rs",
        "#[cfg(test)]\nmod tests { use super::super::one::One; }",
    );
    let room = (
        "src/a/mod.rs",
        "mod one;\nmod two;\n#[cfg(test)]\nmod tests;\nuse one::One;",
    );
    let tests = ("src/a/tests.rs", "use super::one::One;");
    assert!(found(&[one, two, room, tests]).is_empty());
    // What follows an item for tests counts.
    let one = (
        "src/a/one.rs",
        "#[cfg(test)]\nmod t {\n use super::x;\n}\nuse super::two::Two;",
    );
    let two = (
        "src/a/two.rs",
        "#[cfg(test)]\nuse a::B;\nuse super::one::One;",
    );
    assert_eq!(found(&[one, two]), ["a: one two"]);
}
