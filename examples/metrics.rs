//! Numbers for a dashboard without the admin listener: a thread follows the events, and `stats()` and
//! `devices()` are read when somebody wants to know.
#![allow(clippy::expect_used)] // a thread of an example that cannot go on ends it

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use http::Request;
use reverse_http::{Body, Device, DeviceHandle, Gateway, GatewayEventKind};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
    // First the events, then the list: nothing falls between. `events` ends with the gateway.
    let events = gateway.events();
    assert!(gateway.devices()?.is_empty());
    let following = thread::spawn(move || {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for event in events {
            let cause = event.cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
            *counts.entry(format!("{}{cause}", event.kind)).or_default() += 1;
            if event.kind == GatewayEventKind::Down {
                println!("alarm: {} is gone: {}", event.name, event.detail);
            }
        }
        counts
    });

    let mut running: Vec<DeviceHandle> = Vec::new();
    for name in ["boiler", "pump", "valve"] {
        let url = format!("http://{}/{name}", gateway.devices_addr());
        running.push(Device::builder(url).build()?.spawn(|_request| "fine")?);
        gateway.device(name).wait_connected(Duration::from_secs(5))?;
    }
    for _ in 0..100 {
        let request = Request::get("/").body(Body::empty())?;
        gateway.device("pump").send(request)?.into_body().read_to_text(100)?;
    }
    running.remove(0).stop();

    let stats = gateway.stats();
    println!(
        "devices {}, links turned {}, exchanges {}",
        stats.devices, stats.turns, stats.exchanges
    );
    for device in gateway.devices()? {
        let since = device.since.elapsed().unwrap_or_default().as_millis();
        println!(
            "{:8} {}, {} idle, {} busy, {since} ms",
            device.name, device.transport, device.idle, device.busy
        );
    }
    running.iter().for_each(DeviceHandle::stop);
    gateway.drain(Duration::from_secs(5));
    drop(gateway);
    for (what, count) in following.join().expect("no panic") {
        println!("{what}: {count}");
    }
    Ok(())
}
