//! Runs the benchmark once, so that its statements stay valid for the current schema.

use super::*;

#[test]
fn every_contestant_writes_on_both_databases() {
    let directory = tempfile::tempdir().unwrap();
    for kind in [Kind::Sqlite, Kind::Postgres] {
        let options = Options {
            store: Some(kind),
            rounds: 1,
            turn_ms: 50,
            callers: 8,
            tenants: 2,
            directory: directory.path().to_owned(),
            json: false,
        };
        let report = measure(kind, &options).unwrap();
        let Round { ledger, ceiling, one_by_one } = report.median;
        assert!(ledger > 0.0 && ceiling > 0.0 && one_by_one > 0.0, "{report:?}");
        assert!(report.reserve.max_ms > 0.0 && report.commit.max_ms > 0.0, "{report:?}");
    }
}
