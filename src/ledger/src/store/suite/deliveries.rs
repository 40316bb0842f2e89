//! The store with messages that arrive late, twice and in another order, compared with the book's independent model.

use super::{Fresh, at, balance, credits, payer, reserve, settle};
use crate::book::tests::model::{Answer, Command, Model, Why};
use crate::book::tests::why;
use crate::fixture::uuid_of;
use crate::model::replay::{Idempotency, ReplayKey};
use crate::moment;
use crate::money::reservations::{Expire, Settled};
use crate::money::tenants::{self, Refunded};
use crate::store::Store;
use crate::transaction::{Error, Refusal};
use protocol::admin::Direction;
use protocol::filter::Action;
use protocol::{KeyId, ReservationId, TenantId, TransferId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;

/// Repeats one run.
const SEED_VARIABLE: &str = "STORE_SEED";
const ROUNDS: u32 = 8;
const MESSAGES: usize = 40;
const DELIVERIES: usize = 100;
const TENANTS: u8 = 2;

pub(super) async fn late_repeated_and_reordered_messages_do_what_the_model_says(fresh: &impl Fresh) {
    let seed: u64 =
        std::env::var(SEED_VARIABLE).map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    eprintln!("to repeat these deliveries: {SEED_VARIABLE}={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (store, guard) = fresh.open();
    let mut now = 0;
    for round in 0..ROUNDS {
        let mut subject = Subject { store: store.as_ref(), round, tenants: Vec::new() };
        for _ in 0..TENANTS {
            subject.tenants.push(payer(store.as_ref(), 1).await);
        }
        let mut model = Model::default();
        for tenant in 0..TENANTS {
            model.apply(Command::Grant { tenant, credits: 1 }, now);
        }
        let sent: Vec<Command> = (0..MESSAGES).map(|_| command(&mut random)).collect();
        let (mut delivered, mut abandoned) = (Vec::new(), BTreeSet::new());
        for delivery in 0..DELIVERIES {
            now += random.random_range(0..10u64).saturating_sub(7);
            // A window that moves over the messages, so that most arrive soon and some much later than others.
            let message = (delivery * MESSAGES / DELIVERIES + random.random_range(0..8)) % MESSAGES;
            let command = sent[message];
            delivered.push((now, message, command));
            let context = || format!("{SEED_VARIABLE}={seed}, round {round}: {delivered:#?}");
            if let Command::Expire { .. } = command {
                let due = model.due(now);
                let expired = store.run(Expire { now: at(now) }).await.unwrap().0;
                assert_eq!(expired, u64::try_from(due.len()).unwrap(), "{}", context());
                for id in due {
                    assert_eq!(model.apply(Command::Expire { id }, now), Answer::Done);
                }
            } else if let Command::Reserve { id, .. } = command
                && abandoned.contains(&id)
            {
                // The Envoy that voided it has ended, and nobody would settle it.
                let answer = subject.deliver(message, command, now).await;
                assert_eq!(answer, Answer::Refused(Why::Ended { state: "voided" }), "{}", context());
            } else {
                let answer = subject.deliver(message, command, now).await;
                let mut expected = model.deliver(message, command, now);
                // A request to create an existing object gets it, whenever it was created.
                let is_asked_for =
                    !command.names_a_reservation() || matches!(command, Command::Reserve { .. });
                if is_asked_for && expected == Answer::Known {
                    expected = Answer::Done;
                }
                // Nothing can be refunded of what was never reserved.
                if let (Command::Void { id }, Answer::Refused(Why::Unknown)) = (command, expected) {
                    abandoned.insert(id);
                    expected = Answer::Known;
                }
                assert_eq!(answer, expected, "{}", context());
            }
            for (tenant, (id, _)) in (0..TENANTS).zip(&subject.tenants) {
                let held = balance(store.as_ref(), id).await;
                let held = [held.granted, held.available, held.pending, held.posted].map(|sum| sum.get());
                assert_eq!(held[0], held[1] + held[2] + held[3], "{}", context());
                assert_eq!(held, model.balance(tenant), "{}", context());
            }
        }
        assert_eq!(fresh.broken_laws(&guard), Vec::<String>::new(), "{SEED_VARIABLE}={seed}, round {round}");
        // Nothing of this round is left to expire in the next.
        now += 1000;
        store.run(Expire { now: at(now) }).await.unwrap();
    }
}

fn command(random: &mut StdRng) -> Command {
    let (id, tenant) = (random.random_range(0..8), random.random_range(0..TENANTS));
    match random.random_range(0..20) {
        0..=2 => Command::Grant { tenant, credits: random.random_range(0..40) },
        3 => Command::Refund { tenant, credits: random.random_range(0..10) },
        4 if id < 4 => Command::Withdraw { tenant, credits: random.random_range(0..10) },
        4 => Command::GiveBack { id, credits: random.random_range(0..8) },
        5..=9 => {
            let (credits, ttl_seconds) = (random.random_range(0..12), random.random_range(1..8));
            let overrun = random.random_range(0..8u64).saturating_sub(4);
            Command::Reserve { id, tenant, credits, overrun, ttl_seconds }
        }
        10..=13 => Command::Post { id, credits: random.random_range(0..14) },
        14..=15 => Command::Void { id },
        16 => Command::Renew { id, ttl_seconds: random.random_range(1..12) },
        _ => Command::Expire { id },
    }
}

struct Subject<'s> {
    store: &'s Store,
    round: u32,
    tenants: Vec<(TenantId, KeyId)>,
}

impl Subject<'_> {
    async fn deliver(&self, message: usize, command: Command, now: u64) -> Answer {
        let whose = |tenant: u8| &self.tenants[usize::from(tenant)];
        let name = |id: u8| format!("r{}-{id}", self.round);
        match command {
            Command::Grant { tenant, credits: amount } => {
                let grant = tenants::Grant {
                    tenant_id: whose(tenant).0.clone(),
                    amount: credits(amount),
                    reason: "x".to_owned(),
                    id: moment::new_id("trf_", TransferId::parse).unwrap(),
                    actor: "adm_1".to_owned(),
                    idempotency: self.idempotency(message),
                    now: at(now),
                };
                answer(self.store.run(grant).await)
            }
            Command::Refund { tenant, credits } => {
                self.correct(message, tenant, Direction::Refund, Refunded::Anything, credits, now).await
            }
            Command::Withdraw { tenant, credits } => {
                self.correct(message, tenant, Direction::Withdraw, Refunded::Anything, credits, now).await
            }
            Command::GiveBack { id, credits } => {
                let mut answer = Answer::Refused(Why::Unknown);
                // It is unknown to all tenants but its own.
                for tenant in 0..TENANTS {
                    if answer == Answer::Refused(Why::Unknown) {
                        let of = Refunded::Reservation(ReservationId::parse(&uuid_of(&name(id))).unwrap());
                        answer = self.correct(message, tenant, Direction::Refund, of, credits, now).await;
                    }
                }
                answer
            }
            Command::Reserve { id, tenant, credits: amount, overrun, ttl_seconds } => {
                let mut reserve = reserve(&name(id), &whose(tenant).1, amount, at(now));
                reserve.request.overrun_credits_max = credits(overrun);
                reserve.request.ttl_seconds = ttl_seconds;
                answer(self.store.run(reserve).await)
            }
            Command::Post { id, credits: amount } => {
                self.settle(&name(id), Action::Post { credits: credits(amount) }, now).await
            }
            Command::Void { id } => self.settle(&name(id), Action::Void, now).await,
            Command::Renew { id, ttl_seconds } => {
                self.settle(&name(id), Action::Renew { ttl_seconds }, now).await
            }
            Command::Expire { .. } => panic!("the ledger itself expires what is due"),
        }
    }

    async fn correct(
        &self,
        message: usize,
        tenant: u8,
        direction: Direction,
        of: Refunded,
        amount: u64,
        now: u64,
    ) -> Answer {
        let correct = tenants::Correct {
            tenant_id: self.tenants[usize::from(tenant)].0.clone(),
            direction,
            of,
            amount: credits(amount),
            reason: "x".to_owned(),
            id: moment::new_id("trf_", TransferId::parse).unwrap(),
            actor: "adm_1".to_owned(),
            idempotency: self.idempotency(message),
            now: at(now),
        };
        answer(self.store.run(correct).await)
    }

    async fn settle(&self, id: &str, action: Action, now: u64) -> Answer {
        let delivered = self.store.run(settle(id, action, at(now))).await.unwrap();
        match (delivered.answer.settled, delivered.refused.first()) {
            (1, None) => Answer::Done,
            (0, None) => Answer::Known,
            (0, Some((_, Settled::Refused(refusal)))) => Answer::Refused(why(*refusal)),
            (0, Some((_, Settled::Unknown))) => Answer::Refused(Why::Unknown),
            other => panic!("{other:?}"),
        }
    }

    fn idempotency(&self, message: usize) -> Option<Idempotency> {
        let key = format!("{}-{message}", self.round);
        let at = ReplayKey { actor: "adm_1".to_owned(), route: "POST /v1/tenants/x".to_owned(), key };
        Some(Idempotency::new(at, b"body"))
    }
}

fn answer<T>(outcome: Result<T, Error>) -> Answer {
    match outcome {
        Ok(_) => Answer::Done,
        Err(Error::Refused(Refusal::Money(refusal))) => Answer::Refused(why(refusal)),
        Err(Error::Refused(Refusal::ReservationUnknown)) => Answer::Refused(Why::Unknown),
        Err(other) => panic!("{other:?}"),
    }
}
