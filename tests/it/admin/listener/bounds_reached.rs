//! Which bounds of the gateway were reached, and how often, as an operator sees it.

use serde_json::json;

use super::Observed;
use crate::support::process::{get, offer};
use crate::support::{Gateway, Ptth, RawPeer, TempDir, eventually};

impl Observed {
    /// Fails unless the operator is told that this bound, and no other one, was reached so often.
    #[track_caller]
    fn is_reached(&self, bound: &str, times: u64) {
        let all = || self.json("/api/v1/status")["bounds_reached"].clone();
        eventually(&format!("{bound} was reached, not {}", all()), || {
            (all() == json!({ bound: times })).then_some(())
        });
        let metrics = self.get("/metrics").text();
        let line = format!("ptth_bound_reached_total{{bound=\"{bound}\"}} {times}\n");
        assert!(metrics.contains(&line), "{metrics}");
        let told = format!("bounds reached so far: {bound} ({times})");
        assert!(self.get("/").text().contains(&told), "the page lacks: {told}");
        let (code, out, error) = Ptth::run(&["status", "--admin", &self.admin.to_string()]);
        assert!(code == 0 && out.contains(&told), "{out}{error}");
    }

    /// The same for a bound that is counted for as long as something waits.
    #[track_caller]
    fn was_reached(&self, bound: &str) {
        let all = || self.json("/api/v1/status")["bounds_reached"].clone();
        eventually(&format!("{bound} was reached, not {}", all()), || {
            let all = all();
            (all.as_object()?.len() == 1 && all[bound].as_u64()? > 0).then_some(())
        });
        assert!(self.get("/").text().contains(&format!("bounds reached so far: {bound} (")));
    }

    #[track_caller]
    fn none_is_reached(&self) {
        assert_eq!(self.json("/api/v1/status")["bounds_reached"], json!({}));
        assert!(!self.get("/").text().contains("bounds reached"));
        let (_, out, _) = Ptth::run(&["status", "--admin", &self.admin.to_string()]);
        assert!(!out.contains("bounds reached"), "{out}");
    }
}

/// Fails unless the connection is closed without a word; a reset counts, too.
#[track_caller]
fn is_dropped(mut peer: RawPeer) {
    let (bytes, _) = peer.read_to_any_end();
    assert_eq!(String::from_utf8_lossy(&bytes), "");
}

/// A visitor that has sent this request.
fn asking(gateway: &Gateway, target: &str) -> RawPeer {
    let mut visitor = gateway.visitor();
    visitor.write(get(target));
    visitor
}

#[test]
fn connections_of_one_address() {
    let observed = Observed::start(&["--connections-per-address", "1"]);
    let _link = observed.gateway.link("lamp");
    observed.none_is_reached();
    (0..2).for_each(|_| is_dropped(observed.gateway.dial()));
    observed.is_reached("connections_per_address_max", 2);
}

#[test]
fn connections_that_have_shown_nothing() {
    let observed = Observed::start(&["--unauthenticated", "1"]);
    let open = observed.gateway.process.descriptors();
    let first = observed.gateway.dial();
    eventually("it is accepted", || {
        (observed.gateway.process.descriptors() == open + 1).then_some(())
    });
    observed.none_is_reached();
    let _second = observed.gateway.dial();
    is_dropped(first);
    observed.is_reached("unauthenticated_max", 1);
}

#[test]
fn connections_in_all() {
    let options = ["--loops", "1", "--connections", "4", "--trusted-proxies", "127.0.0.1"];
    let observed = Observed::start(&[&options[..], &["--head", "120s"]].concat());
    let mut link = observed.gateway.link("lamp");
    let mut visitors: Vec<RawPeer> = (0..3).map(|_| observed.gateway.visitor()).collect();
    // Half a head is no idle connection.
    visitors[1..].iter_mut().for_each(|visitor| visitor.write("GET /lamp/x HTTP/1.1\r\n"));
    visitors[0].write(get("/lamp/0")); // when it has come through, the halves have been read
    assert_eq!(link.read_head().target(), "/0");
    observed.none_is_reached();
    let mut waits = asking(&observed.gateway, "/nobody/");
    let reached = || observed.json("/api/v1/status")["bounds_reached"].clone();
    // It is counted again for as long as it waits.
    eventually("connections_max is reached", || {
        (reached()["connections_max"].as_u64()? > 1).then_some(())
    });
    drop(visitors);
    waits.read_answer("GET").expect_refusal(404);
    observed.was_reached("connections_max");
}

#[test]
fn requests_that_wait_for_a_device() {
    let observed = Observed::start(&["--waiting", "1", "--wait-for-link", "60s"]);
    let mut link = observed.gateway.link("lamp");
    let _served = asking(&observed.gateway, "/lamp/1");
    assert_eq!(link.read_head().target(), "/1");
    let _waits = asking(&observed.gateway, "/lamp/2");
    eventually("it waits", || (observed.json("/api/v1/status")["waiting"] == 1).then_some(()));
    observed.none_is_reached();
    asking(&observed.gateway, "/lamp/3").read_answer("GET").expect_refusal(503);
    observed.is_reached("waiting_per_device_max", 1);
}

/// A gateway with this table of routes.
fn with_routes(folder: &TempDir, table: &str) -> Observed {
    let file = folder.0.join("routes.toml");
    std::fs::write(&file, table).unwrap();
    Observed::start(&["--config", file.to_str().unwrap()])
}

#[test]
fn requests_in_flight_of_a_route() {
    let folder = TempDir::new("bound-of-route");
    let table = "[[route]]\npath = \"/api\"\ndevice = \"lamp\"\nin_flight = 1\n";
    let observed = with_routes(&folder, table);
    let mut links = [(); 2].map(|()| observed.gateway.link("lamp"));
    let _served = asking(&observed.gateway, "/api/1");
    eventually("it is in progress", || {
        (observed.json("/api/v1/status")["in_progress"] == 1).then_some(())
    });
    observed.none_is_reached();
    asking(&observed.gateway, "/api/2").read_answer("GET").expect_refusal(503);
    observed.is_reached("in_flight", 1);
    links.iter_mut().for_each(drop);
}

#[test]
fn the_rate_of_a_route() {
    let folder = TempDir::new("rate-of-route");
    let table = "[[route]]\npath = \"/api\"\ndevice = \"lamp\"\nrate = \"1/h\"\n";
    let observed = with_routes(&folder, table);
    let mut link = observed.gateway.link("lamp");
    let _served = asking(&observed.gateway, "/api/1");
    link.read_head();
    observed.none_is_reached();
    asking(&observed.gateway, "/api/2").read_answer("GET").expect_refusal(429);
    observed.is_reached("rate", 1);
}

#[test]
fn memory() {
    let options =
        ["--memory", "4000000", "--wait-for-link", "60s", "--trusted-proxies", "127.0.0.1"];
    let observed = Observed::start(&options);
    drop(observed.gateway.link("away"));
    let waits = format!("GET /away/ HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(16_000));
    let mut waiting = Vec::new();
    // Requests that wait for their device fill the memory, until one is refused.
    eventually("one is refused", || {
        let mut visitor = observed.gateway.visitor();
        visitor.write(&waits);
        waiting.push(visitor);
        let progress = observed.json("/api/v1/status");
        (progress["bounds_reached"] != json!({})).then_some(())
    });
    assert!(waiting.len() > 100, "{}", waiting.len());
    observed.was_reached("memory_bytes_max");
}

#[test]
fn descriptors() {
    let observed = Observed::start(&["--trusted-proxies", "127.0.0.1"]);
    assert_eq!(observed.post("/api/v1/log-level?level=debug").status(), 200);
    let process = &observed.gateway.process;
    // Half a head is no idle connection, which would give way.
    let mut half = observed.gateway.visitor();
    half.write("GET /nobody/ HTTP/1.1\r\n");
    observed.none_is_reached();
    process.limit_descriptors(4);
    let mut waits = asking(&observed.gateway, "/nobody/");
    // EMFILE; its text is that of the C library.
    process.expect_stderr("pauses until a connection closes");
    process.expect_one_warning("the admin listener cannot accept: ");
    assert!(process.stderr().contains("(os error 24)"), "{}", process.stderr());
    process.limit_descriptors(1_024);
    waits.read_answer("GET").expect_refusal(404);
    observed.was_reached("descriptors");
}

#[test]
fn links_of_one_device() {
    let observed = Observed::start(&["--connections", "16", "--trusted-proxies", "127.0.0.1"]);
    let mut links = Vec::new();
    // A quarter of the devices' share, at least two: the first one that is refused tells.
    let refused = loop {
        let mut peer = observed.gateway.dial();
        peer.write(offer("lamp", ""));
        let answer = peer.read_head();
        if answer.status() != 101 {
            break answer;
        }
        links.push(peer);
        observed.none_is_reached();
    };
    assert_eq!((refused.status(), refused.get("retry-after")), (503, Some("10")));
    observed.is_reached("links_per_device_max", 1);
}

/// Uploads to a device that polls, which are in memory whole. A device may have three of the longest.
#[test]
fn whole_messages() {
    let observed = Observed::start(&["--memory", "4Mi", "--wait-for-link", "60s"]);
    let mut poll = observed.gateway.dial();
    poll.write(
        "POST /lamp HTTP/1.1\r\nHost: a\r\nAccept: message/http\r\nContent-Length: 0\r\n\r\n",
    );
    observed.device("lamp", "it polls", |device| device["state"] == "up");
    observed.none_is_reached();
    let head = "POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n";
    let mut uploads: Vec<RawPeer> = (0..4).map(|_| observed.gateway.visitor()).collect();
    for upload in &mut uploads {
        let _ = upload.try_write(head.to_owned() + &"x".repeat(500_000)); // one is refused within it
    }
    observed.is_reached("messages_bytes_max", 1);
    let (code, retry_after) = uploads
        .iter_mut()
        .find_map(|upload| {
            let answer = upload.stirs().then(|| upload.read_answer("POST"))?;
            Some((answer.status(), answer.head.get("retry-after").map(str::to_owned)))
        })
        .expect("one has an answer");
    assert_eq!((code, retry_after.as_deref()), (503, Some("1")));
}
