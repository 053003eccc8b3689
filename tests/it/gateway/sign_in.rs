//! The sign-in page: a token once, then a cookie that is the gateway's alone.

use std::process::Command;

use super::tokens::{TokenFile, basic, bearer};
use crate::support::process::get;
use crate::support::{
    Answer, Gateway, Head, LocalServer, Ptth, RawPeer, TempDir, each_row, eventually,
};

const HTML: &str = "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n";
const OURS: &str = "Sec-Fetch-Site: same-origin\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";

fn gateway(more: &[&str]) -> (Gateway, TokenFile) {
    let tokens = TokenFile::new(&[("right", "lamp"), ("other", "porch")]);
    let options = ["--visitor-tokens", tokens.path(), "--sign-in"];
    (Gateway::start(&[&options, more].concat()), tokens)
}

fn with(request: &str, fields: &str) -> String {
    request.replacen("\r\n\r\n", &format!("\r\n{fields}\r\n"), 1)
}

fn post(target: &str, fields: &str, body: &str) -> String {
    format!(
        "POST {target} HTTP/1.1\r\nHost: visitors.example\r\n{FORM}{fields}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Sends a form as the page does.
fn submit(gateway: &Gateway, target: &str, body: &str) -> Answer {
    gateway.visitor().ask(&post(target, OURS, body))
}

/// The cookie that an answer sets, as a browser sends it.
#[track_caller]
fn cookie_of(answer: &Answer) -> String {
    let set = answer.head.all("set-cookie");
    assert_eq!(set.len(), 1, "{}", answer.head.text());
    format!("Cookie: {}\r\n", set[0].split(';').next().unwrap())
}

/// Signs in for the lamp; the cookie.
#[track_caller]
fn signed_in(gateway: &Gateway) -> String {
    let answer = submit(gateway, "/lamp/.ptth/sign-in", "token=right&to=%2Flamp%2Fx");
    assert_eq!(answer.status(), 303, "{}", answer.head.text());
    cookie_of(&answer)
}

/// Asks for `/lamp/x`; what the device heard.
#[track_caller]
fn heard(gateway: &Gateway, link: &mut RawPeer, fields: &str) -> Head {
    let mut visitor = gateway.visitor();
    visitor.write(with(&get("/lamp/x"), fields));
    let heard = link.read_head();
    link.write(OK);
    visitor.read_answer("GET").expect_ok("ok");
    heard
}

#[track_caller]
fn expect_page(answer: &Answer, status: u16) -> String {
    let head = &answer.head;
    assert_eq!(answer.status(), status, "{}", head.text());
    assert_eq!(head.get("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(head.get("cache-control"), Some("no-store"));
    assert!(head.get("content-security-policy").unwrap().contains("frame-ancestors 'none'"));
    let text = answer.text();
    assert!(!text.contains("<script") && !text.contains("src="), "{text}");
    text
}

#[test]
fn gateways_with_one_key_know_each_others_sign_ins_and_keys_change_one_by_one() {
    let folder = TempDir::new("sign-in-keys");
    let path = folder.0.join("keys").display().to_string();
    let key = |c: char| c.to_string().repeat(32);
    let write = |keys: &[char]| {
        let lines: Vec<String> = keys.iter().map(|c| key(*c)).collect();
        std::fs::write(&path, lines.join("\n")).unwrap();
    };
    write(&['a']);
    let (first, _tokens) = gateway(&["--sign-in-key", &path]);
    let cookie = signed_in(&first);
    // Another one, or the same one after a restart, which has a new key by now.
    write(&['b', 'a']);
    let (second, _tokens) = gateway(&["--sign-in-key", &path]);
    let mut link = second.link("lamp");
    heard(&second, &mut link, &cookie);
    let newer = signed_in(&second);
    let is_signed_in = |gateway: &Gateway, cookie: &str| {
        let answer = gateway.visitor().ask(&with(&get("/lamp/x"), &format!("{HTML}{cookie}")));
        assert!(matches!(answer.status(), 401 | 404), "{}", answer.head.text());
        answer.status() == 404 // nobody is there
    };
    assert!(is_signed_in(&first, &cookie) && !is_signed_in(&first, &newer));
    first.process.signal("HUP");
    first.process.expect_stderr("keys of sign-ins were read again: 2");
    assert!(is_signed_in(&first, &cookie) && is_signed_in(&first, &newer));
    write(&['b']);
    first.process.signal("HUP");
    first.process.expect_stderr("keys of sign-ins were read again: 1");
    assert!(!is_signed_in(&first, &cookie) && is_signed_in(&first, &newer));
    let (alone, _tokens) = gateway(&[]);
    assert!(!is_signed_in(&alone, &newer));
}

#[test]
fn a_browser_signs_in_once_and_no_device_sees_its_cookie() {
    let (gateway, _tokens) = gateway(&["--access-log", "-", "--access-log-format", "json"]);
    let mut link = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    let answer = visitor.ask(&with(&get("/lamp/x?y=\"<z>&"), HTML));
    let page = expect_page(&answer, 401);
    assert!(page.contains("action=\"/lamp/.ptth/sign-in\""), "{page}");
    assert!(page.contains("value=\"/lamp/x?y=&quot;&lt;z&gt;&amp;\""), "{page}");
    assert_eq!(answer.head.all("www-authenticate"), ["Bearer realm=\"ptth\""]);
    assert!(!answer.head.closes() && answer.head.get("proxy-status").unwrap().contains("denied"));
    visitor.write(with(
        "HEAD /lamp/x HTTP/1.1\r\nHost: v\r\n\r\n",
        &format!("{HTML}Range: bytes=0-1\r\n"),
    ));
    let head = visitor.read_answer("HEAD");
    assert_eq!((head.status(), head.text().as_str()), (401, ""));
    // Wrong, then right, on the same connection.
    let page = expect_page(
        &visitor.ask(&post("/lamp/.ptth/sign-in", OURS, "token=wrong&to=%2Flamp%2Fx")),
        401,
    );
    assert!(page.contains("not known") && page.contains("value=\"/lamp/x\""), "{page}");
    let answer =
        visitor.ask(&post("/lamp/.ptth/sign-in", OURS, "token=+right+&to=%2Flamp%2Fx%3Fy"));
    assert_eq!((answer.status(), answer.head.get("location")), (303, Some("/lamp/x?y")));
    let set = answer.head.get("set-cookie").unwrap();
    assert!(
        set.ends_with("; Path=/lamp; HttpOnly; SameSite=Lax") && !set.contains("right"),
        "{set}"
    );
    let cookie = cookie_of(&answer);
    for _ in 0..4 {
        gateway.process.line();
    }
    let own = &cookie["Cookie: ".len()..cookie.len() - 2];
    let app = "Authorization: Basic bWU6bWluZQ==\r\n";
    for (fields, cookies) in [
        (cookie.clone(), vec![]),
        (format!("Cookie: a=1; {own};b=2\r\n{app}"), vec!["a=1; b=2"]),
        (format!("Cookie: a=1\r\nCookie: {own}\r\nCookie: b=2\r\n"), vec!["a=1", "b=2"]),
    ] {
        let heard = heard(&gateway, &mut link, &fields);
        assert_eq!(heard.all("cookie"), cookies, "{}", heard.text());
        assert_eq!(heard.get("authorization").is_some(), fields.contains(app));
        let line = gateway.process.line();
        assert!(line.contains("\"token\":\"line 1\"") && !line.contains(&own[15..40]), "{line}");
    }
    // What is refused to somebody who is signed in has the label, too.
    let upgrade = format!("Upgrade: websocket\r\nConnection: Upgrade\r\n{cookie}");
    assert_eq!(gateway.visitor().ask(&with(&get("/lamp/ws"), &upgrade)).status(), 403);
    let line = gateway.process.line();
    assert!(line.contains("403") && line.contains("\"token\":\"line 1\""), "{line}");
    // The token still comes by field, and both together leave nothing of the gateway's.
    let heard = heard(&gateway, &mut link, &format!("{cookie}{}", bearer("right")));
    assert_eq!((heard.get("cookie"), heard.get("authorization")), (None, None));
    // The page says who is signed in, and signs out.
    let asked = with(&get("/lamp/.ptth/sign-in"), &format!("{HTML}{cookie}"));
    let page = expect_page(&visitor.ask(&asked), 200);
    // A line's number is the operator's business.
    let host = get("/").split("Host: ").nth(1).unwrap().split("\r\n").next().unwrap().to_owned();
    assert!(page.contains(&format!("You are signed in to {host}. <a")), "{page}");
    assert!(page.contains("/lamp/.ptth/sign-out"), "{page}");
    let answer = visitor.ask(&post("/lamp/.ptth/sign-out", &format!("{OURS}{cookie}"), ""));
    assert_eq!((answer.status(), answer.head.get("location")), (303, Some("/lamp/.ptth/sign-in")));
    let gone = "ptth-sign-in=; Path=/lamp; Max-Age=0; HttpOnly; SameSite=Lax";
    assert_eq!(answer.head.get("set-cookie"), Some(gone));
    let page = expect_page(&visitor.ask(&with(&get("/lamp/.ptth/sign-in"), HTML)), 401);
    assert!(page.contains("value=\"/lamp\""), "{page}");
    link.expect_quiet(std::time::Duration::from_millis(50));
    assert!(!gateway.process.stderr().contains("right"));
}

#[test]
fn programs_get_401_as_ever() {
    let (gateway, _tokens) = gateway(&[]);
    let _link = gateway.link("lamp");
    for request in [
        get("/lamp/x"),
        with(&get("/lamp/x"), "Accept: */*\r\n"),
        with(&get("/lamp/x"), "Accept: application/json, text/*\r\n"),
        with(&get("/lamp/.ptth/sign-in"), "Accept: */*\r\n"),
        with(&get("/"), HTML),
        with(&get("/Lamp/x"), HTML),
        with("DELETE /lamp/x HTTP/1.1\r\nHost: v\r\n\r\n", HTML),
        with("POST /lamp/x HTTP/1.1\r\nHost: v\r\nContent-Length: 0\r\n\r\n", HTML),
    ] {
        let answer = gateway.visitor().ask(&request);
        answer.expect_refusal(401);
        assert_eq!(answer.head.all("www-authenticate").len(), 2, "{request}");
    }
    // Without the option nothing is the gateway's own.
    let tokens = TokenFile::new(&[("right", "lamp")]);
    let gateway = Gateway::start(&["--visitor-tokens", tokens.path()]);
    gateway.visitor().ask(&with(&get("/lamp/x"), HTML)).expect_refusal(401);
    let mut link = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(post(
        "/lamp/.ptth/sign-in",
        &format!("{}Cookie: ptth-sign-in=x\r\n", bearer("right")),
        "x",
    ));
    let heard = link.read_head();
    assert_eq!((heard.target(), heard.get("cookie")), ("/.ptth/sign-in", Some("ptth-sign-in=x")));
}

#[test]
fn a_cookie_ends_with_its_token_and_its_gateway_and_is_of_one_place() {
    let (gateway, tokens) = gateway(&["--loops", "3"]);
    let mut link = gateway.link("lamp");
    let cookie = signed_in(&gateway);
    for _ in 0..6 {
        heard(&gateway, &mut link, &cookie); // by whichever loop
    }
    let ask = |target: &str, fields: &str| gateway.visitor().ask(&with(&get(target), fields));
    let page = |target: &str, cookie: &str| {
        expect_page(&ask(target, &format!("{cookie}{HTML}")), 401);
        ask(target, cookie).expect_refusal(401);
    };
    page("/porch/x", &cookie);
    page("/lampoon/x", &cookie);
    page("/lamp/x", &cookie.replace("ptth-sign-in=", "ptth-sign-in=A"));
    page("/lamp/x", &cookie.replace("ptth-sign-in", "Ptth-Sign-In"));
    // A field that counts alone, counts alone.
    let beside = format!("{cookie}PTTH-Authorization: Bearer wrong\r\n");
    ask("/lamp/x", &beside).expect_refusal(401);
    // One that was signed in for the same place, with another token: whose is it?
    tokens.set(&[("right", "lamp"), ("other", "*")]);
    hang_up(&gateway);
    let answer = submit(&gateway, "/lamp/.ptth/sign-in", "token=other");
    assert_eq!(answer.head.get("location"), Some("/lamp/"));
    let planted = cookie_of(&answer);
    page("/lamp/x", &format!("{}; {}", cookie.trim_end(), &planted["Cookie: ".len()..]));
    heard(&gateway, &mut link, &format!("Cookie: ptth-sign-in=planted\r\n{cookie}"));
    // It is not for this device any more: the visitor may sign in again.
    tokens.set(&[("right", "porch"), ("other", "*")]);
    hang_up(&gateway);
    let refused = expect_page(&ask("/lamp/x", &format!("{cookie}{HTML}")), 403);
    assert!(refused.contains("not for this device"), "{refused}");
    ask("/lamp/x", &cookie).expect_refusal(403);
    // A token that is gone, or whose last day is over, ends it at the next request.
    let over = reverse_http::Tokens::line_with("right", "*", Some("2020-01-01"), None).unwrap();
    tokens.write(over);
    hang_up(&gateway);
    page("/lamp/x", &cookie);
    page("/lamp/x", &planted);
    tokens.set(&[("right", "lamp")]);
    hang_up(&gateway);
    heard(&gateway, &mut link, &cookie);
    // Another gateway has another key.
    let (other, _tokens) = self::gateway(&[]);
    let _link = other.link("lamp");
    other.visitor().ask(&with(&get("/lamp/x"), &cookie)).expect_refusal(401);
}

#[track_caller]
fn hang_up(gateway: &Gateway) {
    let lines = || gateway.process.stderr().matches(" read from ").count();
    let before = lines();
    gateway.process.signal("HUP");
    eventually("the tokens were read again", || (lines() > before).then_some(()));
}

const SIGN_IN: &str = "/lamp/.ptth/sign-in";

/// A form in chunks.
fn chunked(chunks: &str, more: &str) -> String {
    format!(
        "POST {SIGN_IN} HTTP/1.1\r\nHost: visitors.example\r\n{FORM}{OURS}{more}Transfer-Encoding: chunked\r\n\r\n{chunks}"
    )
}

/// What is sent to the form's path, and what is answered.
#[track_caller]
fn expect_statuses(rows: &[(&str, String, u16)]) {
    each_row(
        rows,
        |(what, ..)| (*what).to_owned(),
        |(_, request, status)| {
            let (gateway, _tokens) = gateway(&[]); // of its own, for the rate
            let mut visitor = gateway.visitor();
            visitor.write(request);
            let answer = visitor.read_answer("POST");
            assert_eq!(answer.status(), *status, "{}", answer.head.text());
            assert_eq!(answer.head.get("set-cookie").is_some(), *status == 303);
        },
    );
}

#[test]
fn forms_of_other_sites_sign_nobody_in() {
    let by = |fields: &str| post(SIGN_IN, fields, "token=right");
    let here = "Origin: http://visitors.example\r\n";
    let there = "Origin: https://evil.example\r\n";
    expect_statuses(&[
        ("the page's own", by(OURS), 303),
        ("by Origin", by(here), 303),
        ("from nowhere", by(""), 403),
        ("another site's", by(&format!("Sec-Fetch-Site: cross-site\r\n{here}")), 403),
        ("a neighbour's", by("Sec-Fetch-Site: same-site\r\n"), 403),
        ("typed", by("Sec-Fetch-Site: none\r\n"), 403),
        ("another origin's", by(there), 403),
        ("another port's", by("Origin: http://visitors.example:81\r\n"), 403),
        ("no origin", by("Origin: null\r\n"), 403),
        ("two origins", by(&format!("{here}{there}")), 403),
    ]);
    // Signing out is nobody else's, either.
    let (gateway, _tokens) = gateway(&[]);
    let out = post("/lamp/.ptth/sign-out", "Sec-Fetch-Site: cross-site\r\n", "");
    assert_eq!(gateway.visitor().ask(&out).status(), 403);
}

#[test]
fn forms_that_are_none_sign_nobody_in() {
    let form = |body: &str| post(SIGN_IN, OURS, body);
    let right = form("token=right");
    let changed = |from: &str, to: &str| right.replacen(from, to, 1);
    let long = format!("token=right&more={}", "x".repeat(4_096));
    let in_chunks = format!("{:x}\r\n{long}\r\n0\r\n\r\n", long.len());
    expect_statuses(&[
        ("in chunks", chunked("5\r\ntoken\r\n6\r\n=right\r\n0\r\nX-Trailer: 1\r\n\r\n", ""), 303),
        ("with a charset", changed("urlencoded", "urlencoded; charset=utf-8"), 303),
        ("another type", changed("x-www-form-urlencoded", "json"), 415),
        ("two tokens", form("token=right&token=right"), 400),
        ("a broken escape", form("token=right%"), 400),
        ("no token", form("to=%2F"), 401),
        ("a long token", form(&format!("token={}", "x".repeat(1_025))), 401),
        ("a porch's token", form("token=other"), 403),
        ("too long", form(&long), 413),
        ("endless", changed("Content-Length: 11", "Content-Length: 99999999999"), 413),
        ("too long in chunks", chunked(&in_chunks, ""), 413),
        ("crumbs", chunked(&"1\r\nx\r\n".repeat(4_097), ""), 413),
        ("extensions", chunked(&format!("1;{}\r\nx\r\n", "x".repeat(9_000)), ""), 413),
        ("a broken chunk", chunked("xyz\r\n", ""), 400),
        ("both lengths", chunked("0\r\n\r\n", "Content-Length: 5\r\n"), 400),
        (
            "an expectation",
            post(SIGN_IN, &format!("{OURS}Expect: 100-continue\r\n"), "token=right"),
            417,
        ),
        ("put", changed("POST", "PUT"), 405),
        ("fetched", with(&get("/lamp/.ptth/sign-out"), HTML), 405),
    ]);
}

/// T47: what stands after a form is the next request, and what stands in one is none.
#[test]
fn a_form_ends_where_its_framing_says() {
    let (gateway, _tokens) = gateway(&[]);
    let mut link = gateway.link("lamp");
    let cookie = signed_in(&gateway);
    let inner = with(&get("/lamp/smuggled"), &cookie);
    let mut visitor = gateway.visitor();
    let form = post(SIGN_IN, OURS, &format!("token=right&more={inner}"));
    visitor.write(format!("{form}{}", with(&get("/lamp/next"), &cookie)));
    assert_eq!(visitor.read_answer("POST").status(), 303);
    assert_eq!(link.read_head().target(), "/next");
    link.write(OK);
    visitor.read_answer("GET").expect_ok("ok");
    // In single bytes, and with a trailer and a request after it.
    let mut visitor = gateway.visitor();
    for byte in chunked("b\r\ntoken=right\r\n0\r\nA: b\r\n\r\n", "").bytes() {
        visitor.write([byte]);
    }
    assert_eq!(visitor.read_answer("POST").status(), 303);
    visitor.write(with(&get("/lamp/x"), HTML));
    expect_page(&visitor.read_answer("GET"), 401);
}

#[test]
fn a_form_that_does_not_come_has_the_time_of_a_head() {
    let (gateway, _tokens) = gateway(&["--head", "300ms"]);
    let mut visitor = gateway.visitor();
    let form = post("/lamp/.ptth/sign-in", OURS, "token=right");
    visitor.write(&form[..form.len() - 1]);
    visitor.read_answer("POST").expect_refusal(408);
    // One that ends in the middle is gone.
    let mut visitor = gateway.visitor();
    visitor.write(&form[..form.len() - 1]);
    visitor.finish_writing();
    visitor.expect_end();
}

#[test]
fn so_many_attempts_of_an_address_and_no_more() {
    let (gateway, _tokens) = gateway(&["--trusted-proxies", "127.0.0.0/8"]);
    let from = |n: u8, token: &str| {
        let fields = format!("{OURS}X-Forwarded-For: 192.0.2.{n}\r\n");
        gateway.visitor().ask(&post("/lamp/.ptth/sign-in", &fields, &format!("token={token}")))
    };
    for _ in 0..10 {
        assert_eq!(from(1, "wrong").status(), 401);
    }
    let answer = from(1, "right");
    assert!(expect_page(&answer, 429).contains("Too many attempts"));
    let seconds: u64 = answer.head.get("retry-after").unwrap().parse().unwrap();
    assert!((1..=6).contains(&seconds), "{seconds}");
    assert_eq!(from(2, "right").status(), 303);
}

#[test]
fn whoever_has_signed_in_goes_on_to_no_other_host() {
    let (gateway, _tokens) = gateway(&["--trusted-proxies", "127.0.0.0/8"]);
    let goal = |to: &str, fields: &str| {
        let body = format!("token=right&to={to}");
        let answer =
            gateway.visitor().ask(&post("/lamp/.ptth/sign-in", &format!("{OURS}{fields}"), &body));
        assert_eq!(answer.status(), 303);
        answer.head.get("location").unwrap().to_owned()
    };
    let rows = [
        ("%2Flamp%2Fx%3Fa%3Db", "", "/lamp/x?a=b"),
        ("%2F%2Fevil.example%2Flamp", "", "/lamp/"),
        ("https%3A%2F%2Fevil.example%2Flamp", "", "/lamp/"),
        ("%2Flamp%2F%0D%0ASet-Cookie%3A+a%3Db", "", "/lamp/"),
        ("%2Fporch%2F", "", "/lamp/"),
        ("%2Fiot%2Flamp%2Fx", "X-Forwarded-Prefix: /iot\r\n", "/iot/lamp/x"),
        ("%2Flamp%2Fx", "X-Forwarded-Prefix: /iot\r\n", "/iot/lamp/"),
    ];
    for (n, (to, fields, expected)) in rows.into_iter().enumerate() {
        let fields = format!("{fields}X-Forwarded-For: 192.0.2.{n}\r\n");
        assert_eq!(goal(to, &fields), expected, "{to}");
    }
    let https = format!("{OURS}X-Forwarded-Proto: https\r\nX-Forwarded-Prefix: /iot\r\n");
    let answer = gateway.visitor().ask(&post("/lamp/.ptth/sign-in", &https, "token=right"));
    let set = answer.head.get("set-cookie").unwrap();
    assert!(set.ends_with("; Path=/iot/lamp; HttpOnly; SameSite=Lax; Secure"), "{set}");
    let page = gateway
        .visitor()
        .ask(&with(&get("/lamp/x"), &format!("{HTML}X-Forwarded-Prefix: /iot\r\n")));
    assert!(expect_page(&page, 401).contains("action=\"/iot/lamp/.ptth/sign-in\""));
}

/// T21: a page of another host cannot use what a browser is signed in with, and no device plants it.
#[test]
fn web_sockets_of_other_hosts_and_cookies_of_devices_do_not_count() {
    let (gateway, _tokens) = gateway(&["--trusted-proxies", "127.0.0.0/8"]);
    let mut link = gateway.link("lamp");
    let cookie = signed_in(&gateway);
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\n";
    let host =
        get("/lamp/ws").split("Host: ").nth(1).unwrap().split("\r\n").next().unwrap().to_owned();
    for fields in [
        String::new(),
        "Origin: https://evil.example\r\n".to_owned(),
        "Origin: null\r\n".to_owned(),
        format!("Origin: http://{host}\r\nSec-Fetch-Site: same-site\r\n"),
        format!("Origin: http://porch.{host}\r\n"),
    ] {
        let answer =
            gateway.visitor().ask(&with(&get("/lamp/ws"), &format!("{upgrade}{cookie}{fields}")));
        assert_eq!(answer.status(), 403, "{fields}");
    }
    // An operator whose proxy changes Host learns it from both values.
    gateway.process.expect_stderr(&format!("got 403: it is for Host: {host}, and its page is of Origin: nothing (Sec-Fetch-Site: nothing)"));
    gateway.process.expect_stderr("(GatewayBuilder::trusted_proxies, or --trusted-proxies)");
    for fields in [
        format!("{cookie}Origin: http://{host}\r\n"),
        format!("{cookie}Origin: https://public.example\r\nX-Forwarded-Host: public.example\r\n"),
        format!("{}Origin: https://elsewhere.example\r\n", bearer("right")),
    ] {
        let mut visitor = gateway.visitor();
        visitor.write(with(&get("/lamp/ws"), &format!("{upgrade}{fields}")));
        let heard = link.read_head();
        assert_eq!((heard.get("upgrade"), heard.get("cookie")), (Some("websocket"), None));
        link.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSet-Cookie: ptth-sign-in=x; Path=/\r\nSet-Cookie: a=b\r\n\r\n");
        let head = visitor.read_head();
        assert_eq!((head.status(), head.all("set-cookie")), (101, vec!["a=b"]));
        link = gateway.link("lamp");
    }
    let mut visitor = gateway.visitor();
    visitor.write(with(&get("/lamp/x"), &cookie));
    link.read_head();
    // Of a cookie without a name browsers send the value alone.
    link.write("HTTP/1.1 103 Early Hints\r\nSet-Cookie: ptth-sign-in=x\r\nSet-Cookie: e=f\r\n\r\nHTTP/1.1 200 OK\r\nSet-Cookie: ptth-sign-in=x; Path=/lamp\r\nset-cookie:  ptth-sign-in =y\r\nSet-Cookie: =ptth-sign-in=z\r\nSet-Cookie: = ptth-sign-in=z\r\nSet-Cookie: c=d\r\nContent-Length: 0\r\n\r\n");
    let early = visitor.read_head();
    assert_eq!((early.status(), early.all("set-cookie")), (103, vec!["e=f"]));
    assert_eq!(visitor.read_answer("GET").head.all("set-cookie"), ["c=d"]);
}

const TABLE: &str = r#"
[[route]]
path = "/open"
device = "lamp"

[[route]]
path = "/api"
device = "lamp"
sign_in = true
strip = false

[[route]]
host = "*.devices.example"
sign_in = true
"#;

#[test]
fn a_route_has_its_own_page_and_others_see_nothing_of_it() {
    let (folder, tokens) = (TempDir::new("sign-in"), TokenFile::new(&[("right", "lamp")]));
    let (file, local) = (folder.0.join("ptth.toml"), LocalServer::start());
    std::fs::write(&file, TABLE).unwrap();
    let config = file.to_str().unwrap();
    let gateway = Gateway::start(&["--config", config, "--visitor-tokens", tokens.path()]);
    for fallback in ["never", "only"] {
        let _device = Ptth::start(&[
            "device",
            &gateway.device_url("lamp"),
            "--to",
            &local.url(),
            "--fallback",
            fallback,
        ]);
        eventually("the device is there", || {
            let answer = gateway.visitor().ask(&with(&get("/open/x"), &bearer("right")));
            (answer.status() == 200).then_some(())
        });
        gateway.visitor().ask(&with(&get("/open/x"), HTML)).expect_refusal(401);
        gateway.visitor().ask(&with(&get("/lamp/x"), HTML)).expect_refusal(401);
        expect_page(&gateway.visitor().ask(&with(&get("/api/x"), HTML)), 401);
        let answer = submit(&gateway, "/api/.ptth/sign-in", "token=right&to=%2Fapi%2Fx");
        let cookie = cookie_of(&answer);
        assert_eq!(gateway.visitor().ask(&with(&get("/api/x"), &cookie)).status(), 200);
        assert_eq!((local.last().target(), local.last().get("cookie")), ("/api/x", None));
        // A browser may send it elsewhere, where it neither counts nor goes on.
        gateway.visitor().ask(&with(&get("/open/x"), &cookie)).expect_refusal(401);
        let both = format!("{cookie}{}", basic("", "right"));
        assert_eq!(gateway.visitor().ask(&with(&get("/open/x"), &both)).status(), 200);
        assert_eq!(local.last().get("cookie"), None);
    }
    let by_host =
        |request: String| request.replacen("Host: ", "Host: lamp.devices.example\r\nX-Was: ", 1);
    expect_page(&gateway.visitor().ask(&by_host(with(&get("/x"), HTML))), 401);
    let answer =
        gateway.visitor().ask(&by_host(post("/.ptth/sign-in", OURS, "token=right&to=%2Fx")));
    assert_eq!(answer.head.get("location"), Some("/x"));
    assert!(answer.head.get("set-cookie").unwrap().contains("; Path=/; "));
    // The route is read again.
    std::fs::write(&file, TABLE.replacen("sign_in = true\nstrip", "strip", 1)).unwrap();
    gateway.process.signal("HUP");
    gateway.process.expect_stderr("1 changed (*/api)");
    gateway.visitor().ask(&with(&get("/api/x"), HTML)).expect_refusal(401);
}

#[test]
fn a_page_that_cannot_work_is_refused() {
    let tokens = TokenFile::new(&[("right", "lamp")]);
    let folder = TempDir::new("sign-in");
    let file = folder.0.join("ptth.toml");
    let route = "[[route]]\npath = \"/x\"\ndevice = \"lamp\"\n";
    let known = ["--visitor-tokens", tokens.path()];
    let rows: [(&[&str], String, &[&str]); 5] = [
        (&["--sign-in"], String::new(), &["--sign-in goes with --visitor-tokens"]),
        (&[], format!("{route}sign_in = true\n"), &["line 1, column 1", "--visitor-tokens"]),
        (
            &known,
            format!("{route}sign_in = \"yes\"\n"),
            &["line 4, column 11: sign_in", "true or false"],
        ),
        (
            &known,
            format!("{route}sign_in = true\n").replace("/x", "/x;y"),
            &["line 1", "semicolon"],
        ),
        (&[], "[gateway]\nsign_in = true\n".to_owned(), &["line 2, column 1 (--sign-in)"]),
    ];
    each_row(
        &rows,
        |row| format!("{:?} {}", row.0, row.1),
        |(options, text, told)| {
            std::fs::write(&file, text).unwrap();
            let check = ["gateway", "--check", "--config", file.to_str().unwrap()];
            let (code, _, err) = Ptth::run(&[&check[..], options].concat());
            assert!(code == 2 && told.iter().all(|told| err.contains(told)), "{err}");
        },
    );
    let gateway = crate::support::gateway().listen("127.0.0.1:0").start().unwrap();
    let routes = reverse_http::Routes::path().sign_in(true);
    assert!(gateway.listen_visitors("127.0.0.1:0", routes).unwrap_err().is_usage());
}

#[test]
fn a_sign_in_counts_for_its_time() {
    let mut limits = reverse_http::Limits::default();
    limits.sign_in_timeout = std::time::Duration::from_secs(2);
    let line = reverse_http::Tokens::line("right", "lamp").unwrap();
    let gateway = crate::support::gateway()
        .listen("127.0.0.1:0")
        .limits(limits)
        .visitor_tokens(reverse_http::Tokens::parse(&line).unwrap())
        .start()
        .unwrap();
    let at =
        gateway.listen_visitors("127.0.0.1:0", reverse_http::Routes::path().sign_in(true)).unwrap();
    let answer = RawPeer::connect(at).ask(&post("/lamp/.ptth/sign-in", OURS, "token=right"));
    let cookie = cookie_of(&answer);
    let ask = || RawPeer::connect(at).ask(&with(&get("/lamp/x"), &cookie)).status();
    let first = ask();
    assert!(
        first == 404 || first == 401,
        "the device is not there, or this machine is slow: {first}"
    );
    eventually("the sign-in is over", || (ask() == 401).then_some(()));
}

#[test]
fn curl_signs_in_with_a_jar_of_cookies() {
    let (gateway, _tokens) = gateway(&[]);
    let local = LocalServer::start();
    let _device = Ptth::device(&gateway, "lamp", &["--to", &local.url()]);
    let url = |target: &str| format!("http://{}{target}", gateway.visitors);
    let folder = TempDir::new("jar");
    let jar = folder.0.join("jar").to_str().unwrap().to_owned();
    let curl = |more: &[&str]| {
        let options = [
            "-sS",
            "--max-time",
            "30",
            "-b",
            &jar,
            "-c",
            &jar,
            "-w",
            " %{http_code}",
            "-H",
            "Accept: text/html",
        ];
        let output = Command::new("curl").args(options).args(more).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(curl(&[&url("/lamp/x")]).ends_with("</html>\n 401"));
    let form = ["--data-urlencode", "token=right", "--data-urlencode", "to=/lamp/x", "-L"];
    let origin = format!("Origin: http://{}", gateway.visitors);
    let to = url("/lamp/.ptth/sign-in");
    let told = curl(&[&form[..], &["-H", &origin, &to]].concat());
    assert!(told.ends_with(" 200"), "{told}");
    assert!(curl(&[&url("/lamp/y")]).ends_with(" 200"));
    assert_eq!(local.last().get("cookie"), None);
    assert!(curl(&[&url("/porch/y")]).ends_with(" 401"));
}
