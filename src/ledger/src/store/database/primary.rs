//! Which of a URL's servers is the primary, shared by all connections of a process: when one connection finds another
//! primary, older connections are no longer used. Sends no queries itself.

use super::InvalidDatabase;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// The known primary, and the epoch, which counts its changes.
#[derive(Debug, Default)]
pub(crate) struct Primary {
    known: Mutex<Known>,
    /// Incremented when earlier connections must no longer be used.
    epoch: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    /// The host to try first.
    host: usize,
    /// When its server started, in microseconds: identifies the server, whatever its name resolves to.
    started: Option<String>,
}

impl Primary {
    /// The host to try first.
    pub(crate) fn first(&self) -> usize {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).host
    }

    /// The epoch. A connection of another epoch must not be used.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// A new connection found a primary. Returns its epoch.
    pub(crate) fn found(&self, host: usize, started: &str) -> u64 {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.started.as_deref() != Some(started) {
            if known.started.is_some() {
                self.epoch.fetch_add(1, Ordering::AcqRel);
            }
            *known = Known { host, started: Some(started.to_owned()) };
        }
        self.epoch()
    }

    /// The server stopped answering a connection of this epoch: other connections stop waiting for it, and the next host is
    /// tried first.
    pub(crate) fn stopped_answering(&self, epoch: u64, hosts: usize) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if self.epoch() == epoch {
            self.epoch.fetch_add(1, Ordering::AcqRel);
            let next = known.host.saturating_add(1);
            *known = Known { host: next.checked_rem(hosts).unwrap_or_default(), started: None };
        }
    }
}

/// Splits a URL into one configuration for each host, because the driver's timeout does not cover the handshake.
pub(super) fn hosts(all: &Config) -> Result<Vec<Config>, InvalidDatabase> {
    let (names, addresses, ports) = (all.get_hosts(), all.get_hostaddrs(), all.get_ports());
    let count = names.len().max(addresses.len());
    let uneven = |found: usize, most: usize| found > most && found != count;
    if count == 0 {
        return Err(InvalidDatabase::Postgres("the host is missing".to_owned()));
    }
    if uneven(names.len(), 0) || uneven(addresses.len(), 0) || uneven(ports.len(), 1) {
        return Err(InvalidDatabase::Postgres("hosts, hostaddr and ports differ in number".to_owned()));
    }
    Ok((0..count)
        .map(|place| {
            let mut one = Config::new();
            match names.get(place) {
                Some(Host::Tcp(name)) => drop(one.host(name)),
                #[cfg(unix)]
                Some(Host::Unix(path)) => drop(one.host_path(path)),
                None => {}
            }
            if let Some(address) = addresses.get(place) {
                one.hostaddr(*address);
            }
            if let Some(port) = ports.get(place).or_else(|| ports.first()) {
                one.port(*port);
            }
            if let Some(user) = all.get_user() {
                one.user(user);
            }
            if let Some(password) = all.get_password() {
                one.password(password);
            }
            if let Some(name) = all.get_dbname() {
                one.dbname(name);
            }
            if let Some(options) = all.get_options() {
                one.options(options);
            }
            one.ssl_mode(all.get_ssl_mode());
            one.ssl_negotiation(all.get_ssl_negotiation());
            one.channel_binding(all.get_channel_binding());
            one
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_has_its_own_port_or_the_only_one() {
        let ports = |url: &str| -> Vec<Vec<u16>> {
            let all: Config = url.parse().unwrap();
            hosts(&all).unwrap().iter().map(|host| host.get_ports().to_vec()).collect()
        };
        assert_eq!(ports("postgres://u@a:1,b:2/n"), [[1], [2]]);
        assert_eq!(ports("host=a,b port=7 user=u"), [[7], [7]]);
        let uneven: Config = "host=a,b,c port=1,2 user=u".parse().unwrap();
        assert!(hosts(&uneven).is_err());
    }

    #[test]
    fn a_replaced_or_hanging_server_ends_open_connections() {
        let primary = Primary::default();
        let first = primary.found(0, "monday");
        assert_eq!(primary.found(0, "monday"), first);
        assert_ne!(primary.found(1, "tuesday"), first);
        let second = primary.epoch();
        primary.stopped_answering(first, 2);
        assert_eq!(
            (primary.epoch(), primary.first()),
            (second, 1),
            "an old connection's silence says nothing"
        );
        primary.stopped_answering(second, 2);
        assert_ne!(primary.epoch(), second);
        assert_eq!(primary.first(), 0);
    }
}
