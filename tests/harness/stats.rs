//! Metrics that Envoy and the ledger show to operators.

use crate::http1::Request;
use serde_json::Value;
use std::net::SocketAddr;

/// Envoy's counters and gauges whose names hold `part`.
pub async fn envoy(admin: SocketAddr, part: &str) -> Vec<(String, u64)> {
    let response = Request::get("/stats?format=json").send(admin).await;
    let stats = response.json();
    let stats = stats.get("stats").and_then(Value::as_array).cloned().unwrap_or_default();
    stats
        .iter()
        .filter_map(|stat| Some((stat.get("name")?.as_str()?.to_owned(), stat.get("value")?.as_u64()?)))
        .filter(|(name, _)| name.contains(part))
        .collect()
}

/// Envoy's metrics as Prometheus reads them.
pub async fn prometheus(admin: SocketAddr) -> String {
    Request::get("/stats/prometheus").send(admin).await.text()
}

/// The ledger's metrics.
pub async fn ledger(ledger: SocketAddr) -> String {
    Request::get("/metrics").send(ledger).await.text()
}

/// How many requests of a route the ledger answered.
pub async fn ledger_requests(address: SocketAddr, route: &str) -> u64 {
    let label = format!("route=\"{route}\"");
    let text = ledger(address).await;
    let lines = text
        .lines()
        .filter(|line| line.starts_with("agentrelay_ledger_http_requests") && line.contains(&label));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}
