//! What is read from answers, in either form, in any chunks and cut anywhere: never a failure that a client could not
//! read.

#![allow(clippy::string_slice)]
use super::*;

fn read(form: Form, answer: &[u8], size: usize) -> Reader {
    let mut reader = Reader::new(form, Some("7"));
    answer.chunks(size).for_each(|chunk| reader.feed(chunk));
    reader
}

fn verdict(form: Form, answer: &str) -> Verdict {
    let whole = read(form, answer.as_bytes(), answer.len().max(1)).verdict();
    for size in [1, 2, 3, 7] {
        assert_eq!(read(form, answer.as_bytes(), size).verdict(), whole, "in chunks of {size}: {answer}");
    }
    whole
}

/// Messages, and the verdict of each on the call with the id 7 when it is complete.
const MESSAGES: [(&str, Verdict); 53] = [
    (r#"{"jsonrpc":"2.0","id":7,"result":{"content":[]}}"#, Verdict::Success),
    (r#"{"result":{"content":[{"isError":true}],"isError":false},"id":7}"#, Verdict::Success),
    (
        r#"{"id":7,"result":{"structuredContent":{"isError":true,"error":1},"resultType":"x"}}"#,
        Verdict::Success,
    ),
    (r#"{"id":7,"result":{"content":[{"text":"\"isError\":true}"}]}}"#, Verdict::Success),
    (r#"{"id":7,"result":{"content":[],"isError": true }}"#, Verdict::Failure),
    (r#"{"result":{"isError":true,"content":[{"a":{"isError":false}}]},"id":7}"#, Verdict::Failure),
    (r#"{"error":{"code":-1,"message":"result"},"id":7}"#, Verdict::Failure),
    (r#"{"id":7,"result":{"resultType":"input_required"}}"#, Verdict::Unfinished),
    // The gate would see the end of a task only if the client asked, and not asking must not be free.
    (r#"{"id":7,"result":{"resultType":"task","taskId":"x"}}"#, Verdict::Success),
    (r#"{"id":7,"result":{"task":{"taskId":"x","status":"working"}}}"#, Verdict::Success),
    // Ids are compared by value.
    (r#"{"id":7.0,"error":{}}"#, Verdict::Failure),
    (r#"{"id":70e-1,"error":{}}"#, Verdict::Failure),
    (r#"{"id":0.7E+1,"result":{}}"#, Verdict::Success),
    (r#"{"id":"7","error":{}}"#, Verdict::Nothing),
    // The official clients take this as their own.
    (r#"{"id":"7","result":{}}"#, Verdict::Unclear),
    // Some clients ignore the case of names.
    (r#"{"id":7,"result":{"isError":true,"IsError":false}}"#, Verdict::Unclear),
    (r#"{"id":7,"result":{"isError":true,"i\u017ferror":false,"iſError":false}}"#, Verdict::Unclear),
    (r#"{"id":7,"error":{},"Result":{}}"#, Verdict::Unclear),
    (r#"{"id":7,"ID":8,"error":{}}"#, Verdict::Unclear),
    (r#"{"id":7,"result":{"isError":true,"Error":{},"content":[{"IsError":false}]}}"#, Verdict::Failure),
    (r#"{"id":-7,"error":{}}"#, Verdict::Nothing),
    (r#"{"id":null,"error":{}}"#, Verdict::Nothing),
    (r#"{"id":[7],"error":{}}"#, Verdict::Nothing),
    (r#"{"id":true,"error":{}}"#, Verdict::Nothing),
    (r#"{"error":{}}"#, Verdict::Nothing),
    (r#"{"result":{}}"#, Verdict::Nothing),
    // A null value counts as absent.
    (r#"{"id":7,"result":{},"error":null}"#, Verdict::Success),
    (r#"{"error": null ,"id":7,"result":{"isError":null}}"#, Verdict::Success),
    (r#"{"id":7,"result":null,"error":{"code":1,"message":""}}"#, Verdict::Failure),
    (r#"{"id":7,"method":null,"error":{}}"#, Verdict::Failure),
    (r#"{"id":7,"result":null}"#, Verdict::Unclear),
    (r#"{"id":7}"#, Verdict::Unclear),
    // Only `true` marks an error.
    (r#"{"id":7,"result":{"isError":"true"}}"#, Verdict::Success),
    (r#"{"id":7,"result":{"isError":1}}"#, Verdict::Success),
    (r#"{"id":7,"result":{"isError":[true]}}"#, Verdict::Success),
    (r#"{"id":7,"error":false}"#, Verdict::Unclear),
    (r#"{"id":7,"error":"boom"}"#, Verdict::Unclear),
    (r#"{"id":7,"error":[]}"#, Verdict::Unclear),
    // Names with escapes are decoded.
    (r#"{"\u0069d":7,"result":{"is\u0045rror":true}}"#, Verdict::Failure),
    (r#"{"id":7,"\u0065rror":{}}"#, Verdict::Failure),
    (r#"{"id":7,"result":{"resultType":"input\u005frequired"}}"#, Verdict::Unfinished),
    // Twice, or both.
    (r#"{"id":7,"error":{},"error":{}}"#, Verdict::Unclear),
    (r#"{"id":7,"error":{},"\u0065rror":null}"#, Verdict::Unclear),
    (r#"{"id":7,"result":{"isError":true,"isError":false}}"#, Verdict::Unclear),
    (r#"{"id":8,"id":7,"error":{}}"#, Verdict::Unclear),
    (r#"{"id":7,"id":8,"error":{}}"#, Verdict::Nothing),
    (r#"{"id":7,"result":{},"error":{}}"#, Verdict::Unclear),
    (r#"{"id":7,"method":"ping","error":{}}"#, Verdict::Unclear),
    // No answers.
    (r#"{"id":7,"method":"sampling/createMessage","params":{"error":{}}}"#, Verdict::Nothing),
    (r#"{"method":"notifications/progress","params":{"result":1}}"#, Verdict::Nothing),
    (r#""error""#, Verdict::Nothing),
    ("", Verdict::Nothing),
    ("7", Verdict::Nothing),
];

#[test]
fn an_answer_is_read_as_clients_read_it_in_any_form() {
    let note = r#"{"method":"notifications/progress","params":{}}"#;
    for (message, expected) in MESSAGES {
        for sent in [message.to_owned(), format!("\u{feff}{message}"), format!(" {message}\r\n")] {
            assert_eq!(verdict(Form::Json, &sent), expected, "{sent}");
        }
        for end in ["\n", "\r", "\r\n"] {
            for event in [
                format!("data: {message}{end}{end}"),
                format!("\u{feff}data:{message}{end}{end}"),
                format!("event: message{end}data: {message}{end}{end}: a comment{end}{end}"),
                format!("retry: 5{end}data: {note}{end}{end}data: {message}{end}{end}data: {note}{end}{end}"),
                format!("data{end}{end}data:{end}{end}{}{end}{end}", lines(message, end)),
            ] {
                assert_eq!(verdict(Form::Events, &event), expected, "{event:?}");
            }
        }
        if message.starts_with('{') {
            for array in [format!("[{message}]"), format!("[ {note},{message} , {note}]")] {
                assert_eq!(verdict(Form::Json, &array), expected, "{array}");
                assert_eq!(verdict(Form::Events, &format!("data: {array}\n\n")), expected, "{array}");
            }
        }
    }
}

/// The message as several lines of data.
fn lines(message: &str, end: &str) -> String {
    message.replace(",\"", ",\n\"").lines().map(|line| format!("data: {line}")).collect::<Vec<_>>().join(end)
}

#[test]
fn a_second_answer_makes_the_result_unclear() {
    let failure = r#"{"id":7,"error":{"code":1,"message":""}}"#;
    let success = r#"{"id":7.0,"result":{}}"#;
    let other = r#"{"id":8,"result":{}}"#;
    for (messages, expected) in [
        (vec![failure, failure], Verdict::Unclear),
        (vec![failure, success], Verdict::Success),
        (vec![success, failure], Verdict::Success),
        (vec![failure, r#"{"id":7}"#], Verdict::Unclear),
        (vec![failure, other], Verdict::Failure),
        (vec![other, failure], Verdict::Failure),
    ] {
        assert_eq!(verdict(Form::Json, &format!("[{}]", messages.join(","))), expected, "{messages:?}");
        let events: String = messages.iter().map(|message| format!("data: {message}\n\n")).collect();
        assert_eq!(verdict(Form::Events, &events), expected, "{messages:?}");
    }
    // A result that has only begun.
    let begun = format!("data: {failure}\n\ndata: {{\"id\":7,\"result\":{{\"content\":[");
    assert_eq!(verdict(Form::Events, &begun), Verdict::Success);
}

#[test]
fn answers_that_no_client_could_read_refund_nothing() {
    let failure = r#"{"id":7,"error":{}}"#;
    for (form, sent, expected) in [
        (Form::Json, format!("{failure}x"), Verdict::Nothing),
        (Form::Json, format!("x{failure}"), Verdict::Nothing),
        (Form::Json, format!("{failure}{{}}"), Verdict::Nothing),
        (Form::Json, format!("[{failure}"), Verdict::Nothing),
        (Form::Json, format!("[[{failure}]]"), Verdict::Nothing),
        (Form::Json, format!("\u{feff}\u{feff}{failure}"), Verdict::Nothing),
        (Form::Json, format!("\"{failure}\""), Verdict::Nothing),
        (Form::Events, format!("data: {failure}x\n\n"), Verdict::Unclear),
        (Form::Events, format!("data: \u{feff}{failure}\n\n"), Verdict::Unclear),
        (Form::Events, format!("data: [{failure}\n\n"), Verdict::Unclear),
        (Form::Events, format!("data: {failure}\ndata: {failure}\n\n"), Verdict::Unclear),
        (Form::Events, format!("event: ping\ndata: {failure}\n\n"), Verdict::Unclear),
        (Form::Events, format!("data: {failure}\nevent: messages of others\n\n"), Verdict::Unclear),
        (Form::Events, format!("datas: {failure}\n\n"), Verdict::Nothing),
        (Form::Events, format!(": data: {failure}\n\n"), Verdict::Nothing),
        (Form::Events, format!("\n\u{feff}data: {failure}\n\n"), Verdict::Nothing),
        // The event has not ended.
        (Form::Events, format!("data: {failure}\n"), Verdict::Nothing),
        (Form::Events, format!("data: {failure}"), Verdict::Nothing),
    ] {
        assert_eq!(verdict(form, &sent), expected, "{sent:?}");
    }
}

#[test]
fn a_cut_off_answer_is_no_failure_and_a_begun_result_is_a_success() {
    for (message, _) in MESSAGES {
        for at in (0..message.len()).filter(|at| message.is_char_boundary(*at)) {
            for (form, sent) in [
                (Form::Json, message[..at].to_owned()),
                (Form::Json, format!("[{}", &message[..at])),
                (Form::Events, format!("data: {}", &message[..at])),
            ] {
                let seen = verdict(form, &sent);
                assert!(!matches!(seen, Verdict::Failure | Verdict::Unfinished), "{sent}: {seen:?}");
            }
        }
    }
    for (begun, expected) in [
        (r#"{"id":7,"resu"#, Verdict::Nothing),
        (r#"{"id":7,"result":"#, Verdict::Nothing),
        (r#"{"id":7,"result":{"#, Verdict::Success),
        (r#"{"result":{"content":[{"text":"half"#, Verdict::Success),
        (r#"{"id":8,"result":{"content":["#, Verdict::Nothing),
        (r#"{"id":7,"error":{"code":1"#, Verdict::Nothing),
        (r#"{"id":7,"result":{"isError":true,"content":["#, Verdict::Unclear),
    ] {
        assert_eq!(verdict(Form::Json, begun), expected, "{begun}");
        assert_eq!(verdict(Form::Events, &format!("data: {begun}")), expected, "{begun}");
    }
}

#[test]
fn the_cost_is_that_of_the_one_answer() {
    let answer =
        |id: u32, cost: u32| format!(r#"{{"id":{id},"result":{{"_meta":{{"agentrelay/cost":{cost}}}}}}}"#);
    for (sent, cost) in [
        (answer(7, 3), Some(3)),
        (format!("[{},{}]", answer(8, 1), answer(7, 3)), Some(3)),
        (answer(8, 3), None),
        (format!("[{},{}]", answer(7, 1), answer(7, 3)), None),
        (r#"{"id":7,"result":{"_meta":{"agentrelay/cost":3},"content":["#.to_owned(), Some(3)),
    ] {
        assert_eq!(read(Form::Json, sent.as_bytes(), 3).cost(), cost, "{sent}");
    }
}

#[test]
fn a_stream_with_ids_can_be_resumed() {
    for (stream, is_resumable) in [
        ("id: 1\ndata: {}\n\n", true),
        ("data: {}\rid:1\r\r", true),
        ("id\r\n\r\n", true),
        ("data: id: 1\n\n: id: 1\n\nids: 1\n\n id: 1\n\n", false),
        ("", false),
    ] {
        assert_eq!(read(Form::Events, stream.as_bytes(), 2).is_resumable(), is_resumable, "{stream:?}");
    }
}

#[test]
fn the_form_follows_the_content_type_as_in_clients() {
    for (content_type, form) in [
        ("application/json", Some(Form::Json)),
        ("Application/JSON; charset=utf-8", Some(Form::Json)),
        ("text/json", Some(Form::Json)),
        ("application/json-rpc", Some(Form::Json)),
        ("application/vnd.x+json", Some(Form::Json)),
        ("text/event-stream;charset=utf-8", Some(Form::Events)),
        ("application/json,application/json; charset=utf-8", Some(Form::Json)),
        ("application/json, text/event-stream", None),
        ("text/plain", None),
        ("application/jsonp", None),
        ("", None),
    ] {
        assert_eq!(Form::of(content_type.as_bytes()), form, "{content_type}");
    }
}
