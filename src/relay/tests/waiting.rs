//! Exchanges without an upstream connection: nothing of the request is read, and whole responses
//! come from nowhere.

use super::*;
use crate::engine::budget::Budget;

fn deliver(scene: &mut Scene, text: &str) {
    let held = Budget::new(1000).one().unwrap();
    let Loop { role, connections, .. } = &mut scene.event_loop;
    relay::deliver(role, connections, scene.key, text.as_bytes(), held);
    scene.run_until_still();
}

#[test]
fn a_body_stays_in_the_socket_until_there_is_a_connection() {
    let mut scene = Scene::new("POST /a HTTP/1.1\r\nHost: lamp\r\nContent-Length: 5\r\n\r\nhello");
    assert!(scene.exchange().unwrap().is_waiting() && !scene.exchange().unwrap().is_whole());
    assert_eq!((scene.client_reads(), scene.told()), (String::new(), String::new()));
    scene.attach();
    assert!(scene.server_reads().ends_with("\r\n\r\nhello"));
}

#[test]
fn a_whole_response_goes_to_the_client() {
    let mut scene = Scene::new("GET /a HTTP/1.1\r\nHost: lamp\r\n\r\n");
    deliver(&mut scene, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert!(scene.client_reads().ends_with("\r\n\r\nok"));
    assert_eq!(scene.told(), "next request");
}

#[test]
fn what_is_delivered_is_whole_or_a_502_or_a_cut_behind_its_head() {
    for (text, told) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", "close the client"),
        ("HTTP/1.1 200 OK\r\n", "answer 502, keep: the server gave an answer that is not whole"),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
            "answer 502, keep: the server switched protocols without being asked",
        ),
        ("hello world", "answer 502, keep: the server sent a malformed response"),
    ] {
        let mut scene = Scene::new(
            "GET /a HTTP/1.1\r\nHost: lamp\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
        );
        deliver(&mut scene, text);
        let got = scene.told();
        assert!(got.starts_with(told), "{text:?}: {got}");
    }
}

#[test]
fn who_leaves_while_waiting_ends_the_exchange() {
    let mut scene = Scene::new("POST /a HTTP/1.1\r\nHost: lamp\r\nContent-Length: 5\r\n\r\nhel");
    scene.client_resets();
    assert_eq!(scene.told(), "close the client");
    assert!(scene.is_over());
}

/// A gateway that ends a link has mostly given its request up. A visitor that ends its direction
/// waits on.
#[test]
fn at_a_device_what_waits_ends_with_its_link() {
    let get = "GET /a HTTP/1.1\r\nHost: lamp\r\n\r\n";
    let half = "POST /a HTTP/1.1\r\nHost: lamp\r\nContent-Length: 5\r\n\r\nhel";
    for request in [get, half] {
        let mut scene = Scene::new(request).of_a_device();
        scene.client_ends();
        scene.pass(1);
        assert_eq!(scene.told(), "", "it may be a half-close");
        scene.pass(2);
        assert_eq!(scene.told(), "close the client");
        assert!(scene.is_over());
    }
    let mut scene = Scene::new(get).of_a_device();
    scene.client_ends();
    scene.pass(1);
    scene.attach();
    scene.server_sends("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert!(scene.client_reads().ends_with("\r\n\r\nok"));
    assert_eq!(scene.told(), "the link is free; next request");

    let mut scene = Scene::new(get);
    scene.client_ends();
    scene.pass(60);
    assert_eq!(scene.told(), "");
    assert!(!scene.is_over());
}
