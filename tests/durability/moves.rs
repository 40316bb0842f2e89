//! `agentrelay ledger move` as an operator runs it: a used ledger moves from SQLite to PostgreSQL completely, and
//! serves there; or it stays where it is and the command says why.

use harness::clock::apart;
use harness::ledger::{Served, directory, embedded, uuid_of};
use harness::{eventually, files, run};
use protocol::admin::{Reason, RotateKey};
use serde_json::{Value, json};
use std::fs;
use std::process::{Command, Output};
use throwaway::Throwaway;

fn agentrelay(arguments: &[&str]) -> Output {
    Command::new(files::program()).args(arguments).output().expect("the program can be run")
}

fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn refused(arguments: &[&str], why: &str) {
    let output = agentrelay(arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(why), "{arguments:?}: {said}");
}

/// A stopped ledger with rows of every kind. Returns its tenants with their balances.
async fn used() -> (Served, Vec<protocol::TenantId>, Vec<Value>) {
    let place = directory("moved");
    let database = embedded(&place);
    let mut served = Served::start(place, &database, 1).await;
    let (tenant, key) = served.payer(1000).await;
    let (other, second) = served.payer(30).await;
    let filter = served.filter(0);
    for number in 0..40 {
        assert_eq!(filter.reserve(&format!("r{number}"), &key.key.id, 5, 3600).await, Some(201));
    }
    for number in 0..10 {
        assert_eq!(filter.settle(&format!("r{number}"), Some(number % 6)).await, Some(200));
    }
    assert_eq!(filter.settle("r10", None).await, Some(200));
    assert_eq!(filter.reserve("other", &second.key.id, 30, 3600).await, Some(201));
    let decision = json!({
        "id": uuid_of("d1"), "at": "2026-11-22T20:00:00.000Z", "outcome": "allowed", "key_id": key.key.id,
        "tenant_id": tenant, "service": "studio", "tool": "search", "credits": 0, "status": 200,
        "duration_ms": 12, "policy_version": "v1", "envoy": "e1",
    });
    assert_eq!(filter.report("usage", [decision]).await, Some(200));
    let admin = served.admin();
    admin.rotate_key(&key.key.id, &RotateKey { grace_seconds: 3600, reason: None }).await.unwrap();
    admin.suspend_tenant(&other, &Reason { reason: "unpaid".into() }).await.unwrap();
    eventually("the audit trail is sealed", async || {
        let status = admin.audit_status().await.unwrap();
        if status.sealed == status.newest { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    let seen = seen(&served);
    served.ledgers[0].take().expect("it runs").stop().await;
    (served, vec![tenant, other], seen)
}

/// What an operator sees of the ledger.
fn seen(served: &Served) -> Vec<Value> {
    let ask = |arguments: &[&str]| json_of(&served.operator(&[arguments, &["--json"]].concat()));
    let mut seen = vec![
        ask(&["tenants", "list"]),
        ask(&["keys", "list"]),
        ask(&["usage", "--group-by", "tenant,key,tool"]),
    ];
    for tenant in seen[0].as_array().expect("a list").clone() {
        seen.push(ask(&["tenants", "balance", tenant["id"].as_str().expect("an id")]));
    }
    seen
}

async fn server() -> Throwaway {
    tokio::task::spawn_blocking(|| Throwaway::start().unwrap_or_else(|error| panic!("{error}")))
        .await
        .unwrap()
}

async fn database(server: Throwaway) -> (Throwaway, String) {
    tokio::task::spawn_blocking(move || {
        let database = server.database().unwrap();
        (server, database)
    })
    .await
    .unwrap()
}

#[test]
fn a_ledger_moves_completely_and_continues_with_its_money_and_chain() {
    run(async {
        let (mut served, tenants, before) = used().await;
        let from = served.database.clone();
        let (server, to) = database(server().await).await;
        let moved = json_of(&agentrelay(&["ledger", "move", "--from", &from, "--to", &to, "--json"]));
        assert_eq!(
            (moved["verified"].as_bool(), moved["rows"]["reservations"].as_u64()),
            (Some(true), Some(41))
        );
        refused(
            &["ledger", "move", "--from", &from, "--to", &to],
            "has a ledger already; name an empty database",
        );
        refused(&["ledger", "move", "--from", &to, "--to", &from], "from sqlite:PATH to postgres://");
        let check = agentrelay(&["ledger", "check", "--database", &to]);
        assert!(check.status.success(), "{check:?}");

        // The operator also copies the key that signs the trail.
        fs::rename(served.directory.join("ledger.db.audit-key"), served.directory.join("audit-key")).unwrap();
        served.database = to;
        served.run(0).await;
        assert_eq!(seen(&served), before);
        let filter = served.filter(0);
        // Pending reservations can be settled there, settled ones are known, and a late message moves nothing twice.
        assert_eq!(filter.settle("r11", Some(5)).await, Some(200));
        assert_eq!(filter.settle("r3", Some(3)).await, Some(200));
        let held = served.balance(&tenants[0]).await;
        assert_eq!((held.pending.get(), held.posted.get()), (28 * 5, 1 + 2 + 3 + 4 + 5 + 1 + 2 + 3 + 5));
        eventually("the new rows are sealed", async || {
            let status = served.admin().audit_status().await.unwrap();
            if status.sealed == status.newest { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
        let verified = json_of(&served.operator(&["audit", "verify", "--json"]));
        assert_eq!(verified["valid"], true);
        assert_eq!(
            verified["public_keys"].as_array().unwrap().len(),
            1,
            "another key signs there: {verified}"
        );
        assert!(
            verified["rows"].as_u64() > Some(60) && verified["checkpoints"].as_u64() > Some(1),
            "{verified}"
        );
        // The old ledger is unchanged.
        assert!(agentrelay(&["ledger", "check", "--database", &from]).status.success());
        drop(served);
        apart(|| drop(server));
    });
}

#[test]
fn moving_a_ledger_with_a_tampered_chain_is_refused() {
    run(async {
        let (served, ..) = used().await;
        let (server, to) = database(server().await).await;
        tamper(&served, "UPDATE audit SET actor = 'me' WHERE sequence = 7");
        refused(&["ledger", "check", "--database", &served.database], "row 7 was changed");
        refused(&["ledger", "move", "--from", &served.database, "--to", &to], "row 7 was changed");
        // Nothing remains there, so that nobody mistakes it for a ledger.
        refused(&["ledger", "check", "--database", &to], "not initialised");
        drop(served);
        apart(|| drop(server));
    });
}

/// As someone who has the file but not the ledger could do.
fn tamper(served: &Served, sql: &str) {
    let file = served.directory.join("ledger.db");
    let script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute(sys.argv[2]); c.commit()";
    let status = Command::new("python3").args(["-c", script]).arg(file).arg(sql).status();
    assert!(status.expect("python3 can be run").success());
}
