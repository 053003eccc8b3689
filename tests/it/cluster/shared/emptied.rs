//! A directory that comes back without its data is told, and so is when everything is there again;
//! what gateways say of themselves there, and that their claims last differently long.

use std::net::SocketAddr;

use serde_json::Value;

use super::Redis;
use crate::cluster::view::{admin_of, cluster_at};
use crate::cluster::{Cluster, device, peers_of};
use crate::support::{Gateway, LocalServer, Ptth, RawPeer, eventually};

const EMPTY: &str = "the directory of gateways came back without its data";
const THERE: &str = "what the directory of gateways had lost is there again, after ";

/// A gateway as a process, with its log.
struct Logged {
    gateway: Gateway,
    url: String,
    admin: SocketAddr,
}

impl Logged {
    #[track_caller]
    fn start(redis: &Redis, cluster: &Cluster, claim_time: &str) -> Logged {
        let (directory, secret) = (redis.url(), cluster.path("secret"));
        let gateway = Gateway::start(&[
            "--peers",
            "127.0.0.1:0",
            "--directory",
            &directory,
            "--peer-secret",
            &secret,
            "--directory-claim-time",
            claim_time,
            "--admin",
            "127.0.0.1:0",
        ]);
        let url = peers_of(&gateway.process);
        let admin = admin_of(&gateway.process);
        eventually("it has announced itself", || {
            redis.ask(&["ZRANGE", "ptth:gateways", "0", "-1"]).contains(&url).then_some(())
        });
        Logged { gateway, url, admin }
    }

    /// Once this gateway has announced this many names.
    #[track_caller]
    fn announces(&self, names: u64) -> Value {
        let own = |told: &Value| {
            let all = told["gateways"].as_array().unwrap().iter();
            all.clone().any(|known| known["own"] == true && known["names"] == names)
        };
        cluster_at(self.admin, "it has announced its names", own)
    }
}

#[test]
fn a_server_that_was_restarted_without_its_data_is_told() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let (cluster, local) = (Cluster::new(), LocalServer::start());
    let one = Logged::start(&redis, &cluster, "30s");
    let _devices = ["lamp", "door"].map(|name| device(&one.gateway, name, &local.url()));
    eventually("both are claimed", || {
        ["lamp", "door"].iter().all(|name| redis.owners(name).len() == 1).then_some(())
    });
    redis.restart();
    one.gateway.process.expect_stderr(EMPTY);
    one.gateway.process.expect_stderr(THERE);
    let log = one.gateway.process.stderr();
    assert!(log.contains("2 names of this gateway are claimed again"), "{log}");
    let there = log.lines().find(|line| line.contains(THERE)).unwrap();
    assert!(there.ends_with(" s: 2 names"), "{there}");
    assert_eq!(redis.owners("lamp"), std::slice::from_ref(&one.url));
    let told = cluster_at(one.admin, "nothing is left", |told| {
        told["directory"]["names"]["restoring"] == 0
    });
    assert_eq!(told["directory"]["names"]["claimed"], 2, "{told}");
}

#[test]
fn a_server_that_was_emptied_while_it_ran_is_told_and_one_that_kept_its_data_is_not() {
    let Some(redis) = Redis::start(&[]) else { return };
    let (cluster, local) = (Cluster::new(), LocalServer::start());
    let one = Logged::start(&redis, &cluster, "3s");
    let _lamp = device(&one.gateway, "lamp", &local.url());
    one.announces(1);
    // Its connections end, and nothing is lost: it announces itself again.
    let score = || redis.ask(&["ZSCORE", "ptth:gateways", &one.url]);
    let before = score();
    redis.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    redis.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
    eventually("it has announced itself", || (score() != before).then_some(()));
    one.announces(1);
    let log = one.gateway.process.stderr();
    assert!(!log.contains(EMPTY), "{log}");
    assert_eq!(redis.ask(&["FLUSHALL"]), "OK");
    one.gateway.process.expect_stderr(EMPTY);
    one.gateway.process.expect_stderr(THERE);
    assert_eq!(redis.owners("lamp"), std::slice::from_ref(&one.url));
}

#[test]
fn gateways_see_each_other_and_that_their_claims_last_differently_long() {
    let Some(redis) = Redis::start(&[]) else { return };
    let (cluster, local) = (Cluster::new(), LocalServer::start());
    let one = Logged::start(&redis, &cluster, "6s");
    let _lamp = device(&one.gateway, "lamp", &local.url());
    let same = Logged::start(&redis, &cluster, "6s");
    // What is no gateway's URL is not shown; one that was killed is.
    redis.ask(&["ZADD", "ptth:gateways", "9999999999999", "http://a\"><b>"]);
    redis.ask(&["ZADD", "ptth:gateways", "9999999999999", "http://127.0.0.1:1"]);
    one.announces(1);
    let told = cluster_at(same.admin, "it has heard of the other", |told| {
        let mut all = told["gateways"].as_array().unwrap().iter();
        all.any(|known| known["url"] == *one.url && known["names"] == 1)
    });
    let of = |url: &str| {
        let mut all = told["gateways"].as_array().unwrap().iter();
        all.find(|known| known["url"] == *url).unwrap_or_else(|| panic!("{url}: {told}"))
    };
    assert_eq!((&of(&one.url)["own"], &of(&same.url)["own"]), (&false.into(), &true.into()));
    assert_eq!(
        (&of(&one.url)["lives"], &of(&one.url)["claim_time_ms"]),
        (&true.into(), &6_000.0.into())
    );
    assert_eq!(of("http://127.0.0.1:1")["names"], Value::Null, "{told}");
    assert_eq!(told["gateways"].as_array().unwrap().len(), 3, "{told}");
    let (code, out, error) = Ptth::run(&["status", "--admin", &same.admin.to_string()]);
    assert_eq!(code, 0, "{error}");
    assert!(out.contains(&format!("  {}: 1 name, announced ", one.url)), "{out}");
    assert!(out.contains(&format!("  {}, this one: 0 names, announced ", same.url)), "{out}");
    let asked = |path: &str| {
        let mut peer = RawPeer::connect(same.admin);
        peer.write(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        peer.read_answer("GET").text()
    };
    let metrics = asked("/metrics");
    for line in [
        format!("ptth_cluster_gateway_names{{peer=\"{}\"}} 1", one.url),
        format!("ptth_cluster_gateway_up{{peer=\"{}\"}} 1", one.url),
        "ptth_directory_names_restoring 0".to_owned(),
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} in\n{metrics}");
    }
    assert!(asked("/").contains("<h2>Gateways in the directory</h2>"));
    for told in [&one, &same] {
        let log = told.gateway.process.stderr();
        assert!(!log.contains("claims of this gateway last"), "{log}");
    }
    let other = Logged::start(&redis, &cluster, "9s");
    for (at, text) in [
        (
            &one,
            format!(
                "claims of this gateway last 6s in the directory, and those of other gateways do not: {} (9s)",
                other.url
            ),
        ),
        (&same, format!("{} (9s)", other.url)),
        (&other, format!("{} (6s)", one.url)),
    ] {
        at.gateway.process.expect_stderr(&text);
    }
    let (url, secret) = (redis.url(), cluster.path("secret"));
    let options = ["cluster", "check", "--directory", &url, "--peer-secret", &secret];
    let (code, out, _) = Ptth::run(&[&options[..], &["--directory-claim-time", "6s"]].concat());
    let told =
        format!("{}: its claims last 9s, which is not the --directory-claim-time here", other.url);
    assert!(
        code == 1 && out.contains(&told) && !out.contains(&format!("{}: its claims", one.url)),
        "{out}"
    );
}
