//! Errors as answers: a stable code, a short message, no internal cause.

use crate::book;
use crate::identity::issued::CHILDREN_MAX;
use crate::moment::NoRandomness;
use crate::transaction::{Error, Payer, Refusal, Unavailable};
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use protocol::InvalidId;
use protocol::problem::{MEDIA_TYPE, Problem};
use protocol::reason::{PaidFrom, Shortfall};
use tracing::error;

/// The kinds of problem that the ledger knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    InvalidRequest,
    AuthDenied,
    QuotaExceeded,
    KeyInactive,
    NotFound,
    MethodNotAllowed,
    Forbidden,
    Conflict,
    PolicyInUse,
    PreconditionFailed,
    TooManyRequests,
    KeyExists,
    BodyTooLarge,
    IdempotencyKeyReused,
    Unstorable,
    Internal,
    LedgerUnavailable,
}

impl Code {
    /// The last part of the problem's URN.
    const fn name(self) -> &'static str {
        match self {
            Code::InvalidRequest => "invalid_request",
            Code::AuthDenied => "auth_denied",
            Code::QuotaExceeded => "quota_exceeded",
            Code::KeyInactive => "key_inactive",
            Code::NotFound => "not_found",
            Code::MethodNotAllowed => "method_not_allowed",
            Code::Forbidden => "forbidden",
            Code::Conflict => "conflict",
            Code::PolicyInUse => "policy_in_use",
            Code::PreconditionFailed => "precondition_failed",
            Code::TooManyRequests => "rate_limited",
            Code::KeyExists => "key_exists",
            Code::BodyTooLarge => "body_too_large",
            Code::IdempotencyKeyReused => "idempotency_key_reused",
            Code::Unstorable => "unstorable",
            Code::Internal => "internal",
            Code::LedgerUnavailable => "ledger_unavailable",
        }
    }

    const fn status(self) -> StatusCode {
        match self {
            Code::InvalidRequest => StatusCode::BAD_REQUEST,
            Code::AuthDenied => StatusCode::UNAUTHORIZED,
            Code::QuotaExceeded => StatusCode::PAYMENT_REQUIRED,
            Code::KeyInactive | Code::Forbidden => StatusCode::FORBIDDEN,
            Code::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Code::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Code::Conflict | Code::PolicyInUse | Code::KeyExists => StatusCode::CONFLICT,
            Code::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Code::IdempotencyKeyReused | Code::Unstorable => StatusCode::UNPROCESSABLE_ENTITY,
            Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Code::LedgerUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Code::InvalidRequest => "The request is not valid",
            Code::AuthDenied => "A valid credential is needed",
            Code::QuotaExceeded => "The tenant has not enough credits",
            Code::KeyInactive => "The key is not in use",
            Code::NotFound => "Not found",
            Code::MethodNotAllowed => "The method is not allowed here",
            Code::Forbidden => "The credential may not do this",
            Code::PreconditionFailed => "It was changed in the meantime",
            Code::TooManyRequests => "Too many requests at once",
            Code::Conflict => "The request does not fit what was done before",
            Code::PolicyInUse => "Tenants or keys use what the policy no longer has",
            Code::KeyExists => "The key was already created",
            Code::BodyTooLarge => "The body is too large",
            Code::IdempotencyKeyReused => "The Idempotency-Key was used for another body",
            Code::Unstorable => "The database does not take this",
            Code::Internal => "The ledger has a fault",
            Code::LedgerUnavailable => "The ledger can't answer now",
        }
    }
}

/// An error that becomes an answer. `observe` adds the request's id.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    pub(super) code: Code,
    pub(super) detail: String,
    /// What is left, if there are too few credits.
    pub(super) shortfall: Option<Shortfall>,
}

impl Refused {
    pub(super) fn new(code: Code, detail: impl Into<String>) -> Refused {
        Refused { code, detail: detail.into(), shortfall: None }
    }

    pub(super) fn invalid(detail: impl Into<String>) -> Refused {
        Refused::new(Code::InvalidRequest, detail)
    }

    /// The complete answer.
    pub(super) fn answer(self, request_id: &str) -> Response {
        let Refused { code, detail, shortfall } = self;
        let body = Problem {
            kind: Problem::urn(code.name()),
            status: code.status().as_u16(),
            title: code.title().to_owned(),
            detail: Some(detail),
            request_id: Some(request_id.to_owned()),
            available: shortfall.map(|left| left.available),
            paid_from: shortfall.map(|left| left.paid_from),
            ..Problem::default()
        };
        let mut response = (code.status(), Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        match code {
            Code::AuthDenied => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Code::LedgerUnavailable | Code::TooManyRequests => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Unavailable> for Refused {
    fn from(unavailable: Unavailable) -> Refused {
        Refused::new(Code::LedgerUnavailable, format!("{unavailable}; try again, with the same ids"))
    }
}

impl From<InvalidId> for Refused {
    fn from(invalid: InvalidId) -> Refused {
        Refused::invalid(invalid.to_string())
    }
}

impl From<NoRandomness> for Refused {
    fn from(_: NoRandomness) -> Refused {
        error!("the operating system gives no randomness");
        Refused::new(Code::Internal, "no secret can be made now")
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        match error {
            Error::Unavailable(unavailable) => unavailable.into(),
            Error::Refused(refusal) => refusal.into(),
        }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        match refusal {
            Refusal::Money(refusal) => money(refusal),
            Refusal::TenantUnknown => Refused::new(Code::NotFound, "no tenant has this id"),
            Refusal::KeyUnknown => Refused::new(Code::NotFound, "no key has this id"),
            Refusal::KeyInactive(state) => {
                Refused::new(Code::KeyInactive, format!("the key is {}", state_name(state)))
            }
            Refusal::AgentUnknown => Refused::invalid("agent_id: the tenant has no agent with this id"),
            Refusal::ReservationUnknown => {
                Refused::new(Code::NotFound, "the tenant has no reservation with this id")
            }
            Refusal::AdminKeyUnknown => Refused::new(Code::NotFound, "no such key has this id"),
            Refusal::AdminKeyExists(id) => Refused::new(
                Code::KeyExists,
                format!(
                    "this Idempotency-Key made a secret of {id}, which was shown then and is stored nowhere: \
                     revoke the key and create another, or rotate it"
                ),
            ),
            Refusal::LastOwner => Refused::new(
                Code::Conflict,
                "this is the last owner of all tenants; create another one first",
            ),
            Refusal::PolicyChanged { version } => Refused::new(
                Code::PreconditionFailed,
                format!("another policy is in force, with ETag \"{version}\": compare with it first"),
            ),
            Refusal::ChangedSince { version } => Refused::new(
                Code::PreconditionFailed,
                format!("it was changed since; its ETag is \"{version}\" now: read it again"),
            ),
            Refusal::BudgetSpent { payer, budget, spent, month } => {
                let (whose, paid_from) = match payer {
                    Payer::Key => ("key", PaidFrom::KeyBudget),
                    Payer::Tenant => ("tenant", PaidFrom::TenantBudget),
                };
                let available = budget.checked_sub(spent).unwrap_or_default();
                let refused = Refused::new(
                    Code::QuotaExceeded,
                    format!("the {whose} has spent {spent} of its budget of {budget} credits for {month}"),
                );
                Refused { shortfall: Some(Shortfall { available, paid_from }), ..refused }
            }
            Refusal::IdempotencyKeyReused => Refused::new(
                Code::IdempotencyKeyReused,
                "this Idempotency-Key came before with another body; use a fresh one for another request",
            ),
            Refusal::KeyExists(id) => Refused::new(
                Code::KeyExists,
                format!(
                    "this Idempotency-Key created {id}; its secret was shown then and is stored nowhere: \
                    rotate the key for a new one"
                ),
            ),
            Refusal::KeyIsIssued => {
                Refused::new(Code::Forbidden, "a key that another one asked for can't ask for keys")
            }
            Refusal::ServiceNotGranted => {
                Refused::new(Code::Forbidden, "service: the key that asks may not use it")
            }
            Refusal::TooManyChildren => Refused::new(
                Code::QuotaExceeded,
                format!(
                    "{CHILDREN_MAX} keys that this one asked for live already; revoke one, or wait until one expires"
                ),
            ),
            Refusal::Unstorable => Refused::new(
                Code::Unstorable,
                "the database does not take a row of this request; the ledger's log has its words",
            ),
            Refusal::AlreadyInitialised => {
                Refused::new(Code::Conflict, "the database is already initialised")
            }
        }
    }
}

fn money(refusal: book::Refusal) -> Refused {
    let code = match refusal {
        book::Refusal::GrantTooLarge | book::Refusal::NothingToMove => Code::InvalidRequest,
        book::Refusal::QuotaExceeded { .. } => Code::QuotaExceeded,
        book::Refusal::DifferentRequest
        | book::Refusal::AboveCorrectable { .. }
        | book::Refusal::AboveReservation { .. }
        | book::Refusal::AboveLease { .. }
        | book::Refusal::LeaseEnded
        | book::Refusal::Ended { .. } => Code::Conflict,
        book::Refusal::OutOfBalance => {
            error!("a tenant's accounts do not add up; the database was changed from outside");
            Code::Internal
        }
    };
    let shortfall = match refusal {
        book::Refusal::QuotaExceeded { available } => {
            Some(Shortfall { available, paid_from: PaidFrom::Balance })
        }
        _ => None,
    };
    Refused { shortfall, ..Refused::new(code, refusal.to_string()) }
}

const fn state_name(state: protocol::key::KeyState) -> &'static str {
    match state {
        protocol::key::KeyState::Active => "active",
        protocol::key::KeyState::Revoked => "revoked",
        protocol::key::KeyState::Expired => "expired",
        protocol::key::KeyState::Suspended => "suspended",
    }
}
