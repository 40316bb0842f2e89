//! The chain of batches: what tampering is found, and what an honest chain proves.

#![allow(clippy::arithmetic_side_effects)]

use super::*;
use proptest::prelude::*;
use protocol::admin::AuditRow;
use serde_json::value::RawValue;

fn signer() -> Signer {
    Signer::from_seed(&[7; 32])
}

fn rows(count: u64) -> Vec<AuditRow<Box<RawValue>>> {
    (1..=count)
        .map(|sequence| AuditRow {
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

/// An export of batches of these sizes, the last being not sealed.
fn export(batches: &[usize], unsealed: usize) -> Vec<String> {
    let signer = signer();
    let all = rows((batches.iter().sum::<usize>() + unsealed).try_into().unwrap());
    let mut rest = all.as_slice();
    let mut exporter = Exporter::after(0);
    let mut text = String::new();
    let mut head = CheckpointHead::NONE;
    for size in batches {
        let (batch, later) = rest.split_at(*size);
        let leaves: Vec<Digest> = batch.iter().map(|row| leaf(row_line(row).as_bytes())).collect();
        let checkpoint = signer.seal(head, &leaves, Timestamp::from_millis(1_700_000_900_000)).unwrap();
        head = checkpoint.head();
        text.push_str(&exporter.batch(&checkpoint, batch));
        rest = later;
    }
    text.push_str(&exporter.unsealed(rest));
    text.push_str(&exporter.end(&signer, 0, 3, Timestamp::from_millis(1_700_000_900_001)));
    text.lines().map(str::to_owned).collect()
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
fn a_whole_export_is_faultless_and_says_what_it_holds() {
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
fn a_trail_that_was_cut_or_signed_by_another_is_found() {
    let whole = export(&[2, 2], 1);
    assert!(matches!(verify(&whole[..whole.len() - 1]), Err(Fault::End(_))));
    // A batch with its checkpoint, at the begin and at the end of the sealed ones.
    assert_eq!(verify(&whole[3..]), Err(Fault::Missing(1)));
    let without_second: Vec<String> = whole.iter().take(3).chain(&whole[6..]).cloned().collect();
    assert_eq!(verify(&without_second), Err(Fault::Missing(3)));
    let mut stranger = Verifier::new(Some(["00".repeat(32)].into()), None);
    assert!(matches!(stranger.line(whole[0].as_bytes()), Err(Fault::Checkpoint(1, _))));
    let mut pinned = Verifier::new(None, Some(Digest::ZERO));
    whole.iter().for_each(|line| pinned.line(line.as_bytes()).unwrap());
    assert_eq!(pinned.finish(), Err(Fault::Lacks(Digest::ZERO)));
}

proptest! {
    #[test]
    fn no_row_can_be_changed_removed_put_in_or_moved_unseen(
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
    fn no_byte_of_a_checkpoint_or_the_end_can_be_changed_unseen(
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
