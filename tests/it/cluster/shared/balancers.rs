//! Three gateways behind one balancer, through which visitors and devices come: the configurations of
//! docs/cluster.md.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::Redis;
use crate::outages::rolling::{DEVICES, Tally, VISITORS, statistic, visit};
use crate::support::process::get;
use crate::support::{
    LocalServer, Process, Ptth, RawPeer, TempDir, eventually, free_port, need, program, repository,
    say,
};

/// A gateway that comes back at the same addresses, which are its own.
struct Seat {
    options: Vec<String>,
    devices: String,
    visitors: String,
    process: Process,
}

impl Seat {
    fn new(net: u8, n: usize, more: &[String]) -> Seat {
        let at = |side: usize| format!("127.{net}.{side}.{n}:{}", free_port());
        let (devices, visitors, peers) = (at(0), at(1), at(2));
        let mut options =
            ["gateway", "--devices", &devices, "--visitors", &visitors].map(str::to_owned).to_vec();
        options.extend(["--health-path", "/ptth-health"].map(str::to_owned));
        options.extend(["--drain-notice", "2s", "--drain-timeout", "5s"].map(str::to_owned));
        if !more.is_empty() {
            options.extend(["--peers".to_owned(), peers]);
            options.extend_from_slice(more);
        }
        let process = Seat::start(&options);
        Seat { options, devices, visitors, process }
    }

    fn start(options: &[String]) -> Process {
        let process = Ptth::start(options);
        process.line_like("devices ");
        process.line_like("visitors ");
        process
    }

    fn restart(&mut self) {
        self.process.signal("TERM");
        let code = self.process.exit_code_within(Duration::from_secs(20));
        assert_eq!(code, 0, "{}", self.process.stderr());
        self.process = Seat::start(&self.options);
    }
}

/// Where visitors and devices come.
struct Front {
    visitors: SocketAddr,
    devices: SocketAddr,
    dir: TempDir,
    process: Process,
}

/// A block of the page, for these addresses.
fn block(language: &str, changes: &[(&str, &str)]) -> String {
    let page = std::fs::read_to_string(repository("docs/cluster.md")).unwrap();
    let of =
        page.split(&format!("```{language}\n")).nth(1).and_then(|rest| rest.split("```").next());
    let mut text = of.expect("a block with the configuration").to_owned();
    for (there, here) in changes {
        assert!(text.contains(there), "{there} in:\n{text}");
        text = text.replace(there, here);
    }
    text
}

impl Front {
    fn start(name: &str, net: u8, seats: &[Seat], more: &[(&str, &str)]) -> Front {
        let dir = TempDir::new(name);
        let at = || format!("127.{net}.9.1:{}", free_port());
        let (visitors, devices) = (at(), at());
        let (bind, bind_devices) = (format!("bind {visitors}"), format!("bind {devices}"));
        let (listen, listen_devices) =
            (format!("listen {visitors};"), format!("listen {devices};"));
        let addresses: Vec<(String, &str)> = (1..)
            .zip(seats)
            .flat_map(|(n, seat)| {
                [
                    (format!("10.0.0.{n}:8080"), seat.visitors.as_str()),
                    (format!("10.0.0.{n}:9999"), seat.devices.as_str()),
                ]
            })
            .collect();
        let mut changes: Vec<(&str, &str)> =
            addresses.iter().map(|(there, here)| (there.as_str(), *here)).collect();
        changes.extend(match name {
            "haproxy" => [("bind :80\n", &*bind), ("bind :9000\n", &*bind_devices)],
            _ => [("listen 80;", &*listen), ("listen 9000;", &*listen_devices)],
        });
        changes.extend_from_slice(more);
        let path = dir.0.join("conf");
        let here = dir.0.display();
        let mut command = Command::new(program(name));
        if name == "haproxy" {
            let text = block(name, &changes).replace(&bind, &format!("{bind}\n"));
            let text = text.replace(&bind_devices, &format!("{bind_devices}\n"));
            let head = format!("global\n    stats socket {here}/stats level operator\n\n");
            std::fs::write(&path, head + &text).unwrap();
            command.arg("-db").arg("-f").arg(&path);
        } else {
            let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
            let paths: String =
                kinds.iter().map(|kind| format!("{kind}_temp_path {here}/{kind};\n")).collect();
            let text = format!(
                "daemon off;\nuser root;\npid {here}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{paths}{}\n}}\n",
                block(name, &changes)
            );
            std::fs::write(&path, text).unwrap();
            command.arg("-e").arg("stderr").arg("-c").arg(&path);
        }
        let process = Process::start(&mut command);
        let [visitors, devices] = [visitors, devices].map(|at| at.parse().unwrap());
        eventually("the balancer listens", || std::net::TcpStream::connect(visitors).ok());
        Front { visitors, devices, dir, process }
    }

    fn are_up(&self) {
        for server in ["a", "b", "c"] {
            eventually(&format!("{server} is up; {}", self.process.stderr()), || {
                (statistic(&self.dir.0, server, "status")? == "UP").then_some(())
            });
        }
    }

    fn device(&self, name: &str, local: &LocalServer) -> Process {
        let url = format!("http://{}/{name}", self.devices);
        let device =
            Ptth::start(&["device", &url, "--to", &local.url(), "--backoff", "10ms..200ms"]);
        device.line_like("connected");
        device
    }

    fn is_served(&self, name: &str) -> bool {
        let mut visitor = RawPeer::connect(self.visitors);
        visitor.deadline = Duration::from_secs(30);
        visitor.write(get(&format!("/{name}/x")));
        visitor.read_answer("GET").status() == 200
    }
}

/// Without a directory: each request comes to the gateway that has the device.
fn the_hash_leads_to_the_device(name: &str, net: u8) {
    if !need(name) {
        return;
    }
    let local = LocalServer::start();
    let mut seats = [1, 2, 3].map(|n| Seat::new(net, n, &[]));
    let front = Front::start(name, net, &seats, &[]);
    if name == "haproxy" {
        front.are_up();
    }
    let names: Vec<String> = (0..9).map(|n| format!("lamp{n}")).collect();
    let _devices: Vec<Process> = names.iter().map(|name| front.device(name, &local)).collect();
    assert!(names.iter().all(|name| front.is_served(name)));
    seats[1].process.signal("KILL");
    eventually("it has ended", || seats[1].process.has_ended().then_some(()));
    for name in &names {
        eventually("it is served by another one", || front.is_served(name).then_some(()));
    }
}

#[test]
fn haproxy_with_a_hash_leads_to_the_device() {
    the_hash_leads_to_the_device("haproxy", 45);
}

#[test]
fn nginx_with_a_hash_leads_to_the_device() {
    the_hash_leads_to_the_device("nginx", 46);
}

/// Visitors come to any gateway (so most requests take a hop), and devices by the hash.
#[test]
fn a_rolling_restart_of_three_gateways_with_a_directory_fails_no_get() {
    let (true, Some(redis)) = (need("haproxy"), Redis::start(&[])) else { return };
    let (dir, local) = (TempDir::new("rolling-three"), LocalServer::start());
    let routes =
        DEVICES.map(|name| format!("[[route]]\npath = \"/{name}\"\ndevice = \"{name}\"\n"));
    std::fs::write(dir.0.join("routes.toml"), routes.concat()).unwrap();
    std::fs::write(dir.0.join("secret"), "the-secret-of-this-cluster\n").unwrap();
    let path = |file: &str| dir.0.join(file).display().to_string();
    let more = [
        "--directory",
        &redis.url(),
        "--peer-secret",
        &path("secret"),
        "--config",
        &path("routes.toml"),
    ]
    .map(str::to_owned);
    let mut seats = [1, 2, 3].map(|n| Seat::new(47, n, &more));
    let any = "balance roundrobin\n    option httpchk";
    let by_name = "balance hash path,field(2,/)        # the device's name in /NAME/…\n    hash-type consistent\n    option httpchk";
    let front = Front::start("haproxy", 47, &seats, &[(by_name, any)]);
    front.are_up();
    let _devices = DEVICES.map(|name| front.device(name, &local));
    let (stop, began) = (AtomicBool::new(false), Instant::now());
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let (stop, at) = (&stop, front.visitors);
        let visitors: Vec<_> =
            (0..VISITORS).map(|n| scope.spawn(move || visit(at, n, stop))).collect();
        let restarted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for (seat, server) in seats.iter_mut().zip(["a", "b", "c"]) {
                seat.restart();
                eventually("HAProxy saw it go", || {
                    (statistic(&front.dir.0, server, "chkdown")? != "0").then_some(())
                });
                front.are_up();
            }
        }));
        stop.store(true, Relaxed);
        let tallies = visitors.into_iter().map(|visitor| visitor.join().unwrap()).collect();
        restarted.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        tallies
    });
    let requests: usize = tallies.iter().map(|tally| tally.requests).sum();
    let failures: Vec<&String> = tallies.iter().flat_map(|tally| &tally.failures).collect();
    say(&format!(
        "three gateways restarted in turn in {:.1} s, {requests} requests, {} failed, slowest {:?}",
        began.elapsed().as_secs_f64(),
        failures.len(),
        tallies.iter().map(|tally| tally.slowest).max().unwrap(),
    ));
    // A POST that is on its way over a hop in that instant may have run, and is not repeated.
    let is_hop = |why: &str| {
        why.starts_with("POST ")
            && (why.contains("502 Bad Gateway") && why.contains("lost the connection")
                || why.contains("503 ") && why.contains("was on its way"))
    };
    let others: Vec<_> = failures.iter().filter(|why| !is_hop(why)).take(8).collect();
    assert!(others.is_empty() && failures.len() * 200 < requests, "{failures:?}");
    assert!(requests > 500, "only {requests} requests say little");
}
