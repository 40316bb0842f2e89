//! A tenant's accounts and the transfers between them. Does not know reservations and leases.

use super::Refusal;
use protocol::admin::Balance;
use protocol::{Credits, Timestamp};

/// One side of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Account {
    /// The outside, from where all credits come.
    Issuer,
    /// Free to reserve.
    Available,
    /// Set aside.
    Pending,
    /// Charged.
    Posted,
}

impl Account {
    /// Its name at rest.
    pub const fn as_str(self) -> &'static str {
        match self {
            Account::Issuer => "issuer",
            Account::Available => "available",
            Account::Pending => "pending",
            Account::Posted => "posted",
        }
    }
}

/// Why credits moved. It fixes between which accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferKind {
    /// An administrator gave credits.
    Grant,
    /// A call sets credits aside.
    Reserve,
    /// A call is charged.
    Post,
    /// What a call reserved and did not use goes back.
    Release,
    /// A failed call's credits go back.
    Void,
    /// A reservation's time ended without an account of it: its call may have been served.
    Unaccounted,
    /// A call is charged more than was set aside for it.
    Overrun,
    /// A call turns out to cost more than was charged when its reservation expired.
    Correction,
    /// It turns out to cost less, and the rest goes back.
    CorrectionReturned,
    /// An administrator gives back what was charged.
    Refund,
    /// An administrator takes back what was granted.
    Withdrawal,
    /// A lease sets credits aside for an Envoy.
    Lease,
    /// An Envoy spent them.
    LeaseSpent,
    /// Calls that it had counted as spent have failed; it may spend them again.
    LeaseUnspent,
    /// A lease ends, and what was not spent goes back.
    LeaseReturned,
    /// A lease ended without an account of it: it may have been spent.
    LeaseLost,
    /// After a lease's end, what turned out not to be spent goes back.
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

    /// Its name at rest and in metrics.
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

    /// From where to where.
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
    /// How much.
    pub credits: Credits,
    /// When.
    pub at: Timestamp,
}

/// What one tenant holds. The only way to change it is a transfer, so its law cannot be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accounts(Balance);

impl Accounts {
    /// From rows; refused if they do not add up.
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
        // What the issuer gives is counted as granted; it is the one account that may go below zero without end.
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

    /// Like [`Accounts::transfer`], but a transfer of nothing is none.
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
