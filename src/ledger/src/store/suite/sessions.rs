//! The secrets of sessions as rows.

use super::Fresh;
use crate::identity::sessions::Rotate;
use crate::policies::in_force::PutInForce;
use protocol::filter::Change;
use protocol::session::SessionSecret;
use protocol::{PolicyVersion, Timestamp};

/// The next rotation finds what the previous one created, and the feed reports it.
pub(super) async fn secrets_are_rotated_and_every_filter_is_notified(fresh: &impl Fresh) {
    let (store, guard) = fresh.open();
    let version = PolicyVersion::parse("v1").unwrap();
    let day = |days: u64| Timestamp::from_millis(1).plus_seconds(days.saturating_mul(86_400));
    let take = PutInForce {
        version: version.clone(),
        document: "{}".into(),
        only_over: None,
        actor: "me".into(),
        now: day(0),
    };
    store.run(take).await.unwrap();
    let look = |byte: u8, days| Rotate { seed: [byte; 32], key_stale_seconds: 120, now: day(days) };
    assert_eq!(store.session_secrets().await.unwrap(), []);
    let (one, two) = tokio::join!(store.run(look(1, 0)), store.run(look(2, 0)));
    let first = one.unwrap();
    assert_eq!((first.len(), two.unwrap()), (1, first.clone()));
    for (days, secrets, changes) in [(0, 1, 0), (6, 1, 0), (7, 2, 1), (8, 2, 0), (14, 3, 1), (15, 2, 1)] {
        let before = *store.newest_change().borrow();
        let given = store.run(look(3 + days as u8, days)).await.unwrap();
        assert_eq!((given.len(), store.session_secrets().await.unwrap()), (secrets, given), "{days}");
        let changes_seen = store.changes(before, 10).await.unwrap().changes;
        assert_eq!(changes_seen.len(), changes, "{days}");
        assert!(
            changes_seen.iter().all(|(_, change)| *change == Change::Policy { version: version.clone() })
        );
    }
    let left: Vec<SessionSecret> = store.session_secrets().await.unwrap();
    assert!(!left.contains(&first[0]) && left[0].bytes() == &[10; 32], "the oldest went");
    assert_eq!(fresh.broken_laws(&guard), Vec::<String>::new());
}
