//! The clients and the tools behind the gate, both on one thread, so that everything but Envoy shares one core.
//! Requests are prepared in advance, and of answers only status and length are read, so that this side does not limit
//! the measurement. The status of every answer is checked.

use anyhow::{Context, bail, ensure};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const CHUNKED: &[u8] = b"transfer-encoding: chunked";

/// A request that is repeated.
#[derive(Clone)]
pub struct Load {
    /// The gate.
    pub gate: SocketAddr,
    /// The requests as bytes, sent in turn.
    pub requests: Rc<Vec<Vec<u8>>>,
    /// The required status; without it, statuses are counted.
    pub status: Option<u16>,
}

/// When a load ends.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// So many requests were sent.
    Count(usize),
    /// So long it went.
    Time(Duration),
}

/// The result of one load.
pub struct Measured {
    /// The time from the first request to the last answer.
    pub seconds: f64,
    /// The latency of each request, sorted.
    pub latencies_us: Vec<f32>,
    /// The number of requests of each connection.
    pub by_connection: Vec<usize>,
    /// The number of answers by status.
    pub statuses: BTreeMap<u16, usize>,
}

impl Measured {
    /// The number of requests.
    pub fn count(&self) -> usize {
        self.latencies_us.len()
    }

    /// The latency quantile, such as 0.99.
    pub fn quantile_us(&self, share: f64) -> f64 {
        let last = self.latencies_us.len().saturating_sub(1);
        let index = (last as f64 * share).round() as usize;
        self.latencies_us.get(index).copied().map_or(f64::NAN, f64::from)
    }

    /// Requests per second.
    pub fn per_second(&self) -> f64 {
        self.count() as f64 / self.seconds
    }
}

impl Load {
    /// Sends so many requests over so many connections. Each connection sends its next request after its answer.
    pub async fn run(&self, connections: usize, count: usize) -> anyhow::Result<Measured> {
        self.until(connections, Until::Count(count)).await
    }

    /// The same with another condition for the end.
    pub async fn until(&self, connections: usize, until: Until) -> anyhow::Result<Measured> {
        let mut open = Vec::new();
        for _ in 0..connections {
            open.push(Connection::open(self.gate).await?);
        }
        let next = Rc::new(Cell::new(0));
        let mut running = JoinSet::new();
        let began = Instant::now();
        for connection in open {
            running.spawn_local(self.clone().repeat(connection, Rc::clone(&next), until));
        }
        let mut all = Measured {
            seconds: 0.0,
            latencies_us: Vec::new(),
            by_connection: Vec::new(),
            statuses: BTreeMap::new(),
        };
        while let Some(ended) = running.join_next().await {
            let own = ended??;
            all.by_connection.push(own.latencies_us.len());
            all.latencies_us.extend(own.latencies_us);
            for (status, count) in own.statuses {
                *all.statuses.entry(status).or_default() += count;
            }
        }
        all.seconds = began.elapsed().as_secs_f64();
        all.latencies_us.sort_by(f32::total_cmp);
        Ok(all)
    }

    async fn repeat(
        self,
        mut connection: Connection,
        next: Rc<Cell<usize>>,
        until: Until,
    ) -> anyhow::Result<ConnectionResult> {
        let mut own = ConnectionResult { latencies_us: Vec::new(), statuses: BTreeMap::new() };
        let began = Instant::now();
        loop {
            let number = next.replace(next.get() + 1);
            let is_over = match until {
                Until::Count(count) => number >= count,
                Until::Time(time) => began.elapsed() >= time,
            };
            if is_over {
                return Ok(own);
            }
            let request = &self.requests[number % self.requests.len()];
            if connection.is_closed {
                connection = Connection::open(self.gate).await?;
            }
            let sent = Instant::now();
            let status = connection.call(request).await?;
            own.latencies_us.push(sent.elapsed().as_secs_f32() * 1e6);
            *own.statuses.entry(status).or_default() += 1;
            let wanted = self.status.unwrap_or(status);
            ensure!(status == wanted, "{status} instead of {wanted}: {}", connection.last());
        }
    }
}

/// The result of one connection.
struct ConnectionResult {
    latencies_us: Vec<f32>,
    statuses: BTreeMap<u16, usize>,
}

/// One keep-alive connection.
pub struct Connection {
    stream: TcpStream,
    bytes: Vec<u8>,
    is_closed: bool,
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, bytes: Vec::with_capacity(1 << 14), is_closed: false })
    }

    /// Sends a request and reads its whole answer.
    pub async fn call(&mut self, request: &[u8]) -> anyhow::Result<u16> {
        self.stream.write_all(request).await?;
        self.bytes.clear();
        loop {
            if self.stream.read_buf(&mut self.bytes).await? == 0 {
                bail!("the gate closed the connection after {:?}", self.last());
            }
            let Some(message) = Message::read(&self.bytes) else { continue };
            if self.bytes.len() >= message.length {
                self.is_closed = header(&self.bytes[..message.head], b"connection: close").is_some();
                return Ok(status(&self.bytes));
            }
        }
    }

    /// The bytes read last.
    pub fn last(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The last answer's body.
    pub fn body(&self) -> Vec<u8> {
        let Some(message) = Message::read(&self.bytes) else { return Vec::new() };
        if header(&self.bytes[..message.head], CHUNKED).is_none() {
            return self.bytes[message.head..message.length.min(self.bytes.len())].to_vec();
        }
        let mut body = Vec::new();
        chunks(&self.bytes, message.head, |chunk| body.extend_from_slice(chunk));
        body
    }
}

/// A message whose header section has arrived.
struct Message {
    /// Where its head ends.
    head: usize,
    /// Where its body ends.
    length: usize,
}

impl Message {
    fn read(bytes: &[u8]) -> Option<Message> {
        let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        if let Some(value) = header(&bytes[..head], b"content-length: ") {
            let digits = value.iter().take_while(|byte| byte.is_ascii_digit());
            let body = digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
            return Some(Message { head, length: head + body });
        }
        if header(&bytes[..head], CHUNKED).is_some() {
            return chunks(bytes, head, |_| ()).map(|length| Message { head, length });
        }
        Some(Message { head, length: head })
    }
}

/// The end of the last chunk, if it has arrived. Collects the chunks.
fn chunks(bytes: &[u8], mut at: usize, mut each: impl FnMut(&[u8])) -> Option<usize> {
    loop {
        let line = bytes.get(at..)?.windows(2).position(|window| window == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[at..at + line]).ok()?.trim(), 16).ok()?;
        each(bytes.get(at + line + 2..at + line + 2 + size)?);
        at += line + 2 + size + 2;
        if size == 0 {
            return (bytes.len() >= at).then_some(at);
        }
    }
}

/// The value of `name` in a header section, ignoring case.
fn header<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let found = |line: &[u8]| line.len() >= name.len() && line[..name.len()].eq_ignore_ascii_case(name);
    let mut lines = head.split(|byte| *byte == b'\n');
    lines.find(|line| found(line)).map(|line| &line[name.len()..])
}

fn status(bytes: &[u8]) -> u16 {
    let code = bytes.get(9..12).and_then(|code| std::str::from_utf8(code).ok());
    code.and_then(|code| code.parse().ok()).unwrap_or(0)
}

/// Starts the tools: a GET gets a small JSON document, a POST the result of an MCP call with id 1.
pub async fn upstream() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // An Envoy that ends breaks its connections.
            tokio::task::spawn_local(async move { serve(stream).await.ok() });
        }
    });
    Ok(address)
}

async fn serve(mut stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let page = answer(r#"{"builds":[{"id":1,"state":"passed"},{"id":2,"state":"failed"}]}"#);
    let result = answer(
        r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"A lighthouse."}],"isError":false}}"#,
    );
    let mut bytes = Vec::with_capacity(1 << 13);
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
        while let Some(message) = Message::read(&bytes).filter(|message| bytes.len() >= message.length) {
            let answer = if bytes.starts_with(b"POST") { &result } else { &page };
            stream.write_all(answer).await?;
            bytes.drain(..message.length);
        }
    }
}

fn answer(json: &str) -> Vec<u8> {
    let length = json.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{json}")
        .into_bytes()
}

/// Sends one GET without any gate, such as to Envoy's admin interface. Returns the body of a successful answer.
pub async fn get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut connection = Connection::open(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n");
    let status = connection.call(request.as_bytes()).await?;
    ensure!(status == 200, "{address}{path} answered {status}");
    let body = String::from_utf8(connection.body())?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_ends_as_its_headers_say() {
        let ends = |text: &str| Message::read(text.as_bytes()).map(|message| message.length);
        assert_eq!(ends("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"), None);
        assert_eq!(ends("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"), Some(40));
        assert_eq!(ends("HTTP/1.1 204 No Content\r\n\r\n"), Some(27));
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n";
        assert_eq!(ends(chunked), Some(chunked.len()));
        for end in 0..chunked.len() {
            assert_eq!(ends(&chunked[..end]), None, "{end}");
        }
    }
}
