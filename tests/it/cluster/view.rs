//! What an operator sees of other gateways and of the directory: JSON, page, metrics, terminal,
//! access log.

use std::net::SocketAddr;

use serde_json::Value;

use crate::cluster::{Cluster, device};
use crate::support::{
    Answer, Gateway, LocalServer, Process, Ptth, RawGateway, RawPeer, eventually,
};

/// A gateway of a cluster, with its operators' listener and an access log.
struct Seen {
    gateway: Gateway,
    url: String,
    admin: SocketAddr,
    log: String,
}

impl Seen {
    #[track_caller]
    fn start(cluster: &Cluster, name: &str, more: &[&str]) -> Seen {
        let log = cluster.path(&format!("{name}.log"));
        let options = ["--admin", "127.0.0.1:0", "--access-log", &log];
        let all = [&options[..], &["--access-log-format", "json"], more].concat();
        let (gateway, url) = cluster.gateway(name, &all);
        let admin = admin_of(&gateway.process);
        Seen { gateway, url, admin, log }
    }

    #[track_caller]
    fn get(&self, path: &str) -> Answer {
        asked(self.admin, path)
    }

    /// What is said of other gateways, once it is like this.
    #[track_caller]
    fn cluster(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        cluster_at(self.admin, what, is)
    }

    /// The first line of the access log.
    #[track_caller]
    fn logged(&self) -> Value {
        eventually("a line of the access log", || {
            let text = std::fs::read_to_string(&self.log).ok()?;
            let (line, _) = text.split_once('\n')?;
            Some(serde_json::from_str(line).unwrap())
        })
    }

    #[track_caller]
    fn status(&self) -> String {
        let (code, out, error) = Ptth::run(&["status", "--admin", &self.admin.to_string()]);
        assert_eq!(code, 0, "{error}");
        out
    }
}

#[test]
fn where_the_directory_has_a_device_is_told_to_operators() {
    let cluster = Cluster::new();
    let (second, url) = cluster.gateway("second", &[]);
    cluster.say("first", &format!("lamp {url}\n"));
    let seen = Seen::start(&cluster, "first", &[]);
    let told = |name: &str| {
        let (code, out, error) = Ptth::run(&["status", "--admin", &seen.admin.to_string(), name]);
        (code, out + &error)
    };
    let (code, lamp) = told("lamp");
    assert_eq!(code, 1, "{lamp}");
    let at = format!("the directory of gateways has it at {url}");
    assert!(
        lamp.contains(&format!("404 no device of this name was connected recently; {at}")),
        "{lamp}"
    );
    let (code, door) = told("door");
    assert!(
        door.contains("connected recently; the directory of gateways knows none that has it"),
        "{door}"
    );
    assert_eq!(code, 1, "{door}");
    assert_eq!(asked(seen.admin, "/api/v1/devices/no%20name").status(), 404);
    // One that was here, and is elsewhere now.
    drop(seen.gateway.link("lamp"));
    let lamp = eventually("it is away", || {
        let answer = asked(seen.admin, "/api/v1/devices/lamp");
        let lamp: Value = serde_json::from_slice(&answer.body).unwrap();
        (lamp["state"] == "down").then_some(lamp)
    });
    assert_eq!(lamp["elsewhere"], serde_json::json!({ "gateways": [url], "error": null }));
    assert!(told("lamp").1.contains(&at), "{}", told("lamp").1);
    assert!(asked(seen.admin, "/devices/lamp").text().contains(&at));
    let _here = seen.gateway.link("lamp");
    let answer = asked(seen.admin, "/api/v1/devices/lamp");
    let lamp: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((&lamp["state"], &lamp["elsewhere"]), (&"up".into(), &Value::Null));
    drop(second);
}

/// The ready line of operators.
#[track_caller]
pub fn admin_of(process: &Process) -> SocketAddr {
    process.line().strip_prefix("admin http://").expect("a line admin URL").parse().unwrap()
}

#[track_caller]
fn asked(admin: SocketAddr, path: &str) -> Answer {
    let mut peer = RawPeer::connect(admin);
    peer.write(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    peer.read_answer("GET")
}

#[track_caller]
pub fn cluster_at(admin: SocketAddr, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || {
        let answer = asked(admin, "/api/v1/cluster");
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let value: Value = serde_json::from_slice(&answer.body).unwrap();
        is(&value).then_some(value)
    })
}

#[test]
fn a_hop_is_seen_at_both_ends() {
    let (cluster, local) = (Cluster::new(), LocalServer::start());
    let second = Seen::start(&cluster, "second", &[]);
    let _lamp = device(&second.gateway, "lamp", &local.url());
    cluster.say("first", &format!("lamp {}\n", second.url));
    let first = Seen::start(&cluster, "first", &[]);
    assert_eq!(first.gateway.get("/lamp/x").status(), 200);
    let told = first.cluster("an answer", |told| told["peers"][0]["answered"] == 1);
    assert_eq!((&told["url"], &told["hops"]["sent"]), (&first.url.as_str().into(), &1.into()));
    let directory = &told["directory"];
    assert_eq!((&directory["kind"], &directory["state"]), (&"file".into(), &"answers".into()));
    assert!(directory["names"].is_null() && directory["away"].is_null(), "{told}");
    let peer = &told["peers"][0];
    assert_eq!((&peer["url"], &peer["requests"]), (&second.url.as_str().into(), &1.into()));
    assert_eq!(peer["connections"], serde_json::json!({ "open": 1, "idle": 1 }));
    assert!(peer["last_answer"].is_number() && peer["last_failure"].is_null(), "{told}");
    let told = second.cluster("it served", |told| told["hops"]["served"] == 1);
    assert_eq!(peer["state"], "answers", "{told}");
    // The gateway that asked has said who it is.
    let asker = &told["peers"][0];
    assert_eq!((&told["hops"]["sent"], told["peers"].as_array().unwrap().len()), (&0.into(), 1));
    assert_eq!(
        (&asker["url"], &asker["served"]),
        (&first.url.as_str().into(), &1.into()),
        "{told}"
    );
    assert_eq!((&asker["state"], &asker["requests"]), (&"unused".into(), &0.into()), "{told}");
    assert!(asker["last_served"].is_number() && peer["last_served"].is_null(), "{told}");
    // Each request is logged at both, with the way that it took.
    let (here, there) = (first.logged(), second.logged());
    assert_eq!(
        (&here["gateway"], &here["from_gateway"]),
        (&second.url.as_str().into(), &false.into())
    );
    assert_eq!((&there["gateway"], &there["from_gateway"]), (&Value::Null, &true.into()));
    assert_eq!(here["request_id"], there["request_id"]);
    let metrics = first.get("/metrics").text();
    let labels = format!("{{peer=\"{}\"", second.url);
    for line in [
        "ptth_hops_total 1".to_owned(),
        "ptth_hops_served_total 0".to_owned(),
        "ptth_directory_up 1".to_owned(),
        format!("ptth_peer_requests_total{labels}}} 1"),
        format!("ptth_peer_answers_total{labels}}} 1"),
        format!("ptth_peer_up{labels}}} 1"),
        format!("ptth_peer_served_total{labels}}} 0"),
        format!("ptth_peer_failures_total{labels}}} 0"),
        format!("ptth_peer_connections{labels},state=\"idle\"}} 1"),
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} in\n{metrics}");
    }
    let page = first.get("/").text();
    assert!(page.contains("<h2>Other gateways</h2>") && page.contains(&second.url), "{page}");
    let out = first.status();
    assert!(out.contains("directory (file): answers"), "{out}");
    assert!(out.contains("other gateways: 1; hops: 1 sent, 0 served\n"), "{out}");
    assert!(
        out.contains(&format!("  {}: answers; 1 sent, 0 served, 0 failed", second.url)),
        "{out}"
    );
    let out = second.status();
    assert!(
        out.contains(&format!("  {}: not asked; 0 sent, 1 served, 0 failed", first.url)),
        "{out}"
    );
    let served = format!("ptth_peer_served_total{{peer=\"{}\"}} 1", first.url);
    let metrics = second.get("/metrics").text();
    assert!(
        metrics.lines().any(|line| line == served) && !metrics.contains("ptth_peer_up{"),
        "{metrics}"
    );
}

#[test]
fn a_gateway_that_fails_is_told_with_the_reason() {
    let (cluster, local) = (Cluster::new(), LocalServer::start());
    // An address of its own: no other listener gets this port.
    let away = format!("http://{}", RawGateway::start().addr);
    let wrong = local.url();
    cluster.say("first", &format!("lamp {away}\ndoor {wrong}\n"));
    let first = Seen::start(&cluster, "first", &["--wait-for-link", "0s"]);
    first.gateway.get("/lamp/x").expect_refusal(503);
    first.gateway.get("/door/x").expect_refusal(502);
    let told = first.cluster("failures", |told| told["peers"].as_array().unwrap().len() == 2);
    let of = |url: &str| {
        let peers = told["peers"].as_array().unwrap();
        peers.iter().find(|peer| peer["url"] == *url).unwrap_or_else(|| panic!("{told}"))
    };
    for (url, requests, part) in
        [(&away, 0, "refused"), (&wrong, 1, "not the port of a gateway for others")]
    {
        let peer = of(url);
        let reason = peer["last_failure"]["reason"].as_str().unwrap();
        assert!(reason.contains(part), "{reason}");
        assert_eq!((&peer["requests"], &peer["answered"]), (&requests.into(), &0.into()), "{peer}");
        assert!(peer["failures"].as_u64() >= Some(1) && peer["last_answer"].is_null(), "{peer}");
        assert_eq!(peer["state"], "fails", "{peer}");
    }
    let out = first.status();
    assert!(out.contains(&format!("{away} failed ")) && out.contains("refused"), "{out}");
    assert!(first.get("/").text().contains("<span class=\"down\">"));
}

#[test]
fn without_other_gateways_there_is_nothing_of_it() {
    let gateway = Gateway::start(&["--admin", "127.0.0.1:0"]);
    let admin = admin_of(&gateway.process);
    asked(admin, "/api/v1/cluster").expect_refusal(404);
    assert!(!asked(admin, "/metrics").text().contains("ptth_hops"));
    assert!(!asked(admin, "/").text().contains("Other gateways"));
    let (code, out, _) = Ptth::run(&["status", "--admin", &admin.to_string()]);
    assert!(code == 0 && !out.contains("hops"), "{out}");
}

#[cfg(feature = "redis")]
#[test]
fn names_in_redis_are_counted_and_its_absence_is_told() {
    let Some(mut redis) = crate::cluster::shared::Redis::start(&[]) else { return };
    let (cluster, local) = (Cluster::new(), LocalServer::start());
    let secret = cluster.path("secret");
    let options = ["--peers", "127.0.0.1:0", "--peer-secret", &secret, "--admin", "127.0.0.1:0"];
    let url = redis.url();
    let gateway = Gateway::start(&[&options[..], &["--directory", &url]].concat());
    drop(crate::cluster::peers_of(&gateway.process));
    let admin = admin_of(&gateway.process);
    let _lamp = device(&gateway, "lamp", &local.url());
    let told = cluster_at(admin, "claimed", |told| told["directory"]["names"]["claimed"] == 1);
    let directory = &told["directory"];
    assert_eq!((&directory["kind"], &directory["state"]), (&"redis".into(), &"answers".into()));
    let seen = |told: &Value| told["gateways"][0]["own"] == true;
    cluster_at(admin, "it has announced itself", seen);
    redis.process.signal("KILL");
    // A request for a device finds out at once; a renewal may be due in some seconds only.
    eventually("a lookup fails", || (gateway.get("/door/x").status() == 503).then_some(()));
    let told = cluster_at(admin, "it is away", |told| told["directory"]["state"] == "away");
    let away = &told["directory"]["away"];
    assert!(away["since"].is_number() && away["reason"].as_str().unwrap().contains("Redis"));
    let metrics = eventually("it is away", || {
        let text = asked(admin, "/metrics").text();
        text.contains("\nptth_directory_up 0\n").then_some(text)
    });
    assert!(metrics.contains("ptth_directory_names{state="), "{metrics}");
    let (_, out, _) = Ptth::run(&["status", "--admin", &admin.to_string()]);
    assert!(out.contains("directory (redis): away for "), "{out}");
    redis.restart();
    cluster_at(admin, "it is back", |told| {
        told["directory"]["state"] == "answers" && told["directory"]["names"]["claimed"] == 1
    });
}
