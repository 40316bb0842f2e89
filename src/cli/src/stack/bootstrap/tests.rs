//! The shipped configuration, as the stack runs it.

use super::*;

fn rendered(upstream: &str) -> Value {
    render(&Settings {
        node_id: "gate-7",
        wasm: Path::new("/somewhere/agentrelay.wasm"),
        port: 4321,
        ledger: "127.0.0.1:7".parse().unwrap(),
        upstream: &upstream.parse().unwrap(),
    })
    .unwrap()
}

/// Every leaf of the tree by its path.
fn leaves(value: &Value, path: String, into: &mut Vec<(String, Value)>) {
    match value {
        Value::Mapping(mapping) => {
            for (key, value) in mapping {
                leaves(value, format!("{path}/{}", key.as_str().unwrap()), into);
            }
        }
        Value::Sequence(items) => {
            for (index, value) in items.iter().enumerate() {
                leaves(value, format!("{path}/{index}"), into);
            }
        }
        leaf => into.push((path, leaf.clone())),
    }
}

#[test]
fn only_addresses_differ_from_the_file_that_users_copy() {
    let (mut shipped, mut used) = (Vec::new(), Vec::new());
    leaves(&serde_yaml_ng::from_str(SHIPPED).unwrap(), String::new(), &mut shipped);
    leaves(&rendered("http://127.0.0.1:9"), String::new(), &mut used);
    assert_eq!(shipped.len(), used.len());
    let changed: Vec<&str> = shipped
        .iter()
        .zip(&used)
        .filter(|(shipped, used)| shipped != used)
        .map(|((path, _), _)| path.rsplit('/').next().unwrap())
        .collect();
    // The hosts of the shipped file are loopback, as here.
    assert_eq!(changed, ["id", "port_value", "port_value", "filename", "port_value", "port_value"]);
}

#[test]
fn a_tls_upstream_is_verified_by_its_name() {
    let mut bootstrap = rendered("https://tools.example.com");
    let tls = field(&mut bootstrap, &format!("{UPSTREAM}/transport_socket/typed_config")).unwrap();
    assert_eq!(tls.get("sni").unwrap(), "tools.example.com");
    assert_eq!(
        field(&mut bootstrap, ROUTE).unwrap().get("host_rewrite_literal").unwrap(),
        "tools.example.com"
    );
}

/// The filter and the ledger's cluster as a manifest for Kubernetes writes them, anywhere in its documents.
fn parts(manifest: &str) -> Vec<Value> {
    fn collect(value: &Value, into: &mut Vec<Value>) {
        match value {
            Value::Mapping(mapping) => {
                let name = value.get("name").and_then(Value::as_str);
                let is_filter = name == Some("agentrelay") && mapping.contains_key("typed_config");
                let is_cluster = name == Some("agentrelay_ledger") && mapping.contains_key("load_assignment");
                if is_filter || is_cluster {
                    into.push(value.clone());
                }
                mapping.values().for_each(|value| collect(value, into));
            }
            Value::Sequence(items) => items.iter().for_each(|item| collect(item, into)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(manifest) {
        collect(&serde::Deserialize::deserialize(document).unwrap(), &mut found);
    }
    found
}

#[test]
fn the_manifests_for_kubernetes_run_the_filter_as_the_shipped_file_does() {
    let mut shipped = parts(SHIPPED);
    *field(&mut shipped[0], "typed_config/config/vm_config/code/local/filename").unwrap() =
        "/etc/agentrelay/agentrelay.wasm".into();
    let address = format!("{ENDPOINT}/address/socket_address/address");
    *field(&mut shipped[1], &address).unwrap() = "agentrelay-ledger.agentrelay.svc.cluster.local".into();

    for manifest in [
        include_str!("../../../../../envoy/istio.yaml"),
        include_str!("../../../../../envoy/envoy-gateway.yaml"),
    ] {
        assert_eq!(parts(manifest), shipped);
    }
}
