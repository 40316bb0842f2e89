//! A proxy between Envoy and the ledger that passes calls on, or fails them as a network or a broken ledger would.

use crate::clock;
use crate::http1::Request;
use crate::upstream::{Seen, read};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Closed without an answer; the ledger gets no request.
    Close,
    /// Never answered; the ledger gets no request.
    Hang,
    /// The ledger handles the request, and its answer is lost.
    LoseAnswer,
    /// These bytes, then closed.
    Answer(&'static str),
}

/// Names of answers that no ledger gives.
pub const STRANGE: [(&str, Fault); 11] = [
    ("closed", Fault::Close),
    ("no HTTP", Fault::Answer("hello\r\n\r\n")),
    (
        "reset after headers",
        Fault::Answer("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n"),
    ),
    ("reset in the body", Fault::Answer("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"key_id\":")),
    (
        "reset in a chunk",
        Fault::Answer("HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n8\r\n{\"a"),
    ),
    ("500", Fault::Answer("HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\n{}")),
    ("200 without a body", Fault::Answer("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")),
    ("204", Fault::Answer("HTTP/1.1 204 No Content\r\n\r\n")),
    ("no JSON", Fault::Answer("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n\u{fffd}{")),
    ("another shape", Fault::Answer("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{\"x\": []}")),
    ("401", Fault::Answer("HTTP/1.1 401 No\r\ncontent-length: 2\r\n\r\n{}")),
];

/// The relay. It runs as long as the test process.
pub struct Relay {
    /// Where it listens.
    pub address: SocketAddr,
    faults: Arc<Mutex<Vec<(String, Fault)>>>,
}

impl Relay {
    /// Starts it in front of a ledger.
    pub async fn start(ledger: SocketAddr) -> Relay {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let faults: Arc<Mutex<Vec<(String, Fault)>>> = Arc::default();
        let shared = faults.clone();
        clock::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let faults = shared.clone();
                tokio::spawn(async move {
                    // Broken connections are intended here.
                    let _ = serve(stream, ledger, &faults).await;
                });
            }
        });
        Relay { address, faults }
    }

    /// From now on, calls of this path fail in this way.
    pub fn fail(&self, path: &str, fault: Fault) {
        self.faults.lock().expect("no test panics in here").push((path.to_owned(), fault));
    }

    /// From now on, all calls are passed on.
    pub fn restore(&self) {
        self.faults.lock().expect("no test panics in here").clear();
    }
}

async fn serve(
    mut stream: TcpStream,
    ledger: SocketAddr,
    faults: &Mutex<Vec<(String, Fault)>>,
) -> io::Result<()> {
    let mut buffer = Vec::new();
    while let Some(request) = read::request(&mut stream, &mut buffer).await? {
        let path = request.target.split('?').next().unwrap_or_default().to_owned();
        let fault = {
            let faults = faults.lock().expect("no test panics in here");
            faults.iter().rev().find(|(own, _)| *own == path).map(|(_, fault)| *fault)
        };
        match fault {
            None => pass(&mut stream, ledger, &request).await?,
            Some(Fault::Close) => return Ok(()),
            Some(Fault::Hang) => return stream.read(&mut [0]).await.map(|_| ()),
            Some(Fault::LoseAnswer) => {
                let _ = forward(&request).try_send(ledger).await;
                return Ok(());
            }
            Some(Fault::Answer(bytes)) => {
                stream.write_all(bytes.as_bytes()).await?;
                return stream.shutdown().await;
            }
        }
    }
    Ok(())
}

/// The request as it came, except for its framing.
fn forward(seen: &Seen) -> Request {
    let mut request = Request::new(&seen.method, &seen.target).without(crate::http1::MARKER);
    for (name, value) in &seen.headers {
        if !matches!(name.as_str(), "content-length" | "transfer-encoding" | "connection") {
            request = request.header(name, value);
        }
    }
    if seen.method == "POST" { request.body(&seen.body) } else { request }
}

async fn pass(stream: &mut TcpStream, ledger: SocketAddr, seen: &Seen) -> io::Result<()> {
    let response = forward(seen).try_send(ledger).await.map_err(io::Error::other)?;
    let mut head =
        format!("HTTP/1.1 {} Status\r\ncontent-length: {}\r\n", response.status, response.body.len());
    for (name, value) in &response.headers {
        if !matches!(name.as_str(), "content-length" | "transfer-encoding" | "connection") {
            head.push_str(&format!("{name}: {}\r\n", String::from_utf8_lossy(value)));
        }
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&response.body).await
}
