//! One simulated run: its nodes, its events, and the conditions that hold at its end.

mod cast;
mod cluster;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

pub(crate) use self::cluster::Member;
use self::cluster::{Directory, News};
use crate::device::simulated as devices;
use crate::gateway::{TurnMode, simulated as gateways};
use crate::limits::Limits;
use crate::proto::turn::{Encoding, Fallback};
use crate::sim::actors::{Actor, Cx, Ledger};
use crate::sim::net::{self, Happening, MILLI, Micros, Net, SECOND, Weather};
use crate::sim::rng::Rng;

/// Turns of one run; more are a loop that never rests.
const TURNS_MAX: usize = 400_000;
/// When the script is over and the network becomes calm.
const SCRIPT: Micros = 40 * SECOND;
/// How long after that the last visitor may wait: the longest waits of its exchanges, on the
/// slowest network.
const TIME_LIMIT: Micros = 3000 * SECOND;

/// In which gateways hear of each other's devices: what is out of date expires, and each device
/// that lost its gateway has dialled again.
const SETTLES: Micros = 300 * SECOND;

/// How long a role may take to stop: the pending output goes out over the slowest network.
const STOPS: Micros = 2000 * SECOND;

enum Node {
    Gateway(Box<gateways::Simulated>),
    Device(Box<devices::Simulated>),
    Actor(Box<dyn Actor>),
    Gone,
}

/// What the script does.
#[derive(Debug)]
enum Deed {
    /// A device ends without a word, and another run of it begins after so long.
    Restart(usize, Micros),
    /// Another run of the device begins beside it.
    TakeOver(usize, SocketAddr),
    /// The device dials another gateway from its next run on.
    Move(usize, SocketAddr),
    /// Whatever address this is has all its connections reset, or nothing gets through for so long.
    Strike(IpAddr, Option<Micros>),
    RestartGateway(usize),
    RollGateway(usize),
    DisturbDirectory,
    /// A device that was restarted begins.
    Begin(usize),
}

/// How a device is set up, so that it can be set up again.
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

/// What a run came to.
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
    /// Nodes of running devices, by setup.
    running: Vec<(usize, usize)>,
    deeds: Vec<Deed>,
    ledger: Ledger,
    rng: Rng,
    base: Instant,
    calm: bool,
    fair: bool,
    /// The visitors are done: nobody begins any more.
    ends: bool,
    turns: usize,
    /// The gateways, by their numbers.
    members: Vec<Member>,
    directory: Directory,
    /// The node whose wakes are the directory's.
    directory_node: usize,
    /// What the directory has to tell, until it is told: to which gateway, and to which run of it.
    news: Vec<Option<(usize, usize, News)>>,
    /// Of each gateway.
    loops: usize,
    /// The setup of the device whose gateway breaks the protocol.
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
/// What an attacked device may hold: far more than any exchange needs, far less than a flood
/// brings.
const HELD_MAX: usize = 2 << 20;
/// The node whose wakes are the script's.
const SCRIPT_NODE: usize = 0;

/// Runs one seed.
pub(super) fn run(seed: u64, told: bool) -> Outcome {
    let mut rng = Rng::new(seed);
    let fair = rng.permille(150);
    let rough = if fair { 0 } else { rng.range(1, 3) };
    let weather = Weather {
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
    let net = Net::new(Rng::new(seed ^ 0x6E65_7477_6F72_6B00), weather, told);
    let before = net::install(Some(net));
    assert!(before.is_none(), "one simulation at a time in a thread");
    let mut world = World::new(rng, fair);
    world.populate();
    world.play();
    world.end();
    let World { ledger, turns, nodes, members, .. } = world;
    drop((nodes, members));
    let mut violations = ledger.violations;
    let open = net::with(|net| net.open());
    if !open.is_empty() {
        violations.push(format!("sockets that nobody closed: {open:?}"));
    }
    let net = net::install(None).expect("the network of this run");
    Outcome {
        violations,
        fingerprint: net.fingerprint,
        good: ledger.good,
        failed: ledger.failed,
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
            limits.wait_for_link = Duration::from_secs(120); // few links may be wanted by many
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
            deeds: Vec::new(),
            ledger: Ledger::default(),
            base: net::with(|net| net.instant(0)),
            calm: false,
            fair,
            ends: false,
            turns: 0,
            members: Vec::new(),
            directory: Directory::None,
            directory_node: 0,
            news: Vec::new(),
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

    fn do_at(&mut self, at: Micros, deed: Deed) {
        self.deeds.push(deed);
        let number = self.deeds.len() as u64 - 1;
        net::with(|net| net.at(at, Happening::Wake(SCRIPT_NODE, number)));
    }

    /// What an attacked device holds for its gateway has a bound.
    fn check_memory(&mut self, node: usize) {
        let Node::Device(device) = &self.nodes[node] else { return };
        let held = device.event_loop.held();
        if held > HELD_MAX {
            self.ledger.violation(format!("an attacked device holds {held} bytes for its gateway"));
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
            let deed = match self.rng.range(0, if self.gateways() > 1 { 13 } else { 9 }) {
                0..=2 => Deed::Restart(setup, self.rng.skewed(10 * SECOND)),
                3..=4 => Deed::TakeOver(setup, self.some_gateway()),
                5..=6 => Deed::Strike(address, None),
                7..=8 => Deed::Strike(address, Some(self.rng.skewed(90 * SECOND))),
                9 => Deed::RestartGateway(gateway),
                10 => Deed::RollGateway(gateway),
                11 => Deed::DisturbDirectory,
                12 => Deed::Strike(ip(0, gateway + 1), Some(self.rng.skewed(60 * SECOND))),
                _ => Deed::Move(setup, self.some_gateway()),
            };
            self.do_at(at, deed);
        }
    }

    fn act(&mut self, number: u64) {
        let deed =
            std::mem::replace(&mut self.deeds[number as usize], Deed::Strike(ip(9, 9), None));
        net::tell(|| format!("script: {deed:?}"));
        match deed {
            Deed::Begin(_) if self.ends => {}
            Deed::Begin(setup) => self.begin_device(setup, self.setups[setup].gateway),
            Deed::TakeOver(setup, gateway) => {
                let of = self.setups[setup].gateway;
                let is_attacked = self.attacked == Some(setup);
                self.begin_device(setup, if is_attacked { of } else { gateway });
            }
            Deed::Move(setup, _) if self.attacked == Some(setup) => {}
            Deed::Move(setup, gateway) => {
                self.setups[setup].gateway = gateway;
                let at = net::with(|net| net.now) + self.rng.skewed(3 * SECOND);
                self.do_at(at, Deed::Restart(setup, 0));
            }
            Deed::RollGateway(number) => self.roll_gateway(number),
            Deed::RestartGateway(number) => self.restart_gateway(number),
            Deed::DisturbDirectory => self.disturb_directory(),
            Deed::Restart(setup, pause) => {
                let gone: Vec<usize> = self
                    .running
                    .iter()
                    .filter(|(s, _)| *s == setup)
                    .map(|(_, node)| *node)
                    .collect();
                self.running.retain(|(s, _)| *s != setup);
                gone.into_iter().for_each(|node| self.lose(node));
                let at = net::with(|net| net.now) + pause;
                self.do_at(at, Deed::Begin(setup));
            }
            Deed::Strike(address, hole) => net::with(|net| net.strike(address, hole)),
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

    /// Runs until nothing is left, `over` says so, or it is `until`. Returns false if the run is
    /// broken off.
    fn run_until(&mut self, until: Micros, over: impl Fn(&Self) -> bool) -> bool {
        while let Some(at) = self.next_at().filter(|at| *at <= until) {
            if let Some(what) = net::with(|net| net.step(at)) {
                self.happen(what);
            } else {
                // Timers, and no event before them.
                net::with(|net| net.now = net.now.max(at));
                self.fire(at);
            }
            if self.turns > TURNS_MAX {
                self.ledger.violation(format!("a loop does not come to rest: {TURNS_MAX} turns"));
                return false;
            }
            if over(self) || !self.ledger.violations.is_empty() {
                return self.ledger.violations.is_empty();
            }
        }
        net::with(|net| net.now = net.now.max(until.min(net.next_at().unwrap_or(until))));
        true
    }

    /// Lets everybody have a turn whose timer is due.
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

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Wake(SCRIPT_NODE, number) => self.act(number),
            Happening::Wake(node, word) if node == self.directory_node => {
                self.directory_wakes(word)
            }
            Happening::Job(number) => {
                if let Some(job) = net::with(|net| net.take_job(number)) {
                    job();
                    self.directory_was_asked();
                }
            }
            Happening::Wake(node, _) | Happening::Turn(node) => self.turn(node),
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
                    ledger: &mut self.ledger,
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
            self.note_whereabouts();
        }
        if !goes_on {
            self.finished(node);
        }
    }

    /// What a loop of the gateway has asked of the others, or its end, wakes them.
    fn wake_loops(&self, number: usize, node: usize, goes_on: bool) {
        for other in self.members[number].nodes.iter().filter(|other| **other != node) {
            let Node::Gateway(gateway) = &self.nodes[*other] else { continue };
            if gateway.is_eager() || !goes_on {
                net::with(|net| net.wants_turn(*other));
            }
        }
    }

    /// A role has ended by itself.
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
            self.ledger.violation(format!(
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
            .ledger
            .requests
            .iter()
            .filter(|(_, entry)| entry.outcome.is_none())
            .map(|(nonce, _)| *nonce)
            .collect();
        if !waiting.is_empty() {
            self.ledger
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

    /// Where nothing failed on the way, no device has met a failure, whatever visitors sent.
    fn check_fairness(&mut self) {
        let running = self.running.clone();
        for (_, node) in running {
            let Node::Device(device) = &self.nodes[node] else { continue };
            let failures = devices::failures(device);
            if !failures.is_empty() {
                self.ledger
                    .violation(format!("a device met failures in fair weather: {failures:?}"));
            }
        }
    }

    fn end(&mut self) {
        if !self.ledger.violations.is_empty() {
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
            self.ledger.violation(format!(
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
        // Names are forgotten 10 minutes after they went, and at the next tick of 30 s.
        let until = self.now() + 1300 * SECOND;
        if !self.run_until(until, |_| false) {
            return;
        }
        for node in self.gateway_nodes() {
            let Node::Gateway(gateway) = &self.nodes[node] else { continue };
            let left = gateways::leftovers(gateway, false, true);
            if !left.is_empty() {
                self.ledger.violation(format!(
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
            return self.ledger.violation(format!(
                "the gateway was asked to stop and did not within {} s; it has {left}",
                STOPS / SECOND
            ));
        }
        if self.drain_devices() {
            self.leave_actors();
        }
    }
}
