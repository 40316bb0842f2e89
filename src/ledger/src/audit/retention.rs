//! Removes rows of the audit trail by age, and refuses if the clock is in doubt.
//!
//! A fast clock makes all rows look old. So each pass compares the clock with stored state: the clock of the last pass, and
//! the day before which it removed rows.

use crate::model::checkpoint::OldBatches;
use crate::model::event::Event;
use crate::model::retention::RetentionState;
use crate::transaction::{Needs, Operation, Refusal, Rows};
use protocol::Timestamp;

const DAY_MILLIS: u64 = 86_400_000;
/// Most difference between the clocks of ledger and database.
const CLOCKS_APART_MILLIS: u64 = 300_000;
/// A ledger may have been stopped for this many days, or for a quarter of the retention period if that is less.
const STOP_DAYS_MAX: u64 = 7;

/// One pass of retention.
#[derive(Debug, Clone, Copy)]
pub struct Pass {
    /// The retention period; `None` retains everything.
    pub days: Option<u32>,
    /// The ledger's clock.
    pub now: Timestamp,
    /// The database server's clock, if there is one.
    pub database: Option<Timestamp>,
    /// How long this process ran since its last pass, by a monotonic clock.
    pub ran_millis: u64,
    /// The operator confirmed that today is this day.
    pub confirmed: Option<Timestamp>,
}

/// Why a pass removes nothing although rows look old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Held {
    /// The clocks of ledger and database differ.
    #[error("the clock of the database says {0}")]
    ClocksApart(Timestamp),
    /// The clock advanced more than this process can have run or been stopped.
    #[error("the ledger last ran at {0}")]
    ClockAhead(Timestamp),
    /// It would remove far more days than have passed since the last pass.
    #[error("the last pass removed rows sealed before {0}, and this one would remove far more")]
    FarMore(Timestamp),
}

impl Pass {
    /// Rows sealed before this are no longer retained.
    pub fn before(&self) -> Option<Timestamp> {
        let today = self.now.as_millis() / DAY_MILLIS;
        let day = today.saturating_sub(self.days?.into());
        Some(Timestamp::from_millis(day.saturating_mul(DAY_MILLIS)))
    }

    /// The state after the pass, or why it must not run. `removes`: there are rows to remove.
    fn check(&self, known: RetentionState, removes: bool) -> Result<RetentionState, Held> {
        let Pass { now, .. } = *self;
        let clock = known.clock.or(known.newest_row).unwrap_or(now);
        let (Some(before), true) = (self.before(), removes) else {
            return Ok(RetentionState { clock: Some(clock.max(now)), ..known });
        };
        if let Some(database) = self.database
            && now.millis_since(database).max(database.millis_since(now)) > CLOCKS_APART_MILLIS
        {
            return Err(Held::ClocksApart(database));
        }
        if !self.is_confirmed() {
            let days = (u64::from(self.days.unwrap_or_default()) / 4).clamp(1, STOP_DAYS_MAX);
            let slack = days.saturating_mul(DAY_MILLIS);
            let passed = now.millis_since(clock);
            if passed > self.ran_millis.saturating_add(slack) {
                return Err(Held::ClockAhead(clock));
            }
            let share = passed.saturating_add(slack).saturating_add(DAY_MILLIS);
            match known.removed_before {
                Some(last) if before.millis_since(last) > share => return Err(Held::FarMore(last)),
                _ => {}
            }
        }
        Ok(RetentionState { clock: Some(clock.max(now)), removed_before: Some(before), ..known })
    }

    /// Whether the confirmed day is today, in any time zone.
    fn is_confirmed(&self) -> bool {
        let is_near = |day: Timestamp| {
            self.now.millis_since(day) < DAY_MILLIS.saturating_mul(2)
                && day.millis_since(self.now) < DAY_MILLIS
        };
        self.confirmed.is_some_and(is_near)
    }
}

/// Stores the time of the newest row as the clock, if none is stored. Must run before a starting ledger writes anything.
#[derive(Clone)]
pub struct RememberClock {
    pub now: Timestamp,
}

impl Operation for RememberClock {
    type Answer = ();

    fn needs(&self, needs: &mut Needs) {
        needs.retention = true;
    }

    fn apply(self, rows: &mut Rows) -> Result<(), Refusal> {
        if rows.retention.clock.is_none() {
            rows.retention.clock = rows.retention.newest_row.or(Some(self.now));
            rows.retention_changed = true;
        }
        Ok(())
    }
}

/// Checks a pass against the stored state, and updates the state.
#[derive(Clone)]
pub struct Begin {
    pub pass: Pass,
    /// There are rows to remove.
    pub removes: bool,
}

impl Operation for Begin {
    type Answer = Result<(), Held>;

    fn needs(&self, needs: &mut Needs) {
        needs.retention = true;
    }

    fn apply(self, rows: &mut Rows) -> Result<Result<(), Held>, Refusal> {
        Ok(self.pass.check(rows.retention, self.removes).map(|after| {
            rows.retention = after;
            rows.retention_changed = true;
        }))
    }
}

/// Removes the rows of batches. Their checkpoints stay.
#[derive(Clone)]
pub struct Remove {
    pub batches: OldBatches,
    /// The event that records the removal.
    pub event: Event,
}

impl Operation for Remove {
    type Answer = ();

    fn needs(&self, _: &mut Needs) {}

    fn apply(self, rows: &mut Rows) -> Result<(), Refusal> {
        rows.forget_audit = Some(self.batches);
        rows.record(self.event);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_DAY: u64 = 20_000;

    fn day(day: u64) -> Timestamp {
        Timestamp::from_millis(DAY_MILLIS.saturating_mul(day))
    }

    fn pass(days: u32, now: u64) -> Pass {
        Pass { days: Some(days), now: day(now), database: None, ran_millis: 600_000, confirmed: None }
    }

    fn known(clock: u64, removed_before: Option<u64>) -> RetentionState {
        let removed_before = removed_before.map(day);
        RetentionState { clock: Some(day(clock)), removed_before, newest_row: Some(day(clock)) }
    }

    #[test]
    fn a_retention_pass_removes_old_rows_only() {
        let (now, ahead) = (NOW_DAY, NOW_DAY + 400);
        let begun = |pass: Pass, known| pass.check(known, true).map(|after| after.removed_before);
        // Each day a day's rows, the first pass all that is old, and after a weekend three days'.
        for (known, days) in [
            (known(now, Some(now - 30)), 30),
            (known(now, Some(now - 31)), 30),
            (known(now, None), 30),
            (known(now - 3, Some(now - 33)), 30),
            (known(now, Some(now - 30)), 31),
        ] {
            assert_eq!(begun(pass(days, now), known), Ok(Some(day(now - u64::from(days)))), "{known:?}");
        }
        // A clock that is ahead, also for the first pass, and when what is retained is little.
        for known in [known(now, Some(now - 30)), known(now, None)] {
            assert_eq!(begun(pass(30, ahead), known), Err(Held::ClockAhead(day(now))));
            assert_eq!(begun(pass(3, now + 2), known), Err(Held::ClockAhead(day(now))));
        }
        let never_anchored = RetentionState { clock: None, ..known(now, None) };
        assert_eq!(begun(pass(30, ahead), never_anchored), Err(Held::ClockAhead(day(now))));
        // Another number of days.
        assert_eq!(begun(pass(3, now), known(now, Some(now - 365))), Err(Held::FarMore(day(now - 365))));
        // A process that ran through all that time.
        let ran = Pass { ran_millis: 400 * DAY_MILLIS, ..pass(30, ahead) };
        assert_eq!(begun(ran, known(now, Some(now - 30))), Ok(Some(day(ahead - 30))));
    }

    #[test]
    fn the_databases_clock_decides_or_else_the_operator() {
        let known = known(NOW_DAY, Some(NOW_DAY - 30));
        let ahead = NOW_DAY + 60;
        for (named, is_held) in
            [(ahead, false), (ahead - 1, false), (ahead + 1, true), (ahead - 2, true), (NOW_DAY, true)]
        {
            let confirmed = Pass { confirmed: Some(day(named)), ..pass(30, ahead) };
            assert_eq!(confirmed.check(known, true).is_err(), is_held, "{named}");
            let apart = Pass { database: Some(day(NOW_DAY)), ..confirmed };
            assert_eq!(apart.check(known, true), Err(Held::ClocksApart(day(NOW_DAY))));
            let agreed = Pass { database: Some(day(ahead)), ..confirmed };
            assert_eq!(agreed.check(known, true).is_err(), is_held, "{named}");
        }
    }

    #[test]
    fn without_old_rows_the_clock_is_trusted_and_never_goes_back() {
        let after = pass(30, NOW_DAY + 60).check(known(NOW_DAY, None), false).unwrap();
        assert_eq!((after.clock, after.removed_before), (Some(day(NOW_DAY + 60)), None));
        let after = pass(30, NOW_DAY - 60).check(known(NOW_DAY, None), true).unwrap();
        assert_eq!(after.clock, Some(day(NOW_DAY)));
    }
}
