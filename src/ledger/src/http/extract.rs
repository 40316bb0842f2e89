//! Turns requests into typed values. Each rejection is a problem that names the faulty field.

use super::caller::Caller;
use super::problem::{Code, Refused};
use crate::model::replay::{Idempotency, ReplayKey};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use policy::plain::plain;
use protocol::InvalidId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::str::FromStr;

/// A JSON body. The content type is not checked: all bodies are JSON, and a web form can't send a bearer credential.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                Refused::new(Code::BodyTooLarge, "the body is larger than this path accepts")
            } else {
                Refused::invalid("the body could not be read to its end")
            }
        })?;
        let mut json = serde_json::Deserializer::from_slice(&bytes);
        let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let path = error.path().to_string();
            let cause = error.into_inner();
            let fault = plain(&cause.to_string());
            Refused::invalid(match path.as_str() {
                _ if !cause.is_data() => format!("the body is not JSON: {fault}"),
                "." => format!("the body: {fault}"),
                path => format!("{path}: {fault}"),
            })
        })?;
        json.end().map_err(|_| Refused::invalid("there is something after the JSON value"))?;
        Ok(Body(value))
    }
}

/// A JSON body, and the `Idempotency-Key` under which its answer is kept. The key counts for one caller and one path.
pub(super) struct Submitted<T> {
    pub(super) body: T,
    pub(super) idempotency: Option<Idempotency>,
}

impl<T: DeserializeOwned + Serialize, S: Send + Sync> FromRequest<S> for Submitted<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let key = idempotency_key(request.headers())?;
        let caller = request.extensions().get::<Caller>();
        let actor = caller.ok_or_else(|| Refused::new(Code::Internal, "it is not known who asks"))?.id();
        let route = format!("{} {}", request.method(), request.uri().path());
        let Body(body) = Body::<T>::from_request(request, state).await?;
        let Some(key) = key else { return Ok(Submitted { body, idempotency: None }) };
        let kept = serde_json::to_vec(&body).map_err(|_| Refused::invalid("the body can't be kept"))?;
        let idempotency = Some(Idempotency::new(ReplayKey { actor, route, key }, &kept));
        Ok(Submitted { body, idempotency })
    }
}

/// The query. Its type refuses unknown parameters.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let Query(params) = Query::from_request_parts(parts, state).await.map_err(|rejection| {
            let text = rejection.body_text();
            let fault = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
            Refused::invalid(format!("the query: {}", plain(fault)))
        })?;
        Ok(Params(params))
    }
}

/// The id in the path. A malformed id gets the answer of one that does not exist.
pub(super) struct Id<T>(pub(super) T);

impl<T: FromStr<Err = InvalidId>, S: Send + Sync> FromRequestParts<S> for Id<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let unknown = || Refused::new(Code::NotFound, "nothing has this id");
        let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| unknown())?;
        text.parse().map(Id).map_err(|_| unknown())
    }
}

/// True if the change is only for the version with the ETag `now`, false if it is for any: without `If-Match`, or with `*`.
/// A header that names only other ETags is refused. It is a list, in which weak ETags never match (RFC 9110, 13.1.1).
pub(super) fn if_match(headers: &HeaderMap, now: &str) -> Result<bool, Refused> {
    let faulty = || {
        Refused::invalid("If-Match: send an ETag in quotes, as it was in the answer, a list of them, or *")
    };
    let lines: Result<Vec<&str>, _> =
        headers.get_all(header::IF_MATCH).iter().map(HeaderValue::to_str).collect();
    let sent = lines.map_err(|_| faulty())?.join(",");
    if !headers.contains_key(header::IF_MATCH) || sent == "*" {
        return Ok(false);
    }
    if strong_tags(&sent).ok_or_else(faulty)?.contains(&now) {
        return Ok(true);
    }
    Err(Refused::new(
        Code::PreconditionFailed,
        format!("its ETag is \"{now}\" now, which If-Match does not name: read it again"),
    ))
}

/// The strong ETags of a list, without their quotes; absent if it is malformed. A comma between quotes is part of its ETag.
/// Empty elements are skipped (RFC 9110, 5.6.1.2).
fn strong_tags(list: &str) -> Option<Vec<&str>> {
    const BETWEEN: [char; 3] = [',', ' ', '\t'];
    let mut found = Vec::new();
    let mut rest = list.trim_matches(BETWEEN);
    loop {
        let quoted = rest.strip_prefix("W/");
        let (tag, behind) = quoted.unwrap_or(rest).strip_prefix('"')?.split_once('"')?;
        if quoted.is_none() {
            found.push(tag);
        }
        if behind.is_empty() {
            return Some(found);
        }
        rest = behind.trim_start().strip_prefix(',')?.trim_start_matches(BETWEEN);
    }
}

/// JSON with an ETag.
pub(super) struct Tagged<T>(pub(super) String, pub(super) T);

impl<T: Serialize> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        let Tagged(tag, value) = self;
        ([(header::ETAG, format!("\"{tag}\""))], Json(value)).into_response()
    }
}

/// Longest `Idempotency-Key`.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// The `Idempotency-Key` header, where there is one.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Refused> {
    let mut sent = headers.get_all("idempotency-key").iter();
    let Some(first) = sent.next() else { return Ok(None) };
    let is_one = sent.next().is_none() && (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&first.len());
    let visible = first.to_str().ok().filter(|key| is_one && key.bytes().all(|byte| byte.is_ascii_graphic()));
    visible.map(|key| Some(key.to_owned())).ok_or_else(|| {
        Refused::invalid(format!(
            "Idempotency-Key: send one, of 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible ASCII characters"
        ))
    })
}
