//! The actors of a run: gateways, devices, local servers, visitors, programs, attackers.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::{Action, DEVICES, Node, Setup, VISITORS, World, gateway_at, ip};
use crate::device::{self, Device, simulated as devices};
use crate::proto::turn::{Encoding, Fallback};
use crate::sim::actors::Entry;
use crate::sim::attackers::{Attacker, HostileGateway};
use crate::sim::hostile_devices::{Hostile, HostilePoller};
use crate::sim::net::{self, Event, MILLI, SECOND};
use crate::sim::origin::Origin;
use crate::sim::programs::Program;
use crate::sim::tunnels::Tunnelling;
use crate::sim::visitor::{Request, Visitor};

impl World {
    pub(super) fn populate(&mut self) {
        self.add("script", None, |_, _| Node::Gone);
        self.directory_node = self.add("directory", None, |_, _| Node::Gone);
        (0..self.gateways()).for_each(|number| self.begin_gateway(number));
        let count = self.rng.size(1, 3);
        for n in 1..=count {
            let setup = self.setup(n);
            self.setups.push(setup);
            self.add_origin(n);
            let at = if self.fair { 0 } else { self.rng.skewed(5 * SECOND) };
            self.do_at(at, Action::Begin(n - 1));
        }
        let mut names: Vec<String> = self.setups.iter().map(|setup| setup.name.clone()).collect();
        if !self.fair && self.rng.permille(400) {
            let (links, gateway) = (self.rng.size(1, 3), self.some_gateway());
            self.add("hostile", Some(ip(3, 1)), |_, _| {
                Node::Actor(Box::new(Hostile::new(
                    "hostile".to_owned(),
                    gateway,
                    "h1".to_owned(),
                    links,
                )))
            });
            names.push("h1".to_owned());
        }
        if !self.fair && self.rng.permille(300) {
            let gateway = self.some_gateway();
            self.add("poller", Some(ip(3, 2)), |_, _| {
                Node::Actor(Box::new(HostilePoller::new(
                    "poller".to_owned(),
                    gateway,
                    "h2".to_owned(),
                )))
            });
            names.push("h2".to_owned());
        }
        let mut nonce = 0;
        for n in 1..=self.rng.size(1, 8) {
            self.add_visitor(n, &names, &mut nonce);
        }
        self.add_strangers(count, &names, &mut nonce);
        if !self.fair {
            self.write_script();
        }
    }

    fn setup(&mut self, n: usize) -> Setup {
        let gateway = self.some_gateway();
        let rng = &mut self.rng;
        let min = rng.size(1, 3);
        let only = rng.permille(350);
        Setup {
            name: format!("d{n}"),
            gateway,
            ip: ip(1, n),
            min,
            max: min + rng.size(0, 4),
            fallback: if only { Fallback::Only } else { Fallback::Auto },
            polls: rng.size(1, 3),
            comet: match rng.range(0, 2) {
                0 => Some(Encoding::Message),
                1 if cfg!(feature = "comet") => Some(Encoding::Json),
                _ => None,
            },
        }
    }

    /// A gateway's address for visitors.
    fn some_door(&mut self) -> SocketAddr {
        gateway_at(self.rng.size(0, self.gateways() - 1), VISITORS)
    }

    fn add_origin(&mut self, n: usize) {
        let rough = !self.fair && self.rng.permille(700);
        let node = self.add(&format!("server{n}"), None, |_, _| {
            Node::Actor(Box::new(Origin::new(format!("server{n}"), rough)))
        });
        net::with(|net| net.listen(SocketAddr::new(ip(1, n), 80), node, 0));
    }

    pub(super) fn begin_device(&mut self, setup: usize, gateway: SocketAddr) {
        let Setup { name, ip, min, max, fallback, polls, comet, .. } = self.setups[setup].clone();
        let limits = self.device_limits.clone();
        let node = self.add(&name, Some(ip), |world, node| {
            let url = format!("http://{gateway}/{name}");
            let builder = Device::builder(url).links(min..=max).fallback(fallback).polls(polls..=polls).limits(limits);
            let builder = comet.into_iter().fold(builder, device::DeviceBuilder::poll_encoding);
            let now = net::with(|net| {
                net.tell(|| format!("{name} begins on node {node} for {gateway}: links {min}..{max}, {fallback:?}, {polls} polls, {comet:?}"));
                net.now
            });
            Node::Device(Box::new(devices::start(builder, node, world.instant(now), &format!("http://{ip}:80"))))
        });
        self.running.push((setup, node));
    }

    /// Adds all nodes except plain visitors and devices: attackers, tunnels, programs, and a gateway
    /// that violates the protocol.
    fn add_strangers(&mut self, count: usize, names: &[String], nonce: &mut u64) {
        let (fair, devices) = (self.fair, names[..count].to_vec());
        if self.rng.permille(400) {
            let theme = self.rng.permille(500).then(|| self.rng.range(0, 11));
            let attacks = if theme.is_some() { self.rng.size(6, 30) } else { self.rng.size(1, 12) };
            let at = self.some_door();
            self.add("attacker", Some(ip(3, 3)), |_, _| {
                Node::Actor(Box::new(Attacker::new(at, devices.clone(), fair, attacks, theme)))
            });
        }
        for n in 1..=self.rng.skewed(3) as usize {
            *nonce += 1;
            let (length, starts) =
                (self.rng.skewed(8 * 1024) as usize, self.rng.range(3 * SECOND, 12 * SECOND));
            let name = devices[self.rng.size(0, devices.len() - 1)].clone();
            self.tally.requests.insert(*nonce, Entry::new("GET"));
            let at = self.some_door();
            let tunnel = Tunnelling::new(at, name, *nonce, length, starts, fair);
            self.add(&format!("tunnel{n}"), Some(ip(4, n)), |_, _| Node::Actor(Box::new(tunnel)));
        }
        if self.rng.permille(300) {
            let (plan, starts) =
                (self.program_plan(names, nonce), self.rng.range(3 * SECOND, 9 * SECOND));
            let of = self.rng.size(0, self.gateways() - 1);
            let node = self
                .add("program", None, |_, _| Node::Actor(Box::new(Program::new(of, plan, starts))));
            net::with(|net| net.at(starts, Event::Wake(node, 0)));
        }
        if !fair && self.rng.permille(250) {
            self.add_hostile_gateway(count + 1);
        }
    }

    fn program_plan(&mut self, names: &[String], nonce: &mut u64) -> VecDeque<Request> {
        let fair = self.fair;
        (0..self.rng.size(1, 6))
            .map(|_| {
                *nonce += 1;
                let rng = &mut self.rng;
                let method = ["GET", "POST", "HEAD"][rng.size(0, 2)];
                self.tally.requests.insert(*nonce, Entry::new(method));
                Request {
                    nonce: *nonce,
                    device: names[rng.size(0, names.len() - 1)].clone(),
                    method,
                    length: if method == "POST" { rng.skewed(12 * 1024) as usize } else { 0 },
                    chunked: rng.permille(300),
                    minor: 1,
                    pause: rng.skewed(4 * SECOND),
                    fresh: false,
                    pipelined: false,
                    abandon: (!fair && rng.permille(100)).then(|| rng.skewed(4000) as usize),
                    stop_at: None,
                    half_close: false,
                }
            })
            .collect()
    }

    /// Adds a gateway that violates the protocol, and a device that connects to it.
    fn add_hostile_gateway(&mut self, n: usize) {
        let node = self.add("hostile gateway", Some(ip(5, 1)), |_, _| {
            Node::Actor(Box::new(HostileGateway::new("the hostile gateway".to_owned(), 1_000_000)))
        });
        let at = SocketAddr::new(ip(5, 1), DEVICES);
        net::with(|net| net.listen(at, node, 0));
        let setup = Setup { name: "x1".to_owned(), gateway: at, ..self.setup(n) };
        self.setups.push(setup);
        self.add_origin(n);
        self.attacked = Some(self.setups.len() - 1);
        self.do_at(0, Action::Begin(self.setups.len() - 1));
    }

    fn add_visitor(&mut self, n: usize, names: &[String], nonce: &mut u64) {
        let fair = self.fair;
        let mut plan = VecDeque::new();
        for k in 0..self.rng.size(1, 6) {
            *nonce += 1;
            let rng = &mut self.rng;
            let method = ["GET", "POST", "POST", "HEAD"][rng.size(0, 3)];
            let length = if method == "POST" { rng.skewed(12 * 1024) as usize } else { 0 };
            let request = Request {
                nonce: *nonce,
                device: names[rng.size(0, names.len() - 1)].clone(),
                method,
                length,
                chunked: rng.permille(300),
                minor: u8::from(!rng.permille(50)),
                pause: rng.skewed(4 * SECOND),
                fresh: rng.permille(300),
                pipelined: k > 0 && rng.permille(150),
                abandon: (!fair && rng.permille(80)).then(|| rng.skewed(4000) as usize),
                stop_at: (!fair && rng.permille(40))
                    .then(|| rng.skewed(length as u64 + 100) as usize),
                half_close: rng.permille(60),
            };
            // Nothing is pipelined after a request that may end the connection, and a chunked one
            // is HTTP/1.1.
            let pipelined = request.pipelined
                && plan
                    .back()
                    .is_some_and(|last: &Request| last.minor > 0 && !last.half_close && !fair);
            let minor = if request.chunked && method == "POST" { 1 } else { request.minor };
            self.tally.requests.insert(request.nonce, Entry::new(method));
            plan.push_back(Request { pipelined, minor, ..request });
        }
        let rng = &mut self.rng;
        let starts = if fair { rng.range(3, 6) * SECOND } else { rng.skewed(20 * SECOND) };
        let pace =
            (!fair && rng.permille(150)).then(|| (rng.size(50, 3000), rng.range(1, 300) * MILLI));
        let at = self.some_door();
        let node = self.add(&format!("visitor{n}"), Some(ip(2, n)), |_, _| {
            Node::Actor(Box::new(Visitor::new(at, plan, pace, starts, fair)))
        });
        net::with(|net| net.at(starts, Event::Wake(node, 0)));
    }
}
