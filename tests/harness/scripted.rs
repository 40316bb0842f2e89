//! An upstream that answers with exactly the bytes of the test.

use crate::clock;
use crate::upstream::{Seen, read};
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The bytes of an answer, and what happens to the connection afterwards.
pub struct Script {
    /// The bytes, in the pieces in which they are written.
    pub pieces: Vec<Vec<u8>>,
    /// The connection stays open until the other side closes it; otherwise it is reset.
    pub stays_open: bool,
}

impl Script {
    /// A response with this content type and body, framed by its length.
    pub fn whole(status: u16, content_type: &str, body: &[u8]) -> Script {
        let head = format!(
            "HTTP/1.1 {status} Said\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        Script { pieces: vec![[head.as_bytes(), body].concat()], stays_open: true }
    }

    /// An unfinished stream of events: the beginning.
    pub fn events(so_far: &[u8]) -> Script {
        let head =
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let chunk = [format!("{:x}\r\n", so_far.len()).as_bytes(), so_far, b"\r\n"].concat();
        Script { pieces: vec![head.to_vec(), chunk], stays_open: true }
    }

    /// A complete stream of events, in chunks of this size.
    pub fn events_to_the_end(stream: &[u8], size: usize) -> Script {
        let mut script = Script::events(&stream[..size.min(stream.len())]);
        for chunk in stream.chunks(size).skip(1) {
            script.pieces.push([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
        }
        script.pieces.push(b"0\r\n\r\n".to_vec());
        script
    }
}

/// The running server. It listens as long as the test process lives.
#[derive(Clone)]
pub struct Scripted {
    /// Base URL.
    pub url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Scripted {
    /// Starts it on a free port.
    pub async fn start(answer: impl Fn(&Seen) -> Script + Send + Sync + 'static) -> Scripted {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound socket has an address"));
        let scripted = Scripted { url, seen: Arc::default() };
        let (serving, answer) = (scripted.clone(), Arc::new(answer));
        clock::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (serving, answer) = (serving.clone(), answer.clone());
                tokio::spawn(async move {
                    // Broken connections are what many tests are about.
                    let _ = serving.serve(stream, &*answer).await;
                });
            }
        });
        scripted
    }

    /// The requests that reached it.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no test panics in here").clone()
    }

    async fn serve(
        &self,
        mut stream: TcpStream,
        answer: &(dyn Fn(&Seen) -> Script + Sync),
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut read = Vec::new();
        while let Some(seen) = read::request(&mut stream, &mut read).await? {
            let script = answer(&seen);
            self.seen.lock().expect("no test panics in here").push(seen);
            for piece in script.pieces {
                stream.write_all(&piece).await?;
                stream.flush().await?;
                tokio::task::yield_now().await;
            }
            if !script.stays_open {
                stream.set_zero_linger()?;
                return Ok(());
            }
        }
        stream.read(&mut [0]).await.map(|_| ())
    }
}
