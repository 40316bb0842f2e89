//! Bounds connections. Each connection is in one of three rooms of bounded size: without a credential yet, filters, and
//! operators. A flood in one room closes nothing in another.
//!
//! When a room is full, the owner with the most connections loses its oldest. An owner is an address in the first room and
//! a credential in the others. So an owner with few connections keeps them, however many others open.

use crate::model::credential::CredentialKind;
use protocol::CredentialId;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Connections of all rooms together, if the process may open so many files.
const CONNECTIONS_MAX: usize = 6144;
/// Files kept free for the database, the log, files that are read and connections that finish; at most a quarter of all.
const FILES_KEPT: usize = 1024;
/// How long a connection without a credential may go without a request.
const UNPROVEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Whose a connection is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Owner {
    Peer(IpAddr),
    Credential(CredentialId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Unproven,
    Filters,
    Operators,
}

/// The connections of one room, by owner, the oldest first.
#[derive(Debug)]
struct Members {
    most: usize,
    count: usize,
    of: HashMap<Owner, BTreeMap<u64, Arc<Notify>>>,
}

impl Members {
    pub(crate) fn new(most: usize) -> Members {
        Members { most: most.max(1), count: 0, of: HashMap::new() }
    }

    fn enter(&mut self, owner: Owner, number: u64, closing: Arc<Notify>) {
        self.of.entry(owner).or_default().insert(number, closing);
        self.count = self.count.saturating_add(1);
        if self.count <= self.most {
            return;
        }
        let greediest =
            self.of.iter().max_by_key(|(_, own)| (own.len(), Reverse(own.keys().next().copied())));
        let oldest = greediest.and_then(|(owner, own)| Some((owner.clone(), own.first_key_value()?)));
        let Some((owner, (number, closing))) = oldest else { return };
        closing.notify_one();
        let number = *number;
        self.leave(&owner, number);
    }

    /// Does nothing if the connection has left already.
    fn leave(&mut self, owner: &Owner, number: u64) {
        let Some(own) = self.of.get_mut(owner) else { return };
        if own.remove(&number).is_some() {
            self.count = self.count.saturating_sub(1);
        }
        if own.is_empty() {
            self.of.remove(owner);
        }
    }
}

/// All connections.
#[derive(Debug)]
pub(crate) struct Connections {
    opened: AtomicU64,
    rooms: Mutex<[Members; 3]>,
}

impl Connections {
    /// As many as the process may open files. Raises the process's limit of files if that is too low and may be raised.
    pub(crate) fn new() -> Arc<Connections> {
        let files = files_max();
        Connections::of(files.saturating_sub(FILES_KEPT.min(files.div_euclid(4))).min(CONNECTIONS_MAX))
    }

    fn of(most: usize) -> Arc<Connections> {
        let sixth = most.div_euclid(6);
        let rooms = [sixth, sixth.saturating_mul(4), sixth].map(Members::new);
        Arc::new(Connections { opened: AtomicU64::new(0), rooms: Mutex::new(rooms) })
    }

    /// Enters a connection that was accepted.
    pub(crate) fn open(self: &Arc<Connections>, peer: IpAddr) -> Arc<Connection> {
        let connection = Connection {
            connections: Arc::clone(self),
            number: self.opened.fetch_add(1, Ordering::Relaxed),
            place: Mutex::new((Room::Unproven, Owner::Peer(network(peer)))),
            seen: Mutex::new(Instant::now()),
            closing: Arc::default(),
        };
        let (room, owner) = lock(&connection.place).clone();
        self.room(room, |members| members.enter(owner, connection.number, Arc::clone(&connection.closing)));
        Arc::new(connection)
    }

    fn room<T>(&self, room: Room, change: impl FnOnce(&mut Members) -> T) -> T {
        let mut rooms = lock(&self.rooms);
        let [unproven, filters, operators] = &mut *rooms;
        change(match room {
            Room::Unproven => unproven,
            Room::Filters => filters,
            Room::Operators => operators,
        })
    }
}

/// One connection. Dropping it leaves its room.
#[derive(Debug)]
pub(crate) struct Connection {
    connections: Arc<Connections>,
    number: u64,
    place: Mutex<(Room, Owner)>,
    /// When it was opened, or its last request began.
    seen: Mutex<Instant>,
    closing: Arc<Notify>,
}

impl Connection {
    /// Moves the connection to its credential's room, after a request was authenticated.
    pub(crate) fn prove(&self, kind: CredentialKind, credential: &CredentialId) {
        let room = match kind {
            CredentialKind::Filter => Room::Filters,
            CredentialKind::Admin => Room::Operators,
        };
        let mut place = lock(&self.place);
        if place.0 == room && matches!(&place.1, Owner::Credential(own) if own == credential) {
            return;
        }
        let (former, owner) = std::mem::replace(&mut *place, (room, Owner::Credential(credential.clone())));
        let owned = place.1.clone();
        self.connections.room(former, |members| members.leave(&owner, self.number));
        self.connections.room(room, |members| members.enter(owned, self.number, Arc::clone(&self.closing)));
    }

    /// Notes that a request begins.
    pub(crate) fn requested(&self) {
        *lock(&self.seen) = Instant::now();
    }

    /// Returns when the connection must be closed: others need its room, or no request with a credential came for too long.
    /// True if it has shown a credential, so that a request may be in progress.
    pub(crate) async fn closing(&self) -> bool {
        let neglected = async {
            loop {
                let due = lock(&self.seen).checked_add(UNPROVEN_TIMEOUT).unwrap_or_else(Instant::now);
                sleep_until(due).await;
                if lock(&self.place).0 != Room::Unproven {
                    return std::future::pending().await;
                }
                if lock(&self.seen).elapsed() >= UNPROVEN_TIMEOUT {
                    return;
                }
            }
        };
        tokio::select! {
            () = self.closing.notified() => lock(&self.place).0 != Room::Unproven,
            () = neglected => false,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let (room, owner) = lock(&self.place).clone();
        self.connections.room(room, |members| members.leave(&owner, self.number));
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The IPv4 address, or the /64 network of an IPv6 address, which one customer has to itself.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address => address,
    }
}

/// How many files the process may have open.
fn files_max() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let wanted = u64::try_from(CONNECTIONS_MAX.saturating_add(FILES_KEPT)).unwrap_or(u64::MAX);
    let current = limit.current.unwrap_or(u64::MAX);
    let raised = wanted.min(limit.maximum.unwrap_or(u64::MAX));
    let raised_to =
        |current| setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit }).map(|()| current);
    let files = if current < raised { raised_to(raised).unwrap_or(current) } else { current };
    usize::try_from(files).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn peer(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    fn is_closing(connection: &Connection) -> bool {
        let mut closing = Box::pin(connection.closing.notified());
        let waker = std::task::Waker::noop();
        std::future::Future::poll(closing.as_mut(), &mut std::task::Context::from_waker(waker)).is_ready()
    }

    fn credential(number: u8) -> CredentialId {
        CredentialId::parse(&format!("adm_{number:032}")).unwrap_or_else(|_| panic!("an id"))
    }

    #[test]
    fn a_full_group_closes_the_oldest_connection_of_its_largest_peer() {
        let connections = Connections::of(6 * 10);
        let quiet: Vec<_> = (0..3).map(|_| connections.open(peer(1))).collect();
        let flood: Vec<_> = (0..50).map(|_| connections.open(peer(2))).collect();
        let other: Vec<_> = (3..6).map(|last| connections.open(peer(last))).collect();
        assert!(quiet.iter().chain(&other).all(|connection| !is_closing(connection)));
        assert_eq!(flood.iter().filter(|connection| !is_closing(connection)).count(), 4);
        assert!(!is_closing(&flood[49]), "the newest are kept");
        drop(flood);
        assert_eq!(connections.room(Room::Unproven, |members| members.count), 6);
    }

    #[test]
    fn a_flood_in_one_group_closes_no_connection_of_another() {
        let connections = Connections::of(6 * 4);
        let proven = |number, kind| {
            let connection = connections.open(peer(1));
            connection.prove(kind, &credential(number));
            connection
        };
        let (filter, operator) = (proven(1, CredentialKind::Filter), proven(2, CredentialKind::Admin));
        let floods = [
            (0..40).map(|_| connections.open(peer(1))).collect::<Vec<_>>(),
            (0..40).map(|_| proven(3, CredentialKind::Filter)).collect(),
            (0..40).map(|_| proven(4, CredentialKind::Admin)).collect(),
        ];
        assert!(!is_closing(&filter) && !is_closing(&operator));
        let left = |flood: &Vec<Arc<Connection>>| flood.iter().filter(|open| !is_closing(open)).count();
        // The later ones were unproven first, which took one of the room that others had.
        assert_eq!(floods.each_ref().map(left), [3, 15, 3]);
        // Again with the same credential is no second connection.
        filter.prove(CredentialKind::Filter, &credential(1));
        drop(floods);
        assert_eq!(connections.room(Room::Filters, |members| members.count), 1);
        drop((filter, operator));
        assert!(
            [Room::Unproven, Room::Filters, Room::Operators]
                .into_iter()
                .all(|room| connections.room(room, |members| members.count == 0 && members.of.is_empty()))
        );
    }

    #[test]
    fn an_ipv6_network_counts_as_one_peer() {
        let [one, same, other] =
            ["2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"].map(|text| text.parse().unwrap());
        assert_eq!(network(one), network(same));
        assert_ne!(network(one), network(other));
        assert_eq!(network("::ffff:10.0.0.1".parse().unwrap()), peer(1));
    }
}
