//! Leases of this Envoy. Every worker spends from them; the worker that runs short asks for more; the VM that listens to
//! the change feed reports to the ledger what was spent.

use super::Worker;
use crate::calls::{Answer, Call, NotCalled, RoundContents, ShareKey};
use crate::host::Host;
use crate::lease_slots;
use crate::windows;
use policy::Key;
use policy::exchange::{Refund, SharesAnswered, Spending};
use policy::key::fingerprint;
use policy::lease::{Statement, slot};
use policy::limit::LimitRule;
use policy::window::Monotonic;
use policy::window::share::{self, Given};
use protocol::lease::{self as api, LEASE_TTL_MS, PARTS_MAX, Round, RoundAnswer, SHARE_TTL_MS, ShareAsk};
use protocol::{Credits, InstanceId, LeaseId, OwnerId, TenantId};

/// How often the leases are checked for statements that are due.
const CHECK_MS: u64 = 500;

/// The result of a request for more permits.
pub enum Shares {
    /// The stream is woken when the answer arrives.
    Waiting,
    /// The answer is known now.
    Answered(SharesAnswered),
}

impl<H: Host> Worker<H> {
    /// Spends from the tenant's leases. Asks for the next lease in good time, so that no request waits for it.
    pub fn spend(&self, key: &Key, spending: &Spending, stream_id: u32, now: Monotonic) -> Option<LeaseId> {
        let spent = lease_slots::spend(spending, now, self.metrics())?;
        if let Some(credits) = spent.ask {
            let lease_id = LeaseId::from(spending.request);
            let tenant_id = key.record.tenant_id.clone();
            let ask = api::Ask { lease_id, tenant_id, credits, price: spending.price };
            let asked = RoundContents { leases: vec![(spending.tenant, lease_id)], ..self.asked() };
            let asked = self.round().and_then(|round| {
                let round = Round { asks: vec![ask], ..round };
                self.call(Call::round(&self.config(), &round, asked), stream_id)
            });
            if asked.is_err() {
                // The call was not sent, so no credits will come: clear the pending ask.
                let now = H::monotonic_clock();
                lease_slots::granted(spending.tenant, lease_id, Credits::ZERO, now, self.metrics());
            }
        }
        spent.lease
    }

    /// Returns to a lease what a call was charged too much.
    pub fn refund(&self, refund: &Refund) {
        if !lease_slots::refund(refund, self.metrics()) {
            H::add(self.metrics().lease_refunds_lost, 1);
        }
    }

    /// Asks for more permits of a request's global limits. Requests of one owner on one worker share one call.
    pub fn ask_shares(&self, key: &Key, rules: &[LimitRule], stream_id: u32) -> Shares {
        let Some(owner) = rules.first().map(|rule| key.owner(rule.per)) else {
            return Shares::Answered(SharesAnswered::Nothing);
        };
        if let Some(streams) = self.awaiting_shares.lock().get_mut(&owner) {
            streams.push(stream_id);
            return Shares::Waiting;
        }
        match self.send_share_asks(key, rules, owner, stream_id) {
            Ok(true) => {
                self.awaiting_shares.lock().insert(owner, vec![stream_id]);
                Shares::Waiting
            }
            Ok(false) => Shares::Answered(SharesAnswered::Nothing),
            Err(NotCalled) => Shares::Answered(SharesAnswered::Unavailable),
        }
    }

    /// Renews shares that expire soon, while they are still valid.
    pub fn renew_shares(&self, key: &Key, rules: &[LimitRule], stream_id: u32) {
        let Some(owner) = rules.first().map(|rule| key.owner(rule.per)) else { return };
        if !self.awaiting_shares.lock().contains_key(&owner)
            && matches!(self.send_share_asks(key, rules, owner, stream_id), Ok(true))
        {
            self.awaiting_shares.lock().insert(owner, Vec::new());
        }
    }

    /// Sends a round about shares. Returns false if there is nothing to ask, because the ledger recently had no more permits.
    fn send_share_asks(
        &self,
        key: &Key,
        rules: &[LimitRule],
        awaited: u64,
        stream_id: u32,
    ) -> Result<bool, NotCalled> {
        let mut asked = RoundContents { awaited: Some(awaited), ..self.asked() };
        let mut shares = Vec::with_capacity(rules.len());
        for rule in rules {
            let owner = key.owner(rule.per);
            let Some(ask) = windows::ask_share(owner, rule, self.metrics()) else { continue };
            asked.shares.push(ShareKey { owner, limit_id: ask.limit_id, revision: ask.revision });
            shares.push(share_ask(key.owner_id(rule.per), &ask));
        }
        if shares.is_empty() {
            return Ok(false);
        }
        let round = Round { shares, ..self.round()? };
        self.call(Call::round(&self.config(), &round, asked), stream_id).map(|()| true)
    }

    /// Sends all statements that are due. Runs in the root context, and only in the VM that listens to the feed.
    pub(super) fn account(&self, now: Monotonic) {
        if now.0 < self.leases_checked_ms.get().saturating_add(CHECK_MS) || !self.feed.lock().is_listener() {
            return;
        }
        self.leases_checked_ms.replace(now.0);
        let accounts =
            lease_slots::slots::<H>().flat_map(|slot| lease_slots::due(slot, self.metrics())).collect();
        self.send_statements(accounts);
    }

    /// Returns a tenant's leased credits, because another Envoy's calls need them.
    pub(super) fn recalled(&self, tenant_id: &TenantId) {
        let tenant = fingerprint(tenant_id.as_str());
        lease_slots::recall(tenant, self.metrics());
        self.send_statements(lease_slots::due(slot(tenant), self.metrics()));
    }

    /// Returns unused permits of a limit, because another Envoy's calls need them.
    pub(super) fn share_recalled(&self, owner_id: &OwnerId, limit_id: u32) {
        let owner = fingerprint(owner_id.as_str());
        let Some(ask) = windows::release_share(owner, limit_id, self.metrics()) else { return };
        let shares = vec![ShareKey { owner, limit_id, revision: ask.revision }];
        let Ok(round) = self.round() else { return };
        let round = Round { shares: vec![share_ask(owner_id.clone(), &ask)], ..round };
        // If this call is lost, the ledger overestimates this Envoy's share until the next round, which is safe.
        let _ = self.dispatch(Call::round(&self.config(), &round, RoundContents { shares, ..self.asked() }));
    }

    fn send_statements(&self, accounts: Vec<Statement>) {
        for accounts in accounts.chunks(PARTS_MAX) {
            let statements = accounts.iter().filter_map(|statement| {
                Some(api::Statement {
                    lease_id: statement.lease,
                    revision: statement.revision,
                    spent: Credits::new(statement.spent)?,
                    closed: statement.closed,
                })
            });
            let Ok(round) = self.round() else { return };
            let round = Round { accounts: statements.collect(), ..round };
            let asked = RoundContents { accounts: accounts.to_vec(), ..self.asked() };
            // A statement that is not acknowledged is sent again.
            let _ = self.dispatch(Call::round(&self.config(), &round, asked));
        }
    }

    /// Handles the answer to a round, or its absence.
    pub(super) fn round_answered(&self, asked: RoundContents, answer: &Answer) {
        let answer = answer.read::<RoundAnswer>(&[200]);
        if let Some(answer) = &answer {
            self.apply_round(&asked, answer);
        }
        let shares = if answer.is_some() { SharesAnswered::Changed } else { SharesAnswered::Unavailable };
        let Some(owner) = asked.awaited else { return };
        // Remove the entry before waking the streams: a woken stream may have to ask again.
        let streams = self.awaiting_shares.lock().remove(&owner).unwrap_or_default();
        for stream_id in streams {
            self.wake(stream_id, Box::new(move |exchange, _| exchange.shares_answered(shares)));
        }
    }

    fn apply_round(&self, asked: &RoundContents, answer: &RoundAnswer) {
        let until =
            |ttl_ms: u64, ttl_ms_max: u64| Monotonic(asked.sent.0.saturating_add(ttl_ms.min(ttl_ms_max)));
        let lease_deadline = until(answer.lease_ttl_ms, LEASE_TTL_MS);
        let share_deadline = until(answer.share_ttl_ms, SHARE_TTL_MS);
        for (tenant, lease) in &asked.leases {
            let grant = answer.leases.iter().find(|grant| grant.lease_id == *lease);
            if let Some(grant) = grant {
                lease_slots::granted(*tenant, *lease, grant.credits, lease_deadline, self.metrics());
            }
        }
        for statement in &asked.accounts {
            let has_ended = answer.ended.contains(&statement.lease);
            let deadline = (!has_ended && !statement.closed).then_some(lease_deadline);
            lease_slots::acknowledged(statement, deadline, self.metrics());
        }
        for share in &asked.shares {
            let given = answer.shares.iter().find(|given| {
                given.limit_id == share.limit_id
                    && given.revision == share.revision
                    && fingerprint(given.owner.as_str()) == share.owner
            });
            if let Some(api::Share { revision, permits, elsewhere, .. }) = given {
                let (revision, permits, elsewhere) = (*revision, *permits, *elsewhere);
                let answer = Given { revision, permits, elsewhere, deadline: share_deadline };
                windows::share_given(share.owner, share.limit_id, &answer, self.metrics());
            }
        }
    }

    fn asked(&self) -> RoundContents {
        RoundContents { sent: H::monotonic_clock(), ..RoundContents::default() }
    }

    /// An empty round. Fails if shared data is unavailable, because the instance id that all workers use is stored there.
    fn round(&self) -> Result<Round, NotCalled> {
        Ok(Round {
            instance: self.instance()?,
            envoy: self.node().to_string(),
            asks: Vec::new(),
            accounts: Vec::new(),
            shares: Vec::new(),
        })
    }

    /// The id of this run of this Envoy.
    pub(super) fn instance(&self) -> Result<InstanceId, NotCalled> {
        let new = || self.new_id(H::wall_clock());
        lease_slots::instance(new, self.metrics()).ok_or(NotCalled)
    }
}

fn share_ask(owner: OwnerId, ask: &share::Ask) -> ShareAsk {
    ShareAsk {
        owner,
        limit_id: ask.limit_id,
        limit: ask.limit,
        revision: ask.revision,
        used: ask.used,
        keep: ask.keep,
        wanted: ask.wanted,
    }
}
