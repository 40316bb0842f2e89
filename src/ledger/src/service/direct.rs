//! The ledger's store and rules without its API, to measure them: each call waits until its write is durable.

use crate::deliveries::Deliver;
use crate::identity::credentials::Initialise;
use crate::identity::keys;
use crate::metrics::Metrics;
use crate::model::key::Key;
use crate::model::tenant::Tenant;
use crate::moment;
use crate::money::reservations::Reserve;
use crate::money::tenants;
use crate::store::database::Database;
use crate::store::{OpenError, Store};
use protocol::api_key::KeyHash;
use protocol::filter::{Report, ReserveRequest};
use protocol::key::KeySource;
use protocol::{Credits, KeyId, TenantId, TransferId};
use std::io;
use std::sync::Arc;

/// Who the writes are by.
const ACTOR: &str = "direct";

/// Makes the tables of an empty database, without any credential. Blocks.
pub fn create(database: &Database) -> Result<(), OpenError> {
    let made = Store::initialise(database, Initialise { credentials: Vec::new() })?;
    made.map_err(|_| OpenError::Io(io::Error::other("it has credentials already")))
}

/// A store that is open.
pub struct Direct(Store);

impl Direct {
    /// Opens a database that [`create`] made. Blocks.
    pub fn open(database: &Database) -> Result<Direct, OpenError> {
        Store::open(database, Arc::new(Metrics::default())).map(Direct)
    }

    /// Makes a tenant with credits, and a key of it.
    pub async fn payer(&self, credits: Credits) -> io::Result<(TenantId, KeyId)> {
        let now = moment::now();
        let tenant = Tenant {
            id: moment::new_id("ten_", TenantId::parse).map_err(io::Error::other)?,
            name: ACTOR.to_owned(),
            tier: "pro".to_owned(),
            created_at: now,
            suspended_at: None,
            budget: None,
            version: 1,
        };
        let transfer_id = moment::new_id("trf_", TransferId::parse).map_err(io::Error::other)?;
        let create = tenants::Create {
            tenant,
            credits: Some((credits, transfer_id)),
            actor: ACTOR.to_owned(),
            idempotency: None,
            now,
        };
        let tenant_id = self.run(create).await?.id;
        let key_id = moment::new_id("key_", KeyId::parse).map_err(io::Error::other)?;
        let key = Key {
            id: key_id.clone(),
            tenant_id: tenant_id.clone(),
            name: ACTOR.to_owned(),
            scopes: vec!["generate".to_owned()],
            services: None,
            tools: None,
            resources: None,
            limits: Vec::new(),
            concurrency: None,
            expires_at: None,
            agent_id: None,
            source: KeySource::Admin,
            created_at: now,
            revoked_at: None,
            last_used_at: None,
            budget: None,
            version: 1,
            parent: None,
        };
        let hash = KeyHash::of(key_id.as_str().as_bytes());
        self.run(keys::Create { key, hash, actor: ACTOR.to_owned(), idempotency: None }).await?;
        Ok((tenant_id, key_id))
    }

    /// Sets credits aside.
    pub async fn reserve(&self, request: ReserveRequest) -> io::Result<()> {
        self.run(Reserve { request, now: moment::now() }).await.map(drop)
    }

    /// Takes a filter's batch.
    pub async fn deliver(&self, report: Report) -> io::Result<()> {
        let deliver = Deliver::new(report, ACTOR.to_owned(), moment::now());
        let deliver = deliver.map_err(|_| io::Error::other("a row names no subject of the batch"))?;
        self.run(deliver).await.map(drop)
    }

    /// Finishes the writes that wait, and closes the database.
    pub async fn close(&self) {
        self.0.close().await;
    }

    async fn run<O: crate::transaction::Operation>(&self, operation: O) -> io::Result<O::Answer> {
        self.0.run(operation).await.map_err(|error| io::Error::other(format!("{error:?}")))
    }
}
