//! The gate in an Envoy that also serves other routes, with TLS for its clients, and with TLS to its ledger: the parts of the
//! shipped file that are comments there.

use cli::stack::{Envoy, EnvoyBinary, EnvoyOptions, bootstrap};
use harness::http1::Connection;
use harness::tls_ledger::{Authority, Serves, TlsLedger};
use harness::upstream::Upstream;
use harness::{Agent, Gate, NewKey, Request, eventually, files, mcp, run};
use protocol::Credits;
use protocol::admin::CreateTenant;
use serde_yaml_ng::Value;
use std::fs;
use std::process::{Command, Output};

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
        let upgrade = |target: &str| {
            let request = Request::get(target).header("connection", "upgrade").header("upgrade", "websocket");
            request
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        };
        // Also an upgrade, whose filter chain Envoy makes by itself.
        for _ in 0..10 {
            let mut open = Connection::open(gate.address).await;
            let answer = open.exchange(upgrade("/shop/feed")).await.expect("an answer");
            assert_eq!(answer.status, 101, "{answer:?}");
            let refused = upgrade("/mcp").send(gate.address).await;
            assert_eq!(refused.status, 401, "{refused:?}");
        }
        gate.assert_healthy().await;
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

/// An Envoy whose ledger cluster is as the shipped file's comment has it, with this root certificate.
async fn envoy_with_tls_to(ledger: &TlsLedger, upstream: &Upstream) -> Envoy {
    let authority = ledger.file("ca.pem").to_str().expect("a plain path").to_owned();
    let edit = move |bootstrap: &mut Value| {
        harness::gate::with_long_ledger_timeout(bootstrap);
        let mut socket = commented("#ledger-tls ")["transport_socket"].clone();
        socket["typed_config"]["common_tls_context"]["validation_context"]["trusted_ca"]["filename"] =
            authority.into();
        let cluster = bootstrap::field(bootstrap, "static_resources/clusters/agentrelay_ledger");
        cluster.expect("the shipped file has it")["transport_socket"] = socket;
    };
    let binary = tokio::task::spawn_blocking(|| EnvoyBinary::locate(&files::environment()));
    let options = EnvoyOptions {
        envoy: binary.await.expect("no panic").unwrap_or_else(|error| panic!("{error}")),
        filter: files::filter(),
        ledger: ([127, 0, 0, 1], ledger.port).into(),
        upstream: upstream.url().parse().expect("a URL"),
        filter_key: ledger.credentials.filter_key.clone(),
        workers: 1,
        state_dir: ledger.directory.clone(),
        name: "envoy".into(),
        port: 0,
        edit: Some(Box::new(edit)),
    };
    let started = harness::clock::spawn(Envoy::start(options)).await.expect("no panic");
    started.unwrap_or_else(|error| panic!("Envoy: {error}"))
}

fn doctor(envoy: &Envoy, ledger: &TlsLedger) -> Output {
    Command::new(files::program())
        .args(["doctor", "--gate", &envoy.url(), "--envoy-admin", &envoy.admin_url()])
        .args(["--ledger", &format!("https://localhost:{}", ledger.port)])
        .arg("--ca-cert")
        .arg(ledger.file("ca.pem"))
        .env("AGENTRELAY_ADMIN_KEY", &ledger.credentials.admin_key)
        .env("AGENTRELAY_ENVIRONMENT", "nowhere")
        .output()
        .expect("the program can be run")
}

#[test]
fn the_ledger_is_called_over_tls_and_where_it_is_not_trusted_the_gate_refuses_and_says_why() {
    run(async {
        let names = ["ledger.example", "localhost"];
        let mut ledger = TlsLedger::start(&files::gate_directory(), &names).await;
        let upstream = Upstream::start().await;
        let envoy = envoy_with_tls_to(&ledger, &upstream).await;
        let (admin, credits) = (ledger.admin(), Credits::new(1000));
        let tenant = CreateTenant { name: "Acme".into(), tier: "pro".into(), credits, budget: None };
        let tenant = admin.create_tenant(&tenant).await.expect("a tenant can be made").id;
        let key = admin.create_key(&NewKey::default().body(&tenant)).await.expect("a key can be made");
        let agent =
            Agent { gate: envoy.gateway, tenant: tenant.clone(), key: key.key.id, secret: key.secret };
        let settled = async |posted: u64| {
            eventually("the call is charged", async || {
                let balance = admin.balance(&tenant).await.map_err(|error| error.to_string())?;
                let is_settled = balance.pending.is_zero() && balance.posted.get() == posted;
                if is_settled { Ok(()) } else { Err(format!("{balance:?}")) }
            })
            .await;
        };
        agent.call(&mcp::search()).await.assert_allowed();
        agent.call(&mcp::image("standard")).await.assert_allowed();
        settled(5).await;
        let sound = doctor(&envoy, &ledger);
        let sound = String::from_utf8_lossy(&sound.stdout).into_owned();
        assert!(sound.contains("it reaches the ledger through cluster agentrelay_ledger"), "{sound}");

        // The same ledger on the same port, with something wrong each time.
        let (other, right) = (Authority::make(), [ledger.file("chain.pem"), ledger.file("key.pem")]);
        let kept = right.each_ref().map(|file| fs::read(file).expect("it can be read"));
        let mut posted = 5;
        for (what, serves, remedy) in [
            ("another authority", Serves::Tls, "`trusted_ca`"),
            ("another name", Serves::Tls, "the cluster's `sni` must be a name in the certificate"),
            ("no TLS", Serves::Plain, "it does not serve TLS, and the cluster speaks it"),
        ] {
            match what {
                "another authority" => other.certify(&names, &right[0], &right[1]),
                "another name" => ledger.authority.certify(&["localhost"], &right[0], &right[1]),
                _ => {}
            }
            ledger.run(serves).await;
            // What would be served if the ledger were trusted.
            let refused = agent.call(&mcp::image("standard")).await;
            refused.assert_refused(503, "ledger_unavailable");
            assert!(upstream.seen(&refused.marker).is_empty(), "{what}");
            let unknown =
                Request::get("/mcp").key(&format!("ark_{}", "x".repeat(46))).send(envoy.gateway).await;
            assert!(unknown.status >= 400, "{what}: {unknown:?}");
            let log = fs::read_to_string(envoy.log()).expect("it can be read");
            let line = log.lines().find(|line| line.contains("the ledger does not answer"));
            assert!(line.is_some_and(|line| line.contains("`agentrelay doctor --envoy-admin URL`")), "{log}");
            let wrong = doctor(&envoy, &ledger);
            let said = String::from_utf8_lossy(&wrong.stdout).into_owned();
            assert!(!wrong.status.success(), "{what}: {said}");
            let mut lines =
                said.lines().skip_while(|line| !line.contains("its calls to the ledger through cluster"));
            assert!(lines.nth(1).is_some_and(|line| line.contains(remedy)), "{what}: {said}");

            for (file, text) in right.iter().zip(&kept) {
                fs::write(file, text).expect("it can be written");
            }
            ledger.run(Serves::Tls).await;
            eventually("the gate serves again", async || {
                let again = agent.call(&mcp::image("standard")).await;
                if again.status == 200 { Ok(()) } else { Err(format!("{again:?}")) }
            })
            .await;
            posted += 5;
            settled(posted).await;
        }
    });
}
