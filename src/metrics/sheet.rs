//! A sheet: the figures of one scrape, as text.

use std::collections::BTreeMap;

use prometheus::TextEncoder;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::{Family, Kind, series};
use crate::error::{Error, ErrorKind, Result};

/// The media type of a sheet's text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Figures that are found at a scrape, beside those that the process counts.
#[derive(Default)]
pub struct Sheet {
    families: BTreeMap<&'static str, MetricFamily>,
}

impl Sheet {
    /// Adds a figure of a counter or a gauge; `values` are those of the family's labels, in their order. A label has its
    /// value once: the caller does not add one figure twice.
    pub fn add(&mut self, family: &'static Family, values: &[&str], figure: f64) {
        debug_assert_eq!(family.labels.len(), values.len(), "{}", family.name);
        let kept = self.families.entry(family.name).or_insert_with(|| {
            let mut new = MetricFamily::default();
            new.set_name(family.name.to_owned());
            new.set_help(family.help.to_owned());
            new.set_field_type(match family.kind {
                Kind::Counter => MetricType::COUNTER,
                Kind::Gauge | Kind::Histogram => MetricType::GAUGE,
            });
            new
        });
        let labels = family.labels.iter().zip(values).map(|(name, value)| {
            let mut label = LabelPair::default();
            label.set_name((*name).to_owned());
            label.set_value((*value).to_owned());
            label
        });
        let mut metric = Metric::from_label(labels.collect());
        match family.kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(figure);
                metric.set_counter(counter);
            }
            Kind::Gauge | Kind::Histogram => {
                let mut gauge = Gauge::default();
                gauge.set_value(figure);
                metric.set_gauge(gauge);
            }
        }
        kept.mut_metric().push(metric);
    }

    /// Writes all families, those of the process included, by name in the classic text format of Prometheus.
    ///
    /// # Errors
    /// `Io` when the library refuses a figure.
    pub fn into_text(self) -> Result<String> {
        let process = series().map(|series| series.registry.gather());
        let mut all: Vec<MetricFamily> = self.families.into_values().collect();
        all.extend(process.into_iter().flatten());
        all.sort_by(|a, b| a.name().cmp(b.name()));
        TextEncoder::new().encode_to_string(&all).map_err(|e| {
            Error::new(ErrorKind::Io, "the metrics could not be written as text").caused_by(e)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Sheet;
    use crate::metrics::Family;

    static FAMILY: Family = Family::gauge("restorefs_test", &["a", "b"], "A test.");

    #[test]
    fn values_of_labels_are_escaped() {
        let mut sheet = Sheet::default();
        sheet.add(&FAMILY, &["x\"y\\z\n", "-"], 1.5);
        let text = sheet.into_text().unwrap();
        let line = text.lines().find(|line| line.starts_with("restorefs_test"));
        assert_eq!(line, Some(r#"restorefs_test{a="x\"y\\z\n",b="-"} 1.5"#));
    }

    #[test]
    fn the_figures_of_the_process_are_there_too() {
        let text = Sheet::default().into_text().unwrap();
        let version = format!(
            "restorefs_build_info{{version=\"{}\"}} 1",
            env!("CARGO_PKG_VERSION")
        );
        assert!(text.lines().any(|line| line == version), "{text}");
        assert!(!text.contains("restorefs_test"));
    }
}
