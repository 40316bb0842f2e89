//! A test's ledger on either database.

use harness::clock::apart;
use harness::ledger::{Served, directory, embedded};
use throwaway::Throwaway;

/// A ledger and, for PostgreSQL, its server.
pub struct Ledger {
    pub served: Served,
    pub server: Option<Throwaway>,
}

impl Ledger {
    pub async fn embedded(name: &str) -> Ledger {
        let place = directory(name);
        Ledger { served: Served::start(place.clone(), &embedded(&place), 1).await, server: None }
    }

    pub async fn on_postgresql(name: &str) -> Ledger {
        let (server, database) = apart(|| {
            let server = Throwaway::start().unwrap_or_else(|error| panic!("{error}"));
            let database = server.database().unwrap();
            (server, database)
        });
        Ledger { served: Served::start(directory(name), &database, 1).await, server: Some(server) }
    }

    /// The server's client must not be dropped on a thread that runs other tasks.
    pub async fn end(self) {
        let Ledger { served, server } = self;
        drop(served);
        apart(|| drop(server));
    }
}
