//! Two ledgers on one PostgreSQL, each with an Envoy of two workers: a change at one ledger takes effect on both
//! Envoys.

use cli::stack::{Credentials, Envoy, EnvoyBinary, EnvoyOptions, Ledger, LedgerOptions};
use client::Client;
use harness::clock::{eventually, eventually_within};
use harness::gate::with_long_ledger_timeout;
use harness::reaper::Reaper;
use harness::upstream::Upstream;
use harness::{Agent, files, mcp, policy, run};
use protocol::admin::{CreateKey, CreateTenant};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use throwaway::Throwaway;

const BOUND: Duration = Duration::from_secs(2);
/// No single round proves more than this, because a shared machine sometimes stalls.
const STALLED: Duration = Duration::from_secs(30);
const ROUNDS: usize = 5;

/// A ledger with its own copy of the policy file, and an Envoy that calls only this ledger.
struct Side {
    ledger: Ledger,
    envoy: Envoy,
    policy: PathBuf,
}

async fn side(name: &str, database: &str, credentials: &Credentials, upstream: &Upstream) -> Side {
    let state_dir = files::process_directory().join(name);
    fs::create_dir_all(&state_dir).expect("the directory can be made");
    let policy = state_dir.join("policy.yaml");
    fs::copy(files::shipped_policy(), &policy).expect("the policy can be copied");
    let ledger = Ledger::start(LedgerOptions {
        program: files::program(),
        database: database.to_owned(),
        policy: policy.clone(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        state_dir: state_dir.clone(),
        name: "ledger".to_owned(),
    });
    let ledger = ledger.await.unwrap_or_else(|error| panic!("the ledger: {error}"));
    let envoy = Envoy::start(EnvoyOptions {
        envoy: EnvoyBinary::locate(&files::environment()).unwrap_or_else(|error| panic!("{error}")),
        filter: files::filter(),
        ledger: ledger.address,
        upstream: upstream.url().parse().unwrap_or_else(|error| panic!("{error}")),
        filter_key: credentials.filter_key.clone(),
        workers: 2,
        state_dir,
        name: "envoy".to_owned(),
        port: 0,
        edit: Some(Box::new(with_long_ledger_timeout)),
    });
    let envoy = envoy.await.unwrap_or_else(|error| panic!("Envoy: {error}"));
    Side { ledger, envoy, policy }
}

/// The shipped policy, with `search` for keys with the scope `read`, or for those with the scope `admin`.
fn with_search_for(scope: &str) -> String {
    let mut policy = policy::shipped();
    policy["services"]["studio"]["tools"]["search"]["scopes"] = policy::yaml(&format!("[{scope}]"));
    serde_yaml_ng::to_string(&policy).expect("a policy can be written")
}

#[test]
fn a_policy_put_in_force_at_one_ledger_is_used_by_every_envoy() {
    let _turn = crate::TURN.blocking_lock();
    // Its client blocks, so it runs on its own thread.
    let server = Throwaway::start().unwrap_or_else(|error| panic!("{error}"));
    let database = server.database().unwrap_or_else(|error| panic!("{error}"));
    run(async {
        let state = files::process_directory().join("credentials");
        fs::create_dir_all(&state).expect("the directory can be made");
        let credentials =
            Credentials::open(&files::program(), &database, &state).expect("a database can be made");
        let upstream = Upstream::start().await;
        let sides = [
            side("one", &database, &credentials, &upstream).await,
            side("other", &database, &credentials, &upstream).await,
        ];
        let mut reaper = Reaper::start();
        for side in &sides {
            reaper.watch(side.ledger.pid());
            reaper.watch(side.envoy.pid());
        }
        let admins = sides.each_ref().map(|side| {
            Client::new(&side.ledger.url(), &credentials.admin_key).expect("the key is well formed")
        });
        let agents = agents(&admins[0], &sides).await;
        for agent in &agents {
            agent.call(&mcp::search()).await.assert_allowed();
        }

        let mut waits = Vec::new();
        for round in 0..ROUNDS {
            // Each ledger gets a policy in turn; the files say something else all the time.
            let (scope, status) = if round % 2 == 0 { ("admin", 403) } else { ("read", 200) };
            let began = Instant::now();
            let put = admins[round % 2].replace_policy(with_search_for(scope), None).await;
            put.unwrap_or_else(|error| panic!("{error}"));
            for agent in &agents {
                // Several calls on connections of their own reach both workers.
                eventually_within(STALLED, "every worker decides by the new policy", async || {
                    for _ in 0..8 {
                        let found = agent.call(&mcp::search()).await.status;
                        if found != status {
                            return Err(format!("{found} instead of {status}"));
                        }
                    }
                    Ok(())
                })
                .await;
            }
            waits.push(began.elapsed());
        }
        waits.sort();
        eprintln!("{ROUNDS} policies to both Envoys of both ledgers: {waits:?}");
        assert!(waits[ROUNDS / 2] <= BOUND, "half of them took longer than {BOUND:?}");

        // An edit of one ledger's file applies to all.
        fs::write(&sides[1].policy, with_search_for("trigger")).expect("it can be written");
        for agent in &agents {
            eventually("the edited file holds on both", async || {
                let answer = format!("{:?}", agent.call(&mcp::search()).await);
                if answer.starts_with("403") && answer.contains("trigger") { Ok(()) } else { Err(answer) }
            })
            .await;
        }
        let [one, other] = sides;
        for side in [one, other] {
            side.envoy.stop().await;
            side.ledger.stop().await;
        }
    });
}

/// The same key, as a caller of each gate.
async fn agents(admin: &Client, sides: &[Side; 2]) -> [Agent; 2] {
    let tenant =
        CreateTenant { name: "Acme".to_owned(), tier: "enterprise".to_owned(), credits: None, budget: None };
    let tenant = admin.create_tenant(&tenant).await.unwrap_or_else(|error| panic!("{error}")).id;
    let key = CreateKey {
        tenant_id: tenant.clone(),
        name: "ci".to_owned(),
        scopes: vec!["read".to_owned()],
        services: None,
        tools: None,
        resources: None,
        concurrency: None,
        limits: None,
        expires_at: None,
        agent_id: None,
        budget: None,
    };
    let made = admin.create_key(&key).await.unwrap_or_else(|error| panic!("{error}"));
    sides.each_ref().map(|side| Agent {
        gate: side.envoy.gateway,
        tenant: tenant.clone(),
        key: made.key.id.clone(),
        secret: made.secret.clone(),
    })
}
