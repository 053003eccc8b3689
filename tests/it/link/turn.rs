//! The turn over a bare stream, both sides.

use std::io::Read;

use http::Response;
use reverse_http::link::{self, Offered};
use reverse_http::proto::dialect::Dialect;
use reverse_http::proto::turn::{OfferPlan, OfferRules};
use reverse_http::proto::verdict::Verdict;
use reverse_http::{Body, DeviceLink};

use super::{Script, Step, drip, limits, splits, vector};

fn plan() -> OfferPlan {
    OfferPlan::new("localhost:9999", "/", Dialect::classic_0_9())
}

const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: PTTH/0.9\r\nConnection: Upgrade\r\n\r\n";

fn turned(steps: Vec<Step>) -> DeviceLink<Script> {
    match link::offer(Script::new(steps).0, &plan(), limits()).unwrap() {
        Offered::Turned(link) => link,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_seeds_transcript_from_offer_to_answer_split_at_every_byte() {
    let bytes = [vector("seed-2-switch"), vector("seed-3-request")].concat();
    for steps in splits(&bytes).chain([drip(&bytes)]) {
        let mut link = turned(steps);
        let request = link.next_request().unwrap().expect("the request is there");
        assert_eq!((request.method().as_str(), request.uri().path()), ("GET", "/"));
        link.respond(Response::new(Body::from("!dlrow ,olleH\r\n"))).unwrap();
        assert!(link.next_request().unwrap().is_none(), "served exactly once");
    }
}

#[test]
fn the_offer_is_what_peers_compare_byte_for_byte() {
    let (script, seen) = Script::giving(SWITCH.as_bytes());
    assert!(matches!(link::offer(script, &plan(), limits()).unwrap(), Offered::Turned(_)));
    let text = seen.text();
    assert!(text.starts_with("POST / HTTP/1.1\r\nHost: localhost:9999\r\n"), "{text}");
    assert!(
        text.contains("\r\nUpgrade: PTTH/0.9\r\n")
            && text.contains("\r\nConnection: Upgrade\r\n")
            && text.contains("\r\nContent-Length: 0\r\n"),
        "{text}"
    );
}

#[test]
fn informational_answers_are_skipped_but_not_for_ever() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\n";
    turned(vec![Step::Give(format!("{}{SWITCH}", interim.repeat(8)).into())]);
    let (script, _) = Script::giving(format!("{}{SWITCH}", interim.repeat(9)).as_bytes());
    assert!(
        link::offer(script, &plan(), limits())
            .unwrap_err()
            .to_string()
            .contains("informational_max")
    );
}

#[test]
fn what_is_no_turn_is_handed_back_with_its_stream() {
    type Case = (&'static str, fn(&Verdict) -> bool, bool);
    let cases: [Case; 6] = [
        ("HTTP/1.1 204 No Content\r\n\r\n", |v| *v == Verdict::Nothing, true),
        ("HTTP/1.1 204 \r\nConnection: close\r\n\r\n", |v| *v == Verdict::Nothing, false),
        (
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
            |v| *v == Verdict::Refused(403),
            false,
        ),
        (
            "HTTP/1.1 503 x\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n",
            |v| matches!(v, Verdict::Later { status: 503, retry_after: Some(_) }),
            true,
        ),
        (
            "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            |v| matches!(v, Verdict::Wrong(_)),
            false,
        ),
        (
            "HTTP/1.1 307 x\r\nLocation: http://b/\r\nContent-Length: 0\r\n\r\n",
            |v| *v == Verdict::Redirect("http://b/".into()),
            true,
        ),
    ];
    for (answer, is_right, wanted) in cases {
        let (script, _) = Script::giving(answer.as_bytes());
        match link::offer(script, &plan(), limits()).unwrap() {
            Offered::Answered { verdict, reusable, unread, .. } => {
                assert!(is_right(&verdict), "{answer}: {verdict:?}");
                assert_eq!(reusable, wanted, "{answer}");
                assert_eq!(unread, if answer.ends_with("no") { &b"no"[..] } else { b"" });
            }
            Offered::Turned(_) => panic!("{answer}"),
            _ => unreachable!(),
        }
    }
}

#[test]
fn a_204_is_offered_again_on_the_same_stream() {
    let (script, seen) =
        Script::giving(format!("HTTP/1.1 204 No Content\r\n\r\n{}", "").as_bytes());
    let Offered::Answered { stream, reusable: true, .. } =
        link::offer(script, &plan(), limits()).unwrap()
    else {
        panic!()
    };
    drop(stream);
    let steps = [
        Step::Give(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        Step::WrittenTail(b"\r\n\r\n".to_vec()),
        Step::Give(SWITCH.into()),
    ];
    let (script, twice) = Script::new(steps);
    let Offered::Answered { stream, .. } = link::offer(script, &plan(), limits()).unwrap() else {
        panic!()
    };
    assert!(matches!(link::offer(stream, &plan(), limits()).unwrap(), Offered::Turned(_)));
    assert_eq!(twice.text(), seen.text().repeat(2));
}

#[test]
fn an_answer_that_is_cut_late_or_foreign_is_an_error() {
    for at in 0..SWITCH.len() {
        let (script, _) = Script::giving(&SWITCH.as_bytes()[..at]);
        assert!(link::offer(script, &plan(), limits()).unwrap_err().is_closed());
        let (script, _) =
            Script::new([Step::Give(SWITCH.as_bytes()[..at].to_vec()), Step::Timeout]);
        let error = link::offer(script, &plan(), limits()).unwrap_err();
        assert!(
            error.is_timeout()
                && error.to_string().contains(if at == 0 {
                    "offer_timeout"
                } else {
                    "head_timeout"
                }),
            "{error}"
        );
    }
    let (script, _) = Script::giving(b"\x15\x03\x03\x00\x02\x02\x46");
    assert!(link::offer(script, &plan(), limits()).unwrap_err().to_string().contains("TLS"));
}

#[test]
fn offers_of_every_sample_are_accepted_however_split() {
    for name in ["seed-1-offer", "draft-1-offer", "ietf-1-offer"] {
        let bytes = vector(name);
        for steps in splits(&bytes).chain([drip(&bytes)]) {
            let (script, seen) = Script::new(steps.into_iter().chain([Step::Give(Vec::new())]));
            let (link, offer) = link::accept(script, &OfferRules::default(), limits())
                .unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(!offer.names.is_empty());
            let text = seen.text();
            assert!(
                text.starts_with("HTTP/1.1 101 Switching Protocols\r\n")
                    && text.contains(&format!("Upgrade: {}\r\n", offer.token)),
                "{text}"
            );
            assert!(!text.contains("Content-Length") && text.ends_with("\r\n\r\n"));
            assert!(link.is_reusable());
        }
    }
}

#[test]
fn what_is_no_offer_is_refused_and_told_why() {
    let offer = vector("draft-1-offer");
    let with = |tail: &[u8]| [&offer[..], tail].concat();
    let bodied =
        String::from_utf8(offer.clone()).unwrap().replace("Content-Length: 0", "Content-Length: 2")
            + "hi";
    let cases: [(Vec<u8>, &str); 7] = [
        (with(b"HTTP/1.1 200 OK\r\n\r\n"), "400"),
        (with(b"x"), "400"),
        (vector("ietf-x-offer-without-http11"), "400"),
        (
            bodied.replace("hi", "").into_bytes(),
            if offer.windows(14).any(|w| w.eq_ignore_ascii_case(b"Content-Length")) {
                "400"
            } else {
                "101"
            },
        ),
        (b"POST /lamp HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".to_vec(), "426"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), "405"),
        (b"POST / HTTP/1.1\nHost: a\n\n".to_vec(), "400"),
    ];
    for (bytes, status) in cases {
        let (script, seen) = Script::giving(&bytes);
        let result = link::accept(script, &OfferRules::default(), limits());
        let text = seen.text();
        assert_eq!(
            text.split(' ').nth(1),
            Some(status),
            "{text} for {:?}",
            String::from_utf8_lossy(&bytes)
        );
        if status != "101" {
            assert!(result.unwrap_err().is_malformed());
            assert!(
                text.contains("Connection: close\r\n") && text.contains("text/plain"),
                "{text}"
            );
            assert_eq!(text.contains("Allow: POST\r\n"), status == "405");
            assert_eq!(text.contains("Upgrade: PTTH/1.0\r\n"), status == "426");
        }
    }
}

#[test]
fn a_gateway_can_look_at_the_credential_before_the_101() {
    let offer = b"POST /lamp HTTP/1.1\r\nHost: gw\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\nAuthorization: Bearer secret\r\n\r\n";
    let (script, seen) = Script::giving(offer);
    let offering = link::receive(script, &OfferRules::default(), limits()).unwrap();
    assert_eq!(seen.text(), "");
    let shown = format!("{offering:?}");
    assert!(!shown.contains("secret"), "{shown}");
    offering.refuse(&reverse_http::Refusal::new(401, "who are you?"));
    let text = seen.text();
    assert!(
        text.starts_with("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\n")
            && text.ends_with("\r\n\r\nwho are you?\n"),
        "{text}"
    );
}

#[test]
fn bytes_behind_the_101_are_in_the_parts_of_the_link() {
    let bytes = format!("{SWITCH}\x01\x02not http at all");
    for steps in splits(bytes.as_bytes()) {
        let (mut stream, mut unread) = turned(steps).into_parts();
        stream.read_to_end(&mut unread).unwrap();
        assert_eq!(unread, b"\x01\x02not http at all");
    }
}
