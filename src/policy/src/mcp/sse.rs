//! Server-sent events, read and rewritten as they pass: bytes in, bytes out, never a paused stream.
//!
//! Chunks don't align with events, so an event is kept until its blank line has come; what is kept is bounded.

use super::list;

/// The largest event that is kept to be filtered, in bytes: results with an image in them come on such streams too.
const EVENT_BYTES_MAX: usize = 4 << 20;

/// Takes what is hidden out of every list in a stream of events.
#[derive(Debug, Default)]
pub struct ListFilter {
    kept: Vec<u8>,
    scan: Scan,
}

impl ListFilter {
    /// Takes what arrived, returns what may go on. `end` says that nothing more will come.
    pub fn feed(
        &mut self,
        chunk: &[u8],
        end: bool,
        view: &list::View<'_>,
    ) -> Result<Vec<u8>, list::Unreadable> {
        self.feed_with(chunk, end, &mut |message| list::filter(message, view))
    }

    /// The same, with each message replaced by what `replace` says; `None` for the same, and nothing for none.
    pub fn feed_with(
        &mut self,
        chunk: &[u8],
        end: bool,
        replace: &mut Replace<'_>,
    ) -> Result<Vec<u8>, list::Unreadable> {
        self.kept.extend_from_slice(chunk);
        let mut passed = Vec::with_capacity(self.kept.len());
        let mut done = 0usize;
        while let Some(end_of_event) = self.scan.event_end(&self.kept) {
            rewrite(self.kept.get(done..end_of_event).unwrap_or_default(), replace, &mut passed)?;
            done = end_of_event;
        }
        // Once for all events of the chunk: each would move all that is behind it.
        self.kept.drain(..done);
        self.scan.at = self.scan.at.saturating_sub(done);
        if end && !self.kept.is_empty() {
            // Clients drop an event without its blank line; a filter that passed it on would pass it unread.
            self.kept.clear();
        }
        if self.kept.len() > EVENT_BYTES_MAX { Err(list::Unreadable) } else { Ok(passed) }
    }
}

/// What is to be sent in the place of a message.
pub type Replace<'r> = dyn FnMut(&[u8]) -> Result<Option<Vec<u8>>, list::Unreadable> + 'r;

/// Looks for the ends of events, and at each byte once: an event may come in a million chunks.
#[derive(Debug)]
struct Scan {
    at: usize,
    line_is_empty: bool,
    #[cfg(test)]
    looks: usize,
}

impl Default for Scan {
    fn default() -> Scan {
        Scan {
            at: 0,
            line_is_empty: true,
            #[cfg(test)]
            looks: 0,
        }
    }
}

impl Scan {
    /// Where the next whole event ends, behind the blank line that ends it.
    fn event_end(&mut self, bytes: &[u8]) -> Option<usize> {
        while let Some(byte) = bytes.get(self.at) {
            #[cfg(test)]
            {
                self.looks = self.looks.saturating_add(1);
            }
            let next = bytes.get(self.at.saturating_add(1));
            let line_end = match (byte, next) {
                // A lone CR at the end may be half of a CRLF: wait for the other half.
                (b'\r', None) => return None,
                (b'\r', Some(b'\n')) => 2,
                (b'\r' | b'\n', _) => 1,
                _ => 0,
            };
            self.at = self.at.saturating_add(line_end.max(1));
            let was_empty = std::mem::replace(&mut self.line_is_empty, line_end > 0);
            if line_end > 0 && was_empty {
                return Some(self.at);
            }
        }
        None
    }
}

/// The lines of an event, without their ends.
fn lines(event: &[u8]) -> impl Iterator<Item = &[u8]> {
    event.split(|byte| *byte == b'\n').flat_map(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        line.split(|byte| *byte == b'\r')
    })
}

/// The value of a `data` line.
pub(super) fn data_of(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    let rest = line.strip_prefix(b"data")?;
    match rest.strip_prefix(b":") {
        Some(value) => Some(value.strip_prefix(b" ").unwrap_or(value)),
        None if rest.is_empty() => Some(rest),
        None => None,
    }
}

fn rewrite(event: &[u8], replace: &mut Replace<'_>, passed: &mut Vec<u8>) -> Result<(), list::Unreadable> {
    let data = lines(event).filter_map(data_of).collect::<Vec<_>>().join(&b'\n');
    let filtered = if data.trim_ascii().is_empty() { None } else { replace(&data)? };
    let Some(filtered) = filtered else {
        passed.extend_from_slice(event);
        return Ok(());
    };
    for line in lines(event).filter(|line| !line.is_empty() && data_of(line).is_none()) {
        passed.extend_from_slice(line);
        passed.push(b'\n');
    }
    write(&filtered, passed);
    Ok(())
}

/// Writes a message as the data of an event, and ends the event. Nothing is no data.
pub fn write(message: &[u8], stream: &mut Vec<u8>) {
    for line in message.split(|byte| *byte == b'\n').filter(|_| !message.is_empty()) {
        stream.extend_from_slice(b"data: ");
        stream.extend_from_slice(line);
        stream.push(b'\n');
    }
    stream.push(b'\n');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]
    use super::list::View;
    use super::*;

    const STREAM: &str = "event: message\nid: 7\ndata: {\"method\":\"notifications/progress\"}\n\n: ping\n\nid: 8\r\ndata: {\"result\":\r\ndata: {\"tools\":[{\"name\":\"no\"},{\"name\":\"ok\"}]}}\r\n\r\ndata:\n\n";
    const EXPECTED: &str = "event: message\nid: 7\ndata: {\"method\":\"notifications/progress\"}\n\n: ping\n\nid: 8\ndata: {\"result\":\ndata: {\"tools\":[{\"name\":\"ok\"}]}}\n\ndata:\n\n";

    #[test]
    fn chunks_of_any_size_give_the_same_stream() {
        for size in 1..STREAM.len() {
            let mut filter = ListFilter::default();
            let mut passed = Vec::new();
            for chunk in STREAM.as_bytes().chunks(size) {
                passed.extend(
                    filter.feed(chunk, false, &View::of(&|listed| Some(listed.name() == "ok"))).unwrap(),
                );
            }
            passed.extend(filter.feed(b"", true, &View::of(&|listed| Some(listed.name() == "ok"))).unwrap());
            assert_eq!(String::from_utf8(passed).unwrap(), EXPECTED, "in chunks of {size}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_passed() {
        let visible = |_: crate::reading::Listed<'_>| Some(true);
        let visible = View::of(&visible);
        assert!(ListFilter::default().feed(b"data: {\"result\"\n\n", false, &visible).is_err());
        assert!(ListFilter::default().feed(&vec![b'x'; EVENT_BYTES_MAX + 1], false, &visible).is_err());
        let mut unfinished = ListFilter::default();
        assert_eq!(
            unfinished.feed(b"data: {\"result\":{\"tools\":[{\"name\":\"no\"}]}}\n", true, &visible),
            Ok(vec![])
        );
    }

    #[test]
    fn each_byte_is_looked_at_once_whatever_the_chunks() {
        let visible = |_: crate::reading::Listed<'_>| Some(true);
        let mut large = b"data: ".to_vec();
        large.resize(100_000, b' ');
        large.extend_from_slice(b"\r\n\r\n");
        for (stream, size) in
            [(large.as_slice(), 1), (&large, 7), (&[b'\n'; 100_000], 100_000), (&[b'\r'; 1000], 1)]
        {
            let mut filter = ListFilter::default();
            for chunk in stream.chunks(size) {
                filter.feed(chunk, false, &View::of(&visible)).unwrap();
            }
            // A CR at the end of a chunk is looked at again when it is known what follows.
            assert!(filter.scan.looks <= 2 * stream.len(), "{} looks", filter.scan.looks);
            assert!(filter.kept.capacity() < 4 * stream.len());
        }
    }
}
