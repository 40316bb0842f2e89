//! A value that two threads may use.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A value that is locked while it is used. In wasm there is one thread, and locking costs a few instructions.
#[derive(Debug, Default)]
pub struct Locked<Value>(Mutex<Value>);

impl<Value> Locked<Value> {
    /// A value that nobody uses yet.
    pub const fn new(value: Value) -> Locked<Value> {
        Locked(Mutex::new(value))
    }

    /// Waits until no other thread uses the value. After a panic elsewhere the value is used as it was left: each is
    /// changed in one step, so it is never half changed.
    pub fn lock(&self) -> MutexGuard<'_, Value> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts another value in its place, and returns the one before.
    pub fn replace(&self, value: Value) -> Value {
        std::mem::replace(&mut *self.lock(), value)
    }
}

impl<Value: Copy> Locked<Value> {
    /// A copy of the value.
    pub fn get(&self) -> Value {
        *self.lock()
    }
}
