//! Names for directories.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::collections::BTreeSet;

use crate::types::PointName;

/// Assigns directory names, each once.
#[derive(Default)]
pub(super) struct Labels(BTreeSet<String>);

impl Labels {
    /// The first of the wished names that is usable, else one derived from the path.
    pub(super) fn take(&mut self, wished: &[Option<String>], path: &str) -> String {
        let good = |name: &String| PointName::new(name.clone()).is_ok();
        let plain: String = path
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || "._".contains(c) {
                    c
                } else {
                    '-'
                }
            })
            .take(100)
            .collect();
        let first = wished.iter().flatten().find(|name| good(name)).cloned();
        let first = first.unwrap_or_else(|| {
            let plain = plain.replace("..", "-");
            Some(plain.clone())
                .filter(good)
                .unwrap_or_else(|| format!("volume{plain}"))
        });
        let mut name = first.clone();
        for n in 2u64.. {
            if self.0.insert(name.to_ascii_lowercase()) {
                break;
            }
            let short: String = first.chars().take(100).collect();
            name = format!("{short}-{n}");
        }
        name
    }
}
