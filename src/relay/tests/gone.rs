//! Exchanges whose response has no receiver: probes, and those whose client has gone.

use super::*;
use crate::observe::table::Bounds;
use crate::observe::{Observer, Visit};

const GET: &str = "GET /a HTTP/1.1\r\nHost: lamp\r\n\r\n";

#[test]
fn a_probe_takes_any_response_as_a_sign_of_life() {
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    ] {
        let mut scene = Scene::probe();
        assert!(scene.server_reads().starts_with("GET / "));
        scene.server_sends(response);
        assert_eq!(scene.told(), "the link is free");
        assert!(scene.is_over());
    }
}

#[test]
fn a_probe_is_not_repeated_and_has_one_deadline_for_all() {
    let mut scene = Scene::probe();
    scene.server_ends();
    assert_eq!(scene.told(), "the link ends: closed the connection before it answered");

    let mut scene = Scene::probe();
    scene.server_sends("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no");
    scene.pass(2);
    assert_eq!(
        scene.told(),
        "the link ends: the answer was not whole within 1 s (heartbeat_timeout)"
    );
}

#[test]
fn the_short_rest_of_a_response_is_drained_and_the_link_goes_on() {
    let mut scene = Scene::sent(GET);
    scene.server_sends("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe");
    scene.client_resets();
    assert_eq!(scene.told(), "close the client");
    assert_eq!(scene.exchange().unwrap().downstream(), None);
    scene.server_sends("llo");
    assert_eq!(scene.told(), "the link is free");
    assert!(scene.is_over());
}

#[test]
fn a_long_rest_is_not_drained() {
    let most = Limits::default().drain_bytes_max;
    let mut scene = Scene::sent(GET);
    scene.server_sends(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", most + 1));
    scene.client_resets();
    assert_eq!(scene.told(), "close the client; the link ends: its caller gave up half-way");

    let mut scene = Scene::with_limits(GET, |limits| limits.drain_bytes_max = 3);
    scene.attach();
    scene.server_sends("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    scene.client_resets();
    assert_eq!(scene.told(), "close the client");
    scene.server_sends("5\r\nhello\r\n");
    assert_eq!(scene.told(), "the link ends: had more of an abandoned response than is drained");
}

#[test]
fn a_rest_that_does_not_come_is_not_waited_for_and_less_when_others_wait() {
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe";
    let mut scene = Scene::sent(GET);
    scene.server_sends(half);
    scene.client_resets();
    scene.told();
    scene.pass(Limits::default().abandoned_timeout.as_secs() + 1);
    let told = scene.told();
    assert!(told.starts_with("the link ends: the answer was not whole within"), "{told}");

    let mut scene = Scene::with_limits(GET, |limits| {
        limits.half_close_timeout = Duration::from_secs(1);
        limits.abandoned_timeout = Duration::from_secs(60);
    });
    scene.attach();
    scene.server_sends(half);
    scene.event_loop.role.callers_wait = true;
    scene.client_resets();
    scene.told();
    scene.pass(2);
    let told = scene.told();
    assert!(told.contains("callers waited"), "{told}");
}

#[test]
fn who_has_ended_its_direction_may_still_want_its_response() {
    let mut scene = Scene::sent(GET);
    scene.client_ends();
    scene.server_sends("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert!(scene.client_reads().ends_with("\r\n\r\nok"));
    assert!(scene.told().starts_with("the link is free; "));
}

/// Its head then has no separate deadline: an expired one would be due again and again.
#[test]
fn half_a_head_for_nobody_ends_with_the_time_for_all() {
    let mut scene = Scene::sent(GET);
    scene.server_sends("HTTP/1.1 2");
    scene.pass(9);
    scene.client_resets();
    assert_eq!(scene.told(), "close the client");
    scene.pass(3);
    assert!(scene.told().starts_with("the link ends: the answer was not whole within"));
    assert!(scene.is_over());

    let mut scene = Scene::probe();
    scene.server_sends("HTTP/1.1 2");
    scene.pass(2);
    assert!(scene.told().starts_with("the link ends"));
}

/// Of one exchange: errors, and its status' class.
fn counted(observer: &Observer) -> (u64, [u64; 5]) {
    let table = observer.table().unwrap();
    (table.totals.counts.errors, table.totals.counts.statuses)
}

#[test]
fn a_client_that_leaves_behind_a_whole_response_is_no_failure_whatever_its_request_lacks() {
    let post = "POST /a HTTP/1.1\r\nHost: lamp\r\nContent-Length: 5\r\n\r\nhe";
    let answered = |response: &str, end: fn(&mut Scene)| {
        let observer = Observer::on(Bounds::of(&Limits::default()));
        let mut scene = Scene::sent(post);
        let head = head::request(post.as_bytes(), &Limits::default(), LineEnds::Crlf);
        let observed = observer.request("lamp", &head.unwrap().unwrap(), &Visit::default());
        scene.exchange().unwrap().observed = observed;
        scene.server_sends(response);
        assert_eq!(scene.client_reads(), response);
        end(&mut scene);
        scene.pass(Limits::default().abandoned_timeout.as_secs() + 1);
        assert!(scene.is_over());
        counted(&observer)
    };
    let whole = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok";
    let rest_and_reset = |scene: &mut Scene| {
        write(scene.client.as_ref().unwrap(), "llo");
        scene.client_resets();
    };
    let ends: [fn(&mut Scene); 4] =
        [Scene::client_resets, Scene::client_ends, rest_and_reset, |scene| scene.pass(60)];
    for end in ends {
        assert_eq!(answered(whole, end), (0, [0, 1, 0, 0, 0]));
    }
    assert_eq!(answered(half, Scene::client_resets), (1, [0, 1, 0, 0, 0]));
}
