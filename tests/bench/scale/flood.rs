//! A flood of well-formed unknown keys, each of which needs a lookup: does it affect a known key?

use super::{Section, seed::Seed};
use crate::cases::{Kind, request};
use crate::gate::{Gate, Site};
use crate::load::{Connection, Load, Until};
use crate::pause;
use crate::relay::Relay;
use protocol::api_key::{Kind as Door, mint};
use std::rc::Rc;
use std::time::{Duration, Instant};

const UNKNOWN: usize = 100_000;
const TIME: Duration = Duration::from_secs(10);

/// Before the flood, and during it.
pub async fn measure(site: &Site, relay: &Relay, seed: &Seed) -> anyhow::Result<Section> {
    let gate = Gate::start(site, "flood", relay.filters(), 1).await?;
    site.cores.stay()?;
    let known = Load {
        gate: gate.address,
        requests: Rc::new(vec![request(Kind::Get, seed.any(), "")]),
        status: Some(200),
    };
    let secret = |_| request(Kind::Get, &mint(Door::Agent, rand::random), "");
    let unknown =
        Load { gate: gate.address, requests: Rc::new((0..UNKNOWN).map(secret).collect()), status: None };
    known.run(16, 5000).await?;
    let quiet = known.until(1, Until::Time(Duration::from_secs(3))).await?;
    let quiet_rss = gate.rss_kib()?;
    let asked = relay.filter_calls().await?;
    let (during, flood, (tried, let_in)) = tokio::try_join!(
        known.until(1, Until::Time(TIME)),
        unknown.until(16, Until::Time(TIME)),
        uncached_keys(&gate, seed)
    )?;
    let asked_after = relay.filter_calls().await?;
    let rss = gate.rss_kib()?;
    let resolves =
        asked_after.get("resolve").copied().unwrap_or(0) - asked.get("resolve").copied().unwrap_or(0);
    let statuses: Vec<String> =
        flood.statuses.iter().map(|(status, count)| format!("{count} times {status}")).collect();
    let row = |name: &str, own: &crate::load::Measured, others: f64, calls: f64, rss: u64| {
        vec![
            name.to_owned(),
            format!("{others:.0}"),
            format!("{calls:.0}"),
            format!("{:.0} / {:.0} us", own.quantile_us(0.5), own.quantile_us(0.99)),
            format!("{:.1} MiB", rss as f64 / 1024.0),
        ]
    };
    let calls = resolves as f64 / flood.seconds;
    Ok(Section {
        title: "A flood of unknown keys (1 worker, a known key beside it)",
        columns: vec![
            "",
            "unknown keys per second",
            "ledger lookups per second",
            "the known key's p50 / p99",
            "RSS of Envoy",
        ],
        rows: vec![
            row("before", &quiet, 0.0, 0.0, quiet_rss),
            row("during", &during, flood.per_second(), calls, rss),
        ],
        breaks: vec![format!(
            "Unknown keys: at {:.0} a second the known key got every answer and the ledger {calls:.0} lookups a second; \
             the flood got {}. A good key that is new to the worker was let in {let_in} of {tried} times, else 503.",
            flood.per_second(),
            statuses.join(", ")
        )],
        panels: Vec::new(),
    })
}

/// Sends requests with valid keys that this Envoy has not cached, each until it is admitted. Returns the number of
/// requests and of admitted keys.
async fn uncached_keys(gate: &Gate, seed: &Seed) -> anyhow::Result<(usize, usize)> {
    let began = Instant::now();
    let mut connection = Connection::open(gate.address).await?;
    let (mut tried, mut let_in) = (0, 0);
    while began.elapsed() < TIME {
        let Some(key) = seed.secrets.get(let_in) else { break };
        tried += 1;
        if connection.call(&request(Kind::Get, key, "")).await? == 200 {
            let_in += 1;
        }
        pause(Duration::from_millis(20)).await;
    }
    Ok((tried, let_in))
}
