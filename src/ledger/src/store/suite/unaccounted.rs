//! What every store must do with reservations that expired without a settlement, and with refunds.

use super::{Fresh, assert_lawful, at, balance, credits, new_key, payer, reserve, settle};
use crate::book::{self, State};
use crate::fixture::uuid_of;
use crate::model::key::ParentLink;
use crate::model::spending::SpendingKey;
use crate::moment;
use crate::money::reservations::{Expire, ForgetOld};
use crate::money::tenants::{Correct, Refunded};
use crate::store::{AuditFilter, ReservationFilter, Store};
use crate::transaction::{Error, Refusal};
use protocol::admin::{Direction, Reservation, ReservationState};
use protocol::api_key::KeyHash;
use protocol::filter::Action;
use protocol::{Credits, KeyId, ReservationId, TenantId, Timestamp, TransferId};

/// All tests of this part of the suite.
pub(super) async fn run(fresh: &impl Fresh) {
    unsettled_reservations_are_listed_until_they_are_corrected(fresh).await;
    a_reservation_voided_before_it_was_made_is_never_reserved(fresh).await;
    refunds_are_free_again_in_the_budgets_that_paid(fresh).await;
}

fn reservation_id(id: &str) -> ReservationId {
    ReservationId::parse(&uuid_of(id)).unwrap()
}

pub(crate) async fn listed(store: &Store, state: Option<ReservationState>) -> Vec<(String, u64)> {
    let mut found: Vec<Reservation> = Vec::new();
    loop {
        // Pages of two.
        let after = found.last().map(|last| last.id);
        let filter = ReservationFilter { tenant_id: None, state, after, limit: 2 };
        let page = store.reservations(filter).await.unwrap();
        let shown = page.into_iter().map(|one| one.shown().unwrap());
        let before = found.len();
        found.extend(shown);
        if found.len() == before {
            break;
        }
    }
    assert!(state.is_none_or(|state| found.iter().all(|one| one.state == state)), "{found:?}");
    found.into_iter().map(|one| (one.id.to_string(), one.charged.get())).collect()
}

fn refund(tenant_id: &TenantId, of: Refunded, amount: u64, now: Timestamp) -> Correct {
    Correct {
        tenant_id: tenant_id.clone(),
        direction: Direction::Refund,
        of,
        amount: credits(amount),
        reason: "the gate was killed".to_owned(),
        id: moment::new_id("trf_", TransferId::parse).unwrap(),
        actor: "adm_1".to_owned(),
        idempotency: None,
        now,
    }
}

async fn unsettled_reservations_are_listed_until_they_are_corrected(fresh: &impl Fresh) {
    let (store, guard) = fresh.open();
    let store = store.as_ref();
    let (tenant, key) = payer(store, 100).await;
    let (other, _) = payer(store, 100).await;
    for number in 1..=7 {
        store.run(reserve(&format!("r{number}"), &key, 10, at(0))).await.unwrap();
    }
    store.run(settle("r7", Action::Post { credits: credits(10) }, at(1))).await.unwrap();
    assert_eq!(listed(store, None).await, []);
    assert_eq!(store.run(Expire { now: at(60) }).await, Ok((6, false)));
    assert_eq!(balance(store, &tenant).await.posted, credits(70));
    let unaccounted = Some(ReservationState::Unaccounted);
    let all = |ids: &[&str], charged: u64| ids.iter().map(|id| (uuid_of(id), charged)).collect::<Vec<_>>();
    assert_eq!(listed(store, unaccounted).await, all(&["r1", "r2", "r3", "r4", "r5", "r6"], 10));
    let of_other =
        ReservationFilter { tenant_id: Some(other.clone()), limit: 9, ..ReservationFilter::default() };
    assert_eq!(store.reservations(of_other).await.unwrap(), []);

    // Settlements arrive late, twice, and with two different results.
    for (id, action, settled) in [
        ("r1", Action::Post { credits: credits(10) }, 1),
        ("r1", Action::Post { credits: credits(10) }, 0),
        ("r2", Action::Post { credits: credits(3) }, 1),
        ("r3", Action::Void, 1),
        ("r3", Action::Void, 0),
        ("r3", Action::Post { credits: credits(10) }, 0),
        ("r2", Action::Void, 0),
        ("r2", Action::Post { credits: credits(3) }, 0),
    ] {
        let delivered = store.run(settle(id, action, at(70))).await.unwrap();
        assert_eq!(delivered.answer.settled, settled, "{id} {action:?}");
    }
    // An administrator refunds one fully and one in part; a settlement of the second arrives.
    let of = |id: &str| Refunded::Reservation(reservation_id(id));
    store.run(refund(&tenant, of("r4"), 10, at(71))).await.unwrap();
    store.run(refund(&tenant, of("r5"), 4, at(71))).await.unwrap();
    store.run(settle("r5", Action::Post { credits: credits(8) }, at(72))).await.unwrap();
    for (whose, id, refused) in [
        (&tenant, "r4", Refusal::Money(book::Refusal::AboveCorrectable { most: Credits::ZERO })),
        (&tenant, "r5", Refusal::Money(book::Refusal::AboveCorrectable { most: credits(6) })),
        (&tenant, "never", Refusal::ReservationUnknown),
        (&other, "r6", Refusal::ReservationUnknown),
    ] {
        let answer = store.run(refund(whose, of(id), 7, at(73))).await;
        assert_eq!(answer.unwrap_err(), Error::Refused(refused), "{id}");
    }
    assert_eq!(listed(store, unaccounted).await, all(&["r6"], 10));
    let corrected = [("r1", 10), ("r2", 3), ("r3", 0), ("r4", 0), ("r5", 6)];
    let corrected = corrected.map(|(id, charged)| (uuid_of(id), charged));
    assert_eq!(listed(store, Some(ReservationState::Corrected)).await, corrected);
    assert_eq!(listed(store, Some(ReservationState::Returned)).await, []);
    let held = balance(store, &tenant).await;
    assert_lawful(held);
    assert_eq!((held.available, held.pending, held.posted), (credits(61), Credits::ZERO, credits(39)));

    let count_of = async |kind: &str| {
        let filter = AuditFilter { kind: Some(kind.to_owned()), limit: 20, ..AuditFilter::default() };
        store.audit(filter).await.unwrap().len()
    };
    assert_eq!((count_of("unaccounted").await, count_of("correction").await), (6, 4));
    assert_eq!(
        (count_of("credits_corrected").await, count_of("expired").await, count_of("voided").await),
        (2, 0, 0)
    );
    assert_eq!(fresh.broken_laws(&guard), Vec::<String>::new());
}

async fn a_reservation_voided_before_it_was_made_is_never_reserved(fresh: &impl Fresh) {
    let (store, _guard) = fresh.open();
    let (tenant, key) = payer(store.as_ref(), 10).await;
    for _ in 0..2 {
        let voided = store.run(settle("r1", Action::Void, at(1))).await.unwrap();
        assert_eq!((voided.answer.settled, voided.refused.len()), (0, 0));
        let refused = store.run(reserve("r1", &key, 5, at(2))).await;
        let ended = book::Refusal::Ended { state: State::Voided };
        assert_eq!(refused, Err(Error::Refused(Refusal::Money(ended))));
    }
    // In one transaction too.
    let (voided, refused) =
        tokio::join!(store.run(settle("r2", Action::Void, at(1))), store.run(reserve("r2", &key, 5, at(1))));
    assert!(voided.is_ok() && refused.is_err(), "{refused:?}");
    assert_eq!(balance(store.as_ref(), &tenant).await.available, credits(10));
    // No request is in transit for so long.
    store.run(ForgetOld { now: at(3500) }).await.unwrap();
    assert!(store.run(reserve("r1", &key, 5, at(3500))).await.is_err());
    store.run(ForgetOld { now: at(3700) }).await.unwrap();
    assert!(store.run(reserve("r1", &key, 5, at(3700))).await.is_ok());
}

async fn refunds_are_free_again_in_the_budgets_that_paid(fresh: &impl Fresh) {
    let (store, _guard) = fresh.open();
    let store = store.as_ref();
    let (tenant, key) = payer(store, 1000).await;
    let second = store.run(new_key(&tenant)).await.unwrap().key.id;
    let mut child = new_key(&tenant);
    child.key.parent =
        Some(ParentLink { key_id: second.clone(), secret: KeyHash::of(second.as_str().as_bytes()) });
    let child = store.run(child).await.unwrap().key.id;
    let (then, now) = (at(0), at(40 * 86_400));
    let spent = async |key_id: Option<&KeyId>, moment: Timestamp| {
        let of = SpendingKey { tenant_id: tenant.clone(), key_id: key_id.cloned(), month: moment.month() };
        store.spent(of).await.unwrap().get()
    };
    let all = async |moment: Timestamp| {
        let of_keys = [spent(Some(&key), moment).await, spent(Some(&second), moment).await];
        (spent(None, moment).await, of_keys, spent(Some(&child), moment).await)
    };
    for (id, key_id, amount, began) in [
        ("old", &child, 20, then),
        ("one", &key, 20, now),
        ("two", &second, 7, now),
        ("three", &child, 5, now),
    ] {
        store.run(reserve(id, key_id, amount, began)).await.unwrap();
    }
    store.run(Expire { now: now.plus_seconds(60) }).await.unwrap();
    assert_eq!((all(then).await, all(now).await), ((20, [0, 20], 20), (32, [20, 12], 5)));
    let refund = |of, amount| store.run(refund(&tenant, of, amount, now.plus_seconds(70)));

    // A reservation has its key and its month; its credits are also freed for the key's parent.
    refund(Refunded::Reservation(reservation_id("old")), 12).await.unwrap();
    assert_eq!((all(then).await, all(now).await), ((8, [0, 8], 8), (32, [20, 12], 5)));
    // A settlement that arrives late too.
    store.run(settle("old", Action::Void, now)).await.unwrap();
    assert_eq!(all(then).await, (0, [0, 0], 0));
    refund(Refunded::Key(child.clone()), 1).await.unwrap();
    assert_eq!(all(now).await, (31, [20, 11], 4));
    // Without a reservation or key: then no key has spent more than the tenant, whichever key made the calls.
    refund(Refunded::Anything, 11).await.unwrap();
    assert_eq!(all(now).await, (20, [20, 11], 4));
    refund(Refunded::Anything, 18).await.unwrap();
    assert_eq!(all(now).await, (2, [2, 2], 2));
    let unknown = refund(Refunded::Key(KeyId::parse("key_unknown").unwrap()), 1).await;
    assert_eq!(unknown.unwrap_err(), Error::Refused(Refusal::KeyUnknown));
}
