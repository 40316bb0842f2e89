//! Sums over adjacent periods add up to the sum over both, in any time zone, or the periods are refused.

use super::on_both::Ledger;
use harness::ledger::uuid_of;
use harness::{Request, run};
use protocol::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

const QUARTER_MILLIS: u64 = 900_000;
const HOUR_MILLIS: u64 = 3_600_000;
/// 2024-03-01, so that no clock is earlier.
const BEGIN_MILLIS: u64 = 1_709_251_200_000;
const QUARTERS: u64 = 3 * 96;

/// A moment as written so many minutes east of Greenwich.
fn written(millis: u64, minutes_east: i64) -> String {
    let shift = minutes_east.unsigned_abs() * 60_000;
    let local = if minutes_east < 0 { millis - shift } else { millis + shift };
    let text = Timestamp::from_millis(local).to_string();
    let sign = if minutes_east < 0 { '-' } else { '+' };
    let (hours, minutes) = (minutes_east.abs() / 60, minutes_east.abs() % 60);
    format!("{}{sign}{hours:02}:{minutes:02}", text.trim_end_matches('Z'))
}

/// Calls at random times. Returns the times.
async fn called(ledger: &Ledger, random: &mut StdRng) -> Vec<u64> {
    let (tenant, key) = ledger.served.payer(1000).await;
    let times: Vec<u64> =
        (0..300).map(|_| BEGIN_MILLIS + random.random_range(0..QUARTERS * QUARTER_MILLIS)).collect();
    let decisions = times
        .iter()
        .enumerate()
        .map(|(number, at)| {
            json!({
                "id": uuid_of(&format!("d{number}")), "at": Timestamp::from_millis(*at), "outcome": "allowed",
                "key_id": key.key.id, "tenant_id": tenant, "service": "studio", "tool": "search", "credits": 0,
                "status": 200, "duration_ms": 12, "would_deny": "tier_denied", "policy_version": "v1", "envoy": "e1",
            })
        });
    assert_eq!(ledger.served.filter(0).report("usage", decisions).await, Some(200));
    times
}

async fn ask(ledger: &Ledger, path: &str, from: &str, to: &str) -> (u16, Value) {
    let query = format!("from={}&to={}", from.replace('+', "%2B"), to.replace('+', "%2B"));
    let address = ledger.served.url(0).trim_start_matches("http://").parse().unwrap();
    let request = Request::get(format!("{path}?{query}")).key(&ledger.served.credentials.admin_key);
    let answer = request.send(address).await;
    (answer.status, answer.json())
}

/// The calls of a period, or `None` if the period was refused as it must be.
async fn sum(ledger: &Ledger, path: &str, from: u64, to: u64, east: i64) -> Option<u64> {
    let (status, answer) = ask(ledger, path, &written(from, east), &written(to, east)).await;
    let cut = [("from", from), ("to", to)].into_iter().find(|(_, edge)| edge % HOUR_MILLIS != 0);
    let Some((name, edge)) = cut.filter(|_| status != 200) else {
        assert_eq!((status, cut), (200, None), "{answer}");
        return Some(
            answer["items"].as_array().unwrap().iter().map(|row| row["calls"].as_u64().unwrap()).sum(),
        );
    };
    assert_eq!(status, 400, "{answer}");
    let below = edge / HOUR_MILLIS * HOUR_MILLIS;
    let detail = answer["detail"].as_str().unwrap();
    assert!(detail.starts_with(&format!("{name}: ")), "{detail}");
    for nearest in [below, below + HOUR_MILLIS] {
        assert!(detail.contains(&Timestamp::from_millis(nearest).to_string()), "{detail}");
    }
    None
}

async fn adds_up(ledger: &Ledger) {
    let seed: u64 = rand::rng().random();
    let mut random = StdRng::seed_from_u64(seed);
    let times = called(ledger, &mut random).await;
    let mut whole = 0;
    for round in 0..60 {
        let path = if round % 2 == 0 { "/v1/usage" } else { "/v1/policy/shadow-report" };
        let east = [330, 345, -210, 0][random.random_range(0..4)];
        // Half of them at a full or half hour, which every zone has, the others anywhere.
        let step = if round % 3 == 0 { 1 } else { 4 };
        let mut edges =
            [0; 3].map(|_| BEGIN_MILLIS + random.random_range(0..=QUARTERS / step) * step * QUARTER_MILLIS);
        edges.sort_unstable();
        let [a, b, c] = edges;
        let (first, second, both) = (
            sum(ledger, path, a, b, east).await,
            sum(ledger, path, b, c, east).await,
            sum(ledger, path, a, c, east).await,
        );
        for (found, from, to) in [(first, a, b), (second, b, c), (both, a, c)] {
            let there = times.iter().filter(|at| (from..to).contains(at)).count();
            assert!(
                found.is_none_or(|found| found == there as u64),
                "seed {seed}: {found:?}, {there}, {east}"
            );
        }
        if let (Some(first), Some(second), Some(both)) = (first, second, both) {
            assert_eq!(first + second, both, "seed {seed}");
            whole += 1;
        }
    }
    assert!(whole > 20, "seed {seed}: {whole} periods were answered");
    for path in ["/v1/usage", "/v1/policy/shadow-report", "/v1/audit"] {
        let (day, next) = (written(BEGIN_MILLIS, 0), written(BEGIN_MILLIS + 24 * HOUR_MILLIS, 0));
        let (status, empty) = ask(ledger, path, &day, &day).await;
        assert_eq!((status, empty["items"].as_array().map(Vec::len)), (200, Some(0)), "{path}: {empty}");
        let (status, inverted) = ask(ledger, path, &next, &day).await;
        assert_eq!(status, 400, "{path}: {inverted}");
        assert!(inverted["detail"].as_str().unwrap().contains("is before from"), "{inverted}");
    }
    let refused = ledger.served.operator(&["usage", "--from", "2024-03-01T00:00:00+05:30"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("2024-02-29T18:00:00.000Z"), "{said}");
}

#[test]
fn periods_that_touch_add_up_or_are_refused() {
    run(async {
        let ledger = Ledger::embedded("periods").await;
        adds_up(&ledger).await;
        ledger.end().await;
    });
}

#[test]
fn on_postgresql_periods_add_up_too() {
    run(async {
        let ledger = Ledger::on_postgresql("periods-postgresql").await;
        adds_up(&ledger).await;
        ledger.end().await;
    });
}
