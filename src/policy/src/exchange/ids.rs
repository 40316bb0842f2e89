//! The ids that an exchange uses in its session: which of its messages were answered, and which answers prove nothing because
//! they may belong to another request with the same id.

use super::response::End;
use super::{Exchange, Phase};
use crate::ids_in_use::{Ended, Use};

impl Exchange {
    /// The ids that go upstream, all of one owner; to be recorded before they do.
    pub fn uses(&self) -> impl Iterator<Item = Use> {
        self.messages().filter_map(|message| message.used)
    }

    /// How their uses ended.
    pub fn ended_uses(&self, end: End) -> impl Iterator<Item = Ended> {
        let of = move |message: &Exchange| {
            Some(Ended { id: message.used?.id, is_answered: message.is_answered(end) })
        };
        self.messages().filter_map(of)
    }

    /// The calls that would not cost what was set aside for them, because of what the upstream sent. Each must have been
    /// alone with its id; for one that was not, call [`Exchange::doubt`].
    pub fn uses_to_prove(&self, end: End) -> impl Iterator<Item = Use> {
        let end = self.effective_end(end);
        self.messages()
            .filter(move |message| message.is_settled_by_upstream(end))
            .filter_map(|message| message.used)
    }

    /// Another request may have used the id of a call, so what the upstream sent proves nothing about the call.
    pub fn doubt(&mut self, used: Use) {
        let messages = match self.batch.as_deref_mut() {
            Some(batch) => batch.exchanges_mut().collect(),
            None => vec![self],
        };
        messages
            .into_iter()
            .filter(|message| message.used == Some(used))
            .for_each(|message| message.is_doubted = true);
    }

    /// The messages that went upstream.
    fn messages(&self) -> impl Iterator<Item = &Exchange> {
        let (batch, single) = match &self.batch {
            Some(batch) => (Some(batch.exchanges()), None),
            None => (None, Some(self)),
        };
        let is_sent = self.is_forwarded();
        let all = batch.into_iter().flatten().chain(single);
        all.filter(move |message| is_sent && matches!(message.phase, Phase::Forwarded(_)))
    }

    fn is_answered(&self, end: End) -> bool {
        match self.response.answer() {
            Some(reader) => reader.has_answer(),
            None => self.response.is_one_message && end == End::Complete,
        }
    }
}
