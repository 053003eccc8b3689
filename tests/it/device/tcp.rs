//! TCP targets of a device: by hand, through `ptth connect`, and with a real sshd.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::support::process::get;
use crate::support::{
    Authority, DEADLINE, Gateway, Hash, Process, Ptth, RawPeer, TempDir, each_row, eventually,
    free_port, need, pattern, program, say,
};

/// Says `hi`, then everything that it hears, then `bye` after its client's end.
fn chat(mut client: impl Read + Write, end: impl FnOnce(&Client<'_>)) {
    let mut piece = vec![0; 64 * 1024];
    let mut said = client.write_all(b"hi");
    while said.is_ok() {
        match client.read(&mut piece) {
            Ok(0) => {
                let _ = client.write_all(b"bye"); // it may have gone
                return;
            }
            Ok(n) => said = client.write_all(&piece[..n]),
            Err(e) => return end(&Client(&e)),
        }
    }
}

/// How a client went.
struct Client<'e>(&'e std::io::Error);

/// Such a server, and what its clients' ends looked like where they were none.
fn server() -> (SocketAddr, Receiver<std::io::ErrorKind>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (at, (tell, told)) = (listener.local_addr().unwrap(), channel());
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let tell = tell.clone();
            std::thread::spawn(move || {
                chat(client, |broke| _ = tell.send(broke.0.kind()));
            });
        }
    });
    (at, told)
}

/// A device with this TCP target beside a text.
fn device(gateway: &Gateway, name: &str, target: &str, more: &[&str]) -> Process {
    let tcp = format!("echo={target}");
    Ptth::device(gateway, name, &[&["--text", "on", "--tcp", &tcp], more].concat())
}

fn offer(target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: v\r\nConnection: Upgrade\r\nUpgrade: ptth-tcp/1\r\n\r\n"
    )
}

/// A visitor that is connected to the target.
#[track_caller]
fn connected(gateway: &Gateway, target: &str) -> RawPeer {
    let mut visitor = gateway.visitor();
    visitor.write(offer(target));
    let head = visitor.read_head();
    assert_eq!(
        (head.status(), head.get("upgrade"), head.get("connection")),
        (101, Some("ptth-tcp/1"), Some("Upgrade")),
        "{}",
        head.text()
    );
    assert_eq!((head.get("content-length"), head.get("transfer-encoding")), (None, None));
    assert_eq!(visitor.read_exact(2), b"hi", "a server may speak first");
    visitor
}

#[test]
fn bytes_reach_a_target_and_each_direction_ends_by_itself() {
    let (gateway, (at, _)) = (Gateway::start(&["--heartbeat", "100ms"]), server());
    let _device = device(&gateway, "lamp", &at.to_string(), &[]);
    let mut visitor = connected(&gateway, "/lamp/echo");
    visitor.write("one");
    assert_eq!(visitor.read_exact(3), b"one");
    visitor.expect_quiet(Duration::from_millis(300)); // no heartbeat disturbs it
    visitor.write("two");
    assert_eq!(visitor.read_exact(3), b"two");
    visitor.finish_writing();
    assert_eq!(visitor.read_to_end(), b"bye");
    // Bytes that come with the request are not lost.
    let mut early = gateway.visitor();
    early.write(offer("/lamp/echo") + "early");
    assert_eq!(early.read_head().status(), 101);
    assert_eq!(early.read_exact(7), b"hiearly");
    gateway.get("/lamp/x").expect_ok("on");
}

#[test]
fn only_what_a_device_lists_is_reached() {
    let (gateway, (at, _), (other, _)) = (Gateway::start(&[]), server(), server());
    let (closed, absent) = (free_port(), TempDir::new("tcp"));
    let absent = absent.0.join("no.sock");
    let targets = [
        "--tcp".to_owned(),
        format!("closed=127.0.0.1:{closed},nowhere=no.such.host.invalid:22"),
        "--tcp".to_owned(),
        format!("gone=unix:{}", absent.display()),
    ];
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    let device = device(&gateway, "lamp", &at.to_string(), &targets);
    let upgrade = "Connection: Upgrade\r\nUpgrade: ptth-tcp/1\r\n";
    // What asks for no target is for whatever else answers.
    for request in [
        get("/lamp/echo"),
        "GET /lamp/echo HTTP/1.1\r\nHost: v\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            .to_owned(),
        "GET /lamp/echo HTTP/1.1\r\nHost: v\r\nUpgrade: ptth-tcp/1\r\n\r\n".to_owned(),
        format!("POST /lamp/echo HTTP/1.1\r\nHost: v\r\n{upgrade}\r\n"),
        format!("GET /lamp/echo HTTP/1.1\r\nHost: v\r\n{upgrade}Content-Length: 0\r\n\r\n")
            .replace("Content-Length: 0\r\n", "Transfer-Encoding: chunked\r\n")
            + "0\r\n\r\n",
        format!("GET /lamp/echo/ HTTP/1.1\r\nHost: v\r\n{upgrade}\r\n"),
        format!("GET /lamp/a/echo HTTP/1.1\r\nHost: v\r\n{upgrade}\r\n"),
    ] {
        gateway.visitor().ask(&request).expect_ok("on");
    }
    let rows = [
        ("/lamp/other", 404, "destination_not_found"),
        ("/lamp/", 404, "destination_not_found"),
        ("/lamp/ECHO", 404, "destination_not_found"),
        ("/lamp/echo?x", 404, "destination_not_found"),
        ("/lamp/127.0.0.1:22", 404, "destination_not_found"),
        ("/lamp/%65cho", 404, "destination_not_found"),
        ("/lamp/closed", 502, "connection_refused"),
        ("/lamp/nowhere", 502, "dns_error"),
        ("/lamp/gone", 502, "destination_unavailable"),
    ];
    each_row(
        &rows,
        |(target, ..)| (*target).to_owned(),
        |(target, status, error)| {
            let mut visitor = gateway.visitor();
            visitor.write(offer(target));
            let answer = visitor.read_answer("GET");
            answer.expect_refusal(*status);
            let told = answer.head.text() + &answer.text();
            assert!(told.contains(&format!("error={error}")), "{told}");
            let port = closed.to_string();
            for inside in ["127.0.0.1", &port, "invalid", "no.sock", "os error"] {
                assert!(!told.contains(inside), "{inside} in {told}");
            }
            // The link, and the visitor's connection, are as good as before.
            visitor.ask(&get("/lamp/x")).expect_ok("on");
        },
    );
    device.expect_stderr(&format!("the TCP target closed (127.0.0.1:{closed}) cannot be reached"));
    // T25: neither Host nor an absolute form names another.
    let absolute = offer("/lamp/echo").replace("Host: v", &format!("Host: {other}"));
    let mut visitor = gateway.visitor();
    visitor.write(absolute);
    assert_eq!(visitor.read_head().status(), 101);
    assert_eq!(visitor.read_exact(2), b"hi");
    // A device that lists none knows nothing of it.
    let _plain = Ptth::device(&gateway, "porch", &["--text", "porch"]);
    let mut visitor = gateway.visitor();
    visitor.ask(&offer("/porch/echo")).expect_ok("porch");
    // One that lists nothing else answers nothing else.
    let tcp = format!("echo={at}");
    let _alone = Ptth::device(&gateway, "alone", &["--tcp", &tcp]);
    drop(connected(&gateway, "/alone/echo"));
    gateway.get("/alone/echo").expect_refusal(404);
}

#[test]
fn a_target_takes_a_link_and_no_more_than_there_are() {
    let (gateway, (at, _)) = (Gateway::start(&["--wait-for-link", "300ms"]), server());
    let device = device(&gateway, "lamp", &at.to_string(), &["--links", "1..2"]);
    let first = connected(&gateway, "/lamp/echo");
    let mut second = connected(&gateway, "/lamp/echo");
    let mut third = gateway.visitor();
    third.write(offer("/lamp/echo"));
    third.read_answer("GET").expect_refusal(503);
    drop(first);
    eventually("the link that is free serves again", || {
        (gateway.get("/lamp/x").status() == 200).then_some(())
    });
    // A device that stops lets it finish.
    device.signal("TERM");
    device.expect_stderr("stopping");
    second.write("still here");
    assert_eq!(second.read_exact(10), b"still here");
    second.finish_writing();
    assert_eq!(second.read_to_end(), b"bye");
    let mut device = device;
    assert_eq!(device.exit_code(), 0);
}

#[test]
fn what_breaks_at_one_end_breaks_at_the_other() {
    let (gateway, (at, broke)) = (Gateway::start(&[]), server());
    let _device = device(&gateway, "lamp", &at.to_string(), &[]);
    connected(&gateway, "/lamp/echo").reset();
    let kind = broke.recv_timeout(DEADLINE).unwrap();
    assert_eq!(kind, std::io::ErrorKind::ConnectionReset, "the server sees no clean end");
    // A silent one is ended by the gateway, and a drain is.
    let gateway = Gateway::start(&["--tunnel-silence", "300ms"]);
    let _device = self::device(&gateway, "lamp", &at.to_string(), &[]);
    connected(&gateway, "/lamp/echo").expect_closed();
    let gateway = Gateway::start(&["--drain-timeout", "200ms"]);
    let _device = self::device(&gateway, "lamp", &at.to_string(), &[]);
    let mut visitor = connected(&gateway, "/lamp/echo");
    gateway.process.signal("TERM");
    visitor.expect_closed();
}

/// A half-close passes, and a target may ignore it. When the visitor is gone altogether, its link
/// serves others, and the target hears of it.
#[test]
fn a_target_that_ignores_the_end_holds_no_link_for_a_visitor_that_is_gone() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = target.local_addr().unwrap().to_string();
    let _device = device(&gateway, "lamp", &at, &["--links", "1..1"]);
    let mut visitor = gateway.visitor();
    visitor.write(offer("/lamp/echo") + "all of it");
    assert_eq!(visitor.read_head().status(), 101);
    visitor.finish_writing();
    let (mut server, _) = target.accept().unwrap();
    let mut heard = Vec::new();
    server.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"all of it");
    visitor.reset();
    eventually("the link serves others", || (gateway.get("/lamp/x").status() == 200).then_some(()));
    // A close after its end would be silent to a target that says nothing.
    eventually("the target hears a reset", || server.take_error().unwrap().map(drop));
}

#[test]
fn targets_that_cannot_work_are_refused_with_a_remedy() {
    let rows: [(&[&str], &str); 7] = [
        (&["--tcp", "ssh"], "write NAME=HOST:PORT"),
        (&["--tcp", "ssh=127.0.0.1"], "write HOST:PORT"),
        (&["--tcp", "ssh=127.0.0.1:0"], "write HOST:PORT"),
        (&["--tcp", "SSH=127.0.0.1:22"], "a to z"),
        (&["--tcp", "ssh=a:1", "--tcp", "ssh=b:1"], "given twice"),
        (&["--tcp", "ssh=unix:run/x"], "absolute path"),
        (&[], "--tcp"),
    ];
    each_row(
        &rows,
        |(options, _)| format!("{options:?}"),
        |(options, why)| {
            let start = ["device", "http://127.0.0.1:1/lamp", "--check"];
            let (code, _, said) = Ptth::run(&[&start[..], options].concat());
            assert_eq!((code, said.contains(why)), (2, true), "{said}");
        },
    );
    for options in [
        &["--tcp", "ssh=127.0.0.1:22"][..],
        &["--tcp", "ssh=[::1]:22,docker=unix:/run/docker.sock", "--to", "127.0.0.1:3000"],
    ] {
        let start = ["device", "http://127.0.0.1:1/lamp", "--check"];
        let (code, _, wrong) = Ptth::run(&[&start[..], options].concat());
        assert_eq!(code, 0, "{wrong}");
    }
    for (arguments, why) in [
        (&["gw.example/lamp/ssh"][..], "https://gw.example/lamp/ssh"),
        (&["http://gw.example"], "its path names the device"),
        (&["http://gw.example/lamp/ssh", "--clock-floor", "2026-01-31"], "go with https://"),
        (&["http://gw.example/lamp/ssh", "-L", "x"], "write a port"),
        (&["http://gw.example/lamp/ssh", "--token-file", "-"], "goes with -L"),
    ] {
        let (code, _, said) = Ptth::run(&[&["connect"], arguments].concat());
        assert_eq!((code, said.contains(why)), (2, true), "{arguments:?}: {said}");
    }
}

#[test]
fn a_file_and_a_variable_list_targets_too() {
    let (gateway, (at, _), folder) = (Gateway::start(&[]), server(), TempDir::new("tcp-file"));
    let file = folder.0.join("ptth.toml");
    let text =
        format!("[device]\nurl = \"{}\"\ntcp = [\"echo={at}\"]\n", gateway.device_url("lamp"));
    std::fs::write(&file, text).unwrap();
    let by_file = Ptth::start(&["device", "--config", file.to_str().unwrap()]);
    assert!(by_file.line().starts_with("connected lamp"));
    drop(connected(&gateway, "/lamp/echo"));
    let mut command = Ptth::command(&["device", &gateway.device_url("porch")]);
    let by_variable = Process::start(command.env("PTTH_TCP", format!("echo={at}")));
    assert!(by_variable.line().starts_with("connected porch"));
    drop(connected(&gateway, "/porch/echo"));
}

// ── ptth connect ──

/// `ptth connect` with pipes.
fn connect(arguments: &[&str], variables: &[(&str, &str)]) -> Child {
    let mut command = Ptth::command(&[&["connect"], arguments].concat());
    command.envs(variables.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What it says to this input, to its end: exit code, standard output, standard error.
fn talk(mut child: Child, input: &[u8]) -> (i32, Vec<u8>, String) {
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    std::thread::spawn(move || stdin.write_all(&input)); // and its end
    let done = child.wait_with_output().unwrap();
    (done.status.code().unwrap(), done.stdout, String::from_utf8_lossy(&done.stderr).into_owned())
}

/// The same where it is to say why not: a process that ends waits a second for its last line, which
/// a busy machine may not write in that time.
fn complaint(arguments: &[&str], variables: &[(&str, &str)]) -> (i32, Vec<u8>, String) {
    eventually("it says why", || {
        let done = talk(connect(arguments, variables), b"");
        (!done.2.is_empty()).then_some(done)
    })
}

#[test]
fn connect_is_a_pipe_to_a_target() {
    let (authority, (at, _)) = (Authority::new(), server());
    let pair = authority.server("gateway");
    let tokens = authority.folder().join("visitors");
    let made = Ptth::run(&["token", "lamp"]).1;
    let (token, line) = made.split_once('\n').unwrap();
    std::fs::write(&tokens, format!("{line}\n")).unwrap();
    let gateway = Gateway::start(&[
        "--visitors-cert",
        pair.certificate(),
        "--visitors-key",
        pair.key(),
        "--visitor-tokens",
        tokens.to_str().unwrap(),
    ]);
    let _device = device(&gateway, "lamp", &at.to_string(), &[]);
    let url = |path: &str| format!("https://localhost:{}{path}", gateway.visitors.port());
    let (url, unlisted) = (url("/lamp/echo"), url("/lamp/other"));
    let ca = ["--ca", authority.ca()];
    let body = pattern(20_000_000);
    let known = [("PTTH_VISITOR_TOKEN", token)];
    let (code, said, wrong) = talk(connect(&[&[&url[..]], &ca[..]].concat(), &known), &body);
    assert_eq!(code, 0, "{wrong}");
    assert_eq!(Hash::of(&said), Hash::of(&[b"hi", &body[..], b"bye"].concat()));
    let file = authority.folder().join("token");
    std::fs::write(&file, token).unwrap();
    let by_file = ["--token-file", file.to_str().unwrap(), "--pin", &pair.pin];
    let (code, said, wrong) = talk(connect(&[&[&url[..]], &by_file[..]].concat(), &[]), b"x");
    assert_eq!((code, said.as_slice()), (0, b"hixbye".as_slice()), "{wrong}");
    // Refused.
    let without = complaint(&[&[&url[..]], &ca[..]].concat(), &[]);
    assert!(without.0 == 3 && without.2.contains("401"), "{}", without.2);
    assert!(without.2.contains("PTTH_VISITOR_TOKEN"), "{}", without.2);
    let none = complaint(&[&[&unlisted[..]], &ca[..]].concat(), &known);
    assert!(none.0 == 3 && none.2.contains("no TCP target of this name"), "{}", none.2);
    let strangers = Authority::new();
    let untrusted = complaint(&[&url, "--ca", strangers.ca()], &known);
    assert!(untrusted.0 == 1 && untrusted.2.contains("no CA that is trusted"), "{}", untrusted.2);
}

#[test]
fn connect_says_why_there_is_no_target() {
    let (gateway, (at, _)) = (Gateway::start(&["--wait-for-link", "300ms"]), server());
    let closed = format!("127.0.0.1:{}", free_port());
    let _lamp = device(&gateway, "lamp", &closed, &[]);
    let _plain = Ptth::device(&gateway, "plain", &["--text", "on"]);
    let takes_polls = Gateway::start(&["--fallback", "only"]);
    let polls = device_by_polls(&takes_polls, &at.to_string());
    let away = device(&gateway, "away", &at.to_string(), &[]);
    drop(away);
    let url = |path: &str| format!("http://{}{path}", gateway.visitors);
    let rows = [
        (url("/nobody/echo"), 3, "404"),
        (url("/lamp/echo"), 1, "refuses connections"),
        (url("/plain/echo"), 1, "this is no TCP target"),
        (
            format!("http://{}/polls/echo", takes_polls.visitors),
            1,
            "TCP needs connections that turn",
        ),
        (url("/away/echo"), 1, "503"),
        (format!("http://{closed}/lamp/echo"), 1, "refused"),
        (format!("http://{at}/lamp/echo"), 1, "is not HTTP"),
    ];
    each_row(
        &rows,
        |(url, ..)| url.clone(),
        |(url, code, why)| {
            let (exit, said, wrong) = complaint(&[url, "--timeout", "20s"], &[]);
            assert_eq!((exit, wrong.contains(why)), (*code, true), "{wrong}");
            assert!(said.is_empty(), "nothing of it is the target's");
        },
    );
    drop(polls);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = format!("http://{}/lamp/echo", silent.local_addr().unwrap());
    let (exit, _, wrong) = complaint(&[&to, "--timeout", "300ms"], &[]);
    assert!(exit == 1 && wrong.contains("--timeout"), "{wrong}");
}

/// A device of a gateway that only takes polls.
fn device_by_polls(gateway: &Gateway, target: &str) -> Process {
    let (url, tcp) = (gateway.device_url("polls"), format!("echo={target}"));
    let device = Ptth::start(&["device", &url, "--text", "on", "--tcp", &tcp]);
    assert!(device.line().starts_with("connected polls"));
    device
}

#[test]
fn connect_waits_no_longer_for_a_handshake_that_comes_byte_by_byte() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let drips = std::thread::spawn(move || {
        let (mut server, _) = listener.accept().unwrap();
        let hello = b"\x16\x03\x03\x30\x00\x02\x00\x2f\xfc"; // the start of a long record
        let mut given = server.write_all(hello);
        while given.is_ok() {
            std::thread::sleep(Duration::from_millis(20));
            given = server.write_all(b"\0");
        }
    });
    let url = format!("https://{at}/lamp/echo");
    let (code, _, said) = talk(connect(&[&url, "--timeout", "500ms"], &[]), b"");
    assert_eq!((code, said.contains("took longer")), (1, true), "{said}");
    drips.join().unwrap();
}

#[test]
fn connect_takes_as_many_interim_responses_as_a_device() {
    for (count, connects) in [(8, true), (9, false)] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/lamp/echo", listener.local_addr().unwrap());
        let answers = std::thread::spawn(move || {
            let (mut server, _) = listener.accept().unwrap();
            let interim = "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n".repeat(count);
            let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: ptth-tcp/1\r\nConnection: Upgrade\r\n\r\nhello";
            server.write_all(format!("{interim}{switch}").as_bytes()).unwrap();
            let _ = server.shutdown(Shutdown::Write);
            let _ = std::io::copy(&mut server, &mut std::io::sink()); // to its end
        });
        let (code, out, said) = talk(connect(&[&url], &[]), b"");
        answers.join().unwrap();
        match connects {
            true => assert_eq!((code, &*out), (0, &b"hello"[..]), "{said}"),
            false => assert_eq!(
                (code, &*out, said.contains("informational_max")),
                (1, &b""[..], true),
                "{said}"
            ),
        }
    }
}

#[test]
fn connect_serves_a_port_of_its_machine() {
    let (gateway, (at, broke)) = (Gateway::start(&[]), server());
    let _device = device(&gateway, "lamp", &at.to_string(), &[]);
    let url = format!("http://{}/lamp/echo", gateway.visitors);
    let mut command = Ptth::command(&["connect", &url, "-L", "0"]);
    let process = Process::start(command.env("RUST_LOG", "debug"));
    let line = process.line();
    let port: SocketAddr = line.strip_prefix("listening ").unwrap().parse().unwrap();
    assert!(port.ip().is_loopback());
    let mut clients: Vec<RawPeer> = (0..3).map(|_| RawPeer::connect(port)).collect();
    for client in &mut clients {
        assert_eq!(client.read_exact(2), b"hi");
    }
    for client in &mut clients {
        client.write("x");
        assert_eq!(client.read_exact(1), b"x");
        client.finish_writing();
        assert_eq!(client.read_to_end(), b"bye");
    }
    // While no descriptor is free, clients wait. One may have no way to the target: the call that waits
    // for it has reserved its descriptor.
    process.limit_descriptors(4);
    drop(TcpStream::connect(port));
    let mut late = RawPeer::connect(port);
    process.expect_one_warning(&format!("-L {port} cannot accept: "));
    process.limit_descriptors(1_024);
    assert_eq!(late.read_exact(2), b"hi");
    // A client that breaks, and a target that does.
    let mut client = RawPeer::connect(port);
    assert_eq!(client.read_exact(2), b"hi");
    client.reset();
    assert_eq!(broke.recv_timeout(DEADLINE).unwrap(), std::io::ErrorKind::ConnectionReset);
    drop(gateway);
    drop(TcpStream::connect(port)); // it may be reset before it stands here
    process.expect_stderr("refused");
}

#[test]
fn connect_goes_through_a_proxy_and_to_a_unix_socket() {
    let folder = TempDir::new("tcp-unix");
    let path = folder.0.join("chat.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            std::thread::spawn(move || chat(client, |_| ()));
        }
    });
    let gateway = Gateway::start(&[]);
    let _device = device(&gateway, "lamp", &format!("unix:{}", path.display()), &[]);
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = proxy.local_addr().unwrap();
    std::thread::spawn(move || {
        for near in proxy.incoming().flatten() {
            let mut near = RawPeer::adopt(near, "proxy");
            let head = near.read_head();
            if head.get("proxy-authorization").is_none() {
                near.write("HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n");
                continue;
            }
            let mut far = RawPeer::connect(head.target().parse().unwrap());
            near.write("HTTP/1.1 200 OK\r\n\r\n");
            let request = near.read_head();
            far.write(&request.bytes);
            let answer = far.read_head();
            near.write(&answer.bytes);
            near.write(far.read_exact(2)); // hi
            drop(far);
        }
    });
    let url = format!("http://{}/lamp/echo", gateway.visitors);
    let with = [("PTTH_PROXY", format!("http://a:b@{at}"))];
    let with: Vec<(&str, &str)> = with.iter().map(|(name, value)| (*name, &value[..])).collect();
    let (_, said, wrong) = talk(connect(&[&url], &with), b"");
    assert_eq!(said, b"hi", "{wrong}");
    let to = format!("http://{at}");
    let (code, _, wrong) = complaint(&[&url, "--proxy", &to], &[]);
    assert!(code == 1 && wrong.contains("407"), "{wrong}");
    let (code, said, wrong) = talk(connect(&[&url, "--proxy", "none"], &with), b"x");
    assert_eq!((code, said.as_slice()), (0, b"hixbye".as_slice()), "{wrong}");
}

// ── a real sshd ──

/// An sshd of its own on loopback, with keys that only it knows.
struct Sshd {
    _process: Process,
    port: u16,
    folder: TempDir,
}

impl Sshd {
    fn start() -> Sshd {
        let folder = TempDir::new("sshd");
        let path = |name: &str| folder.0.join(name);
        for key in ["host", "user"] {
            let mut command = Command::new(program("ssh-keygen"));
            command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path(key));
            assert!(command.status().unwrap().success());
        }
        std::fs::copy(path("user.pub"), path("authorized_keys")).unwrap();
        let _ = std::fs::create_dir_all("/run/sshd"); // as root it separates privileges there
        let (process, port) = eventually("sshd listens on a free port", || {
            let port = free_port();
            let configuration = format!(
                "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized_keys\nPidFile none\n\
                 StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n",
                folder.0.display()
            );
            std::fs::write(path("config"), configuration).unwrap();
            let mut command = Command::new(program("sshd"));
            let mut process = Process::start(command.args(["-D", "-e", "-f"]).arg(path("config")));
            let end = Instant::now() + DEADLINE;
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                if process.has_ended() || Instant::now() > end {
                    return None;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Some((process, port))
        });
        Sshd { _process: process, port, folder }
    }

    /// `ssh` or `scp` with these arguments: what it said, and how long it took.
    #[track_caller]
    fn run(&self, name: &str, by: Option<&str>, arguments: &[&str]) -> (Vec<u8>, Duration) {
        let mut command = Command::new(program(name));
        command.args(["-F", "none", "-q", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]);
        command.args(["-o", "UserKnownHostsFile=/dev/null", "-o"]);
        command.arg(format!("IdentityFile={}", self.folder.0.join("user").display()));
        command.arg("-o").arg(format!("Port={}", self.port));
        if let Some(by) = by {
            command.arg("-o").arg(format!("ProxyCommand={by}"));
        }
        let began = Instant::now();
        let done = command.args(arguments).stdin(Stdio::null()).output().unwrap();
        let wrong = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{name} {arguments:?}: {} {wrong}", done.status);
        (done.stdout, began.elapsed())
    }

    fn copy(&self, by: Option<&str>, from: &Path, to: &Path) -> f64 {
        let bytes = std::fs::metadata(from).unwrap().len();
        let to = format!("127.0.0.1:{}", to.display());
        let (_, took) = self.run("scp", by, &[from.to_str().unwrap(), &to]);
        bytes as f64 / 1e6 / took.as_secs_f64()
    }
}

#[test]
fn ssh_and_scp_reach_an_sshd_behind_a_device() {
    if !need("sshd") || !need("ssh") || !need("scp") {
        return;
    }
    let (sshd, gateway) = (Sshd::start(), Gateway::start(&[]));
    let tcp = format!("ssh=127.0.0.1:{}", sshd.port);
    let _device = Ptth::device(&gateway, "lamp", &["--tcp", &tcp]);
    let by = format!("{} connect http://{}/lamp/ssh", env!("CARGO_BIN_EXE_ptth"), gateway.visitors);
    let by = Some(by.as_str());
    let (said, _) = sshd.run("ssh", by, &["127.0.0.1", "echo behind the device; exit 0"]);
    assert_eq!(said, b"behind the device\n");
    let (from, to) = (sshd.folder.0.join("from"), sshd.folder.0.join("to"));
    let bytes = pattern(100 << 20);
    std::fs::write(&from, &bytes).unwrap();
    let plain = sshd.copy(None, &from, &to);
    let through = sshd.copy(by, &from, &to);
    assert!(std::fs::read(&to).unwrap() == bytes, "100 MiB arrived whole");
    say(&format!("scp of 100 MiB: {through:.0} MB/s through a device, {plain:.0} MB/s plainly"));
    // By a port of this machine.
    let url = format!("http://{}/lamp/ssh", gateway.visitors);
    let process = Ptth::start(&["connect", &url, "-L", "0"]);
    let line = process.line();
    let port = line.rsplit_once(':').unwrap().1;
    let (said, _) = sshd.run("ssh", None, &["-p", port, "127.0.0.1", "echo by a port"]);
    assert_eq!(said, b"by a port\n");
}

#[test]
fn a_client_that_reads_nothing_is_not_read_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let gateway = Gateway::start(&[]);
    let device = device(&gateway, "lamp", &at.to_string(), &[]);
    let mut visitor = RawPeer::connect_narrow(gateway.visitors);
    visitor.write(offer("/lamp/echo"));
    let (mut target, _) = listener.accept().unwrap();
    assert_eq!(visitor.read_head().status(), 101);
    let before = (gateway.process.resident_kib(), device.resident_kib());
    target.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let piece = vec![b'x'; 1 << 20];
    let mut taken = 0usize;
    while let Ok(n @ 1..) = target.write(&piece) {
        taken += n;
        assert!(taken < 200 << 20, "somebody keeps what the visitor does not read");
    }
    for (process, before) in [(&gateway.process, before.0), (&device, before.1)] {
        let grown = process.resident_kib().saturating_sub(before);
        assert!(grown < 16 << 10, "{grown} KiB");
    }
    // All of it arrives when it is read.
    target.shutdown(Shutdown::Write).unwrap();
    assert_eq!(visitor.read_to_end().len(), taken);
}
