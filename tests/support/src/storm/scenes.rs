//! Storms beside the fleet's: take-overs, processes that stand still, limits on descriptors, offers
//! that are never finished. Sizes and times are parameters: small in the tests, full in
//! `benches/storm.rs`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use reverse_http::{Body, Device, DeviceHandle, Fallback};

use crate::process::{get, offer};
use crate::{
    Gateway, LocalServer, Process, Ptth, RawPeer, eventually, eventually_within, say, slack,
};

/// Asks without pause until it is stopped: every answer is right, or one of the refusals that it
/// may be; none takes longer than `within`.
pub struct Asking {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Asked>,
}

#[derive(Default)]
pub struct Asked {
    pub right: usize,
    pub refused: Vec<u16>,
    pub slowest: Duration,
}

impl Asking {
    /// `name`'s answer to `/NONCE` ends with the nonce.
    pub fn start(
        visitors: SocketAddr,
        name: &str,
        allowed: &'static [u16],
        within: Duration,
    ) -> Asking {
        let (stop, name) = (Arc::new(AtomicBool::new(false)), name.to_owned());
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut asked, mut visitor, mut n) = (Asked::default(), None, 0);
            while !stopped.load(Relaxed) {
                n += 1;
                let mut peer = visitor.take().unwrap_or_else(|| RawPeer::connect(visitors));
                peer.deadline = within + Duration::from_secs(1);
                let began = Instant::now();
                let answer = peer.ask(&get(&format!("/{name}/nonce-{n}")));
                asked.slowest = asked.slowest.max(began.elapsed());
                if answer.status() == 200 {
                    assert!(
                        answer.text().ends_with(&format!("/nonce-{n}")),
                        "a wrong answer to nonce-{n}: {}",
                        answer.text()
                    );
                    asked.right += 1;
                } else {
                    answer.expect_refusal_among(allowed);
                    assert!(
                        answer.head.get("proxy-status").is_some(),
                        "no reason in {}",
                        answer.head.text()
                    );
                    asked.refused.push(answer.status());
                }
                if !answer.head.closes() {
                    visitor = Some(peer);
                }
            }
            asked
        });
        Asking { stop, thread }
    }

    pub fn stop(self) -> Asked {
        self.stop.store(true, Relaxed);
        self.thread
            .join()
            .unwrap_or_else(|_| panic!("a visitor that asked without pause failed; see above"))
    }
}

/// How the devices of a take-over are reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Transport {
    Links,
    Polls,
}

/// A device of this process, of a session of its own, that answers with the target that it was
/// asked for.
fn echoing(gateway: &Gateway, name: &str, transport: Transport) -> DeviceHandle {
    let fallback = if transport == Transport::Polls { Fallback::Only } else { Fallback::Never };
    let device = Device::builder(gateway.device_url(name))
        .links(1..=2)
        .polls(1..=1)
        .fallback(fallback)
        .build()
        .unwrap();
    device.spawn(|request| http::Response::new(Body::from(request.uri().to_string()))).unwrap()
}

/// T21: session after session takes one name, while it is asked for without pause. Nothing of those
/// that were replaced is left behind.
pub fn take_overs(count: usize, transport: Transport) {
    let gateway = Gateway::start(&[]);
    let open = gateway.process.descriptors();
    let started = || {
        let device = echoing(&gateway, "lamp", transport);
        eventually("a take-over", || device.stats().transport.map(drop));
        device
    };
    let mut device = started();
    let downstream = Asking::start(gateway.visitors, "lamp", &[502, 503], Duration::from_secs(10));
    let mut warm = None;
    for n in 0..count {
        let next = started();
        std::mem::replace(&mut device, next).drain(Duration::ZERO); // what it has in progress is cut; its visitor is told
        if n == count / 5 {
            warm = Some((gateway.process.threads(), gateway.process.resident_kib()));
        }
    }
    let asked = downstream.stop();
    gateway.get("/lamp/last").expect_ok("/last");
    device.stop();
    let (threads, memory) = warm.unwrap();
    eventually("the descriptors of those that were replaced are given back", || {
        (gateway.process.descriptors() <= open).then_some(())
    });
    let after = gateway.process.resident_kib();
    say(&format!(
        "take-overs of a name, over {transport:?}: {count}; meanwhile a visitor got {} right answers and {} refusals, the slowest after {:.0} ms; \
         gateway {memory} KiB and {threads} threads after a fifth of them, {after} KiB and {} threads at the end",
        asked.right,
        asked.refused.len(),
        asked.slowest.as_secs_f64() * 1e3,
        gateway.process.threads()
    ));
    assert!(asked.right > 0, "no answer but refusals: {:?}", asked.refused);
    assert!(gateway.process.threads() <= threads);
    assert!(
        after <= memory + 4 * 1024,
        "{after} KiB after {count} take-overs, {memory} KiB after a fifth of them"
    );
}

/// How soon the gateway notices.
#[derive(Clone, Copy)]
pub struct Pace {
    pub heartbeat: &'static str,
    /// Of a heartbeat, and of an answer's first byte.
    pub deadline: Duration,
}

/// T40: SIGSTOP for a device. Its visitors are told in time, others notice nothing, and afterwards
/// it is back by itself.
pub fn stopped_device(time: Duration, pace: Pace) {
    let deadline = format!("{}ms", pace.deadline.as_millis());
    let gateway = Gateway::start(&[
        "--heartbeat",
        pace.heartbeat,
        "--heartbeat-timeout",
        &deadline,
        "--first-byte",
        &deadline,
        "--wait-for-link",
        &deadline,
    ]);
    let device = Ptth::device(&gateway, "lamp", &["--text", "on", "--links", "4..8"]);
    let other = echoing(&gateway, "desk", Transport::Links);
    eventually("the other device is there", || other.stats().transport.map(drop));
    let downstream = Asking::start(gateway.visitors, "desk", &[], Duration::from_secs(2));
    gateway.get("/lamp/x").expect_ok("on");
    device.signal("STOP");
    let stopped = Instant::now();
    let (mut told, mut slowest) = (0, Duration::ZERO);
    while stopped.elapsed() < time {
        // Twice: a safe request whose link died unanswered may try another one.
        let (began, most) = (Instant::now(), 3 * pace.deadline + Duration::from_secs(1));
        let mut visitor = gateway.visitor();
        visitor.deadline = most;
        visitor.ask(&get("/lamp/x")).expect_refusal_among(&[502, 503, 504]);
        (told, slowest) = (told + 1, slowest.max(began.elapsed()));
    }
    device.signal("CONT");
    let went_on = Instant::now();
    eventually_within(Duration::from_secs(5), "the device is back by itself", || {
        (gateway.get("/lamp/x").status() == 200).then_some(())
    });
    let back = went_on.elapsed();
    let asked = downstream.stop();
    say(&format!(
        "a device that stood still for {:.1} s: {told} visitors were told, the slowest after {:.2} s; served again {:.0} ms after it went on; \
         another device's visitor got {} answers meanwhile, the slowest after {:.0} ms",
        time.as_secs_f64(),
        slowest.as_secs_f64(),
        back.as_secs_f64() * 1e3,
        asked.right,
        asked.slowest.as_secs_f64() * 1e3
    ));
    other.stop();
}

/// T40: SIGSTOP for the gateway, for longer than any of its deadlines (`deadline`): none of them
/// expires for what it missed itself.
pub fn stopped_gateway(time: Duration, deadline: Duration) {
    let allowed = format!("{}ms", deadline.as_millis());
    let mut options = Vec::new();
    for option in [
        "--first-byte",
        "--head",
        "--idle-visitor",
        "--body-silence",
        "--wait-for-link",
        "--heartbeat-timeout",
    ] {
        options.extend([option, &allowed]);
    }
    options.extend(["--heartbeat", "500ms"]);
    let gateway = Gateway::start(&options);
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let local = LocalServer::with(move |c| {
        if c.head.target() == "/slow" {
            let _ = held.lock().unwrap().recv_timeout(Duration::from_secs(120)); // a dropped sender is the release
        }
        c.text("on");
    });
    let device = Ptth::device(&gateway, "lamp", &["--to", &local.url(), "--links", "4..8"]);
    let polling = Ptth::start(&[
        "device",
        &gateway.device_url("post"),
        "--text",
        "by post",
        "--fallback",
        "only",
    ]);
    polling.line();

    // In progress when it stops: an answer that is awaited, a head half sent, an upload half sent,
    // a connection between two requests.
    let mut idle = gateway.visitor();
    idle.ask(&get("/lamp/x")).expect_ok("on");
    let mut slow = gateway.visitor();
    slow.write(get("/lamp/slow"));
    eventually("the slow request is there", || (local.count() == 2).then_some(()));
    let mut half = gateway.visitor();
    half.write("GET /lamp/x HTTP/1.1\r\nHo");
    let mut upload = gateway.visitor();
    upload.write("POST /lamp/up HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab");
    eventually("the upload is there", || (local.count() == 3).then_some(()));

    gateway.process.signal("STOP");
    std::thread::sleep(time); // this is what is tested
    gateway.process.signal("CONT");
    let went_on = Instant::now();
    for visitor in [&mut idle, &mut slow, &mut half, &mut upload] {
        visitor.deadline = Duration::from_secs(20);
    }
    gateway.get("/lamp/x").expect_ok("on");
    let served = went_on.elapsed();
    gateway.get("/post/x").expect_ok("by post");
    idle.ask(&get("/lamp/x")).expect_ok("on");
    half.write("st: a\r\n\r\n");
    half.read_answer("GET").expect_ok("on");
    upload.write("cd");
    upload.read_answer("POST").expect_ok("on");
    drop(release);
    slow.read_answer("GET").expect_ok("on");
    let lost = device.stderr().matches("disconnected").count();
    say(&format!(
        "a gateway that stood still for {:.1} s: visitors are served {:.0} ms after it went on; {lost} devices lost their links, and what was in progress \
         was finished",
        time.as_secs_f64(),
        served.as_secs_f64() * 1e3
    ));
}

/// T27: more visitors than descriptors.
pub fn gateway_at_its_limit(count: usize) {
    let command =
        Ptth::command(&["gateway", "--devices", "127.0.0.1:0", "--visitors", "127.0.0.1:0"]);
    let gateway = Gateway::of(Process::start(&mut limited(64, &command)));
    let device = Ptth::device(&gateway, "lamp", &["--text", "on", "--links", "2..4"]);
    let mut early = gateway.visitor();
    early.ask(&get("/lamp/x")).expect_ok("on");
    let crowd: Vec<RawPeer> = (0..count).map(|_| gateway.visitor()).collect();
    gateway.process.expect_stderr("connections_per_address_max"); // one address takes a quarter of what the descriptors allow
    for _ in 0..50 {
        early.ask(&get("/lamp/x")).expect_ok("on");
    }
    let spent = spent_in_a_second(&gateway.process);
    say(&format!(
        "a gateway with 64 descriptors and {count} visitors: {spent} ms of CPU in a second"
    ));
    assert!(spent < 250, "it spins: {spent} ms of CPU in a second");
    drop(crowd);
    gateway.get("/lamp/x").expect_ok("on");
    early.ask(&get("/lamp/x")).expect_ok("on");
    drop(device);
}

/// The same for a device whose local connections outnumber its descriptors.
pub fn device_at_its_limit(count: usize) {
    let gateway = Gateway::start(&[]);
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let local = LocalServer::with(move |c| {
        let _ = held.lock().unwrap().recv_timeout(Duration::from_secs(60)); // a dropped sender is the release
        c.text("on");
    });
    let url = gateway.device_url("lamp");
    let command = Ptth::command(&[
        "device",
        &url,
        "--to",
        &local.url(),
        "--links",
        "1..64",
        "--backoff",
        "10ms..200ms",
    ]);
    let device = Process::start(&mut limited(32, &command));
    device.line();
    let mut crowd: Vec<RawPeer> = (0..count)
        .map(|_| {
            let mut visitor = gateway.visitor();
            visitor.write(get("/lamp/x"));
            visitor
        })
        .collect();
    eventually("it is at its limit", || (device.descriptors() >= 31).then_some(()));
    let spent = spent_in_a_second(&device);
    drop(release);
    let (mut right, mut refused) = (0, 0);
    for visitor in &mut crowd {
        visitor.deadline = Duration::from_secs(20);
        match visitor.read_answer("GET") {
            answer if answer.status() == 200 => right += 1,
            answer => {
                answer.expect_refusal_among(&[502, 503]);
                refused += 1;
            }
        }
    }
    let told = device.stderr();
    assert!(told.contains("out of descriptors") && !told.contains("is it running"), "{told}");
    say(&format!(
        "a device with 32 descriptors and {count} requests: {right} answered, {refused} refused, {spent} ms of CPU in a second"
    ));
    assert!(right > 0, "not one was answered");
    assert!(spent < 250, "it spins: {spent} ms of CPU in a second");
    drop(crowd);
    for _ in 0..20 {
        gateway.get("/lamp/x").expect_ok("on");
    }
}

/// The command with this many descriptors at most.
fn limited(descriptors: usize, command: &std::process::Command) -> std::process::Command {
    let mut limited = std::process::Command::new("sh");
    limited
        .args(["-c", &format!("ulimit -n {descriptors} && exec \"$@\""), "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    limited
}

/// Milliseconds of CPU that a process takes within a second.
fn spent_in_a_second(process: &Process) -> u64 {
    let before = process.cpu_ticks();
    std::thread::sleep(Duration::from_secs(1)); // the span over which a spin would show
    (process.cpu_ticks() - before) * 10
}

/// How long a connection that was told 408 is read from (`linger_timeout`).
const LINGER: Duration = Duration::from_secs(5);

/// T28: connections to the devices' port that never finish their offer, in three stages of it.
pub fn half_offers(count: usize, head: Duration) {
    let allowed = format!("{}ms", head.as_millis());
    let gateway = Gateway::start(&["--head", &allowed, "--body-silence", &allowed]);
    let device = echoing(&gateway, "lamp", Transport::Links);
    eventually("the device is there", || device.stats().transport.map(drop));
    let downstream = Asking::start(gateway.visitors, "lamp", &[], Duration::from_secs(5));
    eventually("at rest", || (gateway.get("/lamp/x").status() == 200).then_some(()));
    let (threads, open, memory) =
        (gateway.process.threads(), gateway.process.descriptors(), gateway.process.resident_kib());
    let began = Instant::now();
    let whole = offer("half", "");
    let body =
        whole.replace("Content-Length: 0", "Content-Type: application/json\r\nContent-Length: 9");
    let halves: Vec<RawPeer> = (0..count)
        .map(|n| {
            let mut half = gateway.dial();
            match n % 3 {
                0 => {}
                // Its time may be over before this process has come to write.
                1 => drop(half.try_write(&whole[..whole.len() / 2])),
                _ => drop(half.try_write(&body)),
            }
            half
        })
        .collect();
    let dialled = began.elapsed();
    let (most_threads, most_memory) = (gateway.process.threads(), gateway.process.resident_kib());
    let within = head + LINGER + slack();
    eventually_within(within, "half offers are reaped", || {
        (gateway.process.descriptors() <= open + 1).then_some(())
    });
    let reaped = began.elapsed();
    let asked = downstream.stop();
    say(&format!(
        "half offers: {count} within {:.1} s, all reaped after {:.1} s (deadline {:.1} s); {threads} threads before, {most_threads} with them; {} KiB each; \
         a visitor got {} answers meanwhile, the slowest after {:.0} ms",
        dialled.as_secs_f64(),
        reaped.as_secs_f64(),
        head.as_secs_f64(),
        most_memory.saturating_sub(memory) / count as u64,
        asked.right,
        asked.slowest.as_secs_f64() * 1e3
    ));
    assert!(
        most_threads <= threads + 1,
        "{most_threads} threads with {count} half offers, {threads} without"
    );
    drop(halves);
    device.stop();
}
