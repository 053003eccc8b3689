//! What is not served: nothing outside the directory.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::{Links, Permit, SECRET};
use crate::support::process::get;
use crate::support::{Answer, Gateway, Process, each_row, need};

// ── what is not served ──

/// Targets that would lead out of the directory.
const TARGETS_OUT: &[&str] = &[
    "/../secret",
    "/..",
    "/../",
    "/.",
    "/./../secret",
    "/sub/../../secret",
    "/sub/../a.txt",
    "/sub/deep/../../../secret",
    "/a.txt/../../secret",
    "/a.txt/..",
    "//../secret",
    "/..//secret",
    "/.../secret",
    "/....//secret",
    "/..;/secret",
    "/.;/secret",
    "/%2e%2e/secret",
    "/%2E%2E/secret",
    "/.%2e/secret",
    "/%2e./secret",
    "/%2e%2e%2fsecret",
    "/..%2fsecret",
    "/..%2Fsecret",
    "/sub%2f..%2f..%2fsecret",
    "/sub/..%2f..%2fsecret",
    "/%2f..%2fsecret",
    "/..%5csecret",
    "/..%5Csecret",
    "/%2e%2e%5csecret",
    "/..\\secret",
    "/sub\\..\\..\\secret",
    "/%252e%252e/secret",
    "/%252e%252e%252fsecret",
    "/..%252fsecret",
    "/%c0%ae%c0%ae/secret",
    "/%c0%ae%c0%ae%c0%afsecret",
    "/..%c0%afsecret",
    "/%e0%80%ae%e0%80%ae/secret",
    "/%uff0e%uff0e/secret",
    "/%u002e%u002e/secret",
    "/..%00/secret",
    "/a.txt%00",
    "/%00",
    "/a.txt%00/../../secret",
    "/../root-secret",
    "/%2e%2e/root-secret",
    "/..%2froot-secret",
    "/-secret",
    "/~/secret",
    "/~root/",
    "/etc/passwd",
    "//etc/passwd",
    "/%2fetc/passwd",
    "/%2Fetc%2Fpasswd",
    "/proc/self/root/etc/passwd",
    "/file:///etc/passwd",
    "/%",
    "/%2",
    "/%zz",
    "/..%",
    "/out",
    "/out-absolute",
    "/out-folder/secret",
    "/out-folder/",
    "/out-folder",
    "/out-chain",
    "/out-root/etc/passwd",
    "/out-proc/etc/passwd",
    "/out-device",
    "/sub/out-again",
    "/out-hidden/../secret",
];

/// Targets that lead out, or would if somebody decoded, resolved or joined them carelessly.
fn ways_out(place: &Permit) -> Vec<String> {
    let outside = place.dir.0.join("secret");
    let outside = outside.to_str().unwrap();
    let up = "../".repeat(12);
    let mut ways: Vec<String> = TARGETS_OUT.iter().map(|target| (*target).to_owned()).collect();
    ways.extend([
        format!("/{up}etc/passwd"),
        format!("/{}etc/passwd", "..%2f".repeat(12)),
        format!("/{}etc/passwd", "%2e%2e/".repeat(12)),
        format!("/{outside}"),
        outside.to_owned(),
        outside.replace('/', "%2f"),
        format!("/{}", outside.replace('/', "%2f")),
        format!("http://a/../{}", &outside[1..]),
    ]);
    ways
}

fn with_links_out() -> Permit {
    let place = Permit::new();
    place.link("out", "../secret");
    place.link("out-absolute", place.dir.0.join("secret"));
    place.link("out-folder", "../outside");
    place.link("out-chain", "out");
    place.link("out-root", "/");
    place.link("out-proc", "/proc/self/root");
    place.link("out-device", "/dev/zero");
    place.link("sub/out-again", "../../root-secret");
    place.link("out-hidden", "..");
    place
}

#[track_caller]
fn expect_nothing_of_the_outside(answer: &Answer) {
    let text = answer.text();
    assert!(
        !text.contains(SECRET) && !text.contains("root:") && !text.contains("0123456789"),
        "{}{text}",
        answer.head.text()
    );
    answer.expect_refusal_among(&[400, 404]);
}

#[test]
fn no_target_leaves_the_directory() {
    let place = with_links_out();
    let ways = ways_out(&place);
    assert!(ways.len() >= 40);
    // As they are, to a device whose gateway lets everything through.
    let mut links = Links::of(&place);
    each_row(
        &ways,
        |transport| format!("over the link {transport:?}"),
        |transport| {
            expect_nothing_of_the_outside(&links.ask(&get(transport)));
            assert!(
                !links
                    .ask(&format!("HEAD {transport} HTTP/1.1\r\nHost: a\r\n\r\n"))
                    .head
                    .start
                    .contains(" 200 ")
            );
        },
    );
    links.ask(&get("/a.txt")).expect_ok("0123456789");
    links.ask(&get("http://elsewhere.example/a.txt")).expect_ok("0123456789");
    // And from a visitor.
    let site = place.serve(&[]);
    each_row(
        &ways,
        |transport| format!("a visitor's {transport:?}"),
        |transport| match transport.starts_with('/') {
            true => expect_nothing_of_the_outside(&site.get(transport)),
            false => expect_nothing_of_the_outside(&site.gateway.get(transport)),
        },
    );
    site.get("/a.txt").expect_ok("0123456789");
}

#[test]
fn links_that_stay_inside_are_followed() {
    let place = Permit::new();
    place.link("by-name", "a.txt");
    place.link("by-dots", "sub/../a.txt");
    place.link("sub/up", "../a.txt");
    place.link("absolute", place.root().canonicalize().unwrap().join("a.txt"));
    place.link("folder", "sub");
    place.link("folder-absolute", place.root().canonicalize().unwrap().join("sub/deep"));
    place.link("twice", "folder/up");
    place.link("loop", "loop");
    let site = place.serve(&[]);
    for target in ["/by-name", "/by-dots", "/sub/up", "/absolute", "/folder/up", "/twice"] {
        site.get(target).expect_ok("0123456789");
    }
    site.get("/folder/").expect_ok("<h1>sub</h1>");
    site.get("/folder-absolute/c.txt").expect_ok("c");
    assert_eq!(site.get("/folder").head.get("location"), Some("./folder/"));
    site.get("/loop").expect_refusal(404);
}

#[test]
fn a_link_that_is_swapped_between_two_requests_is_judged_anew() {
    let place = Permit::new();
    place.link("current", "a.txt");
    place.link("folder", "sub");
    let site = place.serve(&[]);
    let root = site.place.root();
    let swap = |name: &str, target: &str| {
        symlink(target, root.join("next")).unwrap();
        fs::rename(root.join("next"), root.join(name)).unwrap();
    };
    for _ in 0..5 {
        site.get("/current").expect_ok("0123456789");
        site.get("/folder/b.txt").expect_ok("b");
        swap("current", "../secret");
        swap("folder", "../outside");
        site.get("/current").expect_refusal(404);
        site.get("/folder/secret").expect_refusal(404);
        swap("current", "sub/b.txt");
        site.get("/current").expect_ok("b");
        swap("current", "a.txt");
        swap("folder", "sub");
    }
    // A real folder gives way to a link.
    fs::rename(root.join("sub"), root.join("kept")).unwrap();
    symlink("../outside", root.join("sub")).unwrap();
    site.get("/sub/secret").expect_refusal(404);
}

#[test]
fn the_directory_is_the_one_that_was_opened() {
    let site = Permit::new().serve(&[]);
    let (root, moved) = (site.place.root(), site.place.dir.0.join("moved"));
    fs::rename(&root, &moved).unwrap();
    fs::rename(site.place.dir.0.join("outside"), &root).unwrap();
    site.get("/a.txt").expect_ok("0123456789");
    site.get("/secret").expect_refusal(404);
    fs::rename(&root, site.place.dir.0.join("outside")).unwrap();
    fs::rename(&moved, &root).unwrap();
}

#[test]
fn what_is_no_regular_file_is_absent_and_blocks_nobody() {
    if !need("mkfifo") {
        return;
    }
    let place = Permit::new();
    let pipe = place.root().join("pipe.txt");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    fs::create_dir(place.root().join("pipes")).unwrap();
    assert!(
        Command::new("mkfifo")
            .arg(place.root().join("pipes/index.html"))
            .status()
            .unwrap()
            .success()
    );
    let _socket = std::os::unix::net::UnixListener::bind(place.root().join("socket.txt")).unwrap();
    place.link("to-pipe.txt", "pipe.txt");
    place.link("null.txt", "/dev/null");
    let site = place.serve(&["--links", "1..1"]);
    for target in [
        "/pipe.txt",
        "/pipes/",
        "/to-pipe.txt",
        "/socket.txt",
        "/null.txt",
        "/pipe.txt/",
        "/socket.txt/x",
    ] {
        site.get(target).expect_refusal(404);
        assert_eq!(site.ask("HEAD", target, "").status(), 404);
    }
    site.get("/a.txt").expect_ok("0123456789");
}

#[test]
fn what_may_not_be_read_is_403_and_says_no_more() {
    let place = Permit::new();
    for (name, mode) in [("closed.txt", 0o000), ("closed/in.txt", 0o644), ("entered/in.txt", 0o644)]
    {
        place.write(name, SECRET);
        fs::set_permissions(place.root().join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let gateway = Gateway::start(&[]);
    // As nobody where the tests run as root, to whom nothing is closed; with a copy of the program
    // where nobody may run it.
    let program = place.dir.0.join("ptth");
    fs::copy(env!("CARGO_BIN_EXE_ptth"), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    for (name, mode) in [("closed", 0o000), ("entered", 0o711)] {
        fs::set_permissions(place.root().join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut command = Command::new(&program);
    command.args(["device", &gateway.device_url("lamp"), "--dir"]).arg(place.root());
    if fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0) {
        command.uid(65534).gid(65534);
    }
    let device = Process::start(&mut command);
    assert!(device.line().starts_with("connected lamp"));
    for target in ["/closed.txt", "/closed/in.txt", "/closed/none.txt", "/closed/"] {
        let answer = gateway.get(&format!("/lamp{target}"));
        answer.expect_refusal(403);
        assert!(
            !answer.text().contains(place.dir.0.to_str().unwrap()),
            "a path of this machine: {}",
            answer.text()
        );
    }
    gateway.get("/lamp/entered/in.txt").expect_ok(SECRET);
    gateway.get("/lamp/a.txt").expect_ok("0123456789");
    fs::set_permissions(place.root().join("closed"), fs::Permissions::from_mode(0o755)).unwrap(); // so that it can be removed
}
