//! PgBouncer between ledger and server.

use super::{DEADLINE, STALLED, refused, state, writes};
use harness::clock::{apart, eventually_within, run_within};
use harness::ledger::{Served, directory};
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command};
use throwaway::Throwaway;

/// One pool before one server.
struct Pooler {
    child: Child,
    port: u16,
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> PathBuf {
    let places = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/opt/homebrew/bin/pgbouncer"];
    let found = places.into_iter().map(PathBuf::from).find(|place| place.exists());
    found.expect("PgBouncer is not installed: run scripts/setup-tests, or install the package pgbouncer")
}

impl Pooler {
    async fn start(server: &Throwaway, mode: &str) -> Pooler {
        // Its user must be able to access the directory.
        let state =
            tempfile::Builder::new().prefix("agentrelay-pooler-").tempdir().expect("a directory").keep();
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        let socket = server.host().replace("%2F", "/");
        let users = state.join("users");
        fs::write(&users, "\"ledger\" \"\"\n").expect("it can be written");
        let settings = state.join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host={socket} user=ledger\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = {mode}\n",
            users.display()
        );
        fs::write(&settings, text).expect("it can be written");
        // It refuses to run as root.
        let is_root = std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").expect("Linux")) == 0;
        let mut command = Command::new(program());
        if is_root {
            command.args(["--user", "postgres"]);
            let given = Command::new("chown").args(["-R", "postgres"]).arg(&state).status();
            assert!(given.is_ok_and(|status| status.success()));
        }
        let child = command.arg("--quiet").arg(&settings).spawn().expect("PgBouncer can be run");
        let pooler = Pooler { child, port };
        eventually_within(STALLED, "PgBouncer listens", async || {
            std::net::TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(|error| error.to_string())
        })
        .await;
        pooler
    }

    fn url(&self, database: &str) -> String {
        let name = database.rsplit('/').next().expect("a name");
        format!("postgres://ledger@127.0.0.1:{}/{name}?sslmode=disable", self.port)
    }
}

fn server() -> (Throwaway, String) {
    let server = Throwaway::start().unwrap_or_else(|error| panic!("{error}"));
    let database = server.database().unwrap_or_else(|error| panic!("{error}"));
    (server, database)
}

#[test]
fn a_session_pooler_works_within_the_configured_connections() {
    let (server, database) = server();
    run_within(DEADLINE, async {
        let pooler = Pooler::start(&server, "session").await;
        let served = Served::start(directory("session-pool"), &pooler.url(&database), 1).await;
        let (_, key) = served.payer(200).await;
        for _ in 0..5 {
            let asked = (0..20).map(|_| state(&served, 0, &key));
            let states = futures(asked).await;
            assert!(states.iter().all(|state| state == "active"), "{states:?}");
            writes(&served, 0, &key).await;
        }
        let count = "SELECT count(*)::text FROM pg_stat_activity WHERE application_name = 'agentrelay'";
        let open: u16 = apart(|| server.ask(count)).expect("it answers").parse().expect("a number");
        assert!((3..=ledger::CONNECTIONS).contains(&open), "{open}");
    });
}

#[test]
fn a_transaction_pooler_is_refused_with_the_reason() {
    let (server, database) = server();
    run_within(DEADLINE, async {
        let served = Served::start(directory("transaction-pool"), &database, 1).await;
        let pooler = Pooler::start(&server, "transaction").await;
        let output = refused(&served, &pooler.url(&database)).await;
        assert!(output.contains("pool_mode=transaction") && output.contains("pool_mode=session"), "{output}");
    });
}

async fn futures<T>(asked: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut asked: Vec<_> = asked.map(Box::pin).map(|future| (future, None)).collect();
    std::future::poll_fn(|context| {
        for (future, answer) in asked.iter_mut().filter(|(_, answer)| answer.is_none()) {
            if let std::task::Poll::Ready(value) = future.as_mut().poll(context) {
                *answer = Some(value);
            }
        }
        if asked.iter().all(|(_, answer)| answer.is_some()) {
            std::task::Poll::Ready(asked.iter_mut().filter_map(|(_, answer)| answer.take()).collect())
        } else {
            std::task::Poll::Pending
        }
    })
    .await
}
