//! A gateway cut off from the table, and two gateways cut off from each other, in network namespaces.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::netns::{Net, Permit};
use crate::support::process::get;
use crate::support::{
    Answer, LocalServer, Process, RawPeer, TempDir, eventually, need, program, say,
};

const PLACES: [(Permit, &str); 3] =
    [(Permit::Device, "10.1.0"), (Permit::Elsewhere, "10.3.0"), (Permit::Gateway, "10.2.0")];

struct Cluster {
    net: Net,
    dir: TempDir,
    processes: Vec<Process>,
}

impl Cluster {
    /// The table's server is in the router, and a gateway in each place.
    fn start() -> Option<Cluster> {
        let (true, Some(net)) = (need("redis-server"), Net::new()) else { return None };
        let dir = TempDir::new("partitions");
        std::fs::write(dir.0.join("secret"), "the-secret-of-this-cluster\n").unwrap();
        let mut cluster = Cluster { net, dir, processes: Vec::new() };
        let server = program("redis-server").display().to_string();
        let (socket, folder) = (cluster.path("socket"), cluster.dir.0.display().to_string());
        let mut command = cluster.net.command(
            Permit::Router,
            &[
                &*server,
                "--port",
                "6379",
                "--bind",
                "0.0.0.0",
                "--protected-mode",
                "no",
                "--save",
                "",
                "--unixsocket",
                &socket,
                "--dir",
                &folder,
            ],
        );
        cluster.processes.push(Process::start(&mut command));
        eventually("the server answers", || (cluster.redis(&["PING"]) == "PONG").then_some(()));
        for (place, net) in PLACES {
            let at = |port: u16| format!("{net}.2:{port}");
            let gateway = cluster.net.ptth(
                place,
                &[
                    "gateway",
                    "--devices",
                    &at(9999),
                    "--visitors",
                    &at(8080),
                    "--peers",
                    &at(7000),
                    "--peer-secret",
                    &cluster.path("secret"),
                    "--directory",
                    &format!("redis://{net}.1"),
                    "--wait-for-link",
                    "2s",
                    "--insecure-anyone-may-register",
                ],
            );
            gateway.line_like("peers ");
            cluster.processes.push(gateway);
        }
        Some(cluster)
    }

    fn path(&self, file: &str) -> String {
        self.dir.0.join(file).display().to_string()
    }

    fn redis(&self, words: &[&str]) -> String {
        let mut asked = Command::new(program("redis-cli"));
        let output = asked.args(["-s", &self.path("socket")]).args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn owners(&self, name: &str) -> Vec<String> {
        let fields = self.redis(&["HKEYS", &format!("ptth:n:{name}")]);
        fields.lines().filter(|line| line.starts_with("http")).map(str::to_owned).collect()
    }

    /// A device in this place, which answers these words.
    fn device(
        &mut self,
        (place, net): (Permit, &str),
        name: &str,
        says: &'static str,
    ) -> LocalServer {
        let local = self.net.inside(place, || LocalServer::with(move |c| c.text(says)));
        let url = format!("http://{net}.2:9999/{name}");
        let device = self.net.ptth(place, &["device", &url, "--to", &local.url()]);
        device.line_like("connected");
        self.processes.push(device);
        local
    }

    fn ask(&self, (place, net): (Permit, &str), name: &str) -> Answer {
        let at = format!("{net}.2:8080").parse().unwrap();
        self.net.inside(place, || {
            let mut visitor = RawPeer::connect(at);
            visitor.deadline = Duration::from_secs(60);
            visitor.write(get(&format!("/{name}/x")));
            visitor.read_answer("GET")
        })
    }

    fn soon(&self, place: (Permit, &str), name: &str, says: &str) {
        eventually(&format!("{place:?} answers {says}"), || {
            let answer = self.ask(place, name);
            (answer.status() == 200 && answer.text() == says).then_some(())
        });
    }
}

#[test]
fn what_is_cut_off_goes_on_alone_and_one_owner_remains_when_it_is_back() {
    let Some(mut cluster) = Cluster::start() else { return };
    let [first, second, third] = PLACES;
    let _old = cluster.device(first, "lamp", "old");
    cluster.soon(third, "lamp", "old");
    // One gateway does not reach the table.
    cluster.net.fault(&["iifname \"lan\" tcp dport 6379 drop"]);
    let refused = cluster.ask(first, "door");
    refused.expect_refusal(503);
    assert!(refused.text().contains("directory"), "{}", refused.text());
    for place in [first, third] {
        cluster.ask(place, "lamp").expect_ok("old");
    }
    // The device comes to another one: both answer, each for its own.
    let _new = cluster.device(second, "lamp", "new");
    cluster.ask(second, "lamp").expect_ok("new");
    cluster.ask(first, "lamp").expect_ok("old");
    cluster.soon(third, "lamp", "new");
    cluster.net.heal();
    let began = Instant::now();
    cluster.soon(first, "lamp", "new");
    let took = began.elapsed();
    assert_eq!(cluster.owners("lamp"), ["http://10.3.0.2:7000"]);
    cluster.ask(second, "lamp").expect_ok("new");
    cluster.ask(third, "lamp").expect_ok("new");
    say(&format!("a gateway reached the table again: one owner after {took:?}"));
    // Two gateways do not reach each other.
    cluster.net.fault(&[
        "ip saddr 10.1.0.2 ip daddr 10.3.0.2 meta l4proto tcp reject with tcp reset",
        "ip saddr 10.3.0.2 ip daddr 10.1.0.2 meta l4proto tcp reject with tcp reset",
    ]);
    eventually("one does not reach the device", || {
        let answer = cluster.ask(first, "lamp");
        (answer.status() == 503 && answer.text().contains("cannot be reached")).then_some(())
    });
    cluster.ask(second, "lamp").expect_ok("new");
    cluster.ask(third, "lamp").expect_ok("new");
    cluster.net.heal();
    let began = Instant::now();
    cluster.soon(first, "lamp", "new");
    say(&format!("two gateways reached each other again: served after {:?}", began.elapsed()));
    assert_eq!(cluster.owners("lamp"), ["http://10.3.0.2:7000"]);
}
