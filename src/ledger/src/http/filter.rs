//! `/filter/v1`: what filters ask. Bodies and answers are `protocol::filter`'s.

mod issue;

use super::caller::Caller;
use super::extract::{Body, Params};
use super::problem::{Code, Refused};
use super::{REPORT_BYTES_MAX, Service};
use crate::deliveries::Deliver;
use crate::http::{feed, waiting};
use crate::identity::sessions;
use crate::moment;
use crate::money::leases::AnswerRound;
use crate::money::reservations::TTL_SECONDS_MAX;
use crate::transaction::{Error, Refusal};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use protocol::InstanceId;
use protocol::audit::Counted;
use protocol::filter::{
    CHANGES_PATH, Changes, KEYS_PATH, POLICY_PATH, PolicyAnswer, REPORT_PATH, RESERVE_PATH, RESOLVE_PATH,
    Report, ReportAnswer, ReserveAnswer, ReserveRequest, ResolveRequest,
};
use protocol::key::KeyRecord;
use protocol::lease::{LEASES_PATH, PARTS_MAX, Round, RoundAnswer};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tracing::warn;

/// Longest name of a service or a tool.
const NAME_CHARS_MAX: usize = 256;

pub(super) fn routes() -> Router<Arc<Service>> {
    Router::new()
        .route(POLICY_PATH, get(policy))
        .route(RESOLVE_PATH, post(resolve))
        .route(RESERVE_PATH, post(reserve))
        .route(KEYS_PATH, post(issue::issue))
        .route(REPORT_PATH, post(deliver).layer(DefaultBodyLimit::max(REPORT_BYTES_MAX)))
        .route(LEASES_PATH, post(lease).layer(DefaultBodyLimit::max(REPORT_BYTES_MAX)))
        .route(CHANGES_PATH, get(feed))
}

async fn policy(State(service): State<Arc<Service>>, headers: HeaderMap) -> Response {
    let policy = service.newest_policy().await;
    let session_secrets = service.session_secrets().await;
    let tag = sessions::tag(policy.version(), &session_secrets);
    let etag = format!("\"{tag}\"");
    let known = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|tag| tag.trim().trim_start_matches("W/"))
        .any(|tag| tag == etag || tag == "*");
    if known {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response();
    }
    let headers = [(header::ETAG, etag), (header::CACHE_CONTROL, "no-store".to_owned())];
    let answer = PolicyAnswer { tag, policy: policy.document.clone(), session_secrets };
    (headers, Json(answer)).into_response()
}

async fn resolve(
    State(service): State<Arc<Service>>,
    Body(ask): Body<ResolveRequest>,
) -> Result<Json<KeyRecord>, Refused> {
    let found = service.store.key_by_hash(ask.hash).await?;
    let found = found.ok_or_else(|| Refused::new(Code::NotFound, "no key has this hash"))?;
    Ok(Json(found.record(moment::now())))
}

async fn reserve(
    State(service): State<Arc<Service>>,
    Body(request): Body<ReserveRequest>,
) -> Result<(StatusCode, Json<ReserveAnswer>), Refused> {
    if !(1..=TTL_SECONDS_MAX).contains(&request.ttl_seconds) {
        return Err(Refused::invalid(format!("ttl_seconds: must be 1 to {TTL_SECONDS_MAX}")));
    }
    for (field, name) in [("service", &request.service), ("tool", &request.tool)] {
        if name.chars().count() > NAME_CHARS_MAX {
            return Err(Refused::invalid(format!("{field}: must be at most {NAME_CHARS_MAX} characters")));
        }
    }
    let answer = waiting::reserve(service.store.as_ref(), &service.waiting, request).await;
    let answer = answer.map_err(|error| match error {
        Error::Refused(Refusal::KeyUnknown | Refusal::TenantUnknown) => {
            Refused::new(Code::KeyInactive, "no key has this id")
        }
        other => Refused::from(other),
    })?;
    Ok((StatusCode::CREATED, Json(answer)))
}

async fn deliver(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Body(report): Body<Report>,
) -> Result<Json<ReportAnswer>, Refused> {
    if report.counted.len() > Counted::MAX {
        return Err(Refused::invalid(format!("counted: at most {} in one report", Counted::MAX)));
    }
    let (batch_id, envoy) = (report.batch_id, report.envoy.clone());
    let deliver = Deliver::new(report, caller.id(), moment::now()).map_err(|_| {
        Refused::invalid("rows: one names a subject that the report does not have, or is out of bounds")
    })?;
    let delivered = super::report::deliver(service.store.as_ref(), deliver).await?;
    for (reservation_id, why) in delivered.refused {
        service.metrics.settlements_refused.inc();
        warn!(%batch_id, envoy, %reservation_id, ?why, "a settlement was refused");
    }
    Ok(Json(delivered.answer))
}

async fn lease(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Body(round): Body<Round>,
) -> Result<Json<RoundAnswer>, Refused> {
    let parts =
        [("asks", round.asks.len()), ("accounts", round.accounts.len()), ("shares", round.shares.len())];
    if let Some((field, _)) = parts.into_iter().find(|(_, count)| *count > PARTS_MAX) {
        return Err(Refused::invalid(format!("{field}: at most {PARTS_MAX} in one round")));
    }
    if round.envoy.chars().count() > NAME_CHARS_MAX {
        return Err(Refused::invalid(format!("envoy: must be at most {NAME_CHARS_MAX} characters")));
    }
    let (instance, envoy) = (round.instance, round.envoy.clone());
    let waiting_tenants = service.waiting.waiting_tenants();
    let take = AnswerRound { round, waiting_tenants, actor: caller.id(), now: moment::now() };
    let taken = service.store.run(take).await?;
    for (lease_id, why) in taken.refused {
        service.metrics.lease_accounts_refused.inc();
        warn!(%lease_id, %instance, envoy, ?why, "an account of a lease was refused");
    }
    for tenant_id in &taken.returned {
        service.waiting.wake(tenant_id);
    }
    Ok(Json(taken.answer))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FeedParams {
    instance: Option<InstanceId>,
    after: Option<u64>,
    #[serde(default)]
    wait_ms: u64,
}

async fn feed(
    State(service): State<Arc<Service>>,
    Params(params): Params<FeedParams>,
) -> Result<Json<Changes>, Refused> {
    let FeedParams { instance, after, wait_ms } = params;
    let ask = feed::Ask { instance, after, wait: Duration::from_millis(wait_ms) };
    let stopping = service.stopping.clone();
    Ok(Json(feed::answer(service.store.as_ref(), &service.envoys_noted, ask, stopping).await?))
}
