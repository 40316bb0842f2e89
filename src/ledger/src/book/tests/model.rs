//! The expected behaviour of the book, written independently and without its code.
//!
//! It has no accounts or transfers: it keeps what each tenant was granted and one line for each reservation, and
//! calculates everything else from them.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// The most that a tenant may hold: what a JSON number keeps exact.
const MOST: u64 = (1 << 53) - 1;

/// The commands. Ids and tenants are small numbers, times are seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Grant { tenant: u8, credits: u64 },
    Refund { tenant: u8, credits: u64 },
    Withdraw { tenant: u8, credits: u64 },
    GiveBack { id: u8, credits: u64 },
    Reserve { id: u8, tenant: u8, credits: u64, overrun: u64, ttl_seconds: u32 },
    Post { id: u8, credits: u64 },
    Void { id: u8 },
    Renew { id: u8, ttl_seconds: u32 },
    Expire { id: u8 },
}

/// The expected answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Credits moved, a reservation ended, or its expiry changed.
    Done,
    /// There was nothing to do.
    Known,
    Refused(Why),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    Nothing,
    TooRich,
    TooPoor { available: u64 },
    OtherRequest,
    AboveReservation { most: u64 },
    AboveCorrectable { most: u64 },
    Ended { state: &'static str },
    Unknown,
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    granted: BTreeMap<u8, u64>,
    refunded: BTreeMap<u8, u64>,
    lines: BTreeMap<u8, Line>,
    answered: BTreeSet<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Line {
    tenant: u8,
    credits: u64,
    overrun: u64,
    ttl_seconds: u32,
    ends: u64,
    settled: Settled,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Settled {
    Open,
    Charged {
        asked: u64,
        charged: u64,
    },
    Returned,
    /// No settlement has arrived.
    Unaccounted {
        charged: u64,
    },
    ChargedLate {
        asked: u64,
        charged: u64,
    },
}

impl Settled {
    fn state(self) -> &'static str {
        match self {
            Settled::Open => "pending",
            Settled::Charged { .. } => "posted",
            Settled::Returned => "voided",
            Settled::Unaccounted { .. } | Settled::ChargedLate { .. } => "expired",
        }
    }
}

impl Model {
    fn sum(&self, tenant: u8, part: impl Fn(&Line) -> u64) -> u64 {
        self.lines.values().filter(|line| line.tenant == tenant).map(part).sum()
    }

    fn pending(&self, tenant: u8) -> u64 {
        self.sum(tenant, |line| if line.settled == Settled::Open { line.credits } else { 0 })
    }

    fn posted(&self, tenant: u8) -> u64 {
        let charged = self.sum(tenant, |line| match line.settled {
            Settled::Charged { charged, .. }
            | Settled::ChargedLate { charged, .. }
            | Settled::Unaccounted { charged } => charged,
            Settled::Open | Settled::Returned => 0,
        });
        charged - self.refunded.get(&tenant).copied().unwrap_or(0)
    }

    /// The balance of a tenant: granted, available, pending, posted.
    pub(crate) fn balance(&self, tenant: u8) -> [u64; 4] {
        let granted = self.granted.get(&tenant).copied().unwrap_or(0);
        let (pending, posted) = (self.pending(tenant), self.posted(tenant));
        [granted, granted - pending - posted, pending, posted]
    }

    /// The reservations that have expired.
    pub(crate) fn due(&self, now: u64) -> Vec<u8> {
        let is_due = |line: &Line| line.settled == Settled::Open && line.ends <= now;
        self.lines.iter().filter(|(_, line)| is_due(line)).map(|(id, _)| *id).collect()
    }

    /// Like [`Model::apply`], for a message that may be repeated: an administrator's command gets the same answer
    /// again. Steps of reservations need no such memory, because each names its reservation.
    pub(crate) fn deliver(&mut self, message: usize, command: Command, now: u64) -> Answer {
        if self.answered.contains(&message) {
            return Answer::Known;
        }
        let answer = self.apply(command, now);
        if answer == Answer::Done && !command.names_a_reservation() {
            self.answered.insert(message);
        }
        answer
    }

    /// Whether this settlement was a correction, and whether more or less than the reservation stays charged.
    pub(crate) fn settled_late(&self, command: Command) -> Option<Ordering> {
        let (Command::Post { id, .. } | Command::Void { id }) = command else { return None };
        let line = self.lines.get(&id)?;
        let Settled::ChargedLate { charged, .. } = line.settled else { return None };
        Some(charged.cmp(&line.credits))
    }

    pub(crate) fn apply(&mut self, command: Command, now: u64) -> Answer {
        match self.decide(command, now) {
            Ok(true) => Answer::Done,
            Ok(false) => Answer::Known,
            Err(why) => Answer::Refused(why),
        }
    }

    /// True if something changed.
    fn decide(&mut self, command: Command, now: u64) -> Result<bool, Why> {
        match command {
            Command::Grant { tenant, credits } => {
                let granted = self.granted.entry(tenant).or_default();
                let after = Some(*granted + credits).filter(|after| *after <= MOST).ok_or(Why::TooRich);
                *granted = at_least_one(credits).and(after)?;
                Ok(true)
            }
            Command::Refund { tenant, credits } => {
                at_most(credits, self.posted(tenant))?;
                *self.refunded.entry(tenant).or_default() += credits;
                Ok(true)
            }
            Command::Withdraw { tenant, credits } => {
                let [_, available, ..] = self.balance(tenant);
                at_most(credits, available)?;
                *self.granted.entry(tenant).or_default() -= credits;
                Ok(true)
            }
            Command::GiveBack { id, credits } => {
                let tenant = self.line(id)?.tenant;
                let posted = self.posted(tenant);
                match &mut self.line(id)?.settled {
                    Settled::Charged { charged, .. }
                    | Settled::ChargedLate { charged, .. }
                    | Settled::Unaccounted { charged } => {
                        at_most(credits, posted.min(*charged))?;
                        *charged -= credits;
                    }
                    Settled::Open | Settled::Returned => at_most(credits, 0)?,
                }
                Ok(true)
            }
            Command::Reserve { id, tenant, credits, overrun, ttl_seconds } => {
                let ends = now + u64::from(ttl_seconds);
                let asked = Line { tenant, credits, overrun, ttl_seconds, ends, settled: Settled::Open };
                if let Some(line) = self.lines.get(&id) {
                    // Its expiry and its settlement have changed since.
                    let is_same = Line { ends, settled: Settled::Open, ..*line } == asked;
                    return if is_same { Ok(false) } else { Err(Why::OtherRequest) };
                }
                let [_, available, ..] = self.balance(tenant);
                if at_least_one(credits)? > available {
                    return Err(Why::TooPoor { available });
                }
                self.lines.insert(id, asked);
                Ok(true)
            }
            Command::Post { id, credits } => {
                let Line { tenant, credits: reserved, overrun, .. } = *self.line(id)?;
                if credits > reserved + overrun {
                    return Err(Why::AboveReservation { most: reserved + overrun });
                }
                let [_, available, _, posted] = self.balance(tenant);
                let line = self.line(id)?;
                match line.settled {
                    // The reserved credits are certainly there; more only as far as available.
                    Settled::Open => {
                        let charged = credits.min(reserved + available);
                        line.settled = Settled::Charged { asked: credits, charged };
                    }
                    Settled::Unaccounted { charged } => {
                        line.settled = line.settled_late_as(credits, charged, available, posted);
                    }
                    Settled::Charged { asked, .. } | Settled::ChargedLate { asked, .. }
                        if asked == credits =>
                    {
                        return Ok(false);
                    }
                    ended => return Err(Why::Ended { state: ended.state() }),
                }
                Ok(true)
            }
            Command::Void { id } => {
                let tenant = self.line(id)?.tenant;
                let [_, available, _, posted] = self.balance(tenant);
                let line = self.line(id)?;
                match line.settled {
                    Settled::Open => line.settled = Settled::Returned,
                    Settled::Unaccounted { charged } => {
                        line.settled = line.settled_late_as(0, charged, available, posted);
                    }
                    Settled::Returned | Settled::ChargedLate { asked: 0, .. } => return Ok(false),
                    ended => return Err(Why::Ended { state: ended.state() }),
                }
                Ok(true)
            }
            Command::Renew { id, ttl_seconds } => {
                let line = self.line(id)?;
                if line.settled != Settled::Open {
                    return Err(Why::Ended { state: line.settled.state() });
                }
                let before = line.ends;
                line.ends = before.max(now + u64::from(ttl_seconds));
                Ok(line.ends != before)
            }
            Command::Expire { id } => {
                let is_due = self.due(now).contains(&id);
                let line = self.line(id)?;
                if is_due {
                    line.settled = Settled::Unaccounted { charged: line.credits };
                }
                Ok(is_due)
            }
        }
    }

    fn line(&mut self, id: u8) -> Result<&mut Line, Why> {
        self.lines.get_mut(&id).ok_or(Why::Unknown)
    }
}

impl Command {
    pub(crate) fn names_a_reservation(self) -> bool {
        use Command::{GiveBack, Grant, Refund, Withdraw};
        !matches!(self, Grant { .. } | Refund { .. } | Withdraw { .. } | GiveBack { .. })
    }
}

impl Line {
    /// The result of a late settlement: the charge is lowered to what was asked as far as credits are posted, and
    /// raised above the reservation as far as credits are available.
    fn settled_late_as(&self, asked: u64, charged: u64, available: u64, posted: u64) -> Settled {
        let charged = if asked > self.credits {
            charged + (asked - self.credits).min(available)
        } else {
            charged.min(asked).max(charged.saturating_sub(posted))
        };
        Settled::ChargedLate { asked, charged }
    }
}

fn at_least_one(credits: u64) -> Result<u64, Why> {
    if credits == 0 { Err(Why::Nothing) } else { Ok(credits) }
}

fn at_most(credits: u64, most: u64) -> Result<(), Why> {
    if at_least_one(credits)? > most { Err(Why::AboveCorrectable { most }) } else { Ok(()) }
}
