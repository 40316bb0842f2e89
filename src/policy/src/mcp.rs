//! Recognises MCP messages: reads one JSON-RPC message and returns what it asks for.
//!
//! The input is chosen by the client. A message that can be read in two ways is refused; the gate never guesses.
//! [`answer`] reads what servers send back.

pub mod answer;
pub mod id;
pub mod list;
pub mod scanner;
pub mod sse;

use crate::credential::{self, Headers};
use crate::json;
use crate::reading::{Readable, has_blanks};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The first protocol version whose headers repeat parts of the body and must be checked against it.
const MODERN: &str = "2026-07-28";
const LISTEN: &str = "subscriptions/listen";
const ID_BYTES_MAX: usize = 256;
const METHOD_BYTES_MAX: usize = 128;

/// What one message asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The id exactly as the client wrote it; the answer must repeat it. `None` for notifications and responses.
    pub id: Option<String>,
    /// What the message is.
    pub call: Call,
}

/// The kinds of message, as far as they are decided differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// `tools/call`
    Tool {
        /// The tool's name.
        name: String,
        /// The arguments by name: the value of a string, `None` for any other type.
        arguments: BTreeMap<String, Option<String>>,
    },
    /// `tools/list`. Its answer is filtered.
    ListTools {
        /// True if it asks for the first page.
        is_first: bool,
    },
    /// A message that opens a connection. If it is refused, clients assume an old server or a dead one; so it is never refused
    /// by the limits on calls.
    Opening(&'static str),
    /// A method that reads the server's data: `prompts/get`, `resources/read` and such.
    Read {
        /// The method.
        method: &'static str,
        /// What it reads, if the message says so.
        what: Vec<Readable>,
    },
    /// A method of the protocol that accesses no data of its own.
    Protocol(&'static str),
    /// A method that starts no work. Work that was admitted earlier may wait for it or be ended by it.
    Awaited(&'static str),
    /// The client's answer to a request from the server.
    Response,
    /// A method that this release does not know.
    Unknown(String),
}

impl Call {
    /// True if the answer is a stream that stays open until one side closes it.
    pub fn is_listening(&self) -> bool {
        matches!(self, Call::Protocol(LISTEN) | Call::Read { method: LISTEN, .. })
    }
}

/// Why a message is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The JSON-RPC code.
    pub code: i32,
    /// What is wrong, and what would be right.
    pub message: String,
    /// The id to answer with, if the message has a valid one.
    pub id: Option<String>,
}

impl Fault {
    fn new(code: i32, message: impl Into<String>) -> Fault {
        Fault { code, message: message.into(), id: None }
    }
}

const PARSE_ERROR: i32 = -32700;
const INVALID_REQUEST: i32 = -32600;
const INVALID_PARAMS: i32 = -32602;
const HEADER_MISMATCH: i32 = -32020;

/// The parts of a message, as written. A null value counts as absent where null has no meaning.
#[derive(Deserialize)]
pub(crate) struct Envelope<'m> {
    #[serde(borrow, default, deserialize_with = "json::present")]
    jsonrpc: Option<&'m RawValue>,
    #[serde(borrow, default, deserialize_with = "json::present")]
    pub(crate) id: Option<&'m RawValue>,
    #[serde(borrow, default)]
    pub(crate) method: Option<&'m RawValue>,
    #[serde(borrow, default)]
    pub(crate) params: Option<&'m RawValue>,
    #[serde(borrow, default, deserialize_with = "json::present")]
    pub(crate) result: Option<&'m RawValue>,
    #[serde(borrow, default, deserialize_with = "json::present")]
    pub(crate) error: Option<&'m RawValue>,
}

/// The parameters of a method.
#[derive(Deserialize)]
pub(crate) struct Params<'m> {
    #[serde(borrow, default, deserialize_with = "json::present")]
    name: Option<&'m RawValue>,
    #[serde(borrow, default, deserialize_with = "json::present")]
    uri: Option<&'m RawValue>,
    #[serde(borrow, default)]
    pub(crate) arguments: Option<&'m RawValue>,
    #[serde(borrow, default, deserialize_with = "json::present", rename = "ref")]
    reference: Option<&'m RawValue>,
    #[serde(borrow, default)]
    cursor: Option<&'m RawValue>,
    #[serde(borrow, default, deserialize_with = "json::present", rename = "taskId")]
    task_id: Option<&'m RawValue>,
    #[serde(borrow, default, deserialize_with = "json::present")]
    notifications: Option<&'m RawValue>,
    #[serde(borrow, default, deserialize_with = "json::present", rename = "_meta")]
    meta: Option<&'m RawValue>,
}

#[derive(Deserialize)]
struct Meta<'m> {
    #[serde(borrow, default, rename = "io.modelcontextprotocol/protocolVersion")]
    protocol_version: Option<&'m RawValue>,
}

/// Reads the body of a POST to an MCP service, and checks the headers that repeat parts of it.
pub fn classify(body: &[u8], headers: &Headers<'_>) -> Result<Message, Fault> {
    json::check_message(body).map_err(|fault| Fault::new(PARSE_ERROR, fault.to_string()))?;
    if body.trim_ascii_start().starts_with(b"[") {
        return Err(Fault::new(
            INVALID_REQUEST,
            "JSON-RPC batches are accepted only in protocol version 2025-03-26, with 1 to 32 messages and distinct ids; send each message separately",
        ));
    }
    let envelope: Envelope<'_> = std::str::from_utf8(body)
        .ok()
        .and_then(json::object)
        .ok_or_else(|| Fault::new(INVALID_REQUEST, "the body is not a JSON-RPC message object"))?;
    let id = match (envelope.id, envelope.method) {
        (Some(id), Some(_)) => Some(valid_id(id)?),
        // An answer carries the server's own id, or null if the client could not read it.
        (Some(id), None) => valid_id(id).ok(),
        (None, _) => None,
    };
    read(&envelope, headers, id.is_some())
        .map(|call| Message { id: id.clone().filter(|_| call != Call::Response), call })
        .map_err(|fault| Fault { id, ..fault })
}

fn valid_id(id: &RawValue) -> Result<String, Fault> {
    let text = id.get();
    let is_string = text.starts_with('"');
    let is_integer = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    if (is_string || is_integer) && text.len() <= ID_BYTES_MAX {
        Ok(text.to_owned())
    } else {
        Err(Fault::new(INVALID_REQUEST, "`id` must be a string or an integer of at most 256 bytes"))
    }
}

fn read(envelope: &Envelope<'_>, headers: &Headers<'_>, has_id: bool) -> Result<Call, Fault> {
    if envelope.jsonrpc.is_none_or(|version| version.get() != "\"2.0\"") {
        return Err(Fault::new(INVALID_REQUEST, "`jsonrpc` must be \"2.0\""));
    }
    let Some(method) = envelope.method else {
        let is_given = |part: Option<&RawValue>| part.is_some_and(|part| part.get() != "null");
        let is_response = envelope.result.is_some() || envelope.error.is_some();
        let is_both = is_given(envelope.result) && is_given(envelope.error);
        return match is_response && !is_both && envelope.params.is_none() {
            true => Ok(Call::Response),
            false => {
                Err(Fault::new(INVALID_REQUEST, "a message has a `method`, or one of `result` and `error`"))
            }
        };
    };
    if envelope.result.is_some() || envelope.error.is_some() {
        return Err(Fault::new(INVALID_REQUEST, "a message with `method` has neither `result` nor `error`"));
    }
    let method = text(method, "method")?;
    if method.is_empty() || method.len() > METHOD_BYTES_MAX {
        return Err(Fault::new(INVALID_REQUEST, "`method` must be 1 to 128 bytes"));
    }
    let params: Option<Params<'_>> = envelope
        .params
        .map(|params| {
            let message = "`params` must be an object";
            json::object(params.get()).ok_or_else(|| Fault::new(INVALID_PARAMS, message))
        })
        .transpose()?;
    check_headers(headers, &method, params.as_ref())?;
    if !has_id && !method.starts_with("notifications/") {
        return Err(Fault::new(INVALID_REQUEST, format!("`{method}` is a request and needs an `id`")));
    }
    if method == "tools/call" { tool_call(params.as_ref()) } else { known_method(&method, params.as_ref()) }
}

/// What a method reads. A completion reads the prompt or resource whose argument it completes.
fn readable(method: &str, params: Option<&Params<'_>>) -> Result<Vec<Readable>, Fault> {
    let Some(params) = params else { return Ok(Vec::new()) };
    let reference = params.reference.filter(|_| method == "completion/complete");
    let (name, uri) = match reference {
        Some(raw) => {
            let referred: Params<'_> = json::object(raw.get())
                .ok_or_else(|| Fault::new(INVALID_PARAMS, "`params.ref` must be an object"))?;
            (referred.name, referred.uri)
        }
        None => (params.name, params.uri),
    };
    let (prompt, resource) = match method {
        "prompts/get" => (name, None),
        "completion/complete" => (name, uri),
        _ => (None, uri),
    };
    match (prompt, resource) {
        (Some(_), Some(_)) => Err(Fault::new(INVALID_PARAMS, "`params.ref` names a prompt or a resource")),
        (Some(name), None) => Ok(vec![Readable::Prompt(text(name, "name")?.into_owned())]),
        (None, Some(uri)) => Ok(vec![resource_without_blanks(text(uri, "uri")?.into_owned())?]),
        (None, None) => Ok(Vec::new()),
    }
}

/// A resource by its URI. A URI with blanks is refused, because some servers remove them.
fn resource_without_blanks(uri: String) -> Result<Readable, Fault> {
    let message = "a resource's URI must not contain blanks or control characters; escape them";
    if has_blanks(&uri) { Err(Fault::new(INVALID_PARAMS, message)) } else { Ok(Readable::Resource(uri)) }
}

/// The resources whose changes the client subscribes to with a stream of notifications.
fn subscribed_resources(params: Option<&Params<'_>>) -> Result<Vec<Readable>, Fault> {
    #[derive(Deserialize)]
    struct Wanted {
        #[serde(default, rename = "resourceSubscriptions")]
        resources: Option<Vec<String>>,
    }
    let Some(wanted) = params.and_then(|params| params.notifications) else { return Ok(Vec::new()) };
    let message =
        "`params.notifications` must be an object, with `resourceSubscriptions` an array of strings";
    let wanted: Wanted = json::object(wanted.get()).ok_or_else(|| Fault::new(INVALID_PARAMS, message))?;
    wanted.resources.unwrap_or_default().into_iter().map(resource_without_blanks).collect()
}

fn tool_call(params: Option<&Params<'_>>) -> Result<Call, Fault> {
    let missing = || Fault::new(INVALID_PARAMS, "`params.name` must name the tool");
    let params = params.ok_or_else(missing)?;
    let name = text(params.name.ok_or_else(missing)?, "params.name")?.into_owned();
    let mut arguments = BTreeMap::new();
    if let Some(raw) = params.arguments {
        let raw = json::members(raw.get())
            .ok_or_else(|| Fault::new(INVALID_PARAMS, "`params.arguments` must be an object"))?;
        for (name, value) in raw {
            arguments.insert(name.into_owned(), serde_json::from_str::<String>(value.get()).ok());
        }
    }
    Ok(Call::Tool { name, arguments })
}

fn known_method(method: &str, params: Option<&Params<'_>>) -> Result<Call, Fault> {
    const OPENING: [&str; 2] = ["initialize", "server/discover"];
    const READ: [&str; 5] = [
        "prompts/get",
        "resources/read",
        "resources/subscribe",
        "resources/unsubscribe",
        "completion/complete",
    ];
    const PROTOCOL: [&str; 8] = [
        "logging/setLevel",
        "prompts/list",
        "resources/list",
        "resources/templates/list",
        "tasks/get",
        "tasks/result",
        "tasks/list",
        "tasks/update",
    ];
    const AWAITED: [&str; 6] = [
        "ping",
        "tasks/cancel",
        // If this notification is refused, the handshake can't end, and clients give up the connection.
        "notifications/initialized",
        "notifications/cancelled",
        "notifications/progress",
        "notifications/roots/list_changed",
    ];
    let within = |known: &[&'static str]| known.iter().copied().find(|known| *known == method);
    Ok(if method == "tools/list" {
        Call::ListTools { is_first: params.and_then(|params| params.cursor).is_none() }
    } else if let Some(opening) = within(&OPENING) {
        Call::Opening(opening)
    } else if let Some(read) = within(&READ) {
        Call::Read { method: read, what: readable(read, params)? }
    } else if method == LISTEN {
        match subscribed_resources(params)? {
            none if none.is_empty() => Call::Protocol(LISTEN),
            what => Call::Read { method: LISTEN, what },
        }
    } else if let Some(protocol) = within(&PROTOCOL) {
        Call::Protocol(protocol)
    } else if let Some(awaited) = within(&AWAITED) {
        Call::Awaited(awaited)
    } else if method.starts_with("notifications/") {
        // A notification has no answer that could leak data, and extensions add new ones.
        Call::Awaited("notifications/*")
    } else {
        Call::Unknown(method.to_owned())
    })
}

/// True for protocol versions in which headers repeat parts of the body and there are no sessions.
pub(crate) fn is_modern(version: &[u8]) -> bool {
    version.trim_ascii() >= MODERN.as_bytes()
}

/// Checks that headers repeat the body correctly. Otherwise a router that reads headers and a server that reads the body
/// would act on different requests.
fn check_headers(headers: &Headers<'_>, method: &str, params: Option<&Params<'_>>) -> Result<(), Fault> {
    let mismatch = |header: &str| {
        Fault::new(HEADER_MISMATCH, format!("`{header}` is missing, given twice, or differs from the body"))
    };
    let version_in_body = params
        .and_then(|params| params.meta)
        .and_then(|meta| json::object::<Meta<'_>>(meta.get()))
        .and_then(|meta| meta.protocol_version)
        .map(|version| text(version, "protocolVersion"))
        .transpose()?;
    let version_in_header = credential::all(headers, "mcp-protocol-version").next();
    // The version in either place counts, because a server may use the one in the body.
    let in_body = version_in_body.as_deref().map(str::as_bytes);
    let is_modern = version_in_header.into_iter().chain(in_body).any(is_modern);
    let is_version = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
    if credential::all(headers, "mcp-protocol-version").nth(1).is_some()
        || version_in_header.is_some_and(|version| !version.iter().all(is_version))
    {
        return Err(mismatch("MCP-Protocol-Version"));
    }
    if let (true, Some(in_body)) = (is_modern, &version_in_body)
        && version_in_header.is_none_or(|header| header.trim_ascii() != in_body.as_bytes())
    {
        return Err(mismatch("MCP-Protocol-Version"));
    }
    check_header(headers, "mcp-method", Some(method), is_modern).map_err(|()| mismatch("Mcp-Method"))?;
    // The gate does not use task ids, so it does not require the header.
    let is_of_task = method.starts_with("tasks/");
    let subject = match method {
        _ if is_of_task => params.and_then(|params| params.task_id),
        "tools/call" | "prompts/get" => params.and_then(|params| params.name),
        "resources/read" => params.and_then(|params| params.uri),
        _ => None,
    };
    let subject = subject.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
    let required = is_modern && subject.is_some() && !is_of_task;
    match subject {
        Some(_) => {
            check_header(headers, "mcp-name", subject.as_deref(), required).map_err(|()| mismatch("Mcp-Name"))
        }
        None => Ok(()),
    }
}

fn check_header(headers: &Headers<'_>, name: &str, body: Option<&str>, required: bool) -> Result<(), ()> {
    let mut values = credential::all(headers, name);
    let value = match (values.next(), values.next()) {
        (None, _) => return if required { Err(()) } else { Ok(()) },
        (Some(_), Some(_)) => return Err(()),
        (Some(value), None) => value.trim_ascii(),
    };
    let decoded = match value.strip_prefix(b"=?base64?").and_then(|rest| rest.strip_suffix(b"?=")) {
        Some(encoded) => Cow::Owned(STANDARD.decode(encoded).map_err(|_| ())?),
        None => Cow::Borrowed(value),
    };
    if body.is_some_and(|body| body.as_bytes() == decoded.as_ref()) { Ok(()) } else { Err(()) }
}

fn text<'m>(raw: &'m RawValue, name: &str) -> Result<Cow<'m, str>, Fault> {
    #[derive(Deserialize)]
    struct Text<'t>(#[serde(borrow)] Cow<'t, str>);
    serde_json::from_str::<Text<'m>>(raw.get())
        .map(|text| text.0)
        .map_err(|_| Fault::new(INVALID_REQUEST, format!("`{name}` must be a string")))
}

#[cfg(test)]
mod tests;
