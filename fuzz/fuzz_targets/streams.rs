//! Several requests in a row, as they come over a link: where one ends and what it means does not
//! depend on what is recognised in its head (T47). A heartbeat is a message without a body, for
//! milo, too; one with a body is refused, whatever the body looks like.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reverse_http::Limits;
use reverse_http::proto::body::{Framing, last_chunk, open_chunk};
use reverse_http::proto::framed::FramedRequest;
use reverse_http::proto::head::{LineEnds, request};
use reverse_http::proto::heartbeat::{REQUEST, recognise};
use reverse_http_fuzz::oracle;
use reverse_http_fuzz::{End, Pieces, choices, decode};

fuzz_target!(|input: &[u8]| {
    let Some((bytes, [low, high])) = choices::<2>(input) else { return };
    let seed = u16::from_le_bytes([low, high]);
    let ends = boundaries(bytes, seed);
    // A heartbeat before them all moves the boundaries, and changes none.
    let behind = boundaries(&[REQUEST, bytes].concat(), seed);
    assert_eq!(behind.first(), Some(&REQUEST.len()), "a heartbeat ends where its head does");
    let moved: Vec<usize> = ends.iter().map(|end| end + REQUEST.len()).collect();
    assert_eq!(behind[1..], moved, "what stands behind a heartbeat");
    if !bytes.is_empty() {
        no_heartbeat_has_a_body(bytes);
    }
});

/// Where each message ends, to the first that is malformed, not whole, or ends its connection.
fn boundaries(bytes: &[u8], seed: u16) -> Vec<usize> {
    let limits = Limits::default();
    let (mut ends, mut at) = (Vec::new(), 0);
    while let Ok(Some(head)) = request(&bytes[at..], &limits, LineEnds::Crlf) {
        let len = head.len;
        let Ok(head) = FramedRequest::of(head) else { break };
        let recognised = recognise(&head);
        let own = request(&bytes[at..at + len], &limits, LineEnds::Crlf)
            .expect("a head is one by itself")
            .expect("and whole");
        let own = FramedRequest::of(own).expect("the framing is the head's");
        assert_eq!(
            recognise(&own).ok(),
            recognised.as_ref().ok().copied(),
            "what stands behind a head is no part of what it means"
        );
        match recognised {
            Ok(Some(_)) => assert_eq!(head.framing(), Framing::Empty, "a heartbeat has no body"),
            Ok(None) => {}
            Err(refusal) => {
                assert_eq!((refusal.status, head.method, head.target), (400, "OPTIONS", "*"));
                assert_ne!(head.framing(), Framing::Empty);
                break;
            }
        }
        let body = decode(head.framing(), &limits, Pieces::of(&bytes[at + len..], seed));
        let End::Whole(used) = body.end else { break };
        // Of chunk extensions milo has its own opinion; what it does not take at all is the target
        // `differential`'s business.
        let chunked =
            head.framing() == Framing::Chunked && bytes[at + len..at + len + used].contains(&b';');
        let theirs = oracle::request(&bytes[at..]);
        if !chunked && theirs.error.is_none() && !theirs.tunnel {
            assert_eq!(
                (theirs.end, &theirs.body),
                (Some(len + used), &body.data),
                "milo sees the message end elsewhere: {head:?}"
            );
        }
        at += len + used;
        ends.push(at);
    }
    ends
}

/// Whatever is sent as its body, and in either framing.
fn no_heartbeat_has_a_body(body: &[u8]) {
    let mut chunked = b"OPTIONS * HTTP/1.1\r\nHost:\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    open_chunk(&mut chunked, body.len());
    chunked.extend_from_slice(body);
    chunked.extend_from_slice(b"\r\n");
    last_chunk(&mut chunked, &[]).expect("no trailers can be written");
    let mut plain =
        format!("OPTIONS * HTTP/1.1\r\nHost:\r\nContent-Length: {}\r\n\r\n", body.len())
            .into_bytes();
    plain.extend_from_slice(body);
    for bytes in [plain, chunked] {
        let head = request(&bytes, &Limits::default(), LineEnds::Crlf)
            .expect("it is right")
            .expect("and whole");
        let head = FramedRequest::of(head).expect("its end is told");
        assert!(recognise(&head).is_err(), "the body would be read as the next request");
        assert!(boundaries(&bytes, 0).is_empty(), "nothing is read behind it");
    }
}
