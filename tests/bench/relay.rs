//! The ledger behind AgentRelay's gates, and its tenants and keys.

use crate::Built;
use crate::gate::{Filters, Site};
use crate::load;
use crate::process::tied_program;
use anyhow::Context;
use cli::stack::{Credentials, Filter, Ledger, LedgerOptions};
use client::Client;
use protocol::admin::{CreateKey, CreateTenant};
use protocol::key::Limit;
use protocol::{Credits, TenantId};
use serde_yaml_ng::Value;
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const POLICY: &str = include_str!("../../envoy/policy.yaml");
/// The highest limit that a policy may have. Its windows are written, moved and counted as usual, and no request is
/// refused.
const PERMITS: u32 = 1_000_000;
/// More than any run spends.
const CREDITS: u64 = 1_000_000_000_000;

/// A running ledger on a fresh SQLite file.
pub struct Relay {
    /// The admin API.
    pub admin: Client,
    /// The database.
    pub database: PathBuf,
    ledger: Option<Ledger>,
    address: SocketAddr,
    filter_key: String,
    built: Built,
}

impl Relay {
    /// Starts it with the shipped policy, whose limits are raised for the tier `enterprise` and for all tools.
    pub async fn start(site: &Site, built: &Built) -> anyhow::Result<Relay> {
        let program = built.program.clone();
        let policy = site.directory.join("policy.yaml");
        fs::write(&policy, raised()?)?;
        let database = site.directory.join("ledger.db");
        let url = format!("sqlite:{}", database.display());
        let credentials = Credentials::open(&program, &url, &site.directory)?;
        let ledger = Ledger::start(LedgerOptions {
            program: tied_program(&program, &site.directory)?,
            database: url,
            policy,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            state_dir: site.directory.clone(),
            name: "ledger".into(),
        })
        .await?;
        let admin = Client::new(&ledger.url(), &credentials.admin_key)?;
        let address = ledger.address;
        let filter_key = credentials.filter_key;
        Ok(Relay { admin, database, ledger: Some(ledger), address, filter_key, built: built.clone() })
    }

    /// The wasm filter, for one Envoy.
    pub fn filters(&self) -> Filters {
        self.in_host(Filter::Wasm(self.built.wasm.clone()))
    }

    /// The filter as a dynamic module, for one Envoy.
    pub fn module(&self) -> Filters {
        self.in_host(Filter::Native(self.built.native.clone()))
    }

    fn in_host(&self, filter: Filter) -> Filters {
        Filters::AgentRelay { filter, ledger: self.address, filter_key: self.filter_key.clone() }
    }

    /// The ledger's process.
    pub fn pid(&self) -> u32 {
        self.ledger.as_ref().map_or(0, Ledger::pid)
    }

    /// Where the ledger listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The filter's credential.
    pub fn filter_key(&self) -> &str {
        &self.filter_key
    }

    /// Stops it gracefully and starts it again. Returns how long it took from the start until it was ready.
    pub async fn restart(&mut self) -> anyhow::Result<Duration> {
        let ledger = self.ledger.take().context("the ledger runs")?;
        let options = ledger.stop().await;
        let began = Instant::now();
        self.ledger = Some(Ledger::start(options).await?);
        Ok(began.elapsed())
    }

    /// Filters' calls that it has answered, by route.
    pub async fn filter_calls(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let mut calls = BTreeMap::new();
        for line in load::get(self.address, "/metrics").await?.lines() {
            let Some(route) =
                line.split("route=\"/filter/v1/").nth(1).and_then(|rest| rest.split('"').next())
            else {
                continue;
            };
            let count: u64 = line.rsplit(' ').next().unwrap_or_default().parse()?;
            *calls.entry(route.to_owned()).or_default() += count;
        }
        Ok(calls)
    }

    /// A tenant with more credits than it can spend.
    pub async fn tenant(&self) -> anyhow::Result<TenantId> {
        let credits = Credits::new(CREDITS);
        let tenant = CreateTenant { name: "bench".into(), tier: "enterprise".into(), credits, budget: None };
        Ok(self.admin.create_tenant(&tenant).await?.id)
    }

    /// A key of it.
    pub async fn key(
        &self,
        tenant: &TenantId,
        scopes: &[&str],
        limit: Option<Limit>,
    ) -> anyhow::Result<String> {
        let key = CreateKey {
            tenant_id: tenant.clone(),
            name: "bench".into(),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            services: None,
            tools: None,
            resources: None,
            concurrency: None,
            limits: limit.map(|limit| vec![limit]),
            expires_at: None,
            agent_id: None,
            budget: None,
        };
        Ok(self.admin.create_key(&key).await?.secret)
    }
}

fn raised() -> anyhow::Result<String> {
    let mut policy: Value = serde_yaml_ng::from_str(POLICY)?;
    let raise = |limits: Option<&mut Value>| {
        for limit in limits.and_then(Value::as_sequence_mut).into_iter().flatten() {
            limit["permits"] = PERMITS.into();
        }
    };
    raise(policy["tiers"]["enterprise"].get_mut("limits"));
    for (_, service) in policy["services"].as_mapping_mut().into_iter().flatten() {
        for (_, tool) in service["tools"].as_mapping_mut().into_iter().flatten() {
            raise(tool.get_mut("limits"));
        }
    }
    Ok(serde_yaml_ng::to_string(&policy)?)
}
