//! The tools behind the gate: an HTTP/1.1 server that records exactly what reached it, and misbehaves on request. It
//! serves every path. Its answers are in `answer`; this module listens, reads and records.

pub mod answer;
pub(crate) mod read;

use crate::clock;
use crate::http1::MARKER;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

/// A request as it arrived.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// The request target, byte for byte.
    pub target: String,
    /// Names in lowercase, with duplicates, in order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body as far as it arrived.
    pub body: Vec<u8>,
    /// Trailers.
    pub trailers: Vec<(String, Vec<u8>)>,
    /// The body is complete.
    pub is_complete: bool,
}

impl Seen {
    /// The values of a header.
    pub fn all(&self, name: &str) -> Vec<String> {
        let named = self.headers.iter().filter(|(own, _)| own == name);
        named.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    }

    /// The value of a header that occurs once.
    pub fn header(&self, name: &str) -> Option<String> {
        let values = self.all(name);
        assert!(values.len() < 2, "{name} arrived more than once: {self:?}");
        values.into_iter().next()
    }

    /// All of it as JSON.
    pub fn echo(&self) -> Value {
        let text = |(name, value): &(String, Vec<u8>)| json!([name, String::from_utf8_lossy(value)]);
        json!({
            "method": self.method,
            "target": self.target,
            "headers": self.headers.iter().map(text).collect::<Vec<_>>(),
            "body": STANDARD.encode(&self.body),
            "trailers": self.trailers.iter().map(text).collect::<Vec<_>>(),
        })
    }
}

/// The running server. It listens as long as the test process lives.
#[derive(Clone)]
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Upstream {
    /// Starts it on a free port.
    pub async fn start() -> Upstream {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let upstream = Upstream { address, seen: Arc::default() };
        let serving = upstream.clone();
        clock::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).expect("TCP_NODELAY can be set");
                let upstream = serving.clone();
                tokio::spawn(async move {
                    // Broken connections are what many tests are about.
                    let _ = read::serve(stream, &upstream).await;
                });
            }
        });
        upstream
    }

    /// Base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests with this marker that reached it, also those without a complete body.
    pub fn seen(&self, marker: &str) -> Vec<Seen> {
        let is_marked = |seen: &&Seen| {
            seen.headers.iter().any(|(name, value)| name == MARKER && value == marker.as_bytes())
        };
        self.seen.lock().expect("no test panics in here").iter().filter(is_marked).cloned().collect()
    }

    /// The one request with this marker.
    #[track_caller]
    pub fn the_one(&self, marker: &str) -> Seen {
        let mut seen = self.seen(marker);
        assert_eq!(seen.len(), 1, "requests that reached the upstream: {seen:?}");
        seen.remove(0)
    }

    /// The markers of all requests that reached it.
    pub fn markers(&self) -> HashSet<String> {
        let seen = self.seen.lock().expect("no test panics in here");
        let headers = seen.iter().flat_map(|seen| &seen.headers).filter(|(name, _)| name == MARKER);
        headers.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    }

    /// How many requests reached it in all.
    pub fn count(&self) -> usize {
        self.seen.lock().expect("no test panics in here").len()
    }

    fn begin(&self, seen: Seen) -> usize {
        let mut all = self.seen.lock().expect("no test panics in here");
        all.push(seen);
        all.len() - 1
    }

    fn end(&self, index: usize, seen: &Seen) {
        self.seen.lock().expect("no test panics in here")[index] = seen.clone();
    }
}
