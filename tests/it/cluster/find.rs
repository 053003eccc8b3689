//! `ptth cluster find`: where a device is, as the directory says and as its gateway says.

use serde_json::Value;

use crate::cluster::{Cluster, SECRET, device};
use crate::support::{LocalServer, Ptth, RawGateway, RawPeer, eventually};

#[track_caller]
fn find(options: &[&str]) -> (i32, String) {
    let (code, out, error) = Ptth::run(&[&["cluster", "find"], options].concat());
    assert!(!out.contains(SECRET) && !error.contains(SECRET), "{out}{error}");
    assert!(!out.is_empty(), "{code}: {error}");
    (code, out)
}

/// The same as JSON.
#[track_caller]
fn found(options: &[&str]) -> (i32, Value) {
    let (code, out) = find(&[&["--json"], options].concat());
    (code, serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}")))
}

#[track_caller]
fn line<'o>(out: &'o str, verdict: &str, step: &str) -> &'o str {
    let begins = format!("{verdict:<5}  {step:<9}  ");
    out.lines().find(|line| line.starts_with(&begins)).unwrap_or_else(|| panic!("{begins}: {out}"))
}

/// The gateway of this URL in an answer.
#[track_caller]
fn of<'v>(answer: &'v Value, url: &str) -> &'v Value {
    let mut all = answer["gateways"].as_array().unwrap().iter();
    all.find(|gateway| gateway["url"] == *url).unwrap_or_else(|| panic!("{url}: {answer}"))
}

#[test]
fn a_device_is_found_at_the_gateway_that_a_file_names() {
    let (cluster, local) = (Cluster::new(), LocalServer::start());
    let (one, first) = cluster.gateway("one", &[]);
    let (two, second) = cluster.gateway("two", &[]);
    cluster.say("all", &format!("lamp {first}\ndoor {second}\n"));
    let (directory, secret) = (format!("file:{}", cluster.path("all")), cluster.path("secret"));
    let options = ["--directory", &directory, "--peer-secret", &secret];
    let with = |name: &'static str| find(&[&[name], &options[..]].concat());
    let lamp = device(&one, "lamp", &local.url());
    let (code, out) = with("lamp");
    assert_eq!(code, 0, "{out}");
    assert!(line(&out, "ok", "claim").contains("by its line of lamp"), "{out}");
    assert!(line(&out, "ok", "gateway").contains(&format!("{first}: it has lamp")), "{out}");
    assert_eq!(out.lines().last(), Some(&*format!("lamp is at {first}")));
    // The wrong gateway, which never had it.
    let (code, out) = with("door");
    assert_eq!(code, 1, "{out}");
    assert!(line(&out, "wrong", "gateway").contains("it knows nothing of it"), "{out}");
    assert!(out.contains("door is not served: the directory names"), "{out}");
    // One that no line names.
    let (code, out) = with("bell");
    assert!(code == 1 && line(&out, "note", "claim").contains("none of bell"), "{out}");
    assert!(out.contains("bell is at no gateway that answered"), "{out}");
    // It was there.
    drop(lamp);
    let out = eventually("it has gone", || {
        let (code, out) = with("lamp");
        (code == 1).then_some(out)
    });
    assert!(line(&out, "wrong", "gateway").contains("it has it no more"), "{out}");
    // The device has come to the gateway that asks, and the file was not corrected.
    let _lamp = device(&two, "lamp", &local.url());
    let own = ["--peers", "127.0.0.1:0", "--advertise", &second];
    let (code, answer) = found(&[&["lamp"], &options[..], &own[..]].concat());
    assert_eq!((code, &answer["found"]), (1, &false.into()), "{answer}");
    let told = answer["told"].as_str().unwrap();
    assert!(
        told.contains(&format!("lamp is at {second}, and the directory names {first}")),
        "{told}"
    );
    assert!(told.ends_with("correct the file"), "{told}");
    assert_eq!(of(&answer, &second)["own"], true, "{answer}");
    assert_eq!(of(&answer, &first)["claim"]["line"], "lamp", "{answer}");
}

#[test]
fn a_gateway_that_does_not_answer_or_is_older_is_told() {
    let cluster = Cluster::new();
    let closed = format!("http://{}", RawGateway::start().addr); // nobody else's address
    let older = RawGateway::start();
    let older_url = format!("http://{}", older.addr);
    cluster.say("all", &format!("lamp {closed}\ndoor {older_url}\n* {closed}\n"));
    let (directory, secret) = (format!("file:{}", cluster.path("all")), cluster.path("secret"));
    let options = ["--directory", &directory, "--peer-secret", &secret];
    let (code, out) = find(&[&["lamp"], &options[..]].concat());
    assert_eq!(code, 1, "{out}");
    let told = line(&out, "wrong", "gateway");
    assert!(told.contains("no connection") && told.contains("wait or get 503"), "{out}");
    let (code, out) = find(&[&["bell"], &options[..]].concat());
    assert!(code == 1 && line(&out, "ok", "claim").contains("by its line of *"), "{out}");
    let answers = std::thread::spawn(move || {
        let mut peer = older.accept();
        let asked = peer.read_head();
        peer.write("HTTP/1.1 200 OK\r\nPTTH-Peer-Served: 1\r\nContent-Length: 0\r\n\r\n");
        asked.get("ptth-peer-device").map(str::to_owned)
    });
    let (code, out) = find(&[&["door"], &options[..]].concat());
    assert_eq!(answers.join().unwrap().as_deref(), Some("door"));
    assert!(line(&out, "note", "gateway").contains("its version is older"), "{out}");
    assert_eq!(
        (code, out.lines().last()),
        (0, Some(&*format!("door is at {older_url}, as the directory says")))
    );
}

#[test]
fn who_has_a_device_is_told_to_gateways_alone() {
    let (cluster, local) = (Cluster::new(), LocalServer::start());
    let (gateway, url) = cluster.gateway("one", &[]);
    let _lamp = device(&gateway, "lamp", &local.url());
    let ask = |at, lines: &str| {
        let mut peer = RawPeer::connect(at);
        peer.write(format!("OPTIONS * HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
        peer.read_answer("OPTIONS")
    };
    let peers = crate::cluster::at(&url);
    let secret = format!("PTTH-Peer-Secret: {SECRET}\r\n");
    for (device, has) in [("lamp", "connected"), ("door", "unknown")] {
        let about = format!("PTTH-Peer-Device: {device}\r\n");
        let answer = ask(peers, &format!("{secret}{about}"));
        assert_eq!((answer.status(), answer.head.get("ptth-peer-has")), (200, Some(has)));
        let stranger = ask(peers, &about);
        assert_eq!((stranger.status(), stranger.head.get("ptth-peer-has")), (403, None));
        let visitor = ask(gateway.visitors, &format!("{secret}{about}"));
        assert_eq!((visitor.status(), visitor.head.get("ptth-peer-has")), (200, None));
    }
    assert_eq!(ask(peers, &format!("{secret}PTTH-Peer-Device: ../x\r\n")).status(), 400);
    assert_eq!(ask(peers, &secret).head.get("ptth-peer-has"), None);
}

#[test]
fn mistakes_are_wrong_usage() {
    let cluster = Cluster::new();
    cluster.say("all", "");
    let directory = format!("file:{}", cluster.path("all"));
    let with = ["--directory", &directory];
    for (words, told) in [
        (vec!["find"], "ptth cluster find NAME"),
        (vec!["find", "no name"], "no name"),
        (vec!["find", "*"], "device name *"),
        (vec!["check", "lamp"], "ptth cluster find"),
        (vec!["check", "--json"], "ptth cluster find"),
    ] {
        let (code, _, error) = Ptth::run(&[&["cluster"], &words[..], &with].concat());
        assert!(code == 2 && error.contains(told), "{words:?}: {code} {error}");
    }
    let (code, _, error) = Ptth::run(&["cluster", "find", "lamp", "--peers", "127.0.0.1:7000"]);
    assert!(code == 2 && error.contains("--directory"), "{error}");
}

#[cfg(feature = "redis")]
mod redis {
    use super::*;
    use crate::cluster::peers_of;
    use crate::cluster::shared::Redis;
    use crate::support::Gateway;

    struct Two {
        redis: Redis,
        cluster: Cluster,
    }

    impl Two {
        fn start() -> Option<Two> {
            let redis = Redis::start(&[])?;
            Some(Two { redis, cluster: Cluster::new() })
        }

        fn gateway(&self, more: &[&str]) -> (Gateway, String) {
            let (url, secret) = (self.redis.url(), self.cluster.path("secret"));
            let options = ["--peers", "127.0.0.1:0", "--directory", &url, "--peer-secret", &secret];
            let gateway = Gateway::start(&[&options[..], more].concat());
            let url = peers_of(&gateway.process);
            eventually("it has announced itself", || {
                self.redis.ask(&["ZRANGE", "ptth:gateways", "0", "-1"]).contains(&url).then_some(())
            });
            (gateway, url)
        }

        #[track_caller]
        fn find(&self, name: &str, more: &[&str]) -> (i32, String) {
            let (url, secret) = (self.redis.url(), self.cluster.path("secret"));
            find(&[&[name, "--directory", &url, "--peer-secret", &secret], more].concat())
        }

        #[track_caller]
        fn found(&self, name: &str) -> (i32, Value) {
            let (url, secret) = (self.redis.url(), self.cluster.path("secret"));
            found(&[name, "--directory", &url, "--peer-secret", &secret])
        }

        /// Once it has a claim.
        #[track_caller]
        fn claimed(&self, name: &str) {
            eventually("it is claimed", || (!self.redis.owners(name).is_empty()).then_some(()));
        }
    }

    #[test]
    fn the_claim_is_told_with_its_age_and_its_end() {
        let Some(two) = Two::start() else { return };
        let local = LocalServer::start();
        let (one, first) = two.gateway(&[]);
        let (_other, second) = two.gateway(&[]);
        let _lamp = device(&one, "lamp", &local.url());
        two.claimed("lamp");
        let own = ["--peers", "127.0.0.1:0", "--advertise", &second];
        let (code, out) = two.find("lamp", &own);
        assert_eq!(code, 0, "{out}");
        let claim = line(&out, "ok", "claim");
        let epoch = two.redis.ask(&["HGET", "ptth:n:lamp", &first]);
        let epoch = epoch.split(' ').next().unwrap();
        assert!(
            claim.contains(&format!("{first}: made ")) && claim.contains("valid for "),
            "{out}"
        );
        assert!(claim.contains(&format!("(epoch {epoch})")), "{out}");
        let here = line(&out, "note", "gateway");
        assert!(here.contains(&format!("{second}, this gateway: it does not have lamp")), "{out}");
        let (code, answer) = two.found("lamp");
        assert_eq!((code, &answer["found"]), (0, &true.into()), "{answer}");
        let at = of(&answer, &first);
        assert_eq!(
            (&at["has"], at["claim"]["epoch"].to_string()),
            (&"connected".into(), epoch.to_owned())
        );
        let valid = at["claim"]["valid_ms"].as_f64().unwrap();
        assert!(valid > 0.0 && valid <= 30_000.0, "{answer}");
        assert!(at["claim"]["claimed_ms"].as_f64().unwrap() < 60_000.0, "{answer}");
        // Nothing was changed.
        assert_eq!(two.redis.owners("lamp"), std::slice::from_ref(&first));
    }

    #[test]
    fn a_claim_of_a_gateway_that_was_killed_and_one_that_was_lost() {
        let Some(two) = Two::start() else { return };
        let local = LocalServer::start();
        let (one, first) = two.gateway(&[]);
        let _lamp = device(&one, "lamp", &local.url());
        two.claimed("lamp");
        assert_eq!(two.redis.ask(&["DEL", "ptth:n:lamp"]), "1");
        let (code, out) = two.find("lamp", &[]);
        assert!(code == 1 && line(&out, "wrong", "gateway").contains(&first), "{out}");
        assert!(
            out.contains(&format!("lamp is at {first}, and the directory does not name")),
            "{out}"
        );
        two.claimed("lamp");
        let stale = format!("{} {} - -", 1, u64::MAX / 4096);
        two.redis.ask(&["HSET", "ptth:n:door", &first, &stale]);
        let (code, out) = two.find("door", &[]);
        assert!(
            code == 1 && line(&out, "wrong", "gateway").contains("knows nothing of it"),
            "{out}"
        );
        one.process.signal("KILL");
        drop(one);
        let (code, out) = two.find("lamp", &[]);
        let told = line(&out, "wrong", "gateway");
        assert!(code == 1 && told.contains("until the claim expires, in "), "{out}");
        // One that has expired.
        two.redis.ask(&["HSET", "ptth:n:lamp", &first, "1000000 1000 - -"]);
        let (code, out) = two.find("lamp", &[]);
        assert!(
            code == 1 && line(&out, "note", "claim").contains("expired: nobody is sent"),
            "{out}"
        );
        // What no gateway writes.
        two.redis.ask(&["DEL", "ptth:n:lamp"]);
        two.redis.ask(&["HSET", "ptth:n:lamp", "http://a:1", "nonsense", "~0f", "9999999999999"]);
        let (_, answer) = two.found("lamp");
        assert_eq!(
            (&answer["invalid_entries"], &answer["replaced_sessions"]),
            (&1.into(), &1.into())
        );
        two.redis.ask(&["SET", "ptth:n:lamp", "a text"]);
        let (code, out) = two.find("lamp", &[]);
        assert!(code == 1 && out.contains("1 field of its key not written by a gateway"), "{out}");
    }

    #[test]
    fn a_shared_name_has_several_owners() {
        let Some(two) = Two::start() else { return };
        let local = LocalServer::start();
        let (one, first) = two.gateway(&["--shared-names"]);
        let (other, second) = two.gateway(&["--shared-names"]);
        let _lamps = [&one, &other].map(|gateway| device(gateway, "lamp", &local.url()));
        eventually("both have it", || (two.redis.owners("lamp").len() == 2).then_some(()));
        let (code, answer) = two.found("lamp");
        assert_eq!(code, 0, "{answer}");
        for url in [&first, &second] {
            assert_eq!(of(&answer, url)["has"], "connected", "{answer}");
            assert!(answer["told"].as_str().unwrap().contains(url.as_str()), "{answer}");
        }
        one.process.signal("KILL");
        drop(one);
        let (code, out) = two.find("lamp", &[]);
        assert!(code == 1 && out.contains("some requests go there first"), "{out}");
    }

    #[test]
    fn without_the_directory_its_own_gateway_is_asked() {
        let Some(mut two) = Two::start() else { return };
        let local = LocalServer::start();
        let (one, first) = two.gateway(&[]);
        let _lamp = device(&one, "lamp", &local.url());
        two.claimed("lamp");
        two.redis.process.signal("KILL");
        eventually("it has ended", || two.redis.process.has_ended().then_some(()));
        let own = ["--peers", "127.0.0.1:0", "--advertise", &first];
        let (code, out) = two.find("lamp", &own);
        assert_eq!(code, 1, "{out}");
        assert!(line(&out, "wrong", "directory").contains("does the server run"), "{out}");
        assert!(line(&out, "ok", "gateway").contains("this gateway: it has lamp"), "{out}");
        assert!(out.contains(&format!("lamp is at {first}, which serves it")), "{out}");
        let (code, out) = two.find("lamp", &[]);
        assert!(code == 1 && line(&out, "note", "own URL").contains("--advertise"), "{out}");
    }
}
