//! One random exchange: the request, the answer and its form, who disconnects and when, and the judge.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

/// The called tool, and how it is paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Exact,
    Leased,
    Http,
}

/// How the response ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    Whole,
    UpstreamCloses,
    /// After the client got what was sent.
    ClientLeaves,
    /// Before anything arrived.
    ClientLeavesAtOnce,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Events,
    Unread,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Success,
    ToolError,
    RpcError,
    Input,
    /// A result and an error.
    Both,
    /// An error that is given twice, or has no valid value.
    Doubtful,
    /// A result with two values of `isError`.
    DoubtfulResult,
    NullResult,
    Note,
}

impl Content {
    fn has_result(self) -> bool {
        !matches!(self, Content::RpcError | Content::Doubtful | Content::NullResult | Content::Note)
    }
}

#[derive(Debug, Clone)]
struct Message {
    content: Content,
    is_own: bool,
    /// Its id is a string, which the official clients read as the number in it.
    is_string: bool,
    start: usize,
    end: usize,
    /// Where its result begins, and where it is known to belong to another call.
    result_at: usize,
    other_at: usize,
}

/// Messages that a client reads together.
#[derive(Debug, Clone)]
struct Unit {
    messages: Vec<Message>,
    is_for_others: bool,
    end: usize,
}

#[derive(Debug, Clone)]
pub struct Case {
    pub service: Service,
    pub has_session: bool,
    id: &'static str,
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    is_moved: bool,
    kind: Kind,
    body: String,
    units: Vec<Unit>,
    resumable_at: usize,
    cut: usize,
    pub ends: Ends,
    pub piece_bytes: usize,
}

/// An id as the client writes it, as servers write it back, and other ids.
const IDS: [(&str, &[&str], &[&str]); 6] = [
    ("7", &["7", "7.0", "70e-1", "0.7E+1"], &["\"7\"", "8", "-7", "70"]),
    ("-0", &["0", "-0", "0.0", "0e9"], &["1", "\"0\"", "\"\""]),
    (
        "1000000000000000000000",
        &["1e+21", "1000000000000000000000", "1E21"],
        &["1e22", "\"1000000000000000000000\"", "\"1e+21\""],
    ),
    ("9007199254740993", &["9007199254740992", "9007199254740993"], &["9007199254740990", "9"]),
    ("\"a\\u0062\"", &["\"ab\"", "\"\\u0061b\""], &["\"AB\"", "97", "\"ab \""]),
    ("\"\\ud83d\\ude00\"", &["\"\u{1f600}\"", "\"\\uD83D\\uDE00\""], &["\"\u{1f601}\"", "1"]),
];

fn one<'t>(random: &mut StdRng, texts: &[&'t str]) -> &'t str {
    texts.choose(random).expect("there are some")
}

impl Case {
    pub fn draw(random: &mut StdRng) -> Case {
        let service =
            *[Service::Exact, Service::Exact, Service::Leased, Service::Http].choose(random).expect("some");
        let ids = IDS.choose(random).expect("some");
        let kind = *[Kind::Json, Kind::Json, Kind::Events, Kind::Events, Kind::Events, Kind::Unread]
            .choose(random)
            .expect("some");
        let status = if random.random_bool(0.85) {
            200
        } else {
            *[202, 203, 303, 307, 307, 308, 400, 404, 500].choose(random).expect("some")
        };
        let mut headers = Vec::new();
        match kind {
            Kind::Json => {
                let types = [
                    "application/json",
                    "application/json; charset=utf-8",
                    "text/json",
                    "application/x+json",
                ];
                let own = one(random, &types);
                headers.push(("content-type", own.to_owned()));
                if random.random_bool(0.1) {
                    headers.push(("content-type", own.to_owned()));
                }
            }
            Kind::Events => headers.push(("content-type", "text/event-stream".to_owned())),
            Kind::Unread if random.random_bool(0.5) => {
                headers.push(("content-type", "text/plain".to_owned()))
            }
            Kind::Unread => headers.extend([
                ("content-type", "application/json".to_owned()),
                ("content-encoding", "gzip".to_owned()),
            ]),
        }
        let mut is_moved = false;
        if (300..400).contains(&status) {
            let is_own = random.random_bool(0.6);
            headers.push(("location", if is_own { "/mcp/" } else { "/other/" }.to_owned()));
            is_moved = is_own && status != 303 && service != Service::Http;
        }
        let mut case = Case {
            service,
            has_session: random.random_bool(0.5),
            id: ids.0,
            status,
            headers,
            is_moved,
            kind,
            body: if random.random_bool(0.2) { "\u{feff}".to_owned() } else { String::new() },
            units: Vec::new(),
            resumable_at: usize::MAX,
            cut: 0,
            ends: *[Ends::Whole, Ends::Whole, Ends::UpstreamCloses, Ends::ClientLeaves]
                .choose(random)
                .expect("some"),
            piece_bytes: *[1, 2, 7, 4096].choose(random).expect("some"),
        };
        let count = *[0, 1, 1, 1, 1, 2, 3].choose(random).expect("some");
        if kind == Kind::Events {
            (0..count).for_each(|_| case.event(random, ids));
        } else {
            let unit = case.messages(random, ids, count, false);
            case.units.push(unit);
        }
        if random.random_bool(0.05) {
            case.ends = Ends::ClientLeavesAtOnce;
        }
        let messages: Vec<(usize, usize)> = case
            .units
            .iter()
            .flat_map(|unit| &unit.messages)
            .map(|message| (message.start, message.end))
            .collect();
        case.cut = match case.ends {
            Ends::Whole => case.body.len(),
            _ if random.random_bool(0.2) => 0,
            _ if random.random_bool(0.3) => case.units.choose(random).map_or(0, |unit| unit.end),
            _ => messages
                .choose(random)
                .map_or(case.body.len(), |(start, end)| random.random_range(*start..=*end)),
        };
        case
    }

    fn event(&mut self, random: &mut StdRng, ids: &(&str, &[&str], &[&str])) {
        let end = one(random, &["\n", "\r", "\r\n"]);
        if random.random_bool(0.3) {
            self.body.push_str(&format!("id: 5{end}"));
            self.resumable_at = self.resumable_at.min(self.body.len());
        }
        if random.random_bool(0.2) {
            self.body.push_str(&format!(": data: a comment{end}"));
        }
        let kind = *["", "", "event: message", "event:message", "event:", "event: ping"]
            .choose(random)
            .expect("some");
        if !kind.is_empty() {
            self.body.push_str(&format!("{kind}{end}"));
        }
        self.body.push_str(one(random, &["data: ", "data:"]));
        let count = *[1, 1, 1, 2].choose(random).expect("some");
        let mut unit = self.messages(random, ids, count, kind == "event: ping");
        self.body.push_str(&format!("{end}{end}"));
        unit.end = self.body.len();
        self.units.push(unit);
    }

    fn messages(
        &mut self,
        random: &mut StdRng,
        ids: &(&str, &[&str], &[&str]),
        count: usize,
        is_for_others: bool,
    ) -> Unit {
        let is_array = count > 1 || random.random_bool(0.3);
        let mut messages = Vec::new();
        self.body.push_str(if is_array { "[ " } else { "" });
        for turn in 0..count {
            self.body.push_str(if turn > 0 { "," } else { "" });
            messages.push(self.message(random, ids));
        }
        self.body.push_str(if is_array { " ]" } else { "" });
        Unit { messages, is_for_others, end: self.body.len() }
    }

    fn message(&mut self, random: &mut StdRng, (_, own, others): &(&str, &[&str], &[&str])) -> Message {
        let content = *[
            Content::Success,
            Content::Success,
            Content::ToolError,
            Content::ToolError,
            Content::ToolError,
            Content::RpcError,
            Content::RpcError,
            Content::RpcError,
            Content::Input,
            Content::Both,
            Content::Doubtful,
            Content::DoubtfulResult,
            Content::NullResult,
            Content::Note,
        ]
        .choose(random)
        .expect("some");
        let is_own = content != Content::Note && random.random_bool(0.8);
        let id = match is_own {
            true => Some(one(random, own)),
            false if content == Content::Note => None,
            false => *[Some(one(random, others)), Some(one(random, others)), Some("null"), None]
                .choose(random)
                .expect("some"),
        };
        let error = || r#"{"code":1,"message":"\"result\":{"}"#.to_owned();
        let error_name = one(random, &["error", "error", "\\u0065rror"]);
        let flag = one(random, &["isError", "isError", "is\\u0045rror"]);
        let mut members: Vec<(String, String)> = vec![("jsonrpc".into(), "\"2.0\"".into())];
        let mut give = |name: &str, value: String| members.push((name.to_owned(), value));
        match content {
            Content::Success => {
                let flags = ["", ",\"isError\":false", ",\"isError\":null", ",\"isError\":\"true\""];
                let more = one(random, &flags);
                give("result", format!(r#"{{"content":[{{"isError":true,"error":{{}}}}]{more}}}"#));
                if random.random_bool(0.3) {
                    give("error", "null".into());
                }
            }
            Content::ToolError if random.random_bool(0.5) => {
                give("result", format!(r#"{{"content":[],"{flag}":true}}"#))
            }
            Content::ToolError => {
                give("result", format!(r#"{{"{flag}": true ,"content":[{{"isError":false}}]}}"#))
            }
            Content::RpcError => {
                give(error_name, error());
                if random.random_bool(0.3) {
                    give("result", "null".into());
                }
            }
            Content::Input => give("result", r#"{"requestState":"1","resultType":"input_required"}"#.into()),
            Content::Both => {
                give("error", error());
                give("result", r#"{"content":[]}"#.into());
            }
            Content::Doubtful if random.random_bool(0.5) => give("error", "\"boom\"".into()),
            Content::Doubtful => {
                give("error", error());
                give(error_name, one(random, &["null", "{}"]).to_owned());
            }
            Content::DoubtfulResult => give("result", format!(r#"{{"isError":true,"{flag}":true}}"#)),
            Content::NullResult => give("result", "null".into()),
            Content::Note => {
                give("method", "\"notifications/message\"".into());
                give("params", r#"{"error":{},"result":{}}"#.into());
            }
        }
        if let Some(id) = id {
            give(one(random, &["id", "id", "\\u0069d"]), id.to_owned());
        }
        members.shuffle(random);
        let start = self.body.len();
        let (mut result_at, mut other_at) = (usize::MAX, usize::MAX);
        for (turn, (name, value)) in members.iter().enumerate() {
            self.body.push_str(&format!("{}\"{name}\":", if turn == 0 { "{" } else { "," }));
            if name == "result" && value != "null" {
                result_at = self.body.len() + 1;
            }
            self.body.push_str(value);
            let is_of_other = !is_own && name.ends_with('d') && name != "method" && value != "null";
            if is_of_other {
                // A number ends where the next part begins.
                other_at = self.body.len() + usize::from(!value.starts_with('"'));
            }
        }
        self.body.push('}');
        let is_string = id.is_some_and(|id| id.starts_with('"'));
        Message { content, is_own, is_string, start, end: self.body.len(), result_at, other_at }
    }

    /// The message that is sent, to a tool by the way of payment.
    pub fn request(&self) -> String {
        let tool = if self.service == Service::Leased { "summarize" } else { "image_generate" };
        format!(
            r#"{{"jsonrpc":"2.0","id":{},"method":"tools/call","params":{{"name":"{tool}","arguments":{{}}}}}}"#,
            self.id
        )
    }

    /// What is sent of the body.
    pub fn sent(&self) -> &[u8] {
        &self.body.as_bytes()[..self.cut]
    }

    /// What the upstream sends, byte for byte.
    pub fn response(&self) -> Vec<u8> {
        // One byte more than ever arrives, unless the body must be complete.
        let length = self.body.len() + usize::from(self.ends != Ends::Whole);
        let mut head = format!("HTTP/1.1 {} Status\r\ncontent-length: {length}\r\n", self.status);
        self.headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        [head.as_bytes(), b"\r\n", self.sent()].concat()
    }

    /// The judge.
    pub fn is_paid(&self) -> bool {
        if self.ends == Ends::ClientLeavesAtOnce {
            return true;
        }
        if self.status >= 400 || self.is_moved {
            return false;
        }
        let closes = self.ends == Ends::UpstreamCloses;
        let is_read =
            self.service != Service::Http && self.kind != Kind::Unread && matches!(self.status, 200 | 203);
        if !is_read {
            return !(closes && self.cut == 0);
        }
        let mut answers = Vec::new();
        for unit in &self.units {
            for message in &unit.messages {
                let has_result = message.content.has_result() && self.cut >= message.result_at;
                if message.end > self.cut {
                    if has_result && (message.is_own || self.cut < message.other_at) {
                        return true;
                    }
                } else if !message.is_own
                    && message.is_string
                    && message.content.has_result()
                    && !self.id.starts_with('"')
                {
                    return true;
                } else if message.is_own {
                    answers.push((message.content, unit.end <= self.cut, unit.is_for_others));
                }
            }
        }
        let is_lost = closes && self.cut < self.resumable_at;
        match answers.as_slice() {
            [] => !is_lost,
            [(Content::ToolError | Content::RpcError | Content::Input, true, false)] => false,
            [(content, false, _)] if !content.has_result() => !is_lost,
            _ => true,
        }
    }

    /// True if a client reads in it that the call succeeded.
    pub fn delivers_a_result(&self) -> bool {
        let is_read = self.service != Service::Http && self.kind != Kind::Unread && self.status == 200;
        let read = self.units.iter().filter(|unit| unit.end <= self.cut).flat_map(|unit| &unit.messages);
        let mut read = read.filter(|message| message.is_own && message.content == Content::Success);
        is_read && self.ends != Ends::ClientLeavesAtOnce && read.next().is_some()
    }
}
