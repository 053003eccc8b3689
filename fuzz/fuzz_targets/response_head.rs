//! Response heads: every cut tells the same, what is accepted is what a slow and independent
//! reading of the lines finds, and framing obeys the status.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reverse_http::proto::body::{Framing, of_response};
use reverse_http::proto::head::{LineEnds, response};
use reverse_http::proto::head_writer::{write_field, write_status_line};
use reverse_http_fuzz::{
    all, check_fields, check_refusal, choices, cuts, limits, line_ends, pairs, split_lines, wide,
};

fuzz_target!(|input: &[u8]| {
    let Some((bytes, [ends, head_max, fields_max])) = choices::<3>(input) else { return };
    let (limits, ends) = (limits([head_max, fields_max]), line_ends(ends));
    let whole = response(bytes, &limits, ends);
    for cut in cuts(bytes.len()) {
        match (response(&bytes[..cut], &limits, ends), &whole) {
            (Ok(None), Ok(Some(head))) => assert!(cut < head.len, "a whole head is not seen"),
            (Ok(None), _) | (Err(_), Err(_)) => {}
            (Ok(Some(part)), Ok(Some(head))) => {
                assert!(cut >= head.len);
                assert_eq!(
                    (part.len, part.status, part.reason, part.minor),
                    (head.len, head.status, head.reason, head.minor)
                );
                assert_eq!(pairs(&part.fields), pairs(&head.fields));
            }
            (part, whole) => panic!("cut at {cut}: {part:?}, and whole: {whole:?}"),
        }
    }
    let head = match &whole {
        Ok(Some(head)) => head,
        Ok(None) => return assert!(bytes.len() < limits.head_bytes_max),
        Err(refusal) => return check_refusal(refusal, &[502]),
    };
    assert!(head.len <= limits.head_bytes_max && head.fields.len() <= limits.fields_max);
    assert!((100..=999).contains(&head.status) && head.minor <= 1);
    assert!(!head.reason.iter().any(|byte| matches!(byte, 0..=8 | 10..=31 | 127)));
    check_fields(&head.fields);
    let own = &bytes[..head.len];
    let line_end = own.iter().position(|byte| *byte == b'\n').expect("a head has lines") + 1;
    let line = own[..line_end].strip_suffix(b"\r\n").unwrap_or(&own[..line_end - 1]);
    let mut expected = format!("HTTP/1.{} {:03}", head.minor, head.status).into_bytes();
    if line.len() > expected.len() {
        expected.push(b' ');
        expected.extend_from_slice(head.reason);
    }
    assert_eq!(line, expected);
    let lines = split_lines(&own[line_end..], ends)
        .expect("a head ends with its empty line, and has no other");
    assert_eq!(
        lines,
        pairs(&head.fields)
            .into_iter()
            .map(|(name, value)| (name.into_bytes(), value))
            .collect::<Vec<_>>()
    );

    let mut again = Vec::new();
    write_status_line(&mut again, head.status, head.reason).expect("what was read can be written");
    for field in &head.fields {
        write_field(&mut again, field.name, field.value).expect("what was read can be written");
    }
    again.extend_from_slice(b"\r\n");
    let read =
        response(&again, &wide(), LineEnds::Crlf).expect("what was written can be read").unwrap();
    assert_eq!(
        (read.status, read.reason, pairs(&read.fields)),
        (head.status, head.reason, pairs(&head.fields))
    );

    for method in ["GET", "HEAD"] {
        let bodiless = method == "HEAD" || matches!(head.status, 100..=199 | 204 | 304);
        match of_response(head, method) {
            Ok(Framing::Empty) => {
                assert!(bodiless || !all(&head.fields, "content-length").is_empty())
            }
            Ok(Framing::Length(length)) => {
                assert!(!bodiless && length > 0 && length <= i64::MAX as u64)
            }
            Ok(Framing::Chunked) => {
                assert!(
                    !bodiless
                        && head.minor == 1
                        && all(&head.fields, "transfer-encoding").len() == 1
                );
                assert!(all(&head.fields, "content-length").is_empty());
            }
            Ok(Framing::UntilClose) => {
                assert!(
                    !bodiless
                        && all(&head.fields, "content-length").is_empty()
                        && all(&head.fields, "transfer-encoding").is_empty()
                );
            }
            Err(refusal) => check_refusal(&refusal, &[502]),
        }
    }
});
