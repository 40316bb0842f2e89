//! HTTP/1.1 written by hand, so that exactly the bytes of the test are sent, valid or not.

use crate::clock;
use crate::response::Response;
use rand::Rng;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Carries the marker by which the upstream finds a request.
pub const MARKER: &str = "x-test-id";
/// Tells the upstream how to misbehave.
pub const BEHAVE: &str = "x-test";

/// A request, sent exactly as given.
#[derive(Debug, Clone)]
pub struct Request {
    pub(crate) method: String,
    pub(crate) target: Vec<u8>,
    pub(crate) headers: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) body: Body,
    /// The marker by which the upstream finds this request.
    pub marker: String,
    pub(crate) pause: Duration,
}

/// How a body is framed.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    None,
    Sized(Vec<u8>),
    Chunked { chunks: Vec<Vec<u8>>, trailers: Vec<(String, Vec<u8>)> },
}

impl Request {
    /// A request with any method and target bytes.
    pub fn new(method: &str, target: impl AsRef<[u8]>) -> Request {
        let marker = format!("m{:016x}", rand::rng().random::<u64>());
        Request {
            method: method.to_owned(),
            target: target.as_ref().to_vec(),
            headers: vec![(MARKER.into(), marker.clone().into())],
            body: Body::None,
            marker,
            pause: Duration::ZERO,
        }
    }

    /// The same request with another marker.
    pub fn with_new_marker(mut self) -> Request {
        let anew = Request::get("/");
        for (name, value) in &mut self.headers {
            if name == MARKER.as_bytes() {
                *value = anew.marker.clone().into();
            }
        }
        Request { marker: anew.marker, ..self }
    }

    /// A GET.
    pub fn get(target: impl AsRef<[u8]>) -> Request {
        Request::new("GET", target)
    }

    /// A POST.
    pub fn post(target: impl AsRef<[u8]>) -> Request {
        Request::new("POST", target)
    }

    /// The same request with another target.
    pub fn target(mut self, target: &str) -> Request {
        self.target = target.into();
        self
    }

    /// Adds a header, also one that is there already.
    pub fn header(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Request {
        self.headers.push((name.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    /// Removes a header.
    pub fn without(mut self, name: &str) -> Request {
        self.headers.retain(|(own, _)| own != name.as_bytes());
        self
    }

    /// Adds the credential as a bearer.
    pub fn key(self, secret: &str) -> Request {
        self.header("authorization", format!("Bearer {secret}"))
    }

    /// Tells the upstream how to misbehave.
    pub fn upstream(self, behaviour: &str) -> Request {
        self.header(BEHAVE, behaviour)
    }

    /// A body with its length.
    pub fn body(mut self, body: &[u8]) -> Request {
        self.body = Body::Sized(body.to_vec());
        self
    }

    /// A body in chunks, or in DATA frames that do not end the stream.
    pub fn chunks<'a>(mut self, chunks: impl IntoIterator<Item = &'a [u8]>) -> Request {
        let chunks = chunks.into_iter().map(<[u8]>::to_vec).collect();
        self.body = Body::Chunked { chunks, trailers: Vec::new() };
        self
    }

    /// Trailers after the chunks.
    pub fn trailer(mut self, name: &str, value: &[u8]) -> Request {
        match &mut self.body {
            Body::Chunked { trailers, .. } => trailers.push((name.to_owned(), value.to_vec())),
            _ => panic!("trailers come after chunks"),
        }
        self
    }

    /// Pauses between the chunks.
    pub fn slowly(mut self, pause: Duration) -> Request {
        self.pause = pause;
        self
    }

    /// The marker.
    pub fn marker(&self) -> &str {
        &self.marker
    }

    /// Sends it on a connection of its own.
    pub async fn send(self, to: SocketAddr) -> Response {
        let shown = format!("{} {}", self.method, String::from_utf8_lossy(&self.target));
        self.try_send(to).await.unwrap_or_else(|fault| panic!("{shown}: {fault}"))
    }

    /// Sends it on its own connection. Returns an error if no response arrived.
    pub async fn try_send(self, to: SocketAddr) -> Result<Response, String> {
        let mut connection = Connection::open(to).await;
        connection.exchange(self).await
    }

    /// The body, for tests that send it by hand after [`Request::head`].
    pub fn body_bytes(&self) -> Vec<u8> {
        match &self.body {
            Body::Sized(body) => body.clone(),
            Body::None | Body::Chunked { .. } => Vec::new(),
        }
    }

    /// The header section, for tests that send the rest by hand.
    pub fn head(&self) -> Vec<u8> {
        let mut head = format!("{} ", self.method).into_bytes();
        head.extend_from_slice(&self.target);
        head.extend_from_slice(b" HTTP/1.1\r\n");
        let mut line = |name: &[u8], value: &[u8]| {
            head.extend_from_slice(name);
            head.extend_from_slice(b": ");
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        };
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(b"host")) {
            line(b"host", b"gate.test");
        }
        self.headers.iter().for_each(|(name, value)| line(name, value));
        match &self.body {
            Body::None => {}
            Body::Sized(body) => line(b"content-length", body.len().to_string().as_bytes()),
            Body::Chunked { .. } => line(b"transfer-encoding", b"chunked"),
        }
        head.extend_from_slice(b"\r\n");
        head
    }
}

/// A connection that stays open.
pub struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub async fn open(to: SocketAddr) -> Connection {
        let stream = TcpStream::connect(to).await.unwrap_or_else(|error| panic!("connect to {to}: {error}"));
        stream.set_nodelay(true).expect("TCP_NODELAY can be set");
        Connection { stream, read: Vec::new() }
    }

    /// Sends bytes.
    pub async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Sends a request and reads its response, also while the body is still being sent.
    pub async fn exchange(&mut self, request: Request) -> Result<Response, String> {
        let is_head = request.method == "HEAD";
        let marker = request.marker.clone();
        let Connection { stream, read } = self;
        let (mut reader, mut writer) = stream.split();
        let send = async {
            // A gate that refuses early stops reading; its answer is read all the same.
            let _ = write_request(&mut writer, request).await;
            std::future::pending::<()>().await;
        };
        let answered = tokio::select! {
            answered = clock::in_time("response", read_response(&mut reader, read, is_head)) => answered?,
            () = send => Err("the response was not awaited".to_owned()),
        };
        answered.map(|response| Response { marker, ..response })
    }

    /// Reads the next response.
    pub async fn response(&mut self) -> Result<Response, String> {
        let (mut reader, _) = self.stream.split();
        clock::in_time("response", read_response(&mut reader, &mut self.read, false)).await?
    }

    /// The bytes that arrived and are not part of a response yet.
    pub fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.read).into_owned()
    }

    /// Reads until these bytes have arrived.
    pub async fn read_until(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.read_while(|read| !read.windows(bytes.len()).any(|window| window == bytes)).await
    }

    /// Reads until so many bytes of a body with a length have arrived.
    pub async fn read_body(&mut self, bytes: usize) -> Result<(), String> {
        let body =
            |read: &[u8]| read.windows(4).position(|end| end == b"\r\n\r\n").map(|at| read.len() - at - 4);
        self.read_while(|read| body(read).is_none_or(|length| length < bytes)).await
    }

    async fn read_while(&mut self, is_wanting: impl Fn(&[u8]) -> bool) -> Result<(), String> {
        let until = async {
            while is_wanting(&self.read) {
                if self.stream.read_buf(&mut self.read).await.map_err(|error| error.to_string())? == 0 {
                    return Err(format!("closed after {:?}", String::from_utf8_lossy(&self.read)));
                }
            }
            Ok(())
        };
        clock::in_time("bytes", until).await?
    }
}

async fn write_request(writer: &mut (impl AsyncWriteExt + Unpin), request: Request) -> std::io::Result<()> {
    writer.write_all(&request.head()).await?;
    match request.body {
        Body::None => {}
        Body::Sized(body) => writer.write_all(&body).await?,
        Body::Chunked { chunks, trailers } => {
            for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
                writer.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await?;
                writer.write_all(chunk).await?;
                writer.write_all(b"\r\n").await?;
                clock::wait(request.pause).await;
            }
            writer.write_all(b"0\r\n").await?;
            for (name, value) in trailers {
                writer.write_all(name.as_bytes()).await?;
                writer.write_all(b": ").await?;
                writer.write_all(&value).await?;
                writer.write_all(b"\r\n").await?;
            }
            writer.write_all(b"\r\n").await?;
        }
    }
    Ok(())
}

type Headers = Vec<(String, Vec<u8>)>;

async fn read_response(
    reader: &mut (impl AsyncReadExt + Unpin),
    read: &mut Vec<u8>,
    is_head: bool,
) -> Result<Response, String> {
    let mut informational = Vec::new();
    let (status, headers) = loop {
        let (status, headers) = read_head(reader, read).await?;
        if !(100..200).contains(&status) || status == 101 {
            break (status, headers);
        }
        informational.push(status);
    };
    let value = |name: &str| headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.clone());
    let length =
        value("content-length").and_then(|value| String::from_utf8(value).ok()?.parse::<usize>().ok());
    let is_chunked = value("transfer-encoding").is_some();
    let mut response = Response {
        status,
        headers,
        body: Vec::new(),
        trailers: Vec::new(),
        is_complete: true,
        informational,
        marker: String::new(),
    };
    if is_head || status == 101 || status == 204 || status == 304 {
        return Ok(response);
    }
    if is_chunked {
        response.is_complete = read_chunks(reader, read, &mut response).await.is_ok();
    } else {
        let wanted = length.unwrap_or(usize::MAX);
        while read.len() < wanted && fill(reader, read).await.is_ok() {}
        let end = wanted.min(read.len());
        response.body = read.drain(..end).collect();
        response.is_complete = length.is_none_or(|length| length == response.body.len());
    }
    Ok(response)
}

async fn read_head(
    reader: &mut (impl AsyncReadExt + Unpin),
    read: &mut Vec<u8>,
) -> Result<(u16, Headers), String> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 128];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(read).map_err(|error| format!("no HTTP response: {error}"))? {
            httparse::Status::Complete(length) => {
                let status = response.code.unwrap_or(0);
                let named =
                    |header: &httparse::Header<'_>| (header.name.to_ascii_lowercase(), header.value.to_vec());
                let headers = response.headers.iter().map(named).collect();
                read.drain(..length);
                return Ok((status, headers));
            }
            httparse::Status::Partial => fill(reader, read).await?,
        }
    }
}

async fn read_chunks(
    reader: &mut (impl AsyncReadExt + Unpin),
    read: &mut Vec<u8>,
    response: &mut Response,
) -> Result<(), String> {
    loop {
        let size = read_line(reader, read).await?;
        let digits = size.split(';').next().unwrap_or_default().trim().to_owned();
        let size = usize::from_str_radix(&digits, 16).map_err(|_| format!("{digits:?} is no chunk size"))?;
        if size == 0 {
            break;
        }
        while read.len() < size + 2 {
            if let Err(fault) = fill(reader, read).await {
                response.body.extend(read.drain(..size.min(read.len())));
                return Err(fault);
            }
        }
        response.body.extend(read.drain(..size));
        read.drain(..2);
    }
    loop {
        let line = read_line(reader, read).await?;
        match line.split_once(": ") {
            Some((name, value)) => {
                response.trailers.push((name.to_ascii_lowercase(), value.as_bytes().to_vec()));
            }
            None => return Ok(()),
        }
    }
}

async fn read_line(reader: &mut (impl AsyncReadExt + Unpin), read: &mut Vec<u8>) -> Result<String, String> {
    loop {
        if let Some(end) = read.windows(2).position(|pair| pair == b"\r\n") {
            let line = read.drain(..end + 2).collect::<Vec<u8>>();
            return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
        }
        fill(reader, read).await?;
    }
}

async fn fill(reader: &mut (impl AsyncReadExt + Unpin), read: &mut Vec<u8>) -> Result<(), String> {
    match reader.read_buf(read).await {
        Ok(0) => Err("the connection was closed".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
