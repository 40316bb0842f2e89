//! Floods of connections to the ledger: peers with a credential, and peers with few connections, are still served.

use harness::agent::NewKey;
use harness::{Agent, Gate, Request, mcp, run};
use protocol::admin::{CreateAdminKey, CreateFilterKey, Role};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;

/// This many connections blocked the ledger for 75 s when all connections were in one group.
const FLOOD: usize = 4200;
/// The longest time that other requests may take meanwhile.
const SERVED_WITHIN: Duration = Duration::from_secs(5);

/// Opens connections until it is stopped, and keeps the newest of them open.
struct Flood {
    stop: Arc<AtomicBool>,
    opened: Arc<AtomicUsize>,
    task: JoinHandle<VecDeque<TcpStream>>,
}

impl Flood {
    /// Opens connections from these addresses, each with these first bytes. If they are a request, it waits for the
    /// answer.
    async fn start(to: SocketAddr, from: Vec<IpAddr>, bytes: Vec<u8>, keep: usize) -> Flood {
        let (stop, opened) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let task = tokio::spawn({
            let (stop, opened) = (Arc::clone(&stop), Arc::clone(&opened));
            async move {
                let mut held = VecDeque::new();
                for from in from.iter().cycle() {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    held.extend(open(*from, to, &bytes).await);
                    opened.fetch_add(1, Ordering::Relaxed);
                    if held.len() > keep {
                        held.pop_front();
                    }
                }
                held
            }
        });
        let flood = Flood { stop, opened, task };
        harness::clock::eventually("the flood is there", async || {
            let opened = flood.opened.load(Ordering::Relaxed);
            if opened >= keep { Ok(()) } else { Err(format!("{opened} of {keep}")) }
        })
        .await;
        flood
    }

    /// Stops it. Returns how many of its connections the ledger has left open.
    async fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let held = self.task.await.unwrap();
        held.into_iter().filter(is_open).count()
    }
}

fn is_open(stream: &TcpStream) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match stream.try_read(&mut buffer) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }
}

async fn open(from: IpAddr, to: SocketAddr, bytes: &[u8]) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    let mut stream = socket.connect(to).await.ok()?;
    stream.write_all(bytes).await.ok()?;
    if bytes.ends_with(b"\r\n\r\n") {
        stream.read_u8().await.ok()?;
    }
    Some(stream)
}

fn local(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

fn get(path: &str, secret: &str) -> Vec<u8> {
    Request::get(path).key(secret).head()
}

/// Operators create keys; filters look them up, reserve and settle.
async fn assert_all_are_served(gate: &Gate) {
    for _ in 0..10 {
        let began = Instant::now();
        let agent: Agent = gate.agent_with("enterprise", 5, NewKey::default()).await;
        agent.call(&mcp::search()).await.assert_allowed();
        agent.call(&mcp::image("standard")).await.assert_allowed();
        let took = began.elapsed();
        assert!(took < SERVED_WITHIN, "an operator, a look-up and a reservation took {took:?}");
        assert_eq!(gate.settled(&agent).await.posted.get(), 5);
    }
}

#[test]
fn connections_without_a_credential_block_nobody() {
    let _turn = crate::TURN.blocking_lock();
    run(async {
        let gate = Gate::options().start().await;
        let half = b"GET /v1/tenants HTTP/1.1\r\nhost: ledger\r\n".to_vec();
        let wrong = get("/v1/tenants", "ara_wrong");
        let many: Vec<IpAddr> = (2..250).map(local).collect();
        for (from, bytes) in [
            (vec![local(1)], Vec::new()),
            (many.clone(), Vec::new()),
            (vec![local(1)], half.clone()),
            (many, half),
            (vec![local(1)], wrong),
        ] {
            let flood = Flood::start(gate.ledger_address, from, bytes, FLOOD).await;
            assert_all_are_served(&gate).await;
            let left = flood.stop().await;
            assert!(left <= 1024, "{left} of them are open");
        }
        gate.assert_healthy().await;
    });
}

#[test]
fn a_connection_without_a_credential_is_closed_soon() {
    run(async {
        let gate = Gate::options().start().await;
        let began = Instant::now();
        let health = b"GET /healthz HTTP/1.1\r\nhost: ledger\r\n\r\n".as_slice();
        for bytes in [b"".as_slice(), b"GET /v1/tenants HTTP/1.1\r\n", health] {
            let stream = open(local(1), gate.ledger_address, bytes).await.unwrap();
            harness::clock::eventually("it is closed", async || {
                if is_open(&stream) { Err("it is open".to_owned()) } else { Ok(()) }
            })
            .await;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
        // A connection with a credential stays open.
        let admin = get("/v1/tenants", &gate.credentials().admin_key);
        let stream = open(local(1), gate.ledger_address, &admin).await.unwrap();
        harness::wait(Duration::from_secs(12)).await;
        assert!(is_open(&stream));
    });
}

#[test]
fn a_flood_from_one_filter_closes_no_connection_of_others() {
    let _turn = crate::TURN.blocking_lock();
    run(async {
        let gate = Gate::options().start().await;
        let made =
            gate.admin.create_filter_key(&CreateFilterKey { name: "greedy".to_owned() }).await.unwrap();
        let request = get("/filter/v1/policy", &made.secret);
        let flood = Flood::start(gate.ledger_address, vec![local(1)], request, FLOOD).await;
        assert_all_are_served(&gate).await;
        let left = flood.stop().await;
        assert!(left <= 4096, "{left} of them are open");
        gate.assert_healthy().await;
    });
}

#[test]
fn a_flood_from_one_operator_closes_no_connection_of_others() {
    let _turn = crate::TURN.blocking_lock();
    run(async {
        let gate = Gate::options().start().await;
        let key = CreateAdminKey { name: "greedy".to_owned(), role: Role::Auditor, tenant_id: None };
        let made = gate.admin.create_admin_key(&key).await.unwrap();
        let request = get("/v1/tenants", &made.secret);
        let flood = Flood::start(gate.ledger_address, vec![local(1)], request, 1500).await;
        assert_all_are_served(&gate).await;
        let left = flood.stop().await;
        assert!(left <= 1024, "{left} of them are open");
        gate.assert_healthy().await;
    });
}
