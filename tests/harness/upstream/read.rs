//! Reading requests from a connection, one after the other.

use super::answer;
use super::{Seen, Upstream};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Serves one connection until it is closed from either side.
pub(super) async fn serve(mut stream: TcpStream, upstream: &Upstream) -> io::Result<()> {
    let mut read = Vec::new();
    while let Some(mut seen) = read_head(&mut stream, &mut read).await? {
        let index = upstream.begin(seen.clone());
        let body = read_body(&mut stream, &mut read, &mut seen).await;
        seen.is_complete = body.is_ok();
        upstream.end(index, &seen);
        body?;
        if !answer::answer(&mut stream, &seen).await? {
            return stream.shutdown().await;
        }
    }
    Ok(())
}

/// The next complete request; `None` at the end of the connection.
pub(crate) async fn request(stream: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<Option<Seen>> {
    let Some(mut seen) = read_head(stream, read).await? else { return Ok(None) };
    read_body(stream, read, &mut seen).await?;
    Ok(Some(seen))
}

async fn read_head(stream: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<Option<Seen>> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 128];
        let mut request = httparse::Request::new(&mut headers);
        if let httparse::Status::Complete(length) = request.parse(read).map_err(io::Error::other)? {
            let named =
                |header: &httparse::Header<'_>| (header.name.to_ascii_lowercase(), header.value.to_vec());
            let seen = Seen {
                method: request.method.unwrap_or_default().to_owned(),
                target: request.path.unwrap_or_default().to_owned(),
                headers: request.headers.iter().map(named).collect(),
                ..Seen::default()
            };
            read.drain(..length);
            return Ok(Some(seen));
        }
        if stream.read_buf(read).await? == 0 {
            return Ok(None);
        }
    }
}

async fn read_body(stream: &mut TcpStream, read: &mut Vec<u8>, seen: &mut Seen) -> io::Result<()> {
    if seen.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        loop {
            let size = read_line(stream, read).await?;
            let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
            if size == 0 {
                break;
            }
            seen.body.extend(take(stream, read, size).await?);
            take(stream, read, 2).await?;
        }
        while let Some((name, value)) = read_line(stream, read).await?.split_once(": ") {
            seen.trailers.push((name.to_ascii_lowercase(), value.as_bytes().to_vec()));
        }
        return Ok(());
    }
    let length = seen.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    seen.body = take(stream, read, length).await?;
    Ok(())
}

async fn read_line(stream: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<String> {
    loop {
        if let Some(end) = read.windows(2).position(|pair| pair == b"\r\n") {
            let line = take(stream, read, end + 2).await?;
            return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
        }
        fill(stream, read).await?;
    }
}

async fn take(stream: &mut TcpStream, read: &mut Vec<u8>, length: usize) -> io::Result<Vec<u8>> {
    while read.len() < length {
        fill(stream, read).await?;
    }
    Ok(read.drain(..length).collect())
}

async fn fill(stream: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<()> {
    match stream.read_buf(read).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}
