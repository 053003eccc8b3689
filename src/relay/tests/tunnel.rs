//! Exchanges that were switched to another protocol.

use super::*;

const OFFER: &str =
    "GET /a HTTP/1.1\r\nHost: lamp\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

fn switched() -> Scene {
    let mut scene = Scene::sent(OFFER);
    scene.server_sends(SWITCH);
    assert!(scene.client_reads().starts_with("HTTP/1.1 101 "));
    assert!(scene.exchange().unwrap().is_tunnel() && scene.exchange().unwrap().is_answered());
    scene
}

#[test]
fn bytes_go_both_ways_as_they_come() {
    let mut scene = switched();
    scene.client_sends("hello\r\n\r\n");
    scene.server_sends("HTTP/1.1 500 no head any more");
    assert_eq!(scene.server_reads(), "hello\r\n\r\n");
    assert_eq!(scene.client_reads(), "HTTP/1.1 500 no head any more");
}

#[test]
fn what_comes_with_the_101_is_the_other_protocols() {
    let mut scene = Scene::sent(OFFER);
    scene.server_sends(&format!("{SWITCH}\r\nhello"));
    assert!(scene.client_reads().ends_with("\r\n\r\n\r\nhello"));
}

#[test]
fn each_direction_ends_by_itself_and_then_the_tunnel() {
    let mut scene = switched();
    scene.client_ends();
    assert_eq!((scene.server_reads().as_str(), scene.told().as_str()), ("<end>", ""));
    scene.server_sends("still here");
    assert_eq!(scene.client_reads(), "still here");
    scene.server_ends();
    assert_eq!(scene.client_reads(), "<end>");
    assert_eq!(
        scene.told(),
        "close the client; the link ends: its tunnel ended in both directions"
    );
}

#[test]
fn a_reset_on_one_side_is_one_on_the_other() {
    let mut scene = switched();
    scene.server_resets();
    assert!(scene.told().starts_with("reset the client; the link ends: its tunnel broke"));
    assert_eq!(scene.client_reads(), "<reset>");

    let mut scene = switched();
    scene.client_resets();
    let told = scene.told();
    assert!(told.contains("its tunnel broke"), "{told}");
}

#[test]
fn nobody_is_switched_who_did_not_ask_or_is_not_told_to_what() {
    let get = "GET /a HTTP/1.1\r\nHost: lamp\r\n\r\n";
    let to = |lines: &str| format!("HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n");
    let offers = |upgrade: &str| OFFER.replace("websocket", upgrade);
    let (unasked, unsaid) = ("without being asked", "without saying to which");
    let other = "switched to a protocol that the request did not offer";
    for (request, response, why) in [
        (get.to_owned(), SWITCH.to_owned(), unasked),
        (OFFER.to_owned(), to(""), unsaid),
        (OFFER.to_owned(), to("Connection: Upgrade\r\nUpgrade: , \r\n"), unsaid),
        (OFFER.to_owned(), to("Connection: Upgrade\r\nUpgrade: h2c\r\n"), other),
        (OFFER.to_owned(), to("Connection: Upgrade\r\nUpgrade: \"x\r\n"), other),
        (OFFER.to_owned(), to("Connection: Upgrade\r\nUpgrade: chat\r\n"), other),
        // What may not pass is as if it were absent from the offer.
        (offers("h2c"), SWITCH.to_owned(), unasked),
        (offers("\"x"), SWITCH.to_owned(), unasked),
        (offers("\"h2c\", /1, H2C"), SWITCH.to_owned(), unasked),
    ] {
        let (request, response) = (request.as_str(), response.as_str());
        let mut scene = Scene::sent(request);
        scene.server_sends(response);
        let told = scene.told();
        assert!(told.contains("answer 502") && told.contains(why), "{told}");
    }
}

#[test]
fn an_offer_may_be_declined() {
    let mut scene = Scene::sent(OFFER);
    scene.server_sends("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno");
    assert!(scene.client_reads().ends_with("\r\n\r\nno"));
    assert_eq!(scene.told(), "the link is free; next request");
}

#[test]
fn silence_has_its_own_bound_and_a_shorter_one_when_half_is_over() {
    let mut scene = Scene::with_limits(OFFER, |limits| {
        limits.tunnel_silence_timeout = Duration::from_secs(20);
        limits.body_silence_timeout = Duration::from_secs(3);
    });
    scene.attach();
    scene.server_sends(SWITCH);
    scene.pass(10);
    assert_eq!(scene.told(), "");
    scene.client_ends();
    assert!(scene.server_reads().ends_with("<end>"));
    scene.pass(4);
    let told = scene.told();
    assert!(told.contains("nothing moved on its tunnel for 3 s (body_silence_timeout)"), "{told}");
    assert_eq!(scene.server_reads(), "<reset>", "it would not hear of a close behind that end");
}

/// The client is gone when the 101 comes: there is nobody to speak the other protocol with.
#[test]
fn a_tunnel_to_nobody_ends_at_once() {
    let mut scene = Scene::sent(OFFER);
    write(scene.server.as_ref().unwrap(), SWITCH);
    scene.client_resets();
    assert!(scene.is_over(), "{:?}", scene.told());
    let told = scene.told();
    assert!(told.contains("close the client") && told.contains("the link ends"), "{told}");
}

/// A link has heard the end of its visitor's direction. It also hears that the visitor is gone
/// altogether, but only after the bytes on their way to it had some time.
#[test]
fn a_link_hears_that_its_visitor_is_gone_behind_an_end() {
    let mut scene = switched();
    scene.client_sends("all of it");
    scene.client_ends();
    scene.client_resets();
    assert_eq!((scene.told().as_str(), scene.server_reads().as_str()), ("", "all of it<end>"));
    scene.pass(3);
    assert_eq!(scene.told(), "reset the client; the link ends: its tunnel broke");
    assert_eq!(scene.server_reads(), "<reset>");
    // At a device the far end is a target, which is closed at once.
    let mut scene = switched().of_a_device();
    scene.client_ends();
    scene.client_resets();
    let told = scene.told();
    assert!(told.contains("the link ends: its tunnel ended"), "{told}");
}
