//! When an Envoy's log says that calls to the ledger fail: at once, then at doubling intervals, and when they succeed again.
//!
//! All workers of an Envoy share one state, so that it is said once and not by each. Pure; the state is bytes.

use crate::window::Monotonic;

const WAIT_MS_MIN: u64 = 1_000;
const WAIT_MS_MAX: u64 = 900_000;
/// After so long without a failure the next one is said at once again.
const CALM_MS: u64 = 60_000;

/// A line for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// Calls fail.
    Failing(Failures),
    /// A call succeeded after failures that were said.
    Over(Failures),
}

/// How many calls failed, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failures {
    /// The calls that failed since the last [`Line::Over`].
    pub calls: u64,
    /// Since the first of them.
    pub seconds: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct State {
    /// The first failure since the last line that it is over; 0 if calls succeed.
    since_ms: u64,
    calls: u64,
    /// 1 if the log says that calls fail.
    said: u64,
    /// The earliest time of the next line, and how long before it.
    say_at_ms: u64,
    wait_ms: u64,
}

impl State {
    fn read(value: &[u8]) -> State {
        let mut numbers = value.chunks_exact(8).map(|bytes| bytes.try_into().map_or(0, u64::from_le_bytes));
        let mut next = || numbers.next().unwrap_or(0);
        State { since_ms: next(), calls: next(), said: next(), say_at_ms: next(), wait_ms: next() }
    }

    fn write(self) -> Vec<u8> {
        let State { since_ms, calls, said, say_at_ms, wait_ms } = self;
        [since_ms, calls, said, say_at_ms, wait_ms].map(u64::to_le_bytes).concat()
    }

    fn failures(&self, now: Monotonic) -> Failures {
        Failures { calls: self.calls, seconds: now.0.saturating_sub(self.since_ms) / 1000 }
    }
}

/// A call failed. Returns the next state, and the line to write if one is due.
pub fn failed(value: &[u8], now: Monotonic) -> Option<(Vec<u8>, Option<Line>)> {
    let mut state = State::read(value);
    if state.since_ms == 0 {
        state.since_ms = now.0;
        if now.0 >= state.say_at_ms.saturating_add(CALM_MS) {
            state.wait_ms = 0;
        }
    }
    state.calls = state.calls.saturating_add(1);
    if now.0 < state.say_at_ms {
        return Some((state.write(), None));
    }
    state.wait_ms = state.wait_ms.saturating_mul(2).clamp(WAIT_MS_MIN, WAIT_MS_MAX);
    state.say_at_ms = now.0.saturating_add(state.wait_ms);
    state.said = 1;
    Some((state.write(), Some(Line::Failing(state.failures(now)))))
}

/// A call succeeded. `None` if nothing failed before.
pub fn succeeded(value: &[u8], now: Monotonic) -> Option<(Vec<u8>, Option<Line>)> {
    let state = State::read(value);
    if state.since_ms == 0 {
        return None;
    }
    let is_said = state.said == 1;
    // What was not said is counted in the next line.
    let calls = if is_said { 0 } else { state.calls };
    let next = State { since_ms: 0, calls, said: 0, ..state };
    Some((next.write(), is_said.then(|| Line::Over(state.failures(now)))))
}

/// What to do about calls that fail, by the answer that Envoy makes where there is none of the ledger. It does not say why TLS
/// fails: only its stats do, which `agentrelay doctor` reads.
pub fn remedy(answer: &[u8]) -> &'static str {
    if String::from_utf8_lossy(answer).contains("protocol error") {
        "check the cluster's TLS: the answer is not HTTP, and a ledger that serves TLS needs a `transport_socket` there"
    } else {
        "check that it runs, that the cluster leads to it and that their TLS fits; `agentrelay doctor --envoy-admin URL` tells \
         what is wrong"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_then_at_doubling_intervals_and_when_it_is_over() {
        let (mut state, mut said) = (Vec::new(), Vec::new());
        for millis in (1_000_000..1_100_000).step_by(100) {
            let (next, line) = failed(&state, Monotonic(millis)).unwrap();
            state = next;
            said.extend(line.map(|line| (millis - 1_000_000, line)));
        }
        let at: Vec<u64> = said.iter().map(|(at, _)| at / 1000).collect();
        assert_eq!(at, [0, 1, 3, 7, 15, 31, 63]);
        assert_eq!(said[0].1, Line::Failing(Failures { calls: 1, seconds: 0 }));
        assert_eq!(said[2].1, Line::Failing(Failures { calls: 31, seconds: 3 }));
        let (state, line) = succeeded(&state, Monotonic(1_100_000)).unwrap();
        assert_eq!(line, Some(Line::Over(Failures { calls: 1000, seconds: 100 })));
        assert_eq!(succeeded(&state, Monotonic(1_100_001)), None);
    }

    #[test]
    fn a_ledger_that_comes_and_goes_does_not_fill_the_log_and_no_failure_is_uncounted() {
        let (mut state, mut lines, mut counted) = (Vec::new(), 0, 0);
        for round in 0..600u64 {
            let now = Monotonic(1_000_000 + round * 1_000);
            let (failing, first) = failed(&state, now).unwrap();
            let (calm, second) = succeeded(&failing, now).unwrap();
            state = calm;
            lines += [first, second].into_iter().flatten().count();
            counted += second.map_or(0, |line| match line {
                Line::Over(failures) | Line::Failing(failures) => failures.calls,
            });
        }
        assert!(lines <= 20, "{lines}");
        assert_eq!(counted + State::read(&state).calls, 600);
        // After a calm it is said at once.
        let (_, line) = failed(&state, Monotonic(10_000_000)).unwrap();
        assert!(matches!(line, Some(Line::Failing(_))));
    }
}
