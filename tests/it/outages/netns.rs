//! Devices behind a router with NAT, and what becomes of their links when the network fails in
//! between (T35, T37, T40).
//!
//! Each scene has namespaces of its own and waits most of its time, so the scenes of a table run
//! side by side. Figures are printed; asserted is what is configured, and a second more (on a busy
//! machine six).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use http::Response;
use reverse_http::{Body, Device, DeviceEventKind, Fallback, Limits};

use crate::support::local::routes;
use crate::support::netns::{GATEWAY_IP, Net, Permit};
use crate::support::process::get;
use crate::support::{
    Gateway, Hash, LocalServer, Process, RawGateway, RawPeer, SWITCH, eventually,
    eventually_within, pattern, say, slack,
};

const SECOND: Duration = Duration::from_secs(1);
/// `--heartbeat` and `--heartbeat-timeout`.
const HEARTBEAT: Duration = SECOND;
const ANSWERED: Duration = SECOND;
/// `--silence`.
const SILENCE: Duration = Duration::from_secs(3);
/// The longest pause of `--backoff`.
const BACKOFF: Duration = Duration::from_millis(500);
/// `--first-byte`, `--wait-for-link`, `--body-silence` and `--request-write`.
const PATIENCE: Duration = Duration::from_secs(2);
/// A SYN that is lost is sent again after 1, 2 and 4 s, as long as `connect_timeout` (10 s) allows.
const SYN_AGAIN: Duration = Duration::from_secs(4);

/// A device behind the router, and its gateway.
struct Scene {
    what: &'static str,
    gateway: Gateway,
    device: Process,
    net: Net,
}

/// How often each side has said that the other was lost.
#[derive(Clone, Copy)]
struct ProxyClaims {
    gateway: usize,
    device: usize,
}

/// When each side said so, counted from the fault.
struct Known {
    gateway: Duration,
    device: Duration,
    reasons: String,
}

fn start_gateway(net: &Net, heartbeat: &str, more: &[&str]) -> Gateway {
    const USUAL: &[&str] = &[
        "gateway",
        "--devices",
        "0.0.0.0:0",
        "--insecure-anyone-may-register",
        "--visitors",
        "127.0.0.1:0",
    ];
    const WAITS: &[&str] = &[
        "--heartbeat-timeout",
        "1s",
        "--first-byte",
        "2s",
        "--wait-for-link",
        "2s",
        "--body-silence",
        "2s",
        "--request-write",
        "2s",
    ];
    Gateway::of(
        net.ptth(Permit::Gateway, &[USUAL, WAITS, &["--heartbeat", heartbeat], more].concat()),
    )
}

/// A device called lamp.
fn start_device(
    net: &Net,
    place: Permit,
    gateway: &Gateway,
    host: &str,
    service: &[&str],
) -> Process {
    let url = format!("http://{host}:{}/lamp", gateway.devices.port());
    let device =
        net.ptth(place, &[&["device", &url, "--backoff", "100ms..500ms"], service].concat());
    let line =
        device.line_within(Limits::default().connect_timeout + 5 * SECOND).unwrap_or_default();
    assert!(line.starts_with("connected lamp "), "{line}: {}", device.stderr());
    device
}

const HELLO: &[&str] = &["--text", "hello", "--silence", "3s"];

impl Scene {
    fn start(what: &'static str) -> Option<Scene> {
        Scene::with(what, "1s", &[], HELLO)
    }

    fn with(what: &'static str, heartbeat: &str, more: &[&str], service: &[&str]) -> Option<Scene> {
        let net = Net::new()?;
        let gateway = start_gateway(&net, heartbeat, more);
        let device = start_device(&net, Permit::Device, &gateway, GATEWAY_IP, service);
        let scene = Scene { what, gateway, device, net };
        assert_eq!(scene.visit(), 200);
        Some(scene)
    }

    fn visitor(&self) -> RawPeer {
        visitor(&self.net, &self.gateway)
    }

    /// One visitor's request; the status of its answer.
    fn visit(&self) -> u16 {
        self.visitor().ask(&get("/lamp/x")).status()
    }

    /// Returns when the device has seen heartbeats: from then on it knows that silence means
    /// something.
    fn beats(&self) {
        let before = self.net.asked();
        eventually_within(3 * HEARTBEAT + slack(), "two heartbeats", || {
            (self.net.asked() >= before + 2).then_some(())
        });
    }

    fn said(&self) -> ProxyClaims {
        let count = |process: &Process, text: &str| process.stderr().matches(text).count();
        ProxyClaims {
            gateway: count(&self.gateway.process, "lamp: down"),
            device: count(&self.device, "disconnected lamp"),
        }
    }

    /// Waits until both sides have said more than `before`.
    #[track_caller]
    fn both_know(&self, since: Instant, before: ProxyClaims, most: Duration) -> Known {
        let (mut gateway, mut device) = (None, None);
        eventually_within(most, &format!("{}: both sides know", self.what), || {
            let said = self.said();
            gateway = gateway.or_else(|| (said.gateway > before.gateway).then(|| since.elapsed()));
            device = device.or_else(|| (said.device > before.device).then(|| since.elapsed()));
            gateway.zip(device)
        });
        let reason = |text: String, what: &str| {
            text.lines().rfind(|line| line.contains(what)).unwrap_or_default().to_owned()
        };
        let of_gateway = reason(self.gateway.process.stderr(), "lamp: down");
        let of_device = reason(self.device.stderr(), "disconnected lamp");
        let tail = |line: &str| line.rsplit(": ").next().unwrap_or_default().to_owned();
        Known {
            gateway: gateway.unwrap(),
            device: device.unwrap(),
            reasons: format!("gateway: {}; device: {}", tail(&of_gateway), tail(&of_device)),
        }
    }

    /// How long until a visitor is served.
    #[track_caller]
    fn served(&self, since: Instant) -> Duration {
        eventually_within(
            Duration::from_secs(20),
            &format!("{}: a visitor is served", self.what),
            || (self.visit() == 200).then(|| since.elapsed()),
        )
    }

    /// The whole story of a fault that comes at `since`: known on both sides within these bounds,
    /// mended, served again within `again` of that.
    #[track_caller]
    fn plays(
        &self,
        since: Instant,
        before: ProxyClaims,
        bounds: (Duration, Duration),
        mend: impl FnOnce(&Net),
        again: Duration,
    ) {
        let known = self.both_know(since, before, bounds.0.max(bounds.1) + 5 * SECOND);
        mend(&self.net);
        let mended = Instant::now();
        let served = self.served(mended);
        say(&format!(
            "netns {}: gateway knew after {:.2} s, device after {:.2} s; mended, a visitor was served within {:.2} s ({})",
            self.what,
            known.gateway.as_secs_f64(),
            known.device.as_secs_f64(),
            served.as_secs_f64(),
            known.reasons
        ));
        within(&format!("{}: the gateway knows", self.what), known.gateway, bounds.0);
        within(&format!("{}: the device knows", self.what), known.device, bounds.1);
        within(&format!("{}: served again", self.what), served, again);
        assert_eq!(self.visit(), 200, "and the next one");
    }
}

fn visitor(net: &Net, gateway: &Gateway) -> RawPeer {
    let to = gateway.visitors;
    net.inside(Permit::Gateway, || RawPeer::connect(to))
}

#[track_caller]
fn within(what: &str, took: Duration, bound: Duration) {
    assert!(took <= bound + slack(), "{what} after {took:?} where {bound:?} is configured");
}

/// What is told of a scene, and how it goes.
type Row = (&'static str, fn(&'static str));

/// Plays scenes at the same time, then fails with all that failed.
#[track_caller]
fn side_by_side(scenes: &[Row]) {
    let failures = Mutex::new(String::new());
    std::thread::scope(|scope| {
        for (what, scene) in scenes {
            let failures = &failures;
            scope.spawn(move || {
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| scene(what))) {
                    let text = panic
                        .downcast_ref::<String>()
                        .map(String::as_str)
                        .or_else(|| panic.downcast_ref::<&str>().copied());
                    failures.lock().unwrap().push_str(&format!(
                        "- {what}: {}\n",
                        text.unwrap_or("a panic without a text")
                    ));
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "scenes failed:\n{failures}");
}

const FROM_DEVICE: &str = "iifname \"lan\" drop";
const TO_DEVICE: &str = "oifname \"lan\" drop";

/// In one test, for what takes longest here waits for a minute.
#[test]
fn what_the_network_does_not_tell_is_found_in_time_and_mended() {
    side_by_side(&[
        // Heartbeats and silence.
        ("NAT entry deleted, the router says nothing", nat_entry_deleted),
        ("NAT entry deleted, the router resets", nat_entry_deleted_and_reset),
        ("NAT entry expired", nat_entry_expired),
        ("NAT entries expire before any heartbeat", nat_is_impatient),
        ("black hole, device to gateway", |what| black_hole(what, &[FROM_DEVICE])),
        ("black hole, gateway to device", |what| black_hole(what, &[TO_DEVICE])),
        ("black hole, both ways", |what| black_hole(what, &[FROM_DEVICE, TO_DEVICE])),
        ("resets injected", resets_injected),
        ("device's address changed", device_moves),
        ("router's address changed", router_moves),
        ("gateway moved, its name with it", gateway_moves),
        // Processes that stand still, which say as little as a network that does.
        ("gateway stopped", |what| stopped(what, true)),
        ("device stopped", |what| stopped(what, false)),
        // TCP's own means.
        ("TCP alone, NAT entry deleted", |what| tcp_alone(what, HELLO)),
        ("TCP alone, NAT entry deleted, polls", |what| {
            tcp_alone(what, &["--text", "hello", "--fallback", "only"])
        }),
        // Polls, which nobody sends heartbeats on.
        ("polls, NAT entry deleted", |what| polls(what, Net::forget, |_| {}, BACKOFF)),
        ("polls, black hole both ways", |what| {
            polls(what, |net| net.fault(&[FROM_DEVICE, TO_DEVICE]), Net::heal, SYN_AGAIN + BACKOFF)
        }),
        // Requests that are in flight meanwhile.
        ("black hole before the answer", |what| in_flight(what, "GET", "/lamp/late", 504)),
        ("black hole within an upload", |what| in_flight(what, "POST", "/lamp/hash", 504)),
        ("black hole within the answer", |what| in_flight(what, "GET", "/lamp/half", 0)),
        ("a name with two addresses, the first dead", dead_address),
    ]);
}

fn nat_entry_deleted(what: &'static str) {
    let Some(scene) = Scene::start(what) else { return };
    scene.beats();
    let (before, since) = (scene.said(), Instant::now());
    scene.net.forget();
    scene.plays(since, before, (HEARTBEAT + ANSWERED, SILENCE), |_| {}, BACKOFF);
}

fn nat_entry_deleted_and_reset(what: &'static str) {
    let Some(scene) = Scene::start(what) else { return };
    scene.beats();
    scene.net.unknown("reject with tcp reset");
    let (before, since) = (scene.said(), Instant::now());
    scene.net.forget();
    // The gateway's next heartbeat is reset at once. The device says nothing by itself, so nothing
    // tells it but silence.
    scene.plays(since, before, (HEARTBEAT, SILENCE), |_| {}, BACKOFF);
}

fn nat_entry_expired(what: &'static str) {
    const SLOW: Duration = Duration::from_secs(2);
    // A device more patient than its gateway, which otherwise would see the next link before it has
    // given the lost one up.
    const PATIENT: Duration = Duration::from_secs(5);
    let Some(scene) = Scene::with(what, "2s", &[], &["--text", "hello", "--silence", "5s"]) else {
        return;
    };
    let seen = scene.net.asked();
    eventually_within(3 * SLOW, "a heartbeat", || (scene.net.asked() > seen).then_some(()));
    let (before, since) = (scene.said(), Instant::now());
    // Holds from the next packet on: one heartbeat still gets through, and the one after it comes a
    // second late.
    scene.net.sysctl("net.netfilter.nf_conntrack_tcp_timeout_established", 1);
    let mend = |net: &Net| net.sysctl("net.netfilter.nf_conntrack_tcp_timeout_established", 600);
    scene.plays(since, before, (2 * SLOW + ANSWERED, SLOW + PATIENT), mend, BACKOFF);
}

/// Every link is lost before its first heartbeat, and the device knows only from an earlier link
/// that there should be one.
fn nat_is_impatient(what: &'static str) {
    const SLOW: Duration = Duration::from_secs(2);
    let Some(scene) = Scene::with(what, "2s", &[], HELLO) else { return };
    let seen = scene.net.asked();
    eventually_within(3 * SLOW, "a heartbeat", || (scene.net.asked() > seen).then_some(()));
    let (before, since) = (scene.said().device, Instant::now());
    scene.net.sysctl("net.netfilter.nf_conntrack_tcp_timeout_established", 1);
    let bound = SLOW + SILENCE + 2 * (SILENCE + BACKOFF);
    eventually_within(bound + slack(), "the device gives up three links", || {
        (scene.said().device >= before + 3).then_some(())
    });
    let gave_up = since.elapsed();
    let served = scene.served(Instant::now());
    say(&format!(
        "netns {what}: the device gave up three links in {:.2} s; a visitor was served within {:.2} s",
        gave_up.as_secs_f64(),
        served.as_secs_f64()
    ));
    within("served between", served, BACKOFF);
}

fn black_hole(what: &'static str, rules: &[&str]) {
    let Some(scene) = Scene::start(what) else { return };
    scene.beats();
    let (before, since) = (scene.said(), Instant::now());
    scene.net.fault(rules);
    // Towards the device heartbeats may still get through: its silence begins after the one that
    // is on its way.
    scene.plays(
        since,
        before,
        (HEARTBEAT + ANSWERED, HEARTBEAT + SILENCE),
        Net::heal,
        SYN_AGAIN + BACKOFF,
    );
}

fn resets_injected(what: &'static str) {
    let Some(scene) = Scene::start(what) else { return };
    scene.beats();
    let (before, since) = (scene.said(), Instant::now());
    scene.net.fault(&["meta l4proto tcp reject with tcp reset"]);
    // Offers are reset, too, until it ends.
    scene.plays(since, before, (HEARTBEAT, SILENCE), Net::heal, BACKOFF);
}

fn device_moves(what: &'static str) {
    let Some(scene) = Scene::start(what) else { return };
    scene.beats();
    let (before, since) = (scene.said(), Instant::now());
    scene.net.ip(Permit::Device, "addr del 10.1.0.2/24 dev eth0");
    scene.net.ip(Permit::Device, "addr add 10.1.0.77/24 dev eth0");
    scene.net.ip(Permit::Device, "route add default via 10.1.0.1");
    scene.plays(since, before, (HEARTBEAT + ANSWERED, SILENCE), |_| {}, BACKOFF);
}

fn router_moves(what: &'static str) {
    let Some(scene) = Scene::start(what) else { return };
    scene.beats();
    let (before, since) = (scene.said(), Instant::now());
    scene.net.ip(Permit::Router, "addr del 10.2.0.1/24 dev wan");
    scene.net.ip(Permit::Router, "addr add 10.2.0.77/24 dev wan");
    scene.plays(since, before, (HEARTBEAT + ANSWERED, SILENCE), |_| {}, BACKOFF);
}

fn gateway_moves(what: &'static str) {
    let Some(net) = Net::new() else { return };
    net.hosts(Permit::Device, &format!("127.0.0.1 localhost\n{GATEWAY_IP} gw.example\n"));
    let gateway = start_gateway(&net, "1s", &[]);
    let device = start_device(&net, Permit::Device, &gateway, "gw.example", HELLO);
    let scene = Scene { what, gateway, device, net };
    assert_eq!(scene.visit(), 200);
    scene.beats();
    let (before, since) = (scene.said(), Instant::now());
    scene.net.ip(Permit::Gateway, "addr del 10.2.0.2/24 dev eth0");
    scene.net.ip(Permit::Gateway, "addr add 10.2.0.99/24 dev eth0");
    scene.net.hosts(Permit::Device, "127.0.0.1 localhost\n10.2.0.99 gw.example\n");
    scene.plays(since, before, (HEARTBEAT + ANSWERED, SILENCE), |_| {}, BACKOFF);
}

/// It costs one `address_delay`.
fn dead_address(what: &'static str) {
    let Some(net) = Net::new() else { return };
    net.hosts(
        Permit::Device,
        &format!("127.0.0.1 localhost\n10.2.0.50 gw.example\n{GATEWAY_IP} gw.example\n"),
    );
    net.fault(&["ip daddr 10.2.0.50 counter drop"]);
    let gateway = start_gateway(&net, "1s", &[]);
    let since = Instant::now();
    let _device = start_device(&net, Permit::Device, &gateway, "gw.example", HELLO);
    let connected = since.elapsed();
    say(&format!("netns {what}: connected after {:.2} s", connected.as_secs_f64()));
    within("it is connected", connected, Limits::default().address_delay + 4 * SECOND);
    assert_eq!(visitor(&net, &gateway).ask(&get("/lamp/x")).status(), 200);
}

/// `Stream::tune`: 30 s of silence, then three probes, 10 s apart; and 60 s for what is not
/// acknowledged.
fn tcp_alone(what: &'static str, service: &[&str]) {
    const KEEPALIVE: Duration = Duration::from_secs(30 + 3 * 10);
    /// The kernel's timers may be late by an eighth of their time.
    const LATE: Duration = Duration::from_millis(60_000 / 8);
    let Some(scene) = Scene::with(what, "0s", &[], service) else { return };
    let (before, since) = (scene.said(), Instant::now());
    scene.net.forget();
    let known = eventually_within(KEEPALIVE + LATE + 5 * SECOND, what, || {
        (scene.said().device > before.device).then(|| since.elapsed())
    });
    let again = Instant::now();
    let served = scene.served(again);
    say(&format!(
        "netns {what}: the device knew after {:.2} s, a visitor was served within {:.2} s; the gateway {}",
        known.as_secs_f64(),
        served.as_secs_f64(),
        if scene.said().gateway > before.gateway {
            "knew before that"
        } else {
            "had it back before it knew"
        }
    ));
    within("the device knows", known, KEEPALIVE + LATE);
    // Until the gateway's own timers fire its half of the old link may be given to a visitor, who
    // gets 504; and a first poll that nothing has answered yet counts as an attempt, which ends by
    // timers of its own.
    within("served again", served, PATIENCE + BACKOFF + LATE);
}

#[test]
fn loss_costs_time_and_no_request() {
    const VISITORS: usize = 4;
    const EACH: usize = 50;
    let Some(net) = Net::new() else { return };
    let gateway = start_gateway_for_loss(&net);
    let local = net.inside(Permit::Device, LocalServer::start);
    let _device = start_device(
        &net,
        Permit::Device,
        &gateway,
        GATEWAY_IP,
        &["--to", &local.url(), "--links", "4..8"],
    );
    net.fault(&["numgen random mod 100 < 3 drop"]); // through the router, so both ways
    let upload = pattern(5_000);
    let hash = Hash::of(&upload);
    let ask = |peer: &mut RawPeer, n: usize| match n % 3 {
        0 => {
            let answer = peer.ask(&get(&format!("/lamp/echo/{n}")));
            assert!(
                answer.status() == 200
                    && answer.text().starts_with(&format!("GET /echo/{n} HTTP/1.1\r\n")),
                "{}",
                answer.text()
            );
        }
        1 => {
            let answer = peer.ask(&get("/lamp/big?n=20000"));
            assert_eq!((answer.status(), Hash::of(&answer.body)), (200, Hash::of_pattern(20_000)));
        }
        _ => {
            peer.write(format!(
                "POST /lamp/hash HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
                upload.len()
            ));
            peer.write(&upload);
            peer.read_answer("POST").expect_ok(&hash);
        }
    };
    let began = Instant::now();
    let mut times: Vec<Duration> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..VISITORS)
            .map(|number| {
                let mut peer = visitor(&net, &gateway);
                peer.deadline = Duration::from_secs(30);
                scope.spawn(move || {
                    let timed = |n: usize| {
                        let began = Instant::now();
                        ask(&mut peer, number * EACH + n);
                        began.elapsed()
                    };
                    (0..EACH).map(timed).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    tell_loss(&mut times, began.elapsed());
    net.inside(Permit::Device, move || drop(local));
}

fn tell_loss(times: &mut [Duration], whole: Duration) {
    times.sort();
    let at = |percent: usize| {
        times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1000.0
    };
    say(&format!(
        "netns 3 % loss both ways: {} requests in {:.1} s, every answer right; p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, longest {:.1} ms",
        times.len(),
        whole.as_secs_f64(),
        at(50),
        at(90),
        at(99),
        at(100)
    ));
    assert!(at(100) > 150.0, "not one packet was lost: the router does not drop what it should");
}

/// With the waits that nobody changes: three losses in a row cost more than a second.
fn start_gateway_for_loss(net: &Net) -> Gateway {
    let arguments = [
        "gateway",
        "--devices",
        "0.0.0.0:0",
        "--insecure-anyone-may-register",
        "--visitors",
        "127.0.0.1:0",
    ];
    Gateway::of(net.ptth(Permit::Gateway, &arguments))
}

#[test]
fn a_device_that_lost_its_power_is_replaced_at_once() {
    const WHAT: &str = "power cut, the same device elsewhere";
    let Some(Scene { gateway, mut device, net, .. }) = Scene::start(WHAT) else { return };
    // No FIN and no reset gets out.
    net.ip(Permit::Router, "link del lan");
    device.signal("KILL");
    eventually_within(slack(), "it is dead", || device.has_ended().then_some(()));
    let began = Instant::now();
    let device = start_device(&net, Permit::Elsewhere, &gateway, GATEWAY_IP, HELLO);
    let connected = began.elapsed();
    let scene = Scene { what: WHAT, gateway, device, net };
    for visit in 0..20 {
        assert_eq!(scene.visit(), 200, "visit {visit}");
        if visit == 0 {
            let served = began.elapsed();
            say(&format!(
                "netns {WHAT}: it was connected after {connected:.2?}, a visitor was served {served:.2?} after its start"
            ));
            within("a visitor is served", served, Duration::ZERO);
        }
    }
    let log = scene.gateway.process.stderr();
    assert!(log.contains("lamp: replaced") && !log.contains("lamp: down"), "{log}");
}

/// A request that is in flight when packets begin to vanish gets this status (0: it is cut off) in
/// time; who waits in line behind it, 503.
fn in_flight(what: &'static str, method: &str, target: &str, expected: u16) {
    const LONG: usize = 200 << 20;
    let Some(net) = Net::new() else { return };
    let gateway = start_gateway(&net, "1s", &[]);
    let (release, hold) = crossbeam_channel::bounded::<()>(0);
    let local = net.inside(Permit::Device, || holding_server(hold));
    let device = start_device(
        &net,
        Permit::Device,
        &gateway,
        GATEWAY_IP,
        &["--to", &local.url(), "--links", "1..1", "--silence", "3s"],
    );
    let scene = Scene { what, gateway, device, net };
    assert_eq!(scene.visit(), 200);
    let mut downstream = scene.visitor();
    let length = if method == "POST" { LONG } else { 0 };
    downstream.write(format!(
        "{method} {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"
    ));
    eventually_within(5 * SECOND, "it is at the local server", || {
        (local.count() == 2).then_some(())
    });
    if expected == 0 {
        assert_eq!(downstream.read_head().status(), 200);
        assert_eq!(downstream.read_exact(5), b"hello");
    }
    scene.net.fault(&[FROM_DEVICE, TO_DEVICE]);
    let since = Instant::now();
    downstream.deadline = Duration::from_millis(100);
    let block = pattern(1 << 16);
    while method == "POST" && downstream.try_write(&block).is_ok() {} // as much as is taken
    let mut waiting = scene.visitor();
    waiting.write(get("/lamp/x"));
    downstream.deadline = 10 * SECOND;
    let got = match expected {
        0 => {
            let (rest, _) = downstream.read_to_any_end();
            assert!(rest.is_empty(), "{rest:?}");
            "cut off".to_owned()
        }
        status => {
            downstream.read_answer(method).expect_refusal(status);
            status.to_string()
        }
    };
    let told = since.elapsed();
    waiting.read_answer("GET").expect_refusal(503);
    let refused = since.elapsed();
    scene.net.heal();
    let healed = Instant::now();
    drop(release);
    let served = scene.served(healed);
    say(&format!(
        "netns {what}: its visitor was told ({got}) after {:.2} s, who waited (503) after {:.2} s; a visitor was served {:.2} s after the healing",
        told.as_secs_f64(),
        refused.as_secs_f64(),
        served.as_secs_f64()
    ));
    within("its visitor is told", told, PATIENCE);
    within("who waits is told", refused, PATIENCE);
    // The gateway's FIN is sent again at the latest when as much time has gone by as the hole
    // lasted; then the device waits `abandoned_timeout`.
    within("served again", served, refused + Limits::default().abandoned_timeout + BACKOFF);
    scene.net.inside(Permit::Device, move || drop(local));
}

/// A local server whose answers to some requests wait until the other end of `hold` is dropped.
fn holding_server(hold: crossbeam_channel::Receiver<()>) -> LocalServer {
    LocalServer::with(move |c| match c.head.target() {
        "/late" => {
            let _ = hold.recv_timeout(Duration::from_secs(20)); // closed when the test lets it go
            c.text("late");
        }
        "/half" => {
            c.raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
            let _ = hold.recv_timeout(Duration::from_secs(20));
            c.close = true;
        }
        _ => routes(c),
    })
}

/// Through the API, for the command line has no option for `offer_timeout`.
fn polls(what: &'static str, fault: impl FnOnce(&Net), mend: impl FnOnce(&Net), again: Duration) {
    const HOLD: Duration = Duration::from_secs(2);
    let Some(net) = Net::new() else { return };
    let gateway = start_gateway(&net, "1s", &["--poll-hold", "2s"]);
    let mut limits = Limits::default();
    limits.offer_timeout = HOLD + SECOND;
    let bound = (HOLD + limits.poll_gap, limits.offer_timeout);
    let url = format!("http://{GATEWAY_IP}:{}/lamp", gateway.devices.port());
    let (handle, events) = net.inside(Permit::Device, || {
        let builder = Device::builder(&url)
            .fallback(Fallback::Only)
            .limits(limits)
            .backoff(BACKOFF / 5..BACKOFF);
        let device = builder.build().unwrap();
        let events = device.events();
        (device.spawn(|_| Response::new(Body::from("hello"))).unwrap(), events)
    });
    eventually_within(5 * SECOND, "it is connected", || {
        events.try_iter().find(|e| e.kind == DeviceEventKind::Connected)
    });
    let visit = || visitor(&net, &gateway).ask(&get("/lamp/x")).status();
    assert_eq!(visit(), 200);

    let since = Instant::now();
    fault(&net);
    let failed = |event: &reverse_http::DeviceEvent| {
        matches!(event.kind, DeviceEventKind::Failed | DeviceEventKind::Disconnected)
    };
    let device = eventually_within(bound.1 + 5 * SECOND, "the device knows", || {
        events.try_iter().find(failed).map(|e| (since.elapsed(), e))
    });
    let down = || gateway.process.stderr().contains("lamp: down").then(|| since.elapsed());
    // Where the next poll gets through the device has not been away for as long as poll_gap.
    let known = match again > BACKOFF {
        true => Some(eventually_within(bound.0 + 5 * SECOND, "the gateway knows", down)),
        false => None,
    };
    mend(&net);
    let mended = Instant::now();
    let served = eventually_within(20 * SECOND, "a visitor is served", || {
        (visit() == 200).then(|| mended.elapsed())
    });
    say(&format!(
        "netns {what}: gateway knew after {}, device after {:.2} s; mended, a visitor was served within {:.2} s (device: {})",
        known.map_or("(never away)".to_owned(), |known| format!("{:.2} s", known.as_secs_f64())),
        device.0.as_secs_f64(),
        served.as_secs_f64(),
        device.1.detail
    ));
    within("the gateway knows", known.unwrap_or_default(), bound.0);
    within("the device knows", device.0, bound.1);
    within("served again", served, again);
    assert_eq!(known.is_some(), gateway.process.stderr().contains("lamp: down"));
    handle.stop();
}

fn stopped(what: &'static str, stops_gateway: bool) {
    const STOPPED: Duration = Duration::from_secs(5); // longer than the other side's timeout
    let Some(scene) = Scene::start(what) else { return };
    scene.beats();
    let (stops, knows, words, bound) = match stops_gateway {
        true => (&scene.gateway.process, &scene.device, "disconnected lamp", SILENCE),
        false => (&scene.device, &scene.gateway.process, "lamp: down", HEARTBEAT + ANSWERED),
    };
    let since = Instant::now();
    stops.signal("STOP");
    let known = eventually_within(bound + 5 * SECOND, what, || {
        knows.stderr().contains(words).then(|| since.elapsed())
    });
    std::thread::sleep(STOPPED.saturating_sub(since.elapsed()));
    stops.signal("CONT");
    let served = scene.served(Instant::now());
    say(&format!(
        "netns {what} for {STOPPED:?}: the other side knew after {:.2} s, a visitor was served {:.2} s after it went on",
        known.as_secs_f64(),
        served.as_secs_f64()
    ));
    within("the other side knows", known, bound);
    within("served again", served, BACKOFF);
}

#[test]
fn a_redirect_from_another_machine_never_leads_back_to_the_device() {
    let Some(net) = Net::new() else { return };
    net.hosts(
        Permit::Device,
        "127.0.0.1 localhost\n127.0.0.1 trap.example\n169.254.7.7 near.example\n127.0.0.1 both.example\n10.2.0.2 both.example\n",
    );
    let raw = net.inside(Permit::Gateway, || RawGateway::at("0.0.0.0:0".parse().unwrap()));
    let trap = net.inside(Permit::Device, || RawGateway::at("0.0.0.0:0".parse().unwrap()));
    let (port, trapped) = (raw.addr.port(), trap.addr.port());
    let url = format!("http://{GATEWAY_IP}:{port}/lamp");
    let device = net.ptth(
        Permit::Device,
        &[
            "device",
            &url,
            "--text",
            "x",
            "--redirect-hosts",
            "*",
            "--links",
            "1..1",
            "--backoff",
            "5ms..20ms",
        ],
    );
    let redirect = |location: &str| {
        let (mut peer, head) = raw.offer();
        assert_eq!(head.target(), "/lamp", "before {location}");
        peer.write(format!(
            "HTTP/1.1 307 Temporary Redirect\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
        ));
    };
    for (host, word) in [
        ("127.0.0.1", "loopback"),
        ("127.1", "loopback"), // a name, until it is looked up
        ("localhost", "loopback"),
        ("trap.example", "loopback"),
        ("0.0.0.0", "loopback"),
        ("[::ffff:127.0.0.1]", "loopback"),
        ("169.254.169.254", "link-local"),
        ("near.example", "link-local"),
    ] {
        let before = device.stderr().matches(word).count();
        redirect(&format!("http://{host}:{trapped}/cgi?x=1"));
        eventually(host, || (device.stderr().matches(word).count() > before).then_some(()));
        assert!(trap.try_accept().is_none(), "{host}");
    }
    // Of several addresses the far ones are left.
    redirect(&format!("http://both.example:{port}/lamp2"));
    let (mut peer, head) = raw.offer();
    assert_eq!(head.target(), "/lamp2");
    peer.write(SWITCH);
    assert!(device.line().ends_with("(PTTH/1.0 turn)"));
    assert!(trap.try_accept().is_none());
}
