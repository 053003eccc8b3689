//! The gateways of a run: one, or two that find each other's devices in a shared table or through a
//! program. The table is slow, sometimes unavailable, loses its data, and reports changes late and
//! more than once.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{DEVICES, Node, PEERS, VISITORS, World, gateway_at, ip};
use crate::gateway::simulated::{
    self as gateways, Change, Claims, Command, Loops, SharedTable as _, Started,
};
use crate::gateway::{Gateway, Peers};
use crate::sim::net::{self, Event, MILLI, Micros, SECOND};
use crate::sim::table::Table;

/// One process of a gateway, until its restart.
pub(crate) struct Member {
    /// The nodes of its loops; the first accepts connections.
    pub(crate) nodes: Vec<usize>,
    pub(crate) loops: Loops<Command>,
    claims: Option<Claims>,
    /// When it next renews its claims.
    due: Option<Micros>,
    /// The earliest time of its next report, so that reports arrive in order.
    heard_at: Micros,
    /// The deadline for its stop, before a restart.
    rolls: Option<Micros>,
    /// Until when the claims of a killed predecessor may last.
    inherits: Micros,
}

/// How gateways find each other's devices.
pub(super) enum Directory {
    /// There is only one gateway.
    None,
    Shared(Table),
    Program(Arc<Mutex<History>>),
}

/// Where devices were connected, the oldest first.
#[derive(Default)]
pub(super) struct History {
    seen: VecDeque<(Micros, Locations)>,
    /// The greatest age of the program's answers.
    lag: Micros,
}

/// The URL of the gateway of each connected name.
type Locations = BTreeMap<String, String>;

/// A report to a gateway.
#[derive(Debug)]
pub(super) enum Report {
    Change(Change),
    /// Its connection for changes was lost and re-established.
    Listens,
}

/// The time for a gateway to stop before its restart.
const ROLLS: Micros = 20 * SECOND;

/// Wake-up words of the directory's node; the low bit is the number of the gateway.
const KEEPS: u64 = 1 << 32;

fn url(gateway: usize) -> String {
    format!("http://{}", gateway_at(gateway, PEERS))
}

impl Directory {
    pub(super) fn chosen(world: &mut World) -> Self {
        let (fair, rng) = (world.fair, &mut world.rng);
        match rng.range(0, 5) {
            0..=2 => Directory::None,
            3..=4 => {
                let claim_time = Duration::from_secs(rng.range(3, 30));
                Directory::Shared(Table::new(world.shared_names, claim_time, world.limits.remember))
            }
            _ => {
                let lag = if fair { 0 } else { rng.skewed(20 * SECOND) };
                let history = History { seen: VecDeque::new(), lag };
                Directory::Program(Arc::new(Mutex::new(history)))
            }
        }
    }

    pub(super) fn gateways(&self) -> usize {
        if matches!(self, Directory::None) { 1 } else { 2 }
    }

    fn peers(&self) -> Option<Peers> {
        match self {
            Directory::None => None,
            Directory::Shared(table) => Some(gateways::peers_in(Arc::new(table.clone()))),
            Directory::Program(history) => {
                let history = history.clone();
                Some(Peers::found_by(move |name| Ok(at(&history, name))))
            }
        }
    }
}

/// The location of a device according to the program.
fn at(history: &Mutex<History>, name: &str) -> Option<String> {
    let mut history = history.lock().unwrap_or_else(PoisonError::into_inner);
    let then = net::with(|net| net.now).saturating_sub(history.lag);
    while history.seen.get(1).is_some_and(|(at, _)| *at <= then) {
        history.seen.pop_front();
    }
    history.seen.front()?.1.get(name).cloned()
}

impl World {
    pub(super) fn gateways(&self) -> usize {
        self.directory.gateways()
    }

    pub(super) fn begin_gateway(&mut self, number: usize) {
        let (turn, shared, limits) = (self.turn, self.shared_names, self.limits.clone());
        let builder = Gateway::builder().limits(limits).turn(turn).shared_names(shared);
        let peers = self.directory.peers();
        let peers = peers.map(|peers| peers.advertise(&url(number)).expect("a URL"));
        let builder = peers.into_iter().fold(builder, crate::GatewayBuilder::peers);
        let loops = self.loops;
        let nodes: Vec<usize> = (0..loops)
            .map(|place| {
                let label = format!("gateway {number} loop {place}");
                self.add(&label, Some(ip(0, number + 1)), |_, _| Node::Gone)
            })
            .collect();
        let now = self.instant(self.now());
        let visitors = gateway_at(number, VISITORS);
        let Started { made, loops, claims } = gateways::start(builder, &nodes, now, visitors);
        for (node, gateway) in nodes.iter().zip(made) {
            self.nodes[*node] = Node::Gateway(Box::new(gateway));
        }
        for (listener, port) in [DEVICES, VISITORS, PEERS].into_iter().enumerate() {
            net::with(|net| net.listen(gateway_at(number, port), nodes[0], listener));
        }
        let heard_at = self.now();
        let member = Member { nodes, loops, claims, due: None, heard_at, rolls: None, inherits: 0 };
        match self.members.get_mut(number) {
            Some(before) => *before = member,
            None => self.members.push(member),
        }
        self.deliver(number, Report::Listens);
        self.look_after(number);
    }

    /// Kills the gateway, and starts another process in its place.
    pub(super) fn restart_gateway(&mut self, number: usize) {
        self.members[number].nodes.clone().into_iter().for_each(|node| self.lose(node));
        self.begin_gateway(number);
        if let Directory::Shared(table) = &self.directory {
            let time = table.claim_time().as_micros() as Micros;
            self.members[number].inherits = self.now() + time;
        }
    }

    /// Asks the gateway to stop, and restarts it afterwards.
    pub(super) fn roll_gateway(&mut self, number: usize) {
        let until = self.now() + ROLLS;
        if self.members[number].rolls.is_none() {
            self.members[number].rolls = Some(until);
            self.drain_gateway(number, Duration::from_micros(ROLLS));
        }
    }

    pub(super) fn drain_gateway(&self, number: usize, time: Duration) {
        for node in &self.members[number].nodes {
            if let Node::Gateway(gateway) = &self.nodes[*node] {
                gateways::drain(gateway, time);
                net::with(|net| net.wants_turn(*node));
            }
        }
    }

    pub(super) fn member_of(&self, node: usize) -> Option<usize> {
        self.members.iter().position(|member| member.nodes.contains(&node))
    }

    /// Returns true if all other loops of this one's gateway have ended.
    pub(super) fn is_last_loop(&self, node: usize) -> bool {
        let Some(number) = self.member_of(node) else { return true };
        let others = self.members[number].nodes.iter().filter(|other| **other != node);
        others.into_iter().all(|other| matches!(self.nodes[*other], Node::Gone))
    }

    /// Returns true if the deadline for stopping this loop's gateway has passed.
    pub(super) fn is_cut_off(&self, node: usize) -> bool {
        let rolls = self.member_of(node).and_then(|number| self.members[number].rolls);
        rolls.is_some_and(|until| until <= self.now())
    }

    /// Handles the end of a gateway's loop. After the last one, the gateway releases its claims.
    pub(super) fn loop_ended(&mut self, number: usize) {
        if self.members[number].nodes.iter().any(|node| !matches!(self.nodes[*node], Node::Gone)) {
            return;
        }
        let member = &mut self.members[number];
        if let Some(claims) = &mut member.claims {
            claims.take_turn(true);
            if claims.held() > 0 {
                let held = claims.held();
                let what = format!("gateway {number} has stopped and still holds {held} names");
                self.tally.violation(what);
            }
        }
        member.claims = None;
        if let Directory::Shared(table) = &self.directory {
            let left: Vec<_> =
                table.claims().into_iter().filter(|(by, _)| *by == url(number)).collect();
            if !left.is_empty() && self.calm && member.inherits <= net::with(|net| net.now) {
                let what = format!("gateway {number} has stopped and left claims: {left:?}");
                self.tally.violation(what);
            }
        }
        if self.members[number].rolls.take().is_some() && !self.ends {
            self.begin_gateway(number);
        }
    }

    // --- the directory ---

    /// Schedules a gateway's next renewal of claims.
    pub(super) fn look_after(&mut self, number: usize) {
        let Some(claims) = &self.members[number].claims else { return };
        let next = claims.next_turn();
        let at = net::with(|net| net.micros(next).max(net.now + MILLI));
        if self.members[number].due.is_none_or(|due| at < due) {
            self.members[number].due = Some(at);
            let node = self.directory_node;
            net::with(|net| net.at(at, Event::Wake(node, KEEPS | number as u64)));
        }
    }

    pub(super) fn directory_wakes(&mut self, word: u64) {
        if word & KEEPS == 0 {
            return self.hear(word as usize);
        }
        let number = (word & 1) as usize;
        let now = self.now();
        let member = &mut self.members[number];
        if member.due.is_none_or(|due| due > now) {
            return; // an earlier wake-up has replaced it
        }
        member.due = None;
        net::with(|net| net.current = member.nodes[0]);
        if let Some(claims) = &mut member.claims {
            claims.take_turn(false);
        }
        self.directory_was_asked();
    }

    /// Reports the table's changes to the gateways, and lets their loops handle their commands.
    pub(super) fn directory_was_asked(&mut self) {
        if let Directory::Shared(table) = &self.directory {
            for change in table.take_changes() {
                for number in 0..self.members.len() {
                    let is_lost = !self.calm && !self.fair && self.rng.permille(50);
                    let times = 1 + u64::from(self.rng.permille(100));
                    (0..times).for_each(|_| match is_lost {
                        true => self.deliver(number, Report::Listens),
                        false => self.deliver(number, Report::Change(change.clone())),
                    });
                }
            }
        }
        for number in 0..self.members.len() {
            self.wake_gateway(number);
            self.look_after(number);
        }
    }

    fn wake_gateway(&self, number: usize) {
        for node in &self.members[number].nodes {
            let Node::Gateway(gateway) = &self.nodes[*node] else { continue };
            if gateway.is_eager() {
                net::with(|net| net.wants_turn(*node));
            }
        }
    }

    /// Sends a report to a gateway, with a delay.
    fn deliver(&mut self, number: usize, report: Report) {
        let most = net::with(|net| net.conditions.work);
        let late = match report {
            Report::Change(_) => most,
            Report::Listens => most.max(if self.fair { 0 } else { 3 * SECOND }),
        };
        let member = &mut self.members[number];
        let at = (net::with(|net| net.now) + self.rng.skewed(late)).max(member.heard_at);
        member.heard_at = at;
        self.reports.push(Some((number, member.nodes[0], report)));
        let (node, word) = (self.directory_node, self.reports.len() as u64 - 1);
        net::with(|net| net.at(at, Event::Wake(node, word)));
    }

    fn hear(&mut self, word: usize) {
        let Some((number, node, report)) = self.reports[word].take() else { return };
        net::tell(|| format!("gateway {number} receives: {report:?}"));
        let member = &self.members[number];
        if let Some(claims) = member.claims.as_ref().filter(|_| member.nodes[0] == node) {
            match report {
                Report::Change(change) => claims.note_change(change),
                Report::Listens => claims.listening_began(),
            }
        }
        self.wake_gateway(number);
        self.look_after(number);
    }

    /// Notes where devices are, for the program.
    pub(super) fn note_locations(&mut self) {
        let Directory::Program(history) = &self.directory else { return };
        let mut places = Locations::new();
        for (number, member) in self.members.iter().enumerate() {
            if member.nodes.iter().all(|node| matches!(self.nodes[*node], Node::Gone)) {
                continue;
            }
            for (name, _) in member.loops.connected_names() {
                places.entry(name.to_string()).or_insert_with(|| url(number));
            }
        }
        let mut history = history.lock().unwrap_or_else(PoisonError::into_inner);
        if history.seen.back().is_none_or(|(_, last)| *last != places) {
            history.seen.push_back((net::with(|net| net.now), places));
        }
    }

    /// Makes the table available from now on.
    pub(super) fn directory_calm(&self) {
        match &self.directory {
            Directory::None => {}
            Directory::Shared(table) => table.come_back(),
            Directory::Program(history) => {
                history.lock().unwrap_or_else(PoisonError::into_inner).lag = 0;
            }
        }
    }

    /// Injects a failure of the table: it is unavailable for a while, or loses its data.
    pub(super) fn disturb_directory(&mut self) {
        let Directory::Shared(table) = &self.directory else { return };
        if self.rng.permille(700) {
            table.go_away(self.rng.skewed(40 * SECOND));
        } else {
            table.forget_all();
            (0..self.members.len()).for_each(|number| self.deliver(number, Report::Listens));
        }
    }

    /// Checks that a name of a shared table belongs to one gateway, once all changes are reported.
    pub(super) fn check_owners(&mut self) {
        let Directory::Shared(table) = &self.directory else { return };
        let (shares, claims) = (self.shared_names, table.claims());
        let setups: Vec<String> = self.setups.iter().map(|setup| setup.name.clone()).collect();
        for name in setups {
            let owners: Vec<usize> = (0..self.members.len())
                .filter(|number| {
                    let names = self.members[*number].loops.connected_names();
                    names.iter().any(|(connected, _)| **connected == *name)
                })
                .collect();
            let claimed: Vec<&String> =
                claims.iter().filter(|(_, of)| *of == name).map(|(by, _)| by).collect();
            let right: Vec<String> = owners.iter().map(|number| url(*number)).collect();
            if (!shares && owners.len() > 1) || !right.iter().eq(claimed.iter().copied()) {
                self.tally.violation(format!(
                    "{name} is connected to gateways {owners:?}, and claimed by {claimed:?}"
                ));
            }
        }
    }

    /// A gateway's address for devices.
    pub(super) fn some_gateway(&mut self) -> SocketAddr {
        let number = self.rng.size(0, self.gateways() - 1);
        gateway_at(number, DEVICES)
    }
}
