//! T36: a gateway is killed with its whole fleet attached, and started again. Sizes are parameters:
//! small in the tests, 10,000 links in `benches/storm.rs`.

use std::time::{Duration, Instant};

use reverse_http::{Body, Device, DeviceHandle};

use crate::process::get;
use crate::{Gateway, Process, Ptth, eventually_within, say};

/// How large, how long away, and by when 99 of 100 have to be back.
pub struct LoopGroup {
    /// Processes `ptth device`, each with a name of its own.
    pub processes: usize,
    pub links_each: usize,
    /// Devices with one link each, in this process: their pauses are drawn one by one.
    pub singles: usize,
    pub backoff: (Duration, Duration),
    pub away: Duration,
    pub within: Duration,
}

impl LoopGroup {
    fn links(&self) -> usize {
        self.processes * self.links_each + self.singles
    }
}

/// What a gateway weighs at rest.
#[derive(Clone, Copy, Debug)]
struct Weight {
    threads: u64,
    resident_kib: u64,
}

fn weigh(gateway: &Process) -> Weight {
    Weight { threads: gateway.threads(), resident_kib: gateway.resident_kib() }
}

struct Attached {
    processes: Vec<Process>,
    singles: Vec<DeviceHandle>,
}

impl Attached {
    fn start(group: &LoopGroup, gateway: &Gateway) -> Attached {
        let (min, max) = group.backoff;
        let pauses = format!("{}ms..{}ms", min.as_millis(), max.as_millis());
        let links = format!("{0}..{0}", group.links_each);
        let start = |n: usize| {
            let url = gateway.device_url(&format!("pool-{n}"));
            let text = format!("I am pool-{n}");
            let mut command = Ptth::command(&[
                "device",
                &url,
                "--text",
                &text,
                "--links",
                &links,
                "--backoff",
                &pauses,
            ]);
            Process::start(command.env("RUST_LOG", "error"))
        };
        let single = |n: usize| {
            let device = Device::builder(gateway.device_url(&format!("single-{n}")))
                .links(1..=1)
                .backoff(min..max)
                .build()
                .unwrap();
            device
                .spawn(move |_| http::Response::new(Body::from(format!("I am single-{n}"))))
                .unwrap()
        };
        Attached {
            processes: (0..group.processes).map(start).collect(),
            singles: (0..group.singles).map(single).collect(),
        }
    }

    fn singles_back(&self) -> usize {
        self.singles.iter().filter(|device| device.stats().links > 0).count()
    }

    /// Every name answers, and as itself.
    fn answers(&self, gateway: &Gateway) {
        let pools = (0..self.processes.len()).map(|n| format!("pool-{n}"));
        for name in pools.chain((0..self.singles.len()).map(|n| format!("single-{n}"))) {
            gateway.get(&format!("/{name}/x")).expect_ok(format!("I am {name}"));
        }
    }
}

/// When which part of the fleet was back, in seconds since the gateway listened again.
#[derive(Default)]
struct Curve {
    parts: Vec<(usize, f64)>,
    singles: f64,
}

impl Curve {
    const PARTS: [usize; 4] = [50, 90, 99, 100];

    /// Watches the gateway until everybody is back, at most for `time`.
    fn watch(
        began: Instant,
        gateway: &Gateway,
        base: usize,
        attached: &Attached,
        links: usize,
        time: Duration,
    ) -> Curve {
        let mut curve = Curve::default();
        let mut singles = attached.singles.is_empty();
        while curve.parts.len() < Curve::PARTS.len() || !singles {
            let at = began.elapsed();
            let back = gateway.process.descriptors().saturating_sub(base);
            while let Some(part) =
                Curve::PARTS.get(curve.parts.len()).filter(|part| back * 100 >= **part * links)
            {
                curve.parts.push((*part, at.as_secs_f64()));
            }
            if !singles && attached.singles_back() == attached.singles.len() {
                (singles, curve.singles) = (true, at.as_secs_f64());
            }
            if at > time {
                say(&format!(
                    "storm: {back} of {links} links are back after {:.1} s",
                    at.as_secs_f64()
                ));
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        curve
    }

    fn until(&self, part: usize) -> Option<f64> {
        self.parts.iter().find(|(known, _)| *known == part).map(|(_, at)| *at)
    }
}

/// Connections that found no place in an accept queue of this network namespace, all listeners
/// together.
pub fn overflows() -> u64 {
    let text = std::fs::read_to_string("/proc/self/net/netstat").unwrap();
    let mut rows = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
    let counters = names.split(' ').zip(values.split(' '));
    // ListenDrops counts those and what was dropped for other reasons.
    counters
        .filter(|(name, _)| *name == "ListenDrops")
        .map(|(_, n)| n.parse::<u64>().unwrap())
        .sum()
}

/// Kills the gateway with the fleet attached, waits, starts it on its old ports. `alone`: nobody
/// else is in this network namespace.
pub fn killed_and_started_again(group: &LoopGroup, alone: bool) {
    let links = group.links();
    let gateway = Gateway::start(&[]);
    let base = gateway.process.descriptors();
    let attached = Attached::start(group, &gateway);
    eventually_within(Duration::from_secs(60), "the fleet attaches", || {
        (gateway.process.descriptors() >= base + links).then_some(())
    });
    attached.answers(&gateway);
    let settled = |gateway: &Gateway, what: &str| {
        eventually_within(Duration::from_secs(20), what, || {
            (gateway.process.descriptors() == base + links).then_some(())
        });
        weigh(&gateway.process)
    };
    let before = settled(&gateway, "every link is there once, before the storm");

    let overflowed = overflows();
    let (devices, visitors) = (gateway.devices.to_string(), gateway.visitors.to_string());
    gateway.process.signal("KILL");
    drop(gateway);
    std::thread::sleep(group.away); // this is what is tested: how long it was away
    let gateway = Gateway::start_at(&devices, &visitors, &[]);
    let curve = Curve::watch(Instant::now(), &gateway, base, &attached, links, 2 * group.within);
    let parts: Vec<String> =
        curve.parts.iter().map(|(part, at)| format!("{part} % {at:.1} s")).collect();
    let overflowed = overflows() - overflowed;
    say(&format!(
        "storm: {links} links, gateway away for {:.1} s, pauses up to {:.1} s: back {}; the {} with one link each all after {:.1} s; \
         {overflowed} overflows of accept queues",
        group.away.as_secs_f64(),
        group.backoff.1.as_secs_f64(),
        parts.join(", "),
        group.singles,
        curve.singles
    ));
    let most = curve.until(99).unwrap_or(f64::INFINITY);
    assert!(
        most <= group.within.as_secs_f64() + 1.0,
        "99 % were not back within {:?}",
        group.within
    );
    assert!(
        !alone || overflowed == 0,
        "{overflowed} connections found no place in an accept queue"
    );
    let after = settled(&gateway, "every link is there once, after the storm");
    attached.answers(&gateway);
    say(&format!(
        "storm: gateway with {links} links: {} threads and {} KiB before, {} threads and {} KiB after",
        before.threads, before.resident_kib, after.threads, after.resident_kib
    ));
    assert!(after.threads <= before.threads, "threads after the storm");
    let allowed = before.resident_kib + before.resident_kib / 4 + 8 * 1024; // the two allocators grew in different steps
    assert!(
        after.resident_kib <= allowed,
        "resident memory after the storm: {} KiB, before {} KiB",
        after.resident_kib,
        before.resident_kib
    );

    let mut visitor = gateway.visitor();
    visitor.ask(&get("/pool-0/last")).expect_ok("I am pool-0");
    attached.singles.iter().for_each(DeviceHandle::stop);
}
