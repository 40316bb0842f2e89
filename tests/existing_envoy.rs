//! The gate in an Envoy that also serves other routes, and with TLS for its clients: the parts of the shipped file that are
//! comments there.

use harness::{Gate, Request, files, mcp, run};
use serde_yaml_ng::Value;
use std::fs;

/// The lines of the shipped file behind this mark, as YAML.
fn commented(mark: &str) -> Value {
    let text = fs::read_to_string(files::root().join("envoy/envoy.yaml")).expect("it can be read");
    let lines = text.lines().filter_map(|line| line.trim_start().strip_prefix(mark));
    let lines: Vec<&str> = lines.collect();
    serde_yaml_ng::from_str(&lines.join("\n")).unwrap_or_else(|error| panic!("{mark}: {error}"))
}

fn filter_chain(bootstrap: &mut Value) -> &mut Value {
    &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]
}

#[test]
fn routes_without_the_filter_are_served_beside_the_gate() {
    run(async {
        let edit = |bootstrap: &mut Value| {
            let mut routes = commented("#beside ");
            routes[0]["route"]["cluster"] = "upstream".into();
            let manager = &mut filter_chain(bootstrap)["filters"][0]["typed_config"];
            let own = &mut manager["route_config"]["virtual_hosts"][0]["routes"];
            let own = own.as_sequence_mut().expect("it has routes");
            own.insert(0, routes[0].clone());
        };
        let gate = Gate::options().envoy(edit).start().await;
        let open = Request::get("/shop/cart").send(gate.address).await;
        assert_eq!(open.status, 200, "{open:?}");
        assert!(gate.upstream.the_one(&open.marker).header("x-agentrelay-key-id").is_none());
        // What only looks like the route, and everything else, is the gate's.
        for target in ["/shopping", "/shop/../mcp", "/SHOP/cart", "/"] {
            let refused = Request::get(target).send(gate.address).await;
            assert_eq!(refused.status, 401, "{target}: {refused:?}");
            gate.assert_unseen(&refused.marker);
        }
        gate.agent("pro").await.call(&mcp::search()).await.assert_allowed();
    });
}

#[test]
fn the_gate_is_served_over_tls() {
    run(async {
        let directory = files::gate_directory();
        let made = rcgen::generate_simple_self_signed(["gate.example".to_owned()]).expect("a certificate");
        let (chain, key) = (directory.join("gate.pem"), directory.join("gate-key.pem"));
        fs::write(&chain, made.cert.pem()).expect("it can be written");
        fs::write(&key, made.signing_key.serialize_pem()).expect("it can be written");
        let edit = move |bootstrap: &mut Value| {
            let mut socket = commented("#tls ")[0]["transport_socket"].clone();
            let certificate = &mut socket["typed_config"]["common_tls_context"]["tls_certificates"][0];
            certificate["certificate_chain"]["filename"] = chain.to_str().expect("a plain path").into();
            certificate["private_key"]["filename"] = key.to_str().expect("a plain path").into();
            filter_chain(bootstrap)["transport_socket"] = socket;
        };
        let gate = Gate::options().envoy(edit).start().await;
        let trusted = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).expect("a certificate");
        let client = reqwest::Client::builder()
            .no_proxy()
            .add_root_certificate(trusted)
            .resolve("gate.example", gate.address)
            .build()
            .expect("a client");
        let agent = gate.agent("pro").await;
        let url = format!("https://gate.example:{}/mcp", gate.address.port());
        let call = client
            .post(url)
            .bearer_auth(&agent.secret)
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .body(mcp::search().to_string());
        let answer = call.send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 200);
        let body: serde_json::Value =
            serde_json::from_str(&answer.text().await.expect("a text")).expect("JSON");
        assert!(body.get("result").is_some(), "{body}");
    });
}
