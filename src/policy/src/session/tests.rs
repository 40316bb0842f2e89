//! The client's id verifies for its tenant and service, and nothing else does.

#![allow(clippy::arithmetic_side_effects, clippy::string_slice)]

use super::*;
use proptest::prelude::*;

const DAY: u64 = 86_400;

fn secrets(count: u8) -> Vec<SessionSecret> {
    let at = |number: u8| Timestamp::from_millis(0).plus_seconds(DAY * u64::from(number));
    (0..count).map(|number| SessionSecret::new([number; 32], at(number))).collect()
}

fn day(number: u64) -> Timestamp {
    Timestamp::from_millis(1).plus_seconds(DAY * number)
}

/// As MCP allows them, with many of the characters of marks.
fn ids() -> impl Strategy<Value = String> {
    prop_oneof!["[!-~]{1,300}", "[A-Za-z0-9_.-]{1,60}", "[.]{1,4}"]
}

proptest! {
    #[test]
    fn an_id_verifies_unchanged_and_only_for_its_tenant_and_service(id in ids(), other in ids(), tenant in "[a-z_0-9]{0,8}", service in "[a-z-]{0,8}") {
        let all = secrets(3);
        let signed = sign(&all, day(1), &tenant, &service, id.as_bytes()).unwrap();
        prop_assert!(signed.bytes().all(|byte| byte.is_ascii_graphic()));
        prop_assert_eq!(verify(&all, &tenant, &service, signed.as_bytes()), Some(id.as_str()));
        let strange = verify(&all, &format!("{tenant}x"), &service, signed.as_bytes());
        prop_assert_eq!(strange, None);
        prop_assert_eq!(verify(&all, &tenant, &format!("{service}x"), signed.as_bytes()), None);
        prop_assert_eq!(verify(&all, &service, &tenant, signed.as_bytes()).is_some(), service == tenant);
        // Parts that move between tenant, service and id: together they are the same text.
        if let Some(last) = tenant.chars().last() {
            let (tenant, service) = (&tenant[..tenant.len() - 1], format!("{last}{service}"));
            prop_assert_eq!(verify(&all, tenant, &service, signed.as_bytes()), None);
        }
        let mark = &signed[id.len()..];
        prop_assert_eq!(verify(&all, &tenant, &service, format!("{other}{mark}").as_bytes()).is_some(), other == id);
        prop_assert_eq!(verify(&all, &tenant, &service, id.as_bytes()), None);
    }

    #[test]
    fn no_altered_id_verifies(id in ids(), place: prop::sample::Index, byte: u8, cut in 1usize..40) {
        let all = secrets(2);
        let signed = sign(&all, day(1), "ten_1", "studio", id.as_bytes()).unwrap();
        let is_valid = |bytes: &[u8]| verify(&all, "ten_1", "studio", bytes).is_some();
        let mut changed = signed.clone().into_bytes();
        let place = place.index(changed.len());
        changed[place] = byte;
        prop_assert_eq!(is_valid(&changed), byte == signed.as_bytes()[place]);
        for with in [b'.', b'=', b'A', b' ', byte] {
            let mut longer = signed.clone().into_bytes();
            longer.insert(place, with);
            // Doubling a byte makes the id invalid too.
            prop_assert!(!is_valid(&longer));
            prop_assert!(!is_valid(&[signed.as_bytes(), &[with]].concat()));
            prop_assert!(!is_valid(&[&[with], signed.as_bytes()].concat()));
        }
        prop_assert!(!is_valid(&signed.as_bytes()[..signed.len().saturating_sub(cut)]));
        prop_assert!(!is_valid(&signed.as_bytes()[cut.min(signed.len())..]));
        let (upper, lower) = (signed.to_ascii_uppercase(), signed.to_ascii_lowercase());
        prop_assert_eq!(is_valid(upper.as_bytes()), upper == signed);
        prop_assert_eq!(is_valid(lower.as_bytes()), lower == signed);
        for separator in [":", "_", "-", "..", ""] {
            let other = signed.rsplit_once('.').map(|(id, mark)| format!("{id}{separator}{mark}")).unwrap();
            prop_assert!(!is_valid(other.as_bytes()), "{}", other);
        }
    }

    #[test]
    fn arbitrary_ids_are_signed_or_refused_and_never_verified(id: Vec<u8>, count in 0u8..3) {
        let all = secrets(count);
        prop_assert_eq!(verify(&all, "ten_1", "studio", &id), None);
        let is_sent = count > 0 && !id.is_empty() && id.iter().all(u8::is_ascii_graphic);
        prop_assert_eq!(sign(&all, day(1), "ten_1", "studio", &id).is_some(), is_sent);
    }
}

#[test]
fn the_newest_that_may_sign_signs_and_all_verify() {
    let all = secrets(3);
    let by = |secrets: &[SessionSecret], day| sign(secrets, day, "ten_1", "studio", b"s").unwrap();
    let signed = by(&all, day(1));
    assert_eq!(signed, by(&all[1..2], day(1)), "the one that follows it does not sign yet");
    assert_eq!(by(&all, day(2)), by(&all[2..], day(2)));
    // A clock that is behind: the oldest secret is the one that all have.
    assert_eq!(by(&all[1..], Timestamp::from_millis(0)), by(&all[1..2], day(1)));
    let knows = |secrets: &[SessionSecret]| verify(secrets, "ten_1", "studio", signed.as_bytes()).is_some();
    assert!(knows(&all) && knows(&all[..2]) && knows(&all[1..]));
    assert!(!knows(&all[..1]) && !knows(&all[2..]) && !knows(&[]));
}
