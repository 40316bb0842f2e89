//! A decision in words: who asked for what, which rule decided, and what would change it. Pure.

use crate::model::tenant::Tenant;
use policy::reason::{cause, remedy};
use protocol::PolicyVersion;
use protocol::admin::{Explanation, Moment};
use protocol::audit::{Decision, Outcome};
use protocol::reason::{PaidFrom, Reason};

/// What the ledger knows now of those whom a decision names.
#[derive(Debug, Default)]
pub struct Known {
    /// The key's name.
    pub key_name: Option<String>,
    pub tenant: Option<Tenant>,
    /// The policy in force.
    pub policy: Option<PolicyVersion>,
    /// Other events of the request, oldest first.
    pub events: Vec<Moment>,
}

/// Explains a decision.
pub fn explain(decision: Decision, known: Known) -> Explanation {
    let reason = decision.reason.as_deref();
    let in_force = known.policy.as_ref() == Some(&decision.policy_version);
    let tier = known.tenant.as_ref().map(|tenant| tenant.tier.clone());
    let mut sentences = vec![who(&decision, &known), what_happened(&decision)];
    let remedy = reason.map(remedy).filter(|remedy| !remedy.is_empty());
    sentences.extend(remedy.as_ref().map(|remedy| format!("What would change it: {remedy}.")));
    if let Some(Reason::Limit { wait_seconds, .. }) = reason {
        sentences.push(format!("There was room again {wait_seconds} s later."));
    }
    if let (Some(Reason::Tier { had, .. } | Reason::UnknownTier { had }), Some(tier)) = (reason, &tier)
        && had != tier
    {
        sentences.push(format!("The tenant has tier {tier} now."));
    }
    if let Some(would) = decision.would_deny {
        sentences.push(in_shadow(would, decision.would_deny_reason.as_deref()));
    }
    if !in_force && known.policy.is_some() {
        sentences.push("Another policy is in force now.".to_owned());
    }
    let (needed, had) = reason.map(facts).unwrap_or_default();
    Explanation {
        request_id: decision.id,
        at: decision.at,
        outcome: decision.outcome,
        status: decision.status,
        sentences,
        rule: reason.map(|reason| reason.rule().to_owned()),
        needed,
        had,
        remedy,
        would_deny: decision.would_deny,
        would_deny_reason: decision.would_deny_reason.map(|reason| *reason),
        key_id: decision.key_id,
        key_name: known.key_name,
        tenant_id: decision.tenant_id,
        tenant_name: known.tenant.map(|tenant| tenant.name),
        tier,
        agent_id: decision.agent_id,
        service: decision.service,
        tool: decision.tool,
        policy_version: decision.policy_version,
        policy_is_in_force: in_force,
        envoy: decision.envoy,
        credits: decision.credits,
        duration_ms: decision.duration_ms,
        events: known.events,
        reason: decision.reason.map(|reason| *reason),
    }
}

fn who(decision: &Decision, known: &Known) -> String {
    let named = |name: Option<&String>| name.map(|name| format!(" ({name})")).unwrap_or_default();
    let key = decision.key_id.as_ref().map_or_else(
        || "Somebody without a key that the gate knows".to_owned(),
        |key| format!("Key {key}{}", named(known.key_name.as_ref())),
    );
    let tenant = decision.tenant_id.as_ref().map_or_else(String::new, |tenant| {
        let tier = known.tenant.as_ref().map(|tenant| format!(", tier {}", tenant.tier)).unwrap_or_default();
        format!(" of tenant {tenant}{}{tier}", named(known.tenant.as_ref().map(|tenant| &tenant.name)))
    });
    let what = match (&decision.tool, &decision.service) {
        (Some(tool), Some(service)) => format!("asked for {tool} of service {service}"),
        (None, Some(service)) => format!("asked service {service} for what the policy does not name"),
        _ => "asked for a path of no service".to_owned(),
    };
    let (at, envoy) = (decision.at, &decision.envoy);
    format!("{key}{tenant} {what} at {at}; Envoy {envoy} decided by policy {}.", decision.policy_version)
}

fn what_happened(decision: &Decision) -> String {
    let Decision { status, outcome, credits, .. } = decision;
    if let Some(reason) = &decision.reason {
        return format!("It was refused with {status}, {outcome}: {}.", cause(reason));
    }
    let paid = match (credits.is_zero(), &decision.lease_id) {
        (true, _) => "nothing was charged".to_owned(),
        (false, Some(lease)) => format!("{credits} credits were charged, from lease {lease}"),
        (false, None) => format!("{credits} credits were charged"),
    };
    let millis = decision.duration_ms;
    match outcome {
        Outcome::Allowed => format!("It was allowed and answered with {status} after {millis} ms; {paid}."),
        Outcome::UpstreamError => {
            format!("It was allowed and failed upstream, with {status} after {millis} ms; {paid}.")
        }
        Outcome::Cancelled => format!("The client left after {millis} ms; {paid}."),
        refused => format!("It was refused with {status}, {refused}; {paid}."),
    }
}

/// What a rule in shadow mode would have done. Decisions of earlier builds don't say which rule.
fn in_shadow(outcome: Outcome, reason: Option<&Reason>) -> String {
    let Some(reason) = reason else {
        return format!("A rule in shadow mode would have refused it: {outcome}.");
    };
    let cause = cause(reason);
    match remedy(reason) {
        remedy if remedy.is_empty() => {
            format!("A rule in shadow mode would have refused it, {outcome}: {cause}.")
        }
        remedy => format!(
            "A rule in shadow mode would have refused it, {outcome}: {cause}. What would change that: {remedy}."
        ),
    }
}

/// What a rule needed, and what there was.
fn facts(reason: &Reason) -> (Option<String>, Option<String>) {
    match reason {
        Reason::Grant { kind, needed } => (Some(format!("{kind} {needed}")), Some("no grant".to_owned())),
        Reason::Scope { needed, had } => (Some(needed.join(" ")), Some(had.join(" "))),
        Reason::Tier { needed, had, .. } => (Some(needed.clone()), Some(had.clone())),
        Reason::UnknownTier { had } => (Some("a tier of the policy".to_owned()), Some(had.clone())),
        Reason::Limit { permits, window_seconds, given, .. } => {
            let used = given.unwrap_or(*permits);
            let needed = format!("fewer than {used} in {window_seconds} s");
            (Some(needed), Some(format!("{used} in {window_seconds} s")))
        }
        Reason::Concurrency { max } => {
            (Some(format!("fewer than {max} in progress")), Some(format!("{max} in progress")))
        }
        Reason::Credits { needed, had, paid_from } => {
            let of = match paid_from {
                PaidFrom::Balance => "",
                PaidFrom::TenantBudget => " of the tenant's budget",
                PaidFrom::KeyBudget => " of the key's budget",
            };
            (Some(format!("{needed} credits{of}")), had.map(|had| format!("{had} credits{of}")))
        }
        Reason::Check { .. } => (None, None),
    }
}
