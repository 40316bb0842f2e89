//! The header fields that the gate writes into one response.

use std::borrow::Cow;

/// Names and values. All values share one string to save allocations, because every response has five fields.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Fields {
    text: String,
    /// Each name, and the offset at which its value ends.
    ends: Vec<(&'static str, usize)>,
}

impl Fields {
    /// No fields yet, with capacity for a typical response or refusal.
    pub(super) fn for_response() -> Fields {
        Fields { text: String::with_capacity(160), ends: Vec::with_capacity(8) }
    }

    /// The given fields.
    pub(super) fn of<const N: usize>(fields: [(&'static str, &str); N]) -> Fields {
        let mut all = Fields::for_response();
        fields.into_iter().for_each(|(name, value)| all.push(name, value));
        all
    }

    /// Adds a field; `write` appends its value.
    pub(super) fn write(&mut self, name: &'static str, write: impl FnOnce(&mut String)) {
        write(&mut self.text);
        self.ends.push((name, self.text.len()));
    }

    pub(super) fn push(&mut self, name: &'static str, value: &str) {
        self.write(name, |text| text.push_str(value));
    }

    /// The fields in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let mut from = 0;
        self.ends.iter().map(move |(name, end)| {
            let value = self.text.get(from..*end).unwrap_or_default();
            from = *end;
            (*name, value)
        })
    }

    /// Adds all fields of `others`.
    pub(super) fn append(&mut self, others: &Fields) {
        others.iter().for_each(|(name, value)| self.push(name, value));
    }
}

/// A name in a form that a header may hold. `%` and what is not printable ASCII become percent escapes of the UTF-8 bytes.
pub(super) fn escaped(name: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'%';
    if name.bytes().all(is_plain) {
        return Cow::Borrowed(name);
    }
    let escape = |byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    Cow::Owned(name.bytes().map(escape).collect())
}
