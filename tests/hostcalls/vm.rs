//! One VM with the real filter in it, called as Envoy calls it, with a ledger that answers its calls.

use super::host::{self, Host, LocalReply, Pairs, draw};
use super::ledger::{Answer, Ledger, SESSION_SECRET};
use harness::files;
use protocol::api_key::{self, KeyHash, Kind};
use protocol::key::{KeyRecord, KeySource, KeyState, Limit};
use protocol::session::SessionSecret;
use protocol::{KeyId, TenantId, Timestamp};
use std::collections::BTreeMap;
use std::sync::LazyLock;
use wasmi::{
    CompilationMode, Config, Engine, Error, Extern, ExternType, Instance, Linker, Memory, Module, Store,
    WasmParams, WasmResults,
};

const ROOT: u32 = 1;
const CONTINUE: u32 = 0;
const MILLI: u64 = 1_000_000;
/// The tick that the filter asks for.
const TICK_MS: u64 = 100;
/// More than any test uses.
const FUEL: u64 = u64::MAX / 2;

const REQUEST_HEADERS: u32 = 0;
const RESPONSE_HEADERS: u32 = 2;
const CALL_HEADERS: u32 = 6;
const REQUEST_BODY: u32 = 0;
const RESPONSE_BODY: u32 = 1;
const CALL_BODY: u32 = 4;
const CONFIGURATION: u32 = 7;

/// Compiled once for all tests, and completely: otherwise the first call of a function would include its compilation.
static MODULE: LazyLock<Module> = LazyLock::new(|| {
    let mut config = Config::default();
    config.consume_fuel(true).compilation_mode(CompilationMode::Eager);
    let wasm = std::fs::read(files::wasm()).expect("the filter can be read");
    Module::new(&Engine::new(&config), wasm).expect("the filter is a module")
});

/// Envoy, one worker of it, and a ledger.
pub struct Vm {
    store: Store<Host>,
    instance: Instance,
    memory: Memory,
    /// The ledger that it calls.
    pub ledger: Ledger,
    stream: u32,
    secrets: u64,
    fuel: BTreeMap<&'static str, u64>,
}

/// A request, and what the upstream answers.
#[derive(Debug, Clone)]
pub struct Request {
    headers: Pairs,
    body: Vec<u8>,
    answer: Vec<u8>,
}

/// The cost of an exchange, and its result.
#[derive(Debug, Clone)]
pub struct Exchanged {
    /// The response of the client.
    pub status: u32,
    /// Hostcalls by callback and name.
    pub counts: BTreeMap<(&'static str, &'static str), u64>,
    /// The interpreter's operators by callback. It counts whole blocks, also those left early, so the numbers are good
    /// for comparison and too high as counts.
    pub fuel: BTreeMap<&'static str, u64>,
    /// The filter's own reply, if it sent one.
    pub reply: Option<LocalReply>,
    /// The request of the upstream, if one was forwarded.
    pub forwarded: Option<Pairs>,
}

impl Request {
    /// A GET of a free tool of the HTTP service.
    pub fn get(secret: &str) -> Request {
        let path = "/api/v1/mcp/projects/42/builds";
        let headers = [(":method", "GET"), (":path", path), ("accept", "*/*")];
        let answer = br#"{"builds":[]}"#.to_vec();
        Request { headers: head(secret, &headers), body: Vec::new(), answer }
    }

    /// An MCP `tools/call`.
    pub fn call(secret: &str, tool: &str) -> Request {
        let prompt = "a lighthouse on a cliff at dusk, waves below, gulls above; ".repeat(3);
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}","arguments":{{"prompt":"{prompt}"}}}}}}"#
        );
        let headers = [
            (":method", "POST"),
            (":path", "/mcp"),
            ("accept", "application/json, text/event-stream"),
            ("content-type", "application/json"),
            ("content-length", &body.len().to_string()),
            ("mcp-protocol-version", "2025-06-18"),
        ];
        let answer = br#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"done"}]}}"#;
        Request { headers: head(secret, &headers), body: body.into_bytes(), answer: answer.to_vec() }
    }
}

impl Request {
    /// The same request in a session.
    pub fn in_session(mut self) -> Request {
        let secrets = [SessionSecret::new(SESSION_SECRET, Timestamp::from_millis(0))];
        let now = Timestamp::from_millis(1);
        let id = policy::session::sign(&secrets, now, tenant_id().as_str(), "studio", b"s");
        self.headers.push(("mcp-session-id".into(), id.expect("there is a secret").into()));
        self
    }

    /// The same request, answered with an error.
    pub fn failing(mut self) -> Request {
        self.answer = br#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"no"}}"#.to_vec();
        self
    }
}

/// The tenant of all keys.
pub fn tenant_id() -> TenantId {
    TenantId::parse("ten_0199f1d2b3c4d5e6f700000001").expect("it is an id")
}

fn head(secret: &str, own: &[(&str, &str)]) -> Pairs {
    let authorization = format!("Bearer {secret}");
    let always = [
        (":scheme", "http"),
        (":authority", "tools.example"),
        ("user-agent", "test"),
        ("authorization", authorization.as_str()),
        ("x-forwarded-proto", "http"),
        ("x-request-id", "0c6d7a52-3f5b-4f3e-9a0e-2f9be5d4a6c1"),
    ];
    own.iter().chain(&always).map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

impl Vm {
    /// Starts the filter until it serves: policy loaded, change feed read.
    pub fn start(policy: &str) -> Vm {
        let mut secrets = 0;
        let credential = api_key::mint(Kind::Filter, || draw(&mut secrets));
        let environment = vec![format!("AGENTRELAY_FILTER_KEY={credential}")];
        Vm::start_on(Host::new(environment), Ledger::new(policy.to_owned()), secrets)
    }

    /// Ends the VM as a trap would, and starts a new one.
    pub fn reload(self) -> Vm {
        Vm::start_on(self.store.into_data().without_vm(), self.ledger, self.secrets)
    }

    fn start_on(host: Host, ledger: Ledger, secrets: u64) -> Vm {
        let mut linker = Linker::new(MODULE.engine());
        host::define(&mut linker).expect("each function is defined once");
        let mut store = Store::new(MODULE.engine(), host);
        store.set_fuel(FUEL).expect("fuel is metered");
        for import in MODULE.imports() {
            let (module, name) = (import.module(), import.name());
            if let ExternType::Func(kind) = import.ty() {
                let refusal = format!("the host has no {name}");
                let refuse =
                    move |_: wasmi::Caller<'_, Host>, _: &[_], _: &mut [_]| Err(Error::new(refusal.clone()));
                // An error means that the host has taken it.
                let _ = linker.func_new(module, name, kind.clone(), refuse);
            }
        }
        let instance = linker.instantiate_and_start(&mut store, &MODULE).expect("all imports are there");
        let memory =
            instance.get_export(&store, "memory").and_then(Extern::into_memory).expect("it has memory");
        let allocate =
            instance.get_typed_func(&store, "proxy_on_memory_allocate").expect("the host can allocate");
        store.data_mut().inside = Some((memory, allocate));
        store.data_mut().buffers.insert(CONFIGURATION, b"{}".to_vec());
        let mut vm = Vm { store, instance, memory, ledger, stream: ROOT, secrets, fuel: BTreeMap::new() };
        vm.enter::<_, ()>("_initialize", ROOT, ());
        vm.enter::<_, ()>("proxy_on_context_create", ROOT, (ROOT, 0));
        assert_eq!(vm.enter::<_, u32>("proxy_on_vm_start", ROOT, (ROOT, 0)), 1);
        assert_eq!(vm.enter::<_, u32>("proxy_on_configure", ROOT, (ROOT, 2)), 1);
        vm.answer_calls();
        vm.advance_ms(2 * TICK_MS);
        assert_eq!(vm.metric("agentrelay_policy_loaded"), 1);
        vm
    }

    /// Creates a key in the ledger.
    pub fn key(&mut self, tier: &str, scopes: &[&str], limits: Vec<Limit>) -> String {
        let secret = self.secret();
        let number = self.ledger.keys.len();
        let record = KeyRecord {
            concurrency: None,
            key_id: KeyId::parse(&format!("key_0199f1d2b3c4d5e6f7{number:08}")).expect("it is an id"),
            tenant_id: tenant_id(),
            tier: tier.to_owned(),
            state: KeyState::Active,
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            services: None,
            tools: None,
            resources: None,
            limits,
            agent_id: None,
            source: KeySource::Admin,
            has_budget: false,
            expires_at: None,
            parent: None,
        };
        self.ledger.keys.insert(KeyHash::of(secret.as_bytes()), record);
        secret
    }

    /// A well-formed unknown key.
    pub fn secret(&mut self) -> String {
        api_key::mint(Kind::Agent, || draw(&mut self.secrets))
    }

    /// Advances the time, with the ticks in it and the answers to the calls they make.
    pub fn advance_ms(&mut self, millis: u64) {
        let end = self.store.data().nanos + millis * MILLI;
        loop {
            let nanos = self.store.data().nanos;
            let tick = (nanos / (TICK_MS * MILLI) + 1) * TICK_MS * MILLI;
            self.store.data_mut().nanos = tick.min(end);
            if tick > end {
                return;
            }
            self.enter::<_, ()>("proxy_on_tick", ROOT, ROOT);
            self.answer_calls();
        }
    }

    /// Sends a request through the filter, from its headers to the end of its context.
    pub fn exchange(&mut self, request: &Request) -> Exchanged {
        self.stream += 1;
        let id = self.stream;
        let host = self.store.data_mut();
        host.stream = id;
        host.is_resumed = false;
        host.counts.clear();
        host.maps.insert(REQUEST_HEADERS, request.headers.clone());
        host.buffers.insert(REQUEST_BODY, request.body.clone());
        self.fuel.clear();

        self.enter::<_, ()>("proxy_on_context_create", id, (id, ROOT));
        let (count, size) = (request.headers.len() as u32, request.body.len() as u32);
        let ends = u32::from(size == 0);
        let mut passes = self.enter::<_, u32>("proxy_on_request_headers", id, (id, count, ends)) == CONTINUE;
        if size > 0 && self.store.data().reply.is_none() {
            passes = self.enter::<_, u32>("proxy_on_request_body", id, (id, size, 1)) == CONTINUE;
        }
        if !passes && self.store.data().reply.is_none() {
            self.answer_calls();
            passes = self.store.data().is_resumed;
        }

        let reply = self.store.data_mut().reply.take();
        assert_ne!(passes, reply.is_some(), "a request is let go or answered, never both and never neither");
        let forwarded = passes.then(|| self.store.data().maps[&REQUEST_HEADERS].clone());
        let (status, mut headers, body) = match &reply {
            Some(reply) => (reply.status, reply.headers.clone(), reply.body.clone()),
            None => (200, vec![("content-type".into(), "application/json".into())], request.answer.clone()),
        };
        headers.insert(0, (":status".into(), status.to_string().into()));
        headers.push(("content-length".into(), body.len().to_string().into()));
        self.respond(id, headers, body);
        let host = self.store.data();
        assert!(host.refuses_calls || host.warnings.is_empty(), "{:?}", host.warnings);
        let (counts, fuel) = (host.counts.clone(), self.fuel.clone());
        Exchanged { status, counts, fuel, reply, forwarded }
    }

    fn respond(&mut self, id: u32, headers: Pairs, body: Vec<u8>) {
        let (count, size) = (headers.len() as u32, body.len() as u32);
        let ends = u32::from(size == 0);
        self.store.data_mut().maps.insert(RESPONSE_HEADERS, headers);
        self.store.data_mut().buffers.insert(RESPONSE_BODY, body);
        assert_eq!(self.enter::<_, u32>("proxy_on_response_headers", id, (id, count, ends)), CONTINUE);
        if size > 0 {
            assert_eq!(self.enter::<_, u32>("proxy_on_response_body", id, (id, size, 1)), CONTINUE);
        }
        self.enter::<_, ()>("proxy_on_log", id, id);
        assert_eq!(self.enter::<_, u32>("proxy_on_done", id, id), 1);
        self.enter::<_, ()>("proxy_on_delete", id, id);
    }

    /// Answers the calls that are due, and those that follow from the answers.
    fn answer_calls(&mut self) {
        let mut held = Vec::new();
        let mut answered = 0;
        while let Some(call) = self.store.data_mut().calls.pop_front() {
            let (nanos, wall_ms) = (self.store.data().nanos, self.store.data().wall_ms());
            match self.ledger.answer(&call, nanos, wall_ms) {
                Some(answer) => {
                    self.answered(call.id, answer);
                    answered += 1;
                    assert!(answered < 1000, "the filter asks without end: {}", call.path());
                }
                None => held.push(call),
            }
        }
        self.store.data_mut().calls.extend(held);
    }

    fn answered(&mut self, call_id: u32, (status, body): Answer) {
        let size = body.len() as u32;
        let host = self.store.data_mut();
        host.maps.insert(CALL_HEADERS, vec![(":status".into(), status.to_string().into())]);
        host.buffers.insert(CALL_BODY, body);
        self.enter::<_, ()>("proxy_on_http_call_response", ROOT, (ROOT, call_id, 1, size, 0));
    }

    /// The value of a metric.
    pub fn metric(&self, name: &str) -> i64 {
        self.store.data().metric(name)
    }

    /// Bytes of the module's memory, which only ever grows.
    pub fn memory_bytes(&self) -> usize {
        self.memory.data_size(&self.store)
    }

    /// Values of shared data, which are never freed.
    pub fn shared(&self) -> usize {
        self.store.data().shared.len()
    }

    /// From now on, or no longer, no call to the ledger can be started.
    pub fn refuse_calls(&mut self, refuses: bool) {
        let host = self.store.data_mut();
        host.refuses_calls = refuses;
        // Of which the filter rightly warns.
        host.warnings.clear();
    }

    /// From now on, this shared data value refuses writes.
    pub fn refuse_writes(&mut self, name: &'static str) {
        self.store.data_mut().read_only = Some(name);
    }

    /// Calls an export of the module, as a callback of this context.
    fn enter<P: WasmParams, R: WasmResults>(&mut self, name: &'static str, context_id: u32, params: P) -> R {
        let callback =
            self.instance.get_typed_func::<P, R>(&self.store, name).expect("the filter exports it");
        self.store.data_mut().callback = name;
        self.store.data_mut().effective = context_id;
        let result = callback.call(&mut self.store, params).unwrap_or_else(|fault| panic!("{name}: {fault}"));
        let used = FUEL - self.store.get_fuel().expect("fuel is metered");
        *self.fuel.entry(name).or_default() += used;
        self.store.set_fuel(FUEL).expect("fuel is metered");
        result
    }
}
