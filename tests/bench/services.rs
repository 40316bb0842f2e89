//! The services that alternatives to the filter call: a rate limit service with Redis, and an authorization service.
//!
//! The rate limit service is Envoy's reference service if Go could build it, otherwise a small one in this program. The
//! authorization service is always in this program and does the minimum, so that the measurement shows the cost of the
//! network hop.

use crate::gate::Site;
use crate::process::{Running, tied};
use crate::{load, pause};
use anyhow::{Context, ensure};
use bytes::{Bytes, BytesMut};
use clap::Args;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};

const READY_DEADLINE: Duration = Duration::from_secs(20);
const PERMITS: u32 = 1_000_000;

/// Both services, running. Dropping them ends them.
pub struct Services {
    /// Where the authorization service listens.
    pub authorization: SocketAddr,
    /// Where the rate limit service listens.
    pub ratelimit: SocketAddr,
    processes: Vec<Running>,
}

impl Services {
    /// Starts them, for one key. `reference` is the reference service's program, if there is one.
    pub async fn start(site: &Site, key: &str, reference: Option<&Path>) -> anyhow::Result<Services> {
        let (own, authorization) = checks(site, key).await?;
        let mut processes = vec![own];
        let ratelimit = match reference {
            None => authorization,
            Some(program) => {
                let socket = site.directory.join("redis");
                let mut redis = tied("redis-server");
                redis.args(["--port", "0", "--save", "", "--unixsocket"]).arg(&socket);
                redis.current_dir(&site.directory);
                let log = site.directory.join("redis.log");
                let mut redis = site.cores.spawn_service(&mut redis, &log)?;
                until("Redis", async || {
                    redis.check(&log)?;
                    Ok(fs::metadata(&socket).map(|_| ())?)
                })
                .await?;
                let (process, address) = reference_service(site, program, &socket).await?;
                processes.extend([redis, process]);
                address
            }
        };
        Ok(Services { authorization, ratelimit, processes })
    }

    /// Their processes.
    pub fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(Running::id).collect()
    }
}

async fn checks(site: &Site, key: &str) -> anyhow::Result<(Running, SocketAddr)> {
    let (address_file, log) = (site.directory.join("checks.address"), site.directory.join("checks.log"));
    let mut command = tied(std::env::current_exe()?);
    command.args(["checks", "--key", key, "--address-file"]).arg(&address_file);
    let mut process = site.cores.spawn_service(&mut command, &log)?;
    let address = until("the authorization service", async || {
        process.check(&log)?;
        Ok(fs::read_to_string(&address_file)?.parse()?)
    })
    .await?;
    Ok((process, address))
}

async fn reference_service(
    site: &Site,
    program: &Path,
    redis: &Path,
) -> anyhow::Result<(Running, SocketAddr)> {
    let configuration = site.directory.join("ratelimit/config");
    fs::create_dir_all(&configuration)?;
    let text = format!(
        "domain: bench\ndescriptors:\n- key: key\n  rate_limit: {{unit: minute, requests_per_unit: {PERMITS}}}\n"
    );
    fs::write(configuration.join("bench.yaml"), text)?;
    // It can't report its ports, so it gets ports that were free a moment ago.
    let free = || std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr());
    let (http, grpc, debug) = (free()?, free()?, free()?);
    let log = site.directory.join("ratelimit.log");
    let mut command = tied(program);
    command
        .env("RUNTIME_ROOT", &site.directory)
        .env("RUNTIME_SUBDIRECTORY", "ratelimit")
        .env("RUNTIME_WATCH_ROOT", "false")
        .env("USE_STATSD", "false")
        .env("LOG_LEVEL", "warn")
        .env("REDIS_SOCKET_TYPE", "unix")
        .env("REDIS_URL", redis)
        .envs([("HOST", "127.0.0.1"), ("GRPC_HOST", "127.0.0.1"), ("DEBUG_HOST", "127.0.0.1")])
        .env("PORT", http.port().to_string())
        .env("GRPC_PORT", grpc.port().to_string())
        .env("DEBUG_PORT", debug.port().to_string());
    let mut process = site.cores.spawn_service(&mut command, &log)?;
    until("the rate limit service", async || {
        process.check(&log)?;
        load::get(http, "/healthcheck").await.map(|_| ())
    })
    .await?;
    Ok((process, grpc))
}

/// Retries until there is an answer.
async fn until<Answer>(
    what: &str,
    mut probe: impl AsyncFnMut() -> anyhow::Result<Answer>,
) -> anyhow::Result<Answer> {
    let began = Instant::now();
    loop {
        match probe().await {
            Ok(answer) => return Ok(answer),
            Err(missing) => ensure!(began.elapsed() < READY_DEADLINE, "{what} is not ready: {missing:#}"),
        }
        pause(Duration::from_millis(20)).await;
    }
}

/// Runs both services in a process of its own.
#[derive(Args)]
pub struct Checks {
    /// The one key that is known
    #[arg(long)]
    key: String,
    /// Where to write on which port it listens
    #[arg(long)]
    address_file: PathBuf,
}

/// Serves until it is killed.
pub async fn serve(checks: Checks) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let unfinished = checks.address_file.with_extension("new");
    fs::write(&unfinished, listener.local_addr()?.to_string())?;
    fs::rename(&unfinished, &checks.address_file)?;
    let known = Rc::new(Known { bearer: format!("Bearer {}", checks.key), windows: RefCell::default() });
    loop {
        let (stream, _) = listener.accept().await?;
        let known = Rc::clone(&known);
        // An Envoy that ends breaks its connections.
        tokio::task::spawn_local(async move { connection(stream, known).await.ok() });
    }
}

struct Known {
    bearer: String,
    windows: RefCell<HashMap<Vec<u8>, (Instant, u32)>>,
}

async fn connection(stream: TcpStream, known: Rc<Known>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        let known = Rc::clone(&known);
        tokio::task::spawn_local(async move { answer(request, respond, &known).await.ok() });
    }
    Ok(())
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    known: &Known,
) -> anyhow::Result<()> {
    let is_limit = request.uri().path().ends_with("ShouldRateLimit");
    let mut body = request.into_body();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        bytes.extend_from_slice(&chunk);
    }
    // gRPC puts five bytes before a message: whether it is compressed, and its length.
    let message = bytes.get(5..).context("no message")?;
    let reply = if is_limit { known.limit(message) } else { known.check(message) };
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(reply.len())?.to_be_bytes());
    framed.extend_from_slice(&reply);
    let head = Response::builder().header("content-type", "application/grpc").body(())?;
    let mut send = respond.send_response(head, false)?;
    send.send_data(framed.into(), false)?;
    send.send_trailers(HeaderMap::from_iter([("grpc-status".parse()?, HeaderValue::from_static("0"))]))?;
    Ok(())
}

impl Known {
    /// `CheckRequest.attributes.request.http.headers`, then a `CheckResponse`.
    fn check(&self, message: &[u8]) -> Vec<u8> {
        let http = [1, 4, 2].iter().fold(message, |message, number| field(message, *number));
        let is_known = fields(http).filter(|(number, _)| *number == 3).any(|(_, entry)| {
            field(entry, 1) == b"authorization" && field(entry, 2) == self.bearer.as_bytes()
        });
        if is_known {
            // Status OK, and one header for the upstream that identifies the caller.
            let header = [write(1, b"x-tenant"), write(2, b"bench")].concat();
            return [write(1, b""), write(3, &write(2, &write(1, &header)))].concat();
        }
        // google.rpc.Status with UNAUTHENTICATED, and HTTP status 401.
        [write(1, &[8, 16]), write(2, &write(1, &[8, 0x91, 3]))].concat()
    }

    /// `RateLimitRequest.descriptors.entries.value`, then a `RateLimitResponse` from a window of a minute.
    fn limit(&self, message: &[u8]) -> Vec<u8> {
        let value = [2, 1, 2].iter().fold(message, |message, number| field(message, *number));
        let mut windows = self.windows.borrow_mut();
        let window = windows.entry(value.to_vec()).or_insert((Instant::now(), 0));
        if window.0.elapsed().as_secs() >= 60 {
            *window = (Instant::now(), 0);
        }
        window.1 = window.1.saturating_add(1);
        let code = if window.1 <= PERMITS { 1 } else { 2 };
        let limit = [vec![8], varint(PERMITS), vec![16, 2]].concat();
        let remaining = [vec![24], varint(PERMITS.saturating_sub(window.1))].concat();
        let reset = write(4, &[8, 60]);
        let status = [vec![8, code], write(2, &limit), remaining, reset].concat();
        [vec![8, code], write(2, &status)].concat()
    }
}

/// The first field with this number of a protobuf message, empty if it has none.
fn field(message: &[u8], number: u64) -> &[u8] {
    fields(message).find(|(own, _)| *own == number).map_or(&[], |(_, value)| value)
}

/// The length-delimited fields of a message; other fields are skipped.
fn fields(mut message: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    std::iter::from_fn(move || {
        loop {
            let tag = read_varint(&mut message)?;
            let size = match tag & 7 {
                0 => {
                    read_varint(&mut message)?;
                    continue;
                }
                1 => 8,
                5 => 4,
                _ => usize::try_from(read_varint(&mut message)?).ok()?,
            };
            let (value, rest) = message.split_at_checked(size)?;
            message = rest;
            if tag & 7 == 2 {
                return Some((tag >> 3, value));
            }
        }
    })
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn varint(mut value: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    bytes.push(value.to_le_bytes()[0]);
    bytes
}

fn write(number: u8, value: &[u8]) -> Vec<u8> {
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    [vec![number << 3 | 2], varint(length), value.to_vec()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        Known { bearer: "Bearer good".into(), windows: RefCell::default() }
    }

    /// A `CheckRequest` with two headers, among fields of other kinds.
    fn request(credential: &str) -> Vec<u8> {
        let header = |name: &str, value: &str| {
            write(3, &[write(1, name.as_bytes()), write(2, value.as_bytes())].concat())
        };
        let http =
            [write(2, b"GET"), header("accept", "*/*"), header("authorization", credential), vec![80, 7]]
                .concat();
        let request = [write(1, &[8, 1]), write(2, &http)].concat();
        write(1, &[write(1, b""), write(4, &request)].concat())
    }

    #[test]
    fn only_the_known_key_passes() {
        let status = |answer: &[u8]| field(answer, 1).to_vec();
        assert_eq!(status(&known().check(&request("Bearer good"))), b"");
        assert_eq!(status(&known().check(&request("Bearer evil"))), [8, 16]);
        assert_eq!(status(&known().check(b"")), [8, 16]);
    }

    #[test]
    fn each_key_has_its_own_window() {
        let known = known();
        let ask = |key: &[u8]| {
            let entry = [write(1, b"key"), write(2, key)].concat();
            known.limit(&[write(1, b"bench"), write(2, &write(1, &entry))].concat())
        };
        assert!(ask(b"a").starts_with(&[8, 1]));
        known.windows.borrow_mut().insert(b"a".to_vec(), (Instant::now(), PERMITS));
        assert!(ask(b"a").starts_with(&[8, 2]));
        assert!(ask(b"b").starts_with(&[8, 1]));
    }
}
