//! Several local servers of a device, by the paths of requests.

use std::net::TcpStream;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::process::get;
use crate::support::{
    DEADLINE, Gateway, LocalServer, Process, Ptth, RawGateway, TempDir, each_row, eventually,
    free_port, need, program,
};

/// A server that says who it is, and what it was asked for.
fn named(name: &'static str) -> LocalServer {
    LocalServer::with(move |c| {
        let target = c.head.target().to_owned();
        c.text(format!("{name} {target}"));
    })
}

/// `/api=http://…`.
fn at(path: &str, server: &LocalServer) -> String {
    format!("{path}={}", server.url())
}

/// T11: paths are compared by whole segments and byte for byte, the longest wins, and what is for
/// no server is 404 on a link that goes on.
#[test]
fn each_path_goes_to_its_server_and_any_other_is_404() {
    let (api, v2, cam) = (named("api"), named("v2"), named("cam"));
    let raw = RawGateway::start();
    let _device = Ptth::start(&[
        "device",
        &raw.url("lamp"),
        "--links",
        "1..1",
        "--backoff",
        "5ms..20ms",
        "--to",
        &at("/api", &api),
        "--to",
        &at("/api/v2/", &v2),
        "--to",
        &at("/cam", &cam),
        "--strip-prefix",
        "/cam",
    ]);
    let mut link = raw.turn();
    for (target, said) in [
        ("/api", Some("api /api")),
        ("/api/", Some("api /api/")),
        ("/api/x?y=/cam", Some("api /api/x?y=/cam")),
        ("/api/v2", Some("v2 /api/v2")),
        ("/api/v2/x", Some("v2 /api/v2/x")),
        ("/api/v21", Some("api /api/v21")),
        ("/api//v2", Some("api /api//v2")),
        ("/api%2fv2", None),
        ("/apix", None),
        ("/API/x", None),
        ("/%61pi/x", None),
        ("//api/x", None),
        ("/x/api", None),
        ("/", None),
        ("/?/api", None),
        ("http://elsewhere.example/api/x", Some("api /api/x")),
        ("/cam", Some("cam /")),
        ("/cam?y", Some("cam /?y")),
        ("/cam/", Some("cam /")),
        ("/cam/x?y", Some("cam /x?y")),
        ("/cam//evil.example/x", Some("cam //evil.example/x")),
        ("/cam/cam", Some("cam /cam")),
    ] {
        let answer = link.ask(&get(target));
        match said {
            Some(said) => answer.expect_ok(said),
            None => {
                assert_eq!(answer.status(), 404, "{target}");
                let status = answer.head.get("proxy-status").unwrap();
                assert!(status.contains("error=destination_not_found"), "{status}");
            }
        }
    }
    // A body that goes nowhere does not become a request, and the answer has none where HEAD asked.
    let body = get("/api/smuggled");
    link.write(format!(
        "POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    assert_eq!(link.read_answer("POST").status(), 404);
    drop(link); // it ends with such an answer
    let asked = api.count();
    let mut link = raw.turn();
    link.write("HEAD /none HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(link.read_answer("HEAD").status(), 404);
    link.ask(&get("/api/x")).expect_ok("api /api/x");
    assert_eq!(api.count(), asked + 1, "a request's body was taken for a request");
    drop(link);
    // What no path may have is refused before any server is chosen.
    for target in ["/api/../cam", "/cam/%2e%2e/api", "/cam/./x", "/cam\\x", "/cam/%00"] {
        assert_eq!(raw.turn().ask(&get(target)).status(), 400, "{target}");
    }
}

/// What a stripped prefix costs a server's own names is given back: in redirects, and in cookies.
#[test]
fn what_is_stripped_is_told_and_put_back() {
    let (app, cam) = (
        named("app"),
        LocalServer::with(|c| {
            let fields: String =
                c.head.all("x-say").iter().map(|line| format!("{line}\r\n")).collect();
            c.answer("302 Found", &fields, "");
        }),
    );
    let gateway = Gateway::start(&["--route", "path,host=devices.example"]);
    let options = ["--to", &app.url(), "--to", &at("/cam", &cam), "--strip-prefix", "/cam/"];
    let _device = Ptth::device(&gateway, "lamp", &options);
    let said = [
        "Location: /login?a",
        "Location: //evil.example/login",
        "Location: http://HOST/b",
        "Location: c",
        "Refresh: 0; url=/d",
        "Set-Cookie: s=1; Path=/; HttpOnly",
        "Set-Cookie: __Host-s=1; Secure; Path=/",
    ];
    for (host, outside) in [("v", "/lamp"), ("lamp.devices.example", "")] {
        let mut visitor = gateway.visitor();
        let say: String =
            said.iter().map(|line| format!("X-Say: {}\r\n", line.replace("HOST", host))).collect();
        let answer =
            visitor.ask(&format!("GET {outside}/cam/x HTTP/1.1\r\nHost: {host}\r\n{say}\r\n"));
        let (head, prefix) = (&answer.head, format!("{outside}/cam"));
        assert_eq!(
            head.all("location"),
            [&format!("{prefix}/login?a"), "//evil.example/login", &format!("{prefix}/b"), "c"]
        );
        assert_eq!(head.get("refresh"), Some(&*format!("0; url={prefix}/d")));
        assert_eq!(
            head.all("set-cookie"),
            [&format!("s=1; Path={prefix}; HttpOnly"), "__Host-s=1; Secure; Path=/"]
        );
        let asked = cam.last();
        assert_eq!((asked.target(), asked.get("host")), ("/x", Some(host)));
        assert_eq!(asked.all("x-forwarded-prefix"), [&prefix]);
        // The other server's prefix is the gateway's alone.
        visitor
            .ask(&format!("GET {outside}/x HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .expect_ok("app /x");
        let told = app.last();
        assert_eq!(told.get("x-forwarded-prefix"), Some(outside).filter(|told| !told.is_empty()));
    }
}

/// A server whose answers wait for a word each.
fn held() -> (LocalServer, Receiver<()>, Sender<()>) {
    let ((asked, is_asked), (go, goes)) = (channel(), channel::<()>());
    let (asked, goes) = (Mutex::new(asked), Arc::new(Mutex::new(goes)));
    let server = LocalServer::with(move |c| {
        asked.lock().unwrap().send(()).unwrap();
        goes.lock().unwrap().recv_timeout(DEADLINE).unwrap();
        c.text("held");
    });
    (server, is_asked, go)
}

#[test]
fn each_server_has_its_own_connections_and_bound() {
    let (app, (cam, asked, go)) = (named("app"), held());
    let gateway = Gateway::start(&[]);
    let to = ["--to", &app.url(), "--to", &at("/cam", &cam)];
    let bounds = ["--to-connections", "/cam=1", "--links", "4..8"];
    let _device = Ptth::device(&gateway, "lamp", &[&to[..], &bounds].concat());
    let (mut first, mut second) = (gateway.visitor(), gateway.visitor());
    first.write(get("/lamp/cam/1"));
    asked.recv_timeout(DEADLINE).unwrap();
    second.write(get("/lamp/cam/2"));
    // All that the camera may have is taken; the other server is asked as ever.
    let mut visitor = gateway.visitor();
    for n in 0..20 {
        visitor.ask(&get(&format!("/lamp/{n}"))).expect_ok(format!("app /{n}"));
    }
    assert_eq!(cam.count(), 1, "the second waits for the first");
    go.send(()).unwrap();
    first.read_answer("GET").expect_ok("held");
    asked.recv_timeout(DEADLINE).unwrap();
    go.send(()).unwrap();
    second.read_answer("GET").expect_ok("held");
    assert_eq!(cam.count(), 2);
}

#[test]
fn one_server_that_is_down_is_502_and_the_others_answer() {
    let (app, gateway) = (named("app"), Gateway::start(&[]));
    let down = format!("/down=http://127.0.0.1:{}", free_port());
    let device = Ptth::device(&gateway, "lamp", &["--to", &app.url(), "--to", &down]);
    let mut visitor = gateway.visitor();
    for _ in 0..3 {
        visitor.ask(&get("/lamp/down/x")).expect_refusal(502);
        visitor = gateway.visitor();
        visitor.ask(&get("/lamp/x")).expect_ok("app /x");
    }
    device.expect_stderr(down.split_once('=').unwrap().1);
}

#[test]
fn a_host_is_for_all_servers_or_for_one() {
    let (app, cam) = (LocalServer::start(), LocalServer::start());
    let gateway = Gateway::start(&[]);
    let to = ["--to", &app.url(), "--to", &at("/cam", &cam)];
    for (hosts, seen) in [
        (&["--host-header", "app.internal"][..], ("app.internal", "app.internal")),
        (
            &["--host-header", "app.internal,/cam=cam.internal:80"],
            ("app.internal", "cam.internal:80"),
        ),
        (&["--host-header", "/cam=cam.internal"], ("v", "cam.internal")),
        (&["--host-header", "/=app.internal"], ("app.internal", "v")),
    ] {
        let _device = Ptth::device(&gateway, "lamp", &[&to[..], hosts].concat());
        let mut visitor = gateway.visitor();
        let mut ask = |path: &str| {
            visitor.ask(&format!("GET /lamp{path} HTTP/1.1\r\nHost: v\r\n\r\n"));
        };
        ask("/x");
        ask("/cam/x");
        let told = (app.last(), cam.last());
        assert_eq!((told.0.get("host"), told.1.get("host")), (Some(seen.0), Some(seen.1)));
    }
}

#[test]
fn a_file_lists_servers_and_polls_reach_them_too() {
    let (app, cam, gateway) = (named("app"), named("cam"), Gateway::start(&[]));
    let folder = TempDir::new("servers");
    let file = folder.0.join("ptth.toml");
    let text = format!(
        "[device]\nurl = \"{}\"\nto = [\"{}\", \"{}\"]\nstrip_prefix = [\"/cam\"]\nto_connections = [4, \"/cam=1\"]\nfallback = \"only\"\n",
        gateway.device_url("lamp"),
        app.url(),
        at("/cam", &cam)
    );
    std::fs::write(&file, text).unwrap();
    let device = Ptth::start(&["device", "--config", file.to_str().unwrap()]);
    assert!(device.line().starts_with("connected lamp"));
    gateway.get("/lamp/x").expect_ok("app /x");
    gateway.get("/lamp/cam/x").expect_ok("cam /x");
}

#[test]
fn servers_that_cannot_work_are_refused() {
    let rows: [(&[&str], &str); 17] = [
        (&["--to", "a", "--to", "b"], "for the path /;"),
        (&["--to", "a", "--to", "/=b"], "for the path /;"),
        (&["--to", "/x=a", "--to", "/x/=b"], "for the path /x/;"),
        (&["--to", "/x"], "write PATH="),
        (&["--to", "x=http://a"], "a path begins with a slash: write /x=http://a"),
        (&["--to", "/x=a", "--strip-prefix", "x"], "a path begins with a slash: write /x"),
        (&["--to", "/x=a", "--host-header", "x=b"], "a path begins with a slash: write /x=b"),
        (&["--to", "/x//y=a"], "empty segment"),
        (&["--to", "/x/../y=a"], "empty segment, and none that is . or .."),
        (&["--to", "/x=ftp://a"], "ftp"),
        (&["--to", "a", "--strip-prefix", "/x"], "there is no --to /x=URL"),
        (&["--to", "a", "--strip-prefix", "/"], "none to strip"),
        (&["--to", "a", "--host-header", "/x=b"], "there is no --to /x=URL"),
        (&["--to", "a", "--host-header", "b,c"], "--host-header is given twice"),
        (
            &["--to", "/x=a", "--to-connections", "/x=1,/x/=2"],
            "--to-connections is given twice for",
        ),
        (&["--to", "/x=a", "--to-connections", "/x=0"], "from 1 on"),
        (
            &[
                "--to",
                "https://a",
                "--to",
                "/b=https://b",
                "--to-server-name",
                "c",
                "--to-insecure",
            ],
            "--to-server-name is the name of one server",
        ),
    ];
    let start = ["device", "http://127.0.0.1:1/lamp", "--check"];
    each_row(
        &rows,
        |(options, _)| format!("{options:?}"),
        |(options, why)| {
            let (code, _, said) = Ptth::run(&[&start[..], options].concat());
            assert_eq!((code, said.contains(why)), (2, true), "{said}");
        },
    );
    for beside in [["--text", "x"], ["--dir", "/"]] {
        let (code, _, said) = Ptth::run(&[&start[..], &["--to", "/x=a"], &beside].concat());
        assert_eq!((code, said.contains(beside[0])), (2, true), "{said}");
    }
    let (code, _, said) =
        Ptth::run(&[&start[..], &["--strip-prefix", "/x", "--text", "y"]].concat());
    assert_eq!((code, said.contains("--strip-prefix goes with --to")), (2, true), "{said}");
    for options in [
        &[
            "--to",
            "a",
            "--to",
            "/x=b",
            "--to",
            "/x/y=unix:/run/y.sock",
            "--strip-prefix",
            "/x,/x/y",
        ][..],
        &["--to", "/x=https://b", "--to", "/y=b", "--to-insecure", "--to-connections", "3,/y=1"],
    ] {
        let (code, _, said) = Ptth::run(&[&start[..], options].concat());
        assert_eq!(code, 0, "{options:?}: {said}");
    }
}

/// Two servers of one nginx, asked by curl: one knows its prefix, the other does not.
#[test]
fn nginx_is_two_local_servers() {
    if !need("nginx") || !need("curl") {
        return;
    }
    let folder = TempDir::new("two-servers");
    let (_nginx, ports) = eventually("nginx listens on free ports", || {
        let ports = [free_port(), free_port()];
        let configuration = format!(
            "daemon off; pid {0}/pid; error_log {0}/log; events {{}}\nhttp {{ access_log off; client_body_temp_path {0}/b; proxy_temp_path {0}/p; \
             fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;\n\
             server {{ listen 127.0.0.1:{1}; location / {{ return 200 \"app $request_uri\"; }} }}\n\
             server {{ listen 127.0.0.1:{2}; server_name cam.internal; \
             location = / {{ return 302 /live; }} location = /live {{ add_header Set-Cookie 's=1; Path=/'; return 200 \"cam $request_uri $host $cookie_s\"; }} }} }}",
            folder.0.display(),
            ports[0],
            ports[1],
        );
        let file = folder.0.join("nginx.conf");
        std::fs::write(&file, configuration).unwrap();
        let mut nginx = Process::start(Command::new(program("nginx")).args([
            "-p",
            folder.0.to_str().unwrap(),
            "-c",
            file.to_str().unwrap(),
        ]));
        let end = Instant::now() + DEADLINE;
        while TcpStream::connect(("127.0.0.1", ports[1])).is_err() {
            if nginx.has_ended() || Instant::now() > end {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Some((nginx, ports))
    });
    let gateway = Gateway::start(&[]);
    let (app, cam) =
        (format!("127.0.0.1:{}", ports[0]), format!("/cam=http://127.0.0.1:{}", ports[1]));
    let options = [
        &["--to", &app, "--to", &cam, "--strip-prefix", "/cam"][..],
        &["--host-header", "/cam=cam.internal"],
    ];
    let _device = Ptth::device(&gateway, "lamp", &options.concat());
    let curl = |path: &str| {
        let mut command = Command::new("curl");
        let jar = folder.0.join("cookies");
        command.args(["-sS", "-L", "--noproxy", "*", "--max-time", "20", "-b"]).arg(&jar);
        command.arg("-c").arg(&jar).arg(format!("http://{}/lamp{path}", gateway.visitors));
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert_eq!(curl("/x"), "app /x");
    // nginx redirects to the name that it is told and its own port; curl follows to the visitors'.
    assert_eq!(curl("/cam/"), "cam /live cam.internal ");
    assert_eq!(curl("/cam/live"), "cam /live cam.internal 1", "the cookie has come back");
    let jar = std::fs::read_to_string(folder.0.join("cookies")).unwrap();
    assert!(jar.contains("\t/lamp/cam\t"), "{jar}");
}
