//! The audit trail over the API: sealed while the ledger runs, exported, verified, with tampering detected; backups;
//! the description of the API; TLS.

use crate::audit::chain::Signer;
use crate::audit::verify::{Fault, Summary, Verifier};
use crate::fixture::{Bench, apart, expect, is_on_postgresql, pace, report_body};
use crate::model::checkpoint::{Checkpoint, CheckpointHead};
use crate::store::sql::{Connection, Purpose, params};
use crate::{Config, Database, Tls, backup, check, init, restore, start};
use protocol::Timestamp;
use protocol::audit::Digest;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

async fn sealed(bench: &Bench) -> Value {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let status = bench.get("/v1/audit/status").await;
        if status["newest"] == status["sealed"] {
            return status;
        }
        assert!(Instant::now() < deadline, "rows were not sealed: {status}");
        pace().await;
    }
}

async fn export(bench: &Bench, query: &str) -> Vec<String> {
    let answer = bench.request(Method::GET, &format!("/v1/audit/export{query}")).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-type"], "application/jsonl");
    answer.text().await.unwrap().lines().map(str::to_owned).collect()
}

async fn verify(bench: &Bench, lines: &[String]) -> Result<Summary, Fault> {
    verify_with(bench, lines, None).await
}

/// As `agentrelay audit verify` does: it trusts the key that the ledger signs with, and not the database.
async fn verify_with(bench: &Bench, lines: &[String], checkpoint: Option<Digest>) -> Result<Summary, Fault> {
    let mut verifier = Verifier::new(Some([public_key(bench).await].into()), checkpoint);
    for line in lines {
        verifier.line(line.as_bytes())?;
    }
    verifier.finish()
}

async fn public_key(bench: &Bench) -> String {
    bench.get("/v1/audit/key").await["public_key"].as_str().unwrap().to_owned()
}

async fn busy() -> Bench {
    let bench = Bench::start().await;
    let tenant = bench.tenant(100).await;
    let (key, _) = bench.key(&tenant).await;
    for number in 0..20 {
        expect(bench.reserve(&format!("r{number}"), &key, 1).await, StatusCode::CREATED).await;
    }
    bench
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_verifies_and_a_database_that_was_tampered_with_does_not() {
    let bench = busy().await;
    let status = sealed(&bench).await;
    let lines = export(&bench, "").await;
    let found = verify(&bench, &lines).await.unwrap();
    assert_eq!(Some(found.rows), status["newest"].as_u64());
    // A restart continues with the same key and the same chain.
    let bench = bench.restart().await;
    bench.tenant(1).await;
    sealed(&bench).await;
    let longer = verify(&bench, &export(&bench, "").await).await.unwrap();
    assert!(longer.rows > found.rows && longer.public_keys == found.public_keys);
    let day = &status_day(&bench).await;
    assert_eq!(
        verify(&bench, &export(&bench, &format!("?day={day}")).await).await.unwrap().rows,
        longer.rows
    );
    assert_eq!(verify(&bench, &export(&bench, "?day=2020-01-01").await).await.unwrap().rows, 0);

    let database = Bench::config(&bench.directory).database;
    let tamper = |change: &str| {
        apart(|| {
            let other = Connection::open(&database, Purpose::Write).unwrap();
            assert_eq!(other.execute(change, &params![12u64]).unwrap(), 1);
        });
    };
    tamper("UPDATE audit SET detail = replace(detail, '\"credits\":1', '\"credits\":2') WHERE sequence = ?");
    assert_eq!(verify(&bench, &export(&bench, "").await).await, Err(Fault::Changed(12)));
    tamper("DELETE FROM audit WHERE sequence = ?");
    assert_eq!(verify(&bench, &export(&bench, "").await).await, Err(Fault::Missing(12)));
}

/// A ledger that sealed at least five batches, and its database.
async fn long_trail() -> (Bench, Database) {
    let bench = Bench::start().await;
    for credits in 1..=6 {
        bench.tenant(credits).await;
        sealed(&bench).await;
    }
    let database = Bench::config(&bench.directory).database;
    (bench, database)
}

fn change(database: &Database, statements: &[&str]) {
    apart(|| {
        let other = Connection::open(database, Purpose::Write).unwrap();
        for statement in statements {
            assert!(other.execute(statement, &[]).unwrap() > 0, "{statement}");
        }
    });
}

/// What verification finds over the API and in the database, which must be the same.
async fn found(bench: &Bench, database: &Database) -> Option<Fault> {
    let online = verify(bench, &export(bench, "").await).await.err();
    let trusted = [public_key(bench).await].into();
    let broken = apart(|| check(database, Some(&trusted)).unwrap());
    let said = online.as_ref().map(|fault| format!("the audit trail in it is not as it was sealed: {fault}"));
    assert_eq!(broken.last(), said.as_ref());
    online
}

/// The batch of this number, its first row and its last.
fn batch(checkpoints: &[Checkpoint], number: usize) -> (u64, u64) {
    (checkpoints[number - 1].first, checkpoints[number - 1].last)
}

fn checkpoints(lines: &[String]) -> Vec<Checkpoint> {
    let lines = lines.iter().filter_map(|line| line.strip_prefix("{\"type\":\"checkpoint\","));
    lines.map(|line| serde_json::from_str(&format!("{{{line}")).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trail_without_its_beginning_is_detected() {
    let (bench, database) = long_trail().await;
    assert_eq!(found(&bench, &database).await, None);
    let (_, last) = batch(&checkpoints(&export(&bench, "").await), 3);
    let rows = format!("DELETE FROM audit WHERE sequence <= {last}");
    change(&database, &["DELETE FROM audit_batches WHERE number <= 3", &rows]);
    assert_eq!(found(&bench, &database).await, Some(Fault::Missing(1)));
    let counted = format!("UPDATE audit_state SET removed = {last}");
    change(&database, &[&counted]);
    assert_eq!(found(&bench, &database).await, Some(Fault::Checkpoint(1, "is missing")));
    // A trail does not begin again with the next row either.
    change(&database, &["DELETE FROM audit_batches", "UPDATE audit_state SET removed = 0"]);
    bench.tenant(7).await;
    sealed(&bench).await;
    assert_eq!(found(&bench, &database).await, Some(Fault::Missing(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trail_with_a_gap_is_detected() {
    let (bench, database) = long_trail().await;
    let (first, last) = batch(&checkpoints(&export(&bench, "").await), 4);
    let rows = format!("DELETE FROM audit WHERE sequence BETWEEN {first} AND {last}");
    let removed = format!("UPDATE audit_state SET removed = {last}");
    change(&database, &[&rows, "UPDATE audit_batches SET leaves = NULL WHERE number = 4", &removed]);
    assert_eq!(found(&bench, &database).await, Some(Fault::Missing(first)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_of_removed_rows_that_differs_from_the_batches_is_detected() {
    let (bench, database) = long_trail().await;
    change(&database, &["UPDATE audit_state SET removed = 1"]);
    assert_eq!(found(&bench, &database).await, Some(Fault::Kept(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trail_signed_again_by_a_database_writer_is_detected() {
    let (bench, database) = long_trail().await;
    let stranger = Signer::from_seed(&[9; 32]);
    let mut head = CheckpointHead::NONE;
    for old in checkpoints(&export(&bench, "").await) {
        let leaves = old.leaves.as_ref().unwrap().as_bytes().chunks(64);
        let leaves: Vec<Digest> =
            leaves.map(|leaf| Digest::parse(std::str::from_utf8(leaf).unwrap()).unwrap()).collect();
        let new = stranger.seal(head, &leaves, old.sealed_at).unwrap();
        head = new.head();
        apart(|| {
            let update = "UPDATE audit_batches SET previous = ?, hash = ?, public_key = ?, signature = ? WHERE number = ?";
            let (previous, hash) = (new.previous.as_bytes(), new.hash.as_bytes());
            let changed = params![previous, hash, new.public_key, new.signature, new.number];
            Connection::open(&database, Purpose::Write).unwrap().execute(update, &changed).unwrap();
        });
    }
    let key = stranger.public_key();
    change(&database, &[&format!("INSERT INTO audit_keys (public_key, created_at) VALUES ('{key}', 1)")]);
    assert_eq!(found(&bench, &database).await, Some(Fault::Untrusted(1, key.to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trail_cut_at_the_end_lacks_the_saved_checkpoint() {
    let (bench, database) = long_trail().await;
    let whole = verify(&bench, &export(&bench, "").await).await.unwrap();
    let cut = format!("number >= {}", whole.checkpoints - 1);
    let rows =
        format!("DELETE FROM audit WHERE sequence >= (SELECT min(first) FROM audit_batches WHERE {cut})");
    change(&database, &[&rows, &format!("DELETE FROM audit_batches WHERE {cut}")]);
    let lines = export(&bench, "").await;
    assert!(verify(&bench, &lines).await.unwrap().rows < whole.rows);
    let kept = whole.head.unwrap();
    assert_eq!(verify_with(&bench, &lines, Some(kept)).await, Err(Fault::Lacks(kept)));
    // Nor a trail that continued from there.
    bench.tenant(8).await;
    bench.tenant(9).await;
    sealed(&bench).await;
    let lines = export(&bench, "").await;
    assert_eq!(verify_with(&bench, &lines, Some(kept)).await, Err(Fault::Lacks(kept)));
}

async fn status_day(bench: &Bench) -> String {
    let row = &bench.get("/v1/audit?limit=1").await["items"][0];
    row["recorded_at"].as_str().unwrap().chars().take(10).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_rows_are_removed_and_the_chain_stays() {
    let bench = busy().await;
    let before = sealed(&bench).await;
    // As if they had been sealed long ago.
    let Bench { directory, credentials, running, client } = bench;
    running.shutdown().await;
    let database = Bench::config(&directory).database;
    apart(|| crate::store::tests_age_audit(&database));
    let mut config = Bench::config(&directory);
    config.audit_retention_days = Some(30);
    let running = start(config).await.unwrap();
    let bench = Bench { directory, credentials, running, client };
    let deadline = Instant::now() + Duration::from_secs(20);
    while bench.get("/v1/audit/status").await["removed"] == 0 {
        assert!(Instant::now() < deadline, "nothing was removed");
        pace().await;
    }
    let status = sealed(&bench).await;
    assert_eq!(status["removed"], before["newest"]);
    assert_eq!((&before["retention_days"], &status["retention_days"]), (&Value::Null, &json!(30)));
    assert!(status["newest"].as_u64() > before["newest"].as_u64());
    assert!(
        bench.get("/v1/audit?kind=audit_removed").await["items"][0]["detail"]["sealed_before"].is_string()
    );
}

/// As if the clock were 400 days ahead of all rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_ahead_removes_no_rows_until_an_operator_confirms_the_day() {
    let mut bench = busy().await;
    let before = sealed(&bench).await;
    let today = status_day(&bench).await;
    let database = Bench::config(&bench.directory).database;
    let mut is_old = false;
    // Twice, as a service is restarted; then with a past day, and at last with today's.
    for confirmed in [None, None, Some("2020-01-01".to_owned()), Some(today)] {
        let Bench { directory, credentials, running, client } = bench;
        running.shutdown().await;
        if !std::mem::replace(&mut is_old, true) {
            change(
                &database,
                &[
                    "UPDATE audit_batches SET sealed_at = sealed_at - 34560000000",
                    "UPDATE audit_state SET clock = clock - 34560000000",
                ],
            );
        }
        let mut config = Bench::config(&directory);
        config.audit_retention_days = Some(30);
        let is_today = confirmed.as_ref().is_some_and(|day| day != "2020-01-01");
        config.audit_retention_confirmed = confirmed.map(|day| Timestamp::of_day(&day).unwrap());
        let running = start(config).await.unwrap();
        bench = Bench { directory, credentials, running, client };
        let deadline = Instant::now() + Duration::from_secs(20);
        let told = if is_today { "audit_rows_removed_total " } else { "audit_retention_held 1" };
        loop {
            let text = metrics(&bench).await;
            let removed = text.contains("audit_rows_removed_total 0\n");
            if text.contains(told) && removed != is_today {
                break;
            }
            assert!(Instant::now() < deadline, "{text}");
            pace().await;
        }
        let removed = bench.get("/v1/audit/status").await["removed"].as_u64().unwrap();
        assert_eq!(removed >= before["newest"].as_u64().unwrap(), is_today, "{removed}");
        assert!(is_today || removed == 0);
    }
    assert!(metrics(&bench).await.contains("audit_retention_held 0"));
    let told = bench.get("/v1/audit?kind=audit_removed").await;
    assert_eq!(told["items"][0]["detail"]["rows"], before["newest"], "{told}");
}

async fn metrics(bench: &Bench) -> String {
    let url = format!("http://{}/metrics", bench.running.address);
    bench.client.get(url).send().await.unwrap().text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_running_ledger_is_restored_completely() {
    let bench = busy().await;
    let tenants = bench.get("/v1/tenants").await;
    sealed(&bench).await;
    let database = Bench::config(&bench.directory).database;
    let copy = bench.directory.path().join("copy.db");
    if is_on_postgresql() {
        let refused = apart(|| backup(&database, &copy, None)).unwrap_err().to_string();
        assert!(refused.contains("pg_dump"), "{refused}");
        return;
    }
    let trusted = [public_key(&bench).await].into();
    let copied = backup(&database, &copy, Some(&trusted)).unwrap();
    assert_eq!(copied.tenants, 1);
    assert!(backup(&database, &copy, None).is_err(), "a backup was overwritten");
    bench.tenant(5).await;
    let restored = Database::Sqlite(bench.directory.path().join("restored.db"));
    assert_eq!(restore(&copy, &restored, Some(&trusted)).unwrap(), copied);
    let feed = bench.get("/filter/v1/changes").await["next"].as_u64().unwrap();
    let config = Config { database: restored, ..Bench::config(&bench.directory) };
    let Bench { directory, credentials, running, client } = bench;
    running.shutdown().await;
    let running = start(config).await.unwrap();
    let bench = Bench { directory, credentials, running, client };
    assert_eq!(bench.get("/v1/tenants").await, tenants);
    assert_eq!(bench.get(&format!("/filter/v1/changes?after={feed}")).await["reset"], true);

    let other = Connection::open(&Database::Sqlite(copy.clone()), Purpose::Write).unwrap();
    other.execute("UPDATE audit SET actor = 'me' WHERE sequence = ?", &params![3u64]).unwrap();
    let again = Database::Sqlite(bench.directory.path().join("again.db"));
    let refused = restore(&copy, &again, None).unwrap_err().to_string();
    assert!(refused.contains("row 3 was changed"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_with_tls_accepts_only_tls() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("policy.yaml"), crate::fixture::POLICY).unwrap();
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let tls = Tls { certificate: directory.path().join("chain.pem"), key: directory.path().join("key.pem") };
    std::fs::write(&tls.certificate, cert.pem()).unwrap();
    std::fs::write(&tls.key, signing_key.serialize_pem()).unwrap();
    let config = Config { tls: Some(tls.clone()), ..Bench::config(&directory) };
    init(&config.database, |_| Ok(())).unwrap();
    let running = start(config.clone()).await.unwrap();
    let trusting = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([reqwest::Certificate::from_pem(cert.pem().as_bytes()).unwrap()])
        .build()
        .unwrap();
    let port = running.address.port();
    let answer = trusting.get(format!("https://localhost:{port}/readyz")).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let plain = trusting.get(format!("http://localhost:{port}/readyz")).send().await;
    assert!(plain.is_err(), "it answers without TLS");
    running.shutdown().await;
    let broken = Config { tls: Some(Tls { key: tls.certificate.clone(), ..tls }), ..config };
    let refused = start(broken).await.err().unwrap().to_string();
    assert!(refused.contains("can't serve by TLS"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_summed_by_agent_and_outcome_with_latencies() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(0).await;
    let (key, _) = bench.key(&tenant).await;
    let mut decisions = Vec::new();
    for number in 0..100u64 {
        let outcome = if number < 90 { "allowed" } else { "upstream_error" };
        let mut decision = super::decision(outcome, &key, &tenant, "search", 1);
        decision["duration_ms"] = json!(if number < 95 { 5 } else { 1000 });
        decision["agent_id"] = json!("agt_1");
        decisions.push(decision);
    }
    let batch = report_body("b1", decisions);
    bench.post("/filter/v1/report", batch, StatusCode::OK).await;
    let sums = bench.get(&format!("/v1/usage?group_by=agent,outcome&tenant_id={tenant}")).await;
    let rows = sums["items"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!((rows[0]["agent_id"].as_str(), rows[0]["calls"].as_u64()), (Some("agt_1"), Some(90)));
    assert_eq!(rows[0]["latency_ms"], json!({"p50": 5, "p95": 5, "p99": 5}));
    let all = bench.get("/v1/usage?tool=search").await;
    let p99 = all["items"][0]["latency_ms"]["p99"].as_u64().unwrap();
    assert!((1000..=1125).contains(&p99), "{p99}");
    assert_eq!(bench.get("/v1/usage?outcome=cancelled").await["items"], json!([]));
}
