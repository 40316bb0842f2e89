//! An interrupted answer is never taken for a complete one.

use super::on_both::Ledger;
use harness::clock::apart;
use harness::ledger::uuid_of;
use harness::{eventually, run};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// Enough rows that an export is far longer than the buffers of pipes and sockets.
const ROWS: usize = 60_000;

fn output_text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A trail of so many rows, all sealed.
async fn fill_trail(ledger: &Ledger, rows: usize) {
    let (tenant, key) = ledger.served.payer(1000).await;
    let filter = ledger.served.filter(0);
    for batch in 0..rows.div_ceil(1000) {
        let decision = |number: usize| {
            json!({
                "id": uuid_of(&format!("d{batch}-{number}")), "at": "2024-03-01T00:00:00.000Z", "outcome": "allowed",
                "key_id": key.key.id, "tenant_id": tenant, "service": "studio", "tool": "search", "credits": 0,
                "status": 200, "duration_ms": 12, "policy_version": "v1", "envoy": "e1",
            })
        };
        let decisions = (0..rows.min(1000)).map(decision);
        assert_eq!(filter.report(&format!("b{batch}"), decisions).await, Some(200));
    }
    eventually("the audit trail is sealed", async || {
        let status = ledger.served.admin().audit_status().await.unwrap();
        if status.sealed == status.newest { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
}

/// Begins an export, calls `fail` when a part has arrived and the rest waits to be read, and reads on.
async fn broken(admin: &client::Client, fail: impl AsyncFnOnce()) {
    let mut export = admin.export_audit(None).await.unwrap();
    assert!(export.piece().await.unwrap().is_some());
    fail().await;
    let why = loop {
        match export.piece().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a part was taken for the whole"),
            Err(why) => break why.to_string(),
        }
    };
    assert!(why.contains("is incomplete, ask again") && why.contains("it broke off"), "{why}");
}

#[test]
fn an_export_is_cut_off_if_its_database_fails() {
    run(async {
        let mut ledger = Ledger::on_postgresql("export-postgresql").await;
        fill_trail(&ledger, ROWS).await;
        let mut server = ledger.server.take();
        broken(&ledger.served.admin(), async || apart(|| server.as_mut().unwrap().pause())).await;
        ledger.server = server;
        ledger.end().await;
    });
}

#[test]
fn an_export_with_unreadable_rows_is_cut_off_for_every_reader() {
    run(async {
        let mut ledger = Ledger::embedded("export").await;
        fill_trail(&ledger, ROWS).await;
        let whole = ledger.served.directory.join("whole.jsonl").display().to_string();
        assert!(ledger.served.operator(&["audit", "export", "--to", &whole]).status.success());
        assert!(ledger.served.operator(&["audit", "verify", &whole]).status.success());

        // The rows are removed while a reader delays the answer, and restored.
        let file = ledger.served.directory.join("ledger.db");
        let alter = |from: &str, to: &str| {
            let sql = format!("ALTER TABLE {from} RENAME TO {to}");
            let script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], 30); c.execute(sys.argv[2]); c.commit()";
            let status = Command::new("python3").args(["-c", script]).arg(&file).arg(sql).status();
            assert!(status.expect("python3 can be run").success());
        };
        broken(&ledger.served.admin(), async || alter("audit", "gone")).await;
        alter("gone", "audit");

        // The command line reports it, whether it prints or writes a file, and removes the file.
        let url = cut_off(&ledger.served.url(0), 2_000_000).await;
        let partial = ledger.served.directory.join("partial.jsonl");
        for to in [vec!["--to", partial.to_str().unwrap()], vec![]] {
            let arguments = [&["audit", "export"], to.as_slice()].concat();
            let output = harness::ledger::operator(&url, &ledger.served.credentials.admin_key, &arguments);
            assert_eq!(output.status.code(), Some(1), "{}", output_text(&output));
            assert!(output_text(&output).contains("is incomplete, ask again"), "{}", output_text(&output));
            assert!(!partial.exists());
        }
        let verified =
            harness::ledger::operator(&url, &ledger.served.credentials.admin_key, &["audit", "verify"]);
        assert!(
            !verified.status.success() && output_text(&verified).contains("is incomplete"),
            "{}",
            output_text(&verified)
        );

        broken(&ledger.served.admin(), async || ledger.served.kill(0)).await;
        ledger.end().await;
    });
}

#[test]
fn a_file_that_lacks_a_line_or_its_end_is_detected() {
    run(async {
        let ledger = Ledger::embedded("export-lines").await;
        fill_trail(&ledger, 12).await;
        let file = ledger.served.directory.join("export.jsonl");
        assert!(
            ledger.served.operator(&["audit", "export", "--to", file.to_str().unwrap()]).status.success()
        );
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let end: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
        assert_eq!(end["lines"], lines.len() - 1);
        let verified = |lines: &[&str]| {
            fs::write(&file, lines.concat()).unwrap();
            verify(&file)
        };
        assert!(verified(&lines).status.success());
        for at in 0..lines.len() {
            let cut = verified(&lines[..at]);
            assert_eq!(cut.status.code(), Some(1), "cut before line {at}");
            let without = [&lines[..at], &lines[at + 1..]].concat();
            let without = verified(&without);
            assert_eq!(without.status.code(), Some(1), "without line {at}");
            let half = lines[at].len() / 2;
            let torn = verified(&[&lines[..at], &[&lines[at][..half]]].concat());
            assert_eq!(torn.status.code(), Some(1), "torn in line {at}");
            assert!(
                !output_text(&cut).is_empty()
                    && !output_text(&without).is_empty()
                    && !output_text(&torn).is_empty()
            );
        }
        ledger.end().await;
    });
}

fn verify(file: &Path) -> Output {
    let mut verify = Command::new(harness::files::program());
    verify.args(["audit", "verify"]).arg(file).output().expect("the program can be run")
}

/// A proxy in front of a ledger that closes each connection after so many bytes of answers.
async fn cut_off(ledger: &str, bytes: u64) -> String {
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};
    let ledger: std::net::SocketAddr = ledger.trim_start_matches("http://").parse().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    harness::clock::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (from_ledger, mut to_ledger) = TcpStream::connect(ledger).await?.into_split();
                let mut some = from_ledger.take(bytes);
                tokio::select! {
                    ended = tokio::io::copy(&mut some, &mut to_client) => ended,
                    ended = tokio::io::copy(&mut from_client, &mut to_ledger) => ended,
                }
            });
        }
    });
    format!("http://{address}")
}
