//! Other servers, users, passwords and CAs of the directory count on SIGHUP, where they work.

use super::Redis;
use crate::cluster::{Cluster, device, peers_of};
use crate::support::{Authority, Gateway, LocalServer, Process, eventually, free_port};

const TAKEN: &str = "the directory in Redis is used with other settings from now on";
const REFUSED: &str = "the new settings for the directory in Redis do not work: ";
const LATER: &str = "is used with the settings that were read last";

/// A gateway with the directory at this URL.
#[track_caller]
fn gateway(cluster: &Cluster, more: &[&str]) -> (Gateway, String) {
    let secret = cluster.path("secret");
    let options = ["--peers", "127.0.0.1:0", "--peer-secret", &secret];
    let gateway = Gateway::start(&[&options[..], more].concat());
    let url = peers_of(&gateway.process);
    (gateway, url)
}

/// How often a text is in the log.
fn count(process: &Process, text: &str) -> usize {
    process.stderr().matches(text).count()
}

/// What SIGHUP leads to, once more than before.
#[track_caller]
fn hangs_up(gateway: &Gateway, text: &str) {
    let before = count(&gateway.process, text);
    gateway.process.signal("HUP");
    eventually(text, || (count(&gateway.process, text) > before).then_some(()));
}

impl Redis {
    #[track_caller]
    fn is_told(&self, password: &str, words: &[&str]) -> String {
        self.ask(&[&["--no-auth-warning", "-a", password][..], words].concat())
    }

    /// Ends every connection but that of redis-cli.
    #[track_caller]
    fn cut(&self, password: &str) {
        for kind in ["pubsub", "normal"] {
            self.is_told(password, &["CLIENT", "KILL", "TYPE", kind]);
        }
    }

    #[track_caller]
    fn has(&self, password: &str, name: &str, url: &str) {
        eventually("the name is claimed", || {
            let fields = self.is_told(password, &["HKEYS", &format!("ptth:n:{name}")]);
            fields.lines().any(|field| field == url).then_some(())
        });
    }
}

#[test]
fn a_password_changes_at_the_server_and_at_the_gateway_in_either_order() {
    let Some(redis) = Redis::start(&["--requirepass", "first"]) else { return };
    let (cluster, local) = (Cluster::new(), LocalServer::start());
    let (directory, file) = (redis.url(), cluster.path("password"));
    std::fs::write(&file, "first\n").unwrap();
    let (gateway, url) =
        gateway(&cluster, &["--directory", &directory, "--directory-password", &file]);
    let _lamp = device(&gateway, "lamp", &local.url());
    redis.has("first", "lamp", &url);
    // At the server first. Nothing of it is to be done again where nothing has changed.
    assert_eq!(redis.is_told("first", &["CONFIG", "SET", "requirepass", "second"]), "OK");
    std::fs::write(&file, "second\n").unwrap();
    hangs_up(&gateway, TAKEN);
    redis.cut("second");
    let _door = device(&gateway, "door", &local.url());
    redis.has("second", "door", &url);
    // A wrong one, and at the gateway first: the old one goes on.
    std::fs::write(&file, "third\n").unwrap();
    hangs_up(&gateway, REFUSED);
    let log = gateway.process.stderr();
    assert!(log.contains("WRONGPASS") && !log.contains("third"), "{log}");
    let _bell = device(&gateway, "bell", &local.url());
    redis.has("second", "bell", &url);
    assert_eq!(count(&gateway.process, LATER), 0, "{log}");
    assert_eq!(redis.is_told("second", &["CONFIG", "SET", "requirepass", "third"]), "OK");
    redis.cut("third");
    gateway.process.expect_stderr(LATER);
    let _horn = device(&gateway, "horn", &local.url());
    redis.has("third", "horn", &url);
    // A file without one.
    std::fs::write(&file, "\n").unwrap();
    hangs_up(&gateway, "its first line is empty");
    let taken = count(&gateway.process, TAKEN);
    std::fs::write(&file, "third\n").unwrap();
    gateway.process.signal("HUP");
    let _last = device(&gateway, "last", &local.url());
    redis.has("third", "last", &url);
    assert_eq!(count(&gateway.process, TAKEN), taken, "it is as it was");
}

#[test]
fn other_servers_and_another_user_are_followed_and_another_table_is_not() {
    let Some(one) = Redis::start(&[]) else { return };
    let Some(two) = Redis::start(&[]) else { return };
    let (cluster, local) = (Cluster::new(), LocalServer::start());
    let config = cluster.path("ptth.toml");
    let say = |lines: &str| std::fs::write(&config, format!("[gateway]\n{lines}")).unwrap();
    say(&format!("directory = \"{}\"\n", one.url()));
    let (gateway, url) = gateway(&cluster, &["--config", &config]);
    let _lamp = device(&gateway, "lamp", &local.url());
    one.has("", "lamp", &url);
    eventually("it has announced itself", || {
        one.ask(&["ZRANGE", "ptth:gateways", "0", "-1"]).contains(&url).then_some(())
    });
    // One that is not there.
    say(&format!("directory = \"redis://127.0.0.1:{}\"\n", free_port()));
    hangs_up(&gateway, REFUSED);
    let _door = device(&gateway, "door", &local.url());
    one.has("", "door", &url);
    // A user that may not do enough, and one that may.
    two.ask(&["ACL", "SETUSER", "weak", "on", "nopass", "~*", "&*", "+ping"]);
    two.ask(&["ACL", "SETUSER", "strong", "on", "nopass", "~*", "&*", "+@all"]);
    let with = |user: &str| {
        say(&format!("directory = \"{}\"\ndirectory_user = \"{user}\"\n", two.url()));
    };
    with("weak");
    hangs_up(&gateway, REFUSED);
    assert!(gateway.process.stderr().contains("too few rights"), "{}", gateway.process.stderr());
    with("strong");
    hangs_up(&gateway, TAKEN);
    for name in ["lamp", "door"] {
        two.has("", name, &url);
    }
    gateway.process.expect_stderr("came back without its data");
    let log = gateway.process.stderr();
    assert!(!log.contains("options of [gateway] count from the next start on"), "{log}");
    // Another table, or none, would be another gateway.
    say(&format!("directory = \"{}\"\ndirectory_prefix = \"other\"\n", two.url()));
    hangs_up(&gateway, "directory-prefix");
    assert!(two.ask(&["KEYS", "other:*"]).is_empty());
    cluster.say("table", "");
    say(&format!("directory = \"file:{}\"\n", cluster.path("table")));
    hangs_up(&gateway, "another kind of directory counts from the next start on");
}

#[test]
fn another_ca_is_followed() {
    let (first, second) = (Authority::new(), Authority::new());
    let pair = first.server("redis");
    let port = free_port().to_string();
    let options = [
        "--tls-port",
        &port,
        "--tls-cert-file",
        pair.certificate(),
        "--tls-key-file",
        pair.key(),
        "--tls-ca-cert-file",
        first.ca(),
        "--tls-auth-clients",
        "no",
    ];
    let Some(redis) = Redis::start(&options) else { return };
    let (cluster, local) = (Cluster::new(), LocalServer::start());
    let (file, directory) = (cluster.path("ca"), format!("rediss://localhost:{port}"));
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    std::fs::write(&file, read(second.ca())).unwrap();
    let (gateway, url) = gateway(&cluster, &["--directory", &directory, "--directory-ca", &file]);
    gateway.process.expect_stderr("the directory of gateways cannot be used");
    let _lamp = device(&gateway, "lamp", &local.url());
    std::fs::write(&file, read(second.ca()) + &read(first.ca())).unwrap();
    hangs_up(&gateway, TAKEN);
    redis.has("", "lamp", &url);
    std::fs::write(&file, "nothing").unwrap();
    hangs_up(&gateway, "--directory-ca");
    let _door = device(&gateway, "door", &local.url());
    redis.has("", "door", &url);
}
