//! Exchanges, bytes in and bytes out: one file for each phase, and the scene that they play in.
//!
//! ```text
//!   client ─► net ─► downstream │ one exchange │ upstream ─► net ─► server
//! ```
//! Both far ends are in the hands of the test; network and clock are those of the simulation.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

mod collecting;
mod gone;
mod receiving;
mod sending;
mod tunnel;
mod waiting;

use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::close_reason::CloseReason;
use crate::engine::Role;
use crate::engine::connections::{Connections, Id};
use crate::engine::simulated::Loop;
use crate::engine::slab::{Key, Slab};
use crate::limits::Limits;
use crate::proto::body::{Decoder, Framing};
use crate::proto::framed::FramedRequest;
use crate::proto::head::{self, LineEnds};
use crate::relay::{self, Exchange, LocalAnswer, Relaying, Rules};
use crate::sim::net::{self, Conditions, Net, SECOND, Socket};
use crate::sim::rng::Rng;
use crate::stream::{HandshakeError, Stream};

/// The role of the tests: it records its calls, and closes connections that are of no more use.
struct TestRole {
    exchanges: Slab<Box<Exchange>>,
    rules: Arc<Rules>,
    /// Its calls, in words.
    told: Vec<String>,
    /// Others want a connection like the upstream one.
    callers_wait: bool,
}

impl Role for TestRole {
    type State = Key;
    type Command = ();

    fn accepted(&mut self, _: &mut Connections<Key>, _: usize, _: Stream, _: SocketAddr) {}
    fn secured(&mut self, _: &mut Connections<Key>, _: Id, _: Result<(), HandshakeError>) {}
    fn ready(&mut self, cx: &mut Connections<Key>, id: Id) {
        if let Some(key) = cx.get(id).map(|connection| connection.state) {
            relay::advance(self, cx, key);
        }
    }
    fn expired(&mut self, cx: &mut Connections<Key>, id: Id) {
        if let Some(key) = cx.get(id).map(|connection| connection.state) {
            relay::expired(self, cx, key);
        }
    }
    fn alarm(&mut self, _: &mut Connections<Key>, _: u64) {}
    fn command(&mut self, _: &mut Connections<Key>, (): ()) {}
    fn finished(&self, _: &Connections<Key>) -> bool {
        false
    }
}

impl Relaying for TestRole {
    fn exchanges(&mut self) -> &mut Slab<Box<Exchange>> {
        &mut self.exchanges
    }
    fn rules(&self) -> Arc<Rules> {
        self.rules.clone()
    }
    fn free(&mut self, cx: &mut Connections<Key>, link: Id, reusable: Result<(), CloseReason>) {
        match reusable {
            Ok(()) => self.told.push("the link is free".into()),
            Err(why) => {
                self.told.push(format!("the link ends: {}", why.text));
                cx.close(link);
            }
        }
    }
    fn retry(&mut self, _: &mut Connections<Key>, _: Key) {
        self.told.push("find another link".into());
    }
    fn next(&mut self, cx: &mut Connections<Key>, downstream: Id, keep: bool) {
        self.told.push(if keep { "next request" } else { "last response" }.into());
        if !keep {
            cx.close(downstream);
        }
    }
    fn answer(&mut self, cx: &mut Connections<Key>, downstream: Id, answer: &LocalAnswer<'_>) {
        let keep = if answer.keep { ", keep" } else { "" };
        self.told.push(format!("answer {}{keep}: {}", answer.status, answer.reason));
        cx.close(downstream);
    }
    fn downstream_gone(
        &mut self,
        cx: &mut Connections<Key>,
        downstream: Id,
        _: &CloseReason,
        reset: bool,
    ) {
        self.told.push(if reset { "reset the client" } else { "close the client" }.into());
        if reset { cx.reset(downstream) } else { cx.close(downstream) }
    }
    fn callers_wait(&self, _: &Connections<Key>, _: Id) -> bool {
        self.callers_wait
    }
    fn memory_left(&self, _: &Connections<Key>) -> usize {
        1 << 30
    }
}

/// One exchange between two ends.
struct Scene {
    event_loop: Loop<TestRole>,
    client: Option<Socket>,
    server: Option<Socket>,
    downstream: Id,
    key: Key,
    began: Instant,
}

impl Scene {
    /// An exchange for this request, whose head goes on as it is. It waits for a connection.
    fn new(request: &str) -> Scene {
        Scene::with_limits(request, |_| {})
    }

    /// The same under other limits.
    fn with_limits(request: &str, change: impl FnOnce(&mut Limits)) -> Scene {
        let mut limits = Limits::default();
        change(&mut limits);
        let limits = Arc::new(limits);
        let rules = Arc::new(Rules {
            limits: limits.clone(),
            answer_limits: limits.clone(),
            ends: LineEnds::CrlfOrLf,
            via: None,
            add_date: false,
            upstream_name: "the server",
            downstream_may_half_close: true,
            upstream_is_link: true,
        });
        let calm = Conditions { cuts: 0, refusals: 0, delay: 0, splits: false, narrow: 0, work: 0 };
        let mut network = Net::new(Rng::new(1), calm, false);
        let node = network.add_node("relay", None);
        net::install(Some(network));
        let role =
            TestRole { exchanges: Slab::new(), rules, told: Vec::new(), callers_wait: false };
        let began = Instant::now();
        let mut event_loop = Loop::new(node, began, &limits, None, |_| role);

        let head = head::request(request.as_bytes(), &limits, LineEnds::Crlf).unwrap().unwrap();
        let length = head.len;
        let framed = FramedRequest::of(head).unwrap();
        let (client, near) = net::pair().unwrap();
        let text = request.as_bytes()[..length].to_vec();
        // Connection and exchange name one another, and an empty table gives the first of all keys.
        let key = Slab::<()>::new().insert(());
        let downstream = event_loop.connections.insert(near.into(), &[], key).unwrap();
        let exchange = Exchange::new(downstream, &framed, framed.framing(), text, &limits, began);
        assert_eq!(event_loop.role.exchanges.insert(Box::new(exchange)), key);
        let mut scene =
            Scene { event_loop, client: Some(client), server: None, downstream, key, began };
        scene.client_sends(&request[length..]);
        scene
    }

    /// Its downstream side is a link, whose end gives the request up.
    fn of_a_device(mut self) -> Scene {
        let rules = Arc::get_mut(&mut self.event_loop.role.rules).unwrap();
        (rules.downstream_may_half_close, rules.upstream_is_link) = (false, false);
        self
    }

    /// A heartbeat on a link, which has a second.
    fn probe() -> Scene {
        let mut scene = Scene::new("GET /never HTTP/1.1\r\nHost: lamp\r\n\r\n");
        scene.event_loop.role.exchanges.remove(scene.key);
        scene.event_loop.connections.close(scene.downstream);
        let (text, now) = (b"GET / HTTP/1.1\r\nHost: lamp\r\n\r\n".to_vec(), scene.began);
        let limits = scene.event_loop.role.rules.limits.clone();
        let probe = Exchange::heartbeat(text, Duration::from_secs(1), &limits, now);
        scene.key = scene.event_loop.role.exchanges.insert(Box::new(probe));
        scene.attach();
        scene
    }

    /// Gives the exchange an upstream connection.
    fn attach(&mut self) {
        self.attach_behind("");
    }

    /// The same, with bytes on it that go out before the request.
    fn attach_behind(&mut self, first: &str) {
        let (near, far) = net::pair().unwrap();
        self.server = Some(far);
        let Loop { role, connections, .. } = &mut self.event_loop;
        let link = connections.insert(near.into(), &[], self.key).unwrap();
        connections.get_mut(link).unwrap().output().extend_from_slice(first.as_bytes());
        relay::attach(role, connections, self.key, link);
        self.run_until_still();
    }

    /// The exchange's request, sent to a server that has said nothing yet.
    fn sent(request: &str) -> Scene {
        let mut scene = Scene::new(request);
        scene.attach();
        scene.server_reads();
        scene
    }

    /// Gives the exchange a POST of this length as its upstream connection.
    fn attach_post(&mut self, length: u64, first: &str) {
        let (near, far) = net::pair().unwrap();
        self.server = Some(far);
        let Loop { role, connections, .. } = &mut self.event_loop;
        let link = connections.insert(near.into(), &[], self.key).unwrap();
        let mut decoder = Decoder::new(Framing::Length(length), &role.rules.limits);
        decoder.decode(first.as_bytes()).unwrap();
        relay::attach_enclosed(role, connections, self.key, link, decoder, first.into());
        self.run_until_still();
    }

    /// Lets the loop turn until nothing is left to do.
    fn run_until_still(&mut self) {
        const TURNS_MAX: usize = 1000;
        for _ in 0..TURNS_MAX {
            let now = net::with(|net| {
                while let Some(at) = net.next_at() {
                    net.step(at); // a node gets its turn some milliseconds after an event
                }
                net.now
            });
            self.event_loop.turn(self.began + Duration::from_micros(now));
            if !self.event_loop.is_eager() && net::with(|net| net.next_at()).is_none() {
                return;
            }
        }
        panic!("the loop does not come to rest");
    }

    /// Time passes in which nobody does anything.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds * 2 {
            net::with(|net| net.now += SECOND / 2);
            self.run_until_still();
        }
    }

    fn client_sends(&mut self, text: &str) {
        write(self.client.as_ref().unwrap(), text);
        self.run_until_still();
    }
    fn server_sends(&mut self, text: &str) {
        write(self.server.as_ref().unwrap(), text);
        self.run_until_still();
    }
    fn client_reads(&mut self) -> String {
        let text = read(self.client.as_ref().unwrap());
        self.run_until_still();
        text
    }
    fn server_reads(&mut self) -> String {
        let text = read(self.server.as_ref().unwrap());
        self.run_until_still();
        text
    }

    /// The client ends its direction.
    fn client_ends(&mut self) {
        self.client.as_ref().unwrap().shutdown(Shutdown::Write).unwrap();
        self.run_until_still();
    }
    fn server_ends(&mut self) {
        self.server.as_ref().unwrap().shutdown(Shutdown::Write).unwrap();
        self.run_until_still();
    }
    /// The client is gone, with a reset.
    fn client_resets(&mut self) {
        self.client.take().unwrap().abort().unwrap();
        self.run_until_still();
    }
    fn server_resets(&mut self) {
        self.server.take().unwrap().abort().unwrap();
        self.run_until_still();
    }

    fn exchange(&mut self) -> Option<&mut Exchange> {
        self.event_loop.role.exchanges.get_mut(self.key).map(|exchange| &mut **exchange)
    }
    fn is_over(&mut self) -> bool {
        self.exchange().is_none()
    }

    /// What the role was told since this was asked last.
    fn told(&mut self) -> String {
        std::mem::take(&mut self.event_loop.role.told).join("; ")
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        net::install(None);
    }
}

fn write(to: &Socket, text: &str) {
    assert_eq!(to.write(text.as_bytes()).unwrap_or(0), text.len(), "the socket takes all of it");
}

/// All received bytes, followed by `<end>` or `<reset>` if that was received, too.
fn read(from: &Socket) -> String {
    let (mut text, mut piece) = (Vec::new(), vec![0; 4096]);
    let end = loop {
        match from.read(&mut piece) {
            Ok(0) => break "<end>",
            Ok(n) => text.extend_from_slice(&piece[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break "",
            Err(_) => break "<reset>",
        }
    };
    String::from_utf8(text).unwrap() + end
}
