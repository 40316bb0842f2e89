//! The Kubernetes manifests next to the shipped file: each setting of that file is in both, or this test says why not.

use super::*;

const ISTIO: &str = include_str!("../../../../../../envoy/istio.yaml");
const GATEWAY: &str = include_str!("../../../../../../envoy/envoy-gateway.yaml");
const MANAGER: &str = "static_resources/listeners/gate/filter_chains/0/filters/envoy.filters.network.http_connection_manager/typed_config";

/// The parts of the shipped file whose settings the manifests share, and their parts that are not compared.
const PARTS: [(&str, &str, &[&str]); 7] = [
    ("listener", "static_resources/listeners/gate", &["name", "address", "filter_chains"]),
    ("manager", MANAGER, &["@type", "route_config", "http_filters", "access_log"]),
    ("log", "LOG", &[]),
    ("route", ROUTE, &["cluster"]),
    ("filter", "FILTER", &["code"]),
    ("ledger", "static_resources/clusters/agentrelay_ledger", &[]),
    ("metrics", "stats_config", &[]),
];

/// Settings that Envoy Gateway names differently: the kind of the document, the path in it, the value.
const GATEWAY_NAMES: [(&str, &str, &str, &str); 20] = [
    ("listener/per_connection_buffer_limit_bytes", "ClientTrafficPolicy", "connection/bufferLimit", "1Mi"),
    ("manager/merge_slashes", "ClientTrafficPolicy", "path/disableMergeSlashes", "false"),
    (
        "manager/path_with_escaped_slashes_action",
        "ClientTrafficPolicy",
        "path/escapedSlashesAction",
        "RejectRequest",
    ),
    ("manager/strip_trailing_host_dot", "ClientTrafficPolicy", "headers/host/stripTrailingHostDot", "true"),
    (
        "manager/common_http_protocol_options/headers_with_underscores_action",
        "ClientTrafficPolicy",
        "headers/withUnderscoresAction",
        "RejectRequest",
    ),
    (
        "manager/common_http_protocol_options/idle_timeout",
        "ClientTrafficPolicy",
        "timeout/http/idleTimeout",
        "15m",
    ),
    (
        "manager/http2_protocol_options/max_concurrent_streams",
        "ClientTrafficPolicy",
        "http2/maxConcurrentStreams",
        "100",
    ),
    (
        "manager/http2_protocol_options/initial_stream_window_size",
        "ClientTrafficPolicy",
        "http2/initialStreamWindowSize",
        "1Mi",
    ),
    (
        "manager/http2_protocol_options/initial_connection_window_size",
        "ClientTrafficPolicy",
        "http2/initialConnectionWindowSize",
        "1Mi",
    ),
    (
        "manager/request_headers_timeout",
        "ClientTrafficPolicy",
        "timeout/http/requestHeadersReceivedTimeout",
        "10s",
    ),
    ("manager/request_timeout", "ClientTrafficPolicy", "timeout/http/requestReceivedTimeout", "30s"),
    ("manager/stream_idle_timeout", "ClientTrafficPolicy", "timeout/http/streamIdleTimeout", "5m"),
    ("route/timeout", "BackendTrafficPolicy", "timeout/http/requestTimeout", "0s"),
    ("filter/name", "EnvoyExtensionPolicy", "wasm/0/name", "agentrelay"),
    (
        "filter/configuration/value",
        "EnvoyExtensionPolicy",
        "wasm/0/config/ledger_cluster",
        "agentrelay_ledger",
    ),
    (
        "filter/configuration/value",
        "EnvoyExtensionPolicy",
        "wasm/0/config/ledger_authority",
        "agentrelay-ledger",
    ),
    ("filter/name", "EnvoyExtensionPolicy", "wasm/0/failOpen", "false"),
    (
        "filter/vm_config/environment_variables/host_env_keys/0",
        "EnvoyExtensionPolicy",
        "wasm/0/env/hostKeys/0",
        "AGENTRELAY_FILTER_KEY",
    ),
    ("manager/codec_type", "Gateway", "listeners/0/protocol", "HTTP"),
    ("filter/vm_config/runtime", "EnvoyExtensionPolicy", "wasm/0/code/type", "Image"),
];

/// Settings that a manifest lacks, and why.
const GATEWAY_LACKS: [(&str, &str); 10] = [
    ("manager/stat_prefix", "a name"),
    ("manager/normalize_path", "Envoy Gateway always does"),
    ("manager/use_remote_address", "Envoy Gateway always does"),
    ("manager/generate_request_id", "Envoy's default"),
    (
        "manager/always_set_request_id_in_response",
        "Envoy Gateway has no field for it; the filter does it for its requests",
    ),
    ("manager/common_http_protocol_options/max_headers_count", "Envoy's default"),
    ("manager/max_request_headers_kb", "Envoy Gateway has no field for it; 60 there"),
    ("manager/upgrade_configs/0/upgrade_type", "Envoy Gateway's default"),
    ("filter/configuration/@type", "Envoy Gateway writes it"),
    ("filter/vm_config/vm_id", "Envoy Gateway's own, one for the filter's name and place"),
];
const ISTIO_LACKS: [(&str, &str); 3] = [
    ("manager/stat_prefix", "a name"),
    ("manager/codec_type", "the Gateway's protocol says it"),
    ("manager/upgrade_configs/0/upgrade_type", "Istio's default, and twice is refused"),
];

fn documents(text: &str) -> Vec<Value> {
    serde_yaml_ng::Deserializer::from_str(text)
        .map(|document| serde::Deserialize::deserialize(document).unwrap())
        .collect()
}

/// The value at a path of keys and positions.
fn at<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('/').try_fold(value, |value, step| match value {
        Value::Sequence(items) => items.get(step.parse::<usize>().ok()?),
        other => other.get(step),
    })
}

fn leaves_of(value: &Value, part: &str) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    leaves(value, part.to_owned(), &mut found);
    found
}

/// The filter's log format: the fields of a JSON log.
fn log_of(access_log: &Value) -> Value {
    at(access_log, "0/typed_config/log_format/json_format").unwrap().clone()
}

/// Each setting of the shipped file, by part and path.
fn settings() -> Vec<(String, Value)> {
    let mut shipped: Value = serde_yaml_ng::from_str(SHIPPED).unwrap();
    let address =
        format!("static_resources/clusters/agentrelay_ledger/{ENDPOINT}/address/socket_address/address");
    *field(&mut shipped, &address).unwrap() = "agentrelay-ledger.agentrelay.svc.cluster.local".into();
    let mut settings = Vec::new();
    for (part, path, skipped) in PARTS {
        let mut value = match path {
            "LOG" => log_of(&field(&mut shipped, MANAGER).unwrap()["access_log"]),
            "FILTER" => {
                let filter = format!("{MANAGER}/http_filters/agentrelay/typed_config/config");
                let mut config = field(&mut shipped, &filter).unwrap().clone();
                config["vm_config"].as_mapping_mut().unwrap().remove("code").unwrap();
                config
            }
            path => field(&mut shipped, path).unwrap().clone(),
        };
        for name in skipped {
            value.as_mapping_mut().unwrap().remove(*name);
        }
        settings.extend(leaves_of(&value, part));
    }
    assert!(settings.len() > 60, "the shipped file is not read: {settings:?}");
    settings
}

/// The shipped settings that a manifest neither has nor lacks with a reason.
fn missing(has: &[(String, Value)], lacks: &[(&str, &str)], elsewhere: &dyn Fn(&str) -> bool) -> Vec<String> {
    let is_there = |setting: &(String, Value)| {
        has.contains(setting) || elsewhere(&setting.0) || lacks.iter().any(|(name, _)| *name == setting.0)
    };
    let names: Vec<String> = settings().iter().map(|(name, _)| name.clone()).collect();
    for (name, why) in lacks {
        assert!(names.iter().any(|own| own == name), "{name} ({why}) is no setting of the shipped file");
    }
    settings()
        .iter()
        .filter(|setting| !is_there(setting))
        .map(|(name, value)| format!("{name}: {value:?}"))
        .collect()
}

#[test]
fn istio_has_every_setting_of_the_shipped_file() {
    let documents = documents(ISTIO);
    let of_kind = |kind: &str| documents.iter().position(|document| document["kind"] == kind).unwrap();
    assert!(of_kind("EnvoyFilter") < of_kind("Gateway"), "no listener may be there before its filter");
    let patches = documents[of_kind("EnvoyFilter")]["spec"]["configPatches"].as_sequence().unwrap();
    let patched = |to: &str| &patches.iter().find(|patch| patch["applyTo"] == to).unwrap()["patch"]["value"];
    let mut has = Vec::new();
    for (part, value) in [
        ("listener", patched("LISTENER")),
        ("manager", &patched("NETWORK_FILTER")["typed_config"]),
        ("log", &log_of(&patched("NETWORK_FILTER")["typed_config"]["access_log"])),
        ("route", &patched("HTTP_ROUTE")["route"]),
        ("filter", &patched("EXTENSION_CONFIG")["typed_config"]["config"]),
        ("ledger", patched("CLUSTER")),
    ] {
        has.extend(leaves_of(value, part));
    }
    let bootstrap = documents[of_kind("ConfigMap")]["data"]["bootstrap.yaml"].as_str().unwrap();
    let bootstrap: Value = serde_yaml_ng::from_str(bootstrap).unwrap();
    has.extend(leaves_of(&bootstrap["stats_config"], "metrics"));
    assert_eq!(missing(&has, &ISTIO_LACKS, &|_| false), Vec::<String>::new());

    let filter = patched("HTTP_FILTER");
    assert_eq!(filter["name"], patched("EXTENSION_CONFIG")["name"]);
    let types: Vec<&str> = filter["config_discovery"]["type_urls"]
        .as_sequence()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    // Without the second one, Istio's agent could not replace a missing filter by a refusal.
    for (found, wanted) in types.iter().zip(["http.wasm.v3.Wasm", "http.rbac.v3.RBAC"]) {
        assert!(found.ends_with(wanted), "{types:?}");
    }
    assert_eq!(types.len(), 2);
    assert!(
        filter["config_discovery"].get("default_config").is_none(),
        "nothing is served without the filter"
    );
}

#[test]
fn envoy_gateway_has_every_setting_of_the_shipped_file() {
    let documents = documents(GATEWAY);
    let of_kind = |kind: &str| &documents.iter().find(|document| document["kind"] == kind).unwrap()["spec"];
    for (name, kind, path, value) in GATEWAY_NAMES {
        let found = at(of_kind(kind), path).unwrap_or_else(|| panic!("{name}: {kind} has no {path}"));
        let text = found.as_str().map_or_else(|| serde_yaml_ng::to_string(found).unwrap(), str::to_owned);
        assert_eq!(text.trim_end(), value, "{name}: {kind} {path}");
    }
    let patches = of_kind("EnvoyPatchPolicy")["jsonPatches"].as_sequence().unwrap();
    let listeners: Vec<String> = of_kind("Gateway")["listeners"]
        .as_sequence()
        .unwrap()
        .iter()
        .map(|listener| format!("agentrelay/gate/{}", listener["name"].as_str().unwrap()))
        .collect();
    let mut has = Vec::new();
    for listener in &listeners {
        let mut of_listener = Vec::new();
        for patch in patches.iter().filter(|patch| patch["name"] == listener.as_str()) {
            let operation = &patch["operation"];
            let is_of_filter = operation["jsonPath"].as_str().unwrap().contains("wasm");
            let part = if is_of_filter { "filter" } else { "manager" };
            let name = format!("{part}{}", operation["path"].as_str().unwrap());
            of_listener.extend(leaves_of(&operation["value"], &name));
        }
        for name in [
            "filter/allow_on_headers_stop_iteration",
            "manager/internal_address_config/cidr_ranges/0/prefix_len",
        ] {
            assert!(of_listener.iter().any(|(own, _)| own == name), "{listener} lacks {name}");
        }
        has.extend(of_listener);
    }
    // With names of listeners that do not exist, patches would have no effect.
    for patch in patches {
        let name = patch["name"].as_str().unwrap();
        assert!(name == "agentrelay_ledger" || listeners.iter().any(|listener| listener == name), "{name}");
    }
    let ledger = patches.iter().find(|patch| patch["name"] == "agentrelay_ledger").unwrap();
    has.extend(leaves_of(&ledger["operation"]["value"], "ledger"));
    let proxy = of_kind("EnvoyProxy");
    has.extend(leaves_of(at(proxy, "telemetry/accessLog/settings/0/format/json").unwrap(), "log"));
    let bootstrap: Value = serde_yaml_ng::from_str(proxy["bootstrap"]["value"].as_str().unwrap()).unwrap();
    has.extend(leaves_of(&bootstrap["stats_config"], "metrics"));
    let elsewhere = |name: &str| GATEWAY_NAMES.iter().any(|(own, ..)| *own == name);
    assert_eq!(missing(&has, &GATEWAY_LACKS, &elsewhere), Vec::<String>::new());
    // The policy that contains the filter applies to the whole Gateway, whatever the names of its listeners.
    let targets = of_kind("EnvoyExtensionPolicy")["targetRefs"].as_sequence().unwrap();
    assert!(targets.iter().any(|target| target["kind"] == "Gateway" && target.get("sectionName").is_none()));
}
