//! The list of connected devices: what it says of each, and that nothing falls between it and the
//! events.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use http::Request;
use reverse_http::{
    Body, Device, DeviceHandle, DeviceInfo, Fallback, Gateway, GatewayEventKind, Limits, Tokens,
    Transport,
};

use crate::support::{DEADLINE, eventually};

fn device(gateway: &Gateway, name: &str, fallback: Fallback) -> Device {
    Device::builder(format!("http://{}/{name}", gateway.devices_addr()))
        .links(1..=1)
        .bearer_token(format!("token-of-{name}"))
        .fallback(fallback)
        .backoff(Duration::from_millis(5)..Duration::from_millis(50))
        .build()
        .unwrap()
}

fn names(gateway: &Gateway) -> BTreeSet<String> {
    gateway.devices().unwrap().into_iter().map(|device| device.name).collect()
}

#[test]
fn the_list_says_how_each_device_is_connected() {
    let lines = [
        Tokens::line_with("token-of-lamp", "lamp", None, Some("hall")).unwrap(),
        Tokens::line("token-of-meter", "meter").unwrap(),
    ];
    let tokens = Tokens::parse(&lines.join("\n")).unwrap();
    let gateway = Gateway::builder().loops(3).listen("127.0.0.1:0").tokens(tokens).start().unwrap();
    assert_eq!(gateway.devices().unwrap(), []);

    let before = SystemTime::now();
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let lamp = device(&gateway, "lamp", Fallback::Never).spawn(move |request| {
        if request.uri().path() == "/slow" {
            let _ = held.lock().unwrap().recv();
        }
        "done"
    });
    let (lamp, meter) = (lamp.unwrap(), device(&gateway, "meter", Fallback::Only).spawn(|_| "5"));
    for name in ["lamp", "meter"] {
        gateway.device(name).wait_connected(DEADLINE).unwrap();
    }
    let [lamp_is, meter_is]: [DeviceInfo; 2] = eventually("both are idle", || {
        let devices = gateway.devices().unwrap();
        devices.iter().all(|device| device.idle > 0).then_some(devices)
    })
    .try_into()
    .unwrap();
    assert_eq!((&*lamp_is.name, lamp_is.transport), ("lamp", Transport::Turn));
    assert_eq!((lamp_is.idle, lamp_is.busy, lamp_is.waiting), (1, 0, 0));
    assert_eq!(lamp_is.token.as_deref(), Some("hall"));
    assert_eq!(lamp_is.address, Some(IpAddr::from([127, 0, 0, 1])));
    assert!(before <= lamp_is.since && lamp_is.since <= SystemTime::now());
    assert_eq!(meter_is.name, "meter");
    assert!(matches!(meter_is.transport, Transport::Comet(_)), "{meter_is:?}");
    assert_eq!(meter_is.token.as_deref(), Some("line 2"));

    let request = Request::get("/slow").body(Body::empty()).unwrap();
    thread::scope(|scope| {
        let first = scope.spawn(|| gateway.device("lamp").send(request).map(|r| r.status()));
        let info = eventually("its link is busy", || {
            gateway.devices().unwrap().into_iter().find(|d| d.name == "lamp" && d.busy == 1)
        });
        assert_eq!((info.idle, info.address), (0, None), "a program has its only link");
        drop(release);
        first.join().unwrap().unwrap();
    });

    lamp.stop();
    eventually("it has left", || (!names(&gateway).contains("lamp")).then_some(()));
    drop(meter);
    gateway.drain(Duration::ZERO);
    assert!(gateway.devices().unwrap_err().is_stopped());
}

/// Devices that come and go, by links and by polls, until the test is over.
fn restless(gateway: &Gateway, number: usize, over: &mpsc::Receiver<()>) -> Option<DeviceHandle> {
    let fallback = if number % 3 == 2 { Fallback::Only } else { Fallback::Never };
    let name = format!("device-{number}");
    let mut running = None;
    for round in 0.. {
        match running.take() {
            None => running = Some(device(gateway, &name, fallback).spawn(|_| "here").unwrap()),
            Some(there) => DeviceHandle::stop(&there),
        }
        if over.recv_timeout(Duration::from_millis(5)) != Err(mpsc::RecvTimeoutError::Timeout)
            && round > 4
        {
            break;
        }
    }
    running
}

#[test]
fn nothing_falls_between_the_list_and_the_events() {
    let mut limits = Limits::default();
    limits.events_max = 1 << 16; // they wait until the devices have stopped
    let builder = Gateway::builder().loops(3).listen("127.0.0.1:0").limits(limits);
    let gateway = builder.start().unwrap();
    let mut watchers = Vec::new();
    let left: Vec<Option<DeviceHandle>> = thread::scope(|scope| {
        let mut devices = Vec::new();
        for number in 0..6 {
            let (over, told) = mpsc::channel::<()>();
            let gateway = &gateway;
            devices.push((over, scope.spawn(move || restless(gateway, number, &told))));
        }
        for _ in 0..20 {
            let events = gateway.events(); // first
            watchers.push((events, names(&gateway)));
            thread::yield_now();
        }
        devices
            .into_iter()
            .map(|(over, thread)| {
                drop(over);
                thread.join().unwrap()
            })
            .collect()
    });
    let expected: BTreeSet<String> = (0..left.len())
        .filter(|number| left[*number].is_some())
        .map(|number| format!("device-{number}"))
        .collect();
    let (until, mut list) = (Instant::now() + DEADLINE, names(&gateway));
    while list != expected {
        assert!(
            Instant::now() < until,
            "those that stayed are {expected:?}, the list has {list:?}"
        );
        thread::sleep(Duration::from_millis(2));
        list = names(&gateway);
    }
    for (events, mut here) in watchers {
        let (until, mut told) = (Instant::now() + DEADLINE, Vec::new());
        while here != expected {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(event) = events.recv_timeout(left) else {
                panic!("{here:?} is not {expected:?} after {} events: {told:?}", told.len());
            };
            assert_eq!(event.missed, 0);
            match event.kind {
                GatewayEventKind::Up => drop(here.insert(event.name.clone())),
                GatewayEventKind::Down => drop(here.remove(&event.name)),
                _ => {}
            }
            told.push((event.kind, event.name));
        }
    }
}

#[test]
fn a_link_knows_whose_it_is() {
    let line = Tokens::line_with("token-of-lamp", "lamp", None, Some("hall")).unwrap();
    let (tell, told) = mpsc::channel();
    let gateway = crate::support::gateway()
        .listen("127.0.0.1:0")
        .tokens(Tokens::parse(&line).unwrap())
        .on_link(move |link| {
            let address = link.remote_ip();
            let token = link.token().map(str::to_owned);
            let _ = tell.send((link.name().map(str::to_owned), address, link.transport(), token));
        })
        .start()
        .unwrap();
    let lamp = device(&gateway, "lamp", Fallback::Never).spawn(|_| "on").unwrap();
    let (name, address, transport, token) = told.recv_timeout(DEADLINE).unwrap();
    assert_eq!((name.as_deref(), token.as_deref()), (Some("lamp"), Some("hall")));
    assert_eq!(address, Some(IpAddr::from([127, 0, 0, 1])));
    assert_eq!(transport, Some(Transport::Turn));
    lamp.stop();
}
