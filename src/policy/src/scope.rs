//! Which scopes a call needs.

/// Scopes that must all be held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeRule {
    /// The scopes.
    pub scopes: Vec<String>,
    /// Audited, not enforced.
    pub shadow: bool,
}
