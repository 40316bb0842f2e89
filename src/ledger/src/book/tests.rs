//! The book against an independent model, and the rules that deserve a name.
//!
//! The model knows nothing of accounts or transfers: it keeps what was granted and one line per reservation, and works
//! out the rest from scratch after every command.

#![allow(clippy::arithmetic_side_effects)]

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestCaseError, TestRunner};
use protocol::admin::Balance;
use protocol::{KeyId, PolicyVersion, ReservationId, TenantId};
use std::collections::BTreeMap;

fn amount(number: u64) -> Credits {
    Credits::new(number).unwrap()
}

fn request(id: u8, credits: u64, ttl_seconds: u32) -> Request {
    overrunning(id, credits, 0, ttl_seconds)
}

fn overrunning(id: u8, credits: u64, overrun: u64, ttl_seconds: u32) -> Request {
    Request {
        id: ReservationId::parse(&format!("r{id}")).unwrap(),
        tenant_id: TenantId::parse("ten_1").unwrap(),
        key_id: KeyId::parse("key_1").unwrap(),
        service: "studio".to_owned(),
        tool: "image_generate".to_owned(),
        credits: amount(credits),
        overrun: amount(overrun),
        ttl_seconds,
        policy_version: PolicyVersion::parse("v1").unwrap(),
    }
}

#[derive(Debug, Clone, Copy)]
enum Command {
    Grant { credits: u64 },
    Correct { direction: Direction, credits: u64 },
    Reserve { id: u8, credits: u64, overrun: u64, ttl_seconds: u32 },
    Post { id: u8, credits: u64 },
    Void { id: u8 },
    Renew { id: u8, ttl_seconds: u32 },
    Expire { id: u8 },
    Wait { seconds: u64 },
}

/// Few ids, amounts and times, so that duplicates, conflicts, reorderings and late steps are the usual case.
fn command() -> impl Strategy<Value = Command> {
    let id = 0u8..6;
    prop_oneof![
        1 => (0u64..40).prop_map(|credits| Command::Grant { credits }),
        1 => (prop_oneof![Just(Direction::Refund), Just(Direction::Withdraw)], 0u64..20)
            .prop_map(|(direction, credits)| Command::Correct { direction, credits }),
        4 => (id.clone(), 0u64..12, prop_oneof![3 => Just(0u64), 1 => 1u64..8], 1u32..4).prop_map(
            |(id, credits, overrun, ttl_seconds)| Command::Reserve { id, credits, overrun, ttl_seconds }
        ),
        4 => (id.clone(), 0u64..20).prop_map(|(id, credits)| Command::Post { id, credits }),
        2 => id.clone().prop_map(|id| Command::Void { id }),
        1 => (id.clone(), 1u32..6).prop_map(|(id, ttl_seconds)| Command::Renew { id, ttl_seconds }),
        3 => id.prop_map(|id| Command::Expire { id }),
        2 => (0u64..4).prop_map(|seconds| Command::Wait { seconds }),
    ]
}

#[derive(Debug, Default)]
struct Model {
    granted: u64,
    refunded: u64,
    lines: BTreeMap<u8, Line>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Line {
    credits: u64,
    overrun: u64,
    ttl_seconds: u32,
    ends_ms: u64,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Open,
    Charged { asked: u64, charged: u64 },
    Returned,
    Forgotten,
    ChargedLate { asked: u64, charged: u64 },
}

impl Model {
    fn pending(&self) -> u64 {
        self.lines.values().filter(|line| line.fate == Fate::Open).map(|line| line.credits).sum()
    }

    fn posted(&self) -> u64 {
        let charge = |line: &Line| match line.fate {
            Fate::Charged { charged, .. } | Fate::ChargedLate { charged, .. } => charged,
            Fate::Open | Fate::Returned | Fate::Forgotten => 0,
        };
        self.lines.values().map(charge).sum::<u64>() - self.refunded
    }

    fn available(&self) -> u64 {
        self.granted - self.pending() - self.posted()
    }

    /// True if the command is accepted, be it that it moves something or that it is known.
    fn apply(&mut self, command: Command, now_ms: u64) -> bool {
        let available = self.available();
        match command {
            Command::Wait { .. } => true,
            Command::Grant { credits } => {
                self.granted += credits;
                credits > 0
            }
            Command::Correct { direction, credits } => {
                let (most, sum) = match direction {
                    Direction::Refund => (self.posted(), &mut self.refunded),
                    Direction::Withdraw => (available, &mut self.granted),
                };
                let accepted = (1..=most).contains(&credits);
                match direction {
                    Direction::Refund if accepted => *sum += credits,
                    Direction::Withdraw if accepted => *sum -= credits,
                    Direction::Refund | Direction::Withdraw => {}
                }
                accepted
            }
            Command::Reserve { id, credits, overrun, ttl_seconds } => match self.lines.get(&id) {
                Some(line) => {
                    (line.credits, line.overrun, line.ttl_seconds) == (credits, overrun, ttl_seconds)
                }
                None if credits == 0 || credits > available => false,
                None => {
                    let ends_ms = now_ms + u64::from(ttl_seconds) * 1000;
                    let line = Line { credits, overrun, ttl_seconds, ends_ms, fate: Fate::Open };
                    self.lines.insert(id, line);
                    true
                }
            },
            Command::Post { id, credits } => {
                let fits = |line: &&mut Line| credits <= line.credits + line.overrun;
                let Some(line) = self.lines.get_mut(&id).filter(fits) else {
                    return false;
                };
                match line.fate {
                    // What was set aside is surely there, what is beyond it as far as it is available.
                    Fate::Open => {
                        let charged = credits.min(line.credits + available);
                        line.fate = Fate::Charged { asked: credits, charged };
                    }
                    Fate::Forgotten => {
                        line.fate = Fate::ChargedLate { asked: credits, charged: credits.min(available) }
                    }
                    Fate::Charged { asked, .. } | Fate::ChargedLate { asked, .. } => return asked == credits,
                    Fate::Returned => return false,
                }
                true
            }
            Command::Void { id } => match self.lines.get_mut(&id) {
                Some(line) if line.fate == Fate::Open => {
                    line.fate = Fate::Returned;
                    true
                }
                Some(line) => matches!(line.fate, Fate::Returned | Fate::Forgotten),
                None => false,
            },
            Command::Renew { id, ttl_seconds } => match self.lines.get_mut(&id) {
                Some(line) if line.fate == Fate::Open => {
                    line.ends_ms = line.ends_ms.max(now_ms + u64::from(ttl_seconds) * 1000);
                    true
                }
                _ => false,
            },
            Command::Expire { id } => match self.lines.get_mut(&id) {
                Some(line) => {
                    if line.fate == Fate::Open && line.ends_ms <= now_ms {
                        line.fate = Fate::Forgotten;
                    }
                    true
                }
                None => false,
            },
        }
    }
}

/// The book with its rows and its journal.
#[derive(Default)]
struct Subject {
    accounts: Accounts,
    reservations: BTreeMap<u8, Reservation>,
    journal: Vec<Transfer>,
}

impl Subject {
    fn apply(&mut self, command: Command, now: Timestamp) -> bool {
        let Subject { accounts, reservations, .. } = self;
        let step = match command {
            Command::Wait { .. } => Ok(Step::Repeated),
            Command::Grant { credits } => {
                grant(accounts, amount(credits), now).map(|transfer| Step::Moved(vec![transfer]))
            }
            Command::Correct { direction, credits } => {
                correct(accounts, direction, amount(credits), now).map(|transfer| Step::Moved(vec![transfer]))
            }
            Command::Reserve { id, credits, overrun, ttl_seconds } => {
                let asked = overrunning(id, credits, overrun, ttl_seconds);
                reserve(accounts, reservations.get(&id), asked, now).map(|(reservation, step)| {
                    reservations.insert(id, reservation);
                    step
                })
            }
            Command::Post { id, credits } => match reservations.get_mut(&id) {
                Some(reservation) => post(accounts, reservation, amount(credits), now),
                None => return false,
            },
            Command::Void { id } => match reservations.get_mut(&id) {
                Some(reservation) => void(accounts, reservation, now),
                None => return false,
            },
            Command::Renew { id, ttl_seconds } => match reservations.get_mut(&id) {
                Some(reservation) => renew(reservation, ttl_seconds, now),
                None => return false,
            },
            Command::Expire { id } => match reservations.get_mut(&id) {
                Some(reservation) => expire(accounts, reservation, now),
                None => return false,
            },
        };
        if let Ok(Step::Moved(transfers)) = &step {
            assert!(!transfers.is_empty());
            self.journal.extend(transfers);
        }
        step.is_ok()
    }

    /// The balance, worked out from the journal alone.
    fn journal_sums(&self) -> [i64; 4] {
        let mut sums = [0i64; 4];
        for transfer in &self.journal {
            assert!(!transfer.credits.is_zero());
            let (from, to) = transfer.kind.route();
            let credits = i64::try_from(transfer.credits.get()).unwrap();
            sums[from as usize] -= credits;
            sums[to as usize] += credits;
        }
        sums
    }
}

/// Cases of the model test, and the variable that repeats one run of it.
const CASES: u32 = 2000;
const SEED_VARIABLE: &str = "BOOK_SEED";

#[test]
fn after_every_command_the_laws_hold_and_the_model_agrees() {
    let seed = std::env::var(SEED_VARIABLE).map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    let config = ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed),
        ..ProptestConfig::default()
    };
    TestRunner::new(config)
        .run(&vec(command(), 1..60), |commands| compare(&commands))
        .unwrap_or_else(|failure| panic!("{failure}\nto repeat: {SEED_VARIABLE}={seed}"));
}

fn compare(commands: &[Command]) -> Result<(), TestCaseError> {
    let (mut model, mut subject) = (Model::default(), Subject::default());
    let mut now = Timestamp::from_millis(1_000_000);
    for (place, command) in commands.iter().enumerate() {
        if let Command::Wait { seconds } = command {
            now = now.plus_seconds(*seconds);
        }
        let (before, moved) = (subject.accounts, subject.journal.len());
        let accepted = subject.apply(*command, now);
        prop_assert_eq!(accepted, model.apply(*command, now.as_millis()), "command {}: {:?}", place, command);
        if subject.journal.len() == moved {
            prop_assert_eq!(subject.accounts, before, "moved without a transfer: {:?}", command);
        }

        let balance = subject.accounts.balance();
        let [granted, available, pending, posted] =
            [balance.granted, balance.available, balance.pending, balance.posted].map(Credits::get);
        prop_assert_eq!(granted, available + pending + posted);
        prop_assert_eq!(
            [granted, available, pending, posted],
            [model.granted, model.available(), model.pending(), model.posted()],
            "command {}: {:?}",
            place,
            command
        );
        let signed = [granted, available, pending, posted].map(|sum| i64::try_from(sum).unwrap());
        prop_assert_eq!([-signed[0], signed[1], signed[2], signed[3]], subject.journal_sums());

        // The same command again gives the same answer and moves nothing, except for what has no id here.
        if !matches!(command, Command::Grant { .. } | Command::Correct { .. }) {
            let (accounts, moved) = (subject.accounts, subject.journal.len());
            prop_assert_eq!(subject.apply(*command, now), accepted, "again {}: {:?}", place, command);
            prop_assert_eq!((subject.accounts, subject.journal.len()), (accounts, moved));
        }
    }
    Ok(())
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
fn an_overrun_takes_the_rest_from_what_is_available_up_to_its_cap() {
    let mut accounts = with(10);
    let (reservation, _) = reserve(&mut accounts, None, overrunning(1, 4, 5, 60), at(0)).unwrap();
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
    let (mut reservation, _) = reserve(&mut accounts, None, overrunning(1, 4, 5, 60), at(0)).unwrap();
    reserve(&mut accounts, None, request(2, 5, 60), at(0)).unwrap();
    post(&mut accounts, &mut reservation, amount(9), at(1)).unwrap();
    assert_eq!(reservation.state, State::Posted { asked: amount(9), charged: amount(5) });
    assert_eq!((accounts.available(), accounts.balance().pending), (Credits::ZERO, amount(5)));
    assert_eq!(post(&mut accounts, &mut reservation, amount(9), at(2)), Ok(Step::Repeated));
}

#[test]
fn a_commit_after_expiry_takes_no_more_than_there_is() {
    let mut accounts = with(10);
    let (mut late, _) = reserve(&mut accounts, None, request(1, 7, 60), at(0)).unwrap();
    expire(&mut accounts, &mut late, at(60)).unwrap();
    reserve(&mut accounts, None, request(2, 6, 60), at(61)).unwrap();
    post(&mut accounts, &mut late, amount(7), at(62)).unwrap();
    assert_eq!(late.state, State::Expired { late: Some(Late { asked: amount(7), charged: amount(4) }) });
    assert_eq!(accounts.available(), Credits::ZERO);
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
fn rows_that_do_not_add_up_are_no_accounts() {
    let balance =
        Balance { granted: amount(5), available: amount(5), pending: amount(1), posted: Credits::ZERO };
    assert_eq!(Accounts::from_rows(balance), Err(Refusal::OutOfBalance));
}
