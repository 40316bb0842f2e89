//! Envoy stats of the module. Counts are collected here, and Envoy is told of them every tick.
//!
//! Envoy takes new metrics only while it reads a configuration, and numbers them for each by their order. So all are
//! defined then, in one order. What has names of services or tools, which come later, has labels.

use crate::abi::{self, EnvoyConfig, EnvoyExchange};
use gate::{Locked, MetricKind, name_with_labels};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock};

/// One metric with one set of labels. As many exist as there are outcomes, services and tools, whose numbers are bounded.
#[derive(Debug)]
pub struct Stat {
    kind: MetricKind,
    name: String,
    labels: Vec<String>,
    /// Its number in Envoy, looked up once: by then all are defined.
    number: OnceLock<Option<usize>>,
    untold: AtomicI64,
}

/// Metrics with labels: the names of services and tools are not known before there is a policy.
const LABELLED: [(MetricKind, &str, &[&str]); 2] = [
    (MetricKind::Histogram, "agentrelay_latency_ms", &["service", "outcome"]),
    (MetricKind::Counter, "agentrelay_calls", &["service", "tool"]),
];
const PANICS: &str = "agentrelay_panics";

static STATS: RwLock<Vec<&'static Stat>> = RwLock::new(Vec::new());
/// The number of each metric in Envoy, by name.
static NUMBERS: Locked<Vec<(String, usize)>> = Locked::new(Vec::new());

/// Defines all metrics for a configuration. `find_all` finds those of the gate.
pub fn define(config: EnvoyConfig, find_all: impl FnOnce()) {
    static PLAIN: OnceLock<Vec<&'static Stat>> = OnceLock::new();
    let plain = PLAIN.get_or_init(|| {
        find(MetricKind::Counter, PANICS, &[]);
        find_all();
        STATS.read().unwrap_or_else(PoisonError::into_inner).clone()
    });
    let plain = plain.iter().map(|stat| (stat.kind, stat.name.as_str(), &[] as &[&str]));
    let numbers = plain.chain(LABELLED).filter_map(|(kind, name, labels)| {
        config.define(kind, name, labels).map(|number| (name.to_owned(), number))
    });
    let numbers = numbers.collect();
    NUMBERS.replace(numbers);
}

/// The metric of this name with these labels.
pub fn find(kind: MetricKind, name: &str, labels: &[(&'static str, &str)]) -> &'static Stat {
    let (name, labels) = if LABELLED.iter().any(|(_, labelled, _)| *labelled == name) {
        (name.to_owned(), labels.iter().map(|(_, value)| (*value).to_owned()).collect())
    } else {
        (name_with_labels(name, labels), Vec::new())
    };
    let mut stats = STATS.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(stat) = stats.iter().find(|stat| stat.name == name && stat.labels == labels) {
        return stat;
    }
    let stat: &'static Stat =
        Box::leak(Box::new(Stat { kind, name, labels, number: OnceLock::new(), untold: AtomicI64::new(0) }));
    stats.push(stat);
    stat
}

impl Stat {
    /// Adds to it; Envoy hears of it with the next tick.
    pub fn add(&self, offset: i64) {
        self.untold.fetch_add(offset, Ordering::Relaxed);
    }

    /// Adds a value to a histogram.
    pub fn record(&self, exchange: EnvoyExchange, value: u64) {
        if let Some(number) = self.number() {
            exchange.record(number, &self.labels, value);
        }
    }

    fn number(&self) -> Option<usize> {
        let look_up = || {
            let numbers = NUMBERS.lock();
            numbers.iter().find(|(name, _)| *name == self.name).map(|(_, number)| *number)
        };
        *self.number.get_or_init(look_up)
    }
}

/// Tells Envoy of all that was counted since the last tick.
pub fn flush(config: EnvoyConfig) {
    static TOLD: AtomicI64 = AtomicI64::new(0);
    let caught = i64::try_from(abi::panics()).unwrap_or(i64::MAX);
    find(MetricKind::Counter, PANICS, &[]).add(caught.saturating_sub(TOLD.swap(caught, Ordering::Relaxed)));
    let stats = STATS.read().unwrap_or_else(PoisonError::into_inner).clone();
    for stat in stats {
        let untold = stat.untold.swap(0, Ordering::Relaxed);
        if let Some(number) = stat.number().filter(|_| untold != 0) {
            config.add(stat.kind, number, &stat.labels, untold);
        }
    }
}
