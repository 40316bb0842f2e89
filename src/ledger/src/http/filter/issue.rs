//! `POST /filter/v1/keys`: a key for an agent that has one. Its secret is in the answer and nowhere else.

use super::NAME_CHARS_MAX;
use crate::http::Service;
use crate::http::caller::Caller;
use crate::http::extract::Body;
use crate::http::problem::{Code, Refused};
use crate::identity::issued::Issue;
use crate::moment;
use crate::transaction::{Error, Refusal};
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use protocol::api_key::{KeyHash, Kind};
use protocol::filter::{IssueRequest, Issued};
use protocol::key::Limit;
use protocol::{AgentId, KeyId};
use std::sync::Arc;

pub(super) async fn issue(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<IssueRequest>,
) -> Result<(StatusCode, Json<Issued>), Refused> {
    if !(1..=IssueRequest::TTL_SECONDS_MAX).contains(&request.ttl_seconds) {
        let most = IssueRequest::TTL_SECONDS_MAX;
        return Err(Refused::invalid(format!("ttl_seconds: must be 1 to {most}")));
    }
    if !(1..=Limit::PERMITS_MAX).contains(&request.rate_limit) {
        return Err(Refused::invalid(format!("rate_limit: must be 1 to {}", Limit::PERMITS_MAX)));
    }
    if !(1..=NAME_CHARS_MAX).contains(&request.service.chars().count()) {
        return Err(Refused::invalid(format!("service: must be 1 to {NAME_CHARS_MAX} characters")));
    }
    let unknown = || Refused::new(Code::KeyInactive, "no key has this hash");
    let parent = service.store.key_by_hash(request.parent).await?.ok_or_else(unknown)?;
    let secret = moment::fresh_secret(Kind::Agent)?;
    let operation = Issue {
        request,
        parent_id: parent.key.id,
        key_id: moment::fresh_id("key_", KeyId::parse)?,
        agent_id: moment::fresh_id("agt_", AgentId::parse)?,
        hash: KeyHash::of(secret.as_bytes()),
        filter: caller.id(),
        now: moment::now(),
    };
    let issued = service.store.run(operation).await.map_err(|error| match error {
        Error::Refused(Refusal::KeyUnknown | Refusal::TenantUnknown) => unknown(),
        other => Refused::from(other),
    })?;
    let expires_at = issued.expires_at.unwrap_or(issued.created_at);
    let agent_id = issued.agent_id.ok_or_else(|| Refused::new(Code::Internal, "the key has no agent"))?;
    let answer = Issued { key_id: issued.id, secret, agent_id, scopes: issued.scopes, expires_at };
    Ok((StatusCode::CREATED, Json(answer)))
}
