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
        (&local, None, "something that is no gateway"),
        (&silent_url, None, "in time"),
        (&secure, None, "no TLS"),
    ] {
        cluster.say("wrong", &format!("lamp {url}\n"));
        let directory = format!("file:{}", cluster.path("wrong"));
        let secret = more.cloned().unwrap_or_else(|| cluster.path("secret"));
        let timeout = if told == "in time" { "300ms" } else { "10s" };
        let (code, out) =
            check(&["--directory", &directory, "--peer-secret", &secret, "--timeout", timeout]);
        assert_eq!(code, 1, "{url}: {out}");
        assert!(line(&out, "wrong", "gateway").contains(told), "{told}: {out}");
        assert!(out.contains("one thing is wrong"), "{out}");
    }
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
    assert!(line(&out, "wrong", "gateway").contains("no TLS"), "{out}");
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
}
