//! What the windows say: who is refused for the rate, and when the ledger is asked for more of a global limit.

use super::charge::Charge;
use super::refusal::Refusal;
use super::{Exchange, Phase, Step, Subject, quota};
use crate::window::Verdict;
use crate::window::slot::Stage;
use protocol::audit::Outcome;

/// What the ledger said of the shares that were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharesAnswered {
    /// They may have grown.
    Changed,
    /// There is nothing more to have.
    Nothing,
    /// No answer, or none that makes sense.
    Unavailable,
}

/// How often one request asks for more of a global limit. Workers of one Envoy ask at the same time, and only the answer
/// to the last of them counts, so one round may not be enough.
pub(super) const SHARE_ROUNDS: u8 = 3;

impl Exchange {
    /// The windows have answered, in the order of the asks.
    pub fn windows_asked(&mut self, verdicts: &[Verdict]) -> Step {
        if let Some(step) = self.in_batch(|element| element.windows_asked(verdicts)) {
            return step;
        }
        let phase = std::mem::replace(&mut self.phase, Phase::Reserving);
        let Phase::AskingWindows { asks, refusal, is_opening, rounds } = phase else {
            return self.refuse(Refusal::ledger_unavailable());
        };
        let refusing =
            || asks.iter().zip(verdicts).filter(|(ask, verdict)| ask.enforced && !verdict.admitted);
        if rounds > 0 && refusing().next().is_some() && refusing().all(|(_, verdict)| verdict.is_short) {
            let rules = refusing().map(|(ask, _)| ask.rule.clone()).collect();
            self.phase = Phase::AskingWindows { asks, refusal, is_opening, rounds: rounds.saturating_sub(1) };
            return Step::AskShares { rules };
        }
        self.quotas = quota::quotas(&asks, verdicts);
        let refused = |stage: Stage| {
            asks.iter()
                .zip(verdicts)
                .any(|(ask, verdict)| ask.stage == stage && ask.enforced && !verdict.admitted)
        };
        // Coming back helps only when every window has room, the tool's included.
        let wait_ms = asks
            .iter()
            .zip(verdicts)
            .filter(|(ask, verdict)| {
                !ask.rule.shadow && (!verdict.admitted || (refused(Stage::Key) && verdict.remaining == 0))
            })
            .map(|(_, verdict)| verdict.reset_ms)
            .max()
            .unwrap_or(0);
        let would_refuse = asks
            .iter()
            .zip(verdicts)
            .any(|(ask, verdict)| ask.rule.shadow && !ask.enforced && !verdict.admitted);
        if would_refuse && !is_opening {
            self.would_deny.get_or_insert(Outcome::RateLimited);
        }
        if refused(Stage::Key) {
            return self.refuse(Refusal::rate_limited("key", wait_ms));
        }
        if let Some(refusal) = refusal {
            return self.refuse(refusal);
        }
        if refused(Stage::Tool) {
            return self.refuse(Refusal::rate_limited("tool", wait_ms));
        }
        match &self.subject {
            Subject::Tool(call) if !call.price.is_zero() => self.pay(),
            Subject::Gate(_) => self.answer(),
            _ => self.forward(Charge::None),
        }
    }

    /// The ledger has answered for the shares, or failed to.
    pub fn shares_answered(&mut self, answer: SharesAnswered) -> Step {
        let is_away = answer == SharesAnswered::Unavailable;
        if let Some(step) = self.answered_in_batch(is_away, |element| element.shares_answered(answer)) {
            return step;
        }
        let Phase::AskingWindows { asks, rounds, .. } = &mut self.phase else {
            return self.refuse(Refusal::ledger_unavailable());
        };
        match answer {
            // A limit that holds over all Envoys can't be kept without the ledger.
            SharesAnswered::Unavailable => return self.refuse(Refusal::ledger_unavailable()),
            SharesAnswered::Nothing => *rounds = 0,
            SharesAnswered::Changed => {}
        }
        let asks = asks.clone();
        Step::AskWindows { asks }
    }

    /// The windows can't be asked. Never admits.
    pub fn windows_failed(&mut self) -> Step {
        if let Some(step) = self.in_batch(Exchange::windows_failed) {
            return step;
        }
        self.refuse(Refusal::windows_unavailable())
    }
}
