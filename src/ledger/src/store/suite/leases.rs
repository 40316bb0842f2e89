//! What every store must do with leases and shares.

use super::{Fresh, assert_lawful, at, balance, credits, new_tenant, payer};
use crate::fixture::uuid_of;
use crate::model::spending::SpendingKey;
use crate::money::leases::{AnswerRound, ExpireLeases, RoundDone};
use crate::money::reservations::ForgetOld;
use crate::store::LeaseFilter;
use protocol::admin::LeaseState;
use protocol::key::Limit;
use protocol::lease::{Ask, Round, ShareAsk, Statement};
use protocol::{Credits, InstanceId, KeyId, LeaseId, TenantId, Timestamp};
use std::collections::BTreeSet;
use std::sync::Arc;

/// All tests of this part of the suite.
pub(super) async fn run(fresh: &impl Fresh) {
    leases_are_stored_and_charged_without_a_statement(fresh).await;
    many_envoys_at_once_never_hold_more_than_the_tenant_has(fresh).await;
    shares_are_stored_until_they_expire(fresh).await;
}

pub(crate) fn ask(id: &str, tenant_id: &TenantId, amount: u64) -> Ask {
    Ask {
        lease_id: LeaseId::parse(&uuid_of(id)).unwrap(),
        tenant_id: tenant_id.clone(),
        credits: credits(amount),
        price: credits(1),
    }
}

pub(crate) fn account(id: &str, revision: u64, spent: u64, closed: bool) -> Statement {
    Statement { lease_id: LeaseId::parse(&uuid_of(id)).unwrap(), revision, spent: credits(spent), closed }
}

pub(crate) fn share(key_id: &KeyId, revision: u64, keep: u32, wanted: u32) -> ShareAsk {
    let limit = Limit { permits: 100, window_seconds: 60 };
    ShareAsk { owner: key_id.into(), limit_id: 7, limit, revision, used: keep, keep, wanted }
}

pub(crate) fn round(instance: &str, now: Timestamp) -> AnswerRound {
    let round = Round {
        instance: InstanceId::parse(&uuid_of(instance)).unwrap(),
        envoy: "e1".to_owned(),
        asks: Vec::new(),
        accounts: Vec::new(),
        shares: Vec::new(),
    };
    AnswerRound { round, waiting_tenants: BTreeSet::new(), actor: "flt_1".to_owned(), now }
}

impl AnswerRound {
    pub(crate) fn asks(mut self, asks: Vec<Ask>) -> AnswerRound {
        self.round.asks = asks;
        self
    }

    pub(crate) fn accounts(mut self, accounts: Vec<Statement>) -> AnswerRound {
        self.round.accounts = accounts;
        self
    }

    pub(crate) fn shares(mut self, shares: Vec<ShareAsk>) -> AnswerRound {
        self.round.shares = shares;
        self
    }
}

fn lent(taken: &RoundDone) -> u64 {
    taken.answer.leases.iter().map(|grant| grant.credits.get()).sum()
}

async fn leases_are_stored_and_charged_without_a_statement(fresh: &impl Fresh) {
    let (store, _guard) = fresh.open();
    let (tenant, _) = payer(store.as_ref(), 1000).await;
    let other = store.run(new_tenant(100)).await.unwrap().id;
    let asks = vec![ask("l1", &tenant, 100), ask("l2", &tenant, 100), ask("l3", &other, 20)];
    assert_eq!(lent(&store.run(round("i1", at(0)).asks(asks)).await.unwrap()), 220);
    assert_eq!(store.open_lease_totals().await.unwrap(), (3, 220));
    let accounts = vec![account("l1", 5, 60, false), account("l2", 1, 10, false), account("l3", 1, 0, true)];
    let taken = store.run(round("i1", at(20)).accounts(accounts)).await.unwrap();
    assert_eq!((taken.refused.len(), taken.returned), (0, BTreeSet::from([other.clone()])));
    assert_eq!(store.open_lease_totals().await.unwrap(), (2, 130));
    assert_eq!(balance(store.as_ref(), &other).await.available, credits(100));

    // Of the two that were renewed at 20, one is renewed again.
    store.run(round("i1", at(30)).accounts(vec![account("l2", 1, 10, false)])).await.unwrap();
    assert_eq!(store.run(ExpireLeases { now: at(54) }).await, Ok((0, false)));
    assert_eq!(store.run(ExpireLeases { now: at(55) }).await, Ok((1, false)));
    assert_eq!(store.run(ExpireLeases { now: at(55) }).await, Ok((0, false)));
    let held = balance(store.as_ref(), &tenant).await;
    assert_eq!((held.available, held.pending, held.posted), (credits(800), credits(90), credits(110)));
    assert_lawful(held);
    let filter = LeaseFilter { tenant_id: Some(tenant.clone()), limit: 10, ..LeaseFilter::default() };
    let leases = store.leases(filter).await.unwrap();
    let states: Vec<_> = leases.iter().map(|lease| (lease.state, lease.lost().get())).collect();
    assert_eq!(states, [(LeaseState::Lost, 40), (LeaseState::Open, 0)]);
    assert_eq!((leases[0].revision, leases[1].renewed_at), (Some(5), at(30)));

    // Its final statement arrives in another month, and its credits are free again in the month in which it was opened.
    let later = at(40 * 86_400);
    store.run(ExpireLeases { now: later }).await.unwrap();
    let last = vec![account("l1", 6, 70, true), account("l2", 2, 10, true)];
    store.run(round("i1", later).accounts(last)).await.unwrap();
    let spent = |month| SpendingKey { tenant_id: tenant.clone(), key_id: None, month };
    assert_eq!(store.spent(spent(at(0).month())).await.unwrap(), credits(80));
    assert_eq!(store.spent(spent(later.month())).await.unwrap(), Credits::ZERO);
    let held = balance(store.as_ref(), &tenant).await;
    assert_eq!((held.available, held.pending, held.posted), (credits(920), Credits::ZERO, credits(80)));
}

async fn many_envoys_at_once_never_hold_more_than_the_tenant_has(fresh: &impl Fresh) {
    let (store, _guard) = fresh.open();
    let (tenant, _) = payer(store.as_ref(), 1000).await;
    let tasks = (0..60).map(|number| {
        let (store, tenant) = (Arc::clone(&store), tenant.clone());
        tokio::spawn(async move {
            let (id, instance) = (format!("l{number}"), format!("i{}", number % 10));
            let asks = || vec![ask(&id, &tenant, 400)];
            // Each sends its request twice at once, as a filter does after a slow first answer.
            let (first, second) = tokio::join!(
                store.run(round(&instance, at(1)).asks(asks())),
                store.run(round(&instance, at(1)).asks(asks()))
            );
            let granted = lent(&first.unwrap()).max(lent(&second.unwrap()));
            let spent = granted / 3;
            for _ in 0..2 {
                let accounts = vec![account(&id, 1, spent, true)];
                store.run(round(&instance, at(2)).accounts(accounts)).await.unwrap();
            }
            spent
        })
    });
    let mut spent = 0;
    for task in tasks.collect::<Vec<_>>() {
        spent += task.await.unwrap();
    }
    let held = balance(store.as_ref(), &tenant).await;
    assert_eq!((held.pending, held.posted), (Credits::ZERO, credits(spent)));
    assert!(spent > 0 && spent <= 1000, "{spent}");
    assert_lawful(held);
}

async fn shares_are_stored_until_they_expire(fresh: &impl Fresh) {
    let (store, _guard) = fresh.open();
    let key = KeyId::parse("key_1").unwrap();
    let permits = async |instance: &str, now, ask| {
        let taken = store.run(round(instance, now).shares(vec![ask])).await.unwrap();
        taken.answer.shares[0].permits
    };
    // All at once, in one transaction or in several: their sum is at most the limit.
    let asks = (0..10).map(|number| {
        let (store, key) = (Arc::clone(&store), key.clone());
        tokio::spawn(async move {
            let take = round(&format!("i{number}"), at(0)).shares(vec![share(&key, 1, 0, 100)]);
            store.run(take).await.unwrap().answer.shares[0].permits
        })
    });
    let mut sum = 0;
    for ask in asks.collect::<Vec<_>>() {
        sum += ask.await.unwrap();
    }
    assert!((90..=100).contains(&sum), "{sum}");
    let other = KeyId::parse("key_2").unwrap();
    assert_eq!(permits("i0", at(0), share(&other, 1, 0, 100)).await, 50);
    // 120 seconds, the window of 60, and a margin of 5.
    assert_eq!(permits("late", at(184), share(&key, 1, 0, 100)).await, 100 - sum);
    store.run(ForgetOld { now: at(3600 + 300) }).await.unwrap();
    assert_eq!(permits("late", at(185), share(&key, 2, 0, 60)).await, 50);
    assert_eq!(permits("late", at(185), share(&key, 3, 50, 60)).await, 60);
}
