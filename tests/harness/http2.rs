//! HTTP/2 with prior knowledge, frame by frame: bodies whose last DATA does not end the stream, trailers, resets,
//! extended CONNECT.

use crate::clock;
use crate::http1::{Body, Request};
use crate::response::Response;
use bytes::Bytes;
use h2::client::SendRequest;
use h2::ext::Protocol;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// A connection. Streams on it run in parallel.
#[derive(Clone)]
pub struct Http2 {
    send: SendRequest<Bytes>,
}

impl Http2 {
    /// Connects.
    pub async fn open(to: SocketAddr) -> Http2 {
        let stream = TcpStream::connect(to).await.unwrap_or_else(|error| panic!("connect to {to}: {error}"));
        let (send, connection) = h2::client::handshake(stream).await.expect("HTTP/2 is spoken");
        clock::spawn(async move {
            // The task ends when the test drops the other half.
            let _ = connection.await;
        });
        Http2 { send }
    }

    /// Sends a request on a stream of its own and reads its response.
    pub async fn send(&self, request: Request) -> Result<Response, String> {
        let marker = request.marker.clone();
        let (response, mut stream) = self.begin(&request, None).await?;
        // A gate that refuses early may reset the stream; its answer is read all the same.
        let _ = send_body(&mut stream, request).await;
        let answered = clock::in_time("response", read(response)).await??;
        Ok(Response { marker, ..answered })
    }

    /// Sends headers and body and resets the stream as soon as `when` completes.
    pub async fn reset_after(&self, request: Request, when: impl Future<Output = ()>) -> Result<(), String> {
        let (response, mut stream) = self.begin(&request, None).await?;
        if let Body::Sized(body) = request.body {
            send_data(&mut stream, body, true)?;
        }
        when.await;
        stream.send_reset(h2::Reason::CANCEL);
        drop(response);
        Ok(())
    }

    /// An extended CONNECT (RFC 8441), as browsers open WebSockets over HTTP/2.
    pub async fn connect(&self, request: Request, protocol: &str) -> Result<Response, String> {
        let marker = request.marker.clone();
        let (response, _stream) = self.begin(&request, Some(protocol)).await?;
        let answered = clock::in_time("response", read(response)).await??;
        Ok(Response { marker, ..answered })
    }

    async fn begin(
        &self,
        request: &Request,
        protocol: Option<&str>,
    ) -> Result<(h2::client::ResponseFuture, h2::SendStream<Bytes>), String> {
        let target = std::str::from_utf8(&request.target).expect("a target over HTTP/2 is text");
        let mut head = http::Request::builder()
            .method(request.method.as_str())
            .uri(format!("http://gate.test{target}"))
            .version(http::Version::HTTP_2)
            .body(())
            .map_err(|error| error.to_string())?;
        let headers = request.headers.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
        *head.headers_mut() = header_map(headers);
        if let Some(protocol) = protocol {
            head.extensions_mut().insert(Protocol::from(protocol));
        }
        let mut send = self.send.clone().ready().await.map_err(|error| error.to_string())?;
        let ends = matches!(request.body, Body::None) && protocol.is_none();
        send.send_request(head, ends).map_err(|error| error.to_string())
    }
}

async fn send_body(stream: &mut h2::SendStream<Bytes>, request: Request) -> Result<(), String> {
    match request.body {
        Body::None => Ok(()),
        Body::Sized(body) => send_data(stream, body, true),
        Body::Chunked { chunks, trailers } => {
            for chunk in chunks {
                send_data(stream, chunk, false)?;
                clock::wait(request.pause).await;
            }
            if trailers.is_empty() {
                return send_data(stream, Vec::new(), true);
            }
            let trailers = trailers.iter().map(|(name, value)| (name.as_bytes(), value.as_slice()));
            stream.send_trailers(header_map(trailers)).map_err(|error| error.to_string())
        }
    }
}

fn header_map<'a>(headers: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> HeaderMap {
    headers
        .map(|(name, value)| {
            let name = HeaderName::from_bytes(name).expect("the name can be sent over HTTP/2");
            (name, HeaderValue::from_bytes(value).expect("the value can be sent over HTTP/2"))
        })
        .fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(name, value);
            map
        })
}

fn send_data(stream: &mut h2::SendStream<Bytes>, data: Vec<u8>, ends: bool) -> Result<(), String> {
    stream.send_data(data.into(), ends).map_err(|error| error.to_string())
}

async fn read(response: h2::client::ResponseFuture) -> Result<Response, String> {
    let (head, mut stream) = response.await.map_err(|error| error.to_string())?.into_parts();
    let listed = |map: &HeaderMap| {
        map.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect::<Vec<_>>()
    };
    let mut response = Response {
        status: head.status.as_u16(),
        headers: listed(&head.headers),
        body: Vec::new(),
        trailers: Vec::new(),
        is_complete: true,
        informational: Vec::new(),
        marker: String::new(),
    };
    while let Some(data) = stream.data().await {
        let Ok(data) = data else {
            response.is_complete = false;
            return Ok(response);
        };
        let _ = stream.flow_control().release_capacity(data.len());
        response.body.extend_from_slice(&data);
    }
    if let Ok(Some(trailers)) = stream.trailers().await {
        response.trailers = listed(&trailers);
    }
    Ok(response)
}
