//! The configuration of one Envoy of the stack: the shipped `envoy/envoy.yaml` or `envoy-native.yaml` with other addresses.
//!
//! The file is edited as a tree, and only addresses, ports, the node's id and the filter's path change, so that the stack
//! runs what users copy. A port that somebody chose is not shared with other Envoys.

use super::{Error, Filter, Route, Upstream, Upstreams};
use serde_yaml_ng::{Mapping, Value};
use std::env;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The shipped file for the native filter.
pub const SHIPPED_NATIVE: &str = include_str!("../../../../envoy/envoy-native.yaml");

/// The shipped file.
pub const SHIPPED: &str = include_str!("../../../../envoy/envoy.yaml");

const GATE: &str = "static_resources/listeners/gate";
const FILTER: &str = "static_resources/listeners/gate/filter_chains/0/filters/\
    envoy.filters.network.http_connection_manager/typed_config/http_filters/agentrelay/typed_config/config";
const LEDGER: &str = "static_resources/clusters/agentrelay_ledger";
const UPSTREAM: &str = "static_resources/clusters/upstream";
const ROUTES: &str = "static_resources/listeners/gate/filter_chains/0/filters/\
    envoy.filters.network.http_connection_manager/typed_config/route_config/virtual_hosts/tools/routes";
const ENDPOINT: &str = "load_assignment/endpoints/0/lb_endpoints/0/endpoint";

/// The values that replace those of the shipped file.
pub(super) struct Settings<'a> {
    pub node_id: &'a str,
    pub filter: &'a Filter,
    pub port: u16,
    pub ledger: SocketAddr,
    pub upstream: &'a Upstreams,
}

/// The bootstrap of one Envoy.
pub(super) fn render(settings: &Settings<'_>) -> Result<Value, Error> {
    let shipped = match settings.filter {
        Filter::Wasm(_) => SHIPPED,
        Filter::Native(_) => SHIPPED_NATIVE,
    };
    let mut bootstrap: Value = serde_yaml_ng::from_str(shipped)
        .map_err(|error| Error::Setup(format!("the shipped bootstrap is not YAML: {error}")))?;
    *field(&mut bootstrap, "node/id")? = settings.node_id.into();
    set_port(&mut bootstrap, "admin", 0)?;
    set_port(&mut bootstrap, GATE, settings.port)?;
    if settings.port != 0 {
        // Another stack of the same user, which has another ledger, must not share the port.
        insert(field(&mut bootstrap, GATE)?, "enable_reuse_port", false.into());
    }
    if let Filter::Wasm(wasm) = settings.filter {
        *field(&mut bootstrap, &format!("{FILTER}/vm_config/code/local/filename"))? =
            wasm.to_string_lossy().as_ref().into();
    }
    let ledger = settings.ledger;
    set_endpoint(&mut bootstrap, LEDGER, &ledger.ip().to_string(), ledger.port())?;
    route(&mut bootstrap, settings.upstream)?;
    Ok(bootstrap)
}

/// The shipped file with this filter, as text, for an Envoy that only validates it.
pub fn for_validation(filter: &Filter) -> Result<String, Error> {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let upstream = "http://127.0.0.1:1".parse()?;
    let settings = Settings { node_id: "validation", filter, port: 0, ledger: nowhere, upstream: &upstream };
    serde_yaml_ng::to_string(&render(&settings)?).map_err(|error| Error::Setup(error.to_string()))
}

/// Sets the upstream of the shipped route, and copies cluster and route for each service that has its own.
fn route(bootstrap: &mut Value, upstreams: &Upstreams) -> Result<(), Error> {
    let cluster = field(bootstrap, UPSTREAM)?.clone();
    let shipped = field(bootstrap, &format!("{ROUTES}/0"))?.clone();
    let mut routes = Vec::new();
    let mut clusters = Vec::new();
    for route in &upstreams.routes {
        let name = format!("upstream_{}", route.service);
        let (mut cluster, mut copy) = (cluster.clone(), shipped.clone());
        *field(&mut cluster, "name")? = name.as_str().into();
        *field(&mut cluster, "load_assignment/cluster_name")? = name.as_str().into();
        *field(&mut copy, "match")? = matching(route)?;
        *field(&mut copy, "route/cluster")? = name.as_str().into();
        lead_to(&mut cluster, &mut copy, &route.upstream)?;
        clusters.push(cluster);
        routes.push(copy);
    }
    if let Some(upstream) = &upstreams.default {
        let (mut cluster, mut shipped) = (cluster, shipped);
        lead_to(&mut cluster, &mut shipped, upstream)?;
        clusters.insert(0, cluster);
        routes.push(shipped);
    }
    *field(bootstrap, ROUTES)? = routes.into();
    if let Some(all) = field(bootstrap, "static_resources/clusters")?.as_sequence_mut() {
        all.retain(|cluster| cluster.get("name").and_then(Value::as_str) != Some("upstream"));
        all.extend(clusters);
    }
    Ok(())
}

/// The requests of a service: those of its path, and of its hosts if it names some.
fn matching(route: &Route) -> Result<Value, Error> {
    let path = match route.path.trim_end_matches('/') {
        "" => "{prefix: /}".to_owned(),
        path => format!("{{path_separated_prefix: {path:?}}}"),
    };
    let written =
        |error| Error::Setup(format!("service {}: its path can't be routed: {error}", route.service));
    let mut matching: Value = serde_yaml_ng::from_str(&path).map_err(written)?;
    if !route.hosts.is_empty() {
        let hosts: Vec<String> = route.hosts.iter().map(|host| host.replace('.', "\\.")).collect();
        let regex = format!("(?i)({})(:[0-9]+)?", hosts.join("|"));
        let mut header: Value =
            serde_yaml_ng::from_str("[{name: ':authority', string_match: {safe_regex: {regex: x}}}]")
                .map_err(written)?;
        *field(&mut header, ":authority/string_match/safe_regex/regex")? = regex.into();
        insert(&mut matching, "headers", header);
    }
    Ok(matching)
}

fn lead_to(cluster: &mut Value, route: &mut Value, upstream: &Upstream) -> Result<(), Error> {
    *field(cluster, &format!("{ENDPOINT}/address/socket_address/address"))? = upstream.host.as_str().into();
    set_port(cluster, ENDPOINT, upstream.port)?;
    if upstream.tls { speak_tls(cluster, route, &upstream.host) } else { Ok(()) }
}

/// The field of a bootstrap at `path`: steps separated by `/`, each a key, an index, or the `name` of a list's item.
pub fn field<'a>(bootstrap: &'a mut Value, path: &str) -> Result<&'a mut Value, Error> {
    path.split('/').try_fold(bootstrap, step).ok_or_else(|| {
        Error::Setup(format!(
            "envoy/envoy.yaml has nothing at {path}; the stack needs that to set an address"
        ))
    })
}

fn step<'a>(value: &'a mut Value, step: &str) -> Option<&'a mut Value> {
    match value {
        Value::Sequence(items) => {
            let named = |item: &Value| item.get("name").and_then(Value::as_str) == Some(step);
            let index = items.iter().position(named).or_else(|| step.parse().ok())?;
            items.get_mut(index)
        }
        other => other.get_mut(step),
    }
}

fn set_port(bootstrap: &mut Value, owner: &str, port: u16) -> Result<(), Error> {
    *field(bootstrap, &format!("{owner}/address/socket_address/port_value"))? = port.into();
    Ok(())
}

fn set_endpoint(bootstrap: &mut Value, cluster: &str, host: &str, port: u16) -> Result<(), Error> {
    *field(bootstrap, &format!("{cluster}/{ENDPOINT}/address/socket_address/address"))? = host.into();
    set_port(bootstrap, &format!("{cluster}/{ENDPOINT}"), port)
}

/// Where systems keep their root certificates, if `$SSL_CERT_FILE` is not set. Envoy needs the path.
const AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// TLS to the upstream, verified with the system's root certificates. Such an upstream is usually remote and routed by name,
/// so it gets its own name as `Host`.
fn speak_tls(cluster: &mut Value, route: &mut Value, host: &str) -> Result<(), Error> {
    let authorities = env::var_os("SSL_CERT_FILE")
        .map(PathBuf::from)
        .into_iter()
        .chain(AUTHORITIES.map(PathBuf::from))
        .find(|file| file.is_file())
        .ok_or_else(|| {
            Error::Setup("no root certificates were found to verify the upstream; set SSL_CERT_FILE".into())
        })?;
    let authorities = authorities.display();
    let transport = format!(
        r#"
name: envoy.transport_sockets.tls
typed_config:
  "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
  sni: "{host}"
  auto_sni_san_validation: true
  common_tls_context:
    alpn_protocols: [http/1.1]
    validation_context: {{trusted_ca: {{filename: "{authorities}"}}}}
"#
    );
    let transport: Value = serde_yaml_ng::from_str(&transport)
        .map_err(|error| Error::Setup(format!("upstream host {host:?} can't be written in YAML: {error}")))?;
    insert(cluster, "transport_socket", transport);
    insert(field(route, "route")?, "host_rewrite_literal", host.into());
    Ok(())
}

fn insert(target: &mut Value, key: &str, value: Value) {
    if let Some(mapping) = target.as_mapping_mut() {
        let mapping: &mut Mapping = mapping;
        mapping.insert(key.into(), value);
    }
}

#[cfg(test)]
mod tests;
