//! Sums over decisions.

use super::{Fresh, at, credits, payer, report};
use crate::deliveries::Deliver;
use crate::fixture::new_uuid;
use crate::store::{AuditFilter, UsageQuery};
use protocol::audit::{Counted, Decision, Outcome, UsageTokens};
use protocol::{Credits, EventId, KeyId, PolicyVersion, TenantId};
use std::sync::Arc;

pub(super) async fn usage_sums_decisions_and_no_sum_overflows(fresh: &impl Fresh) {
    let (store, _guard) = fresh.open();
    let (tenant_id, key_id) = payer(store.as_ref(), 100).await;
    let decision = |input, output| Decision {
        usage_tokens: Some(UsageTokens { input, output }),
        ..decision(&tenant_id, &key_id, 2)
    };
    // Two transactions, so that sums are also added to existing ones.
    for decisions in
        [vec![decision(Some(100), Some(7)), decision(Some(20), None)], vec![decision(None, Some(3))]]
    {
        store.run(report_of(decisions)).await.unwrap();
    }
    let by_tool = UsageQuery { by_tool: true, limit: 10, ..UsageQuery::default() };
    let sums = store.usage(by_tool.clone()).await.unwrap();
    let (_, sum) = &sums[0];
    assert_eq!((sums.len(), sum.calls, sum.credits), (1, 3, credits(6)));
    assert_eq!((sum.usage_tokens.input, sum.usage_tokens.output), (120, 10));
    for _ in 0..3 {
        store.run(report_of(vec![decision(Some(u64::MAX), Some(u64::MAX))])).await.unwrap();
    }
    assert_eq!(store.usage(by_tool).await.unwrap()[0].1.usage_tokens.input, 3_000_000_120);
}

pub(super) async fn sums_come_in_pages_and_every_group_is_on_one(fresh: &impl Fresh) {
    let (store, _guard) = fresh.open();
    let (tenant_id, key_id) = payer(store.as_ref(), 100).await;
    // Groups of several durations, one without a tool, some with the same tool.
    let decisions = (0..60u64).map(|number| Decision {
        tool: (number % 5 > 0).then(|| format!("tool \"{}\"", number % 5)),
        outcome: if number % 2 == 0 { Outcome::Allowed } else { Outcome::RateLimited },
        would_deny: (number % 3 > 0).then_some(Outcome::InsufficientScope),
        would_deny_reason: None,
        duration_ms: number * 10,
        ..decision(&tenant_id, &key_id, 1)
    });
    store.run(report_of(decisions.collect())).await.unwrap();
    let query =
        |after, limit| UsageQuery { by_tool: true, by_outcome: true, after, limit, ..UsageQuery::default() };
    let (usage, shadow) =
        (store.usage(query(None, 100)).await.unwrap(), store.shadow(query(None, 100)).await);
    let shadow = shadow.unwrap();
    assert_eq!((usage.len(), shadow.len()), (10, 5));
    assert_eq!(usage.iter().map(|(_, sum)| sum.calls).sum::<u64>(), 60);
    assert_eq!(shadow.iter().map(|(_, sum)| sum.calls).sum::<u64>(), 40);
    for limit in [1, 3] {
        let (mut paged, mut after) = (Vec::new(), None);
        while let page @ [.., (last, _)] = store.usage(query(after, limit)).await.unwrap().as_slice() {
            assert!(page.len() <= usize::try_from(limit).unwrap());
            paged.extend_from_slice(page);
            after = Some(last.clone());
        }
        assert_eq!(paged, usage);
        let (mut paged, mut after) = (Vec::new(), None);
        while let page @ [.., (last, _)] = store.shadow(query(after, limit)).await.unwrap().as_slice() {
            paged.extend_from_slice(page);
            after = Some(last.clone());
        }
        assert_eq!(paged, shadow);
    }
}

pub(super) async fn no_report_makes_those_after_it_fail(fresh: &impl Fresh) {
    let (store, _guard) = fresh.open();
    let (tenant_id, key_id) = payer(store.as_ref(), 100).await;
    for tool in ["draw", "draw", "paint"] {
        let costly =
            || Decision { tool: Some(tool.to_owned()), ..decision(&tenant_id, &key_id, Credits::MAX.get()) };
        let mut report = report_of((0..1100).map(|_| costly()).collect());
        Arc::make_mut(&mut report.report).decisions_dropped = u64::MAX;
        assert_eq!(store.run(report).await.unwrap().answer.recorded, 1100);
    }
    assert_eq!(store.audit_status().await.unwrap().decisions_dropped, 3_000_000_000);
    let sums = store.usage(UsageQuery { limit: 10, ..UsageQuery::default() }).await.unwrap();
    assert_eq!((sums.len(), sums[0].1.calls, sums[0].1.credits), (1, 3300, Credits::MAX));
}

pub(super) async fn counts_are_summed_and_reported_once(fresh: &impl Fresh) {
    let (store, _guard) = fresh.open();
    let (tenant_id, key_id) = payer(store.as_ref(), 100).await;
    let counted = |key: Option<&KeyId>, count| Counted {
        minute: at(1),
        outcome: Outcome::AuthDenied,
        key_id: key.cloned(),
        tenant_id: key.map(|_| tenant_id.clone()),
        service: Some("studio".to_owned()),
        count,
    };
    let mut report = report_of(Vec::new());
    Arc::make_mut(&mut report.report).counted =
        vec![counted(None, 70_000), counted(Some(&key_id), 3), counted(None, u64::MAX)];
    for _ in 0..2 {
        store.run(report.clone()).await.unwrap();
    }
    let by_key = UsageQuery { by_key: true, by_outcome: true, limit: 10, ..UsageQuery::default() };
    let sums = store.usage(by_key).await.unwrap();
    let calls: Vec<_> = sums.iter().map(|(_, row)| (row.key_id.as_ref(), row.calls)).collect();
    assert_eq!(calls.len(), 2, "{sums:?}");
    assert!(calls.contains(&(Some(&key_id), 3)), "{sums:?}");
    assert!(sums.iter().all(|(_, row)| row.latency_ms.is_none()), "{sums:?}");
    let kind = Some("decisions_counted".to_owned());
    let facts = store.audit(AuditFilter { kind, limit: 10, ..AuditFilter::default() }).await.unwrap();
    assert_eq!(facts.len(), 3);
    let of = facts.iter().filter(|fact| fact.tenant_id.as_ref() == Some(&tenant_id));
    assert_eq!(of.map(|fact| fact.actor.as_str()).collect::<Vec<_>>(), [key_id.as_str()]);
}

pub(super) fn decision(tenant_id: &TenantId, key_id: &KeyId, amount: u64) -> Decision {
    Decision {
        lease_id: None,
        id: EventId::parse(&new_uuid()).unwrap(),
        at: at(1),
        outcome: Outcome::Allowed,
        would_deny: None,
        would_deny_reason: None,
        reason: None,
        key_id: Some(key_id.clone()),
        tenant_id: Some(tenant_id.clone()),
        agent_id: None,
        service: None,
        tool: Some("summarize".to_owned()),
        credits: credits(amount),
        reservation_id: None,
        usage_tokens: None,
        status: 200,
        first_byte_ms: None,
        duration_ms: 5,
        policy_version: PolicyVersion::parse("v1").unwrap(),
        envoy: "e1".to_owned(),
    }
}

pub(super) fn report_of(decisions: Vec<Decision>) -> Deliver {
    report(Vec::new(), decisions, at(2))
}
