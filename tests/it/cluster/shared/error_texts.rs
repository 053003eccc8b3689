//! What a server of the directory says is told with its address, in words, and with the option that
//! mends it.

use std::time::Duration;

use reverse_http::RedisDirectory;

use crate::cluster::shared::{One, Redis};
use crate::support::{Authority, Gateway, RawGateway, eventually, free_port};

/// Why the server at this URL is no directory.
#[track_caller]
fn why(directory: &RedisDirectory) -> String {
    let told =
        directory.examine(Duration::from_secs(2)).map(|report| (report.claims, report.changes));
    match told {
        Err(e) => e.to_string(),
        Ok((Err(why), _) | (Ok(()), Err(why))) => why,
        Ok(_) => panic!("the server is right"),
    }
}

fn at(url: &str) -> RedisDirectory {
    RedisDirectory::new(url).unwrap()
}

#[test]
fn what_no_directory_says_has_a_remedy() {
    let authority = Authority::new();
    let pair = authority.server("redis");
    let tls_port = free_port().to_string();
    let options = [
        ["--tls-port", &tls_port],
        ["--tls-cert-file", pair.certificate()],
        ["--tls-key-file", pair.key()],
        ["--tls-ca-cert-file", authority.ca()],
        ["--tls-auth-clients", "no"],
    ];
    let Some(redis) = Redis::start(&options.concat()) else { return };
    assert!(at(&redis.url()).examine(Duration::from_secs(2)).unwrap().claims.is_ok());
    let (plain, gateway) = (format!("127.0.0.1:{}", redis.port), Gateway::start(&[]));
    let secure = format!("127.0.0.1:{tls_port}");
    let http = gateway.visitors.to_string();
    for (url, server, told) in [
        (format!("redis://{http}"), &http, "no Redis: it speaks HTTP"),
        (format!("redis://{secure}"), &secure, "rediss://"),
        (format!("rediss://{plain}"), &plain, "redis://"),
        (format!("redis+sentinel://{plain}/main"), &plain, "no sentinel"),
        (format!("redis://{plain}/99"), &plain, "no database"),
    ] {
        let why = why(&at(&url));
        assert!(
            why.contains(told) && why.contains(&format!("Redis at {server}: ")),
            "{url}: {why}"
        );
        assert!(!why.contains('\n'), "{why}");
    }
    let raw = RawGateway::start(); // accepts, and says nothing
    let silent = raw.addr.to_string();
    let why = why(&at(&format!("rediss://{silent}")));
    assert!(why.contains("does it speak TLS") && why.contains(&silent), "{why}");
}

#[test]
fn a_server_that_refuses_while_it_is_used_says_so_with_its_address() {
    let Some(redis) = Redis::start(&[]) else { return };
    let address = format!("Redis at 127.0.0.1:{}: ", redis.port);
    let one = One::of(&redis);
    let _lamp = one.device("lamp", "a lamp");
    one.is_noted(1);
    let away = |told: &str, beside: &[&str]| {
        let why = eventually("it is told", || {
            let why = one.gateway.directory_status().unwrap().away?.0;
            why.contains(told).then_some(why)
        });
        assert!(why.starts_with(&address), "{why}");
        assert!(beside.iter().all(|part| why.contains(part)), "{why}");
        assert!(!why.contains("script:") && !why.contains("user_script"), "{why}");
    };
    for (setting, wrong, right, told, beside) in [
        ("maxmemory", "1", "0", "OOM", &["full", "maxmemory"][..]),
        ("requirepass", "hush", "", "wants a password", &["--directory-password"]),
    ] {
        redis.ask(&["CONFIG", "SET", setting, wrong]);
        if setting == "requirepass" {
            // Who is connected stays so.
            redis.ask(&["-a", "hush", "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
            redis.ask(&["-a", "hush", "CLIENT", "KILL", "TYPE", "pubsub"]);
        }
        away(told, beside);
        redis.ask(&["-a", "hush", "CONFIG", "SET", setting, right]);
        one.is_noted(1);
    }
    // A user with fewer rights than the page lists.
    redis
        .ask(&["ACL", "SETUSER", "few", "on", ">secret", "~ptth:*", "&ptth:*", "+ping", "+select"]);
    let user = || at(&redis.url()).user("few");
    let why = self::why(&user().password("secret"));
    assert!(why.contains(&address) && why.contains("docs/cluster.md"), "{why}");
    let why = self::why(&user().password("wrong"));
    assert!(why.contains("--directory-user") && why.contains("--directory-password"), "{why}");
}
