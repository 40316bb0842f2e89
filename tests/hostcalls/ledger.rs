//! The ledger of the filter: it answers each call at once and as the real one would, without accounts.

use super::host::Call;
use protocol::api_key::KeyHash;
use protocol::filter::{
    self as api, Change, Changes, PolicyAnswer, Report, ReportAnswer, ReserveAnswer, ReserveRequest,
    ResolveRequest,
};
use protocol::key::KeyRecord;
use protocol::lease::{Grant, LEASE_TTL_MS, LEASES_PATH, Round, RoundAnswer, SHARE_TTL_MS, Statement};
use protocol::problem::Problem;
use protocol::session::SessionSecret;
use protocol::{Credits, LeaseId, Timestamp};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// The only secret of sessions.
pub const SESSION_SECRET: [u8; 32] = [7; 32];

/// The ledger.
pub struct Ledger {
    /// The policy as the ledger sends it.
    pub policy: String,
    /// The keys it knows.
    pub keys: HashMap<KeyHash, KeyRecord>,
    /// Decisions that were reported.
    pub decisions: usize,
    /// Settlements that were reported.
    pub settlements: usize,
    /// The number of lookups.
    pub lookups: usize,
    /// The changes, in order.
    pub changes: Vec<Change>,
    /// Reservations that were made.
    pub reserved: u64,
    /// How often the change feed was answered.
    pub heard: usize,
    /// The last statement of each lease.
    pub accounts: BTreeMap<LeaseId, Statement>,
}

/// A status and a body.
pub type Answer = (u16, Vec<u8>);

impl Ledger {
    /// A ledger without keys.
    pub fn new(policy: String) -> Ledger {
        Ledger {
            policy,
            keys: HashMap::new(),
            decisions: 0,
            settlements: 0,
            lookups: 0,
            changes: Vec::new(),
            reserved: 0,
            heard: 0,
            accounts: BTreeMap::new(),
        }
    }

    /// Answers a call; `None` while the change feed is held open.
    pub fn answer(&mut self, call: &Call, nanos: u64, wall_ms: u64) -> Option<Answer> {
        let path = call.path();
        match path.split('?').next().unwrap_or_default() {
            api::POLICY_PATH => {
                let (tag, policy) = ("1".to_owned(), self.policy.clone());
                let session_secrets = vec![SessionSecret::new(SESSION_SECRET, Timestamp::from_millis(0))];
                Some(json(200, &PolicyAnswer { tag, policy, session_secrets }))
            }
            api::CHANGES_PATH => {
                let wait_ms = path.split("wait_ms=").nth(1).map_or(0, |wait| wait.parse().expect("a number"));
                let is_over = nanos / 1_000_000 >= call.at_ms + wait_ms;
                let after = path.split("after=").nth(1).and_then(|after| after.split('&').next());
                let after = after.map_or(self.changes.len(), |after| after.parse().expect("a number"));
                let changes = self.changes[after..].to_vec();
                (is_over || !changes.is_empty()).then(|| {
                    self.heard += 1;
                    json(200, &Changes { next: self.changes.len() as u64, reset: false, envoys: 1, changes })
                })
            }
            api::RESOLVE_PATH => Some(self.resolve(&read(call))),
            api::RESERVE_PATH => {
                self.reserved += 1;
                let ReserveRequest { reservation_id, ttl_seconds, .. } = read(call);
                let expires_at = Timestamp::from_millis(wall_ms).plus_seconds(ttl_seconds.into());
                let available = Credits::new(1000).expect("it is in bounds");
                Some(json(201, &ReserveAnswer { reservation_id, expires_at, available }))
            }
            api::REPORT_PATH => Some(self.report(read(call))),
            LEASES_PATH => Some(self.lease(read(call))),
            other => panic!("{other} is no call of the filter's"),
        }
    }

    fn resolve(&mut self, request: &ResolveRequest) -> Answer {
        self.lookups += 1;
        match self.keys.get(&request.hash) {
            Some(record) => json(200, record),
            None => {
                let title = "Not found".to_owned();
                let kind = Problem::urn("not_found");
                json(404, &Problem { kind, status: 404, title, ..Problem::default() })
            }
        }
    }

    fn report(&mut self, mut report: Report) -> Answer {
        assert_eq!(report.decisions_dropped, 0);
        let decisions = report.unpack().expect("rows have their subjects");
        self.decisions += decisions.len();
        self.decisions += report.counted.iter().map(|counted| counted.count as usize).sum::<usize>();
        self.settlements += report.settlements.len();
        let (settled, recorded) = (report.settlements.len() as u64, decisions.len() as u64);
        json(200, &ReportAnswer { settled, recorded })
    }

    fn lease(&mut self, round: Round) -> Answer {
        self.accounts.extend(round.accounts.iter().map(|account| (account.lease_id, account.clone())));
        let leases = round.asks.into_iter().map(|ask| Grant { lease_id: ask.lease_id, credits: ask.credits });
        let ended =
            round.accounts.into_iter().filter(|account| account.closed).map(|account| account.lease_id);
        let answer = RoundAnswer {
            lease_ttl_ms: LEASE_TTL_MS,
            share_ttl_ms: SHARE_TTL_MS,
            leases: leases.collect(),
            ended: ended.collect(),
            shares: Vec::new(),
        };
        json(200, &answer)
    }
}

fn read<B: serde::de::DeserializeOwned>(call: &Call) -> B {
    serde_json::from_slice(&call.body).expect("the filter writes what the protocol says")
}

fn json(status: u16, body: &impl Serialize) -> Answer {
    (status, serde_json::to_vec(body).expect("it can be written"))
}
