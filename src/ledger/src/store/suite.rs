//! What every store must do, whatever its database. A backend's tests call [`run`] with a way to open a new one.

#![allow(clippy::arithmetic_side_effects)]

mod deliveries;
pub(crate) mod leases;
mod sessions;
mod trail;
pub(crate) mod unaccounted;
mod usage;

use super::{AgentFilter, AuditFilter, CheckpointFilter, CredentialFilter, KeyFilter, Store, UsageQuery};
use crate::audit::chain::Signer;
use crate::audit::export::Exporter;
use crate::audit::seal::AddSigningKey;
use crate::audit::verify::Verifier;
use crate::background::seal;
use crate::deliveries::Deliver;
use crate::fixture::{new_uuid, uuid_of};
use crate::http::report::deliver;
use crate::identity::{agents, credentials, keys};
use crate::model::credential::{CredentialKind, ServiceCredential};
use crate::model::key::Key;
use crate::model::replay::{Idempotency, ReplayKey};
use crate::model::spending::SpendingKey;
use crate::model::tenant::Tenant;
use crate::money::reservations::{self, Expire, Reserve};
use crate::money::tenants;
use crate::transaction::{Error, Queued, Refusal};
use crate::{book, moment};
use protocol::admin::{Agent, Balance, Patch, Role, UpdateKey};
use protocol::api_key::KeyHash;
use protocol::audit::Decision;
use protocol::filter::{Action, Change, Report, ReserveRequest, Settlement};
use protocol::key::{KeySource, KeyState};
use protocol::packed::Packed;
use protocol::{
    AgentId, BatchId, CredentialId, Credits, KeyId, PolicyVersion, ReservationId, TenantId, Timestamp,
    TransferId,
};
use std::sync::Arc;

/// Opens a new, empty, initialised store and what must live as long as it does.
pub(crate) trait Fresh {
    type Guard;
    fn open(&self) -> (Arc<Store>, Self::Guard);
    /// The invariants that its rows violate.
    fn broken_laws(&self, guard: &Self::Guard) -> Vec<String>;
}

/// The whole suite.
pub(crate) async fn run(fresh: &impl Fresh) {
    many_tasks_never_overspend_and_every_invariant_holds(fresh).await;
    a_refused_operation_leaves_the_others_of_its_transaction_alone(fresh).await;
    expiry_charges_expired_reservations_only(fresh).await;
    a_repeated_creation_creates_one_object(fresh).await;
    a_revoked_key_is_seen_by_every_read_and_by_the_feed(fresh).await;
    the_audit_trail_has_no_gap(fresh).await;
    the_audit_trail_is_sealed_once_by_any_number_of_ledgers(fresh).await;
    the_spending_of_a_month_is_stored_for_key_and_tenant(fresh).await;
    objects_of_operators_are_stored_and_listed(fresh).await;
    sessions::secrets_are_rotated_and_every_filter_is_notified(fresh).await;
    leases::run(fresh).await;
    unaccounted::run(fresh).await;
    usage::usage_sums_decisions_and_no_sum_overflows(fresh).await;
    usage::sums_come_in_pages_and_every_group_is_on_one(fresh).await;
    usage::no_report_makes_those_after_it_fail(fresh).await;
    an_overrun_is_charged_up_to_its_cap_and_the_available_credits(fresh).await;
    trail::a_trail_still_verifies_after_its_retention(fresh).await;
    trail::rows_are_removed_by_age_from_the_oldest_whatever_clocks_sealed_them(fresh).await;
    usage::counts_are_summed_and_reported_once(fresh).await;
    trail::a_clock_that_is_ahead_removes_nothing(fresh).await;
    trail::a_long_trail_is_removed_from_its_beginning_some_batches_at_a_time(fresh).await;
    deliveries::late_repeated_and_reordered_messages_do_what_the_model_says(fresh).await;
}

pub(crate) fn credits(amount: u64) -> Credits {
    Credits::new(amount).unwrap()
}

pub(crate) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000).plus_seconds(seconds)
}

pub(crate) fn new_tenant(amount: u64) -> tenants::Create {
    tenants::Create {
        tenant: Tenant {
            id: moment::new_id("ten_", TenantId::parse).unwrap(),
            name: "Acme".to_owned(),
            tier: "pro".to_owned(),
            created_at: at(0),
            suspended_at: None,
            budget: None,
            version: 1,
        },
        credits: Some((credits(amount), moment::new_id("trf_", TransferId::parse).unwrap())),
        actor: "adm_1".to_owned(),
        idempotency: None,
        now: at(0),
    }
}

pub(crate) fn new_key(tenant_id: &TenantId) -> keys::Create {
    let id = moment::new_id("key_", KeyId::parse).unwrap();
    keys::Create {
        hash: KeyHash::of(id.as_str().as_bytes()),
        key: Key {
            id,
            tenant_id: tenant_id.clone(),
            name: "ci".to_owned(),
            scopes: vec!["read".to_owned()],
            services: None,
            tools: None,
            resources: Some(vec!["project:1".to_owned().into_grant()]),
            limits: Vec::new(),
            concurrency: None,
            expires_at: None,
            agent_id: None,
            budget: None,
            version: 1,
            source: KeySource::Admin,
            created_at: at(0),
            revoked_at: None,
            last_used_at: None,
            parent: None,
        },
        actor: "adm_1".to_owned(),
        idempotency: None,
    }
}

trait IntoGrant {
    fn into_grant(self) -> protocol::key::Grant;
}

impl IntoGrant for String {
    fn into_grant(self) -> protocol::key::Grant {
        protocol::key::Grant { name: self, expires_at: None }
    }
}

/// A tenant with credits and a key.
pub(crate) async fn payer(store: &Store, amount: u64) -> (TenantId, KeyId) {
    let tenant = store.run(new_tenant(amount)).await.unwrap();
    let key = store.run(new_key(&tenant.id)).await.unwrap();
    (tenant.id, key.key.id)
}

pub(crate) fn reserve(id: &str, key_id: &KeyId, amount: u64, now: Timestamp) -> Reserve {
    Reserve {
        request: ReserveRequest {
            reservation_id: ReservationId::parse(&uuid_of(id)).unwrap(),
            key_id: key_id.clone(),
            service: "studio".to_owned(),
            tool: "image_generate".to_owned(),
            credits: credits(amount),
            overrun_credits_max: Credits::ZERO,
            ttl_seconds: 60,
            policy_version: PolicyVersion::parse("v1").unwrap(),
        },
        now,
    }
}

pub(crate) fn settle(id: &str, action: Action, now: Timestamp) -> Deliver {
    let settlement = Settlement { reservation_id: ReservationId::parse(&uuid_of(id)).unwrap(), action };
    report(vec![settlement], Vec::new(), now)
}

pub(crate) fn report(settlements: Vec<Settlement>, decisions: Vec<Decision>, now: Timestamp) -> Deliver {
    let Packed { subjects, rows } = decisions.into_iter().collect();
    let report = Report {
        batch_id: BatchId::parse(&new_uuid()).unwrap(),
        envoy: "e1".to_owned(),
        settlements,
        subjects,
        rows,
        counted: Vec::new(),
        decisions_dropped: 0,
    };
    Deliver::new(report, "flt_1".to_owned(), now).unwrap()
}

pub(crate) async fn balance(store: &Store, tenant_id: &TenantId) -> Balance {
    store.tenant(tenant_id.clone()).await.unwrap().unwrap().1.balance()
}

pub(crate) fn assert_lawful(balance: Balance) {
    let sum = balance.available.get() + balance.pending.get() + balance.posted.get();
    assert_eq!(balance.granted.get(), sum, "{balance:?}");
}

/// The name of a tenant that the database rejects.
pub(crate) const UNSTORABLE: &str = "\u{6771}\u{4eac}";

/// One write that the database rejects, among 150 that it accepts, all waiting for the same transaction.
pub(crate) async fn a_write_that_fails_is_refused_alone(store: &Store) {
    let mut waiting = Vec::new();
    for number in 0..151 {
        let mut tenant = new_tenant(number + 1);
        if number == 75 {
            tenant.tenant.name = UNSTORABLE.to_owned();
        }
        let (work, answer) = Queued::new(tenant);
        store.submit(work).unwrap();
        waiting.push((number, answer));
    }
    for (number, answer) in waiting {
        let answer = answer.await.unwrap();
        match number {
            75 => assert_eq!(answer.unwrap_err(), Error::Refused(Refusal::Unstorable)),
            _ => assert_eq!(balance(store, &answer.unwrap().id).await.available, credits(number + 1)),
        }
    }
    // All parts of a report that can be stored are stored.
    let (tenant_id, key_id) = payer(store, 100).await;
    store.run(reserve("r1", &key_id, 5, at(1))).await.unwrap();
    let mut batch = settle("r1", Action::Post { credits: credits(5) }, at(2));
    let mut decisions: Vec<_> = (0..40).map(|_| usage::decision(&tenant_id, &key_id, 1)).collect();
    decisions[17].tool = Some(UNSTORABLE.to_owned());
    batch.decisions = decisions.into();
    Arc::make_mut(&mut batch.report).decisions_dropped = 2;
    let delivered = deliver(store, batch).await.unwrap();
    assert_eq!((delivered.answer.settled, delivered.answer.recorded), (1, 39));
    assert_eq!(store.audit_status().await.unwrap().decisions_dropped, 2);
    // It is a fault of the write, not of the database.
    store.ping().await.unwrap();
}

async fn many_tasks_never_overspend_and_every_invariant_holds(fresh: &impl Fresh) {
    let (store, _guard) = fresh.open();
    let (tenant, key) = payer(store.as_ref(), 100).await;
    let tasks = (0..200).map(|number| {
        let (store, key) = (Arc::clone(&store), key.clone());
        tokio::spawn(async move {
            let id = format!("r{number}");
            // Each sends its request twice at once, as a filter does after a slow first answer.
            let (first, second) = tokio::join!(
                store.run(reserve(&id, &key, 5, at(1))),
                store.run(reserve(&id, &key, 5, at(1)))
            );
            assert_eq!(first.is_ok(), second.is_ok(), "{first:?} {second:?}");
            match first {
                Ok(_) if number % 3 == 0 => {
                    store.run(settle(&id, Action::Void, at(2))).await.unwrap();
                    (1, 0)
                }
                Ok(_) => {
                    let post = Action::Post { credits: credits(4) };
                    store.run(settle(&id, post, at(2))).await.unwrap();
                    (1, 4)
                }
                Err(Error::Refused(Refusal::Money(book::Refusal::QuotaExceeded { .. }))) => (0, 0),
                Err(other) => panic!("{other:?}"),
            }
        })
    });
    let (mut accepted, mut posted) = (0, 0);
    for task in tasks.collect::<Vec<_>>() {
        let (one, charged) = task.await.unwrap();
        accepted += one;
        posted += charged;
    }
    let held = balance(store.as_ref(), &tenant).await;
    assert_lawful(held);
    assert_eq!((held.granted, held.pending, held.posted), (credits(100), Credits::ZERO, credits(posted)));
    // 20 fit at once, more were admitted after refunds, and never more than there were credits.
    assert!(accepted >= 20 && posted <= 100, "{accepted} accepted, {posted} posted");

    // Without refunds, exactly as many succeed as fit.
    let (tenant, key) = payer(store.as_ref(), 100).await;
    let tasks = (0..200).map(|number| {
        let (store, key) = (Arc::clone(&store), key.clone());
        tokio::spawn(async move { store.run(reserve(&format!("s{number}"), &key, 5, at(1))).await.is_ok() })
    });
    let mut succeeded = 0;
    for task in tasks.collect::<Vec<_>>() {
        succeeded += u32::from(task.await.unwrap());
    }
    let held = balance(store.as_ref(), &tenant).await;
    assert_eq!((succeeded, held.available, held.pending), (20, Credits::ZERO, credits(100)));
    assert_lawful(held);
}

async fn a_refused_operation_leaves_the_others_of_its_transaction_alone(fresh: &impl Fresh) {
    let (store, _guard) = fresh.open();
    let (tenant, key) = payer(store.as_ref(), 10).await;
    let unknown = KeyId::parse("key_unknown").unwrap();
    // All are queued before any is awaited, so they share transactions.
    let (first, refused, poor, second) = tokio::join!(
        store.run(reserve("r1", &key, 6, at(1))),
        store.run(reserve("r2", &unknown, 1, at(1))),
        store.run(reserve("r3", &key, 5, at(1))),
        store.run(reserve("r4", &key, 4, at(1))),
    );
    assert_eq!(first.unwrap().available, credits(4));
    assert_eq!(refused, Err(Error::Refused(Refusal::KeyUnknown)));
    let available = credits(4);
    assert_eq!(poor, Err(Error::Refused(Refusal::Money(book::Refusal::QuotaExceeded { available }))));
    assert_eq!(second.unwrap().available, Credits::ZERO);
    assert_eq!(balance(store.as_ref(), &tenant).await.pending, credits(10));
}

async fn expiry_charges_expired_reservations_only(fresh: &impl Fresh) {
    let (store, _guard) = fresh.open();
    let (tenant, key) = payer(store.as_ref(), 100).await;
    for (id, began) in [("r1", 0), ("r2", 0), ("r3", 0), ("r4", 30)] {
        store.run(reserve(id, &key, 10, at(began))).await.unwrap();
    }
    store.run(settle("r2", Action::Renew { ttl_seconds: 60 }, at(20))).await.unwrap();
    store.run(settle("r3", Action::Post { credits: credits(10) }, at(20))).await.unwrap();
    let pending: Vec<u64> = store.pending_by_tool().await.unwrap().into_values().collect();
    assert_eq!((pending, store.open_leases().await.unwrap()), (vec![3], 0));
    assert_eq!(store.run(Expire { now: at(59) }).await, Ok((0, false)));
    assert_eq!(store.run(Expire { now: at(60) }).await, Ok((1, false)));
    assert_eq!(store.run(Expire { now: at(60) }).await, Ok((0, false)));
    let held = balance(store.as_ref(), &tenant).await;
    assert_eq!((held.available, held.pending, held.posted), (credits(60), credits(20), credits(20)));
    let late = store.run(settle("r1", Action::Post { credits: credits(9) }, at(61))).await.unwrap();
    assert_eq!((late.answer.settled, late.refused.len()), (1, 0));
    assert_eq!(store.run(Expire { now: at(600) }).await, Ok((2, false)));
    let held = balance(store.as_ref(), &tenant).await;
    assert_eq!((held.available, held.pending, held.posted), (credits(61), Credits::ZERO, credits(39)));
    assert_lawful(held);
}

async fn a_repeated_creation_creates_one_object(fresh: &impl Fresh) {
    let (store, _guard) = fresh.open();
    let again = |body: &[u8]| tenants::Create {
        idempotency: Some(Idempotency::new(
            ReplayKey {
                actor: "adm_1".to_owned(),
                route: "POST /v1/tenants".to_owned(),
                key: "k".to_owned(),
            },
            body,
        )),
        ..new_tenant(5)
    };
    let (first, second) = tokio::join!(store.run(again(b"a")), store.run(again(b"a")));
    let third = store.run(again(b"a")).await;
    assert_eq!(first, second);
    assert_eq!(first, third);
    assert_eq!(store.run(again(b"b")).await, Err(Error::Refused(Refusal::IdempotencyKeyReused)));
    assert_eq!(store.tenants(None, 10).await.unwrap().len(), 1);
}

async fn a_revoked_key_is_seen_by_every_read_and_by_the_feed(fresh: &impl Fresh) {
    let (store, _guard) = fresh.open();
    let (tenant, key) = payer(store.as_ref(), 5).await;
    let before = *store.newest_change().borrow();
    let revoke =
        |now| keys::Revoke { key_id: key.clone(), reason: "leak".to_owned(), actor: "adm_1".to_owned(), now };
    let revoked = store.run(revoke(at(5))).await.unwrap();
    assert_eq!(store.run(revoke(at(9))).await.unwrap(), revoked);
    let found = store.key_by_hash(KeyHash::of(key.as_str().as_bytes())).await.unwrap().unwrap();
    let record = found.record(at(6));
    assert_eq!((record.state, record.tier.as_str()), (KeyState::Revoked, "pro"));
    assert_eq!(record.resources.unwrap()[0].name, "project:1");
    let filter = KeyFilter {
        tenant_id: Some(tenant),
        agent_id: None,
        source: None,
        state: Some(KeyState::Active),
        now: at(6),
        after: None,
        limit: 10,
    };
    assert_eq!(store.keys(filter).await.unwrap(), []);
    assert_eq!(*store.newest_change().borrow(), before + 1);
    let kept = store.changes(before, 10).await.unwrap();
    assert_eq!(kept.changes, [(before + 1, Change::Key { key_id: key.clone() })]);
    let refused = store.run(reserve("r1", &key, 1, at(7))).await;
    assert_eq!(refused, Err(Error::Refused(Refusal::KeyInactive(KeyState::Revoked))));
}

async fn the_audit_trail_has_no_gap(fresh: &impl Fresh) {
    let (store, _guard) = fresh.open();
    let (_, key) = payer(store.as_ref(), 1000).await;
    let tasks = (0..100).map(|number| {
        let (store, key) = (Arc::clone(&store), key.clone());
        tokio::spawn(async move {
            let id = format!("r{number}");
            store.run(reserve(&id, &key, 20, at(1))).await.is_ok()
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let rows = store.audit(AuditFilter { limit: 1000, ..AuditFilter::default() }).await.unwrap();
    let sequences: Vec<u64> = rows.iter().map(|row| row.sequence).collect();
    let count = u64::try_from(rows.len()).unwrap();
    assert_eq!(sequences, (1..=count).rev().collect::<Vec<_>>());
    assert_eq!(rows.iter().filter(|row| row.kind == "reserved").count(), 50);
    assert_eq!(store.usage(UsageQuery { limit: 10, ..UsageQuery::default() }).await.unwrap(), []);
}

async fn the_audit_trail_is_sealed_once_by_any_number_of_ledgers(fresh: &impl Fresh) {
    let (store, _guard) = fresh.open();
    let (_, key) = payer(store.as_ref(), 10_000).await;
    let signers: Vec<Signer> = (1..=3).map(|number| Signer::from_seed(&[number; 32])).collect();
    for signer in &signers {
        let public_key = signer.public_key().to_owned();
        store.run(AddSigningKey { public_key, now: at(0) }).await.unwrap();
    }
    assert_eq!(store.audit_keys().await.unwrap().len(), 3);
    for round in 0..5 {
        let writes = (0..300).map(|number| store.run(reserve(&format!("r{round}-{number}"), &key, 1, at(1))));
        for write in writes {
            write.await.unwrap();
        }
        let (one, two, three) = tokio::join!(
            seal::seal(store.as_ref(), &signers[0]),
            seal::seal(store.as_ref(), &signers[1]),
            seal::seal(store.as_ref(), &signers[2]),
        );
        assert!(one.is_ok() && two.is_ok() && three.is_ok(), "{one:?} {two:?} {three:?}");
    }
    let status = store.audit_status().await.unwrap();
    assert_eq!(status.sealed, status.newest);
    let mut verifier = Verifier::new(None, None);
    let mut exporter = Exporter::new(None);
    for checkpoint in store.checkpoints(CheckpointFilter::default()).await.unwrap() {
        let count = u32::try_from(checkpoint.last - checkpoint.first + 1).unwrap();
        let rows = store.audit_rows(checkpoint.first - 1, count).await.unwrap();
        for line in exporter.batch(&checkpoint, &rows).lines() {
            verifier.line(line.as_bytes()).unwrap();
        }
    }
    let end = exporter.end(&signers[0], 0, 0, at(9));
    verifier.line(end.trim_end().as_bytes()).unwrap();
    assert_eq!(verifier.finish().unwrap().rows, status.newest);
}

async fn the_spending_of_a_month_is_stored_for_key_and_tenant(fresh: &impl Fresh) {
    let (store, _guard) = fresh.open();
    let (tenant_id, key) = payer(store.as_ref(), 100).await;
    store.run(reserve("r1", &key, 30, at(1))).await.unwrap();
    store.run(reserve("r2", &key, 20, at(1))).await.unwrap();
    // Settled in the next month, it still belongs to the month in which the call began.
    let later = at(40 * 86_400);
    store.run(settle("r1", Action::Post { credits: credits(10) }, later)).await.unwrap();
    store.run(Expire { now: later }).await.unwrap();
    for key_id in [None, Some(key)] {
        let spent = |month| SpendingKey { tenant_id: tenant_id.clone(), key_id: key_id.clone(), month };
        assert_eq!(store.spent(spent(at(1).month())).await.unwrap(), credits(30));
        assert_eq!(store.spent(spent(later.month())).await.unwrap(), Credits::ZERO);
    }
}

async fn objects_of_operators_are_stored_and_listed(fresh: &impl Fresh) {
    let (store, _guard) = fresh.open();
    let (tenant_id, key_id) = payer(store.as_ref(), 100).await;
    let agent = Agent {
        id: moment::new_id("agt_", AgentId::parse).unwrap(),
        tenant_id: tenant_id.clone(),
        name: "bot".to_owned(),
        created_at: at(1),
    };
    let create = agents::Create { agent: agent.clone(), actor: "adm_1".to_owned(), idempotency: None };
    store.run(create).await.unwrap();
    let filter = AgentFilter { tenant_id: Some(tenant_id.clone()), limit: 10, ..AgentFilter::default() };
    assert_eq!(store.agents(filter).await.unwrap(), std::slice::from_ref(&agent));

    let update = UpdateKey {
        agent_id: Patch::Set(agent.id.clone()),
        budget: Patch::Set(credits(7)),
        reason: "x".to_owned(),
        ..UpdateKey::default()
    };
    let update = |if_version| keys::Update {
        key_id: key_id.clone(),
        update: update.clone(),
        if_version,
        actor: "adm_1".to_owned(),
        now: at(2),
    };
    let changed = store.run(update(Some(1))).await.unwrap();
    assert_eq!(store.key(key_id.clone()).await.unwrap(), Some(changed.clone()));
    assert_eq!((changed.key.version, changed.key.budget), (2, Some(credits(7))));
    let refused = store.run(update(Some(1))).await;
    assert_eq!(refused, Err(Error::Refused(Refusal::ChangedSince { version: 2 })));

    let hash = KeyHash::of(b"secret");
    let credential = ServiceCredential {
        hash,
        id: moment::new_id("adm_", CredentialId::parse).unwrap(),
        kind: CredentialKind::Admin,
        name: "on call".to_owned(),
        role: Role::Auditor,
        tenant_id: Some(tenant_id.clone()),
        created_at: at(1),
        revoked_at: None,
        secret_expires_at: None,
    };
    let (id, actor) = (credential.id.clone(), "adm_1".to_owned());
    let create = credentials::Create { credential: credential.clone(), actor, idempotency: None };
    store.run(create).await.unwrap();
    assert_eq!(store.service_credential(hash).await.unwrap(), Some(credential.clone()));
    let revoke = credentials::Revoke {
        id,
        kind: CredentialKind::Admin,
        within: Some(tenant_id.clone()),
        reason: "left".to_owned(),
        actor: "adm_1".to_owned(),
        now: at(3),
    };
    store.run(revoke).await.unwrap();
    let filter = CredentialFilter { kind: CredentialKind::Admin, tenant_id: None, after: None, limit: 10 };
    let listed = store.service_credentials(filter).await.unwrap();
    assert_eq!((listed.len(), listed[0].revoked_at), (1, Some(at(3))));

    let (old, new) = (KeyHash::of(b"old"), KeyHash::of(b"new"));
    let filter_key = ServiceCredential {
        hash: old,
        id: moment::new_id("flt_", CredentialId::parse).unwrap(),
        kind: CredentialKind::Filter,
        tenant_id: None,
        ..credential
    };
    let actor = "adm_1".to_owned();
    let create =
        credentials::Create { credential: filter_key.clone(), actor: actor.clone(), idempotency: None };
    store.run(create).await.unwrap();
    let (id, now) = (filter_key.id.clone(), at(5));
    let (grace_seconds, reason, idempotency) = (60, None, None);
    let rotate = credentials::Rotate { id, hash: new, grace_seconds, reason, idempotency, actor, now };
    store.run(rotate).await.unwrap();
    assert_eq!(
        store.service_credential(new).await.unwrap(),
        Some(ServiceCredential { hash: new, ..filter_key })
    );
    let graced = store.service_credential(old).await.unwrap().unwrap();
    assert!(graced.is_usable(at(64)) && !graced.is_usable(at(65)));
    let filter = CredentialFilter { kind: CredentialKind::Filter, tenant_id: None, after: None, limit: 10 };
    assert_eq!(store.service_credentials(filter).await.unwrap().len(), 1);

    let alter = tenants::Alter {
        tenant_id: tenant_id.clone(),
        change: tenants::Change::Suspend,
        if_version: Some(1),
        reason: "unpaid".to_owned(),
        actor: "adm_1".to_owned(),
        now: at(4),
    };
    store.run(alter).await.unwrap();
    let (tenant, _) = store.tenant(tenant_id).await.unwrap().unwrap();
    assert_eq!((tenant.version, tenant.suspended_at), (2, Some(at(4))));
    let refused = store.run(reserve("r1", &key_id, 1, at(5))).await;
    assert_eq!(refused, Err(Error::Refused(Refusal::KeyInactive(KeyState::Suspended))));
}

async fn an_overrun_is_charged_up_to_its_cap_and_the_available_credits(fresh: &impl Fresh) {
    let (store, _guard) = fresh.open();
    let (tenant_id, key_id) = payer(store.as_ref(), 20).await;
    for id in ["r1", "r2", "r3"] {
        let mut asked = reserve(id, &key_id, 4, at(1));
        asked.request.overrun_credits_max = credits(6);
        store.run(asked).await.unwrap();
    }
    let post = |id, amount| settle(id, Action::Post { credits: credits(amount) }, at(2));
    let above = store.run(post("r1", 11)).await.unwrap();
    let most = book::Refusal::AboveReservation { most: credits(10) };
    assert_eq!(above.refused[0].1, reservations::Settled::Refused(most));
    // 8 are available, so the first overruns by its 6 and the second by what is left.
    for (id, available) in [("r1", 2), ("r2", 0), ("r3", 0)] {
        store.run(post(id, 10)).await.unwrap();
        store.run(post(id, 10)).await.unwrap();
        assert_eq!(balance(store.as_ref(), &tenant_id).await.available, credits(available));
    }
    let held = balance(store.as_ref(), &tenant_id).await;
    assert_lawful(held);
    assert_eq!((held.pending, held.posted), (Credits::ZERO, credits(20)));
    let spent = SpendingKey { tenant_id, key_id: None, month: at(1).month() };
    assert_eq!(store.spent(spent).await.unwrap(), credits(20));
    let filter = AuditFilter { kind: Some("posted".to_owned()), limit: 10, ..AuditFilter::default() };
    let details: Vec<String> =
        store.audit(filter).await.unwrap().iter().map(|row| row.detail.get().to_owned()).collect();
    assert_eq!(details.len(), 3);
    assert!(details[0].contains("\"shortfall\":6") && details[1].contains("\"shortfall\":4"), "{details:?}");
}
