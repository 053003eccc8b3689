//! `ptth cluster check`: what may be wrong between gateways, what is said about it, and the exit
//! codes.

use std::net::TcpListener;

use crate::cluster::{Cluster, SECRET};
use crate::support::{Authority, Gateway, LocalServer, Ptth, free_port};

#[track_caller]
fn check(options: &[&str]) -> (i32, String) {
    let (code, out, error) = Ptth::run(&[&["cluster", "check"], options].concat());
    assert!(!out.contains(SECRET) && !error.contains(SECRET), "{out}{error}");
    (code, format!("{out}{error}"))
}

/// The line that begins like this.
#[track_caller]
fn line<'o>(out: &'o str, verdict: &str, step: &str) -> &'o str {
    let begins = format!("{verdict:<5}  {step:<9}  ");
    out.lines().find(|line| line.starts_with(&begins)).unwrap_or_else(|| panic!("{begins}: {out}"))
}

impl Cluster {
    /// The options of a gateway with a directory in a file.
    fn options(&self, directory: &str) -> Vec<String> {
        let directory = format!("file:{}", self.path(directory));
        let secret = self.path("secret");
        ["--directory", &directory, "--peer-secret", &secret].map(str::to_owned).to_vec()
    }

    #[track_caller]
    fn check(&self, directory: &str, more: &[&str]) -> (i32, String) {
        let options = self.options(directory);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        check(&[&options[..], more].concat())
    }
}

#[test]
fn gateways_that_are_right_are_all_right() {
    let cluster = Cluster::new();
    let (_one, first) = cluster.gateway("one", &[]);
    let (_two, second) = cluster.gateway("two", &[]);
    cluster.say("all", &format!("lamp {first}\ndoor {second}\nbell {second}/\n"));
    let (code, out) = cluster.check("all", &[]);
    assert_eq!(code, 0, "{out}");
    line(&out, "note", "own URL");
    let of = |url: &str| out.lines().filter(|line| line.contains(url)).count();
    assert_eq!((of(&first), of(&second)), (1, 1), "{out}");
    assert!(line(&out, "ok", "gateway").contains("it takes the secret, after "), "{out}");
    assert!(out.lines().last().unwrap().starts_with("all right"), "{out}");
    // As the first of them itself.
    let (code, out) = cluster.check("all", &["--peers", "0.0.0.0:7000", "--advertise", &first]);
    assert_eq!(code, 0, "{out}");
    assert!(line(&out, "ok", "own URL").contains(&first), "{out}");
    assert!(line(&out, "ok", "gateway").contains(&second), "{out}");
}

#[test]
fn what_is_wrong_with_a_gateway_is_told() {
    let (cluster, local) = (Cluster::new(), LocalServer::start());
    let (gateway, right) = cluster.gateway("right", &["--admin", "127.0.0.1:0"]);
    let admin = gateway.process.line().strip_prefix("admin ").unwrap().to_owned();
    std::fs::write(cluster.path("other"), "another-secret-of-another-cluster\n").unwrap();
    let other = cluster.path("other");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_url = format!("http://{}", silent.local_addr().unwrap());
    let closed = format!("http://127.0.0.1:{}", free_port());
    let (visitors, devices) =
        (format!("http://{}", gateway.visitors), format!("http://{}", gateway.devices));
    let (local, secure) = (local.url(), right.replace("http://", "https://"));
    for (url, more, told) in [
        (&closed, None, "no connection"),
        (&right, Some(&other), "does not take this one's secret"),
        (&visitors, None, "this is a gateway's --visitors, not its --peers"),
        (&admin, None, "this is a gateway's --admin, not its --peers"),
        (&devices, None, "this is a gateway's --devices, not its --peers"),
        (
            &local,
            None,
            "what answers there (204) is no gateway; correct the directory, or its --advertise",
        ),
        (&silent_url, None, "it took the connection and said nothing for 300ms: it hangs, or"),
        (&secure, None, "no TLS: what came is plain HTTP; write http://"),
    ] {
        cluster.say("wrong", &format!("lamp {url}\n"));
        let directory = format!("file:{}", cluster.path("wrong"));
        let secret = more.cloned().unwrap_or_else(|| cluster.path("secret"));
        let timeout = if url == &silent_url { "300ms" } else { "10s" };
        let (code, out) =
            check(&["--directory", &directory, "--peer-secret", &secret, "--timeout", timeout]);
        assert_eq!(code, 1, "{url}: {out}");
        assert!(line(&out, "wrong", "gateway").contains(told), "{told}: {out}");
        assert!(out.contains("one thing is wrong"), "{out}");
    }
    // None at all is no wrong one.
    cluster.say("wrong", &format!("lamp {right}\n"));
    let directory = format!("file:{}", cluster.path("wrong"));
    let (code, out) = check(&["--directory", &directory]);
    let told = "it wants a secret, and this one shows none; give --peer-secret";
    assert!(code == 1 && line(&out, "wrong", "gateway").contains(told), "{out}");
    // Of its own URL there is one thing to correct.
    let own = ["--peers", "127.0.0.1:7000", "--advertise", &visitors];
    let (code, out) = cluster.check("wrong", &own);
    assert!(
        code == 1 && line(&out, "wrong", "own URL").ends_with("; correct --advertise"),
        "{out}"
    );
}

#[test]
fn tls_between_gateways_is_checked_as_they_do() {
    let (cluster, authority) = (Cluster::new(), Authority::new());
    let pair = authority.server("peers");
    let tls = ["--peers-cert", pair.certificate(), "--peers-key", pair.key()];
    let (_gateway, url) = cluster.gateway("secure", &tls);
    let port = url.rsplit(':').next().unwrap();
    cluster.say("all", &format!("lamp https://localhost:{port}\n"));
    let (code, out) = cluster.check("all", &["--peers-ca", authority.ca()]);
    assert_eq!(code, 0, "{out}");
    assert!(line(&out, "ok", "gateway").contains("TLSv1"), "{out}");
    let other = Authority::new();
    let (code, out) = cluster.check("all", &["--peers-ca", other.ca()]);
    assert_eq!(code, 1, "{out}");
    let told = line(&out, "wrong", "gateway");
    assert!(told.contains("no TLS") && told.contains("--peers-ca"), "{out}");
    // A gateway has no options of devices.
    assert!(!told.contains("--ca") && !told.contains("--pin"), "{out}");
    cluster.say("plain", &format!("lamp http://localhost:{port}\n"));
    let (code, out) = cluster.check("plain", &[]);
    assert_eq!(code, 1, "{out}");
    let told = line(&out, "wrong", "gateway");
    assert!(told.contains("this port speaks TLS; write https:// in the URL"), "{out}");
    // Where it wants a certificate that this one does not have.
    let wants = [&tls[..], &["--peers-client-ca", other.ca()]].concat();
    let (_strict, url) = cluster.gateway("strict", &wants);
    let port = url.rsplit(':').next().unwrap();
    cluster.say("strict-all", &format!("lamp https://localhost:{port}\n"));
    let known = ["--peers-ca", authority.ca()];
    let (code, out) = cluster.check("strict-all", &known);
    assert!(code == 1 && line(&out, "wrong", "gateway").contains("--peers-cert"), "{out}");
    let (code, out) = cluster.check("strict-all", &[&known[..], &tls].concat());
    let told = line(&out, "wrong", "gateway");
    assert!(code == 1 && told.contains("--peers-client-ca"), "{out}");
    assert!(told.contains("does not accept the certificate"), "{out}");
}

#[test]
fn a_directory_in_a_file_says_what_it_has() {
    let cluster = Cluster::new();
    let (_one, first) = cluster.gateway("one", &[]);
    let (_two, second) = cluster.gateway("two", &[]);
    let own = ["--peers", first.trim_start_matches("http://")];
    for (lines, verdict, told) in [
        (String::new(), "note", "0 lines: devices of other gateways are not found"),
        (format!("lamp {first}\n"), "note", "1 line, all for this gateway"),
        (format!("lamp {first}\ndoor {second}\n"), "ok", "2 lines, 1 for this gateway"),
    ] {
        cluster.say("all", &lines);
        let (code, out) = cluster.check("all", &own);
        assert_eq!(code, 0, "{out}");
        assert!(line(&out, verdict, "directory").contains(told), "{told}: {out}");
    }
}

#[test]
fn the_gateways_own_file_says_what_to_check_and_mistakes_are_wrong_usage() {
    let cluster = Cluster::new();
    let (_one, first) = cluster.gateway("one", &[]);
    cluster.say("all", &format!("lamp {first}\n"));
    let config = cluster.path("ptth.toml");
    let options = format!(
        "[gateway]\ndevices = \"127.0.0.1:0\"\nvisitors = \"127.0.0.1:0\"\ndirectory = \"file:{}\"\npeer_secret = \"{}\"\n[device]\nurl = \"http://gw.example/lamp\"\n",
        cluster.path("all"),
        cluster.path("secret")
    );
    std::fs::write(&config, &options).unwrap();
    let (code, out) = check(&["--config", &config]);
    assert_eq!(code, 0, "{out}");
    assert!(line(&out, "ok", "gateway").contains(&first), "{out}");
    std::fs::write(&config, options.replace("peer_secret", "peer_secert")).unwrap();
    let (code, out) = check(&["--config", &config]);
    assert!(code == 2 && out.contains("peer_secret"), "{out}");
    for (wrong, told) in [
        (&[][..], "give the gateway's --directory"),
        (&["--directory", "nonsense"], "file:PATH"),
        (&["--directory-prefix", "x"], "goes with --directory redis://"),
        (&["--peers", "0.0.0.0:7000"], "beyond loopback"),
    ] {
        let (code, out) = check(wrong);
        assert!(code == 2 && out.contains(told), "{code} {out}");
    }
    let (code, _, error) = Ptth::run(&["cluster"]);
    assert!(code == 2, "{error}");
}

#[cfg(feature = "redis")]
#[test]
fn redis_is_looked_at_and_the_gateways_that_it_knows() {
    let Some(mut redis) = crate::cluster::shared::Redis::start(&[]) else { return };
    let cluster = Cluster::new();
    let (url, secret) = (redis.url(), cluster.path("secret"));
    let options = ["--directory", &url, "--peer-secret", &secret];
    let (code, out) = check(&options);
    assert_eq!(code, 0, "{out}");
    let found = line(&out, "ok", "directory");
    assert!(found.contains(&redis.port.to_string()) && found.contains("role master"), "{out}");
    line(&out, "ok", "claims");
    line(&out, "ok", "changes");
    assert!(redis.ask(&["KEYS", "ptth:n:*"]).is_empty(), "what was claimed is released");
    // A gateway announces itself; one that was killed is still known.
    let gateway = Gateway::start(&[&options[..], &["--peers", "127.0.0.1:0"]].concat());
    let own = crate::cluster::peers_of(&gateway.process);
    crate::support::eventually("it is known", || {
        redis.ask(&["ZRANGE", "ptth:gateways", "0", "-1"]).contains(&own).then_some(())
    });
    let (code, out) = check(&options);
    assert!(code == 0 && line(&out, "ok", "known").contains(&own), "{out}");
    assert!(line(&out, "ok", "gateway").contains(&own), "{out}");
    gateway.process.signal("KILL");
    drop(gateway);
    let (code, out) = check(&options);
    assert!(code == 1 && line(&out, "wrong", "gateway").contains("no connection"), "{out}");
    assert_eq!(redis.ask(&["DEL", "ptth:gateways"]), "1");
    // It would forget names.
    redis.ask(&["CONFIG", "SET", "maxmemory", "100mb"]);
    redis.ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let (code, out) = check(&options);
    assert!(code == 0 && line(&out, "note", "memory").contains("allkeys-lru"), "{out}");
    // It takes no writes.
    redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    redis.ask(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    let (code, out) = check(&options);
    assert!(code == 1 && line(&out, "wrong", "claims").contains("OOM"), "{out}");
    redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    redis.ask(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]);
    let (code, out) = check(&options);
    assert!(code == 1 && line(&out, "wrong", "directory").contains("replica"), "{out}");
    redis.process.signal("KILL");
    crate::support::eventually("it has ended", || redis.process.has_ended().then_some(()));
    let (code, out) = check(&options);
    assert!(code == 1 && line(&out, "wrong", "directory").contains("does the server run"), "{out}");
    assert!(line(&out, "note", "gateway").contains("not asked"), "{out}");
}

/// A gateway's way: what hangs or is refused is passed over.
#[cfg(feature = "redis")]
#[test]
fn servers_that_a_gateway_passes_over_are_notes() {
    let Some(redis) = crate::cluster::shared::Redis::start(&[]) else { return };
    let silent = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let hangs_at = hangs.local_addr().unwrap();
    let right = format!("127.0.0.1:{}", redis.port);
    for (first, told) in [(silent, "refused"), (hangs_at, "did not answer in time")] {
        let url = format!("redis://{first},{right}");
        let (code, out) = check(&["--directory", &url, "--timeout", "1s"]);
        assert_eq!(code, 0, "{out}");
        let note = line(&out, "note", "directory");
        assert!(note.contains(&first.to_string()) && note.contains(told), "{out}");
        assert!(line(&out, "ok", "directory").contains(&right), "{out}");
    }
    let (code, out) = check(&["--directory", &redis.url(), "--timeout", "1s"]);
    assert!(code == 0 && !out.contains("passed over"), "{out}");
    let nobody = format!("redis://{silent},{hangs_at}");
    let (code, out) = check(&["--directory", &nobody, "--timeout", "300ms"]);
    let told = line(&out, "wrong", "directory");
    assert!(code == 1 && told.contains("refused") && told.contains("in time"), "{out}");
}

#[cfg(feature = "redis")]
#[test]
fn a_gateway_in_another_table_is_wrong() {
    let Some(redis) = crate::cluster::shared::Redis::start(&[]) else { return };
    let cluster = Cluster::new();
    let (url, secret) = (redis.url(), cluster.path("secret"));
    let common = ["--peer-secret", &secret, "--directory"];
    let gateway = Gateway::start(&[&common[..], &[&url, "--peers", "127.0.0.1:0"]].concat());
    let own = crate::cluster::peers_of(&gateway.process);
    crate::support::eventually("it is known", || {
        redis.ask(&["ZRANGE", "ptth:gateways", "0", "-1"]).contains(&own).then_some(())
    });
    let with = |more: &[&str]| check(&[&common[..], more].concat());
    let peers = ["--peers", own.trim_start_matches("http://")];
    let (code, out) = with(&[&[&*url][..], &peers].concat());
    assert!(code == 0 && line(&out, "ok", "known").contains(&own), "{out}");
    let other = format!("{url}/3");
    for (more, told) in [
        (vec![&*other], "database 3, prefix ptth"),
        (vec![&*url, "--directory-prefix", "other"], "database 0, prefix other"),
    ] {
        let (code, out) = with(&[&more[..], &peers].concat());
        let known = line(&out, "wrong", "known");
        assert!(code == 1 && known.contains(&own) && known.contains(told), "{out}");
        assert!(known.contains("--directory-prefix"), "{out}");
        let (code, out) = with(&more);
        assert!(code == 0 && line(&out, "note", "gateway").contains(told), "{out}");
    }
    // One that does not run is none that is elsewhere.
    let absent = format!("127.0.0.1:{}", free_port());
    let (code, out) = with(&[&url, "--peers", &absent]);
    assert!(code == 1 && line(&out, "note", "known").contains("it does not run"), "{out}");
}
