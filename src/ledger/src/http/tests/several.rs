//! Several ledgers on one PostgreSQL: a change at one ledger takes effect on all, within the promised bound.

use crate::Database;
use crate::fixture::{Bench, POLICY, apart, code, expect, pace, server};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A change at one ledger takes effect on every other within this time.
const BOUND: Duration = Duration::from_secs(2);
/// No single round proves more than this, because a shared machine sometimes stalls.
const STALLED: Duration = Duration::from_secs(30);

/// Half of the rounds within the bound, and all within a deadline.
fn assert_soon(mut waits: Vec<Duration>) {
    waits.sort();
    assert!(waits[waits.len() / 2] < BOUND && waits.iter().all(|wait| *wait < STALLED), "{waits:?}");
}

fn with_permits(permits: u32) -> String {
    POLICY.replace("permits: 20,", &format!("permits: {permits},"))
}

async fn permits(bench: &Bench) -> Value {
    bench.get("/v1/tiers").await["free"]["limits"][0]["permits"].clone()
}

async fn put(bench: &Bench, text: String, over: &str) -> reqwest::Response {
    bench.request(Method::PUT, "/v1/policy").header("if-match", over).body(text).send().await.unwrap()
}

async fn etag(bench: &Bench) -> String {
    let shown = bench.request(Method::GET, "/v1/policy").send().await.unwrap();
    shown.headers()["etag"].to_str().unwrap().to_owned()
}

struct Both {
    server: Arc<throwaway::Throwaway>,
    database: Database,
    one: Bench,
    other: Bench,
}

async fn both() -> Both {
    let server = apart(server);
    let database: Database = apart(|| server.database().unwrap().parse().unwrap());
    let one = Bench::start_on(&database).await;
    let other = one.start_second(&database, POLICY).await;
    Both { server, database, one, other }
}

#[tokio::test(flavor = "multi_thread")]
async fn ledgers_that_start_at_once_agree_on_the_secrets_of_sessions_and_keep_them() {
    let Both { server: _server, database, one, other } = both().await;
    let secrets = async |bench: &Bench| {
        let answer = bench.request(Method::GET, "/filter/v1/policy").send().await.unwrap();
        answer.json::<protocol::filter::PolicyAnswer>().await.unwrap()
    };
    let known = secrets(&one).await;
    assert_eq!(known.session_secrets.len(), 1);
    let starting = [(); 4].map(|()| one.start_second(&database, POLICY));
    let [first, second, third, fourth] = starting;
    let (first, second, third, fourth) = tokio::join!(first, second, third, fourth);
    for bench in [&other, &first, &second, &third, &fourth] {
        assert_eq!(secrets(bench).await, known);
    }
    for bench in [first, second, third, fourth] {
        bench.running.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_in_force_on_all_ledgers_before_filters_are_notified() {
    let Both { server: _server, one, other, .. } = both().await;
    let mut waits = Vec::new();
    for round in 0..10 {
        let after = other.get("/filter/v1/changes").await["next"].as_u64().unwrap();
        let over = etag(&one).await;
        let poll = format!("/filter/v1/changes?after={after}&wait_ms=20000");
        let began = Instant::now();
        let (heard, given) = tokio::join!(
            async {
                let heard = other.get(&poll).await;
                // The next answer that a filter gets from the ledger with the change must have it at once.
                let answer = other.request(Method::GET, "/filter/v1/policy").send().await.unwrap();
                (heard, answer.headers()["etag"].to_str().unwrap().to_owned(), began.elapsed())
            },
            put(&one, with_permits(30 + round), &over),
        );
        let version = expect(given, StatusCode::OK).await["version"].as_str().unwrap().to_owned();
        let (heard, found, took) = heard;
        assert_eq!(heard["changes"], json!([{"kind": "policy", "version": version}]));
        assert!(found.starts_with(&format!("\"{version}")), "{found}");
        assert_eq!(permits(&other).await, 30 + round);
        waits.push(took);
    }
    eprintln!("10 policies from one ledger to the other's filters: {waits:?}");
    assert_soon(waits);
    // Files are input; the ledgers do not change them.
    for bench in [&one, &other] {
        assert_eq!(std::fs::read_to_string(bench.policy_path()).unwrap(), POLICY);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_concurrent_policies_one_is_refused() {
    let Both { server: _server, one, other, .. } = both().await;
    let over = etag(&one).await;
    let (first, second) =
        tokio::join!(put(&one, with_permits(31), &over), put(&other, with_permits(32), &over));
    let mut answers = [first, second];
    answers.sort_by_key(reqwest::Response::status);
    let [done, refused] = answers;
    let version = expect(done, StatusCode::OK).await["version"].clone();
    let refused = expect(refused, StatusCode::PRECONDITION_FAILED).await;
    assert_eq!(code(&refused), "precondition_failed");
    for bench in [&one, &other] {
        assert_eq!(bench.get("/v1/policy").await["version"], version);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_file_is_put_in_force_everywhere_and_an_old_copy_is_not() {
    let Both { server: _server, database, one, other } = both().await;
    std::fs::write(other.policy_path(), with_permits(41)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(15);
    while permits(&one).await != 41 {
        assert!(Instant::now() < deadline, "the other ledger's file was not followed");
        pace().await;
    }
    // The API's policy is newer than both files. A ledger that starts with one of them, or with the first, keeps it.
    expect(put(&one, with_permits(42), &etag(&one).await).await, StatusCode::OK).await;
    for old in [POLICY.to_owned(), with_permits(41)] {
        let third = one.start_second(&database, &old).await;
        assert_eq!(permits(&third).await, 42);
        third.running.shutdown().await;
    }
    assert_eq!(permits(&other).await, 42);
    // A policy that was never in force was written while the ledger was stopped.
    let fourth = one.start_second(&database, &with_permits(43)).await;
    for bench in [&one, &other, &fourth] {
        assert_eq!(permits(bench).await, 43);
    }
    // While it runs, any edit counts, even back to an earlier policy.
    std::fs::write(fourth.policy_path(), POLICY).unwrap();
    let deadline = Instant::now() + Duration::from_secs(15);
    while permits(&one).await != 20 {
        assert!(Instant::now() < deadline, "the edited file was not followed");
        pace().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_policy_in_the_database_stops_a_start_but_not_a_running_ledger() {
    use crate::store::sql::{Connection, Purpose, params};
    let Both { server: _server, database, one, .. } = both().await;
    apart(|| {
        let insert = "INSERT INTO policies (version, in_force_at, document) VALUES ('v9', 1, ?)";
        let document = POLICY.replace("rank: 0", "colour: 1");
        let connection = Connection::open(&database, Purpose::Write).unwrap();
        connection.execute(insert, &params![document]).unwrap();
    });
    let deadline = Instant::now() + Duration::from_secs(15);
    let url = format!("http://{}/metrics", one.running.address);
    while !one
        .client
        .get(&url)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap()
        .contains("agentrelay_ledger_policies_refused_total 1")
    {
        assert!(Instant::now() < deadline, "it was not looked at");
        pace().await;
    }
    assert_eq!(permits(&one).await, 20);
    let config = crate::Config { database, ..Bench::config(&one.directory) };
    let Err(refused) = crate::start(config).await else { panic!("it started") };
    assert!(refused.to_string().contains("v9"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_key_that_was_revoked_at_one_ledger_is_refused_by_all_within_the_bound() {
    let Both { server: _server, one, other, .. } = both().await;
    let mut waits = Vec::new();
    for _ in 0..5 {
        let (id, secret) = one.admin("operator", None).await;
        let ask = async |bench: &Bench| {
            bench.ask_as(&secret, &Method::GET, "/v1/tenants", &Value::Null).await.status()
        };
        for bench in [&one, &other] {
            assert_eq!(ask(bench).await, StatusCode::OK);
        }
        let began = Instant::now();
        let reason = json!({"reason": "left"});
        one.post(&format!("/v1/admin-keys/{id}/revoke"), reason, StatusCode::OK).await;
        assert_eq!(ask(&one).await, StatusCode::UNAUTHORIZED, "the ledger that was told forgot at once");
        while ask(&other).await != StatusCode::UNAUTHORIZED {
            assert!(began.elapsed() < STALLED, "it still works after {:?}", began.elapsed());
            pace().await;
        }
        waits.push(began.elapsed());
    }
    eprintln!("5 revocations of an admin key, from one ledger to the other: {waits:?}");
    assert_soon(waits);
}
