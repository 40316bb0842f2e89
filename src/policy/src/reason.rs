//! Reasons in words: what decided against a request, and what would change it.
//!
//! The gate tells them to the client, and the ledger to an operator who asks later, so both read the same.

use protocol::reason::{PaidFrom, Reason};

/// What decided, what it needed, and what there was. Without a capital letter and a full stop.
pub fn cause(reason: &Reason) -> String {
    match reason {
        Reason::Grant { kind, needed } => {
            format!("this key is not granted {kind} `{needed}`, or the grant has ended")
        }
        Reason::Scope { needed, had } => {
            let had = if had.is_empty() { "none".to_owned() } else { had.join(" ") };
            format!("this call needs the scopes: {}; this key has: {had}", needed.join(" "))
        }
        Reason::Tier { needed, had, argument: Some(argument), value: Some(value), .. } => {
            format!(
                "value `{value}` of argument `{argument}` needs tier {needed} or higher; this tenant has tier {had}"
            )
        }
        Reason::Tier { needed, had, .. } => {
            format!("this call needs tier {needed} or higher; this tenant has tier {had}")
        }
        Reason::UnknownTier { had } => format!("this tenant has tier {had}, which the policy does not know"),
        Reason::Limit { of, name, per, permits, window_seconds, given, .. } => {
            let what = match of.as_str() {
                "opening" => "opening connections",
                "tool" => "calls of this tool",
                _ => "requests",
            };
            let whose = match (of.as_str(), per.as_str()) {
                ("parent", _) => "the limit of the key that requested this one".to_owned(),
                (_, per) => format!("this {per}'s limit"),
            };
            let by = match (of.as_str(), name) {
                ("tier" | "opening", Some(tier)) => format!(" by tier {tier}"),
                ("tool", Some(tool)) => format!(" by tool {tool}"),
                _ => String::new(),
            };
            match given {
                None => format!("{whose} for {what}, {permits} in {window_seconds} s{by}, is used up"),
                Some(given) => format!(
                    "{whose} for {what}{by} is {permits} in {window_seconds} s at all gates together; the ledger that divides \
                     it does not answer, and this gate's share of {given} is used up"
                ),
            }
        }
        Reason::Concurrency { max } => {
            format!("this key has {max} requests or streams in progress at this gate, as many as it may")
        }
        Reason::Credits { needed, had, paid_from } => {
            let left = had.map_or("less".to_owned(), |had| format!("{had} credits"));
            let place = match paid_from {
                PaidFrom::Balance => "the tenant has",
                PaidFrom::TenantBudget => "the tenant's budget for this month has",
                PaidFrom::KeyBudget => "this key's budget for this month has",
            };
            format!("this call costs {needed} credits and {place} {left} left")
        }
        Reason::Check { told } => told.clone(),
    }
}

/// What would change it; empty if the cause says so.
pub fn remedy(reason: &Reason) -> String {
    match reason {
        Reason::Grant { .. } => "ask the key's owner to grant it".to_owned(),
        Reason::Scope { needed, had } => {
            let lacks: Vec<&str> =
                needed.iter().filter(|scope| !had.contains(scope)).map(String::as_str).collect();
            format!("ask the key's owner for a key with {}", lacks.join(" "))
        }
        Reason::Tier { needed, argument: Some(argument), open, .. } if !open.is_empty() => {
            format!("send `{argument}` as one of: {}; or move the tenant to tier {needed}", open.join(", "))
        }
        Reason::Tier { needed, argument: Some(argument), .. } => {
            format!("send another value as `{argument}`, or move the tenant to tier {needed}")
        }
        Reason::Tier { needed, .. } => format!("move the tenant to tier {needed}"),
        Reason::UnknownTier { .. } => {
            "ask the operator to move the tenant to a tier of the policy".to_owned()
        }
        Reason::Limit { of, per, .. } => match (of.as_str(), per.as_str()) {
            ("key" | "parent", _) => "send fewer, or ask the key's owner for a higher limit".to_owned(),
            ("tool", _) => "send fewer".to_owned(),
            _ => "send fewer, or move the tenant to a tier with a higher limit".to_owned(),
        },
        Reason::Concurrency { .. } => "wait until one ends".to_owned(),
        Reason::Credits { paid_from: PaidFrom::Balance, .. } => {
            "ask the tenant's owner for credits".to_owned()
        }
        Reason::Credits { .. } => {
            "ask its owner for a larger budget, or wait for the next month (UTC)".to_owned()
        }
        Reason::Check { .. } => String::new(),
    }
}

/// Both as one text.
pub fn text(reason: &Reason) -> String {
    let (cause, remedy) = (cause(reason), remedy(reason));
    if remedy.is_empty() { cause } else { format!("{cause}; {remedy}") }
}
