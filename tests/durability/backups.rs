//! Backup and restore as an operator runs them. For PostgreSQL, the commands print its own tools to use.

use harness::ledger::{Served, directory, embedded};
use harness::{files, run};
use std::process::{Command, Output};
use throwaway::Throwaway;

fn agentrelay(arguments: &[&str]) -> Output {
    Command::new(files::program()).args(arguments).output().expect("the program can be run")
}

fn output_text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_backup_of_a_running_embedded_ledger_is_complete() {
    run(async {
        let place = directory("backup");
        let served = Served::start(place.clone(), &embedded(&place), 1).await;
        let (tenant, key) = served.payer(100).await;
        assert_eq!(served.filter(0).reserve("r1", &key.key.id, 5, 60).await, Some(201));
        let copy = place.join("copy.db").display().to_string();
        let made = Command::new(files::program())
            .args(["backup", "--to", &copy])
            .env("AGENTRELAY_DATABASE", &served.database)
            .output()
            .expect("the program can be run");
        assert!(made.status.success(), "{}", output_text(&made));
        assert_eq!(served.filter(0).reserve("r2", &key.key.id, 5, 60).await, Some(201));
        let restored = format!("sqlite:{}", place.join("restored.db").display());
        let made = agentrelay(&["restore", "--from", &copy, "--database", &restored]);
        assert!(made.status.success(), "{}", output_text(&made));
        let check = agentrelay(&["ledger", "check", "--database", &restored]);
        assert!(check.status.success(), "{}", output_text(&check));
        assert_eq!(served.balance(&tenant).await.pending.get(), 10);
    });
}

#[test]
fn for_postgresql_the_commands_name_its_own_tools_which_do_it() {
    run(async {
        let (server, [database, other]) = tokio::task::spawn_blocking(|| {
            let server = Throwaway::start().unwrap_or_else(|error| panic!("{error}"));
            let databases = [server.database().unwrap(), server.database().unwrap()];
            (server, databases)
        })
        .await
        .unwrap();
        let place = directory("backup-postgresql");
        let served = Served::start(place.clone(), &database, 1).await;
        let (_, key) = served.payer(100).await;
        assert_eq!(served.filter(0).reserve("r1", &key.key.id, 5, 60).await, Some(201));
        let file = place.join("ledger.dump").display().to_string();
        for arguments in [
            ["backup", "--database", &database, "--to", &file],
            ["restore", "--database", &database, "--from", &file],
        ] {
            let refused = agentrelay(&arguments);
            assert_eq!(refused.status.code(), Some(1), "{arguments:?}");
            assert!(refused.stdout.is_empty(), "{arguments:?}");
            for tool in ["pg_dump", "pg_restore"] {
                assert!(output_text(&refused).contains(tool), "{arguments:?}: {}", output_text(&refused));
            }
        }
        assert!(!place.join("ledger.dump").exists());

        // The printed commands work while the ledger runs.
        let tool = |name: &str, arguments: &[&str]| {
            let output = Command::new(server.program(name)).args(arguments).output().expect("it can be run");
            assert!(output.status.success(), "{name}: {}", output_text(&output));
        };
        tool("pg_dump", &["--format=custom", "--dbname", &database, "--file", &file]);
        tool("pg_restore", &["--exit-on-error", "--dbname", &other, &file]);
        let check = agentrelay(&["ledger", "check", "--database", &other]);
        assert!(check.status.success(), "{}", output_text(&check));
        drop(served);
        tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
    });
}
