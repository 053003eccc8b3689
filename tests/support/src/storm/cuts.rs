//! T42, T43: a proxy between device and gateway that cuts their connection at every byte of an
//! exchange, either way. Over the fallback every request is answered and its handler runs once;
//! over links it is answered rightly or given up, and nothing unsafe runs twice.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reverse_http::{Body, Device, DeviceHandle, Encoding, Fallback, Gateway, Limits, Routes};

use crate::{RawPeer, eventually, say};

/// Where bytes come from that are counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum From {
    Device,
    Gateway,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Became {
    Right,
    Refused,
    /// Its answer had begun and was aborted.
    Cut,
}

/// A proxy that, once armed, passes this many bytes more of one direction on and then ends the
/// connection that carried the last.
pub struct Cutter {
    pub addr: SocketAddr,
    armed: Arc<Mutex<Option<(From, usize)>>>,
}

impl Cutter {
    pub fn start(gateway: SocketAddr) -> Cutter {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let cutter = Cutter { addr: listener.local_addr().unwrap(), armed: Arc::default() };
        let armed = cutter.armed.clone();
        // Ends with the test's process; its connections end with the device's.
        std::thread::spawn(move || {
            for device in listener.incoming().flatten() {
                let Ok(gateway) = TcpStream::connect(gateway) else { continue };
                for (transport, from, to) in
                    [(From::Device, &device, &gateway), (From::Gateway, &gateway, &device)]
                {
                    let (from, to, armed) =
                        (from.try_clone().unwrap(), to.try_clone().unwrap(), armed.clone());
                    std::thread::spawn(move || pass(transport, from, to, &armed));
                }
            }
        });
        cutter
    }

    pub fn arm(&self, transport: From, bytes: usize) {
        *self.armed.lock().unwrap() = Some((transport, bytes));
    }

    fn has_cut(&self) -> bool {
        self.armed.lock().unwrap().is_none()
    }
}

fn pass(
    transport: From,
    mut from: TcpStream,
    mut to: TcpStream,
    armed: &Mutex<Option<(From, usize)>>,
) {
    let _ = to.set_nodelay(true);
    let mut bytes = [0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut bytes) {
        let passes = {
            let mut armed = armed.lock().unwrap();
            match &mut *armed {
                Some((cut, left)) if *cut == transport && n >= *left => {
                    let left = *left;
                    *armed = None;
                    Some(left)
                }
                Some((cut, left)) if *cut == transport => {
                    *left -= n;
                    None
                }
                _ => None,
            }
        };
        if to.write_all(&bytes[..passes.unwrap_or(n)]).is_err() || passes.is_some() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)); // either may be gone already
}

/// A device behind a cutter, whose handler counts how often it ran for each target.
struct Scene {
    _gateway: Gateway,
    visitors: SocketAddr,
    cutter: Cutter,
    device: DeviceHandle,
    runs: Arc<Mutex<HashMap<String, usize>>>,
    asked: usize,
}

impl Scene {
    /// Polls in this encoding, or links.
    fn start(polls: Option<Encoding>) -> Scene {
        let mut limits = Limits::default();
        limits.redeliver_after = Duration::from_millis(40); // an event that was written whole and lost is waited for so long each time
        let gateway = crate::gateway().listen("127.0.0.1:0").limits(limits).start().unwrap();
        let visitors = gateway.listen_visitors("127.0.0.1:0", Routes::path()).unwrap();
        let cutter = Cutter::start(gateway.devices_addr());
        let builder =
            Device::builder(format!("http://{}/lamp", cutter.addr)).links(1..=1).polls(1..=1);
        let builder = match polls {
            Some(encoding) => builder.fallback(Fallback::Only).poll_encoding(encoding),
            None => builder.fallback(Fallback::Never),
        };
        let device =
            builder.backoff(Duration::from_millis(1)..Duration::from_millis(10)).build().unwrap();
        let runs: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
        let counted = runs.clone();
        let device = device
            .spawn(move |request| {
                let target = request.uri().to_string();
                *counted.lock().unwrap().entry(target.clone()).or_default() += 1;
                http::Response::new(Body::from(target))
            })
            .unwrap();
        eventually("the device is there", || device.stats().transport.map(drop));
        Scene { _gateway: gateway, visitors, cutter, device, runs, asked: 0 }
    }

    /// One exchange: what became of it, and how often the handler ran. A wrong answer is a failure.
    fn ask(&mut self, method: &str) -> (Became, usize) {
        self.asked += 1;
        let target = format!("/nonce-{:05}", self.asked);
        let mut visitor = RawPeer::connect(self.visitors);
        visitor.write(format!(
            "{method} /lamp{target} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
        ));
        let became = match visitor.read_answer_or_cut(method) {
            Ok(answer) if answer.status() == 200 => {
                assert_eq!(answer.text(), target);
                Became::Right
            }
            Ok(answer) => {
                answer.expect_refusal_among(&[502, 503, 504]);
                Became::Refused
            }
            Err(cut) => {
                assert!(
                    target.as_bytes().starts_with(&cut.body),
                    "bytes of another answer: {:?}",
                    cut.body
                );
                Became::Cut
            }
        };
        (became, self.runs.lock().unwrap().get(&target).copied().unwrap_or(0))
    }

    /// Cuts after 0, `step`, 2 `step`... bytes from `transport`, until a cut lies after
    /// `exchanges` exchanges. Returns how many were made.
    fn cut_everywhere(
        &mut self,
        transport: From,
        method: &str,
        step: usize,
        exchanges: usize,
        check: impl Fn(usize, Became, usize),
    ) -> usize {
        const MOST: usize = 4_000; // bytes of `exchanges` exchanges, and many more
        for (made, at) in (0..MOST).step_by(step).enumerate() {
            self.cutter.arm(transport, at);
            for _ in 0..exchanges {
                let (became, runs) = self.ask(method);
                check(at, became, runs);
            }
            if !self.cutter.has_cut() {
                return made;
            }
        }
        panic!("{exchanges} exchanges of more than {MOST} bytes")
    }
}

/// Cuts a device of each kind either way, all at once. `check` is told method, kind, way, place,
/// and what came of it.
fn everywhere<K: Copy + Send>(
    kinds: [(K, Option<Encoding>, &'static str); 2],
    step: usize,
    exchanges: usize,
    check: impl Fn(K, &str, From, usize, Became, usize) + Copy + Send,
) -> usize {
    std::thread::scope(|threads| {
        let mut all = Vec::new();
        for (kind, polls, method) in kinds {
            for transport in [From::Device, From::Gateway] {
                all.push(threads.spawn(move || {
                    let mut scene = Scene::start(polls);
                    let made = scene.cut_everywhere(
                        transport,
                        method,
                        step,
                        exchanges,
                        |at, became, runs| check(kind, method, transport, at, became, runs),
                    );
                    scene.device.stop();
                    made
                }));
            }
        }
        all.into_iter().map(|thread| thread.join().unwrap()).sum()
    })
}

/// Behind every `step`th byte of two exchanges over polls: the reply to an answer brings the next
/// event, so a reply is lost, too.
pub fn of_polls(step: usize) {
    let kinds = [
        (Encoding::Json, Some(Encoding::Json), "POST"),
        (Encoding::Message, Some(Encoding::Message), "GET"),
    ];
    let cuts = everywhere(kinds, step, 2, |encoding, method, transport, at, became, runs| {
        // An answer in message/http streams: its visitor may have the first of it when the rest is
        // cut.
        let streamed =
            became == Became::Cut && encoding == Encoding::Message && transport == From::Device;
        let right = became == Became::Right || streamed;
        assert!(
            right && runs == 1,
            "{method} in {encoding:?}, cut behind {at} bytes from the {transport:?}: {became:?}, run {runs} times"
        );
    });
    say(&format!(
        "polls: cut in {cuts} places of an exchange; every request was answered, every handler ran once"
    ));
    assert!(cuts * step > 1_000, "so few places: {cuts}");
}

/// Behind every `step`th byte of an exchange over a link.
pub fn of_links(step: usize) {
    let cuts = everywhere(
        [(2, None, "GET"), (1, None, "POST")],
        step,
        1,
        |most, method, transport, at, became, runs| {
            let right = runs <= most && (runs > 0 || became != Became::Right);
            assert!(
                right,
                "{method} over a link, cut behind {at} bytes from the {transport:?}: {became:?}, run {runs} times"
            );
        },
    );
    say(&format!(
        "links: cut in {cuts} places of an exchange; no answer was wrong, nothing unsafe ran twice"
    ));
    assert!(cuts * step > 400, "so few places: {cuts}");
}
