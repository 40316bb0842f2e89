//! The cost of a request in hostcalls, the calls from the filter to Envoy. An unneeded hostcall shows here, by name,
//! before any benchmark could distinguish it from noise.
//!
//! The built filter runs in an interpreter, against a host that counts. The tables are golden files: `UPDATE=1
//! scripts/test hostcalls` rewrites them, and the reader of the diff decides.

#[path = "hostcalls/host.rs"]
mod host;
#[path = "hostcalls/ledger.rs"]
mod ledger;
#[path = "hostcalls/vm.rs"]
mod vm;

use harness::{files, policy};
use protocol::OwnerId;
use protocol::filter::Change;
use protocol::key::Limit;
use serde_yaml_ng::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use vm::{Exchanged, Request, Vm};

/// The order in which Envoy calls.
const CALLBACKS: [&str; 9] = [
    "proxy_on_context_create",
    "proxy_on_request_headers",
    "proxy_on_request_body",
    "proxy_on_http_call_response",
    "proxy_on_response_headers",
    "proxy_on_response_body",
    "proxy_on_log",
    "proxy_on_done",
    "proxy_on_delete",
];

fn gate(edit: impl FnOnce(&mut Value)) -> Vm {
    let mut policy = policy::shipped();
    edit(&mut policy);
    let text = serde_yaml_ng::to_string(&policy).expect("it is YAML");
    Vm::start(&::policy::yaml::to_json(&text).expect("it is a policy"))
}

fn shipped() -> Vm {
    gate(|_| {})
}

/// Hostcalls by name, each with the callbacks that make it.
fn table(exchanged: &Exchanged) -> String {
    let mut names: BTreeMap<&str, u64> = BTreeMap::new();
    for ((_, name), count) in &exchanged.counts {
        *names.entry(name).or_default() += count;
    }
    let mut table = format!("{:<36}{:>4}\n", "hostcalls", names.values().sum::<u64>());
    for (name, total) in &names {
        let shares = CALLBACKS.iter().filter_map(|callback| {
            let count = exchanged.counts.get(&(*callback, *name))?;
            Some(format!("{} {count}", callback.trim_start_matches("proxy_on_")))
        });
        let shares: Vec<String> = shares.collect();
        writeln!(table, "{name:<36}{total:>4}  {}", shares.join(", ")).expect("text can be written");
    }
    table
}

/// Compares an exchange with its golden table.
fn assert_golden(name: &str, exchanged: &Exchanged) {
    println!("{name}: {} fuel, {:?}", exchanged.fuel.values().sum::<u64>(), exchanged.fuel);
    let path = files::root().join(format!("tests/golden/hostcalls/{name}.txt"));
    let table = table(exchanged);
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(path.parent().expect("it is in a directory")).expect("it can be made");
        fs::write(&path, &table).expect("it can be written");
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        table == golden,
        "{name} makes other hostcalls than {} says; it makes\n{table}\nand should make\n{golden}\nIf that is meant to be, \
         UPDATE=1 rewrites the file.",
        path.display()
    );
}

/// The third of three: the first finds no cached key, and the second may find queues empty that are not empty under
/// load.
fn third(gate: &mut Vm, request: &Request) -> Exchanged {
    gate.exchange(request);
    gate.advance_ms(2000);
    gate.exchange(request);
    gate.exchange(request)
}

#[test]
fn a_free_get_of_a_known_key() {
    let mut gate = shipped();
    let key = gate.key("enterprise", &["read", "generate"], Vec::new());
    let exchanged = third(&mut gate, &Request::get(&key));
    assert_eq!(exchanged.status, 200);
    assert_forwarded(&exchanged, &key);
    assert_golden("free-get", &exchanged);
}

#[test]
fn a_leased_call_with_a_lease_at_hand() {
    let mut gate = shipped();
    let key = gate.key("enterprise", &["read", "generate"], Vec::new());
    let request = Request::call(&key, "summarize");
    third(&mut gate, &request);
    // A tenant with few calls has no lease.
    (0..4).for_each(|_| drop(gate.exchange(&request)));
    let exchanged = gate.exchange(&request);
    assert_eq!(exchanged.status, 200);
    assert_forwarded(&exchanged, &key);
    assert!(exchanged.counts.keys().all(|(_, name)| *name != "proxy_http_call"), "it hopped");
    assert_golden("leased-call", &exchanged);
}

#[test]
fn an_exact_call() {
    let mut gate = shipped();
    let key = gate.key("enterprise", &["read", "generate"], Vec::new());
    let exchanged = third(&mut gate, &Request::call(&key, "image_generate"));
    assert_eq!(exchanged.status, 200);
    assert_forwarded(&exchanged, &key);
    assert_golden("exact-call", &exchanged);
    gate.advance_ms(2000);
    assert_eq!(gate.ledger.settlements, 3);
}

#[test]
fn a_call_in_a_session_and_one_that_fails_there() {
    let mut gate = shipped();
    let key = gate.key("enterprise", &["read", "generate"], Vec::new());
    let request = Request::call(&key, "image_generate").in_session();
    third(&mut gate, &request);
    gate.exchange(&request.clone().failing());
    gate.advance_ms(10);
    let exchanged = gate.exchange(&request);
    assert_eq!(exchanged.status, 200);
    assert_forwarded(&exchanged, &key);
    assert_golden("session-call", &exchanged);
    gate.advance_ms(10);
    let exchanged = gate.exchange(&request.failing());
    assert_golden("session-call-refunded", &exchanged);
}

#[test]
fn a_request_over_its_limit() {
    let mut gate = shipped();
    let once_a_day = Limit { permits: 1, window_seconds: 86_400 };
    let key = gate.key("enterprise", &["read"], vec![once_a_day]);
    let exchanged = third(&mut gate, &Request::get(&key));
    assert_refused(&exchanged, 429, "rate_limited");
    assert_golden("refused-429", &exchanged);
}

#[test]
fn a_request_without_the_scope() {
    let mut gate = shipped();
    let key = gate.key("enterprise", &["generate"], Vec::new());
    let exchanged = third(&mut gate, &Request::get(&key));
    assert_refused(&exchanged, 403, "insufficient_scope");
    assert_golden("refused-403", &exchanged);
}

#[test]
fn a_request_of_an_unknown_key() {
    let mut gate = shipped();
    let key = gate.secret();
    let exchanged = third(&mut gate, &Request::get(&key));
    assert_refused(&exchanged, 401, "auth_denied");
    assert_eq!(gate.ledger.lookups, 1);
    assert_golden("unknown-key", &exchanged);
}

fn assert_forwarded(exchanged: &Exchanged, key: &str) {
    let headers = exchanged.forwarded.as_ref().expect("it went upstream");
    let names: Vec<_> = headers.iter().map(|(name, _)| String::from_utf8_lossy(name)).collect();
    for name in ["key-id", "tenant-id", "tier", "scopes", "tool", "request-id"] {
        assert!(names.contains(&format!("x-agentrelay-{name}").into()), "{name} is not in {names:?}");
    }
    let text: Vec<_> = headers.iter().map(|(_, value)| String::from_utf8_lossy(value)).collect();
    assert!(text.iter().all(|value| !value.contains(key)), "the key went upstream");
}

fn assert_refused(exchanged: &Exchanged, status: u32, kind: &str) {
    assert_eq!(exchanged.status, status);
    let reply = exchanged.reply.as_ref().expect("the filter answered");
    let body = String::from_utf8_lossy(&reply.body);
    assert!(body.contains(&format!("urn:agentrelay:problem:{kind}")), "{body}");
}

/// Sends leased calls until some are paid from a lease. Returns how many are.
fn spend_from_leases(gate: &mut Vm, key: &str) -> u64 {
    let request = Request::call(key, "summarize");
    (0..12).for_each(|_| assert_eq!(gate.exchange(&request).status, 200));
    gate.advance_ms(100);
    12 - gate.ledger.reserved
}

#[test]
fn recalls_of_leases_or_shares_keep_cached_keys() {
    let mut gate = shipped();
    let key = gate.key("enterprise", &["read"], Vec::new());
    let share = || Change::Share { owner: OwnerId::parse("key_1").expect("it is an id"), limit_id: 1 };
    // They arrive while the key's lookup is in progress.
    gate.ledger.changes.extend((0..300).map(|_| share()));
    gate.exchange(&Request::get(&key));
    gate.exchange(&Request::get(&key));
    assert_eq!((gate.metric("agentrelay_keys"), gate.ledger.lookups, gate.ledger.heard), (1, 1, 2));
}

#[test]
fn a_recall_among_more_changes_than_are_kept_is_handled() {
    let mut gate = shipped();
    let key = gate.key("enterprise", &["read", "generate"], Vec::new());
    let spent = spend_from_leases(&mut gate, &key);
    assert!(spent > 0);
    gate.ledger.changes.push(Change::Recall { tenant_id: vm::tenant_id() });
    let other = Change::Key { key_id: protocol::KeyId::parse("key_1").expect("it is an id") };
    gate.ledger.changes.extend((0..300).map(|_| other.clone()));
    gate.advance_ms(100);
    let accounts: Vec<_> = gate.ledger.accounts.values().collect();
    assert!(!accounts.is_empty() && accounts.iter().all(|account| account.closed), "{accounts:?}");
    assert_eq!(accounts.iter().map(|account| account.spent.get()).sum::<u64>(), spent);
}

/// Whatever the filter wants of the ledger, a call that Envoy can't even start must not end its VM.
#[test]
fn calls_that_can_not_be_started_end_nothing() {
    let mut gate = shipped();
    let key = gate.key("enterprise", &["read", "generate"], Vec::new());
    let leased = Request::call(&key, "summarize");
    third(&mut gate, &leased);
    (0..8).for_each(|_| drop(gate.exchange(&leased)));
    gate.refuse_calls(true);
    // Ticks send statements, reports, the feed's call and the policy's; exchanges ask for more of a lease.
    for _ in 0..200 {
        let status = gate.exchange(&leased).status;
        assert!(status == 200 || status == 503 || status == 402, "{status}");
        gate.advance_ms(200);
    }
    gate.refuse_calls(false);
    gate.advance_ms(10_000);
    // The filter has said that the ledger answers again.
    gate.refuse_calls(false);
    assert_eq!(gate.exchange(&leased).status, 200);
}

#[test]
fn changes_that_can_not_be_stored_are_requested_again() {
    let mut gate = shipped();
    gate.refuse_writes("agentrelay/feed/1/log");
    let before = gate.ledger.heard;
    gate.ledger.changes.push(Change::Key { key_id: protocol::KeyId::parse("key_1").expect("it is an id") });
    gate.advance_ms(3_000);
    let heard = gate.ledger.heard - before;
    assert!((3..=7).contains(&heard), "{heard} times in 3 s");
}

#[test]
fn a_new_vm_reports_what_an_ended_vm_spent_from_leases() {
    let mut gate = shipped();
    let key = gate.key("enterprise", &["read", "generate"], Vec::new());
    let spent = spend_from_leases(&mut gate, &key);
    assert!(spent > 0);
    assert!(gate.ledger.accounts.is_empty(), "it has accounted already: {:?}", gate.ledger.accounts);
    let mut gate = gate.reload();
    // It takes over the feed, and then reports what is due; idle leases are returned.
    gate.advance_ms(10_000);
    let accounts: Vec<_> = gate.ledger.accounts.values().collect();
    assert!(accounts.iter().all(|account| account.closed), "{accounts:?}");
    assert_eq!(accounts.iter().map(|account| account.spent.get()).sum::<u64>(), spent);
}

/// A policy with limits that no test reaches.
fn with_high_limits(policy: &mut Value) {
    policy::limit_tier(policy, "enterprise", 1_000_000, "60s");
    policy["services"]["ci"]["tools"]["GET /projects/{project}/builds"]["limits"] =
        policy::yaml("[{permits: 1000000, window: 60s}]");
}

/// Sends 100 requests per second. Returns the bytes of memory and the number of shared data values that are then in
/// use.
fn send(
    gate: &mut Vm,
    requests: usize,
    status: u32,
    mut request: impl FnMut(&mut Vm) -> Request,
) -> (usize, usize) {
    for _ in 0..requests {
        let request = request(gate);
        assert_eq!(gate.exchange(&request).status, status);
        gate.advance_ms(10);
    }
    (gate.memory_bytes(), gate.shared())
}

#[test]
fn memory_does_not_grow_with_requests() {
    let mut gate = gate(with_high_limits);
    let key = gate.key("enterprise", &["read"], Vec::new());
    let request = Request::get(&key);
    let early = send(&mut gate, 1_000, 200, |_| request.clone());
    let late = send(&mut gate, 9_000, 200, |_| request.clone());
    assert_eq!(early, late, "after 1,000 requests, and after 10,000");
    gate.advance_ms(2000);
    assert_eq!((gate.ledger.decisions, gate.ledger.lookups), (10_000, 1));
}

#[test]
fn memory_does_not_grow_with_calls_in_sessions() {
    let mut gate = gate(with_high_limits);
    let key = gate.key("enterprise", &["generate"], Vec::new());
    let request = Request::call(&key, "image_generate").in_session();
    let early = send(&mut gate, 1_000, 200, |_| request.clone());
    let late = send(&mut gate, 2_000, 200, |_| request.clone());
    assert_eq!(early, late, "after 1,000 calls, and after 3,000");
}

#[test]
fn memory_does_not_grow_with_calls_that_wait_for_the_ledger() {
    let mut gate = gate(with_high_limits);
    let key = gate.key("enterprise", &["generate"], Vec::new());
    let request = Request::call(&key, "image_generate");
    let early = send(&mut gate, 1_000, 200, |_| request.clone());
    let late = send(&mut gate, 2_000, 200, |_| request.clone());
    assert_eq!(early, late, "after 1,000 calls, and after 3,000");
    gate.advance_ms(2000);
    assert_eq!((gate.ledger.decisions, gate.ledger.settlements), (3_000, 3_000));
}

#[test]
fn unknown_keys_are_not_cached_in_the_worker() {
    let mut gate = shipped();
    let key = gate.key("enterprise", &["read"], Vec::new());
    gate.exchange(&Request::get(&key));
    let values_before = gate.shared();
    let unknown = |gate: &mut Vm| Request::get(&gate.secret());
    let (early, _) = send(&mut gate, 1_000, 401, unknown);
    let (late, values) = send(&mut gate, 4_000, 401, unknown);
    assert_eq!(early, late, "bytes of memory after 1,000 unknown keys, and after 5,000");
    assert_eq!(gate.metric("agentrelay_keys"), 1);
    let values = values - values_before;
    assert!(values <= 512, "{values} values of shared data for 5,000 unknown keys");
}

#[test]
fn known_keys_are_looked_up_once_and_kept_once() {
    const KEYS: usize = 2_000;
    let mut gate = gate(with_high_limits);
    let scopes = ["read", "generate"];
    let keys: Vec<String> = (0..KEYS).map(|_| gate.key("enterprise", &scopes, Vec::new())).collect();
    let mut round = keys.iter().cycle();
    let mut next = |_: &mut Vm| Request::get(round.next().expect("a cycle has no end"));
    let (few, _) = send(&mut gate, 100, 200, &mut next);
    send(&mut gate, KEYS - 100, 200, &mut next);
    let early = (gate.memory_bytes(), gate.metric("agentrelay_keys"), gate.ledger.lookups);
    send(&mut gate, 2 * KEYS, 200, &mut next);
    let late = (gate.memory_bytes(), gate.metric("agentrelay_keys"), gate.ledger.lookups);
    assert_eq!(
        early, late,
        "bytes of memory, keys held and lookups after one request of each key, and after three"
    );
    assert_eq!((early.1, early.2), (2_000, KEYS));
    let each = (early.0 - few) / (KEYS - 100);
    // The table has just doubled, so a key uses more here than in a fuller table.
    assert!(each <= 560, "{each} bytes of memory for each key");
}
