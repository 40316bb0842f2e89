//! Creates hundreds of thousands of keys through the admin API.

use crate::load::Connection;
use crate::relay::Relay;
use anyhow::{Context, bail};
use protocol::TenantId;
use protocol::admin::{CreateAdminKey, Role};
use rand::Rng;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const TENANTS: usize = 100;
/// Each credential may send 2000 requests per second.
const ADMINISTRATORS: usize = 8;
const CONNECTIONS: usize = 64;

/// All keys created so far.
pub struct Seed {
    /// Their secrets.
    pub secrets: Vec<String>,
    administrators: Vec<String>,
    tenants: Rc<Vec<TenantId>>,
}

impl Seed {
    /// Creates tenants and administrators, but no keys.
    pub async fn new(relay: &Relay) -> anyhow::Result<Seed> {
        let mut tenants = Vec::new();
        for _ in 0..TENANTS {
            tenants.push(relay.tenant().await?);
        }
        let mut administrators = Vec::new();
        for number in 0..ADMINISTRATORS {
            let name = format!("bench {number}");
            let made = CreateAdminKey { name, role: Role::Operator, tenant_id: None };
            administrators.push(relay.admin.create_admin_key(&made).await?.secret);
        }
        Ok(Seed { secrets: Vec::new(), administrators, tenants: Rc::new(tenants) })
    }

    /// Creates keys up to this number. Returns keys per second.
    pub async fn fill(&mut self, relay: &Relay, count: usize) -> anyhow::Result<f64> {
        let missing = count.saturating_sub(self.secrets.len());
        eprintln!("==> making {missing} keys");
        let began = Instant::now();
        let mut running = JoinSet::new();
        for number in 0..CONNECTIONS {
            let connection = Connection::open(relay.address()).await?;
            let administrator = self.administrators[number % ADMINISTRATORS].clone();
            let share = missing / CONNECTIONS + usize::from(number < missing % CONNECTIONS);
            running.spawn_local(make(connection, administrator, Rc::clone(&self.tenants), share));
        }
        while let Some(made) = running.join_next().await {
            self.secrets.extend(made??);
        }
        Ok(missing as f64 / began.elapsed().as_secs_f64())
    }

    /// A random key.
    pub fn any(&self) -> &str {
        &self.secrets[rand::rng().random_range(0..self.secrets.len())]
    }
}

async fn make(
    mut connection: Connection,
    administrator: String,
    tenants: Rc<Vec<TenantId>>,
    count: usize,
) -> anyhow::Result<Vec<String>> {
    let mut secrets = Vec::with_capacity(count);
    while secrets.len() < count {
        let tenant = &tenants[rand::rng().random_range(0..tenants.len())];
        let body = format!(r#"{{"tenant_id":"{tenant}","name":"bench","scopes":["read","generate"]}}"#);
        let request = format!(
            "POST /v1/keys HTTP/1.1\r\nhost: ledger\r\nauthorization: Bearer {administrator}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        match connection.call(request.as_bytes()).await? {
            201 => {
                let made: serde_json::Value = serde_json::from_slice(&connection.body())?;
                secrets.push(made["secret"].as_str().context("a new key has a secret")?.to_owned());
            }
            // Too many requests of one credential, or the queue is full.
            429 | 503 => crate::pause(Duration::from_millis(100)).await,
            other => bail!("the ledger made no key, {other}: {}", connection.last()),
        }
    }
    Ok(secrets)
}
