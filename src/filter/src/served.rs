//! What was served, in Envoy's stats: how long it took by service and outcome, and how many calls by tool.
//!
//! Names come from the policy, and their number is bounded: what comes after that is counted as `other`.

use crate::host::{Metric, metric};
use protocol::audit::{Decision, Outcome};
use proxy_wasm::types::MetricType;
use std::cell::RefCell;
use std::collections::BTreeMap;

const SERVICES_MAX: usize = 50;
const TOOLS_MAX: usize = 500;
const OTHER: &str = "other";
/// A stream that a server keeps open says nothing about how fast it is.
const STREAM: &str = "GET stream";

/// Counts by service.
#[derive(Default)]
pub struct Served {
    services: RefCell<Services>,
}

#[derive(Default)]
struct Services {
    by_name: BTreeMap<String, Service>,
    /// Tools of all services.
    tools: usize,
}

struct Service {
    /// Each defined when it is first needed.
    latencies: [Option<Metric>; Outcome::ALL.len()],
    tools: BTreeMap<String, Tool>,
}

struct Tool {
    metric: Metric,
    untold: i64,
}

impl Served {
    /// Counts a decision on a request of a service.
    pub fn count(&self, decision: &Decision) {
        let Some(service) = &decision.service else { return };
        let services = &mut *self.services.borrow_mut();
        let is_room = services.by_name.len() < SERVICES_MAX;
        let service = known(&services.by_name, service, is_room);
        if !services.by_name.contains_key(service) {
            let new = Service { latencies: [None; Outcome::ALL.len()], tools: BTreeMap::new() };
            services.by_name.insert(service.to_owned(), new);
        }
        let Some(of) = services.by_name.get_mut(service) else { return };
        let tool = decision.tool.as_deref().unwrap_or(OTHER);
        let place = Outcome::ALL.iter().position(|outcome| *outcome == decision.outcome);
        if let Some(latency) = place.and_then(|place| of.latencies.get_mut(place)).filter(|_| tool != STREAM)
        {
            let define = || {
                let outcome = decision.outcome;
                let name = format!("agentrelay_latency_ms.service={service}.outcome={outcome}");
                metric(MetricType::Histogram, &name)
            };
            latency.get_or_insert_with(define).record(decision.duration_ms);
        }
        let tool = known(&of.tools, tool, services.tools < TOOLS_MAX);
        if !of.tools.contains_key(tool) {
            let name = format!("agentrelay_calls.service={service}.tool={}", plain(tool));
            of.tools.insert(tool.to_owned(), Tool { metric: metric(MetricType::Counter, &name), untold: 0 });
            services.tools = services.tools.saturating_add(1);
        }
        if let Some(tool) = of.tools.get_mut(tool) {
            tool.untold = tool.untold.saturating_add(1);
        }
    }

    /// Passes to Envoy the calls counted since the last time.
    pub fn tell(&self) {
        for service in self.services.borrow_mut().by_name.values_mut() {
            for tool in service.tools.values_mut().filter(|tool| tool.untold > 0) {
                tool.metric.add(std::mem::take(&mut tool.untold));
            }
        }
    }
}

/// The name under which something is counted.
fn known<'n, V>(names: &BTreeMap<String, V>, name: &'n str, is_room: bool) -> &'n str {
    if is_room || names.contains_key(name) { name } else { OTHER }
}

/// A name without what has a meaning in the names of stats.
fn plain(name: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_graphic() && !".:;,".contains(letter) || letter == ' ';
    name.chars().map(|letter| if is_plain(letter) { letter } else { '_' }).collect()
}
