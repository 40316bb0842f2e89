//! The answer to one request: a JSON body, or the event of a stream that has its id.

use reqwest::Response;
use reqwest::header::CONTENT_TYPE;
use serde_json::Value;

/// The most that is read of an answer.
const BYTES_MAX: usize = 16 << 20;

/// The message that answers the request with this id.
pub(super) async fn of(mut answer: Response, id: u64) -> Result<Value, String> {
    let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.unwrap_or_default().to_owned();
    let is_stream = kind.starts_with("text/event-stream");
    let mut read = Vec::new();
    // The stream may stay open behind the answer.
    while let Some(chunk) = answer.chunk().await.map_err(|_| "its answer broke off".to_owned())? {
        read.extend_from_slice(&chunk);
        if read.len() > BYTES_MAX {
            return Err("its answer is larger than 16 MiB".to_owned());
        }
        if is_stream && let Some(message) = in_events(&read, id) {
            return Ok(message);
        }
    }
    // The last event may lack its blank line.
    read.extend_from_slice(b"\n\n");
    let found = if is_stream { in_events(&read, id) } else { serde_json::from_slice(&read).ok() };
    found.ok_or_else(|| format!("no JSON-RPC in {} bytes of {kind:?}", read.len()))
}

/// The message with this id among complete events.
fn in_events(read: &[u8], id: u64) -> Option<Value> {
    let text = String::from_utf8_lossy(read).replace("\r\n", "\n").replace('\r', "\n");
    let whole = text.rsplit_once("\n\n")?.0;
    let data = whole.split("\n\n").map(|event| {
        let lines = event.lines().filter_map(|line| line.strip_prefix("data:"));
        lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n")
    });
    let messages = data.filter_map(|data| serde_json::from_str::<Value>(&data).ok());
    messages.into_iter().find(|message| message.get("id").and_then(Value::as_u64) == Some(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_found_among_events_once_it_is_whole() {
        let stream = "id: 1\ndata:\n\nevent: message\r\ndata: {\"method\":\"notifications/message\"}\r\n\r\ndata: {\"id\":2,\r\n\
                      data: \"result\":{}}\r\n\r\n";
        let found = in_events(stream.as_bytes(), 2).unwrap();
        assert!(found["result"].is_object());
        assert_eq!(in_events(&stream.as_bytes()[..stream.len() - 3], 2), None);
        assert_eq!(in_events(stream.as_bytes(), 1), None);
    }
}
