//! Several Envoys on one ledger: the ledger calls for each thousand leased calls of a tool, which must decrease with
//! more load.

use super::{Section, seed::Seed};
use crate::cases::{Kind, request};
use crate::gate::{Gate, Site};
use crate::load::{Load, Until};
use crate::panels::Panel;
use crate::relay::Relay;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::JoinSet;

const TIME: Duration = Duration::from_secs(5);

/// With 1, 2 and 4 Envoys, each at low, medium and full load.
pub async fn measure(site: &Site, relay: &Relay, seed: &Seed) -> anyhow::Result<Section> {
    let mut section = Section {
        title: "Envoys on one ledger (leased tool, one tenant)",
        columns: vec![
            "Envoys",
            "connections each",
            "requests per second",
            "ledger calls per 1000 requests",
            "of these",
            "p50 / p99",
        ],
        rows: Vec::new(),
        breaks: Vec::new(),
        panels: Vec::new(),
    };
    let key = seed.any();
    let mut gates: Vec<Gate> = Vec::new();
    let (mut full, mut calls_max) = (Vec::new(), (0.0, 0.0));
    for envoys in [1, 2, 4] {
        while gates.len() < envoys {
            let gate = Gate::start(site, &format!("envoy-{}", gates.len()), relay.filters(), 1).await?;
            load(&gate, key).run(8, 2000).await?;
            gates.push(gate);
        }
        site.cores.stay()?;
        for connections in [1, 4, 16] {
            let before = relay.filter_calls().await?;
            let mut running = JoinSet::new();
            for gate in &gates {
                let load = load(gate, key);
                running.spawn_local(async move { load.until(connections, Until::Time(TIME)).await });
            }
            let (mut requests, mut rate, mut waits) = (0, 0.0, Vec::new());
            while let Some(measured) = running.join_next().await {
                let measured = measured??;
                requests += measured.count();
                rate += measured.per_second();
                waits.push((measured.quantile_us(0.5), measured.quantile_us(0.99)));
            }
            for gate in &gates {
                gate.settled_cpu_ns().await?;
                gate.truncate_log()?;
            }
            let after = relay.filter_calls().await?;
            let calls = |route: &str| {
                let count = after.get(route).unwrap_or(&0) - before.get(route).unwrap_or(&0);
                count as f64 * 1000.0 / f64::from(requests as u32)
            };
            let all: f64 = after.keys().map(|route| calls(route)).sum();
            let parts: Vec<String> = after
                .keys()
                .filter(|route| calls(route) >= 0.05)
                .map(|route| format!("{route} {:.1}", calls(route)))
                .collect();
            if all * rate / 1000.0 > calls_max.0 {
                calls_max = (all * rate / 1000.0, rate);
            }
            waits.sort_by(|a, b| a.1.total_cmp(&b.1));
            let (p50, p99) = waits.pop().unwrap_or((f64::NAN, f64::NAN));
            section.rows.push(vec![
                envoys.to_string(),
                connections.to_string(),
                format!("{rate:.0}"),
                format!("{all:.1}"),
                parts.join(", "),
                format!("{p50:.0} / {p99:.0} us"),
            ]);
            if connections == 16 {
                full.push((envoys as f64, all));
            }
        }
    }
    section.breaks.push(format!(
        "Envoys on one ledger: the most that it was asked were {:.0} calls a second, for {:.0} leased calls a second.",
        calls_max.0, calls_max.1
    ));
    section.panels.push(Panel::new("ledger calls per 1000 leased calls", "Envoys on one ledger", full));
    Ok(section)
}

fn load(gate: &Gate, key: &str) -> Load {
    let requests = Rc::new(vec![request(Kind::Mcp, key, "summarize")]);
    Load { gate: gate.address, requests, status: Some(200) }
}
