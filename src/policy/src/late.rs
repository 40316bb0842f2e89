//! Remembering calls whose result is still to come on another stream of their session.
//!
//! Before 2026-07-28 a server may end the stream of a call, or lose its client, and send the result on a later GET, which
//! may reach another worker. So what is needed to settle such a call lies in a table of shared data: a fixed number of
//! values, each a short ring in which a new call displaces the oldest. A call that is displaced or forgotten costs its
//! caller nothing if it was reserved for, because its reservation expires, and what it had paid if a lease did.
//!
//! A result may also come before the stream of its call ends. What it said lies in a table of the same shape until then.

use crate::exchange::Refund;
use crate::mcp::id;
use crate::window::Monotonic;
use protocol::filter::{Action, Settlement};
use protocol::{Credits, ReservationId, uuid};
use sha2::{Digest, Sha256};

/// How long a result may take.
pub const REMEMBERED_MS: u64 = 3_600_000;

const SLOTS: u16 = 256;
const ENTRIES_MAX: usize = 64;
const PRINT_BYTES: usize = 16;
/// The UUID of the reservation or of the lease.
const ID_BYTES: usize = 16;
/// The print, what pays, its credits, when it is forgotten, the most that the server's word can make of its cost, which
/// is 0 where that does not count, the tenant whose lease it is, and which kind of thing pays.
const ENTRY_BYTES: usize = PRINT_BYTES + ID_BYTES + 8 + 8 + 8 + 8 + 1;
const COST_AT: usize = PRINT_BYTES + ID_BYTES + 8 + 8;
const TENANT_AT: usize = COST_AT + 8;

/// What lies in shared data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Calls that wait for their results.
    Calls,
    /// Results that no call waits for yet.
    Results,
}

/// Identifies a call by its session and JSON-RPC id, however the id is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallPrint([u8; PRINT_BYTES]);

impl CallPrint {
    /// `None` if `id` can name no call.
    pub fn of(session: &[u8], id: &str) -> Option<CallPrint> {
        let mut hash = Sha256::new();
        hash.update(Sha256::digest(session));
        hash.update(id::meaning(id)?.as_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        digest.first_chunk().copied().map(CallPrint)
    }

    /// Name of the value that may hold this call in a table. The number is the layout's version.
    pub fn name(&self, table: Table) -> String {
        let [high, low, ..] = self.0;
        let table = match table {
            Table::Calls => "late",
            Table::Results => "early",
        };
        format!("agentrelay/{table}/4/{}", u16::from_le_bytes([high, low]) % SLOTS)
    }
}

/// A call whose result is still to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Late {
    /// Which call.
    pub call: CallPrint,
    /// What pays for it.
    pub source: Source,
    /// How much.
    pub credits: Credits,
    /// The most that the server's word can make of its cost; `None` where that does not count.
    pub cost_max: Option<Credits>,
    /// When the call began, or the result came.
    pub at: Monotonic,
}

/// What pays for a call whose result is still to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Credits that are set aside.
    Reservation(ReservationId),
    /// A lease, which has paid already: a call whose result is fetched when no lease is left would else be free.
    Lease {
        /// The tenant's fingerprint.
        tenant: u64,
        /// The lease.
        lease: u128,
    },
    /// Nothing: it is no call, but a result that came early.
    Nothing,
}

/// What a result means for the credits of its call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// The reservation ends so.
    Reservation(Settlement),
    /// So much of what the lease paid goes back.
    Lease(Refund),
}

/// A result that came on another stream than its call's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Result {
    /// Of which call.
    pub call: CallPrint,
    /// It succeeded.
    pub is_success: bool,
    /// What the server says it cost.
    pub cost: Option<u64>,
}

impl Result {
    /// As it lies in [`Table::Results`]: laid out as a call is, its parts in the places of that one's.
    pub fn kept(&self, now: Monotonic) -> Late {
        Late {
            call: self.call,
            source: Source::Nothing,
            credits: self.cost.and_then(Credits::new).unwrap_or(Credits::MAX),
            cost_max: self.is_success.then_some(Credits::MAX),
            at: now,
        }
    }

    /// What was kept so, if it came after the call began: before, it was of another one by the same id. So is what came
    /// in the very millisecond: a client that uses an id twice in a hurry is likelier than a result that fast.
    pub fn of_kept(kept: &Late, call: &Late) -> Option<Result> {
        let cost = Some(kept.credits).filter(|credits| *credits != Credits::MAX).map(Credits::get);
        (kept.at > call.at).then_some(Result { call: kept.call, is_success: kept.cost_max.is_some(), cost })
    }
}

impl Late {
    /// What the result means for the call's credits.
    pub fn settled_by(self, result: &Result) -> Option<Settled> {
        let charged = || charged(self.credits, self.cost_max, result.cost);
        let credits = if result.is_success { charged() } else { Credits::ZERO };
        let action = if credits.is_zero() { Action::Void } else { Action::Post { credits } };
        match self.source {
            Source::Reservation(reservation_id) => {
                Some(Settled::Reservation(Settlement { reservation_id, action }))
            }
            Source::Lease { tenant, lease } => {
                let credits = self.credits.checked_sub(credits).filter(|credits| !credits.is_zero())?;
                Some(Settled::Lease(Refund { tenant, lease, credits }))
            }
            Source::Nothing => None,
        }
    }

    /// What becomes of a call whose id is used again in its session: nobody can tell any more whose result comes, so
    /// this one is taken to have succeeded.
    pub fn settled_unseen(self) -> Option<Settled> {
        let result = Result { call: self.call, is_success: true, cost: None };
        self.settled_by(&result)
    }
}

/// What is charged for a call: what was set aside, or what the server says if its word counts, up to the most that it
/// can say.
pub fn charged(reserved: Credits, cost_max: Option<Credits>, cost: Option<u64>) -> Credits {
    match (cost_max, cost) {
        (Some(most), Some(cost)) => Credits::new(cost).map_or(most, |cost| cost.min(most)),
        _ => reserved,
    }
}

/// The value with this call in it, and the one by the same id that it is instead of.
pub fn insert(value: &[u8], late: &Late, now: Monotonic) -> (Vec<u8>, Option<Late>) {
    let (id, tenant, kind) = match &late.source {
        Source::Reservation(id) => match uuid::parse(id.as_str()) {
            Some(id) => (id, 0, 0),
            None => return (value.to_vec(), None),
        },
        Source::Lease { tenant, lease } => (*lease, *tenant, 1),
        Source::Nothing => (0, 0, 2),
    };
    let mut next = Vec::with_capacity(ENTRIES_MAX.saturating_mul(ENTRY_BYTES));
    next.extend_from_slice(&late.call.0);
    next.extend_from_slice(&id.to_le_bytes());
    next.extend_from_slice(&late.credits.get().to_le_bytes());
    next.extend_from_slice(&now.0.saturating_add(REMEMBERED_MS).to_le_bytes());
    next.extend_from_slice(&late.cost_max.unwrap_or_default().get().to_le_bytes());
    next.extend_from_slice(&tenant.to_le_bytes());
    next.push(kind);
    let others = entries(value, now).filter(|(call, _)| *call != late.call);
    others.take(ENTRIES_MAX.saturating_sub(1)).for_each(|(_, entry)| next.extend_from_slice(entry));
    (next, take(value, late.call, now).map(|(replaced, _)| replaced))
}

/// The call, if the value has it, and the value without it.
pub fn take(value: &[u8], call: CallPrint, now: Monotonic) -> Option<(Late, Vec<u8>)> {
    let entry = entries(value, now).find(|(own, _)| *own == call).map(|(_, entry)| entry)?;
    let late = parse(entry)?;
    let others = entries(value, now).filter(|(own, _)| *own != call);
    Some((late, others.flat_map(|(_, entry)| entry.iter().copied()).collect()))
}

fn entries(value: &[u8], now: Monotonic) -> impl Iterator<Item = (CallPrint, &[u8; ENTRY_BYTES])> {
    value.as_chunks::<ENTRY_BYTES>().0.iter().filter_map(move |entry| {
        let is_live = number(entry, PRINT_BYTES + ID_BYTES + 8)? > now.0;
        is_live.then_some((CallPrint(*entry.first_chunk()?), entry))
    })
}

fn parse(entry: &[u8; ENTRY_BYTES]) -> Option<Late> {
    let id = u128::from_le_bytes(*entry.get(PRINT_BYTES..)?.first_chunk::<ID_BYTES>()?);
    Some(Late {
        call: CallPrint(*entry.first_chunk()?),
        source: match entry.last()? {
            0 => Source::Reservation(ReservationId::of_uuid(id)),
            1 => Source::Lease { tenant: number(entry, TENANT_AT)?, lease: id },
            _ => Source::Nothing,
        },
        credits: Credits::new(number(entry, PRINT_BYTES + ID_BYTES)?)?,
        cost_max: Credits::new(number(entry, COST_AT)?).filter(|most| !most.is_zero()),
        at: Monotonic(number(entry, PRINT_BYTES + ID_BYTES + 8)?.saturating_sub(REMEMBERED_MS)),
    })
}

fn number(entry: &[u8; ENTRY_BYTES], at: usize) -> Option<u64> {
    entry.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]
    use super::*;

    const NOW: Monotonic = Monotonic(5);

    fn reservation_id() -> ReservationId {
        ReservationId::parse("01890a5d-ac96-774b-bcce-b302099a8057").unwrap()
    }

    fn late(session: &str, id: &str) -> Late {
        Late {
            call: CallPrint::of(session.as_bytes(), id).unwrap(),
            source: Source::Reservation(reservation_id()),
            credits: Credits::new(5).unwrap(),
            cost_max: Credits::new(7),
            at: NOW,
        }
    }

    fn inserted(value: &[u8], late: &Late) -> Vec<u8> {
        insert(value, late, NOW).0
    }

    #[test]
    fn a_call_is_taken_once_and_by_its_own_session_and_id() {
        let call = late("s", "\"a\"");
        let value = inserted(&inserted(&[], &call), &late("s", "1"));
        let escaped = CallPrint::of(b"s", r#""\u0061""#).unwrap();
        for other in [late("t", "\"a\""), late("s", "\"1\""), late("s", "a")] {
            assert_eq!(take(&value, other.call, NOW), None);
        }
        assert_eq!(take(&value, escaped, Monotonic(5 + REMEMBERED_MS)), None);
        let (taken, rest) = take(&value, escaped, NOW).unwrap();
        assert_eq!(taken, call);
        assert_eq!(take(&rest, escaped, NOW), None);
        assert!(take(&rest, late("s", "1").call, NOW).is_some());
        assert_eq!(take(b"other bytes", escaped, NOW), None);
    }

    #[test]
    fn a_result_that_came_early_counts_for_the_call_that_ran_then() {
        for (cost, kept_cost) in [(None, None), (Some(3), Some(3)), (Some(u64::MAX), None)] {
            let early = Result { call: late("s", "1").call, is_success: true, cost };
            let value = inserted(&[], &early.kept(NOW));
            let (kept, _) = take(&value, early.call, NOW).unwrap();
            let call = |at| Late { at: Monotonic(at), ..late("s", "1") };
            assert_eq!(Result::of_kept(&kept, &call(4)), Some(Result { cost: kept_cost, ..early }));
            assert_eq!(Result::of_kept(&kept, &call(5)), None);
            assert_eq!(Result::of_kept(&kept, &call(6)), None);
        }
        assert_ne!(late("s", "1").call.name(Table::Calls), late("s", "1").call.name(Table::Results));
    }

    #[test]
    fn many_calls_displace_the_oldest_and_grow_nothing() {
        let mut value = Vec::new();
        for id in 0..500 {
            value = inserted(&value, &late("s", &id.to_string()));
        }
        assert_eq!(value.len(), ENTRIES_MAX * ENTRY_BYTES);
        assert!(take(&value, late("s", "499").call, NOW).is_some());
        assert!(take(&value, late("s", "1").call, NOW).is_none());
    }

    #[test]
    fn no_more_than_the_reservation_and_its_overrun_is_charged() {
        let reserved = Credits::new(5).unwrap();
        for (cost_max, cost, credits) in [
            (5, None, 5),
            (5, Some(3), 3),
            (5, Some(0), 0),
            (5, Some(6), 5),
            (5, Some(u64::MAX), 5),
            (8, None, 5),
            (8, Some(7), 7),
            (8, Some(9), 8),
            (8, Some(u64::MAX), 8),
        ] {
            assert_eq!(charged(reserved, Credits::new(cost_max), cost).get(), credits, "{cost:?}");
            assert_eq!(charged(reserved, None, cost), reserved);
        }
        let result = |is_success| Result { call: late("s", "1").call, is_success, cost: Some(6) };
        let trusting = late("s", "1");
        let doubting = Late { cost_max: None, ..trusting.clone() };
        let settled =
            |action| Some(Settled::Reservation(Settlement { reservation_id: reservation_id(), action }));
        let post = |credits| settled(Action::Post { credits: Credits::new(credits).unwrap() });
        assert_eq!(trusting.clone().settled_by(&result(true)), post(6));
        assert_eq!(doubting.settled_by(&result(true)), post(5));
        assert_eq!(trusting.settled_by(&result(false)), settled(Action::Void));
    }

    #[test]
    fn a_leased_call_has_paid_and_its_result_says_what_goes_back() {
        let (tenant, lease) = (u64::MAX, u128::MAX);
        let leased = Late { source: Source::Lease { tenant, lease }, ..late("s", "1") };
        let (taken, _) = take(&inserted(&[], &leased), leased.call, NOW).unwrap();
        assert_eq!(taken, leased);
        let result = |is_success| Result { call: leased.call, is_success, cost: Some(2) };
        let back =
            |credits| Some(Settled::Lease(Refund { tenant, lease, credits: Credits::new(credits).unwrap() }));
        assert_eq!(taken.clone().settled_by(&result(true)), back(3));
        assert_eq!(Late { cost_max: None, ..taken.clone() }.settled_by(&result(true)), None);
        assert_eq!(taken.clone().settled_by(&result(false)), back(5));
        assert_eq!(taken.settled_unseen(), None);
    }

    #[test]
    fn a_call_whose_id_is_used_again_is_charged() {
        let action = Action::Post { credits: Credits::new(5).unwrap() };
        let settlement = Settlement { reservation_id: reservation_id(), action };
        let value = inserted(&inserted(&[], &late("s", "1")), &late("s", "2"));
        let (value, replaced) = insert(&value, &late("s", "1"), NOW);
        assert_eq!(value.len(), 2 * ENTRY_BYTES);
        assert_eq!(replaced.unwrap().settled_unseen(), Some(Settled::Reservation(settlement)));
    }
}
