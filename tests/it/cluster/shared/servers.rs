//! Where the server is, and how a gateway is known to it.

use std::process::Command;
use std::time::Duration;

use reverse_http::{Limits, RedisDirectory};

use super::{One, Redis};
use crate::support::process::get;
use crate::support::{
    Authority, Gateway, Process, Ptth, TempDir, eventually, free_port, program, repository,
};

fn both_find_it(first: &One, second: &One) {
    let _lamp = first.device("lamp", "a lamp");
    second.ask(get("/lamp/x")).expect_ok("a lamp");
}

#[test]
fn a_unix_socket_a_database_and_a_prefix() {
    let Some(redis) = Redis::start(&[]) else { return };
    let socket = format!("redis+unix://{}", redis.socket());
    let with = |url: &str| One::with(Limits::default(), RedisDirectory::new(url).unwrap());
    both_find_it(&with(&socket), &with(&redis.url()));
    // Another database, or another prefix, is another table.
    let (first, second) = (with(&redis.url()), with(&format!("{}/1", redis.url())));
    let _lamp = first.device("lamp", "a lamp");
    second.ask(get("/lamp/x")).expect_refusal(404);
    let prefixed = RedisDirectory::new(&redis.url()).unwrap().prefix("other").unwrap();
    let third = One::with(Limits::default(), prefixed);
    third.ask(get("/lamp/x")).expect_refusal(404);
}

#[test]
fn a_user_and_a_password_are_shown_and_wrong_ones_are_told() {
    let acl = "user gateway on >secret ~ptth:* &ptth:* +@all";
    let folder = TempDir::new("acl");
    let file = folder.0.join("users.acl").display().to_string();
    std::fs::write(&file, format!("user default on >hush ~* &* +@all\n{acl}\n")).unwrap();
    let Some(redis) = Redis::start(&["--aclfile", &file]) else { return };
    let at = || RedisDirectory::new(&redis.url()).unwrap();
    both_find_it(
        &One::with(Limits::default(), at().password("hush")),
        &One::with(Limits::default(), at().user("gateway").password("secret")),
    );
    for wrong in [at(), at().password("wrong"), at().user("nobody").password("secret")] {
        let one = One::with(Limits::default(), wrong);
        let status = eventually("it is told", || one.gateway.directory_status().unwrap().away);
        let why = status.0;
        assert!(
            why.contains("NOAUTH") || why.contains("WRONGPASS") || why.contains("unauthenticated"),
            "{why}"
        );
        assert!(!why.contains("wrong"), "{why}");
    }
}

/// The rules of the user that the page names, for a file of users.
fn documented_user() -> String {
    let page = std::fs::read_to_string(repository("docs/cluster.md")).unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix("ACL SETUSER "));
    format!("user {}\n", line.expect("a line with the user").replace(">PASSWORD", ">secret"))
}

#[test]
fn a_user_may_do_what_the_page_says_and_needs_no_more() {
    let folder = TempDir::new("acl-page");
    let file = folder.0.join("users.acl").display().to_string();
    let with = |user: &str| {
        std::fs::write(&file, format!("user default on nopass ~* &* +@all\n{user}")).unwrap();
        Redis::start(&["--aclfile", &file])
    };
    let Some(redis) = with(&documented_user()) else { return };
    // More than one server, so that it is asked whether it takes writes.
    let both = format!("redis://127.0.0.1:{0},127.0.0.1:{0}/1", redis.port);
    let at = || RedisDirectory::new(&both).unwrap().user("ptth").password("secret");
    let at = || at().claim_time(Duration::from_secs(3)).unwrap();
    let (first, second) = (One::with(Limits::default(), at()), One::with(Limits::default(), at()));
    both_find_it(&first, &second);
    let _again = second.device("lamp", "a newer lamp");
    eventually("the newer one has the name", || {
        (first.ask(get("/lamp/x")).text() == "a newer lamp").then_some(())
    });
    let claim = || redis.ask(&["-n", "1", "HGET", "ptth:n:lamp", &second.url]);
    let before = eventually("it is claimed", || Some(claim()).filter(|claim| !claim.is_empty()));
    eventually("it is renewed", || (claim() != before).then_some(()));
    let report = at().examine(Duration::from_secs(5)).unwrap();
    assert!(report.claims.is_ok() && report.changes.is_ok(), "{report:?}");
    assert!(report.version.is_some() && report.clock_difference.is_some(), "{report:?}");
    for gateway in [first, second] {
        assert!(gateway.gateway.directory_status().unwrap().away.is_none());
        gateway.gateway.drain(Duration::from_secs(10));
    }
    // Nothing was refused but that the client library says its name.
    let log = redis.ask(&["ACL", "LOG"]);
    let lines: Vec<&str> = log.lines().collect();
    let refused = lines.windows(2).filter(|pair| pair[0] == "object").map(|pair| pair[1]);
    assert!(refused.clone().all(|command| command.starts_with("client")), "{log}");
    // Beside it, one that is missing is told.
    let Some(redis) = with(&documented_user().replace(" +hset", "")) else { return };
    let one = One::with(
        Limits::default(),
        RedisDirectory::new(&redis.url()).unwrap().user("ptth").password("secret"),
    );
    let _lamp = one.device("lamp", "a lamp");
    let why = eventually("it is told", || one.gateway.directory_status().unwrap().away).0;
    assert!(why.to_lowercase().contains("script"), "{why}");
}

#[test]
fn of_several_servers_the_one_that_takes_writes_is_used() {
    let Some(one) = Redis::start(&[]) else { return };
    let Some(two) = Redis::start(&[]) else { return };
    let port = one.port.to_string();
    assert_eq!(two.ask(&["REPLICAOF", "127.0.0.1", &port]), "OK");
    eventually("it follows", || {
        two.ask(&["INFO", "replication"]).contains("master_link_status:up").then_some(())
    });
    let url = format!("redis://127.0.0.1:{},127.0.0.1:{}", two.port, one.port);
    let with = || One::with(Limits::default(), RedisDirectory::new(&url).unwrap());
    let (first, second) = (with(), with());
    both_find_it(&first, &second);
    // They change places.
    assert_eq!(two.ask(&["REPLICAOF", "NO", "ONE"]), "OK");
    assert_eq!(one.ask(&["REPLICAOF", "127.0.0.1", &two.port.to_string()]), "OK");
    let _door = first.device("door", "a door");
    first.is_noted(1);
    eventually("it is found", || (second.ask(get("/door/x")).text() == "a door").then_some(()));
    assert_eq!(two.owners("door"), std::slice::from_ref(&first.url));
}

#[test]
fn a_server_that_hangs_keeps_no_other_one_from_being_used() {
    let Some(redis) = Redis::start(&[]) else { return };
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{},127.0.0.1:{}", silent.local_addr().unwrap(), redis.port);
    let mut limits = Limits::default();
    limits.directory_timeout = Duration::from_secs(1);
    let with = || One::with(limits.clone(), RedisDirectory::new(&url).unwrap());
    let (first, second) = (with(), with());
    let _lamp = first.device("lamp", "a lamp");
    first.is_noted(1);
    eventually("it is found", || (second.ask(get("/lamp/x")).text() == "a lamp").then_some(()));
    assert_eq!(redis.owners("lamp"), std::slice::from_ref(&first.url));
}

#[test]
fn sentinels_say_where_the_server_is() {
    let Some(redis) = Redis::start(&[]) else { return };
    let (folder, port) = (TempDir::new("sentinel"), free_port());
    let file = folder.0.join("sentinel.conf");
    std::fs::write(
        &file,
        format!("port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {} 1\n", redis.port),
    )
    .unwrap();
    let mut command = Command::new(program("redis-server"));
    let _sentinel = Process::start(command.arg(&file).arg("--sentinel"));
    let url = |master: &str| format!("redis+sentinel://127.0.0.1:{port}/{master}");
    let with = |url: &str| One::with(Limits::default(), RedisDirectory::new(url).unwrap());
    let (first, second) = (with(&url("main")), with(&url("main")));
    let _lamp = first.device("lamp", "a lamp");
    first.is_noted(1);
    eventually("it is found", || (second.ask(get("/lamp/x")).text() == "a lamp").then_some(()));
    let wrong = with(&url("other"));
    let why = eventually("it is told", || wrong.gateway.directory_status().unwrap().away).0;
    assert!(why.contains("no master other"), "{why}");
}

#[test]
fn a_server_with_tls_is_known_by_its_ca() {
    let authority = Authority::new();
    let pair = authority.server("redis");
    let (cert, key, ca) = (pair.certificate(), pair.key(), authority.ca());
    let port = free_port().to_string();
    let options = [
        "--tls-port",
        &port,
        "--tls-cert-file",
        cert,
        "--tls-key-file",
        key,
        "--tls-ca-cert-file",
        ca,
        "--tls-auth-clients",
        "no",
    ];
    let Some(_redis) = Redis::start(&options) else { return };
    let at = || RedisDirectory::new(&format!("rediss://localhost:{port}")).unwrap();
    let pem = std::fs::read(ca).unwrap();
    let known = || One::with(Limits::default(), at().ca(pem.clone()).unwrap());
    both_find_it(&known(), &known());
    let stranger = One::with(Limits::default(), at());
    let why = eventually("it is told", || stranger.gateway.directory_status().unwrap().away).0;
    assert!(why.contains("certificate"), "{why}");
    assert!(RedisDirectory::new("redis://a").unwrap().ca(pem).is_err());
    assert!(at().ca("nothing").is_err());
}

#[test]
fn the_command_takes_it_all_as_options() {
    let Some(redis) = Redis::start(&["--requirepass", "hush"]) else { return };
    let folder = TempDir::new("redis-options");
    let path = |file: &str| folder.0.join(file).display().to_string();
    std::fs::write(path("password"), "hush\n").unwrap();
    std::fs::write(path("secret"), "the-secret-of-this-cluster\n").unwrap();
    let (url, password, secret) = (redis.url(), path("password"), path("secret"));
    let options = [
        "--peers",
        "127.0.0.1:0",
        "--peer-secret",
        &secret,
        "--directory",
        &url,
        "--directory-password",
        &password,
        "--directory-claim-time",
        "5s",
        "--directory-prefix",
        "mine",
    ];
    let (first, second) = (Gateway::start(&options), Gateway::start(&options));
    let local = crate::support::LocalServer::start();
    let _lamp = Ptth::device(&first, "lamp", &["--to", &local.url()]);
    eventually("it is found", || {
        let mut visitor = crate::support::RawPeer::connect(second.visitors);
        visitor.deadline = Duration::from_secs(30);
        visitor.write(get("/lamp/x"));
        (visitor.read_answer("GET").status() == 200).then_some(())
    });
}
