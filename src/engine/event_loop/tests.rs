//! The order of a turn, on a simulated loop.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::engine::simulated::Loop;
use crate::sim::net::{self, Conditions, Net};
use crate::sim::rng::Rng;
use crate::stream::HandshakeError;

/// Records the connections that had a step. Streams always want another one.
struct Noting {
    steps: Vec<Id>,
}

impl Role for Noting {
    type State = bool;
    type Command = ();

    fn accepted(&mut self, _: &mut Connections<bool>, _: usize, _: Stream, _: SocketAddr) {}
    fn secured(&mut self, _: &mut Connections<bool>, _: Id, _: Result<(), HandshakeError>) {}
    fn ready(&mut self, cx: &mut Connections<bool>, id: Id) {
        self.steps.push(id);
        if cx.get(id).is_some_and(|connection| connection.state) {
            cx.yields(id);
        }
    }
    fn expired(&mut self, _: &mut Connections<bool>, _: Id) {}
    fn alarm(&mut self, _: &mut Connections<bool>, _: u64) {}
    fn command(&mut self, _: &mut Connections<bool>, (): ()) {}
    fn finished(&self, _: &Connections<bool>) -> bool {
        false
    }
}

#[test]
fn streams_share_what_a_turn_leaves_them_and_each_has_its_turn() {
    let calm = Conditions { cuts: 0, refusals: 0, delay: 0, splits: false, narrow: 0, work: 0 };
    let mut network = Net::new(Rng::new(1), calm, false);
    let node = network.add_node("loop", None);
    net::install(Some(network));
    let role = Noting { steps: Vec::new() };
    let mut turning = Loop::new(node, Instant::now(), &Limits::default(), None, |_| role);
    let mut ends = Vec::new();
    let mut insert = |turning: &mut Loop<Noting>, streams| {
        let (near, far) = net::pair().unwrap();
        ends.push(far);
        turning.connections.insert(near.into(), &[], streams).unwrap()
    };
    let streams: Vec<Id> = (0..100).map(|_| insert(&mut turning, true)).collect();
    let small = insert(&mut turning, false);
    for id in &streams {
        turning.connections.yields(*id);
    }
    let at_once = STREAMS_PER_TURN / STEP_LEAST;
    let (connections, role) = (&mut turning.connections, &mut turning.role);
    connections.reschedule(small);
    step_ready(connections, role, 0);
    assert_eq!(role.steps[0], small, "what moved little comes first");
    assert_eq!(role.steps[1..], streams[..at_once]);
    // An event is no reason to go on early, for streams alone.
    let news = crate::engine::connection::Readiness { readable: true, ..Default::default() };
    assert!(!connections.note(streams[0], news) && connections.note(small, news));
    role.steps.clear();
    step_ready(connections, role, 0);
    let next: Vec<Id> =
        streams.iter().chain(&streams).skip(at_once).take(at_once).copied().collect();
    assert_eq!(role.steps, next, "the others first, then those that had a step");
    role.steps.clear();
    step_ready(connections, role, 9);
    let more = 9 * STREAMS_PER_EVENT / STEP_LEAST;
    assert_eq!(role.steps.len(), at_once + more, "as much more as events take");
    net::install(None);
}
