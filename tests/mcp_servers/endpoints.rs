//! The paths of servers: paths that end in a slash, their redirects, lists of any size, and clients' answers.

use harness::clock::eventually;
use harness::http2::Http2;
use harness::python::Server;
use harness::scripted::{Script, Scripted};
use harness::sdks::{Era, Sdk};
use harness::{Gate, Request, mcp, policy, run};
use serde_json::json;

#[test]
fn a_mounted_server_is_served_with_and_without_its_slash_and_charged_once() {
    run(async {
        let server = Server::start_program("mounted_server", &[]).await;
        let direct = Request::post("/mcp").body(b"{}").send(server.url[7..].parse().unwrap()).await;
        assert_eq!(direct.status, 307, "the server redirects: {direct:?}");
        for path in ["/mcp", "/mcp/"] {
            let gate = Gate::options()
                .upstream(&server.url)
                .policy(move |policy| policy["services"]["studio"]["path"] = path.into())
                .start()
                .await;
            for client_path in ["/mcp", "/mcp/"] {
                for sdk in [Sdk::Python2, Sdk::Python1, Sdk::TypeScript2, Sdk::TypeScript1, Sdk::Rust] {
                    let agent = gate.agent("enterprise").await;
                    let call = json!(["call", "image_generate", {"prompt": "a", "quality": "standard"}]);
                    let url = format!("http://{}{client_path}", gate.address);
                    let answers = sdk.steps(&url, &agent.secret, Era::Legacy, &[json!(["list"]), call]).await;
                    let case = format!("{sdk:?} at {client_path}, policy {path}: {answers:?}");
                    assert_eq!(answers[0]["tools"].as_array().map(Vec::len), Some(3), "{case}");
                    assert_eq!(answers[1]["content"][0]["text"], "standard image of a", "{case}");
                    eventually("the call is charged once", async || match gate.balance(&agent).await {
                        balance if balance.posted.get() == 5 && balance.pending.is_zero() => Ok(()),
                        balance => Err(format!("{case}: {balance:?}")),
                    })
                    .await;
                }
            }
            let locations = Request::post("/mcp").header("host", "tools.example:8443");
            let agent = gate.agent("enterprise").await;
            let body = mcp::search().to_string();
            let locations = locations.header("content-type", "application/json").body(body.as_bytes());
            let redirect = agent.send(locations).await;
            assert_eq!(redirect.header("location"), Some("http://tools.example:8443/mcp/"), "{redirect:?}");
        }
    });
}

#[test]
fn a_path_with_another_last_slash_falls_to_no_other_service() {
    run(async {
        for (path, of_all) in
            [("/mcp", "/"), ("/mcp/", "/"), ("/tools/mcp", "/tools/"), ("/tools/mcp/", "/tools")]
        {
            let gate = Gate::options()
                .policy(move |policy| {
                    policy["services"]["studio"]["path"] = path.into();
                    let all =
                        format!("{{kind: http, path: {of_all}, unlisted: {{risk: read_only}}, tools: {{}}}}");
                    // Before and after it by name.
                    for name in ["a", "z"] {
                        policy["services"][name] = policy::yaml(&all);
                    }
                })
                .start()
                .await;
            let agent = gate.agent("enterprise").await;
            let base = path.trim_end_matches('/');
            let call = mcp::call("unlisted", json!({})).to_string();
            for target in [base.to_owned(), format!("{base}/"), format!("{base}?a=/"), format!("{base}/?a")] {
                let request = |method| {
                    let request = Request::new(method, &target).header("content-type", "application/json");
                    agent.with_key(request.body(call.as_bytes()))
                };
                let refused = request("POST").send(gate.address).await;
                refused.assert_refused(404, "unknown_tool");
                gate.assert_unseen(&refused.marker);
                let refused = request("PUT").send(gate.address).await;
                refused.assert_refused(405, "invalid_request");
                gate.assert_unseen(&refused.marker);
            }
            // The other service serves its own paths, with and without a last slash.
            let other = of_all.trim_end_matches('/');
            for target in [format!("{other}/x"), format!("{other}/")] {
                agent.send(Request::get(target)).await.assert_allowed();
            }
        }
    });
}

#[test]
fn a_list_too_large_to_buffer_is_a_502_in_the_services_form() {
    run(async {
        let list = |bytes: usize| {
            let list = |padding: usize| {
                let tool = json!({"name": "search", "description": "x".repeat(padding)});
                json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": [{"name": "unlisted"}, tool]}})
                    .to_string()
            };
            list(bytes - list(0).len())
        };
        let upstream = Scripted::start(move |seen| {
            let bytes = seen.header("x-bytes").unwrap().parse().unwrap();
            let body = list(bytes);
            if seen.header("x-chunked").is_none() {
                return Script::whole(200, "application/json", body.as_bytes());
            }
            let mut script = Script::events_to_the_end(body.as_bytes(), 9_999);
            script.pieces[0] =
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
                    .to_vec();
            script
        })
        .await;
        for form in ["mcp-http", "mcp-tool", "http"] {
            let gate = Gate::options()
                .upstream(&upstream.url)
                .policy(move |policy| policy["services"]["studio"]["refusals"] = form.into())
                .start()
                .await;
            let agent = gate.agent("enterprise").await;
            for bytes in [1_000, 200_000, 1_048_576, 1_048_577, 1_200_000, 4_000_000] {
                for chunked in [false, true] {
                    let request = agent.post(&mcp::list()).header("x-bytes", bytes.to_string());
                    let request = if chunked { request.header("x-chunked", "1") } else { request };
                    let answers = [
                        request.clone().send(gate.address).await,
                        Http2::open(gate.address).await.send(request).await.unwrap(),
                    ];
                    for answer in answers {
                        let case = format!("{form}, {bytes} bytes, chunked {chunked}");
                        if bytes <= 1_048_576 {
                            assert_eq!(answer.status, 200, "{case}: {answer:?}");
                            answer.assert_allowed();
                            assert_eq!(answer.json()["result"]["tools"][0]["name"], "search");
                            assert_eq!(answer.json()["result"]["tools"].as_array().unwrap().len(), 1);
                        } else {
                            assert_eq!(answer.status, 502, "{case}: {answer:?}");
                            answer.assert_refused(502, "upstream_error");
                            let kind = answer.header("content-type").unwrap();
                            assert_eq!(kind == "application/problem+json", form == "http", "{answer:?}");
                        }
                    }
                }
            }
            gate.assert_healthy().await;
        }
    });
}

#[test]
fn answers_from_clients_pass_whatever_their_id() {
    run(async {
        let gate = Gate::shared().await;
        let agent = gate.agent("enterprise").await;
        for answer in [
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}"#,
            r#"{"jsonrpc":"2.0","error":{"code":-32600,"message":"Invalid Request"}}"#,
            r#"{"jsonrpc":"2.0","id":0,"result":{"action":"accept","content":{}}}"#,
            r#"{"jsonrpc":"2.0","id":1.5,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":"a","result":null}"#,
            r#"{"jsonrpc":"2.0","id":7,"result":{},"error":null}"#,
            r#"{"jsonrpc":"2.0","id":7,"result":null,"error":{"code":1,"message":""}}"#,
            r#"{"jsonrpc":"2.0","result":{}}"#,
        ] {
            let response = agent.send(mcp::post_bytes(answer.as_bytes())).await;
            assert!((200..300).contains(&response.status), "{answer}: {response:?}");
            response.rate();
            assert_eq!(gate.upstream.the_one(&response.marker).body, answer.as_bytes());
        }
        for neither in [
            r#"{"jsonrpc":"2.0","id":null}"#,
            r#"{"jsonrpc":"2.0","id":null,"method":"tools/list"}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":""}}"#,
            r#"{"jsonrpc":"2.0","id":null,"error":{},"method":"tools/call","params":{"name":"search"}}"#,
            r#"{"jsonrpc":"2.0","id":null,"error":{},"params":{"name":"search"}}"#,
        ] {
            let response = agent.send(mcp::post_bytes(neither.as_bytes())).await;
            response.assert_refused(400, "invalid_request");
            gate.assert_unseen(&response.marker);
        }
    });
}
