//! How verdicts of windows are handled: which limit refuses, and when the gate asks the ledger for more of a global limit.

use super::charge::Charge;
use super::refusal::Refusal;
use super::{Exchange, Phase, Step, Subject, quota};
use crate::limit::LimitRule;
use crate::window::Verdict;
use crate::window::slot::{Ask, Stage};

/// How the ledger answered an ask for shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharesAnswered {
    /// The shares may have grown.
    Changed,
    /// The ledger has no more permits to give.
    Nothing,
    /// There was no valid answer.
    Unavailable,
}

/// How often one request may ask the ledger for more of its global limits.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    asked: u8,
    without_gain: u8,
    /// The total number of permits at the last ask.
    permits: u64,
}

impl Rounds {
    /// A round that brought no permits counts here. One that brought some does not, even if other requests of the key took them.
    const WITHOUT_GAIN_MAX: u8 = 3;
    /// Each round about doubles a share, so this many rounds bring a share of any limit to the whole limit.
    const MAX: u8 = 32;

    /// True if the request should ask once more; `permits` is the current total.
    fn should_ask(&mut self, permits: u64) -> bool {
        let is_without_gain = self.asked > 0 && permits <= self.permits;
        self.without_gain = self.without_gain.saturating_add(u8::from(is_without_gain));
        self.asked = self.asked.saturating_add(1);
        self.permits = permits;
        self.without_gain < Rounds::WITHOUT_GAIN_MAX && self.asked <= Rounds::MAX
    }

    fn end(&mut self) {
        self.without_gain = Rounds::WITHOUT_GAIN_MAX;
    }
}

impl Exchange {
    /// The windows answered, in the order of the asks.
    pub fn windows_asked(&mut self, answered: &[Verdict]) -> Step {
        if let Some(step) = self.in_batch(|element| element.windows_asked(answered)) {
            return step;
        }
        let phase = std::mem::replace(&mut self.phase, Phase::Reserving);
        let Phase::AskingWindows { asks, mut verdicts, refusal, mut rounds, is_unavailable } = phase else {
            return self.refuse(Refusal::ledger_unavailable());
        };
        verdicts.extend_from_slice(answered);
        let answers = || asks.iter().zip(&verdicts);
        let refusing = || answers().filter(|(ask, verdict)| ask.enforced && !verdict.admitted);
        let refused = |stage: Stage| refusing().any(|(ask, _)| ask.stage == stage);
        let permits = verdicts.iter().map(|verdict| u64::from(verdict.permits)).sum();
        let is_short = refusing().next().is_some() && refusing().all(|(_, verdict)| verdict.can_grow);
        if is_short && !is_unavailable && rounds.should_ask(permits) {
            let rules = refusing().map(|(ask, _)| ask.rule).collect();
            // A stage that was admitted has taken its permits and must not take them again.
            let is_taken = |ask: &&Ask| ask.stage == Stage::Key && !refused(Stage::Key);
            let taken = asks.iter().filter(is_taken).count();
            verdicts.truncate(taken);
            self.phase = Phase::AskingWindows { asks, verdicts, refusal, rounds, is_unavailable };
            return Step::AskShares { rules };
        }
        if is_unavailable && refusing().any(|(ask, _)| ask.rule.needs_ledger()) {
            return self.refuse(Refusal::ledger_unavailable());
        }
        self.quotas = quota::quotas(&asks, &verdicts);
        // A retry only helps when every window has room, including the tool's.
        let waits = answers().filter(|(ask, verdict)| {
            !ask.rule.shadow && (!verdict.admitted || (refused(Stage::Key) && verdict.remaining == 0))
        });
        let wait_ms = waits.map(|(_, verdict)| verdict.reset_ms).max().unwrap_or(0);
        let is_shadow =
            |(ask, verdict): &(&Ask, &Verdict)| ask.rule.shadow && !ask.enforced && !verdict.admitted;
        if let Some((ask, verdict)) = answers().find(is_shadow) {
            let refusal = self.limit_refusal(&ask.rule, None, verdict.reset_ms);
            self.would_deny.get_mut().get_or_insert_with(|| Box::new(refusal));
        }
        let limited = |stage: Stage| {
            let of_stage = refusing().filter(|(ask, _)| ask.stage == stage);
            let (ask, verdict) = of_stage.max_by_key(|(_, verdict)| verdict.reset_ms)?;
            let given = (is_unavailable || verdict.is_unavailable)
                .then_some(verdict.permits)
                .filter(|_| ask.rule.global);
            Some((ask.rule, given))
        };
        if let Some((rule, given)) = limited(Stage::Opening) {
            return self.refuse_limited(&rule, given, wait_ms);
        }
        if asks.iter().any(|ask| ask.stage == Stage::Opening) {
            // An opening takes nothing from the limits on calls, and its answer reports those limits.
            self.quotas = Vec::new();
        }
        if let Some((rule, given)) = limited(Stage::Key) {
            return self.refuse_limited(&rule, given, wait_ms);
        }
        if let Some(refusal) = refusal {
            return self.refuse(refusal);
        }
        if let Some((rule, given)) = limited(Stage::Tool) {
            return self.refuse_limited(&rule, given, wait_ms);
        }
        match &self.subject {
            Subject::Tool(call) if !call.price.is_zero() => self.pay(),
            Subject::Gate(_) => self.answer(),
            _ => self.forward(Charge::None),
        }
    }

    fn refuse_limited(&mut self, rule: &LimitRule, given: Option<u32>, wait_ms: u64) -> Step {
        let refusal = self.limit_refusal(rule, given, wait_ms);
        self.refuse(refusal)
    }

    fn limit_refusal(&self, rule: &LimitRule, given: Option<u32>, wait_ms: u64) -> Refusal {
        let tier = self.key.as_ref().map_or("", |key| key.record.tier.as_str());
        Refusal::rate_limited(rule, (tier, self.subject()), given, wait_ms)
    }

    /// The ledger answered the ask for shares, or the call to it failed.
    pub fn shares_answered(&mut self, answer: SharesAnswered) -> Step {
        let is_unavailable = answer == SharesAnswered::Unavailable;
        if let Some(step) = self.answered_in_batch(is_unavailable, |element| element.shares_answered(answer))
        {
            return step;
        }
        let Phase::AskingWindows { asks, verdicts, rounds, is_unavailable, .. } = &mut self.phase else {
            return self.refuse(Refusal::ledger_unavailable());
        };
        match answer {
            SharesAnswered::Unavailable => *is_unavailable = true,
            SharesAnswered::Nothing => rounds.end(),
            SharesAnswered::Changed => {}
        }
        let asks = asks.iter().skip(verdicts.len()).copied().collect();
        Step::AskWindows { asks, is_unavailable: *is_unavailable }
    }

    /// The windows could not be asked. The request is never admitted.
    pub fn windows_failed(&mut self) -> Step {
        if let Some(step) = self.in_batch(Exchange::windows_failed) {
            return step;
        }
        self.refuse(Refusal::windows_unavailable())
    }
}
