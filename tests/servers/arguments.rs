//! The arguments of HTTP calls that decide price or tier: what real servers read of a query or body is what the gate decided
//! on, or the gate refused.

use super::forms::Form;
use harness::clock::eventually;
use harness::servers::Server;
use harness::{Agent, Gate, Request, policy, run};
use protocol::audit::Outcome;
use serde_json::Value;
use std::collections::BTreeMap;

/// A gate whose tenants of tier `pro` pay 1 credit for `size=small` and 7 for `size=large`, and may use neither `pages=10` nor
/// `deep=true`.
async fn gate(server: &Server) -> Gate {
    let edit = |policy: &mut serde_yaml_ng::Value| {
        policy::limit_tier(policy, "pro", 100_000, "60s");
        let size = "{risk: read_only, price: {credits: 1, times: {argument: size, values: {small: 1, large: 7}, default: small}}}";
        let needs = |argument: &str, value: &str| {
            format!(
                "{{risk: read_only, requires: [{{argument: {argument}, value: '{value}', tier: enterprise}}]}}"
            )
        };
        let (pages, deep) = (needs("pages", "10"), needs("deep", "true"));
        policy["services"] = policy::yaml(&format!(
            "{{draw: {{kind: http, path: /draw, tools: {{GET /size: {size}, POST /size: {size}, GET /pages: {pages},
                POST /pages: {pages}, GET /deep: {deep}, POST /deep: {deep}}}}}}}"
        ));
    };
    Gate::options().upstream(server.url()).policy(edit).start().await
}

fn form(method: &str, target: &str, kind: &str, body: &[u8]) -> Form {
    let request = Request::new(method, target).header("host", "localhost:1").body(body);
    let request = if kind.is_empty() { request } else { request.header("content-type", kind) };
    let body = String::from_utf8_lossy(body);
    Form { shown: format!("{method} {target} {kind} {}", body.escape_debug()).trim().to_owned(), request }
}

fn query(path: &str, query: &str) -> Form {
    form("GET", &format!("/draw/{path}?{query}"), "", b"")
}

fn json(path: &str, body: &str) -> Form {
    form("POST", &format!("/draw/{path}"), "application/json", body.as_bytes())
}

/// Queries and bodies that some server reads as `size=large`, and such that it reads as `size=small`.
fn sizes() -> Vec<Form> {
    let mut forms = Vec::new();
    let names = [
        "size",
        "%73ize",
        "s%69ze",
        "siz%65",
        "siz%2565",
        "SIZE",
        "Size",
        "si%5Aze",
        "%C5%BFize",
        "size[]",
        "size[0]",
        "size%5B%5D",
        "size[x]",
        "size[",
        "size]",
        "[size]",
        "[size",
        "a[size]",
        "size.x",
        "size.",
        ".size",
        "+size",
        "size+",
        "%20size",
        "size%20",
        "size%00",
        "%00size",
        "size%0a",
        "size%09",
        "size%C2%A0",
        "size%EF%BB%BF",
        "size;",
        ";size",
        "size,",
        "size%3B",
        "?size",
        "size%3Dlarge",
        "size:",
        "size%5B__proto__%5D",
        "__proto__[size]",
        "__proto__.size",
        "constructor[prototype][size]",
        "%EF%BC%B3ize",
        "si%ze",
        "size|",
        "size\\",
        "size^",
        "size%2E",
        "size%5B",
        "&size",
        "size%26size",
        "%EF%BB%BFsize",
    ];
    let values = [
        "small",
        "large",
        "%6carge",
        "%256carge",
        "LARGE",
        "large+",
        "+large",
        "large%20",
        "%20large",
        "large%00",
        "lar%00ge",
        "large%0a",
        "=large",
        "large=",
        "large%26",
        "small,large",
        "small%2Clarge",
        "small;size=large",
        "small%26size=large",
        "%u006carge",
        "large%ff",
        "%c1%acarge",
        "large%",
        "large%zz",
        "%22large%22",
        "[large]",
        "large#",
        "large#x",
        "small%00large",
        "large%C2%A0",
        "",
        "%EF%BB%BFlarge",
        "large%E2%80%8B",
        "l%C3%A0rge",
    ];
    forms.extend(names.map(|name| query("size", &format!("{name}=large"))));
    forms.extend(names.map(|name| query("size", &format!("size=small&{name}=large"))));
    forms.extend(names.map(|name| query("size", &format!("{name}=large&size=small"))));
    forms.extend(values.map(|value| query("size", &format!("size={value}"))));
    forms.extend(
        [
            "",
            "size",
            "size&size=large",
            "size=large&size",
            "&size=large",
            "&&size=large&",
            "a=1;size=large",
            "size=large;a=1",
            "size=small;size=large",
            "a;size=large",
            "a=%26size=large",
            "#&size=large",
            "a#&size=large",
            "?&size=large",
            "a=1%0asize=large",
            "a=1%26amp;size=large",
            "a=1&amp;size=large",
            "a=1,size=large",
            "a=1|size=large",
            "a=1%3Bsize=large",
            "size=small&size=small",
            "size=large&size=large",
            "a=b=c&size=large",
            "=&size=large",
            "=large",
            "size=small&=large",
        ]
        .map(|text| query("size", text)),
    );
    // Servers read only so many parameters.
    for count in [50, 99, 100, 101, 255, 256, 257, 998, 999, 1000, 1001, 1002] {
        forms.push(query("size", &format!("{}size=large", "a&".repeat(count))));
    }
    forms.extend(
        [
            r#"{"size":"large"}"#,
            r#"{"size":"small"}"#,
            "{}",
            r#"{"s\u0069ze":"large"}"#,
            r#"{"size":"lar\u0067e"}"#,
            r#"{"size":"small","size":"large"}"#,
            r#"{"size":"large","size":"small"}"#,
            r#"{"size":"small","s\u0069ze":"large"}"#,
            r#"{"size":"small","Size":"large"}"#,
            r#"{"Size":"large"}"#,
            r#"{"SIZE":"large"}"#,
            "{\"\u{17f}ize\":\"large\"}",
            r#"{"size":["large"]}"#,
            r#"{"size":["small","large"]}"#,
            r#"{"size":{"x":"large"}}"#,
            r#"{"size":null}"#,
            r#"{"size":"small","__proto__":{"size":"large"}}"#,
            r#"{"__proto__":{"size":"large"}}"#,
            r#"{"size ":"large"}"#,
            r#"{"size\u0000":"large"}"#,
            r#"{"size":"large\u0000"}"#,
            r#"{"size":"large "}"#,
            r#"{"size":" large"}"#,
            "\u{feff}{\"size\":\"large\"}",
            r#"{"size":"small"}{"size":"large"}"#,
            r#"{"size":"small"} x"#,
            r#"{"size":"large",}"#,
            r#"{/* */"size":"large"}"#,
            "{'size':'large'}",
            "{size:\"large\"}",
            r#"[{"size":"large"}]"#,
            "\u{c}{\"size\":\"large\"}",
            r#"{"a":"\ud800","size":"large"}"#,
            r#"{"size":"\ud800"}"#,
            r#"{"a":NaN,"size":"large"}"#,
            "\"size=large\"",
            "null",
            "size=large",
            "",
            " ",
            r#"{"a":{"size":"large"}}"#,
            r#"{"size":"sm\/all"}"#,
            "{\"size\":\"large\"",
            "{\"a\":01,\"size\":\"large\"}",
        ]
        .map(|body| json("size", body)),
    );
    let utf_16: Vec<u8> = "{\"size\":\"large\"}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let latin: &[u8] = b"{\"a\":\"\xe9\",\"size\":\"large\"}";
    forms.push(form("POST", "/draw/size", "application/json", &utf_16));
    forms.push(form("POST", "/draw/size", "application/json; charset=utf-16", &utf_16));
    forms.push(form("POST", "/draw/size", "application/json", latin));
    let utf_7 = br#"{"x":"+ACIALAAi-size+ACI-:+ACI-large+ACIALAAi-y":""}"#;
    forms.push(form("POST", "/draw/size", "application/json; charset=utf-7", utf_7));
    // Query and body together, and bodies that are JSON and something else.
    let both = |target: &str, body: &str| form("POST", target, "application/json", body.as_bytes());
    forms.push(both("/draw/size?size=small", r#"{"size":"large"}"#));
    forms.push(both("/draw/size?size=large", r#"{"size":"small"}"#));
    forms.push(both("/draw/size?size=large", r#"{"size":null}"#));
    forms.push(both("/draw/size?size=large", "{}"));
    forms.push(form("GET", "/draw/size", "application/json", br#"{"size":"large"}"#));
    let double = br#"{"a":"&size=large&"}"#;
    for kind in [
        "",
        "application/x-www-form-urlencoded",
        "application/json",
        "text/plain",
        "text/json",
        "application/vnd.api+json",
        "application/json;",
        "application/json, application/x-www-form-urlencoded",
        "application/x-www-form-urlencoded; application/json",
        "application/jsonx",
        "APPLICATION/JSON",
        "application/json; charset=utf-8",
        "application/json; charset=utf-8; charset=utf-16",
        "multipart/form-data; boundary=x",
        "application/json; boundary=x",
        "*/*",
    ] {
        forms.push(form("POST", "/draw/size", kind, double));
        forms.push(form("POST", "/draw/size", kind, b"size=large"));
        forms.push(form("POST", "/draw/size", kind, br#"{"size":"large"}"#));
        let parts = b"--x\r\ncontent-disposition: form-data; name=\"size\"\r\n\r\nlarge\r\n--x--\r\n";
        forms.push(form("POST", "/draw/size", kind, parts));
    }
    let coded = form("POST", "/draw/size", "application/json", br#"{"size":"large"}"#);
    forms.push(Form { request: coded.request.header("content-encoding", "gzip"), ..coded });
    let twice = form("POST", "/draw/size", "application/json", double);
    forms.push(Form {
        request: twice.request.header("content-type", "application/x-www-form-urlencoded"),
        ..twice
    });
    forms
}

/// Numbers that some server reads as 10.
fn pages() -> Vec<Form> {
    let mut forms: Vec<Form> = [
        "10",
        "010",
        "+10",
        "%2B10",
        "10.0",
        "10.",
        "1e1",
        "1E1",
        "1e%2B1",
        "100e-1",
        "0xa",
        "0XA",
        "0b1010",
        "0o12",
        "10%20",
        "%2010",
        "%0910",
        "1_0",
        "%EF%BC%91%EF%BC%90",
        "%D9%A1%D9%A0",
        "10abc",
        "10,0",
        "10%00",
        "10f",
        "10d",
        "10L",
        "0x1.4p3",
        "9.99999999999999999999",
        "10.000000000000000000001",
        "10%0a",
        "%C2%A010",
        "10e0",
        ".1e2",
        "0000000000000000000000010",
        "10n",
    ]
    .map(|value| query("pages", &format!("pages={value}")))
    .into();
    forms.extend(
        [
            "10",
            "10.0",
            "1e1",
            "1E+1",
            "100e-1",
            "10e0",
            "0.1e2",
            "\"10\"",
            "\"010\"",
            "\" 10\"",
            "\"10.0\"",
            "\"1e1\"",
            "\"+10\"",
            "[10]",
            "9.9999999999999999999",
            "10.00000000000000000001",
            "1000000000000000000000e-20",
            "true",
            "\"0xa\"",
            "{\"a\":10}",
            "\"10abc\"",
            "\"\u{ff11}\u{ff10}\"",
            "11",
            "\"eleven\"",
        ]
        .map(|value| json("pages", &format!("{{\"pages\":{value}}}"))),
    );
    forms
}

/// Switches that some server reads as on.
fn switches() -> Vec<Form> {
    let mut forms: Vec<Form> = [
        "true",
        "TRUE",
        "True",
        "t",
        "T",
        "1",
        "yes",
        "on",
        "y",
        "Y",
        "+true",
        "true%20",
        "",
        "01",
        "tru%65",
        "false",
        "%EF%BD%94rue",
    ]
    .map(|value| query("deep", &format!("deep={value}")))
    .into();
    forms.push(query("deep", "deep"));
    forms.extend(
        [
            "true",
            "1",
            "\"true\"",
            "\"TRUE\"",
            "\"yes\"",
            "\"1\"",
            "[true]",
            "1.0",
            "\" true\"",
            "\"on\"",
            "false",
            "\"t\"",
            "null",
            "{}",
        ]
        .map(|value| json("deep", &format!("{{\"deep\":{value}}}"))),
    );
    forms
}

/// What a server said that it had read.
struct Read {
    texts: Vec<String>,
    is_ten: bool,
    is_on: bool,
}

fn read(answer: &Value) -> Read {
    let list = |name: &str| answer[name].as_array().cloned().unwrap_or_default();
    Read {
        texts: list("texts").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        is_ten: list("numbers").iter().any(|number| number.as_f64() == Some(10.0)),
        is_on: list("flags").contains(&Value::Bool(true)),
    }
}

/// What the gate charged for each request that it let pass.
async fn charged(gate: &Gate, agent: &Agent, count: usize) -> BTreeMap<String, u64> {
    eventually("all decisions are in the trail", async || {
        let rows = gate.audit(agent).await;
        let decisions =
            rows.iter().filter(|row| row.kind == "decision" && row.outcome == Some(Outcome::Allowed));
        let decided: BTreeMap<String, u64> = decisions
            .filter_map(|row| Some((row.detail["id"].as_str()?.to_owned(), row.detail["credits"].as_u64()?)))
            .collect();
        if decided.len() >= count { Ok(decided) } else { Err(format!("{} of {count}", decided.len())) }
    })
    .await
}

/// Sends all forms to the server, directly and through the gate. Returns how many the server itself reads as the dear call.
async fn examine(server: &Server) -> usize {
    let gate = gate(server).await;
    let agent = gate.agent_with("pro", 1_000_000, harness::NewKey::default()).await;
    let (mut dear, mut passed, mut wrong) = (0, Vec::new(), Vec::new());
    for Form { shown, request } in sizes().into_iter().chain(pages()).chain(switches()) {
        if let Ok(direct) = request.clone().with_new_marker().try_send(server.address).await
            && let (200, Ok(answer)) = (direct.status, serde_json::from_slice(&direct.body))
        {
            let read = read(&answer);
            dear += usize::from(read.is_ten || read.is_on || read.texts.iter().any(|text| text == "large"));
        }
        let Ok(answer) = agent.with_key(request).try_send(gate.address).await else { continue };
        if answer.status != 200 {
            continue;
        }
        let id = answer.header("x-request-id").expect("every answer has one").to_owned();
        passed.push((shown, id, read(&answer.json())));
    }
    let charged = charged(&gate, &agent, passed.len()).await;
    let plain = [
        "GET /draw/size?size=large",
        "GET /draw/size?size=small",
        "GET /draw/size?",
        "GET /draw/size?%73ize=large",
        "GET /draw/size?size=%6carge",
        "POST /draw/size application/json {\\\"size\\\":\\\"large\\\"}",
        "POST /draw/size application/json {}",
        "POST /draw/pages application/json {\\\"pages\\\":11}",
        "GET /draw/deep?deep=false",
    ];
    for plain in plain {
        assert!(passed.iter().any(|(shown, ..)| shown == plain), "{plain} is refused");
    }
    for (shown, id, read) in passed {
        let price = charged.get(&id).copied();
        let right = if shown.contains("/draw/size") {
            let value = if price == Some(7) { "large" } else { "small" };
            read.texts.iter().all(|text| text == value) && (price != Some(7) || !read.texts.is_empty())
        } else {
            !read.is_ten && !read.is_on
        };
        if !right {
            wrong.push(format!(
                "{shown}: {price:?} for {:?} 10: {} on: {}",
                read.texts, read.is_ten, read.is_on
            ));
        }
    }
    println!("{dear} dear directly");
    assert!(wrong.is_empty(), "the gate decided on something else:\n{}", wrong.join("\n"));
    gate.assert_healthy().await;
    dear
}

#[test]
fn express_reads_the_arguments_that_the_gate_decides_on() {
    run(async { assert!(examine(&Server::express().await).await > 40) });
}

#[test]
fn aiohttp_reads_the_arguments_that_the_gate_decides_on() {
    run(async { assert!(examine(&Server::aiohttp().await).await > 40) });
}

#[test]
fn go_reads_the_arguments_that_the_gate_decides_on() {
    run(async { assert!(examine(&Server::go().await).await > 40) });
}

#[test]
fn rust_reads_the_arguments_that_the_gate_decides_on() {
    run(async { assert!(examine(&Server::rust().await).await > 40) });
}

#[test]
fn java_reads_the_arguments_that_the_gate_decides_on() {
    run(async {
        let Some(server) = Server::java().await else { return };
        assert!(examine(&server).await > 40);
    });
}

#[test]
fn programs_behind_cgi_read_the_arguments_that_the_gate_decides_on() {
    run(async { assert!(examine(&Server::lighttpd().await).await > 40) });
}
