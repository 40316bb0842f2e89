//! `agentrelay up` as operators run it, and `up` with several upstreams and its JSON.

use harness::servers::Server;
use harness::{files, mcp, run};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Output;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// A running `agentrelay up`. Stopped when dropped.
pub struct Up {
    pub gate: String,
    pub ledger: String,
    pub admin_key: String,
    pub ready: Value,
    child: Child,
}

impl Up {
    /// Starts it in this directory, with its `policy.yaml`.
    pub async fn start(directory: &Path, arguments: &[&str]) -> Up {
        let mut command = Command::new(files::program());
        command.args(["up", "--policy", "policy.yaml", "--json", "--workers", "1"]).args(arguments);
        command.arg("--wasm").arg(files::wasm()).current_dir(directory);
        command.env("AGENTRELAY_ENVIRONMENT", files::environment());
        command.stdout(std::process::Stdio::piped());
        command.stderr(fs::File::create(directory.join("up.err")).unwrap());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(std::time::Duration::from_secs(240), lines.next_line()).await;
        let line = line.expect("in time").unwrap().unwrap_or_else(|| {
            panic!("it did not start: {}", fs::read_to_string(directory.join("up.err")).unwrap_or_default())
        });
        let ready: Value = serde_json::from_str(&line).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Up {
            gate: text(&ready["gateways"][0]),
            ledger: text(&ready["ledger"]),
            admin_key: text(&ready["admin_key"]),
            ready,
            child,
        }
    }

    /// Runs `agentrelay` as an operator does.
    pub fn operator(&self, arguments: &[&str]) -> Output {
        harness::ledger::operator(&self.ledger, &self.admin_key, arguments)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // Killed, it would leave its children; asked, it stops them and itself.
        if let Some(id) = self.child.id() {
            let _ = std::process::Command::new("kill").args(["-s", "TERM", &id.to_string()]).status();
        }
    }
}

#[test]
fn services_have_upstreams_of_their_own_and_up_says_which_answer() {
    run(async {
        let directory = files::gate_directory();
        let (first, second) = (Server::upstream("own_server.py", &[]).await, Server::express().await);
        let policy = "tiers: {free: {rank: 0}}
risks:
  read_only: {scope: read}
  local_mutation: {scope: read}
  external_mutation: {scope: read}
  destructive: {scope: read}
services:
  office: {kind: mcp, path: /mcp, hosts: [office.example], tools: {add: {risk: read_only}}}
  library: {kind: mcp, path: /mcp, tools: {search: {risk: read_only}}}
  away: {kind: http, path: /away, tools: {GET /x: {risk: read_only}}}
  plain: {kind: http, path: /plain, tools: {GET /x: {risk: read_only}}}
";
        fs::write(directory.join("policy.yaml"), policy).unwrap();
        let office = format!("office={}", first.url());
        // Somebody's mistake: this server has no TLS.
        let plain = second.url().replace("http://", "https://");
        let up = Up::start(
            &directory,
            &[
                "--upstream",
                &office,
                "--upstream",
                &second.url(),
                "--upstream",
                "away=http://127.0.0.1:1",
                "--upstream",
                &format!("plain={plain}"),
                "--state",
                "state",
            ],
        )
        .await;
        let answers: Vec<(&Value, &Value)> = up.ready["upstreams"]
            .as_array()
            .unwrap()
            .iter()
            .map(|upstream| (&upstream["service"], &upstream["answers"]))
            .collect();
        assert!(answers.contains(&(&json!("office"), &json!(true))), "{}", up.ready);
        assert!(answers.contains(&(&json!("away"), &json!(false))), "{}", up.ready);
        let said = fs::read_to_string(directory.join("up.err")).unwrap();
        assert!(said.contains(&format!("the upstream of office answers at {}", first.url())), "{said}");
        assert!(
            said.contains(
                "the upstream of away does not answer at http://127.0.0.1:1: nothing listens there"
            ),
            "{said}"
        );

        let instead = format!("it does not serve TLS; write {}", second.url());
        assert!(
            said.contains(&format!("the upstream of plain does not answer at {plain}: {instead}")),
            "{said}"
        );

        let tenant = up.operator(&["tenants", "create", "--name", "A", "--tier", "free", "--json"]);
        let tenant: Value = serde_json::from_slice(&tenant.stdout).unwrap();
        let tenant = tenant["id"].as_str().unwrap();
        let key =
            up.operator(&["keys", "create", "--tenant", tenant, "--name", "k", "--scope", "read", "--json"]);
        let key: Value = serde_json::from_slice(&key.stdout).unwrap();
        let key = key["secret"].as_str().unwrap();
        let gate = up.gate.trim_start_matches("http://").parse().unwrap();
        let sum =
            mcp::post(&mcp::call("add", json!({"a": 1, "b": 2}))).key(key).header("host", "office.example");
        let sum = sum.send(gate).await;
        // This server, and not the other, takes no foreign Host.
        assert!(sum.text().contains("Invalid Host"), "{sum:?}");
        let found = mcp::post(&mcp::call("search", json!({}))).key(key).send(gate).await;
        assert_eq!(found.status, 200, "{found:?}");
        assert_eq!(second.executed().await, ["search"]);
        let away = harness::Request::get("/away/x").key(key).send(gate).await;
        assert_eq!(away.status, 503, "{away:?}");
    });
}

#[test]
fn upstreams_and_services_must_fit() {
    run(async {
        let directory = files::gate_directory();
        fs::copy(files::shipped_policy(), directory.join("policy.yaml")).unwrap();
        for (upstreams, expected) in [
            (vec!["studio=http://127.0.0.1:1"], "the service `ci` has no upstream: add --upstream ci=URL"),
            (vec!["stduio=http://127.0.0.1:1", "http://127.0.0.1:1"], "did you mean `studio`?"),
            (vec!["http://127.0.0.1:1", "http://127.0.0.1:1"], "is given twice"),
        ] {
            let mut command = std::process::Command::new(files::program());
            command.args(["up", "--policy", "policy.yaml"]).current_dir(&directory);
            command.args(upstreams.iter().flat_map(|upstream| ["--upstream", upstream]));
            let output = command.env("AGENTRELAY_ENVIRONMENT", files::environment()).output().unwrap();
            assert!(
                !output.status.success() && super::said(&output).contains(expected),
                "{}",
                super::said(&output)
            );
        }
    });
}
