//! The manifest for Envoy Gateway, translated by Envoy Gateway itself. `scripts/mesh` builds the translator and runs
//! this; `cargo test` alone does not.
//!
//! The translator has no cache of Wasm modules, so its output is that of a Gateway that can't load the filter: nothing
//! may be served then, whatever the names of the listeners, and with or without patches.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use harness::files;
use serde_json::Value;
use std::process::Command;

const SHIPPED: &str = include_str!("../envoy/envoy-gateway.yaml");
/// A route of the Gateway, as platform teams add them.
const ROUTE: &str = r#"
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: tools, namespace: agentrelay}
spec:
  parentRefs: [{name: gate}]
  rules:
  - backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: tools}]
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {name: tools, namespace: agentrelay}
spec:
  endpoints:
  - fqdn: {hostname: tools.example, port: 9000}
"#;
const LISTENER: &str = "  - {name: http, protocol: HTTP, port: 80}\n";
const HTTPS: &str = "  - {name: https, protocol: HTTPS, port: 443, tls: {mode: Terminate, certificateRefs: [{name: gate}]}}\n";

/// The Secret that the HTTPS listener names.
fn certificate() -> String {
    let made = rcgen::generate_simple_self_signed(["gate.example".to_owned()]).unwrap();
    let [certificate, key] =
        [made.cert.pem(), made.signing_key.serialize_pem()].map(|pem| STANDARD.encode(pem));
    format!(
        "\n---\napiVersion: v1\nkind: Secret\nmetadata: {{name: gate, namespace: agentrelay}}\n\
         type: kubernetes.io/tls\ndata: {{tls.crt: {certificate}, tls.key: {key}}}\n"
    )
}

fn translate(manifest: &str) -> Value {
    let egctl = std::env::var("AGENTRELAY_EGCTL").expect("run scripts/mesh");
    let file = files::process_directory().join(format!("manifest-{}.yaml", number()));
    std::fs::write(&file, format!("{manifest}{ROUTE}")).unwrap();
    let mut command = Command::new(egctl);
    command.args([
        "x",
        "translate",
        "--from",
        "gateway-api",
        "--to",
        "gateway-api,xds",
        "--output",
        "json",
        "--file",
    ]);
    let output = command.arg(&file).output().expect("egctl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn number() -> usize {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// Every value of this name, however deep.
fn all<'v>(value: &'v Value, name: &str, found: &mut Vec<&'v Value>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get(name));
            members.values().for_each(|member| all(member, name, found));
        }
        Value::Array(items) => items.iter().for_each(|item| all(item, name, found)),
        _ => {}
    }
}

/// The documents with this name in the output, such as `httpRoutes`.
fn named<'v>(translated: &'v Value, name: &str) -> Vec<&'v Value> {
    let mut found = Vec::new();
    all(translated, name, &mut found);
    found
}

/// The routes to the tools: what answers them, for each listener.
fn actions(translated: &Value) -> Vec<String> {
    let mut hosts = named(translated, "virtualHosts");
    hosts.retain(|hosts| hosts[0]["name"].as_str().is_some_and(|name| name.starts_with("agentrelay/gate/")));
    let routes = hosts
        .iter()
        .flat_map(|hosts| hosts.as_array().unwrap())
        .flat_map(|host| host["routes"].as_array().unwrap());
    routes
        .map(|route| match (&route["directResponse"]["status"], &route["route"]["cluster"]) {
            (Value::Number(status), Value::Null) => status.to_string(),
            (Value::Null, Value::String(cluster)) => cluster.clone(),
            other => panic!("{other:?}: {route}"),
        })
        .collect()
}

#[test]
fn envoy_gateway_takes_over_what_the_manifest_says() {
    let translated = translate(SHIPPED);
    let mut conditions = named(&translated, "conditions");
    conditions.retain(|conditions| conditions[0]["type"] != "ResolvedRefs");
    let conditions: Vec<&Value> =
        conditions.iter().flat_map(|conditions| conditions.as_array().unwrap()).collect();
    assert!(conditions.len() >= 8, "{conditions:#?}");
    let refused: Vec<&&Value> = conditions.iter().filter(|condition| condition["status"] != "True").collect();
    // What this translator can't do, see above.
    assert!(
        matches!(refused[..], [only] if only["message"] == "Wasm: wasm cache is not initialized."),
        "{refused:#?}"
    );
    let text = translated.to_string();
    for setting in [
        r#""headersWithUnderscoresAction":"REJECT_REQUEST""#,
        r#""pathWithEscapedSlashesAction":"REJECT_REQUEST""#,
        r#""internalAddressConfig":{"cidrRanges":[{"addressPrefix":"255.255.255.255","prefixLen":32}]}"#,
        r#""maxConcurrentStreams":100"#,
        r#""requestHeadersTimeout":"10s""#,
        r#""requestTimeout":"30s""#,
        r#""streamIdleTimeout":"300s""#,
        r#""stripTrailingHostDot":true"#,
        r#""perConnectionBufferLimitBytes":1048576"#,
        r#""localReplyConfig":{"mappers":[{"#,
    ] {
        assert!(text.contains(setting), "the translation lacks {setting}");
    }
}

#[test]
fn without_the_filter_nothing_is_served() {
    let renamed = SHIPPED.replace(LISTENER, "  - {name: renamed, protocol: HTTP, port: 80}\n");
    let second =
        SHIPPED.replace(LISTENER, &format!("{LISTENER}  - {{name: second, protocol: HTTP, port: 8080}}\n"));
    let https = SHIPPED.replace(LISTENER, &format!("{LISTENER}{HTTPS}")) + &certificate();
    // The translation if patches are not allowed.
    let without_patches: Vec<&str> =
        SHIPPED.split("\n---\n").filter(|document| !document.contains("kind: EnvoyPatchPolicy")).collect();
    let without_patches = without_patches.join("\n---\n");
    for altered in [&renamed, &second, &https, &without_patches] {
        assert_ne!(altered, SHIPPED);
    }
    for (manifest, listeners) in
        [(SHIPPED, 1), (&renamed, 1), (&second, 2), (&https, 2), (&without_patches, 1)]
    {
        assert_eq!(actions(&translate(manifest)), vec!["500"; listeners]);
    }
}

#[test]
fn without_the_policy_that_carries_the_filter_it_would_be_served() {
    let open: Vec<&str> = SHIPPED
        .split("\n---\n")
        .filter(|document| !document.contains("kind: EnvoyExtensionPolicy"))
        .collect();
    assert_eq!(actions(&translate(&open.join("\n---\n"))), ["httproute/agentrelay/tools/rule/0"]);
}
