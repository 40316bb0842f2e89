//! Databases of every earlier release are migrated with all their rows, on both databases.

#![allow(clippy::arithmetic_side_effects)]

use crate::check;
use crate::fixture::{apart, server, uuid_of};
use crate::metrics::Metrics;
use crate::money::reservations::Expire;
use crate::store::database::Database;
use crate::store::sql::{Connection, Purpose};
use crate::store::suite::unaccounted::listed;
use crate::store::suite::{assert_lawful, at, balance, credits, reserve, settle};
use crate::store::{AuditFilter, Store, schema};
use protocol::admin::ReservationState;
use protocol::api_key::KeyHash;
use protocol::filter::Action;
use protocol::{Credits, EventId, KeyId, TenantId};
use std::sync::Arc;

/// The rows of a ledger of the first release: a tenant with 100 credits, a key, one pending reservation of 10; and two
/// that had expired and were refunded: one of 8 without a later settlement, one of 6 for which 4 were charged later.
const FIRST_RELEASE: &str = r#"
INSERT INTO tenants (id, name, tier, created_at) VALUES ('ten_1', 'Acme', 'pro', 1700000000000);
INSERT INTO accounts (tenant_id, granted, available, pending, posted) VALUES ('ten_1', 100, 86, 10, 4);
INSERT INTO keys (id, tenant_id, name, scopes, resources, limits, source, created_at)
  VALUES ('key_1', 'ten_1', 'ci', '["read"]', '[{"name":"project:1"}]', '[]', '"admin"', 1700000000000);
INSERT INTO reservations (id, tenant_id, key_id, service, tool, credits, ttl_seconds, policy_version, reserved_at,
  expires_at, available_after, state) VALUES ('old', 'ten_1', 'key_1', 'studio', 'image_generate', 10, 60, 'v1',
  1700000001000, 1700000061000, 90, 'pending');
INSERT INTO reservations (id, tenant_id, key_id, service, tool, credits, ttl_seconds, policy_version, reserved_at,
  expires_at, available_after, state, asked, charged) VALUES
  ('forgotten', 'ten_1', 'key_1', 'studio', 'image_generate', 8, 60, 'v1', 1700000000000, 1700000000500, 92, 'expired',
  NULL, NULL),
  ('late', 'ten_1', 'key_1', 'studio', 'image_generate', 6, 60, 'v1', 1700000000000, 1700000000500, 94, 'expired', 6, 4);
INSERT INTO transfers (id, tenant_id, reservation_id, kind, from_account, to_account, credits, at)
  VALUES ('trf_1', 'ten_1', NULL, 'grant', 'issuer', 'available', 100, 1700000000000),
         (NULL, 'ten_1', 'forgotten', 'reserve', 'available', 'pending', 8, 1700000000000),
         (NULL, 'ten_1', 'forgotten', 'expire', 'pending', 'available', 8, 1700000000500),
         (NULL, 'ten_1', 'late', 'reserve', 'available', 'pending', 6, 1700000000000),
         (NULL, 'ten_1', 'late', 'expire', 'pending', 'available', 6, 1700000000500),
         (NULL, 'ten_1', 'late', 'correction', 'available', 'posted', 4, 1700000000600),
         (NULL, 'ten_1', 'old', 'reserve', 'available', 'pending', 10, 1700000001000);
INSERT INTO audit (sequence, recorded_at, kind, actor, tenant_id, detail)
  VALUES (1, 1700000000000, 'tenant_created', 'adm_1', 'ten_1', '{"name":"Acme"}'),
         (2, 1700000001000, 'reserved', 'key_1', 'ten_1', '{"reservation_id":"6f6c6400-0000-0000-0000-000000000000"}');
INSERT INTO usage (hour, tenant_id, key_id, tool, outcome, calls, credits)
  VALUES (472222, 'ten_1', 'key_1', 'image_generate', 'allowed', 3, 15);
INSERT INTO changes (position, at, change) SELECT base + 1, 1700000000000, '{"kind":"key","key_id":"key_1"}' FROM feed;
INSERT INTO policies (version, in_force_at, document) VALUES ('v1', 1700000000000, '{}');
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_sqlite_file_of_every_earlier_release_is_brought_up_to_date() {
    for release in 1..=schema::MIGRATIONS.len() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.db");
        std::fs::write(&path, "").unwrap();
        from_release(release, &Database::Sqlite(path)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_database_of_every_earlier_release_is_brought_up_to_date() {
    let server = apart(server);
    for release in 1..=schema::MIGRATIONS.len() {
        from_release(release, &apart(|| server.database().unwrap().parse().unwrap())).await;
    }
}

async fn from_release(release: usize, database: &Database) {
    let store: Arc<Store> = apart(|| {
        let connection = Connection::open(database, Purpose::Write).unwrap();
        schema::migrate_to(&connection, 1).unwrap();
        let rows = ["old", "forgotten", "late"].into_iter().fold(FIRST_RELEASE.to_owned(), |rows, name| {
            rows.replace(&format!("'{name}'"), &format!("'{}'", uuid_of(name)))
        });
        connection.batch(&rows).unwrap();
        let hash = KeyHash::of(b"secret");
        let insert = "INSERT INTO key_secrets (hash, key_id, created_at) VALUES (?, 'key_1', 1700000000000)";
        connection.execute(insert, &crate::store::sql::params![hash.as_bytes()]).unwrap();
        schema::migrate_to(&connection, release).unwrap();
        drop(connection);
        let looked_at = check(database, None).map_err(|cause| cause.to_string());
        if release < schema::MIGRATIONS.len() {
            let why = looked_at.unwrap_err();
            assert!(why.contains("older") && why.contains("agentrelay serve"), "{why}");
        } else {
            assert_eq!(looked_at.unwrap(), Vec::<String>::new());
        }
        Arc::new(Store::open(database, Arc::new(Metrics::default())).unwrap())
    });
    let (tenant, key) = (TenantId::parse("ten_1").unwrap(), KeyId::parse("key_1").unwrap());
    let found = store.key_by_hash(KeyHash::of(b"secret")).await.unwrap().unwrap();
    assert_eq!((found.key.id, found.key.name.as_str()), (key.clone(), "ci"));
    let kept = store.changes(*store.newest_change().borrow() - 1, 10).await.unwrap();
    assert_eq!(kept.changes.len(), 1);

    // What earlier releases wrote is found by what it is about.
    let of_request = AuditFilter {
        request_id: EventId::parse(&uuid_of("old")).ok(),
        key_id: Some(key.clone()),
        limit: 10,
        ..AuditFilter::default()
    };
    let of_request = store.audit(of_request).await.unwrap();
    assert_eq!(of_request.iter().map(|row| row.sequence).collect::<Vec<_>>(), [2]);

    // Refunds of earlier releases stay until a settlement arrives; reservations that expire from now on are charged.
    let given_back = listed(store.as_ref(), Some(ReservationState::Returned)).await;
    assert_eq!(given_back, [(uuid_of("forgotten"), 0)]);
    let corrected = listed(store.as_ref(), Some(ReservationState::Corrected)).await;
    assert_eq!(corrected, [(uuid_of("late"), 4)]);
    store.run(settle("old", Action::Post { credits: credits(7) }, at(2))).await.unwrap();
    store.run(reserve("new", &key, 20, at(2))).await.unwrap();
    let again = store.run(settle("late", Action::Post { credits: credits(6) }, at(2))).await.unwrap();
    assert_eq!((again.answer.settled, again.refused.len()), (0, 0));
    let held = balance(store.as_ref(), &tenant).await;
    assert_eq!((held.available, held.pending, held.posted), (credits(69), credits(20), credits(11)));
    assert_lawful(held);
    store.run(settle("forgotten", Action::Post { credits: credits(8) }, at(3))).await.unwrap();
    store.run(Expire { now: at(62) }).await.unwrap();
    let held = balance(store.as_ref(), &tenant).await;
    assert_eq!((held.available, held.pending, held.posted), (credits(61), Credits::ZERO, credits(39)));
    let broken = apart(|| check(database, None).unwrap());
    assert_eq!(broken, Vec::<String>::new(), "from release {release}");
}
