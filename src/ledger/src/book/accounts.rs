//! A tenant's accounts and the transfers between them. Knows neither reservations nor leases.

use super::Refusal;
use protocol::admin::Balance;
use protocol::{Credits, Timestamp};

/// One side of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Account {
    /// The source of all credits.
    Issuer,
    /// Free to reserve.
    Available,
    /// Reserved or leased.
    Pending,
    /// Charged.
    Posted,
}

impl Account {
    /// Its name in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Account::Issuer => "issuer",
            Account::Available => "available",
            Account::Pending => "pending",
            Account::Posted => "posted",
        }
    }
}

/// Why credits moved. It determines the two accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferKind {
    /// An administrator granted credits.
    Grant,
    /// A call reserves credits.
    Reserve,
    /// A call is charged.
    Post,
    /// A charged call returns what it reserved but did not use.
    Release,
    /// A failed call returns its credits.
    Void,
    /// A reservation's time ended without a settlement, so it is charged.
    Unaccounted,
    /// A call is charged more than it reserved.
    Overrun,
    /// A late settlement charges more than was charged at expiry.
    Correction,
    /// A late settlement returns what was charged too much.
    CorrectionReturned,
    /// An administrator refunds a charge.
    Refund,
    /// An administrator withdraws a grant.
    Withdrawal,
    /// A lease reserves credits for an Envoy.
    Lease,
    /// An Envoy reported leased credits as spent.
    LeaseSpent,
    /// An Envoy reported that calls counted as spent had failed; it may spend the credits again.
    LeaseUnspent,
    /// A closed lease returns what was not spent.
    LeaseReturned,
    /// A lease ended without its last statement, so it is charged.
    LeaseLost,
    /// A statement after a lease's end returns what was not spent.
    LeaseRefunded,
}

impl TransferKind {
    /// Every kind.
    pub const ALL: [TransferKind; 17] = [
        TransferKind::Grant,
        TransferKind::Reserve,
        TransferKind::Post,
        TransferKind::Release,
        TransferKind::Void,
        TransferKind::Unaccounted,
        TransferKind::Overrun,
        TransferKind::Correction,
        TransferKind::CorrectionReturned,
        TransferKind::Refund,
        TransferKind::Withdrawal,
        TransferKind::Lease,
        TransferKind::LeaseSpent,
        TransferKind::LeaseUnspent,
        TransferKind::LeaseReturned,
        TransferKind::LeaseLost,
        TransferKind::LeaseRefunded,
    ];

    /// Its name in the database and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            TransferKind::Grant => "grant",
            TransferKind::Reserve => "reserve",
            TransferKind::Post => "post",
            TransferKind::Release => "release",
            TransferKind::Void => "void",
            TransferKind::Unaccounted => "unaccounted",
            TransferKind::Overrun => "overrun",
            TransferKind::Correction => "correction",
            TransferKind::CorrectionReturned => "correction_returned",
            TransferKind::Refund => "refund",
            TransferKind::Withdrawal => "withdrawal",
            TransferKind::Lease => "lease",
            TransferKind::LeaseSpent => "lease_spent",
            TransferKind::LeaseUnspent => "lease_unspent",
            TransferKind::LeaseReturned => "lease_returned",
            TransferKind::LeaseLost => "lease_lost",
            TransferKind::LeaseRefunded => "lease_refunded",
        }
    }

    /// The accounts that it moves credits from and to.
    pub const fn route(self) -> (Account, Account) {
        match self {
            TransferKind::Grant => (Account::Issuer, Account::Available),
            TransferKind::Reserve | TransferKind::Lease => (Account::Available, Account::Pending),
            TransferKind::Post
            | TransferKind::Unaccounted
            | TransferKind::LeaseSpent
            | TransferKind::LeaseLost => (Account::Pending, Account::Posted),
            TransferKind::Release | TransferKind::Void | TransferKind::LeaseReturned => {
                (Account::Pending, Account::Available)
            }
            TransferKind::LeaseUnspent => (Account::Posted, Account::Pending),
            TransferKind::Overrun | TransferKind::Correction => (Account::Available, Account::Posted),
            TransferKind::Refund | TransferKind::CorrectionReturned | TransferKind::LeaseRefunded => {
                (Account::Posted, Account::Available)
            }
            TransferKind::Withdrawal => (Account::Available, Account::Issuer),
        }
    }
}

/// One movement of at least one credit. Immutable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// Why, and between which accounts.
    pub kind: TransferKind,
    pub credits: Credits,
    pub at: Timestamp,
}

/// What one tenant holds. Only transfers change it, so its invariant always holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accounts(Balance);

impl Accounts {
    /// Refuses a balance that does not add up.
    pub fn from_rows(balance: Balance) -> Result<Accounts, Refusal> {
        let sum =
            balance.available.checked_add(balance.pending).and_then(|sum| sum.checked_add(balance.posted));
        if sum == Some(balance.granted) { Ok(Accounts(balance)) } else { Err(Refusal::OutOfBalance) }
    }

    /// All four numbers.
    pub const fn balance(&self) -> Balance {
        self.0
    }

    /// All that the issuer gave.
    pub const fn granted(&self) -> Credits {
        self.0.granted
    }

    /// Free to reserve.
    pub const fn available(&self) -> Credits {
        self.0.available
    }

    /// Moves credits along the kind's route, or changes nothing.
    pub(super) fn transfer(
        &mut self,
        kind: TransferKind,
        credits: Credits,
        at: Timestamp,
    ) -> Result<Transfer, Refusal> {
        let (from, to) = kind.route();
        let mut after = self.0;
        // The issuer has no account: what it gives is counted as `granted`.
        match after.side(from) {
            Some(account) => *account = account.checked_sub(credits).ok_or(Refusal::OutOfBalance)?,
            None => after.granted = after.granted.checked_add(credits).ok_or(Refusal::OutOfBalance)?,
        }
        match after.side(to) {
            Some(account) => *account = account.checked_add(credits).ok_or(Refusal::OutOfBalance)?,
            None => after.granted = after.granted.checked_sub(credits).ok_or(Refusal::OutOfBalance)?,
        }
        self.0 = after;
        Ok(Transfer { kind, credits, at })
    }

    /// Like [`Accounts::transfer`], but skips zero credits.
    pub(super) fn transfer_some(
        &mut self,
        kind: TransferKind,
        credits: Credits,
        at: Timestamp,
        transfers: &mut Vec<Transfer>,
    ) -> Result<(), Refusal> {
        if !credits.is_zero() {
            transfers.push(self.transfer(kind, credits, at)?);
        }
        Ok(())
    }
}

trait Sides {
    fn side(&mut self, account: Account) -> Option<&mut Credits>;
}

impl Sides for Balance {
    fn side(&mut self, account: Account) -> Option<&mut Credits> {
        match account {
            Account::Issuer => None,
            Account::Available => Some(&mut self.available),
            Account::Pending => Some(&mut self.pending),
            Account::Posted => Some(&mut self.posted),
        }
    }
}
