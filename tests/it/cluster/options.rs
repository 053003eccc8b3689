//! The options of a gateway that has others beside it, and what SIGHUP reads again.

use crate::cluster::{Cluster, SECRET, at, device};
use crate::support::process::get;
use crate::support::{LocalServer, Ptth, RawPeer, each_row, eventually};

#[test]
fn options_that_need_others_say_so() {
    let cluster = Cluster::new();
    let secret = cluster.path("secret");
    cluster.say("bad-secret", "short\n");
    cluster.say("none", "# nothing\n");
    cluster.say("bad-url", "lamp gopher://a\n");
    cluster.say("twice", "lamp http://a\nlamp http://b\n");
    cluster.say("bad-name", "la_mp http://a\n");
    cluster.say("three", "lamp http://a http://b\n");
    let [bad_url, twice, bad_name, three, nothing] =
        ["bad-url", "twice", "bad-name", "three", "none"]
            .map(|name| format!("file:{}", cluster.path(name)));
    let (bad_secret, none) = (cluster.path("bad-secret"), cluster.path("none"));
    let rows: [(Vec<&str>, &str); 13] = [
        (vec!["--advertise", "http://a"], "--advertise goes with --peers"),
        (vec!["--peers-client-ca", "x"], "--peers-client-ca goes with --peers"),
        (vec!["--peer-secret", &secret], "--peers or --directory"),
        (vec!["--peers-ca", "x"], "--peers or --directory"),
        (vec!["--peers", "127.0.0.1:0", "--advertise", "gopher://a"], "--advertise"),
        (vec!["--peers", "127.0.0.1:0", "--peer-secret", &bad_secret], "16 to 256"),
        (vec!["--peers", "127.0.0.1:0", "--peer-secret", &none], "--peer-secret"),
        (vec!["--directory", "redis"], "file:PATH"),
        (vec!["--directory", &bad_url], "line 1"),
        (vec!["--directory", &twice], "line 2"),
        (vec!["--directory", &bad_name], "line 1"),
        (vec!["--directory", &three], "line 1"),
        (vec!["--peers", "127.0.0.1:9999", "--devices", "127.0.0.1:9999"], "two addresses"),
    ];
    each_row(
        &rows,
        |row| row.0.join(" "),
        |(options, part)| {
            let (code, _, told) = Ptth::run(&[&["gateway", "--check"], &options[..]].concat());
            assert_eq!(code, 2, "{told}");
            assert!(told.contains(part), "{told}");
        },
    );
    let right = [
        "gateway",
        "--check",
        "--peers",
        "127.0.0.1:0",
        "--advertise",
        "http://gw.example:7000",
        "--peer-secret",
        &secret,
        "--directory",
        &nothing,
    ];
    assert_eq!(Ptth::run(&right).0, 0);
}

#[test]
fn a_gateway_knows_itself_in_the_directory_by_what_it_advertises() {
    let cluster = Cluster::new();
    cluster.say("one", "lamp http://one.example:7000\nother http://127.0.0.1:1\n");
    let advertised = ["--advertise", "http://one.example:7000/", "--wait-for-link", "100ms"];
    let (gateway, url) = cluster.gateway("one", &advertised);
    gateway.get("/lamp/x").expect_refusal(404); // it has not got it, and asks nobody
    let away = gateway.get("/other/x");
    away.expect_refusal(503);
    assert!(away.text().contains("cannot be reached"), "{}", away.text());
    assert_ne!(at(&url).port(), 7000);
}

#[test]
fn the_directory_and_the_secrets_are_read_again() {
    let cluster = Cluster::new();
    let (second, url) = cluster.gateway("second", &[]);
    let (first, _) = cluster.gateway("first", &[]);
    let local = LocalServer::start();
    let _device = device(&second, "lamp", &local.url());
    first.get("/lamp/x").expect_refusal(404);
    cluster.say("first", &format!("lamp {url}\n"));
    first.process.signal("HUP");
    eventually("it is found", || (first.get("/lamp/x").status() == 200).then_some(()));
    // A mistake changes nothing.
    cluster.say("first", "lamp nowhere\n");
    first.process.signal("HUP");
    first.process.expect_stderr("the directory stays as it was");
    first.get("/lamp/x").expect_ok("hello\n");
    // Nor does what a full disk leaves.
    cluster.say("first", "\n");
    first.process.signal("HUP");
    first.process.expect_stderr("the file is empty; one without names needs a comment");
    first.get("/lamp/x").expect_ok("hello\n");
    // A new secret: it is taken everywhere before anybody shows it.
    cluster.say("first", &format!("* {url}\n"));
    let new = "another-secret-of-this-cluster";
    for (lines, part) in [
        (format!("{SECRET}\n{new}\n"), "read again: 2"),
        (format!("{new}\n{SECRET}\n"), "read again: 2"),
        (format!("# the new one\n{new}\n"), "read again: 1"),
    ] {
        cluster.say("secret", &lines);
        for gateway in [&second, &first] {
            let told = gateway.process.stderr().matches(part).count();
            gateway.process.signal("HUP");
            eventually("it was read", || {
                (gateway.process.stderr().matches(part).count() > told).then_some(())
            });
            first.get("/lamp/x").expect_ok("hello\n");
        }
    }
    let old = format!(
        "GET /x HTTP/1.1\r\nHost: a\r\nPTTH-Peer-Secret: {SECRET}\r\nPTTH-Peer-Device: lamp\r\n\r\n"
    );
    assert_eq!(RawPeer::connect(at(&url)).ask(&old).status(), 403);
    for gateway in [&first, &second] {
        let told = gateway.process.stderr();
        assert!(!told.contains(SECRET) && !told.contains(new), "{told}");
    }
    let mut visitor = first.visitor();
    visitor.ask(&get("/lamp/y")).expect_ok("hello\n");
}
