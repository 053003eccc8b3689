//! Request heads: every cut tells the same, what is accepted is what a slow and independent reading
//! of the lines finds, and it can be written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reverse_http::Limits;
use reverse_http::proto::body::{Framing, of_request};
use reverse_http::proto::forward::{destination, origin_form};
use reverse_http::proto::framed::FramedRequest;
use reverse_http::proto::head::{LineEnds, RequestHead, is_token, request};
use reverse_http::proto::head_writer::{write_field, write_request_line};
use reverse_http_fuzz::{
    all, check_fields, check_refusal, choices, cuts, limits, line_ends, pairs, same, split_lines,
    trim, wide,
};

fuzz_target!(|input: &[u8]| {
    let Some((bytes, [ends, head, fields])) = choices::<3>(input) else { return };
    let (limits, ends) = (limits([head, fields]), line_ends(ends));
    let whole = request(bytes, &limits, ends);
    every_cut_tells_the_same(bytes, &limits, ends, &whole);
    match whole {
        Ok(Some(head)) => {
            is_right(bytes, &head, &limits, ends);
            can_be_written_again(&head);
            framing_is_what_the_fields_say(&head);
            if let Ok(framed) = FramedRequest::of(head.clone()) {
                has_one_destination(&framed);
            }
            if ends == LineEnds::Crlf {
                let lax = request(bytes, &limits, LineEnds::CrlfOrLf)
                    .expect("what is right with CRLF is right where LF is allowed")
                    .unwrap();
                assert_eq!(
                    (lax.len, lax.method, lax.target, pairs(&lax.fields)),
                    (head.len, head.method, head.target, pairs(&head.fields))
                );
            }
        }
        Ok(None) => {
            assert!(bytes.len() < limits.head_bytes_max, "an endless head is refused at its bound")
        }
        Err(refusal) => check_refusal(&refusal, &[400, 414, 431, 501, 505]),
    }
});

fn every_cut_tells_the_same(
    bytes: &[u8],
    limits: &Limits,
    ends: LineEnds,
    whole: &Result<Option<RequestHead<'_>>, reverse_http::Refusal>,
) {
    for cut in cuts(bytes.len()) {
        match (request(&bytes[..cut], limits, ends), whole) {
            (Ok(None), Ok(Some(head))) => assert!(cut < head.len, "a whole head is not seen"),
            (Ok(None), _) => {}
            (Ok(Some(part)), Ok(Some(head))) => {
                assert!(cut >= head.len);
                assert_eq!(
                    (part.len, part.method, part.target, part.minor),
                    (head.len, head.method, head.target, head.minor)
                );
                assert_eq!(pairs(&part.fields), pairs(&head.fields));
            }
            (Err(_), Err(_)) => {}
            (part, whole) => panic!("cut at {cut}: {part:?}, and whole: {whole:?}"),
        }
    }
}

fn is_right(bytes: &[u8], head: &RequestHead<'_>, limits: &Limits, ends: LineEnds) {
    assert!(
        head.len <= limits.head_bytes_max
            && head.fields.len() <= limits.fields_max
            && head.target.len() <= limits.target_bytes_max
    );
    assert!(is_token(head.method.as_bytes()) && head.minor <= 1);
    assert!(!head.target.is_empty() && head.target.bytes().all(|byte| matches!(byte, 0x21..=0x7E)));
    check_fields(&head.fields);
    let own = &bytes[..head.len];
    let own = own.strip_prefix(b"\r\n").or_else(|| own.strip_prefix(b"\n")).unwrap_or(own);
    let line_end = own.iter().position(|byte| *byte == b'\n').expect("a head has lines") + 1;
    let line = format!("{} {} HTTP/1.{}", head.method, head.target, head.minor);
    assert_eq!(own[..line_end].trim_ascii_end(), line.as_bytes());
    let lines = split_lines(&own[line_end..], ends)
        .expect("a head ends with its empty line, and has no other");
    assert_eq!(
        lines,
        pairs(&head.fields)
            .into_iter()
            .map(|(name, value)| (name.into_bytes(), value))
            .collect::<Vec<_>>()
    );
}

fn can_be_written_again(head: &RequestHead<'_>) {
    let mut again = Vec::new();
    write_request_line(&mut again, head.method, head.target).expect("what was read can be written");
    for field in &head.fields {
        write_field(&mut again, field.name, field.value).expect("what was read can be written");
    }
    again.extend_from_slice(b"\r\n");
    let read =
        request(&again, &wide(), LineEnds::Crlf).expect("what was written can be read").unwrap();
    assert_eq!((read.method, read.target, read.len), (head.method, head.target, again.len()));
    assert_eq!(pairs(&read.fields), pairs(&head.fields));
}

fn framing_is_what_the_fields_say(head: &RequestHead<'_>) {
    let (lengths, codings) =
        (all(&head.fields, "content-length"), all(&head.fields, "transfer-encoding"));
    match of_request(head) {
        Ok(Framing::Length(length)) => {
            assert!(codings.is_empty() && length > 0 && length <= i64::MAX as u64);
            let members = lengths.iter().flat_map(|line| line.split(|byte| *byte == b','));
            assert!(members.map(trim).all(|digits| digits.iter().all(u8::is_ascii_digit)
                && std::str::from_utf8(digits).unwrap().parse() == Ok(length)));
        }
        Ok(Framing::Chunked) => {
            assert!(lengths.is_empty() && head.minor == 1);
            assert!(matches!(&codings[..], [only] if only.eq_ignore_ascii_case(b"chunked")));
        }
        Ok(Framing::Empty) => {
            assert!(
                codings.is_empty()
                    && lengths
                        .iter()
                        .all(|line| line.iter().all(|o| matches!(o, b'0' | b',' | b' ')))
            )
        }
        Ok(Framing::UntilClose) => panic!("no request ends with its connection"),
        Err(refusal) => check_refusal(&refusal, &[400, 501]),
    }
}

fn has_one_destination(head: &FramedRequest<'_>) {
    let found = match destination(head) {
        Ok(found) => found,
        Err(refusal) => return check_refusal(&refusal, &[400, 501]),
    };
    assert_eq!(origin_form(head), Ok(found.target));
    assert!(
        head.method != "CONNECT"
            && (found.target.starts_with('/') || (found.target == "*" && head.method == "OPTIONS"))
    );
    let path = found.target.split('?').next().unwrap_or_default();
    let decoded = path.to_ascii_lowercase().replace("%2e", ".");
    assert!(
        !decoded.split('/').any(|segment| segment == "." || segment == ".."),
        "a dot segment in {path}"
    );
    assert!(!path.contains('\\') && !found.target.contains('#') && !decoded.contains("%00"));
    assert!(!found.host.bytes().any(|byte| byte.is_ascii_uppercase() || b"@/, \t".contains(&byte)));
    let hosts = all(&head.fields, "host");
    assert!(hosts.len() == 1 || (head.minor == 0 && hosts.is_empty()));
    assert!(found.authority.to_ascii_lowercase().starts_with(&found.host));
    assert!(
        !head.fields.iter().any(|field| same(field.name, "host") && field.value.contains(&b'@'))
    );
}
