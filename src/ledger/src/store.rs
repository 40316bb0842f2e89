//! Where rows live: the one door to a database. Owns the trait, the queue's vocabulary and nothing of any database.
//!
//! A write is an [`Operation`]: it names the rows it needs, is applied to them in memory by the crate's rules, and is
//! answered once the changed rows are durable. A store takes all operations that wait, loads what they need, applies
//! them in order, and writes the result in one transaction. So every backend runs the same rules, and a refused
//! operation, having changed nothing, disturbs no other.

pub mod backup;
mod generate;
pub(crate) mod laws;
mod load;
mod newest;
mod queries;
mod read;
mod readers;
mod relational;
pub mod rows;
pub(crate) mod save;
pub(crate) mod schema;
pub mod sql;
#[cfg(test)]
pub(crate) mod suite;
mod table;
#[cfg(test)]
mod tests;
mod writer;

pub use generate::fill_usage;
pub use relational::{CONNECTIONS, CONNECTIONS_MIN, OpenError, Relational};
pub(crate) use relational::{connect, create, holds_every_text, is_initialised, once};
pub use rows::{HOUR_MILLIS, Needs, Rows};
pub use table::Table;
pub use writer::Committed;

use crate::budgets::{Payer, SpendingKey};
use crate::chain::{Checkpoint, CheckpointHead};
use crate::credentials::{Door, ServiceCredential};
use crate::{book, keys, tenants};
use protocol::admin::{
    Agent, AuditKey, AuditRow, AuditStatus, LeaseState, ReservationState, ShadowRow, UsageRow,
};
use protocol::api_key::KeyHash;
use protocol::filter::Change;
use protocol::key::{KeySource, KeyState};
use protocol::session::SessionSecret;
use protocol::{
    AdminKeyId, AgentId, Credits, KeyId, LeaseId, Month, PolicyVersion, ReservationId, TenantId, Timestamp,
};
use serde_json::value::RawValue;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use tokio::sync::{oneshot, watch};

/// A read under way.
pub type Reading<'a, T> = Pin<Box<dyn Future<Output = Result<T, Unavailable>> + Send + 'a>>;

/// A database of rows. Reads see everything that was answered before they began.
pub trait Store: Send + Sync + 'static {
    /// Queues a write. Never waits: a full queue is [`Unavailable::Busy`].
    fn submit(&self, work: Box<dyn Work>) -> Result<(), Unavailable>;
    /// How many writes wait.
    fn queue_depth(&self) -> usize;
    /// The position of the newest change, each time there is a newer one.
    fn newest_change(&self) -> watch::Receiver<u64>;

    /// Does the database answer, and did the last write to it succeed.
    fn ping(&self) -> Reading<'_, ()>;
    /// What time it is by the database, where it has a clock of its own.
    fn clock(&self) -> Reading<'_, Option<Timestamp>>;
    /// Whose service credential has this hash.
    fn service_credential(&self, hash: KeyHash) -> Reading<'_, Option<ServiceCredential>>;
    /// The secrets of sessions, oldest first.
    fn session_secrets(&self) -> Reading<'_, Vec<SessionSecret>>;
    /// Whose api key has this hash.
    fn key_by_hash(&self, hash: KeyHash) -> Reading<'_, Option<keys::Found>>;
    /// One key and whether its tenant is suspended.
    fn key(&self, id: KeyId) -> Reading<'_, Option<keys::Listed>>;
    /// Keys in the order they were made.
    fn keys(&self, filter: KeyFilter) -> Reading<'_, Vec<keys::Listed>>;
    /// One tenant with its accounts.
    fn tenant(&self, id: TenantId) -> Reading<'_, Option<(tenants::Tenant, book::Accounts)>>;
    /// Tenants in the order they were made, after one.
    fn tenants(
        &self,
        after: Option<TenantId>,
        limit: u32,
    ) -> Reading<'_, Vec<(tenants::Tenant, book::Accounts)>>;
    /// Credentials of administrators or of filters, in the order they were made.
    fn service_credentials(&self, filter: CredentialFilter) -> Reading<'_, Vec<ServiceCredential>>;
    /// Agents, in the order they were registered.
    fn agents(&self, filter: AgentFilter) -> Reading<'_, Vec<Agent>>;
    /// What a tenant, or one of its keys, spent in a month.
    fn spent(&self, at: SpendingKey) -> Reading<'_, Credits>;
    /// Leases, in the order of their ids.
    fn leases(&self, filter: LeaseFilter) -> Reading<'_, Vec<book::lease::Lease>>;
    /// Reservations whose time ended without an account of them, in the order of their ids.
    fn reservations(&self, filter: ReservationFilter) -> Reading<'_, Vec<book::Reservation>>;
    /// How many leases are open, and the credits that they hold.
    fn lent(&self) -> Reading<'_, (u64, u64)>;
    /// How the audit trail stands.
    fn audit_status(&self) -> Reading<'_, AuditStatus>;
    /// The newest checkpoint.
    fn checkpoint_head(&self) -> Reading<'_, CheckpointHead>;
    /// Checkpoints, oldest first.
    fn checkpoints(&self, filter: CheckpointFilter) -> Reading<'_, Vec<Checkpoint>>;
    /// Rows of the audit trail after one, oldest first. If a row is in the answer, all before it are.
    fn audit_rows(&self, after: u64, limit: u32) -> Reading<'_, Vec<AuditRow<Box<RawValue>>>>;
    /// The keys that signed checkpoints, oldest first.
    fn audit_keys(&self) -> Reading<'_, Vec<AuditKey>>;
    /// What shadow rules would have refused, with their groups and in the order of these.
    fn shadow(&self, query: UsageQuery) -> Reading<'_, Vec<(Group, ShadowRow)>>;
    /// The audit trail, newest first.
    fn audit(&self, filter: AuditFilter) -> Reading<'_, Vec<AuditRow<Box<RawValue>>>>;
    /// The policy in force, version and document, unless it is this one.
    fn policy_other_than(&self, known: PolicyVersion) -> Reading<'_, Option<(PolicyVersion, String)>>;
    /// Was this policy ever in force.
    fn knows_policy(&self, version: PolicyVersion) -> Reading<'_, bool>;
    /// Sums of decisions, with their groups and in the order of these.
    fn usage(&self, query: UsageQuery) -> Reading<'_, Vec<(Group, UsageRow)>>;
    /// Changes after a position, oldest first, at most `limit`.
    fn changes(&self, after: u64, limit: u32) -> Reading<'_, ChangesKept>;
}

/// Which keys to list.
#[derive(Debug, Clone)]
pub struct KeyFilter {
    /// Only this tenant's.
    pub tenant_id: Option<TenantId>,
    /// Only this agent's.
    pub agent_id: Option<AgentId>,
    /// Only those that came to be this way.
    pub source: Option<KeySource>,
    /// Only those in this state at `now`.
    pub state: Option<KeyState>,
    /// The moment at which states are judged.
    pub now: Timestamp,
    /// Only those made after this one.
    pub after: Option<KeyId>,
    /// At most so many.
    pub limit: u32,
}

/// Which service credentials to list.
#[derive(Debug, Clone)]
pub struct CredentialFilter {
    /// Of which kind.
    pub door: Door,
    /// Only those held to this tenant.
    pub tenant_id: Option<TenantId>,
    /// Only those made after this one.
    pub after: Option<AdminKeyId>,
    /// At most so many.
    pub limit: u32,
}

/// Which agents to list.
#[derive(Debug, Clone, Default)]
pub struct AgentFilter {
    /// Only this tenant's.
    pub tenant_id: Option<TenantId>,
    /// Only this one.
    pub id: Option<AgentId>,
    /// Only those registered after this one.
    pub after: Option<AgentId>,
    /// At most so many.
    pub limit: u32,
}

/// Which leases to list.
#[derive(Debug, Clone, Default)]
pub struct LeaseFilter {
    /// Only this tenant's.
    pub tenant_id: Option<TenantId>,
    /// Only those in this state.
    pub state: Option<LeaseState>,
    /// Only those after this one.
    pub after: Option<LeaseId>,
    /// At most so many.
    pub limit: u32,
}

/// Which reservations to list, of those whose time ended without an account of them.
#[derive(Debug, Clone, Default)]
pub struct ReservationFilter {
    /// Only this tenant's.
    pub tenant_id: Option<TenantId>,
    /// Only those in this state.
    pub state: Option<ReservationState>,
    /// Only those after this one.
    pub after: Option<ReservationId>,
    /// At most so many.
    pub limit: u32,
}

/// Which checkpoints to list.
#[derive(Debug, Clone, Copy, Default)]
pub struct CheckpointFilter {
    /// Only those made at this moment or later.
    pub from: Option<Timestamp>,
    /// Only those made before this moment.
    pub to: Option<Timestamp>,
    /// Only those with a number greater than this.
    pub after: u64,
    /// Only those whose rows are still there.
    pub kept_only: bool,
}

/// The most checkpoints in one answer.
pub const CHECKPOINTS_MAX: u32 = 16;

/// Which audit rows to list.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Only this tenant's.
    pub tenant_id: Option<TenantId>,
    /// Only decisions with this outcome.
    pub outcome: Option<protocol::audit::Outcome>,
    /// Only this kind.
    pub kind: Option<String>,
    /// Only what this one did.
    pub actor: Option<String>,
    /// Only rows written at this moment or later.
    pub from: Option<Timestamp>,
    /// Only rows written before this moment.
    pub to: Option<Timestamp>,
    /// Only rows before this sequence number.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: u32,
}

/// Which decisions to sum, and into which groups.
#[derive(Debug, Clone, Default)]
pub struct UsageQuery {
    /// Group by tenant.
    pub by_tenant: bool,
    /// Group by key.
    pub by_key: bool,
    /// Group by agent.
    pub by_agent: bool,
    /// Group by tool.
    pub by_tool: bool,
    /// Group by outcome.
    pub by_outcome: bool,
    /// Only this tenant's.
    pub tenant_id: Option<TenantId>,
    /// Only this key's.
    pub key_id: Option<KeyId>,
    /// Only this agent's.
    pub agent_id: Option<AgentId>,
    /// Only of this tool.
    pub tool: Option<String>,
    /// Only with this outcome.
    pub outcome: Option<protocol::audit::Outcome>,
    /// Hours that end after this.
    pub from: Option<Timestamp>,
    /// Hours that begin before this.
    pub to: Option<Timestamp>,
    /// Only groups after this one.
    pub after: Option<Group>,
    /// At most so many groups.
    pub limit: u32,
}

/// What the rows of a sum have in common, as texts; the next page begins behind the last group of the one before.
pub type Group = Vec<String>;

/// How many texts a group of usage has.
pub const USAGE_TEXTS: usize = 5;
/// How many texts a group of the shadow report has.
pub const SHADOW_TEXTS: usize = 3;

/// What the change feed holds after a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangesKept {
    /// The position up to which changes are no longer kept.
    pub floor: u64,
    /// The newest position.
    pub newest: u64,
    /// Position and change, oldest first.
    pub changes: Vec<(u64, Change)>,
}

/// The database can't serve now. Asking again later is right; every write is idempotent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// Too many writes wait.
    Busy,
    /// The database failed; the log has the cause.
    Failed,
    /// Too many reports are under way.
    ReportsWait,
    /// The report takes too long.
    ReportTooLong,
    /// The ledger is stopping.
    Stopping,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unavailable::Busy => "too many writes are waiting",
            Unavailable::Failed => "the database does not answer",
            Unavailable::ReportsWait => "other reports are under way; ask again when they are through",
            Unavailable::ReportTooLong => {
                "the report takes too long; narrow it: a shorter time (from, to), one tenant, one key or fewer groups"
            }
            Unavailable::Stopping => "the ledger is stopping",
        })
    }
}

impl std::error::Error for Unavailable {}

/// Why the rules refused an operation. Nothing was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The rules of money.
    Money(book::Refusal),
    /// No tenant has this id.
    TenantUnknown,
    /// No key has this id.
    KeyUnknown,
    /// The key is not in use.
    KeyInactive(KeyState),
    /// The tenant has no agent with this id.
    AgentUnknown,
    /// The tenant has no reservation with this id.
    ReservationUnknown,
    /// No credential of the kind has this id.
    AdminKeyUnknown,
    /// This `Idempotency-Key` made this service credential or its secret before; that can't be shown again.
    AdminKeyExists(AdminKeyId),
    /// It is the last credential that may do everything.
    LastOwner,
    /// Another policy is in force than the asker saw.
    PolicyChanged {
        /// Which.
        version: PolicyVersion,
    },
    /// It is no longer what the asker saw.
    ChangedSince {
        /// Its version now.
        version: u64,
    },
    /// The month's budget has no room for it.
    BudgetSpent {
        /// Whose.
        payer: Payer,
        /// The budget.
        budget: Credits,
        /// What is spent of it.
        spent: Credits,
        /// Of which month.
        month: Month,
    },
    /// This `Idempotency-Key` came before, with another body.
    IdempotencyKeyReused,
    /// This `Idempotency-Key` made this key before; its secret can't be shown again.
    KeyExists(KeyId),
    /// A key that another one asked for can't ask for keys.
    KeyIsIssued,
    /// The key that asks is held to other services.
    ServiceNotGranted,
    /// So many keys that this one asked for live already.
    TooManyChildren,
    /// The database already has its first credentials.
    AlreadyInitialised,
    /// The database does not take one of its rows; the log has the cause.
    Unstorable,
}

impl From<book::Refusal> for Refusal {
    fn from(refusal: book::Refusal) -> Refusal {
        Refusal::Money(refusal)
    }
}

/// Why an operation has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The rules refused it.
    Refused(Refusal),
    /// It was not written, or it is not known whether it was: ask again with the same ids.
    Unavailable(Unavailable),
}

impl From<Unavailable> for Error {
    fn from(unavailable: Unavailable) -> Error {
        Error::Unavailable(unavailable)
    }
}

/// One write, by the crate's rules. It must check everything before it changes a row. It is applied again, to other rows,
/// if another one of its transaction can't be stored.
pub trait Operation: Clone + Send + 'static {
    /// What the asker learns.
    type Answer: Send + 'static;
    /// Names the rows that [`Operation::apply`] looks at.
    fn needs(&self, needs: &mut Needs);
    /// Decides, and changes rows.
    fn apply(self, rows: &mut Rows) -> Result<Self::Answer, Refusal>;
}

/// An operation on its way through a store, whatever its answer's type.
pub trait Work: Send {
    /// See [`Operation::needs`].
    fn needs(&self, needs: &mut Needs);
    /// Applies the operation and keeps its answer. Called again if the transaction came to nothing.
    fn apply(&mut self, rows: &mut Rows);
    /// Hands the answer out. Called once, after the rows are durable or are known not to be.
    fn answer(self: Box<Self>, durable: Result<(), Error>);
}

/// What the asker of an operation gets.
pub type Outcome<O> = Result<<O as Operation>::Answer, Error>;

/// An operation with somebody who waits for it.
pub struct Queued<O: Operation> {
    operation: O,
    outcome: Option<Result<O::Answer, Refusal>>,
    reply: oneshot::Sender<Outcome<O>>,
}

impl<O: Operation> Queued<O> {
    /// The work, and where its answer will arrive.
    pub fn new(operation: O) -> (Box<Queued<O>>, oneshot::Receiver<Outcome<O>>) {
        let (reply, answer) = oneshot::channel();
        (Box::new(Queued { operation, outcome: None, reply }), answer)
    }
}

impl<O: Operation> Work for Queued<O> {
    fn needs(&self, needs: &mut Needs) {
        self.operation.needs(needs);
    }

    fn apply(&mut self, rows: &mut Rows) {
        self.outcome = Some(self.operation.clone().apply(rows));
    }

    fn answer(self: Box<Self>, durable: Result<(), Error>) {
        let answer = match (durable, self.outcome) {
            (Ok(()), Some(outcome)) => outcome.map_err(Error::Refused),
            (Ok(()), None) => Err(Error::Unavailable(Unavailable::Failed)),
            (Err(error), _) => Err(error),
        };
        // An asker that has gone away asks again with the same id, or does not care.
        let _ = self.reply.send(answer);
    }
}

impl dyn Store {
    /// Runs one write and waits until it is durable.
    pub async fn run<O: Operation>(&self, operation: O) -> Result<O::Answer, Error> {
        let (work, answer) = Queued::new(operation);
        self.submit(work)?;
        answer.await.unwrap_or(Err(Error::Unavailable(Unavailable::Stopping)))
    }
}

/// For tests: as if all that is sealed had been sealed in another year.
#[cfg(test)]
pub(crate) fn tests_age_audit(database: &crate::database::Database) {
    let connection = sql::Connection::open(database, sql::Purpose::Write).unwrap();
    connection.execute("UPDATE audit_batches SET sealed_at = 1600000000000", &[]).unwrap();
}
