//! What operators see: metrics, logs, the command line. What nobody may see is in `secrets`.

use harness::agent::NewKey;
use harness::clock::eventually;
use harness::{Agent, Gate, Request, files, mcp, run, stats};
use serde_json::{Value, json};
use std::process::Output;
use std::time::Duration;
use tokio::process::Command;

/// Sends one request for each of these outcomes.
async fn one_of_each(gate: &Gate) -> Agent {
    let agent = gate.agent_with("hobby", 5, NewKey::default().limit(8, 60)).await;
    agent.call(&mcp::image("standard")).await.assert_allowed();
    gate.settled(&agent).await;
    agent.call(&mcp::image("standard")).await.assert_refused(402, "quota_exceeded");
    agent.call(&mcp::image("ultra_plus")).await.assert_refused(403, "tier_denied");
    agent
        .send(Request::post("/api/v1/mcp/projects/1/trigger"))
        .await
        .assert_refused(403, "insufficient_scope");
    agent.call(&mcp::call("unlisted", json!({}))).await.assert_refused(404, "unknown_tool");
    agent.send(mcp::post_bytes(b"{")).await.assert_refused(400, "invalid_request");
    let failed = agent.send(mcp::post(&mcp::search()).upstream("status=500")).await;
    assert_eq!(failed.status, 500);
    agent.call(&mcp::search()).await.assert_allowed();
    agent.call(&mcp::search()).await.assert_refused(429, "rate_limited");
    gate.send(mcp::post(&mcp::search())).await.assert_refused(401, "auth_denied");
    agent
}

const EXPECTED: [(&str, u64); 9] = [
    ("allowed", 2),
    ("quota_exceeded", 1),
    ("tier_denied", 1),
    ("insufficient_scope", 1),
    ("unknown_tool", 1),
    ("invalid_request", 1),
    ("upstream_error", 1),
    ("rate_limited", 1),
    ("auth_denied", 1),
];

#[test]
fn decisions_are_counted_by_outcome() {
    run(async {
        let gate = Gate::options().start().await;
        let agent = one_of_each(&gate).await;
        for (outcome, count) in EXPECTED {
            let name = format!("wasmcustom.agentrelay_decisions.outcome={outcome}");
            eventually("the decision is counted", async || match gate.stat(&name).await {
                found if found == count => Ok(()),
                found => Err(format!("{name}: {found}")),
            })
            .await;
        }
        let prometheus = stats::prometheus(gate.envoy.admin).await;
        for (outcome, count) in EXPECTED {
            let line = prometheus
                .lines()
                .find(|line| {
                    line.contains("agentrelay_decisions{") && line.contains(&format!("outcome=\"{outcome}\""))
                })
                .unwrap_or_else(|| panic!("no {outcome}: {prometheus}"));
            assert!(line.ends_with(&format!(" {count}")), "{line}");
        }
        for part in ["callouts", "queue_depth", "queue_dropped", "cas_retries", "policy_loaded"] {
            assert!(prometheus.contains(&format!("agentrelay_{part}")), "no metric for {part}");
        }
        // Metrics have no labels of high cardinality; the ledger has the details.
        for secret in [agent.key.as_str(), agent.tenant.as_str(), &agent.secret] {
            assert!(!prometheus.contains(secret), "{secret} is in a metric");
        }
        // The ledger counts the same after the decisions are reported.
        eventually("the ledger counts decisions", async || {
            let text = stats::ledger(gate.ledger_address).await;
            let is_there = |outcome: &str, count: u64| {
                text.contains(&format!("agentrelay_ledger_decisions_total{{outcome=\"{outcome}\"}} {count}"))
            };
            if EXPECTED.iter().all(|(outcome, count)| is_there(outcome, *count)) { Ok(()) } else { Err(text) }
        })
        .await;
        eventually("the queue is empty", async || {
            match gate.stat("wasmcustom.agentrelay_queue_depth").await {
                0 => Ok(()),
                waiting => Err(format!("{waiting} wait")),
            }
        })
        .await;
    });
}

#[test]
fn latency_is_a_histogram_by_service_and_outcome_and_calls_are_counted_by_tool() {
    run(async {
        let gate = Gate::options().start().await;
        one_of_each(&gate).await;
        let wanted = [
            r#"agentrelay_latency_ms_count{outcome="allowed",service="studio"} 2"#,
            r#"agentrelay_latency_ms_count{outcome="tier_denied",service="studio"} 1"#,
            r#"agentrelay_latency_ms_count{outcome="insufficient_scope",service="ci"} 1"#,
            r#"agentrelay_calls{service="studio",tool="image_generate"} 3"#,
            r#"agentrelay_calls{service="studio",tool="search"} 3"#,
            r#"agentrelay_calls{service="ci",tool="POST /projects/{project}/trigger"} 1"#,
        ];
        // Envoy merges histograms every five seconds.
        eventually("Envoy shows them", async || {
            let shown = stats::prometheus(gate.envoy.admin).await;
            let own: Vec<String> =
                shown.lines().filter(|line| line.contains("agentrelay_")).map(without_prefix).collect();
            let missing = wanted.iter().find(|line| !own.iter().any(|own| own == *line));
            missing.map_or(Ok(()), |missing| Err(format!("no {missing} in {own:#?}")))
        })
        .await;
    });
}

/// A line of Prometheus's without what Envoy puts before its name, and with its labels in order.
fn without_prefix(line: &str) -> String {
    let own = line.split_once("agentrelay_").map_or(line, |(_, own)| own);
    let Some((name, rest)) = own.split_once('{') else { return format!("agentrelay_{own}") };
    let (labels, value) = rest.rsplit_once('}').unwrap_or((rest, ""));
    let mut labels: Vec<&str> = labels.split("\",").map(|label| label.trim_end_matches('"')).collect();
    labels.sort_unstable();
    let labels: Vec<String> = labels.iter().map(|label| format!("{label}\"")).collect();
    format!("agentrelay_{name}{{{}}}{value}", labels.join(","))
}

#[test]
fn the_access_log_has_key_tool_and_outcome() {
    run(async {
        let gate = Gate::options().start().await;
        let agent = one_of_each(&gate).await;
        let line = async |outcome: &'static str, tool: &'static str| {
            gate.access_log(move |line| {
                line["outcome"] == outcome && (tool.is_empty() || line["tool"] == tool)
            })
            .await
        };
        for (outcome, tool, status) in [
            ("allowed", "image_generate", 200),
            ("allowed", "search", 200),
            ("quota_exceeded", "image_generate", 402),
            ("tier_denied", "image_generate", 403),
            ("insufficient_scope", "POST /projects/{project}/trigger", 403),
            ("unknown_tool", "", 404),
            ("invalid_request", "", 400),
            ("upstream_error", "search", 500),
            ("rate_limited", "search", 429),
        ] {
            let line = line(outcome, tool).await;
            assert_eq!(line["status"], status, "{line}");
            assert_eq!(line["key_id"], agent.key.as_str(), "{line}");
            let details = line["details"].as_str().unwrap();
            let is_own = details == format!("agentrelay.{outcome}");
            assert_eq!(is_own, !matches!(outcome, "allowed" | "upstream_error"), "{line}");
        }
        let anonymous = line("auth_denied", "").await;
        assert_eq!(
            (&anonymous["status"], &anonymous["details"]),
            (&json!(401), &json!("agentrelay.auth_denied"))
        );
        assert!(anonymous["key_id"].is_null() || anonymous["key_id"] == "-", "{anonymous}");
    });
}

#[test]
fn usage_adds_up_by_tool_key_and_tenant() {
    run(async {
        let gate = Gate::options().start().await;
        let agent = gate.agent("pro").await;
        for quality in ["standard", "premium"] {
            agent.call(&mcp::image(quality)).await.assert_allowed();
        }
        agent.send(mcp::post(&mcp::image("ultra")).upstream("is-error")).await;
        agent.call(&mcp::search()).await.assert_allowed();
        gate.settled(&agent).await;
        let usage = async |group_by: &str| {
            let request =
                Request::get(format!("/v1/usage?group_by={group_by}")).key(&gate.credentials().admin_key);
            let answer = request.send(gate.ledger_address).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            answer.json()["items"].as_array().unwrap().clone()
        };
        let row = async |group_by: &str, is_wanted: &dyn Fn(&Value) -> bool, expected: [u64; 3]| {
            eventually("usage is counted", async || {
                let rows = usage(group_by).await;
                let row = rows.iter().find(|row| is_wanted(row)).cloned().unwrap_or_default();
                let found = ["calls", "allowed", "credits"].map(|name| row[name].as_u64().unwrap_or(0));
                if found == expected { Ok(()) } else { Err(format!("{group_by}: {rows:?}")) }
            })
            .await;
        };
        row("tool", &|row| row["tool"] == "image_generate", [3, 2, 20]).await;
        row("tool", &|row| row["tool"] == "search", [1, 1, 0]).await;
        row("key", &|row| row["key_id"] == agent.key.as_str(), [4, 3, 20]).await;
        row("tenant", &|row| row["tenant_id"] == agent.tenant.as_str(), [4, 3, 20]).await;
        let both = |row: &Value| row["tenant_id"] == agent.tenant.as_str() && row["tool"] == "search";
        row("tool,tenant", &both, [1, 1, 0]).await;
    });
}

/// Runs `agentrelay` with an operator's environment.
async fn operator(gate: &Gate, arguments: &[&str]) -> Output {
    let command = Command::new(files::program())
        .args(arguments)
        .env("AGENTRELAY_LEDGER", format!("http://{}", gate.ledger_address))
        .env("AGENTRELAY_ADMIN_KEY", &gate.credentials().admin_key)
        .output();
    harness::clock::in_time("the command", command).await.unwrap().unwrap()
}

async fn json_of(gate: &Gate, arguments: &[&str]) -> Value {
    let output = operator(gate, arguments).await;
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {output:?}"))
}

#[test]
fn the_command_line_manages_tenants_and_keys() {
    run(async {
        let gate = Gate::shared().await;
        let tenant = json_of(
            gate,
            &["tenants", "create", "--name", "Acme", "--tier", "pro", "--credits", "30", "--json"],
        )
        .await;
        let tenant = tenant["id"].as_str().unwrap();
        json_of(gate, &["tenants", "credit", tenant, "20", "--reason", "gift", "--json"]).await;
        let balance = json_of(gate, &["tenants", "balance", tenant, "--json"]).await;
        assert_eq!(balance, json!({"granted": 50, "available": 50, "pending": 0, "posted": 0}));
        let arguments = [
            "keys",
            "create",
            "--tenant",
            tenant,
            "--name",
            "ci",
            "--scope",
            "read,generate",
            "--limit",
            "100/60s",
            "--json",
        ];
        let key = json_of(gate, &arguments).await;
        let (id, secret) = (key["id"].as_str().unwrap(), key["secret"].as_str().unwrap());
        mcp::post(&mcp::image("ultra")).key(secret).send(gate.address).await.assert_allowed();
        eventually("the call is charged", async || {
            let balance = json_of(gate, &["tenants", "balance", tenant, "--json"]).await;
            if balance["posted"] == 25 { Ok(()) } else { Err(balance.to_string()) }
        })
        .await;
        let listed = json_of(gate, &["keys", "list", "--tenant", tenant, "--json"]).await;
        assert_eq!(listed.as_array().unwrap().len(), 1);
        assert!(!listed.to_string().contains(secret), "a secret is shown once only");
        let rotated = json_of(gate, &["keys", "rotate", id, "--json"]).await;
        let renewed = rotated["secret"].as_str().unwrap();
        mcp::post(&mcp::search()).key(renewed).send(gate.address).await.assert_allowed();
        let revoked = json_of(gate, &["keys", "revoke", id, "--reason", "test", "--json"]).await;
        assert_eq!(revoked["state"], "revoked");
        eventually("the key is refused", async || {
            match mcp::post(&mcp::search()).key(renewed).send(gate.address).await.status {
                401 => Ok(()),
                status => Err(format!("{status}")),
            }
        })
        .await;
        // For people: tables with the requested columns.
        for (arguments, expected) in [
            (vec!["tenants", "list"], "Acme"),
            (vec!["keys", "list", "--tenant", tenant], "revoked"),
            (vec!["usage", "--group-by", "tool"], "image_generate"),
            (vec!["audit", "list", "--tenant", tenant], "key_revoked"),
            (vec!["policy", "show"], "image_generate"),
        ] {
            let output = operator(gate, &arguments).await;
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains(expected), "{arguments:?}: {output:?}");
        }
    });
}

#[test]
fn mistakes_on_the_command_line_are_explained() {
    run(async {
        let gate = Gate::shared().await;
        let faulty = gate.directory().join("faulty.yaml");
        let mut policy = harness::policy::shipped();
        policy["tiers"]["pro"]["limits"] = harness::policy::yaml("[{permits: 300, window: 60x, burst: 1}]");
        std::fs::write(&faulty, serde_yaml_ng::to_string(&policy).unwrap()).unwrap();
        let faulty = faulty.to_str().unwrap();
        let shipped = files::shipped_policy();
        let valid = operator(gate, &["policy", "check", shipped.to_str().unwrap()]).await;
        assert!(valid.status.success(), "{valid:?}");
        for (arguments, expected) in [
            (vec!["policy", "check", faulty], "tiers.pro.limits[0]"),
            (vec!["policy", "check", "/nowhere/policy.yaml"], "/nowhere/policy.yaml"),
            (vec!["tenants", "create", "--name", "A", "--tier", "golden"], "tier"),
            (vec!["tenants", "balance", "ten_unknown"], "no tenant has this id"),
            (vec!["keys", "revoke", "key_unknown", "--reason", "x"], "no key has this id"),
            (vec!["tenants", "list", "--ledger", "http://127.0.0.1:1"], "127.0.0.1:1"),
        ] {
            let output = operator(gate, &arguments).await;
            let text = format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            assert!(!output.status.success(), "{arguments:?}: {text}");
            assert!(text.contains(expected), "{arguments:?}: {text}");
            assert!(!text.contains(&gate.credentials().admin_key), "{arguments:?}");
        }
    });
}

#[test]
fn each_api_of_the_ledger_accepts_only_its_own_kind_of_credential() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("pro").await;
        let credentials = gate.credentials();
        let status = async |path: &str, secret: &str| {
            Request::get(path).key(secret).send(gate.ledger_address).await.status
        };
        for path in [
            "/v1/tenants",
            "/v1/keys",
            "/v1/usage?group_by=tool",
            "/v1/audit",
            "/v1/tiers",
            "/v1/tools",
            "/v1/policy",
        ] {
            assert_eq!(status(path, &credentials.admin_key).await, 200, "{path}");
            assert!(matches!(status(path, &credentials.filter_key).await, 401 | 403), "{path}");
            assert!(matches!(status(path, &agent.secret).await, 401 | 403), "{path}");
            assert_eq!(Request::get(path).send(gate.ledger_address).await.status, 401, "{path}");
        }
        assert_eq!(status("/filter/v1/policy", &credentials.filter_key).await, 200);
        for secret in [&credentials.admin_key, &agent.secret] {
            assert!(matches!(status("/filter/v1/policy", secret).await, 401 | 403));
        }
        for path in ["/healthz", "/readyz", "/metrics"] {
            assert_eq!(Request::get(path).send(gate.ledger_address).await.status, 200, "{path}");
        }
        let tiers = Request::get("/v1/tiers").key(&credentials.admin_key).send(gate.ledger_address).await;
        assert!(tiers.text().contains("\"permits\":20"), "{tiers:?}");
        let tools = Request::get("/v1/tools").key(&credentials.admin_key).send(gate.ledger_address).await;
        assert!(tools.text().contains("\"ultra_plus\":8"), "{tools:?}");
    });
}

#[test]
fn up_starts_everything_and_stops_everything() {
    run(async {
        let gate = Gate::shared().await;
        for signal in ["INT", "TERM"] {
            let state = gate.directory().join(format!("up-{signal}"));
            std::fs::create_dir_all(&state).unwrap();
            let ready_file = state.join("ready.json");
            let mut up = Command::new(files::program())
                .arg("up")
                .arg("--policy")
                .arg(files::shipped_policy())
                .args(["--upstream", &gate.upstream.url(), "--envoys", "2", "--workers", "1", "--port", "0"])
                .arg("--wasm")
                .arg(files::wasm())
                .arg("--state")
                .arg(state.join("state"))
                .arg("--ready-file")
                .arg(&ready_file)
                .env("AGENTRELAY_ENVIRONMENT", files::environment())
                .stdout(std::fs::File::create(state.join("out")).unwrap())
                .stderr(std::fs::File::create(state.join("err")).unwrap())
                .kill_on_drop(true)
                .spawn()
                .unwrap();
            let ready = harness::clock::eventually_within(
                Duration::from_secs(240),
                "everything is ready",
                async || {
                    let text = std::fs::read_to_string(&ready_file).map_err(|error| error.to_string())?;
                    serde_json::from_str::<Value>(&text).map_err(|error| error.to_string())
                },
            )
            .await;
            let gateways: Vec<&str> =
                ready["gateways"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            assert_eq!(gateways.len(), 2, "{ready}");
            assert_eq!(ready["envoy_admins"].as_array().unwrap().len(), 2, "{ready}");
            let admin =
                client::Client::new(ready["ledger"].as_str().unwrap(), ready["admin_key"].as_str().unwrap())
                    .unwrap();
            assert!(admin.tenants(None).await.unwrap().items.is_empty());
            for gateway in &gateways {
                let address = gateway.trim_start_matches("http://").parse().unwrap();
                mcp::post(&mcp::search()).send(address).await.assert_refused(401, "auth_denied");
            }
            let mut started: Vec<u64> =
                ready["pids"]["envoys"].as_array().unwrap().iter().filter_map(Value::as_u64).collect();
            started.extend(ready["pids"]["ledger"].as_u64());
            assert_eq!(started.len(), 3, "{ready}");
            let id = up.id().unwrap().to_string();
            assert!(Command::new("kill").args(["-s", signal, &id]).status().await.unwrap().success());
            let status = harness::clock::in_time("it stops", up.wait()).await.unwrap().unwrap();
            assert!(status.success(), "{status}");
            for id in started {
                // The kernel may need a moment to reap a killed process.
                harness::clock::eventually("the process is gone", async || {
                    let is_there = std::path::Path::new(&format!("/proc/{id}")).exists();
                    if is_there { Err(format!("process {id} still runs")) } else { Ok(()) }
                })
                .await;
            }
            assert!(!ready_file.exists(), "nothing is ready any more");
        }
    });
}
