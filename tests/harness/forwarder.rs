//! A proxy in front of a gate that adds an api key to every request, for programs that can't send one. All bytes pass
//! unchanged, including `Host`; one header line is added to each request.

use crate::clock;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Starts one on a free port.
pub async fn start(gate: SocketAddr, secret: &str) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    let line = format!("authorization: Bearer {secret}\r\n");
    clock::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let line = line.clone();
            tokio::spawn(async move {
                // The programs close connections at any time, so errors are ignored.
                let _ = forward(client, gate, &line).await;
            });
        }
    });
    address
}

async fn forward(client: TcpStream, gate: SocketAddr, line: &str) -> io::Result<()> {
    let gate = TcpStream::connect(gate).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_gate, mut to_gate) = gate.into_split();
    let back = async {
        tokio::io::copy(&mut from_gate, &mut to_client).await?;
        to_client.shutdown().await
    };
    let forth = async {
        let mut held = Vec::new();
        while let Some((head, body)) = head(&mut from_client, &mut held).await? {
            let first = held[..head].iter().position(|byte| *byte == b'\n').map_or(head, |at| at + 1);
            to_gate.write_all(&held[..first]).await?;
            to_gate.write_all(line.as_bytes()).await?;
            while held.len() < head + body {
                read_more(&mut from_client, &mut held).await?;
            }
            to_gate.write_all(&held[first..head + body]).await?;
            held.drain(..head + body);
        }
        to_gate.shutdown().await
    };
    // If one side closes, both are closed, so that the gate notices when the client disconnects.
    tokio::select! {
        ended = back => ended,
        ended = forth => ended,
    }
}

/// Reads one request's header section. Returns its length and that of its body; `None` at the end of the connection.
async fn head(
    from: &mut (impl AsyncReadExt + Unpin),
    held: &mut Vec<u8>,
) -> io::Result<Option<(usize, usize)>> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        let parsed = request.parse(held).map_err(io::Error::other)?;
        if let httparse::Status::Complete(length) = parsed {
            let of = |name: &str| {
                request.headers.iter().find(|own| own.name.eq_ignore_ascii_case(name)).map(|own| own.value)
            };
            assert!(of("transfer-encoding").is_none(), "bodies in chunks are not forwarded");
            let body = of("content-length").map_or("0", |value| std::str::from_utf8(value).unwrap_or("0"));
            return Ok(Some((length, body.parse().map_err(io::Error::other)?)));
        }
        if read_more(from, held).await.is_err() {
            return Ok(None);
        }
    }
}

async fn read_more(from: &mut (impl AsyncReadExt + Unpin), held: &mut Vec<u8>) -> io::Result<()> {
    match from.read_buf(held).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}
