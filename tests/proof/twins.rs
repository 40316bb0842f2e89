//! Random calls in one session, whose ids are used twice, over two workers that share the record of ids, and a server that
//! keeps one map from id to stream, as the official servers do. No step takes long enough for the record to forget.
//!
//! The judge knows how each call ended at the server, wherever its answer went.

use policy::exchange::{AdmissionAnswered, CallId, End, Exchange, Step};
use policy::ids_in_use::{self, Ended, Use};
use policy::window::Monotonic;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use std::collections::{HashMap, HashSet};

/// Ids that are equal or that some server takes as equal, and others.
const IDS: [&str; 6] = ["7", "\"7\"", "0", "-0", "8", "\"a\""];
const WORKERS: usize = 2;

/// A call that the gate forwarded.
pub struct Call {
    pub id: &'static str,
    pub is_priced: bool,
    /// It failed at the server; `None` until it ends there.
    pub has_failed: Option<bool>,
    /// Its answer came on its own stream.
    pub got_own_answer: bool,
    pub posted: Option<u64>,
    worker: usize,
    call_id: Option<CallId>,
    exchange: Option<Box<Exchange>>,
}

/// A worker's part of the record: what ended and is not written yet.
#[derive(Default)]
struct Worker {
    in_progress: HashSet<CallId>,
    ended: HashMap<u64, Vec<Ended>>,
}

/// A session, and what the gate charged for its calls.
#[derive(Default)]
pub struct Session {
    pub calls: Vec<Call>,
    workers: [Worker; WORKERS],
    record: HashMap<u64, Vec<u8>>,
    now_ms: u64,
}

/// Whose stream gets an answer, of those that were registered for the id.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Routes {
    ToTheLast,
    ToTheFirst,
}

impl Session {
    /// Plays random steps until nothing is open. `begin` decides a call up to its admission.
    pub fn play(
        random: &mut StdRng,
        begin: impl Fn(&str, bool) -> (Exchange, Step),
        decide: impl Fn(&mut Exchange, Step),
        finish: impl Fn(&Exchange, End) -> u64,
        respond: impl Fn(&mut Exchange, &str),
    ) -> Session {
        let mut session = Session { now_ms: 1_000_000, ..Session::default() };
        let routes = if random.random_bool(0.7) { Routes::ToTheLast } else { Routes::ToTheFirst };
        for _ in 0..random.random_range(3..25) {
            session.now_ms += random.random_range(1..30_000);
            let open = |session: &Session| {
                (0..session.calls.len())
                    .filter(|&at| session.calls[at].exchange.is_some())
                    .collect::<Vec<_>>()
            };
            match random.random_range(0..10) {
                0..4 => {
                    let id = IDS.iter().choose(random).expect("some");
                    let (is_priced, worker) = (random.random_bool(0.6), random.random_range(0..WORKERS));
                    let (mut exchange, step) = begin(id, is_priced);
                    let Step::Admit(request) = step else { panic!("{step:?}") };
                    let call_id = request.call;
                    let in_progress = &mut session.workers[worker].in_progress;
                    if call_id.as_ref().is_some_and(|id| in_progress.contains(id)) {
                        continue;
                    }
                    in_progress.extend(call_id.clone());
                    let next = exchange.admission_answered(AdmissionAnswered::Admitted);
                    decide(&mut exchange, next);
                    let uses: Vec<Use> = exchange.uses().collect();
                    session.write(worker, uses[0].owner, &uses);
                    session.calls.push(Call {
                        id,
                        is_priced,
                        has_failed: None,
                        got_own_answer: false,
                        posted: None,
                        worker,
                        call_id,
                        exchange: Some(Box::new(exchange)),
                    });
                }
                4..8 => {
                    // The server ends a call.
                    let working =
                        (0..session.calls.len()).filter(|&at| session.calls[at].has_failed.is_none());
                    let Some(at) = working.choose(random) else { continue };
                    let has_failed = random.random_bool(0.6);
                    session.calls[at].has_failed = Some(has_failed);
                    let id = session.calls[at].id;
                    let mut registered: Vec<usize> = open(&session)
                        .into_iter()
                        .filter(|&other| loose(session.calls[other].id) == loose(id))
                        .collect();
                    if routes == Routes::ToTheLast {
                        registered.reverse();
                    }
                    let Some(&to) = registered.first() else { continue };
                    let result = if has_failed {
                        r#""error":{"code":1,"message":""}"#
                    } else {
                        r#""result":{"content":[]}"#
                    };
                    let answer = format!("data: {{\"jsonrpc\":\"2.0\",\"id\":{id},{result}}}\n\n");
                    session.calls[to].got_own_answer = to == at;
                    let mut exchange = session.calls[to].exchange.take().expect("it is open");
                    respond(&mut exchange, &answer);
                    session.end(to, exchange, End::Complete, &finish);
                }
                8 => {
                    let Some(at) = open(&session).into_iter().choose(random) else { continue };
                    let mut exchange = session.calls[at].exchange.take().expect("it is open");
                    if random.random_bool(0.5) {
                        respond(&mut exchange, "");
                    }
                    session.end(at, exchange, End::ClientDisconnected, &finish);
                }
                _ => (0..WORKERS).for_each(|worker| session.flush(worker)),
            }
        }
        for at in 0..session.calls.len() {
            if let Some(exchange) = session.calls[at].exchange.take() {
                session.end(at, exchange, End::ClientDisconnected, &finish);
            }
        }
        session
    }

    /// True if no other call used the id, or one that servers take as equal.
    pub fn is_alone(&self, call: &Call) -> bool {
        self.calls.iter().filter(|other| loose(other.id) == loose(call.id)).count() == 1
    }

    fn end(
        &mut self,
        at: usize,
        mut exchange: Box<Exchange>,
        end: End,
        finish: &impl Fn(&Exchange, End) -> u64,
    ) {
        let now = Monotonic(self.now_ms);
        let call = &mut self.calls[at];
        let worker = &mut self.workers[call.worker];
        if let Some(id) = &call.call_id {
            worker.in_progress.remove(id);
        }
        let owner = exchange.uses().next().expect("it has an id").owner;
        let record = self.record.get(&owner).map(Vec::as_slice).unwrap_or_default();
        let doubted: Vec<Use> =
            exchange.uses_to_prove(end).filter(|used| !ids_in_use::is_alone(record, *used, now)).collect();
        doubted.into_iter().for_each(|used| exchange.doubt(used));
        worker.ended.entry(owner).or_default().extend(exchange.ended_uses(end));
        call.posted = Some(finish(&exchange, end));
    }

    fn write(&mut self, worker: usize, owner: u64, begun: &[Use]) {
        let ended = self.workers[worker].ended.remove(&owner).unwrap_or_default();
        let begun: Vec<u64> = begun.iter().map(|used| used.id).collect();
        let record = self.record.entry(owner).or_default();
        *record =
            ids_in_use::change(record, owner, &ended, &begun, Monotonic(self.now_ms)).expect("its own bytes");
    }

    fn flush(&mut self, worker: usize) {
        let owners: Vec<u64> = self.workers[worker].ended.keys().copied().collect();
        owners.into_iter().for_each(|owner| self.write(worker, owner, &[]));
    }
}

fn loose(id: &str) -> &str {
    id.trim_matches('"').trim_start_matches('-')
}
