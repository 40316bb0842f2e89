//! Authenticates each request by its bearer credential, and checks the credential's kind, role and tenant. Credentials
//! are looked up by their hash.

use super::Service;
use super::caller::{Caller, Reach};
use super::extract::idempotency_key;
use super::problem::{Code, Refused};
use super::rate::Rates;
use crate::http::connections::Connection;
use crate::model::credential::CredentialKind;
use crate::moment;
use crate::store::Store;
use crate::transaction::Unavailable;
use axum::extract::{Request, State};
use axum::http::{Extensions, HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use protocol::admin::Role;
use protocol::api_key::{KeyHash, is_well_formed};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a credential is cached. One that another ledger revoked works at most this long plus the time of a look-up,
/// which is within the 2 s that operators are promised.
const REMEMBERED: Duration = Duration::from_secs(1);
/// At most so many are cached.
const REMEMBERED_MAX: usize = 256;

/// Admits administrators with the role and the reach that the endpoint needs.
pub(super) async fn admin(
    State((service, needs, reach)): State<(Arc<Service>, Role, Reach)>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller =
        match recognise(&service, CredentialKind::Admin, request.headers(), request.extensions()).await {
            Ok(caller) => caller,
            Err(refused) => return refused.into_response(),
        };
    if caller.0.role < needs {
        let detail = format!("this needs the role {needs}, the credential has {}", caller.0.role);
        return Refused::new(Code::Forbidden, detail).into_response();
    }
    if reach == Reach::AllTenants && caller.tenant().is_some() {
        let detail = "this is for administrators of all tenants; the credential is held to one";
        return Refused::new(Code::Forbidden, detail).into_response();
    }
    if !service.rates.admit(&caller.id(), Instant::now()) {
        let detail = format!("at most {} requests a second with one credential", Rates::PER_SECOND);
        return Refused::new(Code::TooManyRequests, detail).into_response();
    }
    // A malformed Idempotency-Key is refused before the handler looks anything up.
    if request.method() == Method::POST
        && let Err(refused) = idempotency_key(request.headers())
    {
        return refused.into_response();
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// Admits filters.
pub(super) async fn filter(
    State(service): State<Arc<Service>>,
    mut request: Request,
    next: Next,
) -> Response {
    match recognise(&service, CredentialKind::Filter, request.headers(), request.extensions()).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(refused) => refused.into_response(),
    }
}

async fn recognise(
    service: &Service,
    kind: CredentialKind,
    headers: &HeaderMap,
    extensions: &Extensions,
) -> Result<Caller, Refused> {
    let known = match credential(headers, kind) {
        Some(hash) => service.credential_cache.recognise(service.store.as_ref(), hash, kind).await?,
        None => None,
    };
    if let (Some(caller), Some(connection)) = (&known, extensions.get::<Arc<Connection>>()) {
        connection.prove(kind, &caller.0.id);
    }
    known.ok_or_else(|| {
        let prefix = if kind == CredentialKind::Admin { "ara_" } else { "arf_" };
        let detail = format!("send `Authorization: Bearer {prefix}...` with a credential of this ledger");
        Refused::new(Code::AuthDenied, detail)
    })
}

/// The hash of the request's one bearer credential, if that is well-formed for this kind. A malformed one costs no look-up.
fn credential(headers: &HeaderMap, kind: CredentialKind) -> Option<KeyHash> {
    let mut sent = headers.get_all(header::AUTHORIZATION).iter();
    let (first, second) = (sent.next()?, sent.next());
    let (scheme, secret) = first.as_bytes().split_at_checked(b"bearer ".len())?;
    let secret = secret.trim_ascii();
    let accepted = second.is_none()
        && scheme.eq_ignore_ascii_case(b"bearer ")
        && is_well_formed(kind.secret_kind(), secret);
    accepted.then(|| KeyHash::of(secret))
}

/// Credentials that were found a moment ago, so that a busy filter does not cost a read for every call.
#[derive(Default)]
pub(super) struct CredentialCache {
    remembered: Mutex<HashMap<KeyHash, Recognised>>,
}

struct Recognised {
    caller: Caller,
    since: Instant,
}

impl CredentialCache {
    async fn recognise(
        &self,
        store: &Store,
        hash: KeyHash,
        kind: CredentialKind,
    ) -> Result<Option<Caller>, Unavailable> {
        {
            let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = remembered.get(&hash)
                && known.caller.0.kind == kind
                && known.since.elapsed() < REMEMBERED
            {
                return Ok(Some(known.caller.clone()));
            }
        }
        // Counted from before the look-up: the credential may be revoked while the answer is on its way.
        let since = Instant::now();
        let found = store.service_credential(hash).await?;
        let found = found.filter(|found| found.kind == kind && found.is_usable(moment::now()));
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(found.map(|found| {
            if remembered.len() >= REMEMBERED_MAX {
                remembered.clear();
            }
            let caller = Caller(Arc::new(found));
            remembered.insert(hash, Recognised { caller: caller.clone(), since });
            caller
        }))
    }

    /// Empties the cache, after a credential was revoked or rotated.
    pub(super) fn forget(&self) {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
