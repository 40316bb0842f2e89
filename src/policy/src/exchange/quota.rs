//! What is left of the limits, as headers: draft-ietf-httpapi-ratelimit-headers-11 and the older `X-RateLimit-*`.

use crate::window::Verdict;
use crate::window::slot::{Ask, Stage};
use protocol::key::Limit;

/// One limit and what is left of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Quota {
    stage: Stage,
    limit: Limit,
    remaining: u32,
    reset_seconds: u64,
}

/// The limits that a client should know of: shadow ones are not its business.
pub(super) fn quotas(asks: &[Ask], verdicts: &[Verdict]) -> Vec<Quota> {
    asks.iter()
        .zip(verdicts)
        .filter(|(ask, _)| !ask.rule.shadow)
        .map(|(ask, verdict)| Quota {
            stage: ask.stage,
            limit: ask.rule.limit,
            remaining: verdict.remaining,
            reset_seconds: seconds(verdict.reset_ms),
        })
        .collect()
}

/// Whole seconds, rounded up: who waits them has waited long enough.
pub(super) fn seconds(millis: u64) -> u64 {
    millis.div_ceil(1000)
}

/// The rate headers of a response. A request without a known key has no quota, and is told so.
pub(super) fn headers(quotas: &[Quota], is_authenticated: bool) -> Vec<(&'static str, String)> {
    if quotas.is_empty() && is_authenticated {
        return Vec::new();
    }
    if quotas.is_empty() {
        return vec![
            ("ratelimit-policy", "\"unauthenticated\";q=0;w=60".to_owned()),
            ("ratelimit", "\"unauthenticated\";r=0;t=0".to_owned()),
            ("x-ratelimit-limit", "0".to_owned()),
            ("x-ratelimit-remaining", "0".to_owned()),
            ("x-ratelimit-reset", "0".to_owned()),
        ];
    }
    // Written by hand: these lines are on every response, and the formatting machinery costs more than all of them.
    let (mut policies, mut states) = (String::with_capacity(64), String::with_capacity(64));
    for quota in quotas {
        quota.name_into(&mut policies);
        number_into(&mut policies, ";q=", u64::from(quota.limit.permits));
        number_into(&mut policies, ";w=", u64::from(quota.limit.window_seconds));
        quota.name_into(&mut states);
        number_into(&mut states, ";r=", u64::from(quota.remaining));
        number_into(&mut states, ";t=", quota.reset_seconds);
    }
    let mut headers = Vec::with_capacity(5);
    headers.push(("ratelimit-policy", policies));
    headers.push(("ratelimit", states));
    // The older headers have room for one limit: the one that will refuse first.
    if let Some(tightest) =
        quotas.iter().min_by_key(|quota| (quota.remaining, std::cmp::Reverse(quota.reset_seconds)))
    {
        headers.push(("x-ratelimit-limit", number(u64::from(tightest.limit.permits))));
        headers.push(("x-ratelimit-remaining", number(u64::from(tightest.remaining))));
        headers.push(("x-ratelimit-reset", number(tightest.reset_seconds)));
    }
    headers
}

impl Quota {
    /// The item's name, after a comma if it is not the first.
    fn name_into(&self, text: &mut String) {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(match self.stage {
            Stage::Key => "\"key-",
            Stage::Tool => "\"tool-",
        });
        number_into(text, "", u64::from(self.limit.window_seconds));
        text.push_str("s\"");
    }
}

fn number(number: u64) -> String {
    let mut text = String::with_capacity(8);
    number_into(&mut text, "", number);
    text
}

fn number_into(text: &mut String, before: &str, number: u64) {
    text.push_str(before);
    let mut digits = [0u8; 20];
    let mut rest = number;
    let mut from = digits.len();
    for (place, digit) in digits.iter_mut().enumerate().rev() {
        // A remainder of ten is below ten.
        *digit = b'0'.wrapping_add(u8::try_from(rest % 10).unwrap_or(0));
        from = place;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    digits.get(from..).unwrap_or_default().iter().for_each(|digit| text.push(char::from(*digit)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_numbers_are() {
        for value in [0, 7, 10, 99, 100, 86_400, u64::MAX] {
            assert_eq!(number(value), value.to_string());
        }
    }
}
