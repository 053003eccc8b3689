//! Who may ask on the peers' port, and whose word counts: fields that are forged, circles, hops.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use reverse_http::{Gateway, Peers, RedisDirectory, Routes};

use crate::cluster::view::{admin_of, cluster_at};
use crate::cluster::{Cluster, SECRET, at, device, peers_of};
use crate::support::pki::Authority;
use crate::support::process::get;
use crate::support::{Answer, LocalServer, Ptth, RawPeer, each_row, eventually};

fn peer_request(device: &str, fields: &str) -> String {
    format!("GET /x HTTP/1.1\r\nHost: a\r\nPTTH-Peer-Device: {device}\r\n{fields}\r\n")
}

#[test]
fn the_peers_port_is_for_gateways_that_show_the_secret() {
    let cluster = Cluster::new();
    let (gateway, url) = cluster.gateway("one", &["--via", "one"]);
    let local = LocalServer::start();
    let _device = device(&gateway, "lamp", &local.url());
    let right = format!("PTTH-Peer-Secret: {SECRET}\r\n");
    let ask = |request: &str| RawPeer::connect(at(&url)).ask(request);
    ask(&peer_request("lamp", &right)).expect_ok("hello\n");
    let served = local.count();
    let rows = [
        ("no secret", peer_request("lamp", ""), 403),
        (
            "another secret",
            peer_request("lamp", "PTTH-Peer-Secret: the-secret-of-this-clustes\r\n"),
            403,
        ),
        ("a part of it", peer_request("lamp", "PTTH-Peer-Secret: the-secret\r\n"), 403),
        (
            "two, one of them right",
            peer_request("lamp", &format!("{right}PTTH-Peer-Secret: guess\r\n")),
            403,
        ),
        ("a visitor's request", get("/lamp/x"), 403),
        ("no device", format!("GET /x HTTP/1.1\r\nHost: a\r\n{right}\r\n"), 400),
        ("two devices", peer_request("lamp", &format!("{right}PTTH-Peer-Device: lamp\r\n")), 400),
        ("a name that is none", peer_request("../lamp", &right), 400),
        (
            "a visitor that is none",
            peer_request("lamp", &format!("{right}PTTH-Peer-Visitor: me\r\n")),
            400,
        ),
        (
            "a wait that is none",
            peer_request("lamp", &format!("{right}PTTH-Peer-Waits: link=-1\r\n")),
            400,
        ),
        ("no path", peer_request("lamp", &right).replace("GET /x", "GET x"), 400),
        (
            "both lengths",
            peer_request(
                "lamp",
                &format!("{right}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
            ),
            400,
        ),
        ("it came round", peer_request("lamp", &format!("{right}Via: 1.1 one, 1.1 two\r\n")), 508),
        ("it is not here", peer_request("other", &right), 404),
    ];
    each_row(
        &rows,
        |row| row.0.to_owned(),
        |(_, request, status)| {
            let answer = ask(request);
            assert_eq!(answer.status(), *status, "{}", answer.head.text());
            let miss = [(403, "stranger"), (404, "unknown")];
            let miss = miss.iter().find(|(of, _)| of == status).map(|(_, miss)| *miss);
            assert_eq!(answer.head.get("ptth-peer-miss"), miss);
            assert_eq!(answer.head.get("www-authenticate"), None, "it takes no token");
            assert!(!answer.head.text().contains(SECRET) && !answer.text().contains(SECRET));
        },
    );
    assert_eq!(local.count(), served, "none of them has reached the device");
    // Its own sign of life, for clients that check whether it can be reached.
    let options = format!("OPTIONS * HTTP/1.1\r\nHost: a\r\n{right}\r\n");
    assert_eq!(ask(&options).status(), 200);
    assert!(!gateway.process.stderr().contains(SECRET));
}

#[test]
fn what_visitors_and_devices_say_is_no_gateways_word() {
    let cluster = Cluster::new();
    let (second, url) = cluster.gateway("second", &[]);
    cluster.say("first", &format!("lamp {url}\n"));
    let (first, _) = cluster.gateway("first", &[]);
    let local = LocalServer::with(|c| {
        let miss = "PTTH-Peer-Miss: away\r\nptth-peer-later: x\r\n";
        c.answer("200 OK", miss, "served");
    });
    let _device = device(&second, "lamp", &local.url());
    let _other = device(&second, "other", &LocalServer::start().url());
    // A device that says of itself that it is not there: its answer is an answer.
    let forged = "GET /lamp/x HTTP/1.1\r\nHost: a\r\nPTTH-Peer-Device: other\r\nPTTH-Peer-Waits: link=0\r\nPTTH-Peer-Visitor: x\r\n\r\n";
    for gateway in [&first, &second] {
        let answer = gateway.visitor().ask(forged);
        answer.expect_ok("served");
        assert!(!answer.head.text().to_lowercase().contains("ptth-peer"), "{}", answer.head.text());
    }
    assert!(local.requests().iter().all(|head| !head.text().to_lowercase().contains("ptth-peer")));
}

/// Its visitors are not the ones who can mend that, and are not asked for a token.
#[test]
fn a_gateway_whose_secret_is_not_taken_says_so() {
    let cluster = Cluster::new();
    let (second, url) = cluster.gateway("second", &[]);
    let local = LocalServer::start();
    let _device = device(&second, "lamp", &local.url());
    std::fs::write(cluster.path("secret"), "another-secret-than-theirs\n").unwrap();
    cluster.say("first", &format!("lamp {url}\n"));
    let (first, _) = cluster.gateway("first", &[]);
    let post = "POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
    for request in [&get("/lamp/x"), post] {
        let answer = first.visitor().ask(request);
        answer.expect_refusal(502);
        let status = answer.head.get("proxy-status").unwrap();
        assert!(status.contains("error=proxy_configuration_error"), "{status}");
        assert_eq!(answer.head.get("www-authenticate"), None);
    }
    first.process.expect_stderr(&format!(
        "lamp, at {url}: it does not take this one's secret; give both the same (Peers::secrets, or the first line of --peer-secret)"
    ));
    // One that has none is told another thing.
    let directory = format!("file:{}", cluster.path("first"));
    let bare = crate::support::Gateway::start(&["--directory", &directory]);
    let answer = bare.get("/lamp/x");
    answer.expect_refusal(502);
    assert!(answer.text().contains("wants a secret, and this one shows none"), "{}", answer.text());
    bare.process.expect_stderr(&format!(
        "lamp, at {url}: it wants a secret, and this one shows none; give it one"
    ));
    second.process.expect_stderr("a request from 127.0.0.1:");
    second.process.expect_stderr("does not show the secret");
    second.get("/lamp/x").expect_ok("hello\n");
}

/// A directory may lead anywhere by mistake: to another listener of a gateway, or to somebody else.
/// No visitor gets what answers there, and no operator's port does what a visitor asks.
#[test]
fn what_answers_elsewhere_than_at_a_peers_port_is_no_devices_answer() {
    let cluster = Cluster::new();
    let (second, url) = cluster.gateway("second", &["--admin", "127.0.0.1:0"]);
    let admin = second.process.line();
    let admin = admin.strip_prefix("admin ").expect("a line admin URL");
    let local = LocalServer::start();
    let _device = device(&second, "lamp", &local.url());
    let devices = format!("http://{}", second.devices);
    let visitors = format!("http://{}", second.visitors);
    let foreign = LocalServer::start();
    let foreign_url = foreign.url();
    let places = [
        ("admin", admin),
        ("devices", &devices),
        ("visitors", &visitors),
        ("foreign", &foreign_url),
    ];
    let disconnect = "POST /lamp/api/v1/devices/lamp/disconnect HTTP/1.1\r\nHost: localhost\r\nX-Ptth-Admin: 1\r\nContent-Length: 0\r\n\r\n";
    for (place, wrong) in places {
        cluster.say(place, &format!("lamp {wrong}\n"));
        let (first, _) = cluster.gateway(place, &[]);
        for request in [&get("/lamp/"), disconnect] {
            if place == "devices" && request == disconnect {
                continue; // a POST is a poll there, and held
            }
            let answer = first.visitor().ask(request);
            answer.expect_refusal(502);
            let status = answer.head.get("proxy-status").unwrap();
            assert!(status.contains("error=proxy_configuration_error"), "{place}: {status}");
        }
        first.process.expect_stderr(&format!(
            "lamp, at {}: what the directory names answered ",
            wrong.trim_end_matches('/')
        ));
        let log = first.process.stderr();
        assert!(
            log.contains("(Peers::advertise, or --advertise); ptth cluster check says"),
            "{log}"
        );
        // As soon as that is mended.
        cluster.say(place, &format!("lamp {url}\n"));
        first.process.signal("HUP");
        first.process.expect_stderr("the directory was read");
        first.get("/lamp/x").expect_ok("hello\n");
    }
    let log = second.process.stderr();
    assert!(!log.contains("operator"), "{log}");
}

/// A gateway of this process whose directory says that everything is at one place.
fn towards(url: impl Into<String>) -> (Gateway, SocketAddr, String) {
    let url = url.into();
    let peers = Peers::found_by(move |_| Ok(Some(url.clone())));
    let gateway = Gateway::builder().peers(peers).listen("127.0.0.1:0").start().unwrap();
    let visitors = gateway.listen_visitors("127.0.0.1:0", Routes::path()).unwrap();
    let url = format!("http://{}", gateway.listen_peers("127.0.0.1:0").unwrap());
    (gateway, visitors, url)
}

/// What answers one request on each connection with this.
fn answering(answer: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut peer = RawPeer::adopt(stream.unwrap(), "what the directory names");
            peer.read_head();
            peer.write(&answer);
        }
    });
    url
}

#[test]
fn interim_responses_reach_a_visitor_from_a_gateways_port_alone() {
    let hint = |mark: &str, what: &str| {
        format!("HTTP/1.1 103 Early Hints\r\n{mark}Link: <{what}>\r\n\r\n")
    };
    let mark = "PTTH-Peer-Served: 1\r\n";
    let last = |mark: &str| format!("HTTP/1.1 200 OK\r\n{mark}Content-Length: 2\r\n\r\nhi");
    let ask = |answer: [String; 3]| {
        let (_gateway, visitors, _) = towards(answering(answer.concat()));
        RawPeer::connect(visitors).ask(&get("/lamp/x"))
    };
    let links = |answer: &Answer| -> Vec<String> {
        answer.interim.iter().map(|head| head.get("link").unwrap().to_owned()).collect()
    };
    let refused = ask([hint("", "/theirs"), hint("", "/theirs"), last("")]);
    refused.expect_refusal(502);
    assert!(refused.interim.is_empty(), "{:?}", links(&refused));
    let taken = ask([hint(mark, "/ours"), hint("", "/theirs"), last(mark)]);
    taken.expect_ok("hi");
    assert_eq!(links(&taken), ["</ours>"]);
    assert_eq!(taken.interim[0].get("ptth-peer-served"), None);
    // Two gateways say it to each other.
    let device = towards("http://127.0.0.1:1");
    let mut link = RawPeer::connect(device.0.devices_addr());
    link.write("POST /lamp HTTP/1.1\r\nHost: a\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n");
    link.read_head();
    let (_gateway, visitors, _) = towards(device.2);
    let mut visitor = RawPeer::connect(visitors);
    visitor.write(get("/lamp/x"));
    link.read_head();
    link.write([hint("", "/device"), last("")].concat());
    let answer = visitor.read_answer("GET");
    answer.expect_ok("hi");
    assert_eq!(links(&answer), ["</device>"]);
}

#[test]
fn a_request_takes_one_hop_and_never_a_circle() {
    // The third gateway has the device, and the second one knows that: it does not send on.
    let (third, _, url) = towards("http://127.0.0.1:1");
    let device_url = format!("http://{}/lamp", third.devices_addr());
    let there = reverse_http::Device::builder(device_url).build().unwrap();
    let _there = there.spawn(|_| http::Response::new(reverse_http::Body::from("third"))).unwrap();
    third.device("lamp").wait_connected(std::time::Duration::from_secs(20)).unwrap();
    let (second, of_second, url) = towards(url);
    let (first, of_first, _) = towards(url);
    RawPeer::connect(of_second).ask(&get("/lamp/x")).expect_ok("third");
    RawPeer::connect(of_first).ask(&get("/lamp/x")).expect_refusal(404);
    assert_eq!((first.stats().hops, second.stats().hops, third.stats().hops_served), (2, 1, 1));
    // A device that forwards to where its visitors come from.
    let cluster = Cluster::new();
    let (second, url) = cluster.gateway("second", &[]);
    cluster.say("first", &format!("round {url}\n"));
    let (first, _) = cluster.gateway("first", &["--route", "host=devices.example"]);
    let _round = device(&second, "round", &format!("http://{}", first.visitors));
    let request = "GET /x HTTP/1.1\r\nHost: round.devices.example\r\n\r\n";
    first.visitor().ask(request).expect_refusal(508);
}

#[test]
fn beyond_loopback_other_gateways_have_to_show_something() {
    let (code, _, told) = Ptth::run(&["gateway", "--peers", "0.0.0.0:0", "--check"]);
    assert_eq!(code, 2, "{told}");
    for remedy in ["--peer-secret", "--peers-client-ca"] {
        assert!(told.contains(remedy), "{told}");
    }
    let cluster = Cluster::new();
    let allowed =
        ["gateway", "--peers", "0.0.0.0:0", "--peer-secret", &cluster.path("secret"), "--check"];
    assert_eq!(Ptth::run(&allowed).0, 0);
    let builder = || Gateway::builder().listen("127.0.0.1:0");
    let open = builder().peers(Peers::found_by(|_| Ok(None))).start().unwrap();
    let refused = open.listen_peers("0.0.0.0:0").unwrap_err();
    assert!(refused.is_usage() && refused.to_string().contains("secret"), "{refused}");
    assert!(open.set_peer_secrets([SECRET]).unwrap_err().is_usage(), "it was started without one");
    let known = Peers::found_by(|_| Ok(None)).secrets([SECRET]).unwrap();
    builder().peers(known).start().unwrap().listen_peers("0.0.0.0:0").unwrap();
    // Where names are claimed, others have to be told an address that they can reach.
    let (at_all, in_redis) = ("0.0.0.0:0", "redis://127.0.0.1:1");
    let secret = cluster.path("secret");
    for (address, advertised, code) in [
        (at_all, None, 2),
        ("[::]:0", None, 2),
        (at_all, Some("http://gw1:9997"), 0),
        ("127.0.0.1:0", None, 0),
    ] {
        let mut told = vec!["gateway", "--peers", address, "--peer-secret", &secret];
        told.extend(["--directory", in_redis, "--check"]);
        told.extend(advertised.into_iter().flat_map(|url| ["--advertise", url]));
        let (found, _, why) = Ptth::run(&told);
        assert_eq!(found, code, "{told:?}: {why}");
        assert!(code == 0 || why.contains("give --advertise with the URL"), "{why}");
    }
    let shared = || {
        let peers = Peers::shared_in(RedisDirectory::new(in_redis).unwrap());
        peers.secrets([SECRET]).unwrap()
    };
    let refused = builder().peers(shared()).start().unwrap().listen_peers(at_all).unwrap_err();
    assert!(refused.is_usage() && refused.to_string().contains("--advertise"), "{refused}");
    let advertised = shared().advertise("http://gw1:9997").unwrap();
    builder().peers(advertised).start().unwrap().listen_peers(at_all).unwrap();
    let alone = builder().start().unwrap();
    assert!(alone.listen_peers("127.0.0.1:0").unwrap_err().is_usage());
}

#[test]
fn gateways_know_each_other_by_their_certificates() {
    let pki = Authority::new();
    let (ours, other) = (pki.server("first"), Authority::new());
    let theirs = pki.server("second");
    let stranger = other.server("stranger");
    let cluster = Cluster::new();
    cluster.say("second", "# nothing\n");
    let tls = |pair: &crate::support::pki::Pair, ca: &str| -> Vec<String> {
        ["--peers-cert", pair.certificate(), "--peers-key", pair.key(), "--peers-ca", ca]
            .map(str::to_owned)
            .to_vec()
    };
    let start = |more: &[String]| {
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        crate::support::Gateway::start(&more)
    };
    let options = ["--peers-cert", theirs.certificate(), "--peers-key", theirs.key()];
    let listens = ["--peers", "127.0.0.1:0", "--peers-client-ca", pki.ca()];
    let second = crate::support::Gateway::start(&[options, listens].concat());
    let url = peers_of(&second.process);
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    let local = LocalServer::start();
    let _device = device(&second, "lamp", &local.url());
    cluster.say("first", &format!("lamp {url}\n"));
    let directory = ["--directory".to_owned(), format!("file:{}", cluster.path("first"))];
    let first = start(&[tls(&ours, pki.ca()), directory.to_vec()].concat());
    for n in 0..5 {
        first.get(&format!("/lamp/{n}")).expect_ok("hello\n");
    }
    let gone = ["--wait-for-link".to_owned(), "100ms".to_owned()];
    let mut told = Vec::new();
    // One that shows a certificate of somebody else's, and one that takes it for somebody else.
    for options in [tls(&stranger, pki.ca()), tls(&ours, other.ca())] {
        let stranger = start(&[options, directory.to_vec(), gone.to_vec()].concat());
        let answer = stranger.get("/lamp/x");
        assert!(matches!(answer.status(), 502 | 503), "{}", answer.head.text());
        told.push(stranger);
    }
    // Both sides say which of a gateway's own options is wrong; visitors are told that it is one.
    let refused = |gateway: &crate::support::Gateway, alert: &str| {
        for request in
            [&get("/lamp/x"), "POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"]
        {
            let answer = gateway.visitor().ask(request);
            answer.expect_refusal(502);
            let status = answer.head.get("proxy-status").unwrap();
            assert!(status.contains("error=proxy_configuration_error"), "{status}");
            assert!(answer.text().contains("does not take this one's certificate"));
        }
        gateway.process.expect_stderr(&format!("WARN  reverse_http::gateway::peering] lamp, at {url}: it does not take this one's certificate"));
        let log = gateway.process.stderr();
        for told in [alert, "its GatewayTls::client_ca, or --peers-client-ca has to have the CA of"]
        {
            assert!(log.contains(told), "{told}: {log}");
        }
    };
    refused(&told[0], "received fatal alert: ");
    second.process.expect_stderr("give its CA (GatewayTls::client_ca, or --peers-client-ca)");
    told[1].process.expect_stderr("give its CA (DeviceTls::ca, or --peers-ca)");
    let shows_none = ["--peers-ca", pki.ca(), &directory[0], &directory[1], &gone[0], &gone[1]];
    let shows_none = start(&shows_none.map(str::to_owned));
    refused(&shows_none, "received fatal alert: CertificateRequired");
    let none = "give the other gateway one (DeviceTls::identity, or --peers-cert and --peers-key)";
    second.process.expect_stderr(none);
    assert_eq!(local.count(), 5);
    let refused = ["gateway", "--peers", "127.0.0.1:0", "--peers-client-ca", pki.ca(), "--check"];
    let (code, _, told) = Ptth::run(&refused);
    assert!(code == 2 && told.contains("--peers-cert"), "{told}");
}

/// Connections that another gateway's certificate admitted end with its CA, connections that are kept included.
#[test]
fn a_replaced_ca_ends_the_connections_that_it_let_in() {
    let (pki, new) = (Authority::new(), Authority::new());
    let (ours, theirs) = (pki.server("first"), pki.server("second"));
    let cluster = Cluster::new();
    let ca = cluster.path("ca.pem");
    std::fs::copy(pki.ca(), &ca).unwrap();
    let listens = ["--peers", "127.0.0.1:0", "--peers-client-ca", &ca];
    let shows = ["--peers-cert", theirs.certificate(), "--peers-key", theirs.key()];
    let second = crate::support::Gateway::start(&[listens, shows].concat());
    let url = peers_of(&second.process);
    let local = LocalServer::with(|c| match c.head.target() {
        "/whole" => c.text("whole"),
        _ => c.peer.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome"),
    });
    let _device = device(&second, "lamp", &local.url());
    cluster.say("first", &format!("lamp {url}\n"));
    let directory = format!("file:{}", cluster.path("first"));
    let knows = ["--peers-ca", pki.ca(), "--directory", &directory, "--wait-for-link", "5s"];
    let shows = ["--peers-cert", ours.certificate(), "--peers-key", ours.key()];
    let seen = ["--admin", "127.0.0.1:0"];
    let first = crate::support::Gateway::start(&[&knows[..], &shows, &seen].concat());
    let admin = admin_of(&first.process);
    let mut visitor = first.visitor();
    for _ in 0..2 {
        visitor.ask(&get("/lamp/whole")).expect_ok("whole");
    }
    let mut streams = first.visitor();
    streams.write(get("/lamp/endless"));
    assert_eq!(streams.read_head().status(), 200);
    let replace = |by: &str| {
        let read = "certificates for other gateways were read again";
        let told = second.process.stderr().matches(read).count();
        std::fs::write(&ca, by).unwrap();
        second.process.signal("HUP");
        eventually("it was read", || {
            (second.process.stderr().matches(read).count() > told).then_some(())
        });
    };
    // A renewal by the same CA changes nothing.
    replace(&pki.pem);
    visitor.ask(&get("/lamp/whole")).expect_ok("whole");
    replace(&new.pem);
    let idle = |told: &serde_json::Value| told["peers"][0]["connections"]["idle"] == 0;
    cluster_at(admin, "what idled was closed at once", idle);
    let answer = visitor.ask(&get("/lamp/whole"));
    assert!(matches!(answer.status(), 502 | 503), "{}", answer.head.text());
    streams.deadline = Duration::from_secs(30);
    streams.read_to_any_end(); // after take_over_grace (10 s)
    assert_eq!(local.count(), 4);
}

/// Strangers of two addresses hold all the places that there are for those who have shown nothing,
/// and more come: the oldest of them go, a gateway gets through, and so do visitors and devices.
#[test]
fn strangers_at_the_peers_port_keep_out_neither_gateways_nor_visitors_nor_devices() {
    let cluster = Cluster::new();
    // One loop, so that it is certain which connection is the oldest; of 32 connections 24 are
    // visitors' and gateways', and 8 of these may be strangers', 4 of one address.
    let few = ["--loops", "1", "--connections", "32", "--unauthenticated", "8", "--head", "120s"];
    let (second, url) = cluster.gateway("second", &few);
    cluster.say("first", &format!("lamp {url}\n"));
    let (first, _) = cluster.gateway("first", &[]);
    let local = LocalServer::start();
    let _device = device(&second, "lamp", &local.url());
    second.get("/lamp/0").expect_ok("hello\n");
    let stranger = |ip| {
        let mut peer = RawPeer::connect_from(ip, at(&url));
        let _ = peer.try_write("GET /x HTTP/1.1\r\n"); // half a head is no idle connection
        peer
    };
    let mut of_one: Vec<RawPeer> = (0..4).map(|_| stranger([127, 0, 0, 2])).collect();
    of_one[0].expect_quiet(Duration::from_millis(100));
    // An address has half of them; what more comes from there is closed, and pushes nobody out.
    for _ in 0..20 {
        assert!(stranger([127, 0, 0, 2]).read_to_any_end().0.is_empty());
    }
    second.process.expect_stderr("half of unauthenticated_max");
    of_one[0].expect_quiet(Duration::from_millis(100));
    first.get("/lamp/1").expect_ok("hello\n");
    // Other addresses take the rest, and then the places of the oldest.
    let mut others: Vec<RawPeer> = (3..7).map(|n| stranger([127, 0, 0, n])).collect();
    for n in 0..30 {
        others.push(stranger([127, 0, 1, n]));
        // A new connection each time, after as many strangers as there may be.
        let answer = RawPeer::connect(at(&url)).ask(&peer_request(
            "lamp",
            &format!("PTTH-Peer-Secret: {SECRET}\r\nConnection: close\r\n"),
        ));
        answer.expect_ok("hello\n");
        second.visitor().ask(&get("/nobody/")).expect_refusal(404);
        drop(second.link(&format!("door-{n}")));
    }
    of_one.into_iter().for_each(|mut gone| assert!(gone.read_to_any_end().0.is_empty()));
    second.process.expect_stderr("by unauthenticated_max");
    first.get("/lamp/2").expect_ok("hello\n");
    others.last_mut().unwrap().expect_quiet(Duration::from_millis(100));
}

/// Where visitors have taken all that is left, strangers give way to one more, and to devices.
#[test]
fn strangers_at_the_peers_port_give_way_to_visitors_and_devices() {
    let cluster = Cluster::new();
    let few = ["--loops", "1", "--connections", "32", "--unauthenticated", "8", "--head", "120s"];
    let (gateway, url) = cluster.gateway("one", &few);
    let mut strangers: Vec<RawPeer> = (2..10)
        .map(|n| {
            let mut peer = RawPeer::connect_from([127, 0, 0, n], at(&url));
            peer.write("GET /x HTTP/1.1\r\n");
            peer
        })
        .collect();
    strangers[0].expect_quiet(Duration::from_millis(100));
    // Each has begun its second request before the next one comes, so none idles and gives way. Of
    // 24 places eight are taken.
    let visitors: Vec<RawPeer> = (2..26)
        .map(|n| {
            let mut visitor = RawPeer::connect_from([127, 0, 0, n], gateway.visitors);
            visitor.write(format!("{}GET /nobody/ HTTP/1.1\r\n", get("/nobody/")));
            visitor.read_answer("GET").expect_refusal(404);
            visitor
        })
        .collect();
    for mut visitor in visitors {
        visitor.write("Host: a\r\n\r\n");
        visitor.read_answer("GET").expect_refusal(404);
    }
    strangers.remove(0).read_to_any_end();
    gateway.process.expect_stderr("was closed to make room for another one");
    drop(gateway.link("lamp"));
}
