//! The audit trail after a part of it was removed by age.

use super::usage::{decision, report_of};
use super::{Fresh, at, payer, reserve};
use crate::audit::chain::Signer;
use crate::audit::export::Exporter;
use crate::audit::retention::{Held, Pass, RememberClock};
use crate::audit::verify::Verifier;
use crate::background::{retain, seal};
use crate::model::event::SealedRow;
use crate::store::{AuditFilter, CheckpointFilter, Store};
use serde_json::Value;
use std::sync::Arc;

pub(super) async fn a_trail_still_verifies_after_its_retention(fresh: &impl Fresh) {
    let (store, _guard) = fresh.open();
    let signer = Signer::from_seed(&[7; 32]);
    let (_, key) = payer(store.as_ref(), 100).await;
    // Three days' trails, of which the last day is retained.
    for (day, clock) in [|| at(0), || at(86_400), || at(10 * 86_400)].into_iter().enumerate() {
        store.run(reserve(&format!("r{day}"), &key, 1, at(1))).await.unwrap();
        seal::seal_at(store.as_ref(), &signer, clock).await.unwrap();
    }
    let before = store.audit_status().await.unwrap();
    remove(store.as_ref(), 10).await;
    let status = store.audit_status().await.unwrap();
    assert_eq!((before.removed, status.removed, status.newest), (0, before.newest - 1, before.newest + 1));
    assert_eq!(store.audit_rows(0, 100).await.unwrap().len(), 2);

    let mut verifier = Verifier::new(None, None);
    let mut exporter = Exporter::new(None);
    for checkpoint in store.checkpoints(CheckpointFilter::default()).await.unwrap() {
        let is_kept = checkpoint.leaves.is_some();
        let rows =
            if is_kept { store.audit_rows(checkpoint.first - 1, 1).await.unwrap() } else { Vec::new() };
        for line in exporter.batch(&checkpoint, &rows).lines() {
            verifier.line(line.as_bytes()).unwrap();
        }
    }
    let unsealed = store.audit_rows(before.newest, 10).await.unwrap();
    for line in exporter.unsealed(&unsealed).lines() {
        verifier.line(line.as_bytes()).unwrap();
    }
    verifier.line(exporter.end(&signer, status.removed, 0, at(11 * 86_400)).trim_end().as_bytes()).unwrap();
    let summary = verifier.finish().unwrap();
    assert_eq!((summary.rows, summary.unsealed, summary.removed), (2, 1, status.removed));
    // A second removal finds nothing.
    remove(store.as_ref(), 10).await;
    assert_eq!(store.audit_status().await.unwrap(), status);
}

pub(super) async fn rows_are_removed_by_age_from_the_oldest_whatever_clocks_sealed_them(fresh: &impl Fresh) {
    let (store, _guard) = fresh.open();
    let signer = Signer::from_seed(&[7; 32]);
    let (_, key) = payer(store.as_ref(), 100).await;
    // The second batch was sealed by a clock that was far ahead of the third's.
    for (round, clock) in [|| at(0), || at(20 * 86_400), || at(86_400)].into_iter().enumerate() {
        store.run(reserve(&format!("r{round}"), &key, 1, at(1))).await.unwrap();
        seal::seal_at(store.as_ref(), &signer, clock).await.unwrap();
    }
    let sealed = store.checkpoints(CheckpointFilter::default()).await.unwrap();
    let kept = async || {
        let checkpoints = store.checkpoints(CheckpointFilter::default()).await.unwrap();
        checkpoints.into_iter().map(|checkpoint| checkpoint.leaves.is_some()).collect::<Vec<_>>()
    };
    remove(store.as_ref(), 10).await;
    assert_eq!(kept().await, [false, true, true]);
    assert_eq!(store.audit_status().await.unwrap().removed, sealed[0].last);
    assert_eq!(store.audit_rows(0, 1).await.unwrap()[0].sequence, sealed[1].first);
    // A batch that waits for an older one is not removed again and again.
    let newest = store.audit_status().await.unwrap().newest;
    remove(store.as_ref(), 10).await;
    assert_eq!(store.audit_status().await.unwrap().newest, newest);
    remove(store.as_ref(), 40).await;
    assert_eq!(kept().await, [false, false, false]);
}

pub(super) async fn a_long_trail_is_removed_from_its_beginning_some_batches_at_a_time(fresh: &impl Fresh) {
    let (store, _guard) = fresh.open();
    let signer = Signer::from_seed(&[7; 32]);
    let (tenant, key) = payer(store.as_ref(), 100).await;
    let report = |rows| report_of((0..rows).map(|_| decision(&tenant, &key, 1)).collect());
    for _ in 0..6 {
        store.run(report(1000)).await.unwrap();
    }
    seal::seal_at(store.as_ref(), &signer, || at(0)).await.unwrap();
    let old = store.audit_status().await.unwrap().sealed;
    // A clock that was set back sealed rows after a retained batch; they stay with it.
    for clock in [|| at(10 * 86_400), || at(0)] {
        store.run(report(1)).await.unwrap();
        seal::seal_at(store.as_ref(), &signer, clock).await.unwrap();
    }

    let (mut after, mut removed) = (None, 0);
    let mut removals = 0;
    while let Some(batches) = retain::remove_some(store.as_ref(), at(86_400), after, at(0)).await.unwrap() {
        removals += 1;
        let number = batches.last;
        let status = store.audit_status().await.unwrap();
        assert!((1..=5120).contains(&(status.removed - removed)), "{} and then {}", removed, status.removed);
        assert_eq!(kept(store.as_ref()).await, (number + 1..=8).collect::<Vec<_>>());
        assert_eq!(store.audit_rows(0, 1).await.unwrap()[0].sequence, status.removed + 1);
        (after, removed) = (Some(number), status.removed);
    }
    assert_eq!((after, removed), (Some(6), old));
    let facts = AuditFilter { kind: Some("audit_removed".to_owned()), limit: 10, ..AuditFilter::default() };
    let facts = store.audit(facts).await.unwrap();
    assert_eq!(facts.len(), removals);
    let detail = |fact: &SealedRow| serde_json::from_str::<Value>(fact.detail.get()).unwrap();
    assert_eq!(facts.iter().map(|fact| detail(fact)["rows"].as_u64().unwrap()).sum::<u64>(), old);
}

pub(super) async fn a_clock_that_is_ahead_removes_nothing(fresh: &impl Fresh) {
    let (store, _guard) = fresh.open();
    let store = store.as_ref();
    let signer = Signer::from_seed(&[7; 32]);
    let now = |day: u64| at(day * 86_400);
    let starts = async |day| store.run(RememberClock { now: now(day) }).await.unwrap();
    let passes = async |day, confirmed: Option<u64>| {
        let confirmed = confirmed.map(now);
        let pass = Pass { days: Some(30), now: now(day), database: None, ran_millis: 1000, confirmed };
        retain::pass(store, pass).await.unwrap()
    };
    starts(0).await;
    payer(store, 100).await;
    seal::seal_at(store, &signer, || at(0)).await.unwrap();
    let rows = store.audit_status().await.unwrap().newest;
    // Repeatedly: rows that a start writes with its clock do not make the next start trust it.
    for _ in 0..3 {
        starts(400).await;
        let mut written = report_of(Vec::new());
        Arc::make_mut(&mut written.report).decisions_dropped = 1;
        written.now = now(400);
        store.run(written).await.unwrap();
        seal::seal_at(store, &signer, || at(400 * 86_400)).await.unwrap();
        let Err(Held::ClockAhead(last)) = passes(400, None).await else { panic!("rows went") };
        assert!(last < now(1), "{last}");
        assert_eq!(store.audit_status().await.unwrap().removed, 0);
    }
    // After the clock is corrected, it continues day by day.
    for day in [0, 1, 5, 8, 15, 22, 29] {
        assert_eq!(passes(day, None).await, Ok(0));
    }
    assert_eq!(passes(29 + 30, None).await, Err(Held::ClockAhead(now(29))));
    assert_eq!(passes(29 + 30, Some(29)).await, Err(Held::ClockAhead(now(29))));
    assert_eq!(passes(29 + 30, Some(29 + 30)).await, Ok(rows));
    let facts = AuditFilter { kind: Some("audit_removed".to_owned()), limit: 10, ..AuditFilter::default() };
    assert_eq!(store.audit(facts).await.unwrap().len(), 1);
    // From now on, far fewer days are retained.
    let fewer =
        Pass { days: Some(1), now: now(402), database: None, ran_millis: 400 * 86_400_000, confirmed: None };
    assert!(matches!(retain::pass(store, fewer).await.unwrap(), Err(Held::FarMore(_))));
}

/// On this day five days are retained, and the operator confirms it.
async fn remove(store: &Store, day: u64) {
    let now = at(day * 86_400);
    let pass = Pass { days: Some(5), now, database: None, ran_millis: 0, confirmed: Some(now) };
    retain::pass(store, pass).await.unwrap().unwrap();
}

/// The numbers of the batches that still have their rows.
async fn kept(store: &Store) -> Vec<u64> {
    let filter = CheckpointFilter { kept_only: true, ..CheckpointFilter::default() };
    store.checkpoints(filter).await.unwrap().iter().map(|checkpoint| checkpoint.number).collect()
}
