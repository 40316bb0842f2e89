//! What one configuration of the module has beyond its exchanges: a gate worker for each of Envoy's workers, the ticks,
//! and the calls to the ledger, which all run on Envoy's main thread.
//!
//! Envoy may read the same configuration again, for another listener or an update, while exchanges of the first still
//! run. All of the same text share one [`Runtime`], so that no queue is lost; the newest makes the calls.

use crate::abi::{self, ConfigScheduler, EnvoyConfig};
use crate::current::{self, Call, Deferred};
use crate::envoy::Envoy;
use crate::inbox;
use crate::stats;
use gate::{Answer, Config, Locked, Metrics, Worker};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

const TICK: Duration = Duration::from_millis(100);
/// The events of the main thread.
const TICKED: u64 = 1;
const CALLS_WAIT: u64 = 2;

/// Names this Envoy in the audit trail; the ABI does not tell the id of its node.
const NODE_VARIABLE: &str = "AGENTRELAY_NODE";

static RUNTIMES: Locked<Vec<Arc<Runtime>>> = Locked::new(Vec::new());

/// All that configurations of one text share.
pub struct Runtime {
    text: Vec<u8>,
    workers: Vec<Arc<Worker<Envoy>>>,
    hosts: Locked<Vec<Configured>>,
    calls: Locked<Vec<Call>>,
    /// Calls that were sent, by the configuration and Envoy's number.
    sent: Locked<HashMap<(usize, u64), (u32, u32)>>,
    is_ticking: AtomicBool,
}

/// A configuration that Envoy has and has not destroyed.
struct Configured {
    id: usize,
    scheduler: ConfigScheduler,
}

/// What Envoy keeps for one of its configurations.
pub struct Attached {
    pub runtime: Arc<Runtime>,
    id: usize,
}

/// Reads a configuration. The error goes to Envoy's log.
pub fn attach(config: EnvoyConfig, text: Vec<u8>) -> Result<Arc<Attached>, String> {
    let read = Config::read(&text)?;
    attach_with(config, text, read)
}

/// The same with a configuration that was read.
pub fn attach_with(config: EnvoyConfig, text: Vec<u8>, read: Config) -> Result<Arc<Attached>, String> {
    stats::define(config, || drop(Metrics::<Envoy>::define()));
    let scheduler = config.scheduler().ok_or("this Envoy can't run work for a filter: use 1.39 or 1.40")?;
    let known = RUNTIMES.lock().iter().find(|runtime| runtime.text == text).cloned();
    let runtime = known.clone().unwrap_or_else(|| Arc::new(Runtime::new(text)));
    let id = config.id();
    runtime.hosts.lock().push(Configured { id, scheduler });
    if known.is_none() {
        RUNTIMES.lock().push(runtime.clone());
        let node = std::env::var(NODE_VARIABLE).ok();
        let ((), deferred) = current::run(None, None, || {
            for worker in &runtime.workers {
                worker.configure(read.clone(), node.as_deref());
            }
        });
        deferred.into_iter().for_each(|deferred| runtime.put_off(deferred));
    }
    start_ticking();
    Ok(Arc::new(Attached { runtime, id }))
}

fn start_ticking() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        std::thread::spawn(|| {
            loop {
                std::thread::sleep(TICK);
                let runtimes = RUNTIMES.lock().clone();
                for runtime in runtimes {
                    // If the main thread is late, ticks must not pile up.
                    if !runtime.is_ticking.swap(true, Ordering::Relaxed) && !runtime.ask_main(TICKED) {
                        runtime.is_ticking.store(false, Ordering::Relaxed);
                    }
                }
            }
        });
    });
}

impl Runtime {
    fn new(text: Vec<u8>) -> Runtime {
        let workers = (0..abi::concurrency()).map(|_| Worker::new(inbox::add_worker())).collect();
        Runtime {
            text,
            workers,
            hosts: Locked::default(),
            calls: Locked::default(),
            sent: Locked::default(),
            is_ticking: AtomicBool::new(false),
        }
    }

    /// The worker with this number in Envoy.
    pub fn worker(&self, index: usize) -> Option<Arc<Worker<Envoy>>> {
        self.workers.get(index).cloned()
    }

    /// Asks the newest configuration to do something on the main thread. False if there is none.
    fn ask_main(&self, event: u64) -> bool {
        // The lock is held while the scheduler is used, so that `detach` does not end it meanwhile.
        let hosts = self.hosts.lock();
        hosts.last().map(|host| host.scheduler.commit(event)).is_some()
    }

    /// Queues a call that was deferred; the main thread sends it.
    pub fn put_off(&self, deferred: Deferred) {
        if let Deferred::Call(call) = deferred {
            self.calls.lock().push(call);
            self.ask_main(CALLS_WAIT);
        }
    }

    /// Runs work of the gate's on the main thread, and sends the calls that it asks for.
    fn on_main(&self, config: EnvoyConfig, work: impl FnOnce()) {
        let ((), mut deferred) = current::run(None, None, work);
        while !deferred.is_empty() {
            let mut failed = Vec::new();
            for deferred in deferred {
                if let Deferred::Call(call) = deferred
                    && let Some(call) = self.send(config, call)
                {
                    failed.push(call);
                }
            }
            let answers = || {
                failed.into_iter().for_each(|call| self.tell(call.worker_id, call.call_id, Answer::default()))
            };
            ((), deferred) = current::run(None, None, answers);
        }
    }

    /// Sends a call; returns it if that fails.
    fn send(&self, config: EnvoyConfig, call: Call) -> Option<Call> {
        match config.call(&call.request) {
            Some(id) => {
                self.sent.lock().insert((config.id(), id), (call.worker_id, call.call_id));
                None
            }
            None => Some(call),
        }
    }

    fn tell(&self, worker_id: u32, call_id: u32, answer: Answer) {
        if let Some(worker) = self.workers.iter().find(|worker| worker.id() == worker_id) {
            // A panic must not keep from the others what was deferred.
            abi::caught(|| worker.answered(call_id, || answer));
        }
    }
}

impl Attached {
    /// Does what was asked of the main thread.
    pub fn scheduled(&self, config: EnvoyConfig, event: u64) {
        let runtime = &self.runtime;
        if event == TICKED {
            runtime.is_ticking.store(false, Ordering::Relaxed);
        }
        runtime.on_main(config, || {
            let calls = std::mem::take(&mut *runtime.calls.lock());
            calls.into_iter().for_each(|call| current::defer(Deferred::Call(call)));
            if event == TICKED {
                for worker in &runtime.workers {
                    abi::caught(|| worker.tick());
                }
            }
        });
        if event == TICKED {
            stats::flush(config);
        }
    }

    /// Passes on the answer to a call.
    pub fn answered(&self, config: EnvoyConfig, id: u64, answer: Answer) {
        let sent = self.runtime.sent.lock().remove(&(config.id(), id));
        if let Some((worker_id, call_id)) = sent {
            self.runtime.on_main(config, || self.runtime.tell(worker_id, call_id, answer));
        }
    }

    /// Envoy destroys the configuration. Its calls in flight stay without an answer.
    pub fn detach(&self) {
        self.runtime.hosts.lock().retain(|host| host.id != self.id);
        // What this configuration was asked to do is lost with it.
        self.runtime.is_ticking.store(false, Ordering::Relaxed);
        let mut lost = Vec::new();
        self.runtime.sent.lock().retain(|(config, _), call| {
            let is_lost = *config == self.id;
            if is_lost {
                lost.push(*call);
            }
            !is_lost
        });
        let ((), deferred) = current::run(None, None, || {
            for (worker_id, call_id) in lost {
                self.runtime.tell(worker_id, call_id, Answer::default());
            }
        });
        deferred.into_iter().for_each(|deferred| self.runtime.put_off(deferred));
        self.runtime.ask_main(CALLS_WAIT);
    }
}
