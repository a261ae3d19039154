//! A metric family: its name, its type, its labels, and what it means.

use prometheus::core::Collector;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// The type of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only rises, and begins at 0 with the process.
    Counter,
    /// It rises and falls.
    Gauge,
    /// Observations in buckets, their number and their sum.
    Histogram,
}

impl Kind {
    /// The spelling in the text format.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric family.
#[derive(Debug)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}

impl Family {
    /// A counter.
    #[must_use]
    pub const fn counter(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self {
            name,
            kind: Kind::Counter,
            labels,
            help,
        }
    }

    /// A gauge.
    #[must_use]
    pub const fn gauge(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self {
            kind: Kind::Gauge,
            ..Self::counter(name, labels, help)
        }
    }

    /// A histogram.
    #[must_use]
    pub const fn histogram(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self {
            kind: Kind::Histogram,
            ..Self::counter(name, labels, help)
        }
    }

    fn options(&self) -> Opts {
        Opts::new(self.name, self.help)
    }

    fn keep(registry: &Registry, family: &(impl Collector + Clone + 'static)) -> Registered<()> {
        registry.register(Box::new(family.clone()))
    }

    /// Registers a counter for each of these values of the labels, in their order.
    pub(super) fn counters(
        &self,
        registry: &Registry,
        values: &[&[&str]],
    ) -> Registered<Vec<IntCounter>> {
        let family = IntCounterVec::new(self.options(), self.labels)?;
        Self::keep(registry, &family)?;
        let each = values.iter();
        each.map(|values| family.get_metric_with_label_values(values))
            .collect()
    }

    /// Registers a gauge for each of these values of the labels, in their order.
    pub(super) fn gauges(
        &self,
        registry: &Registry,
        values: &[&[&str]],
    ) -> Registered<Vec<IntGauge>> {
        let family = IntGaugeVec::new(self.options(), self.labels)?;
        Self::keep(registry, &family)?;
        let each = values.iter();
        each.map(|values| family.get_metric_with_label_values(values))
            .collect()
    }

    /// Registers a histogram for each of these values of the labels, in their order.
    pub(super) fn histograms(
        &self,
        registry: &Registry,
        values: &[&[&str]],
        bounds: &[f64],
    ) -> Registered<Vec<prometheus::Histogram>> {
        let options = HistogramOpts::from(self.options()).buckets(bounds.to_vec());
        let family = HistogramVec::new(options, self.labels)?;
        Self::keep(registry, &family)?;
        let each = values.iter();
        each.map(|values| family.get_metric_with_label_values(values))
            .collect()
    }

    /// Registers a counter without labels.
    pub(super) fn single_counter(&self, registry: &Registry) -> Registered<IntCounter> {
        let counter = IntCounter::with_opts(self.options())?;
        Self::keep(registry, &counter)?;
        Ok(counter)
    }

    /// Registers a gauge without labels.
    pub(super) fn single_gauge(&self, registry: &Registry) -> Registered<IntGauge> {
        let gauge = IntGauge::with_opts(self.options())?;
        Self::keep(registry, &gauge)?;
        Ok(gauge)
    }

    /// Registers a histogram without labels.
    pub(super) fn single_histogram(
        &self,
        registry: &Registry,
        bounds: &[f64],
    ) -> Registered<prometheus::Histogram> {
        let options = HistogramOpts::from(self.options()).buckets(bounds.to_vec());
        let histogram = prometheus::Histogram::with_opts(options)?;
        Self::keep(registry, &histogram)?;
        Ok(histogram)
    }
}

/// The result of registering: an error is a name or a label that the format does not allow, or one that is there
/// twice.
pub(super) type Registered<T> = prometheus::Result<T>;
