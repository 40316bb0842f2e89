//! The shipped configuration, as the stack runs it.

use super::*;

mod manifests;

const ROUTE: &str = "static_resources/listeners/gate/filter_chains/0/filters/\
    envoy.filters.network.http_connection_manager/typed_config/route_config/virtual_hosts/tools/routes/0/route";

fn rendered(upstream: &str) -> Value {
    render(&Settings {
        node_id: "gate-7",
        filter: &Filter::Wasm("/somewhere/agentrelay.wasm".into()),
        port: 4321,
        ledger: "127.0.0.1:7".parse().unwrap(),
        upstream: &upstream.parse().unwrap(),
    })
    .unwrap()
}

#[test]
fn the_two_shipped_files_differ_only_in_the_filter() {
    const FILTERS: &str = "static_resources/listeners/gate/filter_chains/0/filters/\
        envoy.filters.network.http_connection_manager/typed_config/http_filters";
    let [wasm, native] = [SHIPPED, SHIPPED_NATIVE].map(|text| {
        let mut tree: Value = serde_yaml_ng::from_str(text).unwrap();
        let filter = field(&mut tree, &format!("{FILTERS}/agentrelay/typed_config")).unwrap();
        let filter = std::mem::take(filter);
        // Comments too, but for those of the filter and the head, which says how to start it.
        let (_, body) = text.split_once("\nnode:").unwrap();
        let (before, filter_on) = body.split_once("- name: agentrelay\n").unwrap();
        let (_, after) = filter_on.split_once("- name: envoy.filters.http.router").unwrap();
        (tree, filter, before.to_owned(), after.to_owned())
    });
    assert_eq!(wasm.0, native.0);
    assert_eq!((wasm.2, wasm.3), (native.2, native.3));
    let configured = |filter: &Value, path: &str| {
        let mut filter = filter.clone();
        field(&mut filter, path).unwrap().clone()
    };
    assert_eq!(
        configured(&wasm.1, "config/configuration"),
        configured(&native.1, "filter_config"),
        "both take the same configuration"
    );
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
    // A second stack must not share this one's port.
    let reuse = used.iter().position(|(path, _)| path.ends_with("/listeners/0/enable_reuse_port")).unwrap();
    assert_eq!(used.remove(reuse).1, false);
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

#[test]
fn a_service_with_its_own_upstream_has_its_own_route_and_cluster() {
    let route = |service: &str, path: &str, hosts: &[&str], url: &str| Route {
        service: service.into(),
        path: path.into(),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        upstream: url.parse().unwrap(),
    };
    let routes = vec![
        route("ci", "/api/", &["ci.example"], "https://ci.example"),
        route("mine", "/", &[], "http://127.0.0.1:5"),
    ];
    let render = |default: Option<&str>| {
        let upstream = Upstreams { default: default.map(|url| url.parse().unwrap()), routes: routes.clone() };
        let settings = Settings {
            node_id: "gate-7",
            filter: &Filter::Wasm("/somewhere/agentrelay.wasm".into()),
            port: 4321,
            ledger: "127.0.0.1:7".parse().unwrap(),
            upstream: &upstream,
        };
        render(&settings).unwrap()
    };
    let names = |bootstrap: &mut Value, path: &str, name: &str| -> Vec<String> {
        let items = field(bootstrap, path).unwrap().as_sequence_mut().unwrap();
        items.iter_mut().map(|item| field(item, name).unwrap().as_str().unwrap().to_owned()).collect()
    };
    let mut without = render(None);
    assert_eq!(names(&mut without, ROUTES, "route/cluster"), ["upstream_ci", "upstream_mine"]);
    let clusters = names(&mut without, "static_resources/clusters", "name");
    assert_eq!(clusters, ["agentrelay_ledger", "upstream_ci", "upstream_mine"]);
    let first = field(&mut without, &format!("{ROUTES}/0/match")).unwrap();
    assert_eq!(first.get("path_separated_prefix").unwrap(), "/api");
    let host = field(first, "headers/0/string_match/safe_regex/regex").unwrap();
    assert_eq!(host.as_str(), Some("(?i)(ci\\.example)(:[0-9]+)?"));
    assert_eq!(field(&mut without, &format!("{ROUTES}/1/match/prefix")).unwrap().as_str(), Some("/"));
    let mut with = render(Some("http://127.0.0.1:9"));
    assert_eq!(names(&mut with, ROUTES, "route/cluster"), ["upstream_ci", "upstream_mine", "upstream"]);
}
