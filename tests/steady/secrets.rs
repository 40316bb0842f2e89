//! A secret that nobody received protects nothing, and whoever has the database can recover access.

use super::on_both::Ledger;
use harness::clock::apart;
use harness::ledger::{directory, embedded};
use harness::{files, run};
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::process::{Command, Output, Stdio};
use throwaway::Throwaway;

fn program(arguments: &[&str], stdout: impl Into<Stdio>) -> Output {
    let mut command = Command::new(files::program());
    command.args(arguments).stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
    command.spawn().expect("the program can be run").wait_with_output().expect("it ends")
}

fn output_text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A device without space.
fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").expect("it can be opened")
}

/// A pipe that nobody reads.
fn closed() -> OwnedFd {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

fn dev_null() -> File {
    OpenOptions::new().write(true).open("/dev/null").expect("it can be opened")
}

/// Outputs that can't take a secret.
fn closed_outputs() -> [(&'static str, Stdio); 3] {
    [("full", full().into()), ("closed", closed().into()), ("nowhere", dev_null().into())]
}

fn init_again_after_it_failed(database: &str) -> Value {
    for json in [None, Some("--json")] {
        let arguments: Vec<&str> = ["init", "--database", database].into_iter().chain(json).collect();
        for (name, output) in closed_outputs() {
            let failed = program(&arguments, output);
            assert_eq!(failed.status.code(), Some(1), "{name}: {}", output_text(&failed));
            let is_explained = output_text(&failed).contains("none was stored")
                || output_text(&failed).contains("/dev/null");
            assert!(is_explained, "{name}: {}", output_text(&failed));
        }
        // Closed before the command began.
        let shell = format!("exec \"$0\" {} >&-", arguments.join(" "));
        let failed = Command::new("sh").args(["-c", &shell]).arg(files::program()).output().expect("sh");
        assert_eq!(failed.status.code(), Some(1), "{}", output_text(&failed));
    }
    let made = program(&["init", "--database", database, "--json"], Stdio::piped());
    assert!(made.status.success(), "{}", output_text(&made));
    let again = program(&["init", "--database", database], Stdio::piped());
    assert!(
        output_text(&again).contains("already initialised") && again.stdout.is_empty(),
        "{}",
        output_text(&again)
    );
    serde_json::from_slice(&made.stdout).expect("JSON")
}

#[test]
fn init_can_be_repeated_if_its_output_is_lost() {
    run(async {
        let place = directory("init");
        let made = init_again_after_it_failed(&embedded(&place));
        assert!(made["admin_key"].as_str().unwrap().starts_with("ara_"));

        // In a directory they are delivered, whatever happens to the output.
        let other = format!("sqlite:{}", place.join("other.db").display());
        let state = place.join("state");
        let kept = ["init", "--database", &other, "--state", state.to_str().unwrap()];
        let done = program(&kept, full());
        assert_eq!(done.status.code(), Some(1), "{}", output_text(&done));
        assert!(output_text(&done).contains("both keys are in"), "{}", output_text(&done));
        assert!(state.join("admin-key").exists() && state.join("filter-key").exists());
        // If the directory can't keep them, no database is left that nobody could use.
        let third = format!("sqlite:{}", place.join("third.db").display());
        std::fs::create_dir_all(place.join("odd/admin-key")).unwrap();
        let odd = place.join("odd");
        let failed =
            program(&["init", "--database", &third, "--state", odd.to_str().unwrap()], Stdio::piped());
        assert!(
            !failed.status.success() && output_text(&failed).contains("none was stored"),
            "{}",
            output_text(&failed)
        );
        assert!(program(&["init", "--database", &third], Stdio::piped()).status.success());
    });
}

#[test]
fn on_postgresql_init_can_be_repeated_too() {
    run(async {
        apart(|| {
            let server = Throwaway::start().unwrap_or_else(|error| panic!("{error}"));
            init_again_after_it_failed(&server.database().unwrap());
        });
    });
}

/// For each command that creates a secret by the API: none is created if the output is known to be lost, and otherwise
/// the message says which secret to revoke, and that works.
#[test]
fn an_error_in_printing_a_secret_says_how_to_revoke_it() {
    run(async {
        let ledger = Ledger::embedded("secrets").await;
        let (tenant, key) = ledger.served.payer(10).await;
        let (tenant, key) = (tenant.to_string(), key.key.id.to_string());
        let made = ledger.served.operator(&["filter-keys", "create", "--name", "second", "--json"]);
        let made: Value = serde_json::from_slice(&made.stdout).unwrap();
        let filter = made["id"].as_str().unwrap().to_owned();
        let operator = |arguments: &[&str], stdout: Stdio| {
            let mut command = Command::new(files::program());
            command
                .args(arguments)
                .env("AGENTRELAY_LEDGER", ledger.served.url(0))
                .env("AGENTRELAY_ADMIN_KEY", &ledger.served.credentials.admin_key)
                .stdout(stdout)
                .stderr(Stdio::piped());
            command.spawn().unwrap().wait_with_output().unwrap()
        };
        for arguments in [
            vec!["keys", "create", "--tenant", &tenant, "--name", "a"],
            vec!["keys", "rotate", &key],
            vec!["filter-keys", "create", "--name", "a"],
            vec!["filter-keys", "rotate", &filter],
            vec!["admin-keys", "create", "--name", "a", "--role", "auditor"],
        ] {
            let rows = async || ledger.served.admin().audit_status().await.unwrap().newest;
            for json in [None, Some("--json")] {
                let arguments: Vec<&str> = arguments.iter().copied().chain(json).collect();
                let before = rows().await;
                let refused = operator(&arguments, dev_null().into());
                assert!(!refused.status.success(), "{arguments:?}: {}", output_text(&refused));
                assert_eq!(rows().await, before, "{arguments:?} made something");
                for output in [full().into(), closed().into()] {
                    let lost = operator(&arguments, output);
                    assert_eq!(lost.status.code(), Some(1), "{arguments:?}");
                    let words = output_text(&lost);
                    let (_, undo) = words.split_once("agentrelay ").unwrap_or_else(|| panic!("{words}"));
                    let undo = undo.lines().next().unwrap();
                    // The command in the message can be run.
                    let undo: Vec<&str> = undo.split(' ').collect();
                    let undone = operator(&undo, Stdio::piped());
                    assert!(undone.status.success(), "{undo:?}: {}", output_text(&undone));
                }
            }
        }
        ledger.end().await;
    });
}

async fn assert_recovers(ledger: &mut Ledger) {
    let database = ledger.served.database.clone();
    let recover = ["admin-keys", "recover", "--database", &database, "--reason", "all keys lost", "--json"];
    for (name, output) in closed_outputs() {
        assert!(!program(&recover, output).status.success(), "{name}");
    }
    let made = program(&recover, Stdio::piped());
    assert!(made.status.success(), "{}", output_text(&made));
    let made: Value = serde_json::from_slice(&made.stdout).expect("JSON");
    if ledger.server.is_none() {
        ledger.served.run(0).await;
    }
    // It is an owner, which can revoke the lost one; secrets that nobody received do not exist.
    let operator = |arguments: &[&str]| {
        let output =
            harness::ledger::operator(&ledger.served.url(0), made["secret"].as_str().unwrap(), arguments);
        assert!(output.status.success(), "{arguments:?}: {}", output_text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let keys: Value = serde_json::from_str(&operator(&["admin-keys", "list", "--json"])).unwrap();
    let keys = keys.as_array().unwrap();
    assert_eq!(keys.len(), 2, "{keys:?}");
    let first = keys.iter().find(|key| key["name"] == "first").unwrap()["id"].as_str().unwrap();
    operator(&["admin-keys", "revoke", first, "--reason", "lost"]);
    let trail = operator(&["audit", "list", "--kind", "service_credential_recovered", "--json"]);
    let rows: Vec<&str> = trail.lines().collect();
    assert_eq!(rows.len(), 1, "{trail}");
    for part in [made["id"].as_str().unwrap(), "all keys lost"] {
        assert!(trail.contains(part), "{trail}");
    }
    operator(&["audit", "verify"]);
}

#[test]
fn whoever_has_the_database_can_recover_admin_access() {
    run(async {
        let mut ledger = Ledger::embedded("recover").await;
        let recover = ["admin-keys", "recover", "--database", &ledger.served.database, "--reason", "lost"];
        let refused = program(&recover, Stdio::piped());
        assert!(output_text(&refused).contains("is served by another process"), "{}", output_text(&refused));
        assert!(!refused.status.success() && refused.stdout.is_empty());
        let other = format!("sqlite:{}", ledger.served.directory.join("none.db").display());
        let none =
            program(&["admin-keys", "recover", "--database", &other, "--reason", "lost"], Stdio::piped());
        assert!(
            output_text(&none).contains("not initialised") && none.stdout.is_empty(),
            "{}",
            output_text(&none)
        );
        ledger.served.ledgers[0].take().unwrap().stop().await;
        assert_recovers(&mut ledger).await;
        ledger.end().await;

        let mut ledger = Ledger::on_postgresql("recover-postgresql").await;
        assert_recovers(&mut ledger).await;
        ledger.end().await;
    });
}
