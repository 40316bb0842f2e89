//! Several workers on one hot key: how often their writes conflict, and whether all clients get the same share.

use super::{Section, seed::Seed};
use crate::cases::{Kind, request};
use crate::gate::{Gate, Site};
use crate::load::{Load, Until};
use crate::panels::Panel;
use crate::relay::Relay;
use std::rc::Rc;
use std::time::Duration;

const CONNECTIONS: usize = 32;
const TIME: Duration = Duration::from_secs(5);

/// With 1, 2 and 4 of them, on every core.
pub async fn measure(site: &Site, relay: &Relay, seed: &Seed) -> anyhow::Result<Section> {
    let mut section = Section {
        title: "Workers on one hot key (all cores, shared with the load)",
        columns: vec![
            "workers",
            "requests per second",
            "compare-and-swaps lost per 1000 requests",
            "refused",
            "fairness between connections (Jain)",
            "p50 / p99",
        ],
        rows: Vec::new(),
        breaks: Vec::new(),
        panels: Vec::new(),
    };
    let mut lost = Vec::new();
    for workers in [1, 2, 4] {
        let gate = Gate::start(site, &format!("workers-{workers}"), relay.filters(), workers).await?;
        let requests = Rc::new(vec![request(Kind::Get, seed.any(), "")]);
        let load = Load { gate: gate.address, requests, status: None };
        load.run(CONNECTIONS, 5000).await?;
        let retries = gate.stat("wasmcustom.agentrelay_cas_retries").await?;
        let measured = load.until(CONNECTIONS, Until::Time(TIME)).await?;
        let retries = gate.stat("wasmcustom.agentrelay_cas_retries").await? - retries;
        let each = retries as f64 * 1000.0 / measured.count() as f64;
        let refused: usize =
            measured.statuses.iter().filter(|(status, _)| **status != 200).map(|(_, count)| count).sum();
        section.rows.push(vec![
            workers.to_string(),
            format!("{:.0}", measured.per_second()),
            format!("{each:.1}"),
            refused.to_string(),
            format!("{:.3}", jain(&measured.by_connection)),
            format!("{:.0} / {:.0} us", measured.quantile_us(0.5), measured.quantile_us(0.99)),
        ]);
        section.breaks = vec![format!(
            "One hot key: with {workers} workers {each:.1} of 1000 compare-and-swaps are lost and tried again, {refused} of {} \
             requests were refused.",
            measured.count()
        )];
        lost.push((f64::from(workers), each));
    }
    section.panels.push(Panel::new("compare-and-swaps lost per 1000 requests", "workers on one key", lost));
    Ok(section)
}

/// Jain's index: 1 if all got the same, 1/n if one got everything.
fn jain(shares: &[usize]) -> f64 {
    let sum: f64 = shares.iter().map(|share| *share as f64).sum();
    let squares: f64 = shares.iter().map(|share| (*share as f64).powi(2)).sum();
    sum * sum / (shares.len() as f64 * squares)
}
