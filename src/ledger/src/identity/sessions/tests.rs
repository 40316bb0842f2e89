//! Months of rotation: what any filter signs, every other verifies for the promised time.

#![allow(clippy::arithmetic_side_effects)]

use super::*;
use policy::session::{sign, verify};
use proptest::prelude::*;

const HOUR: u64 = 3600;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(1_000_000_000).plus_seconds(seconds)
}

/// The secrets after each rotation, and its time.
fn secrets_after(pauses: &[u64], key_stale_seconds: u32) -> Vec<(u64, Vec<SessionSecret>)> {
    let (mut rows, mut now, mut number) = (Rows::default(), 0, 0u8);
    let mut look = |pause: &u64| {
        (now, number) = (now + pause, number.wrapping_add(1));
        let rotate = Rotate { seed: [number; 32], key_stale_seconds, now: at(now) };
        (now, rotate.apply(&mut rows).unwrap())
    };
    pauses.iter().map(&mut look).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_session_lasts_its_promised_time_with_filters_of_maximum_delay(
        pauses in prop::collection::vec(600u64..6 * HOUR, 300..400),
        key_stale in prop_oneof![Just(120u32), Just(86_400)],
        late in 0u64..HOUR,
    ) {
        let looks = secrets_after(&pauses, key_stale);
        let late = if key_stale > 120 { late * 20 } else { late };
        // The secrets of a filter with this delay.
        let known = |now: u64| {
            looks.iter().rev().find(|(then, _)| *then + late <= now).or(looks.first()).map(|(_, secrets)| secrets.as_slice()).unwrap()
        };
        let newest = |now: u64| looks.iter().rev().find(|(then, _)| *then <= now).map(|(_, secrets)| secrets.as_slice()).unwrap();
        let last = looks.last().unwrap().0;
        for (begun, secrets) in &looks {
            prop_assert!((1..=4).contains(&secrets.len()), "{}", secrets.len());
            for signer in [known(*begun), newest(*begun)] {
                let signed = sign(signer, at(*begun), "ten_1", "studio", b"s").unwrap();
                for later in [0, HOUR, 3 * 24 * HOUR, VERIFIES_SECONDS - 1].map(|later| begun + later) {
                    if later <= last {
                        for verifier in [known(later), newest(later)] {
                            prop_assert!(verify(verifier, "ten_1", "studio", signed.as_bytes()).is_some(), "{begun} {later}");
                        }
                    }
                }
                let over = begun + SIGNS_SECONDS + VERIFIES_SECONDS + 2 * 24 * HOUR;
                if over <= last && key_stale == 120 {
                    prop_assert!(verify(newest(over), "ten_1", "studio", signed.as_bytes()).is_none());
                }
            }
        }
    }
}

#[test]
fn a_new_secret_signs_each_week_also_after_the_ledger_was_stopped() {
    let week = 7 * 24 * HOUR;
    let counts: Vec<usize> = secrets_after(&[0, HOUR, week - 2 * HOUR, HOUR, week - HOUR, HOUR], 120)
        .iter()
        .map(|(_, all)| all.len())
        .collect();
    assert_eq!(counts, [1, 1, 2, 2, 3, 2]);
    // After a year all but the last have expired, and the next one signs when every filter has it.
    let after = &secrets_after(&[0, 52 * week], 120)[1];
    assert_eq!(
        after.1.iter().map(|secret| secret.signs_from).collect::<Vec<_>>(),
        [at(0), at(52 * week + HOUR)]
    );
    // A clock that goes back creates no secret.
    let mut rows = Rows::default();
    let look =
        |rows: &mut Rows, now| Rotate { seed: [1; 32], key_stale_seconds: 120, now }.apply(rows).unwrap();
    let first = look(&mut rows, at(week));
    assert_eq!(look(&mut rows, at(0)), first);
}

#[test]
fn the_tag_changes_with_the_policy_and_the_secrets() {
    let version = |text| protocol::PolicyVersion::parse(text).unwrap();
    let secret = |byte, from| SessionSecret::new([byte; 32], at(from));
    let tags = [
        tag(&version("v1"), &[]),
        tag(&version("v2"), &[]),
        tag(&version("v1"), &[secret(1, 0)]),
        tag(&version("v1"), &[secret(2, 0)]),
        tag(&version("v1"), &[secret(1, 1)]),
        tag(&version("v1"), &[secret(1, 0), secret(2, 0)]),
        tag(&version("v1"), &[secret(2, 0), secret(1, 0)]),
    ];
    let different: std::collections::BTreeSet<&String> = tags.iter().collect();
    assert_eq!(different.len(), tags.len());
    assert!(!format!("{:?}", secret(7, 0)).contains('7'), "{:?}", secret(7, 0));
}
