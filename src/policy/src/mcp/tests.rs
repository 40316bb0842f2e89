//! Messages, and how they are classified.

use super::*;

fn classified(body: &str) -> Result<Call, i32> {
    classify(body.as_bytes(), &[]).map(|message| message.call).map_err(|fault| fault.code)
}

fn tool(name: &str, arguments: &[(&str, Option<&str>)]) -> Call {
    Call::Tool {
        name: name.into(),
        arguments: arguments.iter().map(|(name, value)| ((*name).into(), value.map(Into::into))).collect(),
    }
}

#[test]
fn each_kind_of_message_is_recognised() {
    for (body, expected) in [
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"q":"x","n":1}}}"#,
            tool("a", &[("n", None), ("q", Some("x"))]),
        ),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/c\u0061ll","params":{"name":"a"}}"#, tool("a", &[])),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#, Call::ListTools { is_first: true }),
        // Some clients write absent members this way.
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":null}}"#,
            tool("a", &[]),
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":null}"#,
            Call::ListTools { is_first: true },
        ),
        (r#"{"jsonrpc":"2.0","id":1,"method":null,"params":null,"result":{},"error":null}"#, Call::Response),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":""}}"#,
            Call::ListTools { is_first: false },
        ),
        (r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}"#, Call::Opening("initialize")),
        (r#"{"jsonrpc":"2.0","id":"x","method":"server/discover"}"#, Call::Opening("server/discover")),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"a:b"}}"#,
            Call::Read { method: "resources/read", what: vec![Readable::Resource("a:b".into())] },
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"p"},"argument":{"name":"a","value":""}}}"#,
            Call::Read { method: "completion/complete", what: vec![Readable::Prompt("p".into())] },
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"prompts/get"}"#,
            Call::Read { method: "prompts/get", what: vec![] },
        ),
        (
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
            Call::Awaited("notifications/initialized"),
        ),
        (r#"{"jsonrpc":"2.0","method":"notifications/new"}"#, Call::Awaited("notifications/*")),
        (r#"{"jsonrpc":"2.0","id":5,"result":{}}"#, Call::Response),
        (r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"x"}}"#, Call::Response),
        (r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"x"}}"#, Call::Response),
        (r#"{"jsonrpc":"2.0","id":5,"result":{},"error":null}"#, Call::Response),
        (r#"{"jsonrpc":"2.0","id":1.5,"result":null}"#, Call::Response),
        (r#"{"jsonrpc":"2.0","id":5,"method":"tools/exec"}"#, Call::Unknown("tools/exec".into())),
    ] {
        assert_eq!(classified(body), Ok(expected), "{body}");
    }
}

#[test]
fn ambiguous_messages_are_refused() {
    for (body, code) in [
        ("", PARSE_ERROR),
        ("{", PARSE_ERROR),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"tools/call"}"#, PARSE_ERROR),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","Method":"tools/call"}"#, PARSE_ERROR),
        (r#"{"jsonrpc":"2.0","id":1,"result":1,"METHOD":"tools/call"}"#, PARSE_ERROR),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, INVALID_REQUEST),
        (r#""tools/call""#, INVALID_REQUEST),
        (r#"{"id":1,"method":"ping"}"#, INVALID_REQUEST),
        (r#"{"jsonrpc":2.0,"id":1,"method":"ping"}"#, INVALID_REQUEST),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, INVALID_REQUEST),
        (r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, INVALID_REQUEST),
        (r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#, INVALID_REQUEST),
        (r#"{"jsonrpc":"2.0","id":1,"method":["ping"]}"#, INVALID_REQUEST),
        (r#"{"jsonrpc":"2.0","id":1,"method":null}"#, INVALID_REQUEST),
        (r#"{"jsonrpc":"2.0","id":1}"#, INVALID_REQUEST),
        (r#"{"jsonrpc":"2.0","id":1,"result":1,"error":1}"#, INVALID_REQUEST),
        (r#"{"jsonrpc":"2.0","id":1,"result":1,"method":"ping"}"#, INVALID_REQUEST),
        (r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a"}}"#, INVALID_REQUEST),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#, INVALID_PARAMS),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["a"]}"#, INVALID_PARAMS),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#, INVALID_PARAMS),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":["a"]}}"#, INVALID_REQUEST),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":[]}}"#,
            INVALID_PARAMS,
        ),
    ] {
        assert_eq!(classified(body), Err(code), "{body}");
    }
}

#[test]
fn an_id_is_kept_exactly_as_it_was_written() {
    for id in ["0", "-7", "\"0\"", "\"a\\u0062\"", "123456789012345678901234567890"] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
        assert_eq!(classify(body.as_bytes(), &[]).map(|message| message.id), Ok(Some(id.to_owned())));
    }
    let fault = classify(br#"{"jsonrpc":"2.0","id":"q","method":"tools/call"}"#, &[]).unwrap_err();
    assert_eq!(fault.id.as_deref(), Some("\"q\""));
}

#[test]
fn headers_must_match_the_body() {
    let body = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    let version: (&[u8], &[u8]) = (b"mcp-protocol-version", b"2026-07-28");
    let method: (&[u8], &[u8]) = (b"mcp-method", b"tools/call");
    let name: (&[u8], &[u8]) = (b"mcp-name", b" search ");
    let outcome = |headers: &Headers<'_>| classify(body, headers).map(|_| ()).map_err(|fault| fault.code);

    assert_eq!(outcome(&[version, method, name]), Ok(()));
    assert_eq!(outcome(&[version, method, (b"mcp-name", b"=?base64?c2VhcmNo?=")]), Ok(()));
    for headers in [
        &[version, method][..],
        &[version, name],
        &[version, method, name, name],
        &[version, method, (b"mcp-name", b"Search")],
        &[version, method, (b"mcp-name", b"=?base64?!?=")],
        &[version, (b"mcp-method", b"tools/list"), name],
        &[version, version, method, name],
        &[(b"mcp-protocol-version", b"2026-09-01"), method, name],
        // The version in the body counts if the header is missing or lower.
        &[method, name],
        &[(b"mcp-protocol-version", b"2025-11-25"), method, name],
    ] {
        assert_eq!(outcome(headers), Err(HEADER_MISMATCH), "{headers:?}");
    }
    // In an older version they are optional, and must not be wrong.
    let body = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search"}}"#;
    let outcome = |headers: &Headers<'_>| classify(body, headers).map(|_| ()).map_err(|fault| fault.code);
    assert_eq!(outcome(&[(b"mcp-protocol-version", b"2025-11-25")]), Ok(()));
    assert_eq!(outcome(&[]), Ok(()));
    for headers in [
        &[(b"mcp-protocol-version".as_slice(), b"2025-11-25".as_slice()), (b"mcp-name", b"other")][..],
        &[(b"mcp-name", b"other")],
    ] {
        assert_eq!(outcome(headers), Err(HEADER_MISMATCH), "{headers:?}");
    }
    let body = br#"{"jsonrpc":"2.0","id":1,"method":"tasks/get","params":{"taskId":"t","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    let method: (&[u8], &[u8]) = (b"mcp-method", b"tasks/get");
    let outcome = |headers: &Headers<'_>| classify(body, headers).map(|_| ()).map_err(|fault| fault.code);
    assert_eq!(outcome(&[version, method, (b"mcp-name", b"t")]), Ok(()));
    assert_eq!(outcome(&[version, method, (b"mcp-name", b"u")]), Err(HEADER_MISMATCH));
}
