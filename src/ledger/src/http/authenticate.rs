//! Who is asking: the bearer of a credential of the right door. Only hashes are compared, by lookup.

use super::Service;
use super::problem::{Code, Refused};
use crate::credentials::Door;
use crate::store::{Store, Unavailable};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use protocol::api_key::{KeyHash, is_well_formed};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a credential that was found is not looked up again.
const REMEMBERED: Duration = Duration::from_secs(5);
/// At most so many are remembered.
const REMEMBERED_MAX: usize = 256;

/// The id of the credential that a request came with.
#[derive(Debug, Clone)]
pub(super) struct Actor(pub(super) Arc<str>);

/// Lets administrators in.
pub(super) async fn admin(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    enter(&service, Door::Admin, request, next).await
}

/// Lets filters in.
pub(super) async fn filter(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    enter(&service, Door::Filter, request, next).await
}

async fn enter(service: &Service, door: Door, mut request: Request, next: Next) -> Response {
    let known = match credential(request.headers(), door) {
        Some(hash) => service.doorkeeper.recognise(service.store.as_ref(), hash, door).await,
        None => Ok(None),
    };
    match known {
        Ok(Some(id)) => {
            request.extensions_mut().insert(Actor(id));
            next.run(request).await
        }
        Ok(None) => {
            let prefix = if door == Door::Admin { "ara_" } else { "arf_" };
            let detail = format!("send `Authorization: Bearer {prefix}...` with a credential of this ledger");
            Refused::new(Code::AuthDenied, detail).into_response()
        }
        Err(unavailable) => Refused::from(unavailable).into_response(),
    }
}

/// The hash of the one bearer credential, if it has the door's shape. A malformed one costs no lookup.
fn credential(headers: &HeaderMap, door: Door) -> Option<KeyHash> {
    let mut sent = headers.get_all(header::AUTHORIZATION).iter();
    let (first, second) = (sent.next()?, sent.next());
    let (scheme, secret) = first.as_bytes().split_at_checked(b"bearer ".len())?;
    let secret = secret.trim_ascii();
    let accepted =
        second.is_none() && scheme.eq_ignore_ascii_case(b"bearer ") && is_well_formed(door.kind(), secret);
    accepted.then(|| KeyHash::of(secret))
}

/// Remembers for a moment whom it let in, so that a busy filter does not cost a read for every call.
#[derive(Default)]
pub(super) struct Doorkeeper {
    remembered: Mutex<HashMap<KeyHash, Recognised>>,
}

struct Recognised {
    door: Door,
    id: Arc<str>,
    since: Instant,
}

impl Doorkeeper {
    async fn recognise(
        &self,
        store: &dyn Store,
        hash: KeyHash,
        door: Door,
    ) -> Result<Option<Arc<str>>, Unavailable> {
        {
            let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = remembered.get(&hash)
                && known.door == door
                && known.since.elapsed() < REMEMBERED
            {
                return Ok(Some(Arc::clone(&known.id)));
            }
        }
        let found = store.service_credential(hash).await?.filter(|found| found.door == door);
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(found.map(|found| {
            if remembered.len() >= REMEMBERED_MAX {
                remembered.clear();
            }
            let id: Arc<str> = found.id.into();
            remembered.insert(hash, Recognised { door, id: Arc::clone(&id), since: Instant::now() });
            id
        }))
    }
}
