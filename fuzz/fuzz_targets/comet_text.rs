//! Events and answers in `message/http`: an event is exactly one request, an answer's start is the
//! same however it is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reverse_http::proto::body::{Framing, of_request, of_response};
use reverse_http::proto::comet::{
    answer_length, answer_start, event_from_text, id_of, write_request,
};
use reverse_http::proto::head::{LineEnds, request, response};
use reverse_http_fuzz::{End, all, check_refusal, choices, cuts, decode, limits, pairs, wide};

fuzz_target!(|input: &[u8]| {
    let Some((bytes, [mode, head, fields])) = choices::<3>(input) else { return };
    let limits = limits([head, fields]);
    if mode & 1 == 0 { event(bytes, &limits) } else { answer(bytes, mode & 2 != 0, &limits) }
});

fn event(bytes: &[u8], limits: &reverse_http::Limits) {
    let event = match event_from_text("id", bytes.to_vec(), limits) {
        Ok(event) => event,
        Err(refusal) => return check_refusal(&refusal, &[400, 414, 431, 501, 505]),
    };
    assert_eq!(event.text, bytes);
    let head = request(bytes, limits, LineEnds::Crlf).unwrap().unwrap();
    let framing = of_request(&head).unwrap();
    assert_ne!(framing, Framing::UntilClose);
    let body = decode(framing, limits, [&bytes[head.len..]].into_iter());
    assert_eq!(
        body.end,
        End::Whole(bytes.len() - head.len),
        "an event is one request and nothing else"
    );
    for cut in cuts(bytes.len()) {
        assert!(
            cut == bytes.len() || event_from_text("id", bytes[..cut].to_vec(), limits).is_err(),
            "cut at {cut} it is whole"
        );
    }
    assert!(event_from_text("id", [bytes, b"x"].concat(), limits).is_err());
    if let Ok(Some(id)) = id_of(&head.fields) {
        assert!((1..=256).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()));
    }
    // Written anew it means the same.
    let mut text = Vec::new();
    write_request(&mut text, &head, &body.data, &body.trailers)
        .expect("what was read can be written");
    let again =
        event_from_text("id", text.clone(), &wide()).expect("what was written is one request");
    let back = request(&again.text, &wide(), LineEnds::Crlf).unwrap().unwrap();
    assert_eq!((back.method, back.target), (head.method, head.target));
    let left = |name: &str| {
        ["content-length", "transfer-encoding", "expect"]
            .iter()
            .any(|left| name.eq_ignore_ascii_case(left))
    };
    let kept = |pairs: Vec<(String, Vec<u8>)>| {
        pairs.into_iter().filter(|(name, _)| !left(name)).collect::<Vec<_>>()
    };
    assert_eq!(kept(pairs(&back.fields)), kept(pairs(&head.fields)));
    let back = decode(of_request(&back).unwrap(), &wide(), [&again.text[back.len..]].into_iter());
    assert_eq!((back.data, back.trailers), (body.data, body.trailers));
}

fn answer(bytes: &[u8], is_head: bool, limits: &reverse_http::Limits) {
    let whole = answer_start(bytes, is_head, limits);
    for cut in cuts(bytes.len()) {
        match (answer_start(&bytes[..cut], is_head, limits), &whole) {
            (Ok(None), _) => {}
            (Ok(found), Ok(start)) => assert_eq!(found, *start, "cut at {cut}"),
            (Err(_), Err(_)) => {}
            (part, whole) => panic!("cut at {cut}: {part:?}, and whole: {whole:?}"),
        }
    }
    let start = match whole {
        Ok(Some(start)) => start,
        Ok(None) => return,
        Err(refusal) => return check_refusal(&refusal, &[400]),
    };
    let head = response(&bytes[start..], limits, LineEnds::CrlfOrLf).unwrap().unwrap();
    assert!(head.status >= 200, "an answer is final");
    let framing = of_response(&head, if is_head { "HEAD" } else { "GET" }).unwrap();
    assert_ne!(framing, Framing::UntilClose);
    match (answer_length(&bytes[start..], is_head, limits), framing) {
        (Some(length), Framing::Length(body)) => assert_eq!(length, head.len as u64 + body),
        (Some(length), Framing::Empty) => assert_eq!(length, head.len as u64),
        (None, Framing::Chunked) => assert_eq!(all(&head.fields, "transfer-encoding").len(), 1),
        other => panic!("{other:?}"),
    }
}
