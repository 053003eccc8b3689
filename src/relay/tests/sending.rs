//! Exchanges whose request is on its way, and no head of a response is here.

use super::*;
use crate::engine::budget::Budget;

const GET: &str = "GET /a HTTP/1.1\r\nHost: lamp\r\n\r\n";
const POST: &str = "POST /a HTTP/1.1\r\nHost: lamp\r\nContent-Length: 5\r\n\r\n";

#[test]
fn head_and_body_go_on_as_they_come() {
    let mut scene = Scene::new(&format!("{POST}he"));
    scene.attach();
    assert_eq!(scene.server_reads(), format!("{POST}he"));
    scene.client_sends("llo");
    assert_eq!((scene.server_reads().as_str(), scene.told().as_str()), ("llo", ""));
}

#[test]
fn chunks_are_framed_anew_and_extensions_dropped() {
    let head = "PUT /a HTTP/1.1\r\nHost: lamp\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut scene = Scene::new(&format!("{head}5;x=y\r\nhello\r\n0\r\n\r\n"));
    scene.attach();
    assert_eq!(scene.server_reads(), format!("{head}5\r\nhello\r\n0\r\n\r\n"));
}

#[test]
fn a_server_that_ends_before_it_answers_costs_one_retry_of_what_is_idempotent() {
    for end in [Scene::server_ends, Scene::server_resets] {
        let mut scene = Scene::sent(GET);
        end(&mut scene);
        let told = scene.told();
        assert!(
            told.starts_with("the link ends: ") && told.ends_with("; find another link"),
            "{told}"
        );
        assert!(scene.exchange().unwrap().is_retried() && scene.exchange().unwrap().is_waiting());
        scene.attach();
        assert_eq!(scene.server_reads(), GET, "it is sent again");
        end(&mut scene);
        let told = scene.told();
        assert!(told.contains("answer 502, keep: the server "), "{told}");
        assert!(scene.is_over());
    }
}

#[test]
fn what_is_not_idempotent_or_has_moved_a_body_is_not_sent_again() {
    let put = "PUT /a HTTP/1.1\r\nHost: lamp\r\nContent-Length: 5\r\n\r\nhe";
    for request in ["POST /a HTTP/1.1\r\nHost: lamp\r\n\r\n", put] {
        let mut scene = Scene::sent(request);
        scene.server_ends();
        assert!(scene.told().contains("answer 502"), "{request}");
    }
}

#[test]
fn a_byte_of_a_response_forbids_the_retry_and_a_stray_line_end_does_not() {
    let mut scene = Scene::sent(GET);
    scene.server_sends("HTTP/1.1 2");
    scene.server_ends();
    assert!(scene.told().contains("answer 502"));

    let mut scene = Scene::sent(GET);
    scene.server_sends("\r\n");
    scene.server_ends();
    assert!(scene.told().contains("find another link"));
}

#[test]
fn a_client_that_leaves_costs_no_link_unless_a_byte_of_its_request_went_out() {
    for (waits, told) in [
        (0, "close the client; the link ends: its caller gave up half-way"),
        (100_000, "close the client; the link is free"),
    ] {
        let mut scene = Scene::new(POST);
        scene.attach_behind(&"x".repeat(waits));
        scene.client_ends();
        assert_eq!(scene.told(), told);
    }
}

#[test]
fn malformed_chunks_are_400_and_end_the_link() {
    let head = "POST /a HTTP/1.1\r\nHost: lamp\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut scene = Scene::sent(&format!("{head}2\r\nhe\r\n"));
    scene.client_sends("zz\r\n");
    let told = scene.told();
    assert!(told.contains("the link ends") && told.contains("answer 400: "), "{told}");
}

#[test]
fn each_silence_has_its_status_and_its_name() {
    let full = "x".repeat(100_000);
    for (request, first, told) in [
        (
            GET,
            "",
            "answer 504, keep: the server did not begin its response within 2 s (first_byte_timeout)",
        ),
        (
            GET,
            full.as_str(),
            "answer 504, keep: the server took nothing of the request for 3 s (request_write_timeout)",
        ),
        (
            POST,
            "",
            "answer 408: nothing of the request's body arrived for 4 s (body_silence_timeout)",
        ),
    ] {
        let mut scene = Scene::with_limits(request, |limits| {
            limits.first_byte_timeout = Duration::from_secs(2);
            limits.request_write_timeout = Duration::from_secs(3);
            limits.body_silence_timeout = Duration::from_secs(4);
        });
        scene.attach_behind(first);
        scene.pass(1);
        assert_eq!(scene.told(), "");
        scene.pass(4);
        let ends = scene.told();
        assert!(ends.ends_with(told), "{ends}");
    }
}

#[test]
fn a_head_that_drips_in_is_not_waited_for_longer_than_silence() {
    let mut scene =
        Scene::with_limits(GET, |limits| limits.first_byte_timeout = Duration::from_secs(2));
    scene.attach();
    for byte in "HTTP/1.1".chars() {
        if scene.is_over() {
            break;
        }
        scene.server_sends(&byte.to_string());
        scene.pass(1);
    }
    assert!(scene.told().contains(
        "answer 504, keep: the server began its response, and its head was not whole within 2 s"
    ));
}

#[test]
fn an_upload_slower_than_the_least_rate_goes_on_until_others_wait() {
    let mut scene = Scene::with_limits(POST, |limits| {
        limits.min_rate_bytes_per_s = 1000;
        limits.min_rate_window = Duration::from_secs(2);
    });
    scene.attach();
    scene.client_sends("h");
    scene.pass(5);
    assert_eq!(scene.told(), "");
    scene.event_loop.role.callers_wait = true;
    scene.pass(5);
    let told = scene.told();
    assert!(told.contains("answer 408: the request's body came slower"), "{told}");
}

/// Another gateway may not have the device: what it got of the body is kept until it answers.
#[test]
fn a_body_is_kept_for_the_next_gateway_until_an_answer_begins() {
    const MARK: &str = "PTTH-Peer-Served: 1\r\n";
    let budget = Budget::new(1 << 20);
    let mut scene = Scene::new(&format!("{POST}he"));
    let hop = |scene: &mut Scene| {
        scene.exchange().unwrap().begins_hop(Duration::from_secs(1), budget.share());
        scene.attach();
    };
    hop(&mut scene);
    assert_eq!(scene.server_reads(), format!("{POST}he"));
    scene.server_sends(&format!(
        "HTTP/1.1 404 Not Found\r\n{MARK}PTTH-Peer-Miss: unknown\r\nContent-Length: 0\r\n\r\n"
    ));
    assert!(scene.told().ends_with("find another link"));
    assert!(scene.exchange().unwrap().is_unspent() && budget.taken() >= 2);
    hop(&mut scene);
    assert_eq!(scene.server_reads(), format!("{POST}he"));
    scene.client_sends("llo");
    assert_eq!(scene.server_reads(), "llo");
    assert!(budget.taken() >= 5);
    scene.server_sends(&format!("HTTP/1.1 200 OK\r\n{MARK}Content-Length: 100\r\n\r\n"));
    assert!(scene.client_reads().contains("200 OK"));
    assert_eq!(budget.taken(), 0, "the answer may take long");
}
