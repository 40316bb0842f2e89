//! The shipped configuration, as the stack runs it.

use super::*;

mod manifests;

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
