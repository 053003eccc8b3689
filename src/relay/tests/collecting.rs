//! Exchanges whose request is read whole into memory.

use super::*;
use crate::engine::budget::Budget;
use crate::error::Refusal;
use crate::relay::{Collected, Gathering};

const HEAD: &str = "POST /a HTTP/1.1\r\nHost: lamp\r\nTransfer-Encoding: chunked\r\n";

fn begin(scene: &mut Scene, budget: &Budget) -> Result<(), Refusal> {
    let Loop { role, connections, .. } = &mut scene.event_loop;
    let limits = role.rules.limits.clone();
    let (exchange, now) = (role.exchanges.get_mut(scene.key).unwrap(), connections.now());
    let gathering = Gathering::new(budget.share(), exchange.announced(), now);
    let downstream = connections.get_mut(scene.downstream).unwrap();
    exchange.begin_collecting(downstream, gathering, &limits)
}

fn collect(scene: &mut Scene) -> Collected {
    let Loop { role, connections, .. } = &mut scene.event_loop;
    let limits = role.rules.limits.clone();
    let (mut scratch, now) = (vec![0; 4096], connections.now());
    let exchange = role.exchanges.get_mut(scene.key).unwrap();
    exchange.collect(connections.get_mut(scene.downstream).unwrap(), &mut scratch, now, &limits)
}

#[test]
fn chunks_become_one_message_with_a_length() {
    let (budget, text) = (Budget::new(1000), format!("{HEAD}\r\n2\r\nhe\r\n"));
    let mut scene = Scene::new(&text);
    begin(&mut scene, &budget).unwrap();
    assert!(scene.exchange().unwrap().is_collecting() && scene.exchange().unwrap().is_waiting());
    assert!(matches!(collect(&mut scene), Collected::NotYet));
    write(scene.client.as_ref().unwrap(), "3\r\nllo\r\n0\r\n\r\nGET /next");
    scene.run_until_still();
    assert!(matches!(collect(&mut scene), Collected::Whole));
    assert!(budget.taken() >= 5);

    let exchange = scene.exchange().unwrap();
    assert!(exchange.is_whole() && !exchange.is_collecting());
    let whole = String::from_utf8(exchange.collected().unwrap().to_vec()).unwrap();
    assert!(whole.ends_with("\r\n\r\nhello") && !whole.contains("chunked"), "{whole}");
    assert_eq!(whole.as_bytes(), exchange.request());
    assert_eq!(
        scene.event_loop.connections.get(scene.downstream).unwrap().kept(),
        "GET /next".len(),
        "what is pipelined after it waits"
    );
}

#[test]
fn a_client_that_waits_for_a_100_gets_it() {
    let mut scene = Scene::new(&format!("{HEAD}Expect: 100-continue\r\n\r\n"));
    begin(&mut scene, &Budget::new(1000)).unwrap();
    assert!(matches!(collect(&mut scene), Collected::NotYet));
    assert_eq!(scene.client_reads(), "HTTP/1.1 100 Continue\r\n\r\n");
}

#[test]
fn what_is_too_long_is_refused_announced_or_not() {
    let small = |limits: &mut Limits| limits.message_bytes_max = 4;
    let announced = "POST /a HTTP/1.1\r\nHost: lamp\r\nContent-Length: 5\r\n\r\n";
    let mut scene = Scene::with_limits(announced, small);
    assert_eq!(begin(&mut scene, &Budget::new(1000)).unwrap_err().status, 413);

    let mut scene = Scene::with_limits(&format!("{HEAD}\r\n5\r\nhello\r\n"), small);
    begin(&mut scene, &Budget::new(1000)).unwrap();
    assert!(matches!(collect(&mut scene), Collected::Refused(refusal) if refusal.status == 413));
}

#[test]
fn what_the_budget_has_no_room_for_is_refused_and_given_back() {
    let budget = Budget::new(4);
    let mut scene = Scene::new(&format!("{HEAD}\r\n2\r\nhe\r\n3\r\nllo\r\n"));
    begin(&mut scene, &budget).unwrap();
    assert!(matches!(collect(&mut scene), Collected::Refused(_)));
    scene.event_loop.role.exchanges.remove(scene.key);
    assert_eq!(budget.taken(), 0);
}

#[test]
fn who_leaves_half_way_is_gone_and_bad_chunks_are_400() {
    let mut scene = Scene::new(&format!("{HEAD}\r\n2\r\nhe"));
    begin(&mut scene, &Budget::new(1000)).unwrap();
    assert!(matches!(collect(&mut scene), Collected::NotYet));
    scene.client.as_ref().unwrap().shutdown(Shutdown::Write).unwrap();
    scene.run_until_still();
    assert!(matches!(collect(&mut scene), Collected::Gone));

    let mut scene = Scene::new(&format!("{HEAD}\r\n+2\r\nhe\r\n"));
    begin(&mut scene, &Budget::new(1000)).unwrap();
    assert!(matches!(collect(&mut scene), Collected::Refused(refusal) if refusal.status == 400));
}
