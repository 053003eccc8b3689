//! One simulated run: its nodes, its events, and the conditions that hold at its end.

mod cast;
mod cluster;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

pub(crate) use self::cluster::Member;
use self::cluster::{Directory, Report};
use crate::device::simulated as devices;
use crate::gateway::{TurnMode, simulated as gateways};
use crate::limits::Limits;
use crate::proto::turn::{Encoding, Fallback};
use crate::sim::actors::{Actor, Cx, Tally};
use crate::sim::net::{self, Conditions, Event, MILLI, Micros, Net, SECOND};
use crate::sim::rng::Rng;

/// The most turns of a run; more mean a busy loop.
const TURNS_MAX: usize = 400_000;
/// When the script ends, and no further failures are injected.
const SCRIPT: Micros = 40 * SECOND;
/// How long the last visitor may wait after that: the longest timeouts of its exchanges, on the
/// slowest network.
const TIME_LIMIT: Micros = 3000 * SECOND;

/// The time after which gateways must know where each other's devices are: outdated entries have
/// expired, and each device that lost its gateway has dialled again.
const SETTLES: Micros = 300 * SECOND;

/// How long a role may take to stop, while its pending output is sent over the slowest network.
const STOPS: Micros = 2000 * SECOND;

enum Node {
    Gateway(Box<gateways::Simulated>),
    Device(Box<devices::Simulated>),
    Actor(Box<dyn Actor>),
    Gone,
}

/// A step of the script.
#[derive(Debug)]
enum Action {
    /// A device is killed, and restarted after this time.
    Restart(usize, Micros),
    /// A second process of the device starts.
    TakeOver(usize, SocketAddr),
    /// The device dials another gateway after its next restart.
    Move(usize, SocketAddr),
    /// All connections of an address are reset, or stall for this time.
    Strike(IpAddr, Option<Micros>),
    RestartGateway(usize),
    RollGateway(usize),
    DisturbDirectory,
    /// A restarted device begins to dial.
    Begin(usize),
}

/// The setup of a device, kept for its restarts.
#[derive(Clone, Debug)]
struct Setup {
    name: String,
    gateway: SocketAddr,
    ip: IpAddr,
    min: usize,
    max: usize,
    fallback: Fallback,
    polls: usize,
    comet: Option<Encoding>,
}

/// The result of a run.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) violations: Vec<String>,
    pub(super) fingerprint: u64,
    pub(super) good: usize,
    pub(super) failed: usize,
    pub(super) turns: usize,
    pub(super) story: Vec<String>,
}

pub(super) struct World {
    nodes: Vec<Node>,
    setups: Vec<Setup>,
    /// The nodes of running devices, by setup.
    running: Vec<(usize, usize)>,
    actions: Vec<Action>,
    tally: Tally,
    rng: Rng,
    base: Instant,
    calm: bool,
    fair: bool,
    /// The visitors are done, so nothing is started any longer.
    ends: bool,
    turns: usize,
    /// The gateways by number.
    members: Vec<Member>,
    directory: Directory,
    /// The node of the directory's wake-ups.
    directory_node: usize,
    /// Reports of the directory that are not delivered yet, each with its gateway and that one's
    /// process.
    reports: Vec<Option<(usize, usize, Report)>>,
    /// Of each gateway.
    loops: usize,
    /// The setup of the device whose gateway violates the protocol.
    attacked: Option<usize>,
    turn: TurnMode,
    shared_names: bool,
    limits: Limits,
    device_limits: Limits,
}

fn ip(third: u8, last: usize) -> IpAddr {
    IpAddr::from([10, 0, third, last as u8])
}

fn gateway_at(number: usize, port: u16) -> SocketAddr {
    SocketAddr::new(ip(0, number + 1), port)
}

const DEVICES: u16 = 9999;
const VISITORS: u16 = 8080;
const PEERS: u16 = 7000;
/// The most bytes that an attacked device may hold: far more than an exchange needs, far fewer than
/// a flood.
const HELD_MAX: usize = 2 << 20;
/// The node of the script's wake-ups.
const SCRIPT_NODE: usize = 0;

/// Runs one seed.
pub(super) fn run(seed: u64, told: bool) -> Outcome {
    let mut rng = Rng::new(seed);
    let fair = rng.permille(150);
    let rough = if fair { 0 } else { rng.range(1, 3) };
    let conditions = Conditions {
        cuts: [0, 30, 150, 500][rough as usize],
        refusals: [0, 10, 60, 200][rough as usize],
        delay: [2 * MILLI, 300, 30 * MILLI, 400 * MILLI][rng.size(0, 3)],
        splits: rng.permille(700),
        narrow: if fair {
            0
        } else if rng.permille(300) {
            500
        } else {
            20
        },
        work: if fair {
            20 * MILLI
        } else {
            [MILLI, 300 * MILLI, 5 * SECOND, 30 * SECOND][rng.size(0, 3)]
        },
    };
    let net = Net::new(Rng::new(seed ^ 0x6E65_7477_6F72_6B00), conditions, told);
    let before = net::install(Some(net));
    assert!(before.is_none(), "one simulation at a time in a thread");
    let mut world = World::new(rng, fair);
    world.populate();
    world.play();
    world.end();
    let World { tally, turns, nodes, members, .. } = world;
    drop((nodes, members));
    let mut violations = tally.violations;
    let open = net::with(|net| net.open());
    if !open.is_empty() {
        violations.push(format!("sockets that nobody closed: {open:?}"));
    }
    let net = net::install(None).expect("the network of this run");
    Outcome {
        violations,
        fingerprint: net.fingerprint,
        good: tally.good,
        failed: tally.failed,
        turns,
        story: net.story.unwrap_or_default(),
    }
}

impl World {
    fn new(mut rng: Rng, fair: bool) -> Self {
        let mut limits = Limits::default();
        let mut device_limits = Limits::default();
        if !fair && rng.permille(500) {
            limits.in_flight_per_device_max = rng.size(1, 3);
            limits.waiting_per_device_max = rng.size(1, 4);
            limits.links_per_device_max = rng.size(1, 12);
        }
        if !fair && rng.permille(300) {
            limits.message_bytes_max = rng.size(1024, 8192);
            limits.messages_bytes_max = limits.message_bytes_max * rng.size(1, 3);
            device_limits.answer_keep_bytes_max = rng.size(0, 8192);
            device_limits.answer_cache_bytes_max = rng.size(0, 8192);
        }
        if fair {
            limits.wait_for_link = Duration::from_secs(120); // few links for many requests
            limits.half_close_timeout = limits.wait_for_link;
        }
        if rng.permille(400) {
            limits.read_ahead_bytes_max = rng.size(1024, 8192);
            device_limits.read_ahead_bytes_max = rng.size(1024, 8192);
        }
        if !fair && rng.permille(300) {
            limits.exchange_timeout = Duration::from_secs(rng.range(2, 60));
        }
        if !fair && rng.permille(300) {
            limits.heartbeat = Duration::from_secs(rng.range(1, 10));
            limits.heartbeat_timeout = Duration::from_secs(rng.range(1, 4));
            limits.poll_hold = Duration::from_secs(rng.range(1, 10));
            limits.redeliver_after = Duration::from_secs(rng.range(1, 10));
        }
        let mut world = World {
            nodes: Vec::new(),
            setups: Vec::new(),
            running: Vec::new(),
            actions: Vec::new(),
            tally: Tally::default(),
            base: net::with(|net| net.instant(0)),
            calm: false,
            fair,
            ends: false,
            turns: 0,
            members: Vec::new(),
            directory: Directory::None,
            directory_node: 0,
            reports: Vec::new(),
            loops: rng.size(1, 2),
            attacked: None,
            turn: if rng.permille(200) { TurnMode::OnDemand } else { TurnMode::Now },
            shared_names: rng.permille(150),
            limits,
            device_limits,
            rng,
        };
        world.directory = Directory::chosen(&mut world);
        world
    }

    fn instant(&self, at: Micros) -> Instant {
        self.base + Duration::from_micros(at)
    }

    fn add(
        &mut self,
        label: &str,
        address: Option<IpAddr>,
        make: impl FnOnce(&mut Self, usize) -> Node,
    ) -> usize {
        let node = net::with(|net| {
            let node = net.add_node(label, address);
            net.wants_turn(node);
            node
        });
        self.nodes.push(Node::Gone);
        self.nodes[node] = make(self, node);
        node
    }

    fn do_at(&mut self, at: Micros, action: Action) {
        self.actions.push(action);
        let number = self.actions.len() as u64 - 1;
        net::with(|net| net.at(at, Event::Wake(SCRIPT_NODE, number)));
    }

    /// Checks the bound on the memory that an attacked device uses for its gateway.
    fn check_memory(&mut self, node: usize) {
        let Node::Device(device) = &self.nodes[node] else { return };
        let held = device.event_loop.held();
        if held > HELD_MAX {
            self.tally.violation(format!("an attacked device holds {held} bytes for its gateway"));
        }
    }

    fn write_script(&mut self) {
        for _ in 0..self.rng.skewed(6) {
            let at = self.rng.range(SECOND, SCRIPT);
            let setup = self.rng.size(0, self.setups.len() - 1);
            let address = match self.rng.range(0, 3) {
                0 => ip(2, self.rng.size(1, 8)),
                1 => ip(3, self.rng.size(1, 2)),
                _ => self.setups[setup].ip,
            };
            let gateway = self.rng.size(0, self.gateways() - 1);
            let action = match self.rng.range(0, if self.gateways() > 1 { 13 } else { 9 }) {
                0..=2 => Action::Restart(setup, self.rng.skewed(10 * SECOND)),
                3..=4 => Action::TakeOver(setup, self.some_gateway()),
                5..=6 => Action::Strike(address, None),
                7..=8 => Action::Strike(address, Some(self.rng.skewed(90 * SECOND))),
                9 => Action::RestartGateway(gateway),
                10 => Action::RollGateway(gateway),
                11 => Action::DisturbDirectory,
                12 => Action::Strike(ip(0, gateway + 1), Some(self.rng.skewed(60 * SECOND))),
                _ => Action::Move(setup, self.some_gateway()),
            };
            self.do_at(at, action);
        }
    }

    fn act(&mut self, number: u64) {
        let action =
            std::mem::replace(&mut self.actions[number as usize], Action::Strike(ip(9, 9), None));
        net::tell(|| format!("script: {action:?}"));
        match action {
            Action::Begin(_) if self.ends => {}
            Action::Begin(setup) => self.begin_device(setup, self.setups[setup].gateway),
            Action::TakeOver(setup, gateway) => {
                let of = self.setups[setup].gateway;
                let is_attacked = self.attacked == Some(setup);
                self.begin_device(setup, if is_attacked { of } else { gateway });
            }
            Action::Move(setup, _) if self.attacked == Some(setup) => {}
            Action::Move(setup, gateway) => {
                self.setups[setup].gateway = gateway;
                let at = net::with(|net| net.now) + self.rng.skewed(3 * SECOND);
                self.do_at(at, Action::Restart(setup, 0));
            }
            Action::RollGateway(number) => self.roll_gateway(number),
            Action::RestartGateway(number) => self.restart_gateway(number),
            Action::DisturbDirectory => self.disturb_directory(),
            Action::Restart(setup, pause) => {
                let gone: Vec<usize> = self
                    .running
                    .iter()
                    .filter(|(s, _)| *s == setup)
                    .map(|(_, node)| *node)
                    .collect();
                self.running.retain(|(s, _)| *s != setup);
                gone.into_iter().for_each(|node| self.lose(node));
                let at = net::with(|net| net.now) + pause;
                self.do_at(at, Action::Begin(setup));
            }
            Action::Strike(address, hole) => net::with(|net| net.strike(address, hole)),
        }
    }

    fn lose(&mut self, node: usize) {
        self.nodes[node] = Node::Gone; // its sockets close
        drop(net::with(|net| net.lose_node(node)));
    }

    // --- time ---

    /// The next event of any node, with its time.
    fn next_at(&self) -> Option<Micros> {
        let timers = self.nodes.iter().filter_map(|node| match node {
            Node::Gateway(gateway) => gateway.next_timer(),
            Node::Device(device) => device.event_loop.next_timer(),
            _ => None,
        });
        let timers = timers
            .map(|at| at.saturating_duration_since(self.base).as_nanos().div_ceil(1000) as Micros)
            .min();
        let events = net::with(|net| net.next_at());
        timers.into_iter().chain(events).min()
    }

    /// Runs until no event is left, `over` returns true, or `until` is reached. Returns false if the
    /// run was aborted.
    fn run_until(&mut self, until: Micros, over: impl Fn(&Self) -> bool) -> bool {
        while let Some(at) = self.next_at().filter(|at| *at <= until) {
            if let Some(what) = net::with(|net| net.step(at)) {
                self.happen(what);
            } else {
                // Timers are due, and no event comes before them.
                net::with(|net| net.now = net.now.max(at));
                self.fire(at);
            }
            if self.turns > TURNS_MAX {
                self.tally.violation(format!("a loop does not come to rest: {TURNS_MAX} turns"));
                return false;
            }
            if over(self) || !self.tally.violations.is_empty() {
                return self.tally.violations.is_empty();
            }
        }
        net::with(|net| net.now = net.now.max(until.min(net.next_at().unwrap_or(until))));
        true
    }

    /// Gives a turn to each node whose timer is due.
    fn fire(&mut self, at: Micros) {
        let at = self.instant(at);
        for node in 0..self.nodes.len() {
            let timer = match &self.nodes[node] {
                Node::Gateway(gateway) => gateway.next_timer(),
                Node::Device(device) => device.event_loop.next_timer(),
                _ => None,
            };
            if timer.is_some_and(|timer| timer <= at) {
                self.turn(node);
            }
        }
    }

    fn happen(&mut self, what: Event) {
        match what {
            Event::Wake(SCRIPT_NODE, number) => self.act(number),
            Event::Wake(node, word) if node == self.directory_node => self.directory_wakes(word),
            Event::Job(number) => {
                if let Some(job) = net::with(|net| net.take_job(number)) {
                    job();
                    self.directory_was_asked();
                }
            }
            Event::Wake(node, _) | Event::Turn(node) => self.turn(node),
            _ => {}
        }
    }

    fn turn(&mut self, node: usize) {
        self.turns += 1;
        let now = net::with(|net| {
            net.current = node;
            net.now
        });
        let instant = self.instant(now);
        let (goes_on, eager) = match &mut self.nodes[node] {
            Node::Gateway(gateway) => (gateway.turn(instant), gateway.is_eager()),
            Node::Device(device) => (device.event_loop.turn(instant), device.event_loop.is_eager()),
            Node::Actor(actor) => {
                net::with(|net| net.take_ready(node));
                let mut cx = Cx {
                    node,
                    now,
                    rng: &mut self.rng,
                    tally: &mut self.tally,
                    calm: self.calm,
                    gateways: &self.members,
                };
                actor.step(&mut cx);
                (true, false)
            }
            Node::Gone => (true, false),
        };
        if goes_on && eager {
            net::with(|net| net.wants_turn(node));
        }
        if self.attacked.is_some_and(|attacked| self.running.contains(&(attacked, node))) {
            self.check_memory(node);
        }
        if let Some(number) = self.member_of(node) {
            self.wake_loops(number, node, goes_on);
            self.look_after(number);
            self.note_locations();
        }
        if !goes_on {
            self.finished(node);
        }
    }

    /// Wakes the other loops of a gateway after one of them has sent them commands, or has ended.
    fn wake_loops(&self, number: usize, node: usize, goes_on: bool) {
        for other in self.members[number].nodes.iter().filter(|other| **other != node) {
            let Node::Gateway(gateway) = &self.nodes[*other] else { continue };
            if gateway.is_eager() || !goes_on {
                net::with(|net| net.wants_turn(*other));
            }
        }
    }

    /// Handles a role that has ended by itself.
    fn finished(&mut self, node: usize) {
        let left = match &self.nodes[node] {
            Node::Gateway(_) if self.is_cut_off(node) => Vec::new(),
            Node::Gateway(gateway) => gateways::leftovers(gateway, true, self.is_last_loop(node)),
            Node::Device(device) => devices::leftovers(device),
            _ => Vec::new(),
        };
        let label = net::with(|net| net.label(node).to_owned());
        net::tell(|| format!("{label} (node {node}) has ended"));
        if !left.is_empty() {
            self.tally.violation(format!(
                "{label} (node {node}) ended and left behind: {}",
                left.join(", ")
            ));
        }
        self.running.retain(|(_, running)| *running != node);
        self.lose(node);
        if let Some(number) = self.member_of(node) {
            self.loop_ended(number);
        }
    }

    // --- the run ---

    fn visitors_are_done(&self) -> bool {
        self.nodes.iter().all(|node| !matches!(node, Node::Actor(actor) if !actor.is_done()))
    }

    fn play(&mut self) {
        if !self.run_until(SCRIPT, |_| false) {
            return;
        }
        self.calm = true;
        net::with(|net| net.calm());
        self.directory_calm();
        if !self.run_until(SCRIPT + TIME_LIMIT, Self::visitors_are_done) {
            return;
        }
        let waiting: Vec<u64> = self
            .tally
            .requests
            .iter()
            .filter(|(_, entry)| entry.outcome.is_none())
            .map(|(nonce, _)| *nonce)
            .collect();
        if !waiting.is_empty() {
            self.tally
                .violation(format!("requests that were neither answered nor failed: {waiting:?}"));
        }
        if self.fair {
            self.check_fairness();
        }
        if self.gateways() > 1
            && self.attacked.is_none()
            && self.run_until(self.now() + SETTLES, |_| false)
        {
            self.check_owners();
        }
    }

    /// Checks that without injected failures no device has counted one, whatever visitors sent.
    fn check_fairness(&mut self) {
        let running = self.running.clone();
        for (_, node) in running {
            let Node::Device(device) = &self.nodes[node] else { continue };
            let failures = devices::failures(device);
            if !failures.is_empty() {
                self.tally.violation(format!(
                    "a device counted failures without injected ones: {failures:?}"
                ));
            }
        }
    }

    fn end(&mut self) {
        if !self.tally.violations.is_empty() {
            return;
        }
        self.ends = true;
        if self.rng.permille(500) {
            self.end_gateway_first();
        } else {
            self.end_devices_first();
        }
    }

    fn now(&self) -> Micros {
        net::with(|net| net.now)
    }

    /// Asks all devices to stop, and waits until they have.
    fn drain_devices(&mut self) -> bool {
        let longest = Duration::from_secs(3600);
        for (_, node) in self.running.clone() {
            if let Node::Device(device) = &self.nodes[node] {
                devices::drain(device, longest);
                net::with(|net| net.wants_turn(node));
            }
        }
        net::tell(|| "--- the devices are asked to stop ---".to_owned());
        let until = self.now() + STOPS;
        if !self.run_until(until, |world| world.running.is_empty()) {
            return false;
        }
        if !self.running.is_empty() {
            let running = self.running.clone();
            let left: Vec<String> = running
                .iter()
                .filter_map(|(_, node)| match &self.nodes[*node] {
                    Node::Device(device) => {
                        Some(format!("node {node}: {}", devices::leftovers(device).join(", ")))
                    }
                    _ => None,
                })
                .collect();
            self.tally.violation(format!(
                "devices that were asked to stop did not within {} s: {left:?}",
                STOPS / SECOND
            ));
            return false;
        }
        true
    }

    fn leave_actors(&mut self) {
        for node in &mut self.nodes {
            if let Node::Actor(actor) = node {
                actor.leave();
            }
        }
    }

    fn gateway_nodes(&self) -> Vec<usize> {
        self.members.iter().flat_map(|member| member.nodes.iter().copied()).collect()
    }

    fn end_devices_first(&mut self) {
        if !self.drain_devices() {
            return;
        }
        self.leave_actors();
        // Names are forgotten 10 minutes after they disconnected, at the next tick of 30 s.
        let until = self.now() + 1300 * SECOND;
        if !self.run_until(until, |_| false) {
            return;
        }
        for node in self.gateway_nodes() {
            let Node::Gateway(gateway) = &self.nodes[node] else { continue };
            let left = gateways::leftovers(gateway, false, true);
            if !left.is_empty() {
                self.tally.violation(format!(
                    "nobody is connected any more, and the gateway still has {}",
                    left.join(", ")
                ));
            }
        }
    }

    fn end_gateway_first(&mut self) {
        let nodes = self.gateway_nodes();
        (0..self.members.len())
            .for_each(|number| self.drain_gateway(number, Duration::from_secs(3600)));
        net::tell(|| "--- the gateways are asked to stop ---".to_owned());
        let until = self.now() + STOPS;
        let gone = |world: &Self| nodes.iter().all(|node| matches!(world.nodes[*node], Node::Gone));
        if !self.run_until(until, gone) {
            return;
        }
        for node in &nodes {
            let Node::Gateway(gateway) = &self.nodes[*node] else { continue };
            let left = gateways::leftovers(gateway, true, true).join(", ");
            return self.tally.violation(format!(
                "the gateway was asked to stop and did not within {} s; it has {left}",
                STOPS / SECOND
            ));
        }
        if self.drain_devices() {
            self.leave_actors();
        }
    }
}
