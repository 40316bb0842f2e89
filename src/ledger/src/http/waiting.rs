//! Reservations that wait for credits on lease to be returned.

use crate::moment;
use crate::money::recall::{Attempt, ReserveOrRecall, missing};
use crate::money::reservations::Reserve;
use crate::store::Store;
use crate::transaction::Error;
use protocol::TenantId;
use protocol::filter::{ReserveAnswer, ReserveRequest};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// How long a call waits. The filter waits for two seconds unless it is told otherwise.
const WAIT_MAX: Duration = Duration::from_millis(1_200);
/// How often a waiting call tries again without being woken: credits may have come back through another ledger.
const LOOK_EVERY: Duration = Duration::from_millis(75);
/// How many calls of one tenant may wait, and of all tenants. Further calls are refused at once.
const WAITING_MAX: usize = 64;
const WAITING_IN_ALL_MAX: usize = 512;

/// Reserves credits for one call. If there are too few, it waits for credits on lease to be returned.
pub async fn reserve(
    store: &Store,
    waiting: &Waiting,
    request: ReserveRequest,
) -> Result<ReserveAnswer, Error> {
    // Enough for most calls, and cheaper than a look at the leases.
    match store.run(Reserve { request: request.clone(), now: moment::now() }).await {
        Err(Error::Refused(refusal)) if missing(&refusal, request.credits).is_some() => {}
        other => return other,
    }
    let deadline = Instant::now().checked_add(WAIT_MAX).unwrap_or_else(Instant::now);
    let mut turn: Option<Turn<'_>> = None;
    loop {
        // Marked as seen before the attempt, so that credits returned during it end the wait below.
        if let Some(turn) = &mut turn {
            turn.news.mark_unchanged();
        }
        let attempt = ReserveOrRecall { request: request.clone(), now: moment::now() };
        let (tenant_id, refusal) = match store.run(attempt).await? {
            Attempt::Reserved(answer) => return Ok(answer),
            Attempt::MayReturn(tenant_id, refusal) => (tenant_id, refusal),
        };
        if turn.is_none() {
            turn = waiting.enter(tenant_id);
        }
        let Some(turn) = turn.as_mut().filter(|_| Instant::now() < deadline) else {
            return Err(Error::Refused(refusal));
        };
        // Tries again in both cases: woken, or after the time.
        let _ = timeout(LOOK_EVERY, turn.news.changed()).await;
    }
}

/// The waiting calls of this process, by tenant.
#[derive(Default)]
pub struct Waiting {
    rooms: Mutex<HashMap<TenantId, Room>>,
}

#[derive(Default)]
struct Room {
    news: watch::Sender<()>,
    calls: usize,
}

/// One call that waits.
struct Turn<'w> {
    waiting: &'w Waiting,
    tenant_id: TenantId,
    news: watch::Receiver<()>,
}

impl Waiting {
    /// Registers one more waiting call, if the bounds allow it.
    fn enter(&self, tenant_id: TenantId) -> Option<Turn<'_>> {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        let in_all = rooms.values().fold(0usize, |sum, room| sum.saturating_add(room.calls));
        let calls = rooms.get(&tenant_id).map_or(0, |room| room.calls);
        if in_all >= WAITING_IN_ALL_MAX || calls >= WAITING_MAX {
            return None;
        }
        let room = rooms.entry(tenant_id.clone()).or_default();
        room.calls = room.calls.saturating_add(1);
        let news = room.news.subscribe();
        Some(Turn { waiting: self, tenant_id, news })
    }

    /// Tenants with calls that wait.
    pub fn waiting_tenants(&self) -> BTreeSet<TenantId> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Wakes a tenant's waiting calls, after credits were returned to it.
    pub fn wake(&self, tenant_id: &TenantId) {
        if let Some(room) = self.rooms.lock().unwrap_or_else(PoisonError::into_inner).get(tenant_id) {
            room.news.send_replace(());
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut rooms = self.waiting.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(room) = rooms.get_mut(&self.tenant_id) {
            room.calls = room.calls.saturating_sub(1);
            if room.calls == 0 {
                rooms.remove(&self.tenant_id);
            }
        }
    }
}
