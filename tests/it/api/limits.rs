//! Limits of a program's own: what cannot work is named, and what is for ever is only long.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Read;
use std::time::Duration;

use http::Request;
use reverse_http::{Body, Device, Limits};

use crate::support::DEADLINE;

type Change = fn(&mut Limits);

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

#[test]
fn a_limit_that_cannot_work_is_named() {
    let mut limits = Limits::default();
    limits.head_bytes_max = 10;
    let error =
        crate::support::gateway().listen("127.0.0.1:0").limits(limits.clone()).start().unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("head_bytes_max"), "{error}");
    let error = Device::builder("http://127.0.0.1:1/lamp").limits(limits).build().unwrap_err();
    assert!(error.to_string().contains("head_bytes_max"), "{error}");
    let too_much: [(&str, Change); 4] = [
        ("head_bytes_max", |limits| limits.head_bytes_max = usize::MAX),
        ("fields_max", |limits| limits.fields_max = usize::MAX),
        ("spin", |limits| limits.spin = Duration::from_millis(11)),
        ("events_max", |limits| limits.events_max = usize::MAX),
    ];
    for (name, change) in too_much {
        let mut limits = Limits::default();
        change(&mut limits);
        let error = Device::builder("http://127.0.0.1:1/lamp").limits(limits).build().unwrap_err();
        assert!(error.is_usage() && error.to_string().contains(name), "{error}");
    }
    let error = Device::builder("http://127.0.0.1:1/Lamp").build().unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("name"), "{error}");
    assert!(
        Device::builder("http://127.0.0.1:1/lamp").links(0..=1).build().unwrap_err().is_usage()
    );
    #[cfg(feature = "tls")]
    {
        let tls = reverse_http::tls::DeviceTls::new;
        let plain = Device::builder("http://127.0.0.1:1/lamp").tls(tls()).build().unwrap_err();
        assert!(plain.is_usage() && plain.to_string().contains("https://"), "{plain}");
        Device::builder("https://127.0.0.1:1/lamp").tls(tls()).build().unwrap();
    }
    let gateway = crate::support::gateway().listen("127.0.0.1:0").start().unwrap();
    for wrong in ["Nope!", "", "http://a/b"] {
        let (sent, waited) = (
            gateway.device(wrong).send(get("/")),
            gateway.device(wrong).wait_connected(Duration::ZERO),
        );
        assert!(sent.unwrap_err().is_usage() && waited.unwrap_err().is_usage(), "{wrong}");
    }
    let short = Body::from_reader_with_length(&b"four"[..], 5).read_to_vec(9).unwrap_err();
    assert!(short.is_usage() && short.to_string().contains("1 bytes before"), "{short}");
    let long = Body::from("four").read_to_vec(3).unwrap_err();
    assert!(long.is_too_large() && !long.is_full(), "{long}");
}

#[test]
fn a_wait_for_ever_is_only_a_long_wait() {
    let for_ever = |l: &mut Limits| {
        for time in [
            &mut l.idle_visitor_timeout,
            &mut l.body_silence_timeout,
            &mut l.linger_timeout,
            &mut l.linger_total_timeout,
            &mut l.first_byte_timeout,
            &mut l.heartbeat_timeout,
        ] {
            *time = Duration::MAX;
        }
    };
    let mut limits = Limits::default();
    for_ever(&mut limits);
    let gateway = crate::support::gateway().listen("127.0.0.1:0").limits(limits.clone());
    let gateway = gateway.start().unwrap();
    let url = format!("http://{}/deaf", gateway.devices_addr());
    let device = Device::builder(url).limits(limits).build().unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| gateway.device("deaf").wait_connected(Duration::MAX));
        let deaf = device.spawn(|_| "deaf").unwrap();
        waiter.join().unwrap().unwrap();
        // Unread bodies, and the ends of links.
        gateway.device("deaf").wait_connected(DEADLINE).unwrap();
        for _ in 0..2 {
            let body = Body::from_reader(std::io::repeat(1).take(300_000));
            let request = Request::post("/").body(body).unwrap();
            let response = gateway.device("deaf").send(request).unwrap();
            assert_eq!(response.into_body().read_to_text(100).unwrap(), "deaf");
        }
        deaf.stop();
    });
    gateway.drain(Duration::MAX);
}

#[test]
fn an_address_that_is_none_is_told_how_it_is_written() {
    let listen = |at: &str| crate::support::gateway().listen(at).start();
    for (wrong, hint) in [
        ("9999", "like 127.0.0.1:9999"),
        ("localhost", "like 127.0.0.1:9999"),
        ("", "like 127.0.0.1:9999"),
        (":9999", "0.0.0.0:9999"),
        ("127.0.0.1:99999", "\"99999\" is no port"),
        ("127.0.0.1:", "is no port"),
        ("http://127.0.0.1", "is no port"),
    ] {
        let error = listen(wrong).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains(hint), "{wrong}: {error}");
    }
    let gateway = listen("localhost:0").unwrap();
    let error = gateway.listen_visitors("8080", reverse_http::Routes::path()).unwrap_err();
    assert!(error.to_string().contains("visitors on \"8080\": write it HOST:PORT"), "{error}");
}
