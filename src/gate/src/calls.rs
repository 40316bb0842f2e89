//! Calls to the ledger: builds each request and interprets its answer.

use crate::config::Config;
use policy::exchange::{IssueAnswered, ReserveAnswered};
use policy::lease::Statement;
use policy::window::Monotonic;
use protocol::api_key::KeyHash;
use protocol::filter::{
    self as api, IssueRequest, Issued, Report, ReserveAnswer, ReserveRequest, ResolveRequest,
};
use protocol::key::KeyRecord;
use protocol::lease::{LEASES_PATH, Round};
use protocol::problem::Problem;
use protocol::reason::{PaidFrom, Shortfall};
use protocol::{Credits, InstanceId, LeaseId, ReservationId};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// What a call in flight is for.
#[derive(Debug)]
pub enum Purpose {
    /// The policy document.
    Policy,
    /// The change feed.
    Changes,
    /// A key's record, and how many changes had been applied when the call was sent.
    Resolve { hash: KeyHash, changes_applied: u64 },
    /// A reservation for a stream.
    Reserve { stream_id: u32, reservation_id: ReservationId },
    /// A batch of settlements and decisions.
    Report,
    /// A round about leases and shares.
    Round(RoundContents),
    /// A key that an agent requested on a stream.
    Issue { stream_id: u32 },
}

/// The contents of a round in flight.
#[derive(Debug, Default)]
pub struct RoundContents {
    pub sent: Monotonic,
    /// Tenant and lease id of each lease asked for.
    pub leases: Vec<(u64, LeaseId)>,
    pub accounts: Vec<Statement>,
    pub shares: Vec<ShareKey>,
    /// The owner of the limits for which streams wait.
    pub awaited: Option<u64>,
}

/// Identifies a share that was asked for.
#[derive(Debug)]
pub struct ShareKey {
    pub owner: u64,
    pub limit_id: u32,
    pub revision: u64,
}

/// A call that can be sent.
pub struct Call {
    /// What the call is for.
    pub purpose: Purpose,
    /// What is sent.
    pub request: Request,
}

/// A request to the ledger, as the host sends it.
pub struct Request {
    ledger: Arc<Config>,
    method: &'static str,
    path: String,
    if_none_match: Option<String>,
    body: Option<Vec<u8>>,
    timeout_ms: u64,
}

/// The answer to a call.
#[derive(Default)]
pub struct Answer {
    /// HTTP status; 0 if no complete answer arrived.
    pub status: u16,
    /// The body; empty if there is none.
    pub body: Vec<u8>,
}

impl Answer {
    /// The parsed body, if the status is one of `statuses`.
    pub fn read<Body: DeserializeOwned>(&self, statuses: &[u16]) -> Option<Body> {
        statuses.contains(&self.status).then(|| policy::json::read(&self.body).ok())?
    }

    /// True if the answer is the ledger's own problem document with this status and code.
    fn is_problem(&self, status: u16, code: &str) -> bool {
        self.problem(status, code).is_some()
    }

    /// The ledger's own problem document, if the answer is one with this status and code.
    fn problem(&self, status: u16, code: &str) -> Option<Told> {
        self.read(&[status]).filter(|problem: &Told| problem.kind == Problem::urn(code))
    }
}

/// What the filter reads of a [`Problem`].
#[derive(Deserialize)]
struct Told {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    available: Option<Credits>,
    #[serde(default)]
    paid_from: Option<PaidFrom>,
}

/// The ledger could not be called.
#[derive(Debug, Clone, Copy)]
pub struct NotCalled;

impl Call {
    fn get(purpose: Purpose, config: &Arc<Config>, path: String, timeout_ms: u64) -> Call {
        let (ledger, method) = (config.clone(), "GET");
        Call {
            purpose,
            request: Request { ledger, method, path, if_none_match: None, body: None, timeout_ms },
        }
    }

    fn post(
        purpose: Purpose,
        config: &Arc<Config>,
        path: &str,
        body: &impl serde::Serialize,
        timeout_ms: u64,
    ) -> Call {
        let (ledger, method, path) = (config.clone(), "POST", path.to_owned());
        // Serialising these types can't fail; if it did, the ledger would refuse the empty body.
        let body = Some(serde_json::to_vec(body).unwrap_or_default());
        Call { purpose, request: Request { ledger, method, path, if_none_match: None, body, timeout_ms } }
    }

    /// Fetches the policy, unless it still has the tag `known`.
    pub fn policy(config: &Arc<Config>, known: Option<&str>) -> Call {
        let timeout_ms = u64::from(config.ledger_timeout_ms).saturating_mul(2);
        let mut call = Call::get(Purpose::Policy, config, api::POLICY_PATH.to_owned(), timeout_ms);
        call.request.if_none_match = known.map(|tag| format!("\"{tag}\""));
        call
    }

    /// Fetches changes after a position. The ledger holds the call open for up to `wait_ms`.
    pub fn changes(config: &Arc<Config>, instance: &InstanceId, after: Option<u64>, wait_ms: u64) -> Call {
        let mut path = format!("{}?instance={instance}", api::CHANGES_PATH);
        if let Some(after) = after {
            path.push_str(&format!("&after={after}&wait_ms={wait_ms}"));
        }
        Call::get(Purpose::Changes, config, path, wait_ms.saturating_add(u64::from(config.ledger_timeout_ms)))
    }

    /// Fetches the record of the key with this hash.
    pub fn resolve(config: &Arc<Config>, hash: KeyHash, changes_applied: u64) -> Call {
        let purpose = Purpose::Resolve { hash, changes_applied };
        Call::post(
            purpose,
            config,
            api::RESOLVE_PATH,
            &ResolveRequest { hash },
            config.ledger_timeout_ms.into(),
        )
    }

    /// Asks to reserve credits for a stream.
    pub fn reserve(config: &Arc<Config>, stream_id: u32, request: &ReserveRequest) -> Call {
        let purpose = Purpose::Reserve { stream_id, reservation_id: request.reservation_id };
        Call::post(purpose, config, api::RESERVE_PATH, request, config.ledger_timeout_ms.into())
    }

    /// Asks to issue a key for an agent that waits on a stream.
    pub fn issue(config: &Arc<Config>, stream_id: u32, request: &IssueRequest) -> Call {
        let purpose = Purpose::Issue { stream_id };
        Call::post(purpose, config, api::KEYS_PATH, request, config.ledger_timeout_ms.into())
    }

    /// Delivers a batch of settlements and decisions.
    pub fn report(config: &Arc<Config>, report: &Report) -> Call {
        let timeout_ms = u64::from(config.ledger_timeout_ms).saturating_mul(2);
        Call::post(Purpose::Report, config, api::REPORT_PATH, report, timeout_ms)
    }

    /// Sends a round about leases and shares.
    pub fn round(config: &Arc<Config>, round: &Round, asked: RoundContents) -> Call {
        Call::post(Purpose::Round(asked), config, LEASES_PATH, round, config.ledger_timeout_ms.into())
    }

    /// Index of this kind in [`crate::metrics::Metrics::callouts`].
    pub fn kind(&self) -> usize {
        match self.purpose {
            Purpose::Policy => 0,
            Purpose::Changes => 1,
            Purpose::Resolve { .. } => 2,
            Purpose::Reserve { .. } => 3,
            Purpose::Report => 4,
            Purpose::Issue { .. } => 5,
            Purpose::Round(_) => 6,
        }
    }
}

impl Request {
    /// The headers of the request.
    pub fn headers(&self) -> Vec<(&str, &str)> {
        let mut headers = vec![
            (":method", self.method),
            (":path", self.path.as_str()),
            (":authority", self.ledger.ledger_authority.as_str()),
            ("authorization", self.ledger.authorization.as_str()),
        ];
        if self.body.is_some() {
            headers.push(("content-type", "application/json"));
        }
        if let Some(version) = &self.if_none_match {
            headers.push(("if-none-match", version));
        }
        headers
    }

    /// The body of the request.
    pub fn body(&self) -> Option<&[u8]> {
        self.body.as_deref()
    }

    /// The cluster of Envoy's that leads to the ledger.
    pub fn cluster(&self) -> &str {
        &self.ledger.ledger_cluster
    }

    /// How long to wait for the answer.
    pub fn timeout_ms(&self) -> u64 {
        self.timeout_ms
    }
}

/// Interprets the answer to a resolve call: `Ok(None)` if the ledger does not know the hash. Only the ledger's own
/// problem document counts: a 404 from something else, such as a proxy, says nothing about a key.
pub fn resolved(answer: &Answer) -> Result<Option<KeyRecord>, NotCalled> {
    match answer.read(&[200]) {
        Some(record) => Ok(Some(record)),
        None if answer.is_problem(404, "not_found") => Ok(None),
        None => Err(NotCalled),
    }
}

/// Interprets the answer to a reserve call. Credits are reserved only if the ledger confirms this reservation id; any
/// answer that is not the ledger's own leaves the result unknown.
pub fn reserved(answer: &Answer, asked: ReservationId) -> ReserveAnswered {
    match answer.read(&[200, 201]) {
        Some(ReserveAnswer { reservation_id, .. }) if reservation_id == asked => ReserveAnswered::Reserved,
        None => match answer.problem(402, "quota_exceeded") {
            Some(Told { available: Some(available), paid_from: Some(paid_from), .. }) => {
                ReserveAnswered::QuotaExceeded(Some(Shortfall { available, paid_from }))
            }
            Some(_) => ReserveAnswered::QuotaExceeded(None),
            None if answer.is_problem(403, "key_inactive") => ReserveAnswered::KeyInactive,
            None => ReserveAnswered::Unavailable,
        },
        Some(_) => ReserveAnswered::Unavailable,
    }
}

/// Interprets the answer to a request for a key.
pub fn issued(answer: &Answer) -> IssueAnswered {
    match answer.read::<Issued>(&[201]) {
        Some(issued) => IssueAnswered::Issued(Box::new(issued)),
        None if answer.is_problem(402, "quota_exceeded") => IssueAnswered::TooMany,
        None if answer.is_problem(403, "key_inactive") => IssueAnswered::KeyInactive,
        None if answer.is_problem(403, "forbidden") => IssueAnswered::NotGranted,
        None => IssueAnswered::Unavailable,
    }
}

/// True if the ledger itself rejected a batch permanently, so that sending it again is useless.
pub fn is_refused(answer: &Answer) -> bool {
    let is_its_own = |problem: Told| problem.kind.starts_with(&Problem::urn(""));
    answer.read(&[400, 413, 422]).is_some_and(is_its_own)
}
