//! Runs every command of README.md and of the pages below docs/, in order, in an empty directory,
//! by a shell in its own namespaces.
//!
//! # Invariants
//! - A block that `table` does not list, and an entry of `table` that matches no block, fail the
//!   test: no block is missed.
//! - A line is run as it stands. A line that cannot be run is named in `table::ELSEWHERE` with the
//!   reason, and printed.
//! - Everything that a section starts ends with it: a reader may begin with any section.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops at the first surprise and says what it skips; its numbers are small"
)]

#[path = "../kit/mod.rs"]
mod kit;
mod page;
mod program;
mod stage;
mod steps;
mod table;

use std::path::Path;

use crate::kit::need::need;
use kit::need::{can_mount, has};
use page::{Block, blocks, command};
use stage::Stage;
use steps::steps;
use table::{BLOCKS, ELSEWHERE, INLINE, Kind, SECTIONS, fits};

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The pages, in the order in which they are run: each goes on where the one before has ended.
const PAGES: [&str; 18] = [
    "README.md",
    "docs/restore.md",
    "docs/sessions.md",
    "docs/service.md",
    "docs/export.md",
    "docs/backup.md",
    "docs/copies.md",
    "docs/retention.md",
    "docs/verify.md",
    "docs/monitoring.md",
    "docs/metrics.md",
    "docs/policies.md",
    "docs/disaster-recovery.md",
    "docs/access.md",
    "docs/api.md",
    "docs/security.md",
    "docs/web.md",
    "docs/capture.md",
];

fn all_blocks() -> Vec<Block> {
    PAGES
        .iter()
        .flat_map(|page| blocks(page, &read(page)))
        .collect()
}

/// Every page below docs/ is run, and README.md leads to it.
#[test]
fn no_page_is_left_out() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let readme = read("README.md");
    for entry in std::fs::read_dir(docs).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let page = format!("docs/{name}");
        // Other files have tests of their own: tests/metrics runs the alerts.
        let is_run = PAGES.contains(&page.as_str()) || page == "docs/alerts.yml";
        assert!(is_run, "{page} is not run");
        assert!(
            readme.contains(&format!("]({page})")),
            "README.md does not name {page}"
        );
    }
    let lines = readme.lines().count();
    assert!(
        lines <= 160,
        "README.md has {lines} lines: a newcomer reads it in five minutes"
    );
}

/// A page that says how something is tested names tests that there are.
#[test]
fn tests_that_are_named_are_there() {
    let mut count = 0;
    for page in PAGES {
        let text = read(page);
        let quoted = text.split('`').skip(1).step_by(2);
        for (file, name) in quoted.filter_map(|word| word.split_once(".rs::")) {
            let file = format!("{file}.rs");
            let has = read(&file).contains(&format!("fn {name}()"));
            assert!(has, "{page}: there is no {name} in {file}");
            count += 1;
        }
    }
    assert!(count > 30, "only {count} tests are named");
}

/// The blocks with what they are; fails when README and table do not fit.
fn known(blocks: &[Block]) -> Vec<(&Block, &'static Kind)> {
    for (n, block) in blocks.iter().enumerate() {
        let (section, begins, _) = BLOCKS.get(n).unwrap_or_else(|| {
            panic!(
                "{}:{}: tests/readme/table.rs does not know this block",
                block.page, block.line
            )
        });
        assert!(
            block.section == *section && block.lines[0].starts_with(begins),
            "{}:{}: \"{}\" in \"{}\"; tests/readme/table.rs expects \"{begins}\" in \"{section}\"",
            block.page,
            block.line,
            block.lines[0],
            block.section
        );
    }
    assert_eq!(blocks.len(), BLOCKS.len(), "a block is gone");
    let kinds = BLOCKS.iter().map(|(_, _, kind)| kind);
    blocks.iter().zip(kinds).collect()
}

fn commands<'a>(blocks: &[(&'a Block, &Kind)]) -> Vec<&'a str> {
    blocks
        .iter()
        .filter(|(_, kind)| matches!(kind, Kind::Shell))
        .flat_map(|(block, _)| block.lines.iter())
        .map(|line| command(line))
        .filter(|line| !line.is_empty())
        .collect()
}

#[test]
fn the_table_fits_the_page() {
    let text: String = PAGES.iter().map(|page| read(page)).collect();
    let page = all_blocks();
    let known = known(&page);
    let commands = commands(&known);
    let prefixes = steps()
        .map(|step| step.line)
        .chain(INLINE.iter().map(|(line, _)| *line))
        .chain(ELSEWHERE.iter().map(|elsewhere| elsewhere.line));
    for prefix in prefixes {
        let found = commands.iter().filter(|line| fits(line, prefix));
        assert_eq!(
            found.count(),
            1,
            "lines of the pages that begin with {prefix}"
        );
    }
    let text: Vec<_> = text.split_whitespace().collect();
    let text = text.join(" ");
    for (_, command) in INLINE {
        assert!(
            text.contains(&format!("`{command}`")),
            "no page says {command}"
        );
    }
    for section in SECTIONS {
        assert!(
            page.iter().any(|block| block.section == section.name),
            "{}",
            section.name
        );
    }
    for line in commands.iter().filter(|line| line.ends_with('&')) {
        let waits = steps().any(|step| fits(line, step.line) && step.after.contains("ready"));
        assert!(waits, "nothing waits for what this starts: {line}");
    }
}

#[test]
fn what_only_a_machine_with_systemd_can_run_is_run_there() {
    let steps = read("tests/vm/steps");
    for elsewhere in ELSEWHERE.iter().filter(|elsewhere| elsewhere.on_machine) {
        assert!(
            steps.contains(elsewhere.line),
            "tests/vm/steps does not have: {}",
            elsewhere.line
        );
    }
    // The line of /etc/exports: its options, for another address.
    let options = "(ro,fsid=77,no_subtree_check,no_root_squash,crossmnt)";
    assert!(read("docs/export.md").contains(options) && steps.contains(options));
}

#[test]
fn every_command_works_as_it_stands_there() {
    if !can_mount() || !table::TOOLS.iter().all(|tool| has(tool)) || !can_overlay() {
        return;
    }
    let page = all_blocks();
    let known = known(&page);
    let mut stage = Stage::new();
    let mut section = "";
    for (block, kind) in &known {
        if block.section != section {
            leave(&mut stage, section);
            section = &block.section;
            enter(&mut stage, section, &known);
        }
        match kind {
            Kind::Picture => {}
            Kind::Shell => run(&mut stage, block),
            Kind::File { check, .. } | Kind::Files { check } => stage.quiet(check),
        }
    }
    leave(&mut stage, section);
    stage.end();
}

/// Whether the kernel has overlayfs, or gets it now.
fn can_overlay() -> bool {
    let has = || {
        std::fs::read_to_string("/proc/filesystems").is_ok_and(|all| all.contains("\toverlay\n"))
    };
    let can = has() || {
        let _ = std::process::Command::new("modprobe")
            .arg("overlay")
            .status();
        has()
    };
    need(can, "overlayfs in the kernel")
}

/// Puts the section's files in place, and what it takes for granted.
fn enter(stage: &mut Stage, section: &str, known: &[(&Block, &Kind)]) {
    println!("## {section}");
    for (block, kind) in known.iter().filter(|(block, _)| block.section == section) {
        match kind {
            Kind::File { path, .. } => stage.file(path, &block.lines),
            Kind::Files { .. } => {
                for (path, lines) in block.files() {
                    stage.file(path, lines);
                }
            }
            Kind::Picture | Kind::Shell => {}
        }
    }
    if let Some(section) = SECTIONS.iter().find(|known| known.name == section) {
        stage.quiet(section.before);
    }
}

/// Ends what the section has started, and looks at what it has left.
fn leave(stage: &mut Stage, section: &str) {
    if section.is_empty() {
        return;
    }
    stage.quiet("leave");
}

fn run(stage: &mut Stage, block: &Block) {
    for (n, line) in block.lines.iter().enumerate() {
        let at = block.line + 1 + n;
        let plain = command(line);
        if plain.is_empty() {
            continue;
        }
        if let Some(elsewhere) = ELSEWHERE.iter().find(|other| fits(plain, other.line)) {
            println!(
                "NOT RUN HERE: {plain} ({}; {})",
                elsewhere.reason, elsewhere.run_by
            );
            stage.quiet(elsewhere.instead);
            continue;
        }
        let step = steps().find(|step| fits(plain, step.line));
        if let Some(step) = step {
            stage.quiet(step.before);
        }
        let page = block.page;
        println!("{page}:{at}: {plain}");
        let said = stage.line(page, at, line);
        if let Some(step) = step {
            for words in step.says {
                assert!(
                    said.contains(words),
                    "{page}:{at}: {plain}\ndoes not say \"{words}\":\n{said}"
                );
            }
            stage.quiet(step.after);
        }
        for (_, inline) in INLINE.iter().filter(|(line, _)| fits(plain, line)) {
            println!("within the text: {inline}");
            stage.line(page, at, inline);
        }
    }
}
