//! Which device a request is for, and what no table may hold.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::borrow::Cow;
use std::time::Duration;

use super::*;
use crate::engine::budget::Held;
use crate::limits::Limits;
use crate::proto::forward::Destination;
use crate::relay::Waits;

fn to<'a>(host: &str, target: &'a str) -> Destination<'a> {
    Destination { host: host.to_owned(), port: None, authority: "x", target }
}

/// What [`Table::find`] gives, as a row of a table has it: name, target and prefix, or
/// `AddSlash` as its location alone.
fn find(
    table: &Table,
    method: &str,
    to: &Destination<'_>,
) -> Result<(String, String, Option<String>), u16> {
    match table.find(method, to, &Limits::default()) {
        Ok(Found::Device(ToDevice { name, target, prefix, .. })) => {
            Ok((name.to_string(), target.into_owned(), prefix.map(Cow::into_owned)))
        }
        Ok(Found::AddSlash(location)) => Ok(("308".to_owned(), location, None)),
        Ok(Found::Reply(reply)) => Ok((
            reply.status.to_string(),
            reply.location.unwrap_or(reply.page.text.to_string()),
            None,
        )),
        Ok(Found::Health) => Ok(("health".to_owned(), String::new(), None)),
        Err(refusal) => Err(refusal.status),
    }
}
fn device(
    name: &str,
    target: &str,
    prefix: Option<&str>,
) -> Result<(String, String, Option<String>), u16> {
    Ok((name.to_owned(), target.to_owned(), prefix.map(str::to_owned)))
}
fn add_slash(location: &str) -> Result<(String, String, Option<String>), u16> {
    device("308", location, None)
}

#[test]
fn a_path_names_its_device() {
    let table = Table::new(Routes::path());
    let route = |method, target| find(&table, method, &to("gw.example", target));
    assert_eq!(route("GET", "/lamp/status?x=1"), device("lamp", "/status?x=1", Some("/lamp")));
    assert_eq!(route("GET", "/lamp/"), device("lamp", "/", Some("/lamp")));
    assert_eq!(route("GET", "/lamp?x"), add_slash("/lamp/?x"));
    assert_eq!(route("HEAD", "/lamp"), add_slash("/lamp/"));
    assert_eq!(route("POST", "/lamp?x"), device("lamp", "/?x", Some("/lamp")));
    for (target, status) in [
        ("/", 404),
        ("/?x", 404),
        ("*", 404),
        ("/Lamp/", 400),
        ("/l%61mp/", 400),
        ("/-lamp/", 400),
        ("//lamp/", 404),
    ] {
        assert_eq!(route("GET", target), Err(status), "{target}");
    }
}

#[test]
fn a_host_names_its_device_before_any_path() {
    let table = Table::new(Routes::path().and_host("Devices.Example.").unwrap());
    assert_eq!(
        find(&table, "GET", &to("lamp.devices.example", "/door/x")),
        device("lamp", "/door/x", None)
    );
    assert_eq!(
        find(&table, "GET", &to("devices.example", "/door/x")),
        device("door", "/x", Some("/door"))
    );
    assert_eq!(find(&table, "GET", &to("a.lamp.devices.example", "/")), Err(404));
    let table = Table::new(Routes::host("devices.example").unwrap());
    assert_eq!(find(&table, "GET", &to("gw.example", "/lamp/")), Err(404));
    assert!(Routes::host("").is_err() && Routes::host("a b").is_err());
}

fn route(host: &str, path: &str, device: &str) -> Route {
    let mut route = Route::new();
    if !host.is_empty() {
        route = route.host(host).unwrap();
    }
    if !path.is_empty() {
        route = route.path(path).unwrap();
    }
    if device.is_empty() { route } else { route.device(device).unwrap() }
}

#[test]
fn segments_are_compared_whole_and_byte_for_byte() {
    let table = Table::new(
        Routes::table([route("", "/api", "lamp"), route("", "/a%2Fb/c", "door")]).unwrap(),
    );
    for (target, expected) in [
        ("/api", device("lamp", "/", Some("/api"))),
        ("/api?q=/x", device("lamp", "/?q=/x", Some("/api"))),
        ("/api/", device("lamp", "/", Some("/api"))),
        ("/api/x?y", device("lamp", "/x?y", Some("/api"))),
        ("/api//x", device("lamp", "//x", Some("/api"))),
        ("/api/api", device("lamp", "/api", Some("/api"))),
        ("/apix", Err(404)),
        ("/ap", Err(404)),
        ("/api;x", Err(404)),
        ("/api%2Fx", Err(404)),
        ("/%61pi", Err(404)),
        ("/API", Err(404)),
        ("//api", Err(404)),
        ("/x/api", Err(404)),
        ("/", Err(404)),
        ("/?/api", Err(404)),
        ("*", Err(404)),
        ("/a%2Fb/c/d", device("door", "/d", Some("/a%2Fb/c"))),
        ("/a%2fb/c/d", Err(404)),
        ("/a/b/c/d", Err(404)),
        ("/a%2Fb", Err(404)),
    ] {
        assert_eq!(find(&table, "GET", &to("any.example", target)), expected, "{target}");
    }
}

#[test]
fn the_most_exact_host_wins_and_then_the_longest_path() {
    let rows = [
        ("", "/", "any"),
        ("", "/a/b/c", "any-abc"),
        ("", "/a", "any-a"),
        ("*.example", "/a", "wild-a"),
        ("*.example", "", "wild"),
        ("x.example", "/a/b", "x-ab"),
        ("X.example.", "/a", "x-a"),
        ("[2001:DB8::1]", "", "v6"),
        ("192.0.2.7", "", "v4"),
    ];
    let table = Table::new(
        Routes::table(rows.map(|(host, path, device)| route(host, path, device))).unwrap(),
    );
    for (host, target, name) in [
        ("x.example", "/a/b/c/d", "x-ab"),
        ("x.example", "/a/b", "x-ab"),
        ("x.example", "/a/bc", "x-a"),
        ("x.example", "/b", "wild"),
        ("y.example", "/a/b/c", "wild-a"),
        ("y.example", "/ab", "wild"),
        ("y.example", "*", "wild"),
        ("z.y.example", "/a/b/c", "any-abc"),
        ("example", "/a/b", "any-a"),
        ("x.example.evil", "/q", "any"),
        ("", "/q", "any"),
        ("[2001:db8::1]", "/", "v6"),
        ("192.0.2.7", "/", "v4"),
    ] {
        assert_eq!(
            find(&table, "GET", &to(host, target)).map(|found| found.0),
            Ok(name.to_owned()),
            "{host}{target}"
        );
    }
}

#[test]
fn a_route_may_keep_its_prefix_and_a_wildcard_may_name_the_device() {
    let routes = [
        route("*.devices.example", "", ""),
        route("*.devices.example", "/v1", "").keep_prefix(false),
        route("*.other.example", "/v1", "fixed").keep_prefix(true),
    ];
    let table = Table::new(Routes::table(routes).unwrap());
    for (host, target, expected) in [
        ("lamp.devices.example", "/v1/x", device("lamp", "/x", Some("/v1"))),
        ("lamp.devices.example", "/v2/x", device("lamp", "/v2/x", None)),
        ("la_mp.devices.example", "/v2/x", Err(404)),
        ("a.lamp.devices.example", "/v2/x", Err(404)),
        ("devices.example", "/v2/x", Err(404)),
        ("x_y.other.example", "/v1?q", device("fixed", "/v1?q", None)),
        ("x.other.example", "/v2", Err(404)),
    ] {
        assert_eq!(find(&table, "GET", &to(host, target)), expected, "{host}{target}");
    }
    assert!(table.names("fixed") && !table.names("lamp"), "a label is a visitor's word");
}

#[test]
fn the_table_comes_before_suffixes_and_paths() {
    let routes = Routes::path()
        .and_host("devices.example")
        .unwrap()
        .and_route(route("", "/lamp", "desk"))
        .unwrap();
    let table = Table::new(routes.and_route(route("door.devices.example", "/x", "gate")).unwrap());
    for (host, target, expected) in [
        ("gw.example", "/lamp/y", device("desk", "/y", Some("/lamp"))),
        ("gw.example", "/lamps/y", device("lamps", "/y", Some("/lamps"))),
        ("door.devices.example", "/x/y", device("gate", "/y", Some("/x"))),
        ("door.devices.example", "/z", device("door", "/z", None)),
        ("door.devices.example", "/lamp/y", device("desk", "/y", Some("/lamp"))),
    ] {
        assert_eq!(find(&table, "GET", &to(host, target)), expected, "{host}{target}");
    }
}

#[test]
fn what_no_request_could_match_is_refused() {
    for (host, right) in [
        ("lamp.example", true),
        ("LAMP.example.", true),
        ("a_b.example", true),
        ("[::1]", true),
        ("*.example", true),
        ("*.a-b.example.", true),
        ("", false),
        ("*", false),
        ("*.", false),
        ("*.*.example", false),
        ("a.*.example", false),
        ("*lamp.example", false),
        ("lamp.example:80", false),
        ("http://lamp.example", false),
        ("lamp.example/x", false),
        ("u@lamp.example", false),
        ("two words", false),
        ("a..b", false),
        ("[::1", false),
    ] {
        assert_eq!(Route::new().host(host).is_ok(), right, "{host}");
    }
}

#[test]
fn what_no_path_device_or_wait_can_be_is_refused() {
    let long = format!("/{}", "x".repeat(1023));
    for (path, right) in [
        ("/", true),
        ("/api", true),
        ("/api/", true),
        ("/a/%2F/b", true),
        ("/a...b/...", true),
        ("/a,b;c=d", true),
        (long.as_str(), true),
        (&format!("{long}x"), false),
        ("", false),
        ("api", false),
        ("*", false),
        ("//", false),
        ("/a//b", false),
        ("/api//", false),
        ("/a/../b", false),
        ("/a/.", false),
        ("/%2e%2E/a", false),
        ("/a?b", false),
        ("/a#b", false),
        ("/a b", false),
        ("/a\\b", false),
        ("/ä", false),
        ("/%", false),
        ("/%4", false),
        ("/%zz", false),
        ("/%00", false),
    ] {
        assert_eq!(Route::new().path(path).is_ok(), right, "{path}");
    }
    for (name, right) in [
        ("lamp", true),
        ("https://a.example", true),
        ("Lamp", false),
        ("", false),
        ("a.b", false),
        ("ftp://a.example", false),
    ] {
        assert_eq!(Route::new().device(name).is_ok(), right, "{name}");
    }
    let second = Duration::from_secs(1);
    assert!(
        Route::new().first_byte(second).is_ok() && Route::new().first_byte(Duration::ZERO).is_err()
    );
    assert!(
        Route::new().body_silence(second).is_ok()
            && Route::new().body_silence(Duration::ZERO).is_err()
    );
    assert!(Route::new().in_flight(1).is_ok() && Route::new().in_flight(0).is_err());
}

#[test]
fn a_route_without_a_place_or_a_device_or_a_second_time_is_refused() {
    let refused = |routes: &[Route]| {
        Routes::table(routes.iter().cloned()).err().map(|e| e.to_string()).unwrap_or_default()
    };
    let lamp = Route::new().device("lamp").unwrap();
    assert!(refused(std::slice::from_ref(&lamp)).contains("host, a path, or both"));
    assert!(refused(&[route("lamp.example", "", "")]).contains("lamp.example names no device"));
    assert!(refused(&[route("", "/api", "")]).contains("/api names no device"));
    for (one, other) in [
        (route("a.example", "/api", "lamp"), route("A.example.", "/api/", "door")),
        (route("a.example", "", "lamp"), route("a.example", "/", "lamp")),
        (route("*.example", "", ""), route("*.Example", "", "lamp")),
        (route("", "/", "lamp"), route("", "/", "lamp")),
    ] {
        let text = refused(&[one, other.clone()]);
        assert!(text.contains("another route") && text.contains(&other.to_string()), "{text}");
    }
    assert_eq!(
        refused(&[
            route("a.example", "", "lamp"),
            route("*.example", "", "lamp"),
            route("", "/", "lamp")
        ]),
        ""
    );
}

#[test]
fn a_bound_is_met_exactly_and_is_kept_by_the_tables_successor() {
    let bounded = |most| {
        Routes::table([
            route("", "/api", "lamp").in_flight(most).unwrap(),
            route("", "/free", "lamp"),
        ])
        .unwrap()
    };
    let (table, limits) = (Table::new(bounded(2)), Limits::default());
    let ask = |table: &Table, target| match table.find("GET", &to("a", target), &limits) {
        Ok(Found::Device(found)) => Ok(found.terms.unwrap().in_flight),
        Ok(found) => panic!("{found:?}"),
        Err(refusal) => Err(refusal.status),
    };
    let first = ask(&table, "/api/1").unwrap();
    let _second = ask(&table, "/api").unwrap();
    assert_eq!(ask(&table, "/api/3").err(), Some(503));
    let free: Vec<Held> = (0..100).map(|_| ask(&table, "/free").unwrap()).collect();
    assert_eq!(free.len(), 100, "a route without a bound of its own");

    let mut successor = Table::new(bounded(3));
    successor.succeed(&table);
    let third = ask(&successor, "/api").unwrap();
    assert_eq!(ask(&successor, "/api").err(), Some(503), "two are in flight by the old table");
    drop(first);
    assert!(ask(&successor, "/api").is_ok());
    drop(third);
    let mut narrow = Table::new(bounded(1));
    narrow.succeed(&successor);
    assert_eq!(ask(&narrow, "/api").err(), Some(503));
}

#[test]
fn a_routes_own_waits_have_names_of_their_own() {
    let limits = Limits::default();
    let own = route("", "/a", "lamp")
        .first_byte(Duration::from_millis(1500))
        .unwrap()
        .wait_for_link(Duration::ZERO);
    let waits = own.waits(&limits);
    assert_eq!(waits.first_byte.to_string(), "1.5 s (first_byte of its route)");
    assert_eq!(waits.link.to_string(), "0 s (wait_for_link of its route)");
    assert_eq!(waits.body_silence, Waits::of(&limits).body_silence);
    assert_eq!(waits.body_silence.to_string(), "60 s (body_silence_timeout)");
}

#[test]
fn a_route_may_answer_by_itself() {
    let on = |path: &str| Route::new().path(path).unwrap();
    let table = [
        on("/old").redirect("https://new.example/base/*").unwrap(),
        on("/here").redirect("/there/*").unwrap().status(302),
        on("/kept").redirect("/there/*").unwrap().keep_prefix(true),
        on("/page").redirect("https://new.example/page?x#y").unwrap().status(301),
        on("/robots.txt").answer("User-agent: *\nDisallow: /\n").unwrap(),
        on("/down").answer("back soon").unwrap().status(503),
    ];
    let table = Table::new(Routes::table(table).unwrap());
    for (target, status, said) in [
        ("/old", "308", "https://new.example/base/"),
        ("/old?x=1", "308", "https://new.example/base/?x=1"),
        ("/old/a/b?x=//", "308", "https://new.example/base/a/b?x=//"),
        ("/here/x", "302", "/there/x"),
        ("/here//evil.example/", "302", "/there/evil.example/"),
        ("/kept/x", "308", "/there/kept/x"),
        ("/page/x?z", "301", "https://new.example/page?x#y"),
        ("/robots.txt", "200", "User-agent: *\nDisallow: /"),
        ("/down/x", "503", "back soon"),
    ] {
        let found = find(&table, "GET", &to("gw.example", target));
        assert_eq!(found, device(status, said, None), "{target}");
    }
    let edited = on("/api").device("lamp").unwrap().set_field("X-Site", "secret").unwrap();
    let edited = edited.set_response_field("X-A", "1").unwrap();
    let edited = edited.remove_response_field("Server").unwrap();
    let edited = edited.rewrite(true).rate("20/s".parse().unwrap()).burst(40).unwrap();
    let others = Routes::path().rewrite_paths(true).rate_per_token("5/m".parse().unwrap());
    let others = Table::new(others.and_route(edited).unwrap()).told(9);
    assert_eq!(
        others,
        [
            "/api -> lamp (paths rewritten; 20/s of an address, burst 40; requests: set X-Site; responses: set X-A, remove Server)",
            "/NAME/ -> (by the path) (paths rewritten)",
            "all others: 5/m of a token"
        ]
    );
    let told = table.told(9).join("; ");
    assert!(told.contains("/old -> redirect to https://new.example/base/*"), "{told}");
    // Only the rest after the route's path is left: no other host can be named.
    let bare = on("/x").redirect("/*").unwrap();
    let table = Table::new(Routes::table([bare]).unwrap());
    for target in ["/x//evil.example", "/x///evil.example/", "/x/evil.example"] {
        let found = find(&table, "GET", &to("gw.example", target)).unwrap().1;
        assert!(found.starts_with("/evil.example"), "{found}");
    }
}

#[test]
fn answers_of_routes_that_cannot_work_are_refused() {
    let on = || Route::new().path("/x").unwrap();
    for to in
        ["https://new.example", "http://new.example:81/a?b#c", "/", "/a", "/a/*", "https://[::1]/*"]
    {
        assert!(on().redirect(to).is_ok_and(|route| Routes::table([route]).is_ok()), "{to}");
    }
    for to in [
        "",
        "new.example",
        "//new.example",
        "ftp://new.example/",
        "https://",
        "https:///x",
        "https://user@new.example/",
        "https://a b/",
        "/a\r\nX: y",
        "/a*",
        "/*/b",
        "/a?b/*",
        "/\\evil",
        "javascript:alert(1)",
        "https://\u{e9}.example/",
    ] {
        assert!(on().redirect(to).is_err(), "{to}");
    }
    let second = Duration::from_secs(1);
    let redirect = || on().redirect("/y").unwrap();
    let answer = || on().answer("hi").unwrap();
    for (route, fits) in [
        (redirect().status(307), true),
        (redirect().status(200), false),
        (redirect().status(304), false),
        (redirect().content_type("text/html").unwrap(), false),
        (redirect().device("lamp").unwrap(), false),
        (redirect().in_flight(1).unwrap(), false),
        (redirect().wait_for_link(second), false),
        (redirect().free_preflights(true), false),
        (redirect().set_response_field("X-A", "1").unwrap(), false),
        (redirect().offline_html("away").unwrap(), false),
        (answer().status(404).content_type("text/html").unwrap(), true),
        (answer().status(599), true),
        (answer().status(600), false),
        (answer().status(204), false),
        (answer().status(401), false),
        (answer().status(407), false),
        (answer().status(406), true),
        (answer().status(101), false),
        (answer().status(308), false),
        (answer().keep_prefix(true), false),
        (on().device("lamp").unwrap().status(200), false),
        (on().device("lamp").unwrap().content_type("text/html").unwrap(), false),
        (
            Route::new().host("*.old.example").unwrap().redirect("https://new.example/*").unwrap(),
            true,
        ),
    ] {
        assert_eq!(Routes::table([route.clone()]).is_ok(), fits, "{route:?}");
    }
    assert!(redirect().answer("hi").is_err() && answer().redirect("/y").is_err());
    assert!(redirect().redirect("/z").is_ok() && answer().answer("ho").is_ok());
    assert!(on().content_type("text/html\r\nX: y").is_err() && on().content_type("html").is_err());
    assert!(on().answer(&"x".repeat(65_536)).is_ok() && on().answer(&"x".repeat(65_537)).is_err());
}

#[test]
fn a_redirect_to_its_own_route_is_refused_where_that_is_certain() {
    for (path, to, keeps_prefix, fits) in [
        ("/a", "/a/*", false, false),
        ("/a/", "/a/*", false, false),
        ("/a", "/a", false, false),
        ("/a", "/a/", false, false),
        ("/a", "/a?x#y", false, false),
        ("/a", "/a", true, false),
        ("/", "/*", false, false),
        ("/", "/*", true, false),
        ("/", "/", false, false),
        ("/", "/?x", false, false),
        // Below the route there may be another one.
        ("/", "/app/*", false, true),
        ("/a", "/a/b/*", false, true),
        ("/a", "/a/*", true, true),
        ("/a", "/ab/*", false, true),
        ("/a", "/*", false, true),
        ("/a", "/A/*", false, true),
        ("/a", "https://new.example/a/*", false, true),
        ("/", "https://new.example/*", false, true),
    ] {
        let route = Route::new().path(path).unwrap().redirect(to).unwrap();
        let table = Routes::table([route.keep_prefix(keeps_prefix)]);
        assert_eq!(table.is_ok(), fits, "{path} -> {to}");
    }
    let below = Route::new().host("*.old.example").unwrap();
    assert!(Routes::table([below.clone().redirect("/*").unwrap()]).is_err());
    assert!(Routes::table([below.redirect("/new/*").unwrap()]).is_ok());
}
