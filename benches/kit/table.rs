//! Tables in Markdown: medians, and ratios to one row.

use std::collections::BTreeMap;

/// Results by row and column.
pub(crate) struct Table {
    title: String,
    columns: Vec<&'static str>,
    /// The row that the ratios are to.
    reference: &'static str,
    /// Whether values are times: then ratios are those of the speeds.
    seconds: bool,
    rows: Vec<String>,
    cells: BTreeMap<(usize, usize), Vec<f64>>,
    notes: Vec<String>,
}

impl Table {
    pub(crate) fn new(
        title: impl Into<String>,
        reference: &'static str,
        columns: &[&'static str],
    ) -> Self {
        Self {
            title: title.into(),
            columns: columns.to_vec(),
            reference,
            seconds: false,
            rows: Vec::new(),
            cells: BTreeMap::new(),
            notes: Vec::new(),
        }
    }

    /// Values are seconds; ratios are speeds.
    pub(crate) fn of_seconds(mut self) -> Self {
        self.seconds = true;
        self
    }

    /// One more measurement of a cell.
    pub(crate) fn add(&mut self, row: &str, column: &str, value: f64) {
        let row = match self.rows.iter().position(|name| name == row) {
            Some(row) => row,
            None => {
                self.rows.push(row.to_owned());
                self.rows.len() - 1
            }
        };
        let column = self.columns.iter().position(|name| *name == column);
        let column = column.unwrap_or(usize::MAX);
        self.cells.entry((row, column)).or_default().push(value);
    }

    /// Says why something is not in the table.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// The table.
    pub(crate) fn render(&self) -> String {
        use std::fmt::Write;
        let mut out = format!("### {}\n\n| |", self.title);
        let mut rule = String::from("|---|");
        for column in &self.columns {
            let _ = write!(out, " {column} | |");
            rule.push_str("--:|--:|");
        }
        let _ = write!(out, "\n{rule}\n");
        let reference = self.rows.iter().position(|row| row == self.reference);
        for (row, name) in self.rows.iter().enumerate() {
            let _ = write!(out, "| {name} |");
            for column in 0..self.columns.len() {
                let value = self.median(row, column);
                let base = reference.and_then(|row| self.median(row, column));
                match (value, base) {
                    (Some(value), Some(base)) if base > 0.0 && value > 0.0 => {
                        let ratio = if self.seconds {
                            base / value
                        } else {
                            value / base
                        };
                        let _ = write!(out, " {} | {ratio:.2} |", number(value));
                    }
                    (Some(value), _) => {
                        let _ = write!(out, " {} | |", number(value));
                    }
                    (None, _) => out.push_str(" | |"),
                }
            }
            out.push('\n');
        }
        let _ = write!(out, "\nRatios are to \"{}\".", self.reference);
        for note in &self.notes {
            let _ = write!(out, "\n- {note}");
        }
        out.push('\n');
        out
    }

    fn median(&self, row: usize, column: usize) -> Option<f64> {
        let mut values = self.cells.get(&(row, column))?.clone();
        values.sort_by(f64::total_cmp);
        let (below, above) = (
            values.get((values.len() - 1) / 2)?,
            values.get(values.len() / 2)?,
        );
        Some(f64::midpoint(*below, *above))
    }
}

fn number(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}
