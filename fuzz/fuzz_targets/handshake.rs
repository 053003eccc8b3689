//! The turn: an offer cut anywhere is decided once and the same, what one side writes the other
//! understands, and nothing turns that is no right 101.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use reverse_http::proto::dialect::Dialect;
use reverse_http::proto::framed::FramedRequest;
use reverse_http::proto::head::{Fields, LineEnds, is_token, request, response};
use reverse_http::proto::turn::{
    Brought, Decision, Encoding, Name, OfferPlan, OfferRules, decide, ietf_target, write_offer,
    write_post, write_switch,
};
use reverse_http::proto::verdict::{Verdict, check};
use reverse_http_fuzz::{all, check_refusal, choices, same, wide};

/// An offer of ours, and what follows the 101.
#[derive(Arbitrary, Debug)]
struct Plan {
    authority: String,
    target: String,
    dialect: u8,
    custom: String,
    upgrade: bool,
    accept: Option<String>,
    session: Option<[u8; 16]>,
    fields: Vec<(String, String)>,
    brought: Option<(bool, String, Option<u64>)>,
    origins: Vec<String>,
    behind: Vec<u8>,
}

fuzz_target!(|input: &[u8]| {
    let Some((bytes, [mode])) = choices::<1>(input) else { return };
    match mode & 7 {
        0..=3 => asked(bytes, mode & 1 != 0, mode & 2 != 0),
        4 => answered(bytes, ["PTTH/1.0", "PTTH/0.9", "ptth", "x"][usize::from(mode >> 3 & 3)]),
        5 => String::from_utf8_lossy(bytes).lines().for_each(named),
        _ => {
            if let Ok(plan) = Plan::arbitrary(&mut Unstructured::new(bytes)) {
                ours(&plan);
            }
        }
    }
});

fn rules(missing_host: bool, strict: bool) -> OfferRules {
    let mut rules = OfferRules::default();
    (rules.missing_host, rules.strict_connection) = (missing_host, strict);
    rules
}

fn asked(bytes: &[u8], missing_host: bool, strict: bool) {
    let Ok(Some(head)) = request(bytes, &wide(), LineEnds::Crlf) else { return };
    let Ok(head) = FramedRequest::of(head) else { return };
    let rules = rules(missing_host, strict);
    let decided = decide(&head, &rules);
    let behind = [&bytes[..head.len], b"GET / HTTP/1.1\r\n\r\n"].concat();
    let again = request(&behind, &wide(), LineEnds::Crlf).unwrap().unwrap();
    let again = FramedRequest::of(again).expect("the framing is the head's");
    assert_eq!(decide(&again, &rules), decided, "what stands behind the offer is no part of it");
    for cut in head.len.saturating_sub(40)..head.len {
        assert!(
            matches!(request(&bytes[..cut], &wide(), LineEnds::Crlf), Ok(None)),
            "nothing is decided before the offer is whole"
        );
    }
    let offer = match decided {
        Ok(Decision::Turn(offer)) => {
            assert!(head.minor == 1 && !offer.is_poll());
            let row = &rules.dialects[offer.dialect];
            assert!(row.method.as_deref().is_none_or(|method| method == head.method));
            let offered = all(&head.fields, "upgrade").concat();
            assert!(
                offered.windows(offer.token.len()).any(|part| part == offer.token.as_bytes()),
                "the token is one that was offered"
            );
            assert!(
                !offer.token.to_ascii_lowercase().starts_with("h2")
                    && is_token(offer.token.replace('/', "").as_bytes())
            );
            assert!(
                !strict
                    || all(&head.fields, "connection")
                        .iter()
                        .any(|line| line.to_ascii_lowercase().windows(7).any(|w| w == b"upgrade"))
            );
            switched(&offer.token, row, b"");
            offer
        }
        Ok(Decision::Poll(offer)) => {
            assert!(offer.is_poll() && head.method == "POST");
            offer
        }
        Err(refusal) => return check_refusal(&refusal, &[400, 405]),
    };
    assert!(
        !offer.names.is_empty()
            && offer.target == head.target
            && offer.fields.0.len() == head.fields.len()
    );
    let hosts = all(&head.fields, "host");
    assert!(
        hosts.len() <= 1
            && (missing_host
                || head.minor == 0
                || matches!(&hosts[..], [host] if !host.is_empty()))
    );
    for name in &offer.names {
        is_name(name);
    }
    let masked = masked(bytes, &head.fields);
    let masked = request(&masked, &wide(), LineEnds::Crlf).unwrap().unwrap();
    let masked = FramedRequest::of(masked).expect("the framing is the head's");
    let Ok(Decision::Turn(other) | Decision::Poll(other)) = decide(&masked, &rules) else {
        panic!("credentials decide nothing about the shape of an offer")
    };
    assert_eq!(format!("{offer:?}"), format!("{other:?}"), "a credential in Debug");
}

/// The bytes of a head with other credentials of the same length.
fn masked(bytes: &[u8], fields: &Fields<'_>) -> Vec<u8> {
    const SECRETS: [&str; 6] = [
        "Authorization",
        "Proxy-Authorization",
        "PTTH-Authorization",
        "PTTH-Peer-Secret",
        "Cookie",
        "Set-Cookie",
    ];
    let mut masked = bytes.to_vec();
    let is_secret = |name: &str| SECRETS.iter().any(|secret| same(secret, name));
    for field in fields.iter().filter(|field| is_secret(field.name) && !field.value.is_empty()) {
        let at = field.value.as_ptr().addr() - bytes.as_ptr().addr();
        masked[at..at + field.value.len()].fill(b'x');
    }
    masked
}

fn is_name(name: &Name) {
    let text = name.to_string();
    let again = match name {
        Name::Label(label) => {
            assert!(
                (1..=63).contains(&label.len())
                    && label.bytes().all(|o| matches!(o, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            );
            Name::label(&text)
        }
        _ => Name::origin(&text),
    };
    assert_eq!(again.as_ref(), Ok(name), "a name that is written is read as the same");
}

fn named(text: &str) {
    if let Ok(name) = Name::label(text) {
        assert_eq!(name.to_string(), text);
        is_name(&name);
    }
    if let Ok(name) = Name::origin(text) {
        is_name(&name);
        assert!(
            !text.bytes().any(|byte| byte.is_ascii_uppercase() || byte == b'@' || byte <= b' ')
        );
    }
    if let Ok(dialect) = Dialect::custom(text) {
        assert_eq!(dialect.token, text);
        assert!(
            !["h2c", "h2", "http", "tls", "websocket"].contains(
                &text.split('/').next().unwrap_or_default().to_ascii_lowercase().as_str()
            )
        );
    }
}

/// A 101 for this offer turns the device, however it is cut, and leaves what follows alone.
fn switched(token: &str, row: &Dialect, behind: &[u8]) {
    let mut wire = Vec::new();
    write_switch(&mut wire, token, row);
    let len = wire.len();
    wire.extend_from_slice(behind);
    for cut in 0..len {
        assert!(
            matches!(response(&wire[..cut], &wide(), LineEnds::Crlf), Ok(None)),
            "a 101 cut at {cut}"
        );
    }
    let head = response(&wire, &wide(), LineEnds::Crlf)
        .expect("a 101 of ours is right")
        .expect("and whole");
    assert_eq!((head.len, head.status), (len, 101));
    assert!(
        all(&head.fields, "content-length").is_empty()
            && all(&head.fields, "transfer-encoding").is_empty()
    );
    assert_eq!(check(&head, token), Verdict::Turned { warning: None });
}

fn answered(bytes: &[u8], token: &str) {
    let Ok(Some(head)) = response(bytes, &wide(), LineEnds::CrlfOrLf) else { return };
    let verdict = check(&head, token);
    match &verdict {
        Verdict::Turned { .. } => {
            assert!(head.status == 101 && head.minor == 1);
            let name = token.split('/').next().unwrap_or_default().to_ascii_lowercase();
            let upgrade = String::from_utf8_lossy(&all(&head.fields, "upgrade").join(&b","[..]))
                .to_ascii_lowercase();
            assert!(
                upgrade.split(',').any(|member| member.trim().split('/').next() == Some(&name))
            );
        }
        Verdict::Informational => assert!((100..200).contains(&head.status) && head.status != 101),
        Verdict::Nothing => assert_eq!(head.status, 204),
        Verdict::FellBack(_) => assert!(matches!(head.status, 200 | 204)),
        Verdict::Redirect(location) => {
            assert!(
                matches!(head.status, 307 | 308)
                    && !location.is_empty()
                    && !location.contains(['\r', '\n', '\0'])
            );
        }
        Verdict::Refused(status) => assert_eq!(*status, head.status),
        Verdict::Later { status, retry_after } => {
            assert!(
                *status == head.status && retry_after.is_none_or(|time| time.as_secs() <= 3600)
            );
        }
        Verdict::NoTurn(status) => assert!(*status == head.status && *status != 101),
        Verdict::Wrong(sentence) => assert!(
            !sentence.contains(['\r', '\n', '\0', '\x1b']),
            "a log line has no control characters"
        ),
    }
    assert_eq!(check(&head, token), verdict);
}

fn ours(plan: &Plan) {
    let dialect = match plan.dialect & 3 {
        0 => Dialect::classic(),
        1 => Dialect::classic_0_9(),
        2 => Dialect::ietf(),
        _ => Dialect::custom(&plan.custom).unwrap_or(Dialect::classic()),
    };
    let origins: Vec<Name> =
        plan.origins.iter().filter_map(|text| Name::origin(text).ok()).collect();
    let target = if origins.is_empty() { plan.target.clone() } else { ietf_target(&origins) };
    let mut offered = OfferPlan::new(&plan.authority, &target, dialect.clone());
    (offered.upgrade, offered.session) = (plan.upgrade, plan.session);
    offered.accept = plan.accept.clone().map(Into::into);
    offered.fields = plan.fields.clone();
    let mut wire = b"before".to_vec();
    let wrote = match &plan.brought {
        None => write_offer(&mut wire, &offered),
        Some((json, id, length)) => {
            let encoding = if *json { Encoding::Json } else { Encoding::Message };
            write_post(&mut wire, &offered, Some(&Brought { encoding, id, length: *length }))
        }
    };
    if wrote.is_err() {
        return assert_eq!(wire, b"before", "what cannot be written leaves nothing behind");
    }
    let wire = &wire[6..];
    let head = request(wire, &wide(), LineEnds::Crlf)
        .expect("what we write can be read")
        .expect("and is whole");
    assert_eq!((head.len, head.target), (wire.len(), &target[..]), "nothing splits an offer");
    assert!(
        all(&head.fields, "upgrade").len() <= 1
            && all(&head.fields, "host").len() == 1
            && all(&head.fields, "content-length").len() <= 1
    );
    let head = match FramedRequest::of(head) {
        Ok(head) => head,
        Err(refusal) => return check_refusal(&refusal, &[400]), // an answer of more than 2^63-1 bytes
    };
    let mut rules = rules(false, true);
    rules.dialects.push(dialect.clone());
    match decide(&head, &rules) {
        Ok(Decision::Turn(offer)) => {
            assert!(plan.upgrade && offer.token == dialect.token && offer.session == plan.session);
            if !origins.is_empty() && dialect == Dialect::ietf() {
                let mut expected = origins;
                expected.sort();
                expected.dedup();
                assert_eq!(offer.names, expected, "all origins are registered, each once");
            }
            switched(&offer.token, &rules.dialects[offer.dialect], &plan.behind);
        }
        Ok(Decision::Poll(offer)) => assert!(!plan.upgrade && offer.session == plan.session),
        Err(refusal) => check_refusal(&refusal, &[400]),
    }
}
