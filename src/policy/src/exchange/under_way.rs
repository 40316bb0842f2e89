//! What a request is to the others that are under way: whether it starts work, or is what work that runs waits for.
//!
//! Only what starts work is refused for a full window, or because the key has too much under way. Without its answers, pings
//! and cancellations a call that was let in would hang. The worker counts; see [`Entering`].

use super::refusal::Refusal;
use super::{Exchange, Phase, Step};
use crate::mcp::id;
use crate::window::slot::Stage;
use protocol::api_key::KeyHash;
use protocol::key::Concurrency;

/// What a request starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A call, or anything else that ends with its answer.
    Call,
    /// A connection of the protocol, which clients give up for good where it is refused. It has a window of its own.
    Opening,
    /// A stream that lives until somebody leaves.
    Stream,
    /// Such a stream again, from where it broke off.
    Resumption,
    /// Nothing: what runs waits for it.
    Nothing,
}

impl Work {
    /// Counted among the key's streams.
    pub fn is_stream(self) -> bool {
        matches!(self, Work::Stream | Work::Resumption)
    }
}

/// A request that asks to be under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entering {
    /// What it starts.
    pub work: Work,
    /// The most that the key may have under way on one worker.
    pub most: Concurrency,
    /// The credential that it came with.
    pub credential: KeyHash,
    /// Its tenant, session and id, where it has all of them.
    pub call: Option<CallId>,
}

impl Entering {
    /// How many exchanges of its kind the key may have under way with it. What others wait for is let in beyond the bound
    /// for requests, `awaited` times as many.
    pub fn most(&self, awaited: u32) -> u32 {
        match self.work {
            Work::Stream | Work::Resumption => self.most.streams,
            Work::Nothing => self.most.requests.saturating_mul(awaited),
            Work::Call | Work::Opening => self.most.requests,
        }
    }
}

/// One message of one session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CallId(Box<[u8]>);

/// What the worker says to a request that asks to be under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entered {
    /// It is.
    Admitted,
    /// The key has as much under way as it may.
    Full {
        /// The most that it may.
        most: u32,
    },
    /// Another message with its id is under way in its session.
    Twin,
}

impl Exchange {
    /// Asks to be under way, as the key and its tier allow.
    pub(super) fn enter(&mut self, work: Work) -> Step {
        let (Some(key), Some(credential)) = (&self.key, self.credential) else {
            return self.refuse(Refusal::invalid_key());
        };
        let of_tier = self.policy.tier(&key.record.tier).map(|tier| tier.concurrency);
        let most = of_tier.into_iter().chain(key.concurrency).reduce(Concurrency::min).unwrap_or_default();
        let call = self.session().zip(self.message_id.as_deref()).and_then(|(session, id)| {
            let meaning = id::meaning(id)?;
            let parts = [&key.tenant.to_le_bytes(), session, b"\n", meaning.as_bytes()];
            Some(CallId(parts.concat().into()))
        });
        Step::Enter(Entering { work, most, credential, call })
    }

    /// The worker has answered.
    pub fn entered(&mut self, answer: Entered) -> Step {
        if let Some(step) = self.in_batch(|element| element.entered(answer)) {
            return step;
        }
        let Phase::AskingWindows { asks, refusal, .. } = &mut self.phase else {
            return self.refuse(Refusal::ledger_unavailable());
        };
        match answer {
            Entered::Admitted => {}
            Entered::Full { most } => return self.refuse(Refusal::too_much_under_way(most)),
            Entered::Twin => {
                refusal.get_or_insert_with(|| {
                    let detail =
                        "another message with this `id` is under way in this session; give each its own";
                    Refusal::invalid_request(detail)
                });
                asks.retain(|ask| ask.stage != Stage::Tool);
            }
        }
        if asks.is_empty() {
            return self.windows_asked(&[]);
        }
        Step::AskWindows { asks: asks.clone() }
    }
}
