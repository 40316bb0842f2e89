//! What was served, in Envoy's stats: how long it took by service and outcome, and how many calls by tool.
//!
//! Names come from the policy, and their number is bounded: what comes after that is counted as `other`.

use crate::host::{Host, MetricKind};
use crate::lock::Locked;
use protocol::audit::{Decision, Outcome};

const SERVICES_MAX: usize = 50;
const TOOLS_MAX: usize = 200;
const OTHER: &str = "other";
/// A stream that a server keeps open says nothing about how fast it is.
const STREAM: &str = "GET stream";

/// Counts by service.
pub struct Served<H: Host> {
    all: Locked<All<H>>,
}

struct All<H: Host> {
    services: Vec<Service<H>>,
    /// How many tools all services have.
    tools: usize,
}

impl<H: Host> Default for Served<H> {
    fn default() -> Served<H> {
        Served { all: Locked::new(All { services: Vec::new(), tools: 0 }) }
    }
}

struct Service<H: Host> {
    name: String,
    /// Each defined when it is first needed.
    latencies: [Option<H::Metric>; Outcome::ALL.len()],
    tools: Vec<Tool<H>>,
}

struct Tool<H: Host> {
    name: String,
    metric: H::Metric,
    untold: i64,
}

impl<H: Host> Served<H> {
    /// Counts a decision on a request of a service.
    pub fn count(&self, decision: &Decision) {
        let Some(asked) = &decision.service else { return };
        let All { services, tools } = &mut *self.all.lock();
        let place = services.iter().position(|service| service.name == *asked).unwrap_or_else(|| {
            let is_full = services.len() >= SERVICES_MAX;
            let name = if is_full { OTHER.to_owned() } else { asked.clone() };
            let known = services.iter().position(|service| service.name == name);
            known.unwrap_or_else(|| {
                services.push(Service { name, latencies: [None; Outcome::ALL.len()], tools: Vec::new() });
                services.len().saturating_sub(1)
            })
        });
        let Some(service) = services.get_mut(place) else { return };
        let tool = decision.tool.as_deref().unwrap_or(OTHER);
        if tool != STREAM {
            service.took(decision.outcome, decision.duration_ms);
        }
        service.called(tool, tools);
    }

    /// Passes to Envoy the calls counted since the last time.
    pub fn tell(&self) {
        let mut all = self.all.lock();
        for tool in
            all.services.iter_mut().flat_map(|service| &mut service.tools).filter(|tool| tool.untold > 0)
        {
            H::add(tool.metric, std::mem::take(&mut tool.untold));
        }
    }
}

impl<H: Host> Service<H> {
    fn took(&mut self, outcome: Outcome, millis: u64) {
        let place = Outcome::ALL.iter().position(|known| *known == outcome);
        let Some(latency) = place.and_then(|place| self.latencies.get_mut(place)) else { return };
        let service = &self.name;
        let define = || {
            let labels = [("service", service.as_str()), ("outcome", outcome.as_str())];
            H::metric(MetricKind::Histogram, "agentrelay_latency_ms", &labels)
        };
        H::record(*latency.get_or_insert_with(define), millis);
    }

    fn called(&mut self, asked: &str, tools: &mut usize) {
        let find = |known: &[Tool<H>], name: &str| known.iter().position(|tool| tool.name == name);
        let name = if *tools < TOOLS_MAX { asked } else { OTHER };
        let place = find(&self.tools, asked).or_else(|| find(&self.tools, name)).unwrap_or_else(|| {
            let labels = [("service", self.name.as_str()), ("tool", &plain(name))];
            let metric = H::metric(MetricKind::Counter, "agentrelay_calls", &labels);
            *tools = tools.saturating_add(1);
            self.tools.push(Tool { name: name.to_owned(), metric, untold: 0 });
            self.tools.len().saturating_sub(1)
        });
        if let Some(tool) = self.tools.get_mut(place) {
            tool.untold = tool.untold.saturating_add(1);
        }
    }
}

/// A name without what has a meaning in the names of stats.
fn plain(name: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_graphic() && !".:;,".contains(letter) || letter == ' ';
    name.chars().map(|letter| if is_plain(letter) { letter } else { '_' }).collect()
}
