//! Exchanges whose response is on its way.

use super::*;

const GET: &str = "GET /a HTTP/1.1\r\nHost: lamp\r\n\r\n";
const POST: &str = "POST /a HTTP/1.1\r\nHost: lamp\r\nContent-Length: 5\r\n\r\n";

#[test]
fn a_response_in_pieces_of_every_length_arrives_whole_and_leaves_the_link_free() {
    let response = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    for at in 1..response.len() {
        let mut scene = Scene::sent(GET);
        scene.server_sends(&response[..at]);
        scene.server_sends(&response[at..]);
        assert!(scene.client_reads().ends_with("\r\n\r\nhello"), "cut at {at}");
        assert_eq!(scene.told(), "the link is free; next request", "cut at {at}");
        assert!(scene.is_over());
    }
}

#[test]
fn each_client_gets_the_framing_that_it_reads() {
    let old = "GET /a HTTP/1.0\r\nHost: lamp\r\n\r\n";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let mut scene = Scene::sent(old);
    scene.server_sends(chunked);
    let got = scene.client_reads();
    assert!(got.ends_with("\r\n\r\nhello<end>") && !got.contains("chunked"), "{got}");
    assert_eq!(scene.told(), "the link is free; last response");

    let mut scene = Scene::sent(GET);
    scene.server_sends("HTTP/1.1 200 OK\r\n\r\nhello");
    scene.server_ends();
    let got = scene.client_reads();
    assert!(got.ends_with("5\r\nhello\r\n0\r\n\r\n") && got.contains("chunked"), "{got}");
    assert_eq!(scene.told(), "the link ends: its response said so; next request");
}

#[test]
fn interim_responses_pass_to_a_bound_and_never_to_http_1_0() {
    let mut scene = Scene::sent(GET);
    scene.server_sends("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    assert!(scene.client_reads().starts_with("HTTP/1.1 103 "));
    let most = Limits::default().informational_max;
    for _ in 0..most {
        scene.server_sends("HTTP/1.1 102 Processing\r\n\r\n");
    }
    let told = scene.told();
    assert!(told.contains("the server sent more interim responses"), "{told}");
    assert!(scene.is_over());

    let mut scene = Scene::sent("GET /a HTTP/1.0\r\nHost: lamp\r\n\r\n");
    scene.server_sends("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n");
    assert!(scene.client_reads().starts_with("HTTP/1.1 204 "));
}

#[test]
fn what_the_link_is_good_for_is_said_in_words() {
    for (response, told) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            "its response said so",
        ),
        ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", "its response said so"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1",
            "bytes came after a complete response",
        ),
    ] {
        let mut scene = Scene::sent(GET);
        scene.server_sends(response);
        assert_eq!(scene.told(), format!("the link ends: {told}; next request"), "{response:?}");
    }
    let mut scene = Scene::sent(GET);
    scene.server_sends("HTTP/1.1 204 No Content\r\n\r\n\r\n");
    assert_eq!(scene.told(), "the link is free; next request", "a stray line end is nothing");
}

#[test]
fn an_early_response_ends_the_link_of_a_server_that_may_not_read_on() {
    let early = "HTTP/1.1 413 Too Long\r\nContent-Length: 0\r\n\r\n";
    let mut scene = Scene::sent(&format!("{POST}he"));
    scene.server_sends(early);
    assert_eq!(scene.told(), "the link ends: it answered before it had the whole request");
    scene.client_sends("llo");
    assert_eq!(scene.told(), "next request", "the short rest is read and dropped");

    let mut scene = Scene::sent(&format!("{POST}he"));
    scene.exchange().unwrap().upstream_reads_on(true);
    scene.server_sends(early);
    assert_eq!(scene.told(), "", "the rest still goes up");
    scene.client_sends("llo");
    assert_eq!(scene.server_reads(), "llo");
    assert_eq!(scene.told(), "the link is free; next request");
}

#[test]
fn a_rest_that_does_not_come_ends_the_clients_connection_and_no_more() {
    let mut scene = Scene::sent(&format!("{POST}he"));
    scene.server_sends("HTTP/1.1 413 Too Long\r\nContent-Length: 0\r\n\r\n");
    scene.told();
    scene.pass(Limits::default().abandoned_timeout.as_secs() + 1);
    assert_eq!(scene.told(), "last response");
}

/// Once the rest has come, or is given up, the response is a client's to take at its own pace.
#[test]
fn a_slow_reader_of_an_early_response_gets_it_whole() {
    const LONG: usize = 100_000;
    for comes in [true, false] {
        let mut scene = Scene::sent(&format!("{POST}he"));
        // More than the client's socket holds.
        scene.server_sends(&format!("HTTP/1.1 413 Too Long\r\nContent-Length: {LONG}\r\n\r\n"));
        for _ in 0..2 {
            scene.server_sends(&"x".repeat(LONG / 2));
        }
        if comes {
            scene.client_sends("llo");
        }
        scene.pass(3 * Limits::default().abandoned_timeout.as_secs());
        let got: String = (0..100).map(|_| scene.client_reads()).collect();
        assert_eq!(got.matches("xx").count(), LONG / 2);
        assert!(!scene.told().contains("cut"), "comes: {comes}");
    }
}

#[test]
fn a_response_that_is_cut_is_cut_for_the_client() {
    let mut scene = Scene::sent(GET);
    scene.server_sends("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel");
    scene.server_ends();
    let told = scene.told();
    assert!(
        told.starts_with("close the client; the link ends: closed the connection in the middle"),
        "{told}"
    );

    let mut scene = Scene::sent("GET /a HTTP/1.0\r\nHost: lamp\r\n\r\n");
    scene.server_sends("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel");
    scene.server_ends();
    assert!(scene.told().starts_with("reset the client"), "an end would look like the body's");
}

#[test]
fn malformed_responses_are_502_before_their_head_and_a_cut_behind_it() {
    let mut scene = Scene::sent(GET);
    scene.server_sends("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n");
    assert!(scene.told().contains("answer 502"));
    let mut scene = Scene::sent(GET);
    scene.server_sends("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n");
    assert!(scene.told().starts_with("close the client"));
}

#[test]
fn nothing_is_read_ahead_of_a_client_that_does_not_read() {
    let mut scene = Scene::sent(GET);
    scene.server_sends("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
    let (piece, mut taken) = ("x".repeat(16 * 1024), 0);
    while scene.server.as_ref().unwrap().write(piece.as_bytes()).is_ok() {
        taken += piece.len();
        scene.run_until_still();
        assert!(taken < 900_000, "somebody reads without end");
    }
    let waiting = scene.event_loop.connections.get(scene.downstream).unwrap().pending();
    assert!(waiting <= Limits::default().read_ahead_bytes_max + piece.len() * 16, "{waiting}");
    assert!(scene.client_reads().len() > 1000, "and it goes on when it reads");
}

const WHOLE_HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";

#[test]
fn a_post_brings_the_response_in_its_body_and_no_more_or_less() {
    let whole = WHOLE_HEAD.len() as u64 + 5;
    let mut scene = Scene::new(GET);
    scene.attach_post(whole, WHOLE_HEAD);
    scene.server_sends("hel");
    scene.server_sends("lo");
    assert!(scene.client_reads().ends_with("\r\n\r\nhello"));
    assert_eq!(scene.told(), "the link is free; next request");

    for (length, body, told) in [(whole - 1, "hell", "fewer"), (whole + 1, "hello!", "more")] {
        let mut scene = Scene::new(GET);
        scene.attach_post(length, WHOLE_HEAD);
        scene.server_sends(body);
        let got = scene.told();
        assert!(got.contains(&format!("posted {told} bytes")), "{length}: {got}");
    }
}

#[test]
fn a_post_is_never_free_half_way() {
    let mut scene = Scene::sent(GET);
    scene.server_ends(); // the first try, on a link
    assert!(scene.told().contains("find another link"));
    scene.attach_post(WHOLE_HEAD.len() as u64 + 5, WHOLE_HEAD);
    scene.server_sends("hel");
    assert!(scene.client_reads().ends_with("hel"));
    scene.server_resets();
    let told = scene.told();
    assert!(told.contains("the link ends: lost the connection in the middle"), "{told}");

    let mut scene = Scene::with_limits(GET, |limits| limits.drain_bytes_max = 1);
    scene.attach();
    scene.server_ends();
    scene.told();
    scene.attach_post(WHOLE_HEAD.len() as u64 + 5, WHOLE_HEAD);
    scene.client_resets();
    assert_eq!(scene.told(), "close the client; the link ends: its caller gave up half-way");
}
