//! Leases compared with an independent model, with statements that arrive late, twice, in another order or never.
//!
//! Envoys are simulated: each spends from its leases, and sometimes writes a statement, which the network delivers in
//! any way. The model has no accounts or transfers: it keeps one line per lease and calculates the balance from them.

#![allow(clippy::arithmetic_side_effects)]

use super::*;
use crate::book::{Transfer, correct, grant};
use crate::fixture::seeded;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use protocol::admin::Direction;
use std::collections::BTreeMap;

fn amount(number: u64) -> Credits {
    Credits::new(number).unwrap()
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(0).plus_seconds(seconds)
}

/// Seconds that a lease lasts.
const TTL: u64 = 5;

fn lease(id: u8, granted: u64, now: Timestamp) -> Lease {
    Lease {
        id: LeaseId::from_bits(id.into()),
        tenant_id: TenantId::parse("ten_1").unwrap(),
        instance: InstanceId::from_bits(1),
        envoy: "e1".to_owned(),
        granted: amount(granted),
        spent: Credits::ZERO,
        revision: None,
        state: LeaseState::Open,
        opened_at: now,
        renewed_at: now,
        expires_at: now.plus_seconds(TTL),
        recalled_at: None,
    }
}

fn account_of(lease: &Lease, revision: u64, spent: u64, closed: bool) -> Statement {
    Statement { lease_id: lease.id, revision, spent: amount(spent), closed }
}

#[derive(Debug, Clone, Copy)]
enum Command {
    Grant {
        credits: u64,
    },
    Withdraw {
        credits: u64,
    },
    Open {
        id: u8,
        credits: u64,
    },
    /// The Envoy spends, if it may.
    Spend {
        id: u8,
        credits: u64,
    },
    /// Calls failed and are refunded.
    Fail {
        id: u8,
        credits: u64,
    },
    Close {
        id: u8,
    },
    /// The Envoy writes a statement.
    Write {
        id: u8,
    },
    /// One of the statements written so far arrives.
    Deliver {
        pick: usize,
    },
    /// A statement arrives that no correct Envoy writes.
    Forge {
        id: u8,
        revision: u64,
        spent: u64,
        closed: bool,
    },
    ExpireLeases {
        id: u8,
    },
    Wait {
        seconds: u64,
    },
}

fn command() -> impl Strategy<Value = Command> {
    let id = 0u8..4;
    prop_oneof![
        1 => (0u64..60).prop_map(|credits| Command::Grant { credits }),
        1 => (0u64..20).prop_map(|credits| Command::Withdraw { credits }),
        3 => (id.clone(), 0u64..20).prop_map(|(id, credits)| Command::Open { id, credits }),
        5 => (id.clone(), 1u64..8).prop_map(|(id, credits)| Command::Spend { id, credits }),
        2 => (id.clone(), 1u64..4).prop_map(|(id, credits)| Command::Fail { id, credits }),
        1 => id.clone().prop_map(|id| Command::Close { id }),
        6 => id.clone().prop_map(|id| Command::Write { id }),
        8 => any::<usize>().prop_map(|pick| Command::Deliver { pick }),
        1 => (id.clone(), 0u64..12, 0u64..24, any::<bool>())
            .prop_map(|(id, revision, spent, closed)| Command::Forge { id, revision, spent, closed }),
        2 => id.prop_map(|id| Command::ExpireLeases { id }),
        2 => (0u64..4).prop_map(|seconds| Command::Wait { seconds }),
    ]
}

/// What one Envoy really did with one lease.
#[derive(Debug, Default, Clone, Copy)]
struct HeldLease {
    granted: u64,
    spent: u64,
    closed: bool,
    revision: u64,
}

/// One line of the model.
#[derive(Debug, Clone, Copy)]
struct Line {
    granted: u64,
    newest: Option<(u64, u64)>,
    ends_ms: u64,
    closed: bool,
    lost: bool,
}

impl Line {
    fn spent(&self) -> u64 {
        self.newest.map_or(0, |(_, spent)| spent)
    }

    fn posted(&self) -> u64 {
        if self.lost && !self.closed { self.granted } else { self.spent() }
    }

    fn pending(&self) -> u64 {
        if self.lost || self.closed { 0 } else { self.granted - self.spent() }
    }

    fn deliver(&mut self, account: &Statement, now_ms: u64) -> bool {
        let (revision, spent) = (account.revision, account.spent.get());
        let is_news = self.newest.is_none_or(|(known, _)| revision > known);
        if spent > self.granted || (is_news && self.closed && spent > self.spent()) {
            return false;
        }
        let is_open = !self.closed && !self.lost;
        if is_open && self.newest.is_none_or(|(known, _)| revision >= known) && !(is_news && account.closed) {
            self.ends_ms = self.ends_ms.max(now_ms + TTL * 1000);
        }
        if is_news {
            self.newest = Some((revision, spent));
            self.closed |= account.closed;
        }
        true
    }
}

#[derive(Default)]
struct World {
    accounts: Accounts,
    journal: Vec<Transfer>,
    leases: BTreeMap<u8, Lease>,
    held: BTreeMap<u8, HeldLease>,
    network: Vec<(u8, Statement)>,
    model: BTreeMap<u8, Line>,
    granted: u64,
    forged: bool,
}

impl World {
    fn available(&self) -> u64 {
        let held = |line: &Line| line.posted() + line.pending();
        self.granted - self.model.values().map(held).sum::<u64>()
    }

    fn keep(&mut self, step: Result<Step, Refusal>) -> bool {
        match step {
            Ok(Step::Moved(transfers)) => {
                assert!(!transfers.is_empty());
                self.journal.extend(transfers);
                true
            }
            other => other.is_ok(),
        }
    }

    /// True if ledger and model accept; they must agree.
    fn apply(&mut self, command: Command, now: Timestamp) -> Result<(), TestCaseError> {
        let available = self.available();
        match command {
            Command::Wait { .. } => {}
            Command::Grant { credits } => {
                if let Ok(transfer) = grant(&mut self.accounts, amount(credits), now) {
                    self.journal.push(transfer);
                    self.granted += credits;
                }
            }
            Command::Withdraw { credits } => {
                let done = correct(&mut self.accounts, Direction::Withdraw, amount(credits), now);
                prop_assert_eq!(done.is_ok(), (1..=available).contains(&credits));
                if let Ok(transfer) = done {
                    self.journal.push(transfer);
                    self.granted -= credits;
                }
            }
            Command::Open { id, credits } => {
                if self.leases.contains_key(&id) {
                    return Ok(());
                }
                let lease = lease(id, credits, now);
                let step = open(&mut self.accounts, &lease, now);
                let opened = self.keep(step);
                prop_assert_eq!(opened, (1..=available).contains(&credits));
                if opened {
                    self.leases.insert(id, lease);
                    self.held.insert(id, HeldLease { granted: credits, ..HeldLease::default() });
                    let ends_ms = now.as_millis() + TTL * 1000;
                    let line = Line { granted: credits, newest: None, ends_ms, closed: false, lost: false };
                    self.model.insert(id, line);
                }
            }
            Command::Spend { id, credits } => {
                if let Some(lease) = self.held.get_mut(&id).filter(|lease| !lease.closed) {
                    lease.spent = (lease.spent + credits).min(lease.granted);
                }
            }
            Command::Fail { id, credits } => {
                if let Some(lease) = self.held.get_mut(&id) {
                    lease.spent = lease.spent.saturating_sub(credits);
                }
            }
            Command::Close { id } => {
                if let Some(lease) = self.held.get_mut(&id) {
                    lease.closed = true;
                }
            }
            Command::Write { id } => self.write(id),
            Command::Deliver { pick } => {
                if let Some((id, account)) = self.network.get(pick % self.network.len().max(1)).cloned() {
                    self.deliver(id, &account, now)?;
                }
            }
            Command::Forge { id, revision, spent, closed } => {
                if let Some(lease) = self.leases.get(&id) {
                    self.forged = true;
                    let account = account_of(lease, revision, spent, closed);
                    self.deliver(id, &account, now)?;
                }
            }
            Command::ExpireLeases { id } => {
                let Some(lease) = self.leases.get_mut(&id) else { return Ok(()) };
                let step = lose(&mut self.accounts, lease, now);
                prop_assert!(self.keep(step));
                if let Some(line) = self.model.get_mut(&id) {
                    line.lost |= !line.closed && line.ends_ms <= now.as_millis();
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, id: u8) {
        let (Some(held), Some(lease)) = (self.held.get_mut(&id), self.leases.get(&id)) else { return };
        held.revision += 1;
        self.network.push((id, account_of(lease, held.revision, held.spent, held.closed)));
    }

    fn deliver(&mut self, id: u8, sent: &Statement, now: Timestamp) -> Result<(), TestCaseError> {
        let expected = self.model.get_mut(&id).unwrap().deliver(sent, now.as_millis());
        let until = now.plus_seconds(TTL);
        let step = apply_statement(&mut self.accounts, self.leases.get_mut(&id).unwrap(), sent, until, now);
        prop_assert_eq!(self.keep(step), expected, "{:?}", sent);
        // The same statement again moves nothing.
        let (before, moved) = (self.accounts, self.journal.len());
        let again = apply_statement(&mut self.accounts, self.leases.get_mut(&id).unwrap(), sent, until, now);
        prop_assert_eq!(self.keep(again), expected, "again {:?}", sent);
        prop_assert_eq!((self.accounts, self.journal.len()), (before, moved));
        Ok(())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let balance = self.accounts.balance();
        let [granted, available, pending, posted] =
            [balance.granted, balance.available, balance.pending, balance.posted].map(Credits::get);
        prop_assert_eq!(granted, available + pending + posted);
        let sum = |of: fn(&Line) -> u64| self.model.values().map(of).sum::<u64>();
        let expected = [self.granted, self.available(), sum(Line::pending), sum(Line::posted)];
        prop_assert_eq!([granted, available, pending, posted], expected);
        let mut sums = [0i64; 4];
        for transfer in &self.journal {
            let (from, to) = transfer.kind.route();
            let credits = i64::try_from(transfer.credits.get()).unwrap();
            sums[from as usize] -= credits;
            sums[to as usize] += credits;
        }
        let signed = [granted, available, pending, posted].map(|sum| i64::try_from(sum).unwrap());
        prop_assert_eq!([-signed[0], signed[1], signed[2], signed[3]], sums);
        for (id, lease) in self.held.iter().filter(|_| !self.forged) {
            let line = &self.model[id];
            prop_assert!(
                lease.spent <= line.posted() + line.pending(),
                "what lease {} really spent is not covered: {:?} {:?}",
                id,
                lease,
                line
            );
        }
        Ok(())
    }
}

#[test]
fn statements_in_any_order_charge_exactly_what_was_spent() {
    seeded("LEASE_SEED", 1000, &vec(command(), 1..80), |commands| live(&commands));
}

fn live(commands: &[Command]) -> Result<(), TestCaseError> {
    let mut world = World::default();
    let mut now = at(1000);
    world.apply(Command::Grant { credits: 50 }, now)?;
    for command in commands {
        if let Command::Wait { seconds } = command {
            now = now.plus_seconds(*seconds);
        }
        world.apply(*command, now)?;
        world.check()?;
    }
    if world.forged {
        return Ok(());
    }
    // Every Envoy closes in the end, and its last account arrives, if only by a retry.
    for id in world.held.keys().copied().collect::<Vec<_>>() {
        world.apply(Command::Close { id }, now)?;
        world.write(id);
        let (_, last) = world.network.last().cloned().unwrap();
        world.deliver(id, &last, now)?;
        world.check()?;
    }
    let spent = world.held.values().map(|lease| lease.spent).sum::<u64>();
    let balance = world.accounts.balance();
    prop_assert_eq!([balance.pending.get(), balance.posted.get()], [0, spent]);
    Ok(())
}

fn with(credits: u64) -> Accounts {
    let mut accounts = Accounts::default();
    grant(&mut accounts, amount(credits), at(0)).unwrap();
    accounts
}

fn numbers(accounts: &Accounts) -> [u64; 3] {
    let balance = accounts.balance();
    [balance.available, balance.pending, balance.posted].map(Credits::get)
}

#[test]
fn a_lost_lease_is_charged_fully_and_corrected_only_by_its_final_statement() {
    let mut accounts = with(100);
    let mut lost = lease(1, 40, at(0));
    open(&mut accounts, &lost, at(0)).unwrap();
    let first = account_of(&lost, 1, 10, false);
    apply_statement(&mut accounts, &mut lost, &first, at(6), at(1)).unwrap();
    assert_eq!(lose(&mut accounts, &mut lost, at(5)), Ok(Step::Repeated));
    lose(&mut accounts, &mut lost, at(6)).unwrap();
    assert_eq!((numbers(&accounts), lost.lost()), ([60, 0, 40], amount(30)));
    // It may be older than what was spent after it.
    let late = account_of(&lost, 2, 15, false);
    assert_eq!(apply_statement(&mut accounts, &mut lost, &late, at(12), at(7)), Ok(Step::Changed));
    assert_eq!((numbers(&accounts), lost.lost()), ([60, 0, 40], amount(25)));
    let last = account_of(&lost, 3, 25, true);
    apply_statement(&mut accounts, &mut lost, &last, at(13), at(8)).unwrap();
    assert_eq!((numbers(&accounts), lost.lost(), lost.state), ([75, 0, 25], amount(0), LeaseState::Closed));
}

#[test]
fn more_than_a_lease_held_or_spent_after_its_end_is_refused() {
    let mut accounts = with(100);
    let mut closed = lease(1, 40, at(0));
    open(&mut accounts, &closed, at(0)).unwrap();
    let above = account_of(&closed, 1, 41, false);
    let refused = apply_statement(&mut accounts, &mut closed, &above, at(6), at(1));
    assert_eq!(refused, Err(Refusal::AboveLease { granted: amount(40) }));
    let last = account_of(&closed, 1, 30, true);
    apply_statement(&mut accounts, &mut closed, &last, at(6), at(1)).unwrap();
    let more = account_of(&closed, 2, 31, true);
    assert_eq!(apply_statement(&mut accounts, &mut closed, &more, at(6), at(1)), Err(Refusal::LeaseEnded));
    assert_eq!(numbers(&accounts), [70, 0, 30]);
}

#[test]
fn a_manual_refund_is_not_refunded_again() {
    for closes in [false, true] {
        let mut accounts = with(100);
        let mut lease = lease(1, 40, at(0));
        open(&mut accounts, &lease, at(0)).unwrap();
        let spent = account_of(&lease, 1, 30, false);
        apply_statement(&mut accounts, &mut lease, &spent, at(6), at(1)).unwrap();
        correct(&mut accounts, Direction::Refund, amount(25), at(1)).unwrap();
        // 20 of the 30 were not spent, but only 5 are still charged.
        let less = account_of(&lease, 2, 10, closes);
        apply_statement(&mut accounts, &mut lease, &less, at(6), at(2)).unwrap();
        assert_eq!(accounts.balance().posted, Credits::ZERO);
        assert_eq!(lease.spent, amount(25));
        assert_eq!(numbers(&accounts), if closes { [100, 0, 0] } else { [85, 15, 0] });
    }
}
