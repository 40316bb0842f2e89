//! What is left of the limits, as headers: draft-ietf-httpapi-ratelimit-headers-11 and the older `X-RateLimit-*`.

use super::fields::Fields;
use crate::window::Verdict;
use crate::window::slot::Ask;
use protocol::key::Limit;

/// One limit and what is left of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Quota {
    name: &'static str,
    limit: Limit,
    remaining: u32,
    reset_seconds: u32,
}

/// The limits that a client is told about: all but the shadow ones.
pub(super) fn quotas(asks: &[Ask], verdicts: &[Verdict]) -> Vec<Quota> {
    asks.iter()
        .zip(verdicts)
        .filter(|(ask, _)| !ask.rule.shadow)
        .map(|(ask, verdict)| Quota {
            name: ask.rule.name(),
            limit: ask.rule.limit,
            // What other Envoys hold is no help to a request that is refused now.
            remaining: if ask.enforced && !verdict.admitted { 0 } else { verdict.remaining },
            reset_seconds: u32::try_from(seconds(verdict.reset_ms)).unwrap_or(u32::MAX),
        })
        .collect()
}

/// Whole seconds, rounded up so that a client that waits this long has waited long enough.
pub(super) fn seconds(millis: u64) -> u64 {
    millis.div_ceil(1000)
}

/// Adds the rate headers of a response. A request without a known key has no quota; its headers say so.
pub(super) fn add_headers(fields: &mut Fields, quotas: &[Quota], is_authenticated: bool) {
    if quotas.is_empty() {
        if is_authenticated {
            return;
        }
        fields.push("ratelimit-policy", "\"unauthenticated\";q=0;w=60");
        fields.push("ratelimit", "\"unauthenticated\";r=0;t=0");
        for name in ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"] {
            fields.push(name, "0");
        }
        return;
    }
    // Written without `format!`: every response has these lines, and the formatting machinery costs more than all of them.
    fields.write("ratelimit-policy", |text| {
        for (place, quota) in quotas.iter().enumerate() {
            quota.name_into(place, text);
            number_into(text, ";q=", quota.limit.permits);
            number_into(text, ";w=", quota.limit.window_seconds);
        }
    });
    fields.write("ratelimit", |text| {
        for (place, quota) in quotas.iter().enumerate() {
            quota.name_into(place, text);
            number_into(text, ";r=", quota.remaining);
            number_into(text, ";t=", quota.reset_seconds);
        }
    });
    // The older headers have room for one limit only: the one that will refuse first.
    let tightest =
        quotas.iter().min_by_key(|quota| (quota.remaining, std::cmp::Reverse(quota.reset_seconds)));
    if let Some(tightest) = tightest {
        fields.write("x-ratelimit-limit", |text| number_into(text, "", tightest.limit.permits));
        fields.write("x-ratelimit-remaining", |text| number_into(text, "", tightest.remaining));
        fields.write("x-ratelimit-reset", |text| number_into(text, "", tightest.reset_seconds));
    }
}

impl Quota {
    /// Writes the item's name, after a comma if it is not the first item.
    fn name_into(&self, place: usize, text: &mut String) {
        if place > 0 {
            text.push_str(", ");
        }
        text.push('"');
        text.push_str(self.name);
        number_into(text, "-", self.limit.window_seconds);
        text.push_str("s\"");
    }
}

fn number_into(text: &mut String, before: &str, number: u32) {
    text.push_str(before);
    text.push_str(itoa::Buffer::new().format(number));
}
