//! Calls to the ledger: how each is written, and what its answer means.

use crate::config::Config;
use crate::host;
use crate::worker::Asked;
use policy::exchange::{IssueAnswered, ReserveAnswered};
use protocol::ReservationId;
use protocol::api_key::KeyHash;
use protocol::filter::{
    self as api, IssueRequest, Issued, Report, ReportAnswer, ReserveAnswer, ReserveRequest, ResolveRequest,
};
use protocol::key::KeyRecord;
use protocol::lease::{LEASES_PATH, Round};
use protocol::problem::Problem;
use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, MapType};
use std::time::Duration;

/// What a call in flight is for.
#[derive(Debug)]
pub enum Purpose {
    /// The policy document.
    Policy,
    /// The change feed.
    Changes,
    /// A key's record, and how many changes had been applied when it was asked for.
    Resolve { hash: KeyHash, changes_applied: u64 },
    /// A reservation for a stream.
    Reserve { stream_id: u32, reservation_id: ReservationId },
    /// A batch of settlements and decisions.
    Report,
    /// A round of leases.
    Round(Asked),
    /// A key that an agent asked for on a stream.
    Issue { stream_id: u32 },
}

/// A call to start.
pub struct Call {
    /// What for.
    pub purpose: Purpose,
    method: &'static str,
    path: String,
    if_none_match: Option<String>,
    body: Option<Vec<u8>>,
    timeout_ms: u64,
}

/// An answer that arrived whole.
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub body: Vec<u8>,
}

/// The ledger could not be called.
#[derive(Debug, Clone, Copy)]
pub struct NotCalled;

impl Call {
    fn get(purpose: Purpose, path: String, timeout_ms: u64) -> Call {
        Call { purpose, method: "GET", path, if_none_match: None, body: None, timeout_ms }
    }

    fn post(purpose: Purpose, path: &str, body: &impl serde::Serialize, timeout_ms: u64) -> Call {
        // Serialising these shapes can't fail; if it did, the ledger would refuse the empty body.
        let body = serde_json::to_vec(body).unwrap_or_default();
        Call {
            purpose,
            method: "POST",
            path: path.to_owned(),
            if_none_match: None,
            body: Some(body),
            timeout_ms,
        }
    }

    /// Asks for the policy unless it is what has this tag.
    pub fn policy(config: &Config, known: Option<&str>) -> Call {
        let timeout_ms = u64::from(config.ledger_timeout_ms).saturating_mul(2);
        let if_none_match = known.map(|tag| format!("\"{tag}\""));
        Call { if_none_match, ..Call::get(Purpose::Policy, api::POLICY_PATH.to_owned(), timeout_ms) }
    }

    /// Asks for changes after a position, to be held open for `wait_ms`.
    pub fn changes(config: &Config, after: Option<u64>, wait_ms: u64) -> Call {
        let path = match after {
            Some(after) => format!("{}?after={after}&wait_ms={wait_ms}", api::CHANGES_PATH),
            None => api::CHANGES_PATH.to_owned(),
        };
        Call::get(Purpose::Changes, path, wait_ms.saturating_add(u64::from(config.ledger_timeout_ms)))
    }

    /// Asks whose key has this hash.
    pub fn resolve(config: &Config, hash: KeyHash, changes_applied: u64) -> Call {
        let purpose = Purpose::Resolve { hash, changes_applied };
        Call::post(purpose, api::RESOLVE_PATH, &ResolveRequest { hash }, config.ledger_timeout_ms.into())
    }

    /// Asks to set credits aside for a stream.
    pub fn reserve(config: &Config, stream_id: u32, request: &ReserveRequest) -> Call {
        let purpose = Purpose::Reserve { stream_id, reservation_id: request.reservation_id.clone() };
        Call::post(purpose, api::RESERVE_PATH, request, config.ledger_timeout_ms.into())
    }

    /// Asks for a key on behalf of an agent, who waits for it on a stream.
    pub fn issue(config: &Config, stream_id: u32, request: &IssueRequest) -> Call {
        let purpose = Purpose::Issue { stream_id };
        Call::post(purpose, api::KEYS_PATH, request, config.ledger_timeout_ms.into())
    }

    /// Delivers a batch.
    pub fn report(config: &Config, report: &Report) -> Call {
        let timeout_ms = u64::from(config.ledger_timeout_ms).saturating_mul(2);
        Call::post(Purpose::Report, api::REPORT_PATH, report, timeout_ms)
    }

    /// Says what is to be said of leases.
    pub fn round(config: &Config, round: &Round, asked: Asked) -> Call {
        Call::post(Purpose::Round(asked), LEASES_PATH, round, config.ledger_timeout_ms.into())
    }

    /// Starts the call in the SDK's active context, which must be the root. Returns the id that its answer will have.
    pub fn dispatch(&self, config: &Config) -> Result<u32, NotCalled> {
        let mut headers = vec![
            (":method", self.method),
            (":path", self.path.as_str()),
            (":authority", config.ledger_authority.as_str()),
            ("authorization", config.authorization.as_str()),
        ];
        if self.body.is_some() {
            headers.push(("content-type", "application/json"));
        }
        if let Some(version) = &self.if_none_match {
            headers.push(("if-none-match", version));
        }
        let timeout = Duration::from_millis(self.timeout_ms);
        hostcalls::dispatch_http_call(&config.ledger_cluster, headers, self.body.as_deref(), vec![], timeout)
            .map_err(|_| NotCalled)
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

/// Reads the answer that has just arrived. `None` if it was cut off: a call that is reset has no headers at all.
pub fn read_answer(header_count: usize, body_bytes: usize) -> Option<Answer> {
    if header_count == 0 {
        return None;
    }
    let status = host::status(MapType::HttpCallResponseHeaders)?;
    let body = if body_bytes > 0 { host::buffer(BufferType::HttpCallResponseBody) } else { Vec::new() };
    Some(Answer { status, body })
}

/// What the answer to a resolve means: `Ok(None)` for a hash that the ledger does not know. Only the ledger's own words
/// count: a 404 of something else that answers in its place says nothing about a key.
pub fn resolved(answer: Option<&Answer>) -> Result<Option<KeyRecord>, NotCalled> {
    match answer {
        Some(Answer { status: 200, body }) => policy::json::read(body).map(Some).map_err(|_| NotCalled),
        Some(Answer { status: 404, body }) if is_problem(body, "not_found") => Ok(None),
        _ => Err(NotCalled),
    }
}

/// What the answer to a reserve means. Credits are set aside only if the ledger says so of this very reservation;
/// anything that is not its own word leaves it unknown.
pub fn reserved(answer: Option<&Answer>, asked: &ReservationId) -> ReserveAnswered {
    match answer {
        Some(Answer { status: 200 | 201, body }) => match policy::json::read::<ReserveAnswer>(body) {
            Ok(reserved) if reserved.reservation_id == *asked => ReserveAnswered::Reserved,
            _ => ReserveAnswered::Unavailable,
        },
        Some(Answer { status: 402, body }) if is_problem(body, "quota_exceeded") => {
            ReserveAnswered::QuotaExceeded
        }
        Some(Answer { status: 403, body }) if is_problem(body, "key_inactive") => {
            ReserveAnswered::KeyInactive
        }
        _ => ReserveAnswered::Unavailable,
    }
}

/// What the answer to a request for a key means.
pub fn issued(answer: Option<&Answer>) -> IssueAnswered {
    match answer {
        Some(Answer { status: 201, body }) => match policy::json::read::<Issued>(body) {
            Ok(issued) => IssueAnswered::Issued(Box::new(issued)),
            Err(_) => IssueAnswered::Unavailable,
        },
        Some(Answer { status: 402, body }) if is_problem(body, "quota_exceeded") => IssueAnswered::TooMany,
        Some(Answer { status: 403, body }) if is_problem(body, "key_inactive") => IssueAnswered::KeyInactive,
        Some(Answer { status: 403, body }) if is_problem(body, "forbidden") => IssueAnswered::NotGranted,
        _ => IssueAnswered::Unavailable,
    }
}

/// True if the ledger says that a batch is durable.
pub fn is_delivered(answer: &Answer) -> bool {
    answer.status == 200 && policy::json::read::<ReportAnswer>(&answer.body).is_ok()
}

/// True if the ledger itself has understood a batch and will never take it.
pub fn is_refused(answer: &Answer) -> bool {
    let is_its_own = || {
        policy::json::read::<Problem>(&answer.body)
            .is_ok_and(|problem| problem.kind.starts_with(&Problem::urn("")))
    };
    matches!(answer.status, 400 | 413 | 422) && is_its_own()
}

fn is_problem(body: &[u8], code: &str) -> bool {
    policy::json::read::<Problem>(body).is_ok_and(|problem| problem.kind == Problem::urn(code))
}
