//! Admission of requests by concurrency: whether a request starts work, or running work waits for it.
//!
//! Only requests that start work are refused for a full window or too many requests in progress. Answers, pings and
//! cancellations are let in, because calls that were admitted earlier would hang without them. The worker counts; see
//! [`AdmissionRequest`].

use super::refusal::Refusal;
use super::{Exchange, Phase, Step};
use crate::ids_in_use::Use;
use crate::mcp::id;
use crate::window::slot::Stage;
use protocol::api_key::KeyHash;
use protocol::key::Concurrency;

/// What a request starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A call, or anything else that ends with its answer.
    Call,
    /// A request that opens a connection. Clients give up for good if it is refused, so it has a window of its own.
    Opening,
    /// A stream that stays open until one side closes it.
    Stream,
    /// A stream that resumes where an earlier one broke off.
    Resumption,
    /// No work: running work may wait for this request.
    Nothing,
}

impl Work {
    /// True if the request counts among the key's streams.
    pub fn is_stream(self) -> bool {
        matches!(self, Work::Stream | Work::Resumption)
    }
}

/// A request that the worker must admit before it may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmissionRequest {
    /// What the request starts.
    pub work: Work,
    /// The most requests and streams that the key may have in progress on one worker.
    pub bounds: Concurrency,
    /// The credential of the request.
    pub credential: KeyHash,
    /// Its tenant, session and id, if it has all three.
    pub call: Option<CallId>,
}

impl AdmissionRequest {
    /// How many exchanges of this kind the key may have in progress, this one included. Requests that others wait for get a
    /// higher bound: `awaited_times` times the bound on requests.
    pub fn count_max(&self, awaited_times: u32) -> u32 {
        match self.work {
            Work::Stream | Work::Resumption => self.bounds.streams,
            Work::Nothing => self.bounds.requests.saturating_mul(awaited_times),
            Work::Call | Work::Opening => self.bounds.requests,
        }
    }
}

/// Identifies one message within its session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CallId(Box<[u8]>);

/// How the worker answered a request that asks to be admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdmissionAnswered {
    /// The request is admitted.
    Admitted,
    /// The key has as many exchanges in progress as it may have.
    Full {
        /// The bound that was reached.
        max: u32,
    },
    /// Another message with the same id is in progress in the same session.
    DuplicateId,
}

impl Exchange {
    /// Asks the worker to admit the request, within the bounds of the key and its tier.
    pub(super) fn request_admission(&mut self, work: Work) -> Step {
        let (Some(key), Some(credential)) = (&self.key, self.credential) else {
            return self.refuse(Refusal::invalid_key());
        };
        let of_tier = self.policy.tier(&key.record.tier).map(|tier| tier.concurrency);
        let bounds = of_tier.into_iter().chain(key.concurrency).reduce(Concurrency::min).unwrap_or_default();
        let call = self.session().zip(self.message_id.as_deref()).and_then(|(session, id)| {
            let meaning = id::meaning(id)?;
            let parts = [&key.tenant.to_le_bytes(), session, b"\n", meaning.as_bytes()];
            Some(CallId(parts.concat().into()))
        });
        self.used = self
            .session()
            .zip(self.message_id.as_deref())
            .and_then(|(session, id)| Some(Use::new(key.tenant, session, &id::loose_meaning(id)?)));
        Step::Admit(AdmissionRequest { work, bounds, credential, call })
    }

    /// The worker answered.
    pub fn admission_answered(&mut self, answer: AdmissionAnswered) -> Step {
        if let Some(step) = self.in_batch(|element| element.admission_answered(answer)) {
            return step;
        }
        let Phase::AskingWindows { asks, refusal, .. } = &mut self.phase else {
            return self.refuse(Refusal::ledger_unavailable());
        };
        match answer {
            AdmissionAnswered::Admitted => {}
            AdmissionAnswered::Full { max } => return self.refuse(Refusal::too_many_in_progress(max)),
            AdmissionAnswered::DuplicateId => {
                refusal.get_or_insert_with(|| {
                    let detail =
                        "another message with this `id` is in progress in this session; use another `id`";
                    Refusal::invalid_request(detail)
                });
                asks.retain(|ask| ask.stage != Stage::Tool);
            }
        }
        if asks.is_empty() {
            return self.windows_asked(&[]);
        }
        Step::AskWindows { asks: asks.clone(), is_unavailable: false }
    }
}
