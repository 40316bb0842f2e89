//! Batches of protocol version 2025-03-26, decided message by message.
//!
//! Each message is an exchange of its own: it asks its own windows, reserves its own credits, and is settled by the answer
//! with its own id. The gate takes refused messages out of the body and answers them itself. If the upstream answers with
//! one body, the answers are merged in the order of the messages. An answer whose id matches no message is dropped, so
//! that a client never gets an answer that the gate did not check and settle.

use super::charge::Charge;
use super::refusal::Refusal;
use super::response;
use super::{
    Exchange, Fields, IssueAnswered, Now, Phase, Reply, ReserveAnswered, SharesAnswered, Step, Subject,
};
use crate::credential::Headers;
use crate::document::Refusals;
use crate::json;
use crate::mcp::Envelope;
use crate::mcp::answer::{Form, Reader};
use crate::mcp::id;
use crate::mcp::list::{self, Unreadable};
use crate::mcp::sse::{self, ListFilter};
use crate::rules::{Help, ServiceKind};
use protocol::EventId;
use protocol::audit::Outcome;
use response::{BodyPlan, End, Finished, ResponsePlan};
use serde_json::value::RawValue;
use std::cell::RefCell;

/// Each message can cost one call to the ledger. These calls run one after the other before anything goes upstream.
const MESSAGES_MAX: usize = 32;
const VERSION: &[u8] = b"2025-03-26";

/// A batch whose messages are being decided, or were forwarded.
#[derive(Debug)]
pub(super) struct Batch {
    elements: Vec<Element>,
    /// The index of the element that is being decided.
    current: usize,
    began: Now,
    ledger_is_unavailable: bool,
    /// The gate has already written its own answers into the stream.
    replies_sent: bool,
}

#[derive(Debug)]
struct Element {
    /// The message as the client wrote it.
    text: String,
    /// True for a request. Notifications and the client's own answers get no answer.
    wants_answer: bool,
    exchange: Exchange,
    /// The gate's own answer, if it gives one.
    reply: Option<Reply>,
    /// The upstream's answer; empty once it was passed on.
    answer: Option<Vec<u8>>,
}

/// A message from the server.
enum ServerMessage {
    /// A request or notification of the server, or its error about the whole batch.
    Own,
    /// An answer to the element at this index, filtered for the key.
    Answer(usize, Vec<u8>),
    /// An answer to a message that the client did not send.
    Unmatched,
}

impl Batch {
    pub(super) fn exchanges(&self) -> impl Iterator<Item = &Exchange> {
        self.elements.iter().map(|element| &element.exchange)
    }

    pub(super) fn exchanges_mut(&mut self) -> impl Iterator<Item = &mut Exchange> {
        self.elements.iter_mut().map(|element| &mut element.exchange)
    }

    fn forwarded(&mut self) -> impl Iterator<Item = &mut Element> {
        self.elements.iter_mut().filter(|element| element.exchange.is_forwarded())
    }

    /// The gate's own answers.
    fn replies(&self) -> impl Iterator<Item = &Reply> {
        self.elements
            .iter()
            .filter(|element| element.wants_answer)
            .filter_map(|element| element.reply.as_ref())
    }

    /// The gate's own answers as one reply.
    fn reply(&self) -> Option<Reply> {
        let replies: Vec<&Reply> = self.replies().collect();
        let first = replies.first().copied().or_else(|| self.elements.first()?.reply.as_ref())?;
        if replies.is_empty() {
            return Some(first.clone());
        }
        let is_one_reason = replies.iter().all(|reply| reply.status == first.status);
        let texts: Vec<&[u8]> = replies.iter().map(|reply| reply.body.as_slice()).collect();
        Some(Reply {
            status: if is_one_reason { first.status } else { 200 },
            details: first.details.clone(),
            headers: if is_one_reason {
                first.headers.clone()
            } else {
                Fields::of([("content-type", "application/json")])
            },
            has_rate_headers: false,
            body: [b"[", texts.join(&b',').as_slice(), b"]"].concat(),
        })
    }

    /// Turns Envoy's own error into an answer for each message that wants one, next to the gate's own answers.
    pub(super) fn reply_to_all(&self, refusal: &Refusal, id: EventId, help: &Help) -> Reply {
        let reply_to = |message_id| refusal.reply(Refusals::McpHttp, message_id, false, id, help);
        let wanted = self.elements.iter().filter(|element| element.wants_answer);
        let texts: Vec<Vec<u8>> = wanted
            .map(|element| match &element.reply {
                Some(reply) => reply.body.clone(),
                None => reply_to(element.exchange.message_id.as_deref()).body,
            })
            .collect();
        let reply = reply_to(None);
        if texts.is_empty() {
            reply
        } else {
            Reply { body: [b"[", texts.join(&b',').as_slice(), b"]"].concat(), ..reply }
        }
    }

    /// The results of all messages that were decided.
    pub(super) fn finish(&self, end: End, envoy: &str, now: Now) -> Vec<Finished> {
        let decided = self.exchanges().take(self.current.saturating_add(1));
        decided.map(|exchange| exchange.finish(end, envoy, now)).collect()
    }

    fn read_message(&mut self, message: &str, now: Now) -> Result<ServerMessage, Unreadable> {
        let envelope: Envelope<'_> =
            json::object(message).filter(|_| list::is_unambiguous(message)).ok_or(Unreadable)?;
        let is_of_whole_batch = envelope.id.is_none_or(|id| id.get() == "null") && envelope.result.is_none();
        let is_no_answer = envelope.result.is_none() && envelope.error.is_none();
        if envelope.method.is_some() || is_of_whole_batch || is_no_answer {
            // A message of the server's own, or an error about the whole batch.
            return if envelope.result.is_some() { Err(Unreadable) } else { Ok(ServerMessage::Own) };
        }
        let id = envelope.id.and_then(|id| id::meaning(id.get()));
        let place = self.elements.iter().position(|element| {
            let own = element.exchange.message_id.as_deref().and_then(id::meaning);
            element.exchange.is_forwarded() && own.is_some() && own == id
        });
        let Some((place, element)) = place.and_then(|place| Some((place, self.elements.get_mut(place)?)))
        else {
            return Ok(ServerMessage::Unmatched);
        };
        let exchange = &mut element.exchange;
        if let Some(reader) = exchange.response.answer_mut() {
            reader.event(message.as_bytes());
        }
        if element.answer.is_some() {
            return Ok(ServerMessage::Unmatched);
        }
        let mut seen = None;
        if matches!(exchange.subject, Subject::Protocol { lists: Some(_), .. }) {
            seen = exchange.with_view(now, |view| list::filter(message.as_bytes(), view))?;
        }
        element.answer = Some(Vec::new());
        Ok(ServerMessage::Answer(place, seen.unwrap_or_else(|| message.as_bytes().to_vec())))
    }

    /// The part of an event's data that is passed on.
    fn filter_event(&mut self, data: &[u8], now: Now) -> Result<Option<Vec<u8>>, Unreadable> {
        let (messages, is_array) = messages(data)?;
        let mut passed = Vec::with_capacity(messages.len());
        for message in messages {
            match self.read_message(message.get(), now)? {
                ServerMessage::Own => passed.push(message.get().as_bytes().to_vec()),
                ServerMessage::Answer(_, answer) => passed.push(answer),
                ServerMessage::Unmatched => {}
            }
        }
        let joined = passed.join(&b',');
        Ok(Some(if is_array && !passed.is_empty() {
            [b"[", joined.as_slice(), b"]"].concat()
        } else {
            joined
        }))
    }

    /// One answer to all messages, in their order. `body` is what the upstream answered to the forwarded ones.
    fn merge_answers(&mut self, body: &[u8], now: Now) -> Result<Vec<u8>, Unreadable> {
        let (messages, is_array) = messages(body)?;
        let mut own = Vec::new();
        for message in messages {
            match self.read_message(message.get(), now)? {
                ServerMessage::Own => own.push(message.get().as_bytes()),
                ServerMessage::Answer(place, answer) => {
                    if let Some(element) = self.elements.get_mut(place) {
                        element.answer = Some(answer);
                    }
                }
                ServerMessage::Unmatched => {}
            }
        }
        let answers = self.elements.iter().filter_map(|element| match &element.reply {
            Some(reply) => element.wants_answer.then_some(reply.body.as_slice()),
            None => element.answer.as_deref(),
        });
        let all: Vec<&[u8]> = answers.chain(own).collect();
        let joined = all.join(&b',');
        Ok(if is_array || all.len() != 1 { [b"[", joined.as_slice(), b"]"].concat() } else { joined })
    }

    /// Marks the messages without an answer as failed: their lists were unreadable, so nobody received them.
    fn fail_unanswered(&mut self) {
        self.forwarded().for_each(|element| element.exchange.response.failed |= element.answer.is_none());
    }
}

impl Exchange {
    /// Begins to decide a batch. `None` if the body is no batch or one that is not accepted; then it is refused as one message.
    pub(super) fn begin_batch(&mut self, body: &[u8], now: Now) -> Option<Step> {
        let is_mcp = matches!(self.rules()?.kind, ServiceKind::Mcp(_)) && self.request.method == b"POST";
        let mut versions = self.request.kept.iter().filter(|(name, _)| *name == "mcp-protocol-version");
        let is_of_version = versions.all(|(_, version)| version.trim_ascii() == VERSION);
        if !is_mcp || !is_of_version || !body.trim_ascii_start().starts_with(b"[") {
            return None;
        }
        let (messages, _) = messages(body).ok()?;
        if !(1..=MESSAGES_MAX).contains(&messages.len()) || has_duplicate_ids(&messages) {
            return None;
        }
        let elements = messages.into_iter().enumerate().map(|(index, message)| {
            let exchange = self.exchange_for(index);
            let (text, wants_answer) = (message.get().to_owned(), wants_answer(message));
            Element { text, wants_answer, exchange, reply: None, answer: None }
        });
        let mut elements: Vec<_> = elements.collect();
        let first = elements.first_mut()?;
        let step = first.exchange.classify(first.text.as_bytes(), now);
        self.batch = Some(Box::new(Batch {
            elements,
            current: 0,
            began: now,
            ledger_is_unavailable: false,
            replies_sent: false,
        }));
        Some(self.advance(step))
    }

    /// The exchange of one message. The first has the request's own id, so that it is found by it.
    fn exchange_for(&self, index: usize) -> Exchange {
        Exchange {
            policy: self.policy.clone(),
            id: index.checked_sub(1).map_or(self.id, |place| self.id.part(place)),
            began: self.began,
            request: self.request.clone(),
            key: self.key.clone(),
            carrier: self.carrier,
            credential: self.credential,
            service: self.service,
            session: self.session.clone(),
            message_id: None,
            used: None,
            is_doubted: false,
            subject: Subject::Unknown,
            quotas: Vec::new(),
            would_deny: RefCell::default(),
            reason: RefCell::default(),
            phase: Phase::FindingKey,
            response: response::Progress::default(),
            batch: None,
            is_batch_message: true,
        }
    }

    /// Passes an event to the message that is being decided.
    pub(super) fn in_batch(&mut self, event: impl FnOnce(&mut Exchange) -> Step) -> Option<Step> {
        let batch = self.batch.as_deref_mut()?;
        let element = batch.elements.get_mut(batch.current)?;
        let step = event(&mut element.exchange);
        Some(self.advance(step))
    }

    /// The ledger answered, or the call failed. If the ledger is unavailable, the other messages do not each wait for it again.
    pub(super) fn answered_in_batch(
        &mut self,
        is_unavailable: bool,
        answer: impl FnOnce(&mut Exchange) -> Step,
    ) -> Option<Step> {
        self.batch.as_deref_mut()?.ledger_is_unavailable |= is_unavailable;
        self.in_batch(answer)
    }

    /// Decides message after message until one has to wait or all are decided.
    fn advance(&mut self, mut step: Step) -> Step {
        loop {
            let Some(batch) = self.batch.as_deref_mut() else { return step };
            let Some(Element { exchange, reply, .. }) = batch.elements.get_mut(batch.current) else {
                return self.forward_allowed();
            };
            step = match step {
                Step::AskShares { .. } if batch.ledger_is_unavailable => {
                    exchange.shares_answered(SharesAnswered::Unavailable)
                }
                Step::Issue(_) if batch.ledger_is_unavailable => {
                    exchange.issue_answered(IssueAnswered::Unavailable)
                }
                Step::Reserve(_) if batch.ledger_is_unavailable => {
                    exchange.reserve_answered(ReserveAnswered::Unavailable)
                }
                Step::Forward { .. } if exchange.subject() == Some("initialize") => {
                    exchange.refuse(Refusal::invalid_request("`initialize` can't be part of a batch"))
                }
                Step::Forward { .. } | Step::Refuse(_) => {
                    if let Step::Refuse(own) = step {
                        exchange.response.status = own.status;
                        *reply = Some(own);
                    }
                    batch.current = batch.current.saturating_add(1);
                    match batch.elements.get_mut(batch.current) {
                        Some(next) => next.exchange.classify(next.text.as_bytes(), batch.began),
                        None => return self.forward_allowed(),
                    }
                }
                waiting => return waiting,
            };
        }
    }

    /// All messages are decided: forwards those that are allowed.
    fn forward_allowed(&mut self) -> Step {
        let Some(batch) = self.batch.as_deref() else { return self.refuse(Refusal::unknown_method()) };
        let asked = batch.exchanges().filter(|exchange| !exchange.quotas.is_empty()).last();
        let quotas = asked.map(|exchange| exchange.quotas.clone()).unwrap_or_default();
        let is_allowed = |element: &&Element| element.exchange.is_forwarded();
        let allowed: Vec<&str> =
            batch.elements.iter().filter(is_allowed).map(|element| element.text.as_str()).collect();
        let body =
            (allowed.len() < batch.elements.len()).then(|| format!("[{}]", allowed.join(",")).into_bytes());
        let reply = batch.reply().filter(|_| allowed.is_empty());
        self.quotas = quotas;
        self.subject = Subject::Protocol { name: "batch".to_owned(), lists: None };
        if let Some(reply) = reply {
            self.phase = Phase::Refused(Outcome::Allowed);
            return Step::Refuse(reply);
        }
        match self.forward(Charge::None) {
            Step::Forward { .. } => Step::Forward { body },
            other => other,
        }
    }

    /// Response headers have arrived for a batch of which at least one message went upstream.
    pub(super) fn batch_headers(
        &mut self,
        status: u16,
        headers: &Headers<'_>,
        ends: bool,
        now: Now,
    ) -> ResponsePlan {
        let mut set = Fields::for_response();
        self.add_headers(&mut set);
        let form = response::form_of(headers);
        let is_bare = ends || status == 202;
        let Some(batch) = self.batch.as_deref_mut() else {
            return ResponsePlan { set, body: BodyPlan::Pass };
        };
        if !(200..300).contains(&status) || is_bare {
            batch.forwarded().for_each(|element| {
                element.exchange.response_headers(status, headers, true, now);
            });
            let own = batch.reply().filter(|_| is_bare && batch.replies().next().is_some());
            let body = own.map_or(BodyPlan::Pass, |mut reply| {
                reply.status = 200;
                reply.headers.append(&set);
                BodyPlan::Refuse(reply)
            });
            return ResponsePlan { set, body };
        }
        let Some(form) = form else {
            batch.fail_unanswered();
            batch.forwarded().for_each(|element| {
                element.exchange.response_headers(status, headers, true, now);
            });
            return ResponsePlan { set, body: BodyPlan::Refuse(self.unreadable()) };
        };
        // Each exchange gets its answers one at a time, as the data of events.
        let events: [(&[u8], &[u8]); 1] = [(b"content-type", b"text/event-stream")];
        batch.forwarded().for_each(|element| {
            element.exchange.response_headers(status, &events, false, now);
        });
        if form == Form::Json {
            return ResponsePlan { set, body: BodyPlan::Hold };
        }
        self.response.filter = Some(ListFilter::default());
        self.response.reader = Some(Box::new(Reader::new(form, None)));
        ResponsePlan { set, body: BodyPlan::Rewrite }
    }

    /// The whole answer to a batch has arrived.
    pub(super) fn batch_body(&mut self, body: &[u8], now: Now) -> Result<Option<Vec<u8>>, Reply> {
        let Some(batch) = self.batch.as_deref_mut() else { return Ok(None) };
        let answered = batch.merge_answers(body, now);
        if answered.is_err() {
            batch.fail_unanswered();
        }
        answered.map(Some).map_err(|Unreadable| self.unreadable())
    }

    /// A chunk of the event stream that answers a batch.
    pub(super) fn batch_chunk(
        &mut self,
        mut filter: ListFilter,
        chunk: &[u8],
        ends: bool,
        now: Now,
    ) -> Result<Vec<u8>, Unreadable> {
        let Some(batch) = self.batch.as_deref_mut() else { return Err(Unreadable) };
        let mut passed = Vec::new();
        if !std::mem::replace(&mut batch.replies_sent, true) {
            batch.replies().for_each(|reply| sse::write(&reply.body, &mut passed));
        }
        let more = filter.feed_with(chunk, ends, &mut |data| batch.filter_event(data, now));
        if more.is_err() {
            batch.fail_unanswered();
        }
        self.response.filter = Some(filter);
        passed.extend(more?);
        Ok(passed)
    }
}

/// The messages of an array, or the single message, and whether it was an array.
fn messages(body: &[u8]) -> Result<(Vec<&RawValue>, bool), Unreadable> {
    let text = std::str::from_utf8(body).map_err(|_| Unreadable)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let is_array = text.trim_ascii_start().starts_with('[');
    let messages =
        if is_array { serde_json::from_str(text) } else { serde_json::from_str(text).map(|one| vec![one]) };
    messages.map(|messages| (messages, is_array)).map_err(|_| Unreadable)
}

/// A message with an unusable id is still a request: its answer has a null id, as JSON-RPC says.
fn wants_answer(message: &RawValue) -> bool {
    json::object::<Envelope<'_>>(message.get())
        .is_none_or(|envelope| envelope.id.is_some() && envelope.result.is_none() && envelope.error.is_none())
}

/// True if a server could read two of the ids as the same, so that their answers could not be told apart.
fn has_duplicate_ids(messages: &[&RawValue]) -> bool {
    let ids = messages.iter().filter_map(|message| json::object::<Envelope<'_>>(message.get())?.id);
    let mut known = Vec::new();
    ids.filter_map(|id| id::meaning(id.get())).any(|id| {
        let is_known = known.contains(&id);
        known.push(id);
        is_known
    })
}
