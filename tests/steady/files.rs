//! Files of a ledger and its operator: complete or absent, private to their owner, with their mode kept.

use super::on_both::Ledger;
use harness::clock::apart;
use harness::ledger::directory;
use harness::{files, run};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};
use throwaway::Throwaway;

fn agentrelay(arguments: &[&str]) -> Output {
    Command::new(files::program()).args(arguments).output().expect("the program can be run")
}

fn output_text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[test]
fn files_of_a_database_become_their_owners_alone() {
    run(async {
        let mut ledger = Ledger::embedded("modes").await;
        let place = ledger.served.directory.clone();
        ledger.served.kill(0);
        let of_the_database = ["ledger.db", "ledger.db-wal", "ledger.db-shm"].map(|name| place.join(name));
        for file in &of_the_database {
            fs::set_permissions(file, Permissions::from_mode(0o644)).unwrap();
        }
        ledger.served.run(0).await;
        for file in &of_the_database {
            assert_eq!(mode(file), 0o600, "{}", file.display());
        }
        ledger.end().await;
    });
}

#[test]
fn a_running_ledger_can_not_be_moved() {
    run(async {
        let mut ledger = Ledger::embedded("move-served").await;
        ledger.served.payer(10).await;
        let from = ledger.served.database.clone();
        apart(|| {
            let server = Throwaway::start().unwrap_or_else(|error| panic!("{error}"));
            let to = server.database().unwrap();
            let refused = agentrelay(&["ledger", "move", "--from", &from, "--to", &to]);
            assert_eq!(refused.status.code(), Some(1), "{}", output_text(&refused));
            let words = output_text(&refused);
            assert!(
                words.contains("nothing was moved") && words.contains("is served by another process"),
                "{words}"
            );
            let check = agentrelay(&["ledger", "check", "--database", &to]);
            assert!(output_text(&check).contains("not initialised"), "{}", output_text(&check));
        });
        ledger.served.kill(0);
        ledger.end().await;
    });
}

/// Runs `agentrelay` as a user who may only read, in a read-only place, which does not apply to root.
fn unprivileged(program: &Path, arguments: &[&str]) -> Output {
    const NOBODY: u32 = 65_534;
    let mut command = Command::new(program);
    command.args(arguments);
    if fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.output().expect("the program can be run")
}

#[test]
fn a_backup_is_complete_or_absent_and_opens_on_a_read_only_disk() {
    run(async {
        let mut ledger = Ledger::embedded("backups").await;
        ledger.served.payer(10).await;
        // In a place that everybody may enter: this program may be below a private directory.
        let outside = tempfile::tempdir().unwrap();
        fs::set_permissions(outside.path(), Permissions::from_mode(0o755)).unwrap();
        let place = outside.path().join("kept");
        fs::create_dir(&place).unwrap();
        let copy = place.join("a copy%20?#.db");
        let made =
            agentrelay(&["backup", "--database", &ledger.served.database, "--to", copy.to_str().unwrap()]);
        assert!(made.status.success(), "{}", output_text(&made));
        assert_eq!(mode(&copy), 0o600);
        let beside: Vec<_> = fs::read_dir(&place).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(beside.len(), 1, "{beside:?}");

        // The database of a stopped ledger is marked as using a log, as backups of earlier releases are.
        ledger.served.ledgers[0].take().unwrap().stop().await;
        let old = place.join("old.db");
        fs::copy(ledger.served.directory.join("ledger.db"), &old).unwrap();
        let program = outside.path().join("agentrelay");
        fs::copy(files::program(), &program).unwrap();
        let target = outside.path().join("target");
        fs::create_dir(&target).unwrap();
        for path in [&copy, &old, &place, &target] {
            let _ = chown(path, Some(65_534), Some(65_534));
        }
        for file in [&copy, &old] {
            fs::set_permissions(file, Permissions::from_mode(0o400)).unwrap();
        }
        fs::set_permissions(&place, Permissions::from_mode(0o500)).unwrap();
        for (number, file) in [&copy, &old].into_iter().enumerate() {
            let check = unprivileged(
                &program,
                &["ledger", "check", "--database", &format!("sqlite:{}", file.display())],
            );
            assert!(check.status.success(), "{}: {}", file.display(), output_text(&check));
            let restored = format!("sqlite:{}", target.join(format!("restored-{number}.db")).display());
            let done = unprivileged(
                &program,
                &["restore", "--from", file.to_str().unwrap(), "--database", &restored],
            );
            assert!(done.status.success(), "{}: {}", file.display(), output_text(&done));
            let check = unprivileged(&program, &["ledger", "check", "--database", &restored]);
            assert!(check.status.success(), "{}", output_text(&check));
        }
        assert_eq!(fs::read_dir(&place).unwrap().count(), 2, "nothing was written there");
        fs::set_permissions(&place, Permissions::from_mode(0o700)).unwrap();

        // A failed backup leaves nothing that could be taken for a copy, and does not change what was there.
        let broken = ledger.served.directory.join("ledger.db");
        let script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); \
                      c.execute(\"UPDATE audit SET actor = 'me' WHERE sequence = 1\"); c.commit()";
        assert!(Command::new("python3").args(["-c", script]).arg(&broken).status().unwrap().success());
        let failed = directory("failed");
        let to = failed.join("copy.db");
        let output =
            agentrelay(&["backup", "--database", &ledger.served.database, "--to", to.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1));
        assert!(output_text(&output).contains("row 1"), "{}", output_text(&output));
        let restored = format!("sqlite:{}", failed.join("restored.db").display());
        let output = agentrelay(&["restore", "--from", broken.to_str().unwrap(), "--database", &restored]);
        assert_eq!(output.status.code(), Some(1), "{}", output_text(&output));
        assert_eq!(fs::read_dir(&failed).unwrap().count(), 0);
        fs::write(&to, "mine").unwrap();
        let output =
            agentrelay(&["backup", "--database", &ledger.served.database, "--to", to.to_str().unwrap()]);
        assert!(output_text(&output).contains("exists already"), "{}", output_text(&output));
        assert_eq!(fs::read_to_string(&to).unwrap(), "mine");
        ledger.end().await;
    });
}
