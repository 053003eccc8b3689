//! Fields that a route sets and removes, in requests to its device and in what that answers.

use super::Config;
use crate::support::process::{Process, get};
use crate::support::{Gateway, LocalServer, Ptth, RawPeer, each_row};

const TABLE: &str = r#"
[[route]]
path = "/api"
device = "lamp"
set_field = ["X-Site: the porch, left", "accept:text/plain", "Authorization: Basic device"]
remove_field = ["Cookie", "accept-ENCODING"]
set_response_field = ["Cache-Control: no-store", "Vary: c", "Set-Cookie: a=1", "Set-Cookie: b=2"]
remove_response_field = ["Server", "X-FRAME-OPTIONS", "Date"]

[[route]]
path = "/plain"
device = "lamp"

[[route]]
path = "/away"
device = "desk"
set_response_field = "X-Site: porch"
wait_for_link = "0s"
"#;

const ANSWER: &str = "Server: small\r\nX-Frame-Options: DENY\r\nx-frame-options: SAMEORIGIN\r\nX-Kept: a\r\nVary: b\r\nSet-Cookie: c=3\r\n";

/// A device behind links (`never`), or behind polls (`only`).
pub(super) fn device(gateway: &Gateway, local: &LocalServer, fallback: &str) -> Process {
    let to = local.url();
    let device =
        Ptth::start(&["device", &gateway.device_url("lamp"), "--to", &to, "--fallback", fallback]);
    device.line_like("connected lamp");
    device
}

/// CGI takes `X_Site` for `X-Site`.
#[test]
fn what_a_route_sets_and_removes_has_no_other_spelling() {
    let local = LocalServer::start();
    let config = Config::new(TABLE);
    let gateway = config.gateway(&["--keep-underscore"]);
    let _device = device(&gateway, &local, "never");
    let fields = "X_Site: evil\r\nx.site: evil\r\nACCEPT_ENCODING: evil\r\nX_Kept: 1\r\n";
    gateway.visitor().ask(&format!("GET /api/x HTTP/1.1\r\nHost: v\r\n{fields}\r\n"));
    let asked = local.last();
    assert_eq!((asked.all("x-site"), asked.get("x_kept")), (vec!["the porch, left"], Some("1")));
    assert!(!asked.text().contains("evil"), "{}", asked.text());
}

#[test]
fn a_route_sets_and_removes_fields_on_links_and_on_polls() {
    let local = LocalServer::with(|c| {
        let body = c.body();
        c.answer("200 OK", ANSWER, body);
    });
    for fallback in ["never", "only"] {
        let config = Config::new(TABLE);
        let gateway = config.gateway(&[]);
        let _device = device(&gateway, &local, fallback);
        let answer = gateway.visitor().ask(
            "POST /api/x HTTP/1.1\r\nHost: v\r\nAccept: a\r\nACCEPT: b\r\nCookie: c=1\r\nAccept-Encoding: gzip\r\nX-Kept: 1\r\nContent-Length: 2\r\n\r\nhi",
        );
        answer.expect_ok("hi");
        let asked = local.last();
        assert_eq!(asked.all("x-site"), ["the porch, left"]);
        assert_eq!(asked.all("accept"), ["text/plain"]);
        assert_eq!(asked.all("authorization"), ["Basic device"]);
        for removed in ["cookie", "accept-encoding"] {
            assert_eq!(asked.get(removed), None, "{}", asked.text());
        }
        assert_eq!((asked.get("x-kept"), asked.get("content-length")), (Some("1"), Some("2")));
        assert_eq!(asked.get("x-forwarded-prefix"), Some("/api"));
        let head = &answer.head;
        assert_eq!((head.all("vary"), head.all("cache-control")), (vec!["c"], vec!["no-store"]));
        assert_eq!(head.all("set-cookie"), ["a=1", "b=2"]);
        for removed in ["server", "x-frame-options", "date"] {
            assert_eq!(head.get(removed), None, "{}", head.text());
        }
        assert_eq!((head.get("x-kept"), head.get("content-length")), (Some("a"), Some("2")));
        // Another route to the same device changes nothing.
        let answer = gateway.get("/plain/x");
        assert_eq!(
            (answer.head.get("server"), answer.head.get("vary")),
            (Some("small"), Some("b"))
        );
        assert_eq!(local.last().get("x-site"), None);
        // A reading changes it for the next request, and a mistake changes nothing.
        config.reload(&gateway, &TABLE.replace("the porch, left", "the shed"));
        gateway.get("/api/x");
        assert_eq!(local.last().get("x-site"), Some("the shed"));
        config.reload(&gateway, &TABLE.replace("X-Site: the", "Host: the"));
        gateway.process.expect_stderr("set_field: Host: this field says where a message ends");
        gateway.get("/api/x");
        assert_eq!(local.last().get("x-site"), Some("the shed"));
    }
}

/// What a head lost does not come as a trailer (T12), on links and on polls, in either direction.
#[test]
fn what_a_route_sets_and_removes_is_no_trailer_either() {
    let config = Config::new(TABLE);
    let gateway = config.gateway(&[]);
    let request = |target: &str| {
        format!(
            "POST {target} HTTP/1.1\r\nHost: v\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Site: forged\r\nACCEPT-encoding: x\r\nX-Sum: 1\r\n\r\n"
        )
    };
    let response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nSERVER: small\r\nX-Frame-Options: DENY\r\nX-Sum: 2\r\n\r\n";
    let mut link = gateway.link("lamp");
    for (target, up, down) in [
        ("/api/x", &["X-Sum: 1"][..], &["X-Sum"][..]),
        (
            "/plain/x",
            &["X-Site: forged", "ACCEPT-encoding: x", "X-Sum: 1"],
            &["SERVER", "X-Frame-Options", "X-Sum"],
        ),
    ] {
        let mut visitor = gateway.visitor();
        visitor.write(request(target));
        link.read_head();
        assert_eq!(link.read_chunk(), b"hi");
        let mut rest = Vec::new();
        while !rest.ends_with(b"\r\n\r\n") {
            rest.extend(link.read_exact(1));
        }
        let rest = String::from_utf8(rest).unwrap();
        assert_eq!(rest.lines().skip(1).filter(|line| !line.is_empty()).collect::<Vec<_>>(), up);
        link.write(response);
        let answer = visitor.read_answer("POST");
        answer.expect_ok("ok");
        let names: Vec<&str> = answer.trailers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, down, "{target}");
    }
    drop(link);
    let local = LocalServer::with(move |c| c.raw(response));
    let _device = device(&gateway, &local, "only");
    let answer = gateway.visitor().ask(&request("/api/x").replace("X-Sum: 1\r\n", ""));
    answer.expect_ok("ok");
    assert_eq!(answer.trailers, [("X-Sum".to_owned(), "2".to_owned())]);
    assert_eq!(local.last().get("content-length"), Some("2"), "no trailer is left");
}

#[test]
fn answers_of_the_gateway_have_no_fields_of_a_route_and_a_101_has() {
    let config = Config::new(TABLE);
    let gateway = config.gateway(&[]);
    let answer = gateway.get("/away/x");
    answer.expect_refusal(503);
    assert_eq!(answer.head.get("x-site"), None);
    let mut link = gateway.link("lamp");
    let upgrade = "GET /api/x HTTP/1.1\r\nHost: v\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\n";
    let mut visitor = gateway.visitor();
    visitor.write(upgrade);
    assert_eq!(link.read_head().get("x-site"), Some("the porch, left"));
    link.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\nConnection: Upgrade\r\nServer: small\r\n\r\n");
    let head = visitor.read_head();
    assert_eq!((head.status(), head.get("upgrade")), (101, Some("chat")), "{}", head.text());
    assert_eq!((head.get("server"), head.get("vary")), (None, Some("c")));
    // An interim response stays as it is; what is malformed after it is no answer of the device's.
    let (mut link, mut visitor): (RawPeer, _) = (gateway.link("lamp"), gateway.visitor());
    visitor.write(get("/api/x"));
    link.read_head();
    link.write("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    let head = visitor.read_head();
    assert_eq!((head.status(), head.get("vary")), (103, None), "{}", head.text());
    link.write("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n");
    let answer = visitor.read_answer("GET");
    answer.expect_refusal(502);
    assert_eq!(answer.head.get("cache-control"), None, "{}", answer.head.text());
}

/// T1, T10, T12: no route changes where a message ends, whom it is for, or what a device may trust.
#[test]
fn fields_that_frame_route_or_vouch_cannot_be_edited_by_a_route() {
    const FRAMING: &[&str] = &[
        "Content-Length",
        "transfer-encoding",
        "Connection",
        "Host",
        "TE",
        "Upgrade",
        "Via",
        "Proxy-Status",
        "PTTH-Authorization",
        "Keep-Alive",
        "X Y",
        "",
    ];
    const OURS: &[&str] = &["X-Forwarded-For", "x-forwarded-other", "FORWARDED", "X-Request-ID"];
    let all: Vec<&str> = FRAMING.iter().chain(OURS).copied().collect();
    each_row(
        &all,
        |name| (*name).to_owned(),
        |name| {
            let ours = OURS.contains(name);
            let keys: &[&str] = &["set_field", "remove_field"];
            let keys = if ours { keys } else { &[keys, &["set_response_field"]].concat() };
            for key in keys {
                let field =
                    if key.starts_with("set") { format!("{name}: 1") } else { (*name).to_owned() };
                let table = format!(
                    "[[route]]\npath = \"/x\"\ndevice = \"lamp\"\n{key} = [\"X-A: 1\", \"{field}\"]\n"
                );
                let table = table.replace(
                    "\"X-A: 1\"",
                    if key.starts_with("set") { "\"X-A: 1\"" } else { "\"X-A\"" },
                );
                let config = Config::new(&table);
                let path = config.path().to_str().unwrap().to_owned();
                let (code, _, err) = Ptth::run(&["gateway", "--check", "--config", &path]);
                assert!(code == 2 && err.contains("line 4, column"), "{key} {name}: {err}");
            }
        },
    );
    let split =
        "[[route]]\npath = \"/x\"\ndevice = \"lamp\"\nset_field = \"X-A: 1\\r\\nHost: evil\"\n";
    let config = Config::new(split);
    let (code, _, err) =
        Ptth::run(&["gateway", "--check", "--config", config.path().to_str().unwrap()]);
    assert!(code == 2 && err.contains("line 4, column 13"), "{err}");
}
