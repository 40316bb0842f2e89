//! The chain of batches: which tampering is detected, and what an intact chain proves.

#![allow(clippy::arithmetic_side_effects)]

use super::*;
use crate::audit::export::*;
use crate::audit::verify::*;
use crate::model::event::SealedRow;
use proptest::prelude::*;
use protocol::TenantId;
use protocol::audit::Outcome;
use serde_json::value::RawValue;
use std::ops::RangeInclusive;

fn signer() -> Signer {
    Signer::from_seed(&[7; 32])
}

fn rows(count: u64) -> Vec<SealedRow> {
    (1..=count)
        .map(|sequence| SealedRow {
            sequence,
            recorded_at: Timestamp::from_millis(1_700_000_000_000 + sequence),
            kind: "reserved".to_owned(),
            actor: "key_1".to_owned(),
            tenant_id: None,
            outcome: None,
            detail: RawValue::from_string(format!("{{\"credits\":{sequence}}}")).unwrap(),
        })
        .collect()
}

#[test]
fn the_sealed_bytes_of_a_row_are_the_same_in_every_release() {
    let whole = SealedRow {
        sequence: 7,
        recorded_at: Timestamp::from_millis(1_700_000_000_123),
        kind: "decision".to_owned(),
        actor: "key_1".to_owned(),
        tenant_id: Some(TenantId::parse("ten_1").unwrap()),
        outcome: Some(Outcome::Allowed),
        detail: RawValue::from_string(r#"{"b":1,"a":[2, 3]}"#.to_owned()).unwrap(),
    };
    let least = SealedRow { tenant_id: None, outcome: None, ..whole.clone() };
    for (row, line, digest) in [
        (
            whole,
            r#"{"sequence":7,"recorded_at":"2023-11-14T22:13:20.123Z","kind":"decision","actor":"key_1","tenant_id":"ten_1","outcome":"allowed","detail":{"b":1,"a":[2, 3]}}"#,
            "fa19587c4e0673871a5ac40096c70583780cd7f9fbd19e7db4273039439f4b64",
        ),
        (
            least,
            r#"{"sequence":7,"recorded_at":"2023-11-14T22:13:20.123Z","kind":"decision","actor":"key_1","detail":{"b":1,"a":[2, 3]}}"#,
            "f1b057d02bc67b1c80eadb98eb5b0266830b6fabe7a918bc619069bfaa421286",
        ),
    ] {
        assert_eq!(row_line(&row), line);
        assert_eq!(leaf(line.as_bytes()).to_string(), digest);
    }
}

/// An export of batches of these sizes; the last one is not sealed.
fn export(batches: &[usize], unsealed: usize) -> Vec<String> {
    Trail { unsealed, ..Trail::of(batches) }.export()
}

/// The contents of a database: batches of these sizes, unsealed rows, missing parts, and the row up to which it says
/// that rows were removed.
struct Trail<'a> {
    batches: &'a [usize],
    unsealed: usize,
    day: Option<Timestamp>,
    without_batches: RangeInclusive<u64>,
    without_rows: RangeInclusive<u64>,
    removed: u64,
}

#[allow(clippy::reversed_empty_ranges)]
const NONE: RangeInclusive<u64> = 1..=0;

impl Trail<'_> {
    fn of(batches: &[usize]) -> Trail<'_> {
        Trail { batches, unsealed: 0, day: None, without_batches: NONE, without_rows: NONE, removed: 0 }
    }

    fn export(self) -> Vec<String> {
        let signer = signer();
        let all = rows((self.batches.iter().sum::<usize>() + self.unsealed).try_into().unwrap());
        let mut rest = all.as_slice();
        let mut exporter = Exporter::new(self.day);
        let mut text = String::new();
        let mut head = CheckpointHead::NONE;
        for size in self.batches {
            let (mut batch, later) = rest.split_at(*size);
            let leaves: Vec<Digest> = batch.iter().map(|row| leaf(row_line(row).as_bytes())).collect();
            let mut checkpoint =
                signer.seal(head, &leaves, Timestamp::from_millis(1_700_000_900_000)).unwrap();
            head = checkpoint.head();
            rest = later;
            if self.without_rows.contains(&checkpoint.number) {
                (checkpoint.leaves, batch) = (None, &[]);
            }
            if !self.without_batches.contains(&checkpoint.number) {
                text.push_str(&exporter.batch(&checkpoint, batch));
            }
        }
        text.push_str(&exporter.unsealed(rest));
        text.push_str(&exporter.end(&signer, self.removed, 3, Timestamp::from_millis(1_700_000_900_001)));
        text.lines().map(str::to_owned).collect()
    }
}

fn verify(lines: &[String]) -> Result<Summary, Fault> {
    let trusted = [signer().public_key().to_owned()].into();
    let mut verifier = Verifier::new(Some(trusted), None);
    for line in lines {
        verifier.line(line.as_bytes())?;
    }
    verifier.finish()
}

fn is_row(line: &str) -> bool {
    !line.starts_with("{\"type\"")
}

#[test]
fn a_complete_export_verifies_and_reports_its_contents() {
    let found = verify(&export(&[3, 1, 4], 2)).unwrap();
    assert_eq!((found.rows, found.unsealed, found.checkpoints, found.decisions_dropped), (10, 2, 3, 3));
    assert_eq!(verify(&export(&[], 0)).unwrap().rows, 0);
}

#[test]
fn each_kind_of_tampering_is_named_with_its_row() {
    // Line 0 is a checkpoint, lines 1 to 5 are its rows.
    let changed = |lines: &mut Vec<String>| lines[3] = lines[3].replace("key_1", "key_2");
    let removed = |lines: &mut Vec<String>| drop(lines.remove(3));
    let twice = |lines: &mut Vec<String>| lines.insert(3, lines[3].clone());
    let put_in = |lines: &mut Vec<String>| {
        let forged = lines[3].replace("key_1", "key_2");
        lines.insert(3, forged);
    };
    let swapped = |lines: &mut Vec<String>| lines.swap(3, 5);
    let last_gone = |lines: &mut Vec<String>| drop(lines.remove(5));
    type Tamper<'a> = &'a dyn Fn(&mut Vec<String>);
    for (tamper, expected) in [
        (&changed as Tamper<'_>, Fault::Changed(3)),
        (&removed, Fault::Missing(3)),
        (&twice, Fault::Inserted(3)),
        (&put_in, Fault::Inserted(3)),
        (&swapped, Fault::Moved(5)),
        (&last_gone, Fault::Missing(5)),
    ] {
        let mut lines = export(&[5, 2], 1);
        tamper(&mut lines);
        assert_eq!(verify(&lines), Err(expected));
    }
}

#[test]
fn a_cut_trail_or_one_signed_by_another_key_is_detected() {
    let whole = export(&[2, 2], 1);
    assert!(matches!(verify(&whole[..whole.len() - 1]), Err(Fault::End(_))));
    // A batch with its checkpoint, at the beginning and at the end of the sealed ones.
    assert_eq!(verify(&whole[3..]), Err(Fault::Missing(1)));
    let without_second: Vec<String> = whole.iter().take(3).chain(&whole[6..]).cloned().collect();
    assert_eq!(verify(&without_second), Err(Fault::Missing(3)));
    let mut stranger = Verifier::new(Some(["00".repeat(32)].into()), None);
    let untrusted = Fault::Untrusted(1, signer().public_key().to_owned());
    assert_eq!(stranger.line(whole[0].as_bytes()), Err(untrusted));
    let mut pinned = Verifier::new(None, Some(Digest::ZERO));
    whole.iter().for_each(|line| pinned.line(line.as_bytes()).unwrap());
    assert_eq!(pinned.finish(), Err(Fault::Lacks(Digest::ZERO)));
}

#[test]
fn a_trail_has_its_first_checkpoint_unless_it_is_a_days_export() {
    let begun_late = |day, removed| Trail { without_batches: 1..=2, day, removed, ..Trail::of(&[2; 5]) };
    assert_eq!(verify(&begun_late(None, 0).export()), Err(Fault::Missing(1)));
    assert_eq!(verify(&begun_late(None, 2).export()), Err(Fault::Missing(3)));
    assert_eq!(verify(&begun_late(None, 4).export()), Err(Fault::Checkpoint(1, "is missing")));
    let day = Timestamp::of_day("2023-11-14").unwrap();
    for removed in [0, 4] {
        let found = verify(&begun_late(Some(day), removed).export()).unwrap();
        assert_eq!((found.rows, found.day), (6, Some(day)));
    }
    let end = begun_late(Some(day), 0).export().pop().unwrap();
    assert_eq!(verify(&[end]), Err(Fault::Checkpoint(3, "is missing")));
    // A day's export is not a complete one without its day, and not one of another day.
    for forged in ["", "\"day\":\"2023-11-15T00:00:00.000Z\","] {
        let mut lines = begun_late(Some(day), 0).export();
        let end = lines.last_mut().unwrap();
        let honest = format!("\"day\":\"{day}\",");
        assert!(end.contains(&honest), "{end}");
        *end = end.replace(&honest, forged);
        assert_eq!(verify(&lines), Err(Fault::End("was changed or is not signed")));
    }
}

#[test]
fn rows_may_be_missing_only_as_the_oldest_and_in_the_recorded_number() {
    let day = Timestamp::of_day("2023-11-14").ok();
    for (without_rows, removed, day, expected) in [
        (1..=3, 6, None, None),
        (7..=7, 0, None, Some(Fault::Missing(13))),
        (7..=7, 14, None, Some(Fault::Missing(13))),
        (1..=3, 4, None, Some(Fault::Missing(5))),
        (1..=3, 0, None, Some(Fault::Missing(1))),
        (1..=3, 8, None, Some(Fault::Kept(7))),
        (NONE, 2, None, Some(Fault::Kept(1))),
        (1..=8, 17, None, Some(Fault::Kept(17))),
        (1..=3, 6, day, None),
        (1..=8, 20, day, None),
        (1..=3, 4, day, Some(Fault::Missing(5))),
        (1..=3, 8, day, Some(Fault::Kept(7))),
        (7..=7, 14, day, Some(Fault::Missing(13))),
    ] {
        let said = format!("{without_rows:?} {removed} {day:?}");
        let lines = Trail { without_rows, removed, day, ..Trail::of(&[2; 8]) }.export();
        assert_eq!(verify(&lines).err(), expected, "{said}");
    }
}

#[test]
fn a_row_removed_before_the_next_seal_is_reported_missing() {
    let mut rows = rows(4);
    rows.remove(1);
    let leaves: Vec<Digest> = rows.iter().map(|row| leaf(row_line(row).as_bytes())).collect();
    let now = Timestamp::from_millis(1_700_000_900_000);
    let checkpoint = signer().seal(CheckpointHead::NONE, &leaves, now).unwrap();
    let mut exporter = Exporter::new(None);
    let mut text = exporter.batch(&checkpoint, &rows);
    text.push_str(&exporter.end(&signer(), 0, 0, now));
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    assert_eq!(verify(&lines), Err(Fault::Missing(2)));
}

proptest! {
    #[test]
    fn every_changed_removed_inserted_or_moved_row_is_detected(
        batches in proptest::collection::vec(1usize..6, 0..5),
        unsealed in 1usize..4,
        what in 0u8..4,
        (first, second) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        byte in any::<prop::sample::Index>(),
    ) {
        let mut lines = export(&batches, unsealed);
        let places: Vec<usize> = (0..lines.len()).filter(|place| is_row(&lines[*place])).collect();
        let (one, other) = (*first.get(&places), *second.get(&places));
        let before = lines.clone();
        match what {
            0 => {
                let mut bytes = lines[one].clone().into_bytes();
                let place = byte.index(bytes.len());
                bytes[place] = if bytes[place] == b'7' { b'8' } else { b'7' };
                lines[one] = String::from_utf8(bytes).unwrap();
            }
            1 => drop(lines.remove(one)),
            2 => {
                let copy = lines[one].replace("key_1", "key_2");
                lines.insert(other, copy);
            }
            _ => lines.swap(one, other),
        }
        prop_assume!(lines != before);
        let fault = verify(&lines);
        prop_assert!(fault.is_err(), "{what} at {one} and {other} was not found");
    }

    #[test]
    fn every_changed_byte_of_a_checkpoint_or_the_end_is_detected(
        place in any::<prop::sample::Index>(), byte in any::<prop::sample::Index>(),
    ) {
        let mut lines = export(&[3, 2], 2);
        let places: Vec<usize> = (0..lines.len()).filter(|place| !is_row(&lines[*place])).collect();
        let at = *place.get(&places);
        let mut bytes = lines[at].clone().into_bytes();
        let index = byte.index(bytes.len());
        bytes[index] = if bytes[index] == b'7' { b'8' } else { b'7' };
        lines[at] = String::from_utf8(bytes).unwrap();
        prop_assert!(verify(&lines).is_err());
    }
}
