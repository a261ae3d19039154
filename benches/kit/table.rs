//! Tables in Markdown and JSON: medians with their spread, ratios to one row, and what the programs used.

use std::collections::BTreeMap;

use super::usage::Usage;

/// One measurement.
#[derive(Clone, Copy)]
struct Cell {
    value: f64,
    usage: Option<Usage>,
}

/// Results by row and column.
pub(crate) struct Table {
    title: String,
    columns: Vec<&'static str>,
    /// The row that the ratios are to.
    reference: &'static str,
    /// Whether values are times: then ratios are those of the speeds.
    seconds: bool,
    rows: Vec<String>,
    cells: BTreeMap<(usize, usize), Vec<Cell>>,
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
        self.put(row, column, Cell { value, usage: None });
    }

    /// One more measurement of a cell, and what the program used for it.
    pub(crate) fn add_used(&mut self, row: &str, column: &str, value: f64, usage: &Usage) {
        let usage = Some(*usage);
        self.put(row, column, Cell { value, usage });
    }

    fn put(&mut self, row: &str, column: &str, cell: Cell) {
        let row = match self.rows.iter().position(|name| name == row) {
            Some(row) => row,
            None => {
                self.rows.push(row.to_owned());
                self.rows.len() - 1
            }
        };
        let column = self.columns.iter().position(|name| *name == column);
        let column = column.unwrap_or(usize::MAX);
        self.cells.entry((row, column)).or_default().push(cell);
    }

    /// Says why something is not in the table.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// The table: in each cell the median, the spread where there is one, and the ratio.
    pub(crate) fn render(&self) -> String {
        use std::fmt::Write;
        let mut out = format!("### {}\n\n| |", self.title);
        let mut rule = String::from("|---|");
        for column in &self.columns {
            let _ = write!(out, " {column} | |");
            rule.push_str("--:|--:|");
        }
        let _ = write!(out, "\n{rule}\n");
        for (row, name) in self.rows.iter().enumerate() {
            let _ = write!(out, "| {name} |");
            for column in 0..self.columns.len() {
                let Some(value) = self.figure(row, column) else {
                    out.push_str(" | |");
                    continue;
                };
                let _ = write!(out, " {}", number(value.median));
                if value.least < value.most {
                    let _ = write!(out, " ({}..{})", number(value.least), number(value.most));
                }
                match self.ratio(row, column) {
                    Some(ratio) => {
                        let _ = write!(out, " | {ratio:.2} |");
                    }
                    None => out.push_str(" | |"),
                }
            }
            out.push('\n');
        }
        let _ = write!(out, "\nRatios are to \"{}\".", self.reference);
        for note in &self.notes {
            let _ = write!(out, "\n- {note}");
        }
        out.push('\n');
        self.render_usage(&mut out);
        out
    }

    /// What the programs used, where it was measured: medians.
    fn render_usage(&self, out: &mut String) {
        use std::fmt::Write;
        let mut head =
            "\n| used | CPU s | context switches | largest RSS, MiB |\n|---|--:|--:|--:|\n";
        for &(row, column) in self.cells.keys() {
            let (Some(name), Some(of)) = (self.rows.get(row), self.columns.get(column)) else {
                continue;
            };
            let Some(usage) = self.usage(row, column) else {
                continue;
            };
            let _ = writeln!(
                out,
                "{head}| {name}: {of} | {:.2} | {} | {:.0} |",
                usage.cpu_seconds,
                usage
                    .switches
                    .map_or_else(String::new, |count| format!("{count:.0}")),
                usage.rss_bytes / f64::from(1 << 20)
            );
            head = "";
        }
    }

    /// The table as JSON: one object for each cell, with all its measurements.
    pub(crate) fn json(&self) -> serde_json::Value {
        let cells = self.cells.iter().map(|(&(row, column), cells)| {
            let figure = self.figure(row, column);
            let usage = self.usage(row, column);
            serde_json::json!({
                "row": self.rows.get(row), "column": self.columns.get(column),
                "median": figure.map(|f| f.median), "min": figure.map(|f| f.least), "max": figure.map(|f| f.most),
                "ratio": self.ratio(row, column), "values": cells.iter().map(|cell| cell.value).collect::<Vec<_>>(),
                "cpu_seconds": usage.map(|u| u.cpu_seconds), "context_switches": usage.and_then(|u| u.switches),
                "rss_bytes_max": usage.map(|u| u.rss_bytes),
            })
        });
        serde_json::json!({
            "title": self.title, "reference": self.reference, "notes": self.notes, "cells": cells.collect::<Vec<_>>(),
        })
    }

    fn figure(&self, row: usize, column: usize) -> Option<Figure> {
        let cells = self.cells.get(&(row, column))?;
        Figure::of(cells.iter().map(|cell| cell.value))
    }

    /// The ratio to the reference's cell in the same column; of speeds, where values are times.
    fn ratio(&self, row: usize, column: usize) -> Option<f64> {
        let value = self.figure(row, column)?.median;
        let reference = self.rows.iter().position(|row| row == self.reference)?;
        let base = self.figure(reference, column)?.median;
        let ratio = if self.seconds {
            base / value
        } else {
            value / base
        };
        (base > 0.0 && value > 0.0).then_some(ratio)
    }

    /// The medians of what was used.
    fn usage(&self, row: usize, column: usize) -> Option<Usage> {
        let cells = self.cells.get(&(row, column))?;
        let of = |pick: fn(&Usage) -> Option<f64>| -> Option<f64> {
            let used = cells.iter().filter_map(|cell| cell.usage.as_ref());
            Figure::of(used.filter_map(pick)).map(|figure| figure.median)
        };
        Some(Usage {
            seconds: of(|u| Some(u.seconds))?,
            cpu_seconds: of(|u| Some(u.cpu_seconds))?,
            switches: of(|u| u.switches),
            rss_bytes: of(|u| Some(u.rss_bytes))?,
        })
    }
}

/// Several measurements of the same thing.
#[derive(Clone, Copy)]
struct Figure {
    median: f64,
    least: f64,
    most: f64,
}

impl Figure {
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (below, above) = (
            values.get(values.len().checked_sub(1)? / 2)?,
            values.get(values.len() / 2)?,
        );
        Some(Self {
            median: f64::midpoint(*below, *above),
            least: *values.first()?,
            most: *values.last()?,
        })
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
