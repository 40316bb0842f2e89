//! Which scopes a call needs.

/// Scopes that the key must all have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeRule {
    /// The scopes.
    pub scopes: Vec<String>,
    /// The rule is audited, but not enforced.
    pub shadow: bool,
}
