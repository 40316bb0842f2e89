//! Forms of requests that some server reads as another request, generated from the plain form.

use harness::Request;
use serde_json::json;

/// One form, and its name in the table.
pub struct Form {
    pub shown: String,
    pub request: Request,
}

pub fn post(path: &str, body: &str) -> Request {
    Request::post(path)
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .body(body.as_bytes())
}

/// Calls `search` if read as UTF-8, and `image_generate` if read as UTF-7.
const UTF_7: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","arguments":{"query":"x+ACIAfQ-,+ACI-name+ACI-:+ACI-image_generate+ACI-,+ACI-y+ACI-:+AHsAIg-z+ACI-:+ACI-"}}}"#;

/// Content types by which a server reads UTF-7.
pub fn content_types(path: &str) -> Vec<Form> {
    let mut values: Vec<Vec<String>> = Vec::new();
    let mut one = |value: String| values.push(vec![value]);
    for name in ["charset", "Charset", "CHARSET", "charset*", "charset*0"] {
        for equals in ["=", " =", "= ", " = ", "\t=", "=\t"] {
            for charset in ["utf-7", "UTF-7", "\"utf-7\"", "'utf-7'", "utf7", "unicode-1-1-utf-7"] {
                one(format!("application/json; {name}{equals}{charset}"));
            }
        }
    }
    for type_ in ["application/json", "APPLICATION/JSON", "application/json ", "application/vnd.x+json"] {
        for separator in [
            ";",
            " ;",
            "; ",
            ";;",
            "; ;",
            ";\t",
            ",",
            "; x=y;",
            ";charset=utf-8;",
            ";charset=utf-8 ;",
            ";charset=utf-8,",
        ] {
            one(format!("{type_}{separator}charset=utf-7"));
            one(format!("{type_}{separator}charset=utf-7;charset=utf-8"));
        }
    }
    for tail in [";", "; ", " ", ";x", "\u{a0}", "; boundary=x"] {
        one(format!("application/json;charset=utf-7{tail}"));
    }
    values.push(vec!["application/json".into(), "application/json;charset=utf-7".into()]);
    values.push(vec!["application/json;charset=utf-7".into(), "application/json".into()]);
    let form = |values: Vec<String>| {
        let request = post(path, UTF_7).without("content-type");
        let request = values.iter().fold(request, |request, value| request.header("content-type", value));
        Form { shown: values.join(" AND ").escape_debug().to_string(), request }
    };
    values.into_iter().map(form).collect()
}

/// A name as a reader that ignores case would still recognise it.
fn other_cases(name: &str) -> Vec<String> {
    let mut first = name.to_owned();
    if let Some(at) = name.find(|letter: char| letter.is_ascii_lowercase()) {
        first.replace_range(at..=at, &name[at..=at].to_ascii_uppercase());
    }
    let mut forms = vec![first, name.to_ascii_uppercase(), name.to_ascii_lowercase()];
    forms.extend(
        ["s", "k"].map(|letter| name.replacen(letter, if letter == "s" { "\u{17f}" } else { "\u{212a}" }, 1)),
    );
    forms.retain(|form| form != name);
    forms.dedup();
    forms
}

/// Messages that name what the key may do, and in different case what it may not.
pub fn names(path: &str) -> Vec<Form> {
    let search =
        |params: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
    let mut bodies = Vec::new();
    for name in other_cases("name") {
        bodies.push(search(&format!(r#"{{"name":"search","{name}":"image_generate","arguments":{{}}}}"#)));
        bodies.push(search(&format!(r#"{{"{name}":"image_generate","name":"search","arguments":{{}}}}"#)));
        bodies.push(search(&format!(r#"{{"{name}":"image_generate","arguments":{{}}}}"#)));
    }
    for params in other_cases("params") {
        bodies.push(format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"search"}},"{params}":{{"name":"image_generate"}}}}"#
        ));
    }
    for method in other_cases("method") {
        bodies.push(format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"ping","{method}":"tools/call","params":{{"name":"image_generate"}}}}"#
        ));
        bodies.push(format!(
            r#"{{"jsonrpc":"2.0","id":1,"result":{{}},"{method}":"tools/call","params":{{"name":"image_generate"}}}}"#
        ));
    }
    for arguments in other_cases("arguments") {
        bodies.push(search(&format!(
            r#"{{"name":"search","arguments":{{}},"{arguments}":{{"depth":"deep"}}}}"#
        )));
    }
    for depth in other_cases("depth") {
        bodies.push(search(&format!(r#"{{"name":"search","arguments":{{"{depth}":"deep"}}}}"#)));
    }
    let private = "docs://private/one";
    for uri in other_cases("uri") {
        bodies.push(format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{{"uri":"docs://public/one","{uri}":"{private}"}}}}"#
        ));
        bodies.push(format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{{"ref":{{"type":"ref/resource","uri":"docs://public/one","{uri}":"{private}"}},"argument":{{"name":"a","value":""}}}}}}"#
        ));
    }
    for reference in other_cases("ref") {
        bodies.push(format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{{"ref":{{"type":"ref/resource","uri":"docs://public/one"}},"{reference}":{{"type":"ref/resource","uri":"{private}"}},"argument":{{"name":"a","value":""}}}}}}"#
        ));
    }
    for notifications in other_cases("notifications") {
        bodies.push(format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{{"notifications":{{}},"{notifications}":{{"resourceSubscriptions":["{private}"]}}}}}}"#
        ));
    }
    for resources in other_cases("resourceSubscriptions") {
        bodies.push(format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{{"notifications":{{"resourceSubscriptions":[],"{resources}":["{private}"]}}}}}}"#
        ));
    }
    for prototype in ["__proto__", "\\u005f_proto__", "__proto\\u005f_"] {
        bodies.push(search(&format!(
            r#"{{"name":"search","arguments":{{"{prototype}":{{"depth":"deep"}}}}}}"#
        )));
    }
    let form = |body: String| Form {
        request: post(path, &body),
        shown: body.replace(r#""jsonrpc":"2.0","id":1,"#, ""),
    };
    bodies.into_iter().map(form).collect()
}

/// URIs that some parser resolves to `docs://private/one`.
pub fn uris(path: &str) -> Vec<Form> {
    let mut uris: Vec<String> = Vec::new();
    let plain = "docs://private/one";
    for blank in [
        "\t", "\n", "\r", " ", "\u{0}", "\u{1}", "\u{a0}", "\u{2028}", "\u{200b}", "\u{ad}", "\u{feff}",
        "\u{85}",
    ] {
        for at in [0, 3, 5, 7, 10, 14, 15, plain.len()] {
            uris.push(format!("{}{blank}{}", &plain[..at], &plain[at..]));
        }
    }
    for (at, letter) in plain.char_indices().filter(|(_, letter)| letter.is_ascii_alphabetic()) {
        let (before, after) = (&plain[..at], &plain[at + 1..]);
        uris.push(format!("{before}%{:02x}{after}", u32::from(letter)));
        uris.push(format!("{before}%25{:02x}{after}", u32::from(letter)));
        uris.push(format!("{before}{}{after}", letter.to_ascii_uppercase()));
        let wide = char::from_u32(u32::from(letter) + 0xfee0).expect("a fullwidth letter");
        uris.push(format!("{before}{wide}{after}"));
    }
    uris.extend(
        [
            "docs:private/one",
            "docs:/private/one",
            "docs:///private/one",
            "docs:\\\\private\\one",
            "docs://private\\one",
            "docs://private//one",
            "docs://private/./one",
            "docs://private/x/../one",
            "docs://private/%2e/one",
            "docs://x/../private/one",
            "docs://public/../private/one",
            "docs://public/%2e%2e/private/one",
            "docs://private%2fone",
            "docs://private%2Fone",
            "docs://private%5cone",
            "docs://private/one/",
            "docs://private/one?",
            "docs://private/one?x=1",
            "docs://private/one#",
            "docs://private/one#x",
            "docs://private:/one",
            "docs://private:80/one",
            "docs://x@private/one",
            "docs://x:y@private/one",
            "docs://private./one",
            "DOCS://private/one",
            "Docs://PRIVATE/ONE",
            "docs://private;x/one",
            "docs://private/one;x",
            "docs://private/one%00",
            "docs://private/one%20",
            "docs://private/one%09",
        ]
        .map(str::to_owned),
    );
    let form = |uri: String| {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": {"uri": uri}});
        Form { shown: uri.escape_default().to_string(), request: post(path, &body.to_string()) }
    };
    uris.into_iter().map(form).collect()
}

/// Paths that some server reads as this one.
fn paths(plain: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let segments: Vec<&str> = plain.split('/').skip(1).collect();
    for (at, segment) in segments.iter().enumerate() {
        let mut with = |other: String| {
            let mut segments = segments.clone();
            segments[at] = &other;
            paths.push(format!("/{}", segments.join("/")));
        };
        let (first, rest) = segment.split_at(1);
        let letter = first.as_bytes()[0];
        with(segment.to_ascii_uppercase());
        with(format!("{}{rest}", first.to_ascii_uppercase()));
        with(format!("%{letter:02x}{rest}"));
        with(format!("%25{letter:02x}{rest}"));
        with(format!("%{:02X}{rest}", letter.to_ascii_uppercase()));
        with(segment.replacen('s', "%C5%BF", 1));
        for around in [
            ";", ";x", ";x=1", "%3B", "%3Bx", ".", "..", ".json", ".html", "%20", "%00", "%09", "%0a", "+",
            "%2e", "%3f", "%23", "\\", "%5c",
        ] {
            with(format!("{segment}{around}"));
        }
        for before in ["./", "x/../", "/", "%2e/", "x/%2e%2e/", "%20/", ".;/", "x/..;/", "%2f", "\\"] {
            with(format!("{before}{segment}"));
        }
    }
    for tail in ["/", "//", "/.", "/./", "/;", "/%20", "/x/..", "%2f", "/?x", "?x", "#x"] {
        paths.push(format!("{plain}{tail}"));
    }
    paths.retain(|path| path != plain);
    paths
}

/// The MCP endpoint under other paths, for a call that the key may not make.
pub fn endpoints(plain: &str) -> Vec<Form> {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "image_generate", "arguments": {}}});
    let form = |path: String| Form { request: post(&path, &body.to_string()), shown: path };
    paths(plain).into_iter().map(form).collect()
}

/// The route that the key has no scope for, under other paths and methods.
pub fn routes() -> Vec<Form> {
    const PLAIN: &str = "/api/projects/1/trigger";
    let form = |path: String| Form { request: post(&path, "{}"), shown: path };
    let mut forms: Vec<Form> = paths(PLAIN).into_iter().map(form).collect();
    forms.extend(["post", "Post", "pOST"].map(|method| Form {
        shown: format!("{method} {PLAIN}"),
        request: Request::new(method, PLAIN).header("content-type", "application/json").body(b"{}"),
    }));
    forms
}

/// Values that some server reads as this one, and this one.
pub fn resource_values(plain: &str) -> Vec<String> {
    let letter = plain.as_bytes()[0];
    let mut values = vec![plain.to_owned(), plain.to_ascii_uppercase(), format!("%{letter:02x}")];
    values.extend(
        ["%20", ".", ";x", "%00", "%09", "/", "%2f", ".json", "+", "%C2%A0"]
            .map(|tail| format!("{plain}{tail}")),
    );
    values.extend(["%20", "0", "b%2f..%2f", "b/../", "b;/../"].map(|head| format!("{head}{plain}")));
    values
}
