//! The book compared with an independent [`model`], and named tests of its rules.

#![allow(clippy::arithmetic_side_effects)]

pub(crate) mod model;

use super::*;
use crate::fixture::seeded;
use model::{Answer, Command, Model, Why};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{TestCaseError, TestRunner};
use protocol::admin::Balance;
use protocol::{KeyId, PolicyVersion, ReservationId, TenantId};
use std::collections::BTreeMap;

fn amount(number: u64) -> Credits {
    Credits::new(number).unwrap()
}

fn request(id: u8, credits: u64, ttl_seconds: u32) -> Request {
    request_of(0, id, credits, 0, ttl_seconds)
}

fn overrunning(id: u8, credits: u64, overrun: u64) -> Request {
    request_of(0, id, credits, overrun, 60)
}

fn request_of(tenant: u8, id: u8, credits: u64, overrun: u64, ttl_seconds: u32) -> Request {
    Request {
        id: ReservationId::from_bits(id.into()),
        tenant_id: TenantId::parse(&format!("ten_{tenant}")).unwrap(),
        key_id: KeyId::parse("key_1").unwrap(),
        service: "studio".to_owned(),
        tool: "image_generate".to_owned(),
        credits: amount(credits),
        overrun: amount(overrun),
        ttl_seconds,
        policy_version: PolicyVersion::parse("v1").unwrap(),
    }
}

const TENANTS: u8 = 2;

/// Few ids, amounts and times, so that conflicts, late steps and empty accounts are common.
fn command() -> impl Strategy<Value = Command> {
    let (id, tenant) = (0u8..4, 0..TENANTS);
    prop_oneof![
        6 => (tenant.clone(), 0u64..40).prop_map(|(tenant, credits)| Command::Grant { tenant, credits }),
        1 => tenant.clone().prop_map(|tenant| Command::Grant { tenant, credits: Credits::MAX.get() }),
        4 => (tenant.clone(), 0u64..20).prop_map(|(tenant, credits)| Command::Refund { tenant, credits }),
        4 => (tenant.clone(), 0u64..20).prop_map(|(tenant, credits)| Command::Withdraw { tenant, credits }),
        6 => (id.clone(), 0u64..8).prop_map(|(id, credits)| Command::GiveBack { id, credits }),
        20 => (id.clone(), tenant, 0u64..12, prop_oneof![1 => Just(0u64), 1 => 1u64..5], 1u32..4).prop_map(
            |(id, tenant, credits, overrun, ttl_seconds)| Command::Reserve {
                id, tenant, credits, overrun, ttl_seconds
            }
        ),
        24 => (id.clone(), 0u64..14).prop_map(|(id, credits)| Command::Post { id, credits }),
        12 => id.clone().prop_map(|id| Command::Void { id }),
        6 => (id.clone(), 1u32..6).prop_map(|(id, ttl_seconds)| Command::Renew { id, ttl_seconds }),
        40 => id.prop_map(|id| Command::Expire { id }),
    ]
}

/// A command in transit: its index, and the delay after the delivery before it.
#[derive(Debug, Clone, Copy)]
struct Delivery {
    command: Command,
    seconds_later: u64,
}

/// Messages as a network delivers them: each any number of times, soon or late, in any order.
fn deliveries() -> impl Strategy<Value = Vec<Delivery>> {
    // Half of the runs begin with a reservation that expires unsettled, so that what comes after is late.
    let forgotten = (any::<bool>(), 12u64..40, 1u64..12, 0u64..5);
    (forgotten, in_any_order()).prop_map(|((is_forgotten, granted, credits, overrun), rest)| {
        let (id, tenant, ttl_seconds) = (0, 0, 1);
        let begin = [
            Command::Grant { tenant, credits: granted },
            Command::Reserve { id, tenant, credits, overrun, ttl_seconds },
            Command::Expire { id },
        ];
        let begin = begin.map(|command| Delivery { command, seconds_later: 1 });
        begin.into_iter().filter(|_| is_forgotten).chain(rest).collect()
    })
}

fn in_any_order() -> impl Strategy<Value = Vec<Delivery>> {
    vec(command(), 1..30).prop_flat_map(|sent| {
        let seconds_later = prop_oneof![2 => Just(0u64), 3 => 1u64..4];
        let pick = (0..sent.len(), 0..6usize, seconds_later);
        vec(pick, 1..80).prop_map(move |picks| {
            let mut next = 0;
            let bring = |(anywhere, how, seconds_later): (usize, usize, u64)| {
                // Mostly the next command or a recent one, sometimes any one.
                let place = match how {
                    0..=2 => next,
                    3 | 4 => (next + sent.len() - anywhere % 3) % sent.len(),
                    _ => anywhere,
                };
                next = (next + usize::from(how <= 2)) % sent.len();
                Delivery { command: sent[place], seconds_later }
            };
            picks.into_iter().map(bring).collect()
        })
    })
}

/// The book with its rows and its journal.
#[derive(Default)]
struct Subject {
    accounts: BTreeMap<u8, Accounts>,
    reservations: BTreeMap<u8, (u8, Reservation)>,
    journal: Vec<(u8, Transfer)>,
}

impl Subject {
    fn apply(&mut self, command: Command, now: Timestamp) -> Answer {
        let one = |transfer| Step::Moved(vec![transfer]);
        let (tenant, step) = match command {
            Command::Grant { tenant, credits } => {
                (tenant, grant(self.accounts_of(tenant), amount(credits), now).map(one))
            }
            Command::Refund { tenant, credits } => {
                (tenant, correct(self.accounts_of(tenant), Direction::Refund, amount(credits), now).map(one))
            }
            Command::Withdraw { tenant, credits } => (
                tenant,
                correct(self.accounts_of(tenant), Direction::Withdraw, amount(credits), now).map(one),
            ),
            Command::Reserve { id, tenant, credits, overrun, ttl_seconds } => {
                let known = self.reservations.get(&id).map(|(_, reservation)| reservation.clone());
                let asked = request_of(tenant, id, credits, overrun, ttl_seconds);
                let reserved = reserve(self.accounts_of(tenant), known.as_ref(), asked, now);
                let step = reserved.map(|(reservation, step)| {
                    // A repeated request gets the same answer as before.
                    if let Some(known) = &known {
                        assert_eq!(known, &reservation);
                    }
                    self.reservations.insert(id, (tenant, reservation));
                    step
                });
                (tenant, step)
            }
            Command::Post { id, .. }
            | Command::Void { id }
            | Command::Renew { id, .. }
            | Command::GiveBack { id, .. }
            | Command::Expire { id } => {
                let Some((tenant, reservation)) = self.reservations.get_mut(&id) else {
                    return Answer::Refused(Why::Unknown);
                };
                let accounts = self.accounts.get_mut(tenant).unwrap();
                let step = match command {
                    Command::Post { credits, .. } => post(accounts, reservation, amount(credits), now),
                    Command::Void { .. } => void(accounts, reservation, now),
                    Command::Renew { ttl_seconds, .. } => renew(reservation, ttl_seconds, now),
                    Command::GiveBack { credits, .. } => {
                        refund_reservation(accounts, reservation, amount(credits), now).map(one)
                    }
                    _ => expire(accounts, reservation, now),
                };
                (*tenant, step)
            }
        };
        if let Ok(Step::Moved(transfers)) = &step {
            // A charge of zero without a refund is impossible, because a reservation has at least one credit.
            assert!(!transfers.is_empty());
            self.journal.extend(transfers.iter().map(|transfer| (tenant, *transfer)));
        }
        match step {
            Ok(Step::Moved(_) | Step::Changed) => Answer::Done,
            Ok(Step::Repeated) => Answer::Known,
            Err(refusal) => Answer::Refused(why(refusal)),
        }
    }

    fn accounts_of(&mut self, tenant: u8) -> &mut Accounts {
        self.accounts.entry(tenant).or_default()
    }

    fn balance(&self, tenant: u8) -> [u64; 4] {
        let balance = self.accounts.get(&tenant).copied().unwrap_or_default().balance();
        [balance.granted, balance.available, balance.pending, balance.posted].map(Credits::get)
    }

    /// The balance, calculated from the journal alone; what the issuer granted counts as negative.
    fn journal_sums(&self, tenant: u8) -> [i64; 4] {
        let mut sums = [0i64; 4];
        for (_, transfer) in self.journal.iter().filter(|(whose, _)| *whose == tenant) {
            assert!(!transfer.credits.is_zero());
            let (from, to) = transfer.kind.route();
            let credits = i64::try_from(transfer.credits.get()).unwrap();
            sums[from as usize] -= credits;
            sums[to as usize] += credits;
        }
        sums
    }
}

/// A refusal as the model names it.
pub(crate) fn why(refusal: Refusal) -> Why {
    match refusal {
        Refusal::NothingToMove => Why::Nothing,
        Refusal::GrantTooLarge => Why::TooRich,
        Refusal::QuotaExceeded { available } => Why::TooPoor { available: available.get() },
        Refusal::DifferentRequest => Why::OtherRequest,
        Refusal::AboveReservation { most } => Why::AboveReservation { most: most.get() },
        Refusal::AboveCorrectable { most } => Why::AboveCorrectable { most: most.get() },
        Refusal::Ended { state } => Why::Ended { state: state.name() },
        Refusal::AboveLease { .. } | Refusal::LeaseEnded => panic!("no lease is asked for here"),
        Refusal::OutOfBalance => panic!("the rows do not add up"),
    }
}

#[test]
fn after_every_delivery_the_invariants_hold_and_the_model_agrees() {
    seeded("BOOK_SEED", 3000, &deliveries(), |deliveries| compare(&deliveries));
}

fn compare(deliveries: &[Delivery]) -> Result<(), TestCaseError> {
    let (mut model, mut subject) = (Model::default(), Subject::default());
    let mut now = 1_000;
    for (place, Delivery { command, seconds_later }) in deliveries.iter().enumerate() {
        now += seconds_later;
        let (before, moved) = (subject.accounts.clone(), subject.journal.len());
        let answer = subject.apply(*command, at(now));
        prop_assert_eq!(answer, model.apply(*command, now), "delivery {}: {:?}", place, command);
        let balances =
            |subject: &Subject| (0..TENANTS).map(|tenant| subject.balance(tenant)).collect::<Vec<_>>();
        if subject.journal.len() == moved {
            let same = before.iter().all(|(tenant, accounts)| subject.accounts.get(tenant) == Some(accounts));
            prop_assert!(same, "moved without a transfer: {:?}", command);
        }
        for tenant in 0..TENANTS {
            let [granted, available, pending, posted] = subject.balance(tenant);
            prop_assert_eq!(granted, available + pending + posted);
            prop_assert_eq!(
                subject.balance(tenant),
                model.balance(tenant),
                "delivery {}: {:?}, tenant {}",
                place,
                command,
                tenant
            );
            let signed = [granted, available, pending, posted].map(|sum| i64::try_from(sum).unwrap());
            prop_assert_eq!([-signed[0], signed[1], signed[2], signed[3]], subject.journal_sums(tenant));
        }
        // Repeated at once it moves nothing, except for commands without an id.
        if command.names_a_reservation() {
            let (held, moved) = (balances(&subject), subject.journal.len());
            let again = subject.apply(*command, at(now));
            let expected = if answer == Answer::Done { Answer::Known } else { answer };
            prop_assert_eq!(again, expected, "again {}: {:?}", place, command);
            prop_assert_eq!((balances(&subject), subject.journal.len()), (held, moved));
        }
    }
    Ok(())
}

#[test]
fn the_random_deliveries_cover_every_command_and_refusal() {
    let mut runner = TestRunner::deterministic();
    let (mut met, mut late, mut again, mut reordered) = (std::collections::BTreeSet::new(), [0; 3], 0, 0);
    for _ in 0..500 {
        let deliveries = deliveries().new_tree(&mut runner).unwrap().current();
        let (mut model, mut now) = (Model::default(), 0);
        for (place, Delivery { command, seconds_later }) in deliveries.iter().enumerate() {
            now += seconds_later;
            let answer = model.apply(*command, now);
            let before = &deliveries[..place];
            again += usize::from(before.iter().any(|earlier| earlier.command == *command));
            let is_reserve_of =
                |id: u8, one: &Delivery| matches!(one.command, Command::Reserve { id: own, .. } if own == id);
            if let Command::Post { id, .. } | Command::Void { id } = command {
                let reserved_later = deliveries[place..].iter().any(|later| is_reserve_of(*id, later));
                reordered += usize::from(answer == Answer::Refused(Why::Unknown) && reserved_later);
            }
            let name = |text: String| text.split([' ', '(']).take(2).collect::<String>();
            let kind = format!("{command:?}").split(' ').next().unwrap().to_owned();
            if let (Answer::Done, Some(charged)) = (answer, model.settled_late(*command)) {
                late[usize::try_from(charged as i8 + 1).unwrap()] += 1;
            }
            let answer = format!("{answer:?}").replace("Refused(", "");
            met.insert(format!("{kind}: {}", name(answer).split(['{', ')']).next().unwrap()));
        }
    }
    let expected = [
        "Expire: Done",
        "Expire: Known",
        "Expire: Unknown",
        "GiveBack: AboveCorrectable",
        "GiveBack: Done",
        "GiveBack: Nothing",
        "GiveBack: Unknown",
        "Grant: Done",
        "Grant: Nothing",
        "Grant: TooRich",
        "Post: AboveReservation",
        "Post: Done",
        "Post: Ended",
        "Post: Known",
        "Post: Unknown",
        "Refund: AboveCorrectable",
        "Refund: Done",
        "Refund: Nothing",
        "Renew: Done",
        "Renew: Ended",
        "Renew: Known",
        "Renew: Unknown",
        "Reserve: Done",
        "Reserve: Known",
        "Reserve: Nothing",
        "Reserve: OtherRequest",
        "Reserve: TooPoor",
        "Void: Done",
        "Void: Ended",
        "Void: Known",
        "Void: Unknown",
        "Withdraw: AboveCorrectable",
        "Withdraw: Done",
        "Withdraw: Nothing",
    ];
    assert_eq!(met, expected.into_iter().map(str::to_owned).collect());
    assert!(
        late[0] > 50 && late[1] > 1 && late[2] > 5 && again > 1000 && reordered > 100,
        "{late:?} late, {again} again, {reordered} reordered"
    );
}

fn with(credits: u64) -> Accounts {
    let mut accounts = Accounts::default();
    grant(&mut accounts, amount(credits), Timestamp::from_millis(0)).unwrap();
    accounts
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(0).plus_seconds(seconds)
}

#[test]
fn a_refund_returns_the_whole_reservation() {
    let mut accounts = with(10);
    let (mut reservation, _) = reserve(&mut accounts, None, request(1, 7, 60), at(0)).unwrap();
    assert_eq!(accounts.available(), amount(3));
    void(&mut accounts, &mut reservation, at(1)).unwrap();
    assert_eq!(accounts, with(10));
}

#[test]
fn a_commit_above_the_reservation_is_refused_and_the_reservation_stays() {
    let mut accounts = with(10);
    let (mut reservation, _) = reserve(&mut accounts, None, request(1, 7, 60), at(0)).unwrap();
    let refused = post(&mut accounts, &mut reservation, amount(8), at(1));
    assert_eq!(refused, Err(Refusal::AboveReservation { most: amount(7) }));
    assert_eq!(reservation.state, State::Pending);
}

#[test]
fn an_overrun_is_charged_from_available_credits_up_to_its_cap() {
    let mut accounts = with(10);
    let (reservation, _) = reserve(&mut accounts, None, overrunning(1, 4, 5), at(0)).unwrap();
    let posted = |credits: u64| {
        let (mut accounts, mut reservation) = (accounts, reservation.clone());
        let step = post(&mut accounts, &mut reservation, amount(credits), at(1));
        (step.map(|_| accounts.balance().posted.get()), reservation.state)
    };
    for credits in [0, 3, 4, 5, 9] {
        let state = State::Posted { asked: amount(credits), charged: amount(credits) };
        assert_eq!(posted(credits), (Ok(credits), state));
    }
    assert_eq!(posted(10), (Err(Refusal::AboveReservation { most: amount(9) }), State::Pending));
}

#[test]
fn an_overrun_never_takes_more_than_there_is() {
    let mut accounts = with(10);
    let (mut reservation, _) = reserve(&mut accounts, None, overrunning(1, 4, 5), at(0)).unwrap();
    reserve(&mut accounts, None, request(2, 5, 60), at(0)).unwrap();
    post(&mut accounts, &mut reservation, amount(9), at(1)).unwrap();
    assert_eq!(reservation.state, State::Posted { asked: amount(9), charged: amount(5) });
    assert_eq!((accounts.available(), accounts.balance().pending), (Credits::ZERO, amount(5)));
    assert_eq!(post(&mut accounts, &mut reservation, amount(9), at(2)), Ok(Step::Repeated));
}

/// A tenant's 20 credits, of which a reservation of 7, that may overrun by 5, expired; and `spent` were spent since.
fn expired(spent: u64) -> (Accounts, Reservation) {
    let mut accounts = with(20);
    let (mut late, _) = reserve(&mut accounts, None, overrunning(1, 7, 5), at(0)).unwrap();
    expire(&mut accounts, &mut late, at(60)).unwrap();
    assert_eq!((accounts.available(), accounts.balance().posted), (amount(13), amount(7)));
    assert_eq!(late.state, State::Expired { asked: None, charged: amount(7) });
    if spent > 0 {
        reserve(&mut accounts, None, request(2, spent, 60), at(61)).unwrap();
    }
    (accounts, late)
}

#[test]
fn an_expired_reservation_is_charged_fully_and_a_late_settlement_corrects_it() {
    for (asked, spent, charged) in
        [(7, 0, 7), (3, 0, 3), (0, 0, 0), (9, 0, 9), (12, 0, 12), (12, 11, 9), (12, 13, 7)]
    {
        let (mut accounts, mut late) = expired(spent);
        let step = post(&mut accounts, &mut late, amount(asked), at(62));
        assert_eq!(step == Ok(Step::Changed), charged == 7, "{step:?}");
        assert_eq!(late.state, State::Expired { asked: Some(amount(asked)), charged: amount(charged) });
        let held = accounts.balance();
        assert_eq!((held.posted, held.available), (amount(charged), amount(20 - spent - charged)));
        assert_eq!(post(&mut accounts, &mut late, amount(asked), at(63)), Ok(Step::Repeated));
        let state = late.state;
        assert_eq!(post(&mut accounts, &mut late, amount(5), at(63)), Err(Refusal::Ended { state }));
        assert_eq!(accounts.balance(), held);
    }
    let (mut accounts, mut late) = expired(0);
    assert!(matches!(void(&mut accounts, &mut late, at(62)), Ok(Step::Moved(_))));
    assert_eq!(void(&mut accounts, &mut late, at(63)), Ok(Step::Repeated));
    assert_eq!(accounts, with(20));
    assert!(matches!(post(&mut accounts, &mut late, amount(5), at(64)), Err(Refusal::Ended { .. })));
}

#[test]
fn an_administrators_refund_is_neither_charged_again_nor_refunded_twice() {
    for (given_back, asked, charged) in
        [(7, 7, 0), (7, 0, 0), (7, 3, 0), (4, 7, 3), (4, 2, 2), (4, 0, 0), (4, 9, 5)]
    {
        let (mut accounts, mut late) = expired(0);
        refund_reservation(&mut accounts, &mut late, amount(given_back), at(61)).unwrap();
        let most = amount(7 - given_back);
        let more = refund_reservation(&mut accounts, &mut late, amount(8 - given_back), at(61));
        assert_eq!(more, Err(Refusal::AboveCorrectable { most }));
        post(&mut accounts, &mut late, amount(asked), at(62)).unwrap();
        assert_eq!(accounts.balance().posted, amount(charged), "{given_back} back, {asked} asked");
    }
    // Returned by a refund without a reservation or key: there is less to undo.
    let (mut accounts, mut late) = expired(0);
    correct(&mut accounts, Direction::Refund, amount(5), at(61)).unwrap();
    void(&mut accounts, &mut late, at(62)).unwrap();
    assert_eq!(accounts, with(20));
}

#[test]
fn refunds_of_an_earlier_release_keep_their_charge() {
    for (asked, charged) in [(7, 4), (3, 3), (0, 0)] {
        let mut accounts = with(10);
        let (mut late, _) = reserve(&mut accounts, None, request(1, 7, 60), at(0)).unwrap();
        void(&mut accounts, &mut late, at(60)).unwrap();
        late.state = State::Lapsed;
        reserve(&mut accounts, None, request(2, 6, 60), at(61)).unwrap();
        post(&mut accounts, &mut late, amount(asked), at(62)).unwrap();
        assert_eq!(late.state, State::Expired { asked: Some(amount(asked)), charged: amount(charged) });
        assert_eq!((accounts.available(), accounts.balance().posted), (amount(4 - charged), amount(charged)));
    }
}

#[test]
fn a_renewal_never_shortens_and_an_expiry_before_its_time_does_nothing() {
    let mut accounts = with(10);
    let (mut reservation, _) = reserve(&mut accounts, None, request(1, 7, 60), at(0)).unwrap();
    assert_eq!(renew(&mut reservation, 10, at(5)), Ok(Step::Repeated));
    assert_eq!(renew(&mut reservation, 60, at(30)), Ok(Step::Changed));
    assert_eq!(expire(&mut accounts, &mut reservation, at(89)), Ok(Step::Repeated));
    assert!(matches!(expire(&mut accounts, &mut reservation, at(90)), Ok(Step::Moved(_))));
    assert_eq!(reservation.first_expires_at(), at(60));
}

#[test]
fn a_tenant_can_not_hold_more_than_a_json_number_keeps_exact() {
    let mut accounts = with(1);
    assert_eq!(grant(&mut accounts, Credits::MAX, at(0)), Err(Refusal::GrantTooLarge));
    assert_eq!(accounts, with(1));
}

#[test]
fn unbalanced_rows_are_refused_as_accounts() {
    let balance =
        Balance { granted: amount(5), available: amount(5), pending: amount(1), posted: Credits::ZERO };
    assert_eq!(Accounts::from_rows(balance), Err(Refusal::OutOfBalance));
}
