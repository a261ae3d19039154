//! README.md and the pages below docs/ as their fenced blocks.

/// A fenced block that is not empty.
pub(crate) struct Block {
    /// The file that it is in.
    pub(crate) page: &'static str,
    /// The heading above it.
    pub(crate) section: String,
    /// Line number of the opening fence, from 1.
    pub(crate) line: usize,
    pub(crate) lines: Vec<String>,
}

/// All blocks, in order.
pub(crate) fn blocks(page: &'static str, text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut section = String::new();
    let mut open: Option<Block> = None;
    for (n, line) in text.lines().enumerate() {
        let fence = line.trim_start().starts_with("```");
        match open.take() {
            Some(block) if fence => found.push(block),
            Some(mut block) => {
                block.lines.push(line.to_owned());
                open = Some(block);
            }
            None if fence => {
                open = Some(Block {
                    page,
                    section: section.clone(),
                    line: n + 1,
                    lines: Vec::new(),
                });
            }
            None if line.starts_with('#') => {
                section = line.trim_start_matches('#').trim().to_owned();
            }
            None => {}
        }
    }
    assert!(open.is_none(), "a fence is not closed");
    assert!(
        found.iter().all(|block| !block.lines.is_empty()),
        "an empty block"
    );
    found
}

impl Block {
    /// The files of a block in which each begins with a line `# /its/path`, and what may be said about it behind a comma or colon.
    pub(crate) fn files(&self) -> Vec<(&str, &[String])> {
        let path = |line: &'_ String| -> Option<usize> {
            let path = line.strip_prefix("# /")?;
            Some(path.find([':', ',', ' ']).unwrap_or(path.len()) + 3)
        };
        let starts: Vec<usize> = (0..self.lines.len())
            .filter(|&n| path(&self.lines[n]).is_some())
            .collect();
        assert_eq!(
            starts.first(),
            Some(&0),
            "line {}: a file without a path",
            self.line
        );
        let ends = starts.iter().skip(1).copied().chain([self.lines.len()]);
        let file = |(&start, end): (&usize, usize)| {
            let first = &self.lines[start];
            (&first[2..path(first).unwrap_or(2)], &self.lines[start..end])
        };
        starts.iter().zip(ends).map(file).collect()
    }
}

/// A line of a shell without its comment.
pub(crate) fn command(line: &str) -> &str {
    let mut quote = None;
    let mut before = ' ';
    for (n, c) in line.char_indices() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            None if c == '#' && before.is_whitespace() => return line[..n].trim(),
            _ => {}
        }
        before = c;
    }
    line.trim()
}

#[test]
fn comments_are_cut_and_nothing_else() {
    for (line, cut) in [
        ("a b   # c", "a b"),
        ("a 'b # c' \"# d\" e#f # g", "a 'b # c' \"# d\" e#f"),
        ("# a", ""),
        ("a & ", "a &"),
        ("\"${a%/*}\" # b", "\"${a%/*}\""),
    ] {
        assert_eq!(command(line), cut);
    }
}

#[test]
fn blocks_know_their_heading_and_their_files() {
    let text =
        "# top\n```\nx\n```\n## one\ntext\n```toml\n# /etc/a: why\na\n\n# /etc/b\n# more\nb\n```\n";
    let found = blocks("page.md", text);
    let sections: Vec<_> = found
        .iter()
        .map(|block| (block.section.as_str(), block.line))
        .collect();
    assert_eq!(sections, [("top", 2), ("one", 7)]);
    let files: Vec<_> = found[1]
        .files()
        .into_iter()
        .map(|(path, lines)| (path, lines.len()))
        .collect();
    assert_eq!(files, [("/etc/a", 3), ("/etc/b", 3)]);
}
