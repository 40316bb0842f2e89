//! Keys in the ledger: the time of a lookup and of a start, and the size of the file.

use super::{Section, seed::Seed};
use crate::load::Load;
use crate::panels::Panel;
use crate::process::rss_kib;
use crate::relay::Relay;
use protocol::api_key::KeyHash;
use std::fs;
use std::rc::Rc;

const LOOKUPS: usize = 5000;

/// At each size.
pub async fn measure(relay: &mut Relay, seed: &mut Seed, sizes: &[usize]) -> anyhow::Result<Section> {
    let mut section = Section {
        title: "Keys in the ledger (SQLite)",
        columns: vec![
            "keys",
            "made per second",
            "file",
            "bytes per key",
            "start",
            "RSS",
            "lookup p50 / p99, 1 connection",
            "p99, 16 connections",
            "lookups per second",
        ],
        rows: Vec::new(),
        breaks: Vec::new(),
        panels: Vec::new(),
    };
    let (mut waits, mut starts, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for size in sizes {
        let made = seed.fill(relay, *size).await?;
        let start = relay.restart().await?;
        let file = fs::metadata(&relay.database)?.len();
        let load = lookups(relay, seed);
        load.run(16, LOOKUPS).await?;
        let single = load.run(1, LOOKUPS).await?;
        let many = load.run(16, LOOKUPS * 4).await?;
        section.rows.push(vec![
            size.to_string(),
            format!("{made:.0}"),
            format!("{:.0} MiB", file as f64 / f64::from(1 << 20)),
            format!("{:.0}", file as f64 / *size as f64),
            format!("{:.2} s", start.as_secs_f64()),
            format!("{:.0} MiB", rss_kib(relay.pid())? as f64 / 1024.0),
            format!("{:.0} / {:.0} us", single.quantile_us(0.5), single.quantile_us(0.99)),
            format!("{:.0} us", many.quantile_us(0.99)),
            format!("{:.0}", many.per_second()),
        ]);
        waits.push((*size as f64, single.quantile_us(0.99)));
        starts.push((*size as f64, start.as_secs_f64() * 1000.0));
        rates.push(many.per_second());
    }
    if let (Some((_, few)), Some((size, many)), Some((_, start)), Some(rate)) =
        (waits.first(), waits.last(), starts.last(), rates.last())
    {
        section.breaks.push(format!(
            "Keys in the ledger: at {size} a lookup's p99 is {many:.0} us ({few:.0} us with few), {rate:.0} lookups a second \
             are answered, and a start takes {start:.0} ms."
        ));
    }
    section.panels.push(Panel::new("lookup p99, us", "keys in the ledger", waits));
    section.panels.push(Panel::new("start of the ledger, ms", "keys in the ledger", starts));
    Ok(section)
}

/// Lookups by filters, with random keys.
fn lookups(relay: &Relay, seed: &Seed) -> Load {
    let request = |_| {
        let body = format!(r#"{{"hash":"{}"}}"#, KeyHash::of(seed.any().as_bytes()));
        let (key, length) = (relay.filter_key(), body.len());
        let head = "POST /filter/v1/resolve HTTP/1.1\r\nhost: ledger\r\ncontent-type: application/json";
        format!("{head}\r\nauthorization: Bearer {key}\r\ncontent-length: {length}\r\n\r\n{body}")
            .into_bytes()
    };
    let requests = Rc::new((0..LOOKUPS * 4).map(request).collect());
    Load { gate: relay.address(), requests, status: Some(200) }
}
