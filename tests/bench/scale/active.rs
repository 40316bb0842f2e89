//! Active keys in one Envoy: the memory of each, and whether many of them slow down requests.

use super::{Section, seed::Seed};
use crate::cases::{Kind, request};
use crate::gate::{Gate, Site};
use crate::load::{Connection, Load};
use crate::panels::Panel;
use crate::pause;
use crate::relay::Relay;
use anyhow::bail;
use rand::seq::SliceRandom;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const CONNECTIONS: usize = 16;

/// At each size.
pub async fn measure(site: &Site, relay: &Relay, seed: &Seed, sizes: &[usize]) -> anyhow::Result<Section> {
    let gate = Gate::start(site, "active", relay.filters(), 1).await?;
    site.cores.stay()?;
    let mut section = Section {
        title: "Active keys in one Envoy (1 worker)",
        columns: vec![
            "active keys",
            "learnt per second",
            "refused meanwhile",
            "RSS",
            "bytes per key",
            "p50 / p99, 1 connection",
            "Envoy CPU per request",
        ],
        rows: Vec::new(),
        breaks: Vec::new(),
        panels: Vec::new(),
    };
    let few = 10.min(seed.secrets.len());
    look_up_keys(&gate, seed, 0, few).await?;
    let load = requests(&gate, seed, few);
    for _ in 0..3 {
        load.run(16, 5000).await?;
    }
    let empty = gate.rss_kib()?;
    let mut known = few;
    let (mut bytes, mut waits, mut costs) = (Vec::new(), Vec::new(), Vec::new());
    for size in std::iter::once(few).chain(sizes.iter().copied().filter(|size| *size > few)) {
        let (rate, refused) = look_up_keys(&gate, seed, known, size).await?;
        known = known.max(size);
        gate.truncate_log()?;
        let load = requests(&gate, seed, size);
        // Windows that became idle meanwhile are dropped; now all of them exist at the same time.
        load.run(16, size.max(3000)).await?;
        let rss = gate.rss_kib()?;
        gate.settled_cpu_ns().await?;
        let before = gate.cpu_ns()?;
        let count = 10_000;
        load.run(16, count).await?;
        let cpu_us = (gate.settled_cpu_ns().await? - before) as f64 / 1e3 / count as f64;
        let single = load.run(1, 3000).await?;
        let each = (rss.saturating_sub(empty) * 1024) as f64 / size as f64;
        section.rows.push(vec![
            size.to_string(),
            if rate > 0.0 { format!("{rate:.0}") } else { String::new() },
            refused.to_string(),
            format!("{:.1} MiB", rss as f64 / 1024.0),
            if size > few { format!("{each:.0}") } else { String::new() },
            format!("{:.0} / {:.0} us", single.quantile_us(0.5), single.quantile_us(0.99)),
            format!("{cpu_us:.1} us"),
        ]);
        if refused > 0 {
            section.breaks.push(format!(
                "New keys: one worker learns {rate:.0} keys a second, so {size} took {:.0} s, in which {refused} requests of \
                 keys not yet known got 503.",
                (size - few) as f64 / rate
            ));
        }
        if size > few {
            bytes.push((size as f64, each));
        }
        waits.push((size as f64, single.quantile_us(0.99)));
        costs.push((size as f64, cpu_us));
    }
    // The largest size is enough.
    section.breaks = section.breaks.pop().into_iter().collect();
    section.panels.push(Panel::new("RSS for each active key, bytes", "active keys in one Envoy", bytes));
    section.panels.push(Panel::new("p99 at one connection, us", "active keys in one Envoy", waits));
    section.panels.push(Panel::new("Envoy CPU per request, us", "active keys in one Envoy", costs));
    Ok(section)
}

/// Sends requests with each key of a range until it is admitted. Returns how many were admitted per second, and how
/// many requests were refused because the worker limits its lookups.
async fn look_up_keys(gate: &Gate, seed: &Seed, from: usize, to: usize) -> anyhow::Result<(f64, usize)> {
    let began = Instant::now();
    let keys = seed.secrets.get(from..to).unwrap_or_default();
    let waiting = Rc::new(RefCell::new(keys.iter().cloned().collect::<VecDeque<String>>()));
    let mut running = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let connection = Connection::open(gate.address).await?;
        running.spawn_local(introduce(connection, Rc::clone(&waiting)));
    }
    let mut refused = 0;
    while let Some(own) = running.join_next().await {
        refused += own??;
    }
    Ok((keys.len() as f64 / began.elapsed().as_secs_f64(), refused))
}

async fn introduce(
    mut connection: Connection,
    waiting: Rc<RefCell<VecDeque<String>>>,
) -> anyhow::Result<usize> {
    let mut refused = 0;
    loop {
        let Some(key) = waiting.borrow_mut().pop_front() else { return Ok(refused) };
        match connection.call(&request(Kind::Get, &key, "")).await? {
            200 => {}
            503 => {
                refused += 1;
                waiting.borrow_mut().push_back(key);
                pause(Duration::from_millis(50)).await;
            }
            other => bail!("a key that was just made got {other}: {}", connection.last()),
        }
    }
}

/// Requests with so many keys, in random order.
fn requests(gate: &Gate, seed: &Seed, count: usize) -> Load {
    let mut requests: Vec<_> = seed.secrets[..count].iter().map(|key| request(Kind::Get, key, "")).collect();
    requests.shuffle(&mut rand::rng());
    Load { gate: gate.address, requests: Rc::new(requests), status: Some(200) }
}
