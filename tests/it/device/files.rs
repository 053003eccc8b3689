//! `ptth device --dir`: a directory's files, asked for by visitors, by curl, and over raw links
//! that no gateway of ours has looked at first.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reverse_http::{Body, Device};

use crate::support::process::get;
use crate::support::raw::find;
use crate::support::{
    Answer, Gateway, Hash, Head, Process, Ptth, RawGateway, RawPeer, TempDir, each_row, need,
    pattern, say,
};

const SECRET: &str = "the secret outside";
/// 2020-01-01, in seconds: files that are older than this second have dates that conditions can
/// rely on.
const THEN: u64 = 1_577_836_800;
const THEN_DATE: &str = "Wed, 01 Jan 2020 00:00:00 GMT";

/// A directory `root` to serve, and beside it what must never be served.
struct Permit {
    dir: TempDir,
}

impl Permit {
    fn new() -> Permit {
        let dir = TempDir::new("files");
        fs::create_dir_all(dir.0.join("root/sub/deep")).unwrap();
        fs::create_dir_all(dir.0.join("outside")).unwrap();
        for path in ["secret", "outside/secret", "root-secret"] {
            fs::write(dir.0.join(path), SECRET).unwrap();
        }
        let place = Permit { dir };
        place.write("index.html", "<h1>home</h1>");
        place.write("a.txt", "0123456789");
        place.write("sub/index.html", "<h1>sub</h1>");
        place.write("sub/b.txt", "b");
        place.write("sub/deep/c.txt", "c");
        place
    }

    fn root(&self) -> PathBuf {
        self.dir.0.join("root")
    }

    /// Writes a file of the year 2020.
    fn write(&self, name: impl AsRef<Path>, text: impl AsRef<[u8]>) {
        let path = self.root().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut file = fs::File::create(path).unwrap();
        file.write_all(text.as_ref()).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(THEN)).unwrap();
    }

    fn link(&self, name: &str, target: impl AsRef<Path>) {
        symlink(target, self.root().join(name)).unwrap();
    }

    fn serve(self, more: &[&str]) -> Site {
        let gateway = Gateway::start(&[]);
        let device = Ptth::device(
            &gateway,
            "lamp",
            &[&["--dir", self.root().to_str().unwrap()], more].concat(),
        );
        Site { place: self, gateway, device }
    }
}

/// A directory on its way to visitors.
struct Site {
    place: Permit,
    gateway: Gateway,
    device: Process,
}

impl Site {
    fn get(&self, target: &str) -> Answer {
        self.gateway.get(&format!("/lamp{target}"))
    }

    /// A request with fields, each with its CRLF.
    fn ask(&self, method: &str, target: &str, fields: &str) -> Answer {
        self.gateway
            .visitor()
            .ask(&format!("{method} /lamp{target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
    }

    fn url(&self, target: &str) -> String {
        format!("http://{}/lamp{target}", self.gateway.visitors)
    }
}

/// Links of a device to a gateway that is the test itself, so that targets arrive as they are.
struct Links {
    gateway: RawGateway,
    link: Option<RawPeer>,
    _device: Process,
}

impl Links {
    fn of(place: &Permit) -> Links {
        let gateway = RawGateway::start();
        let dir = place.root();
        let device = Ptth::start(&[
            "device",
            &gateway.url("lamp"),
            "--dir",
            dir.to_str().unwrap(),
            "--links",
            "1..1",
            "--backoff",
            "10ms..20ms",
        ]);
        Links { gateway, link: None, _device: device }
    }

    fn ask(&mut self, request: &str) -> Answer {
        let link = self.link.get_or_insert_with(|| self.gateway.turn());
        let answer = link.ask(request);
        if answer.head.closes() {
            self.link = None;
        }
        answer
    }
}

// ── what is served ──

#[test]
fn files_are_served_by_their_names() {
    let place = Permit::new();
    let kinds = [
        ("x.html", "text/html; charset=utf-8"),
        ("x.css", "text/css; charset=utf-8"),
        ("x.js", "text/javascript; charset=utf-8"),
        ("x.mjs", "text/javascript; charset=utf-8"),
        ("x.json", "application/json"),
        ("x.svg", "image/svg+xml"),
        ("x.PNG", "image/png"),
        ("x.jpg", "image/jpeg"),
        ("x.webp", "image/webp"),
        ("x.avif", "image/avif"),
        ("x.ico", "image/x-icon"),
        ("x.wasm", "application/wasm"),
        ("x.pdf", "application/pdf"),
        ("x.txt", "text/plain; charset=utf-8"),
        ("x.md", "text/markdown; charset=utf-8"),
        ("x.xml", "application/xml"),
        ("x.mp4", "video/mp4"),
        ("x.webm", "video/webm"),
        ("x.mp3", "audio/mpeg"),
        ("x.woff2", "font/woff2"),
        ("x.zip", "application/zip"),
        ("x.tar.gz", "application/gzip"),
        ("x.unheard-of", "application/octet-stream"),
        ("README", "application/octet-stream"),
    ];
    for (name, _) in kinds {
        place.write(name, name);
    }
    let site = place.serve(&[]);
    let mut visitor = site.gateway.visitor();
    for (name, kind) in kinds {
        let answer = visitor.ask(&get(&format!("/lamp/{name}")));
        answer.expect_ok(name);
        for (field, value) in [
            ("content-type", kind),
            ("x-content-type-options", "nosniff"),
            ("accept-ranges", "bytes"),
            ("last-modified", THEN_DATE),
        ] {
            assert_eq!(answer.head.get(field), Some(value), "{name}: {}", answer.head.text());
        }
        let tag = answer.head.get("etag").unwrap();
        assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() > 4, "a strong tag: {tag}");
    }
}

#[test]
fn names_may_have_any_bytes_and_stay_what_they_are() {
    let place = Permit::new();
    // What is asked for, and the name it has to be.
    let rows: [(&str, &[u8]); 9] = [
        ("/a%20b.txt", b"a b.txt"),
        ("/%e4%b8%ad.txt", "中.txt".as_bytes()),
        ("/%ff%fe.txt", b"\xff\xfe.txt"),
        ("/100%25.txt", b"100%.txt"),
        ("/%2541.txt", b"%41.txt"),
        ("/q%3Fx%23y.txt", b"q?x#y.txt"),
        ("/plus+.txt", b"plus+.txt"),
        ("/co:lon;a=b.txt", b"co:lon;a=b.txt"),
        ("/line%0Abreak.txt", b"line\nbreak.txt"),
    ];
    for (target, name) in rows {
        place.write(OsStr::from_bytes(name), target);
    }
    let site = place.serve(&[]);
    for (target, _) in rows {
        site.get(target).expect_ok(target);
        site.get(&format!("{target}?v=1&x=/../y")).expect_ok(target);
    }
    site.get("/a%2Etxt?").expect_ok("0123456789");
    site.get("/%41.txt").expect_refusal(404);
}

#[test]
fn folders_are_their_index_and_are_never_listed() {
    let place = Permit::new();
    fs::create_dir(place.root().join("c:d e")).unwrap();
    place.write("c:d e/index.html", "colon");
    fs::create_dir_all(place.root().join("odd/index.html")).unwrap();
    let site = place.serve(&[]);
    let answer = site.get("/");
    answer.expect_ok("<h1>home</h1>");
    assert_eq!(answer.head.get("content-type"), Some("text/html; charset=utf-8"));
    site.get("/sub/").expect_ok("<h1>sub</h1>");
    site.get("/sub/?x").expect_ok("<h1>sub</h1>");
    site.get("/sub/index.html").expect_ok("<h1>sub</h1>");
    for target in ["/sub/deep/", "/odd/", "/a.txt/", "/none/", "/none", "/sub/none"] {
        let answer = site.get(target);
        answer.expect_refusal(404);
        assert!(!answer.text().contains("c.txt"), "a listing: {}", answer.text());
    }
    // The visitor's address has a prefix that the device does not see: the way to the slash is
    // relative.
    for (target, location) in [
        ("/sub", "./sub/"),
        ("/sub?x=1", "./sub/?x=1"),
        ("/sub/deep", "./deep/"),
        ("/c:d%20e", "./c%3Ad%20e/"),
        ("/odd/index.html", "./index.html/"),
    ] {
        let answer = site.get(target);
        answer.expect_refusal(301);
        assert_eq!(answer.head.get("location"), Some(location), "{target}");
    }
}

#[test]
fn hidden_files_are_absent_but_the_well_known() {
    let place = Permit::new();
    for name in [
        ".env",
        ".git/config",
        "sub/.htpasswd",
        ".well-known/security.txt",
        ".well-known/.x",
        "sub/.well-known/x",
    ] {
        place.write(name, "dotted");
    }
    let site = place.serve(&[]);
    site.get("/.well-known/security.txt").expect_ok("dotted");
    for target in [
        "/.env",
        "/%2eenv",
        "/.git/config",
        "/.git/",
        "/.git",
        "/sub/.htpasswd",
        "/sub/%2Ehtpasswd",
        "/.well-known/.x",
        "/sub/.well-known/x",
        "/.well-known/",
    ] {
        site.get(target).expect_refusal(404);
    }
}

#[test]
fn only_get_and_head_are_taken() {
    let site = Permit::new().serve(&[]);
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "TRACE"] {
        let length =
            if matches!(method, "POST" | "PUT" | "PATCH") { "Content-Length: 0\r\n" } else { "" };
        let answer = site.ask(method, "/a.txt", length);
        answer.expect_refusal_among(&[405]);
        assert_eq!(answer.head.get("allow"), Some("GET, HEAD"), "{method}");
        assert_eq!(site.ask(method, "/none", length).status(), 405, "{method}");
    }
    // A body with a GET means nothing, and is not taken for the next request.
    let mut visitor = site.gateway.visitor();
    visitor
        .ask("GET /lamp/a.txt HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
        .expect_ok("0123456789");
    site.get("/a.txt").expect_ok("0123456789");
}

#[test]
fn head_has_the_headers_of_get() {
    let place = Permit::new();
    place.write("empty", "");
    let mut links = Links::of(&place);
    let fields = |answer: &Answer| -> Vec<(String, String)> {
        let fields =
            answer.head.fields.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("date"));
        fields.cloned().collect()
    };
    for (target, more) in [
        ("/a.txt", ""),
        ("/", ""),
        ("/empty", ""),
        ("/sub", ""),
        ("/none", ""),
        ("/%zz", ""),
        ("/a.txt", "If-Modified-Since: Thu, 01 Jan 2026 00:00:00 GMT\r\n"),
        ("/a.txt", "If-Match: \"x\"\r\n"),
    ] {
        let whole = links.ask(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n{more}\r\n"));
        let head = links.ask(&format!("HEAD {target} HTTP/1.1\r\nHost: a\r\n{more}\r\n"));
        assert_eq!(head.head.start, whole.head.start, "{target}");
        assert_eq!(fields(&head), fields(&whole), "{target} {more}");
        assert!(head.body.is_empty());
    }
    // A range is GET's alone (RFC 9110 §14.2).
    let head = links.ask("HEAD /a.txt HTTP/1.1\r\nHost: a\r\nRange: bytes=0-1\r\n\r\n");
    assert_eq!(
        (head.status(), head.head.get("content-length"), head.head.get("content-range")),
        (200, Some("10"), None)
    );
}

// ── conditions and ranges ──

#[test]
fn conditions_are_obeyed_on_the_wire() {
    let site = Permit::new().serve(&[]);
    let tag = site.get("/a.txt").head.get("etag").unwrap().to_owned();
    let rows = [
        (format!("If-None-Match: {tag}\r\n"), 304),
        (format!("If-None-Match: W/{tag}\r\n"), 304),
        (format!("If-None-Match: \"x\", {tag}\r\n"), 304),
        ("If-None-Match: *\r\n".to_owned(), 304),
        ("If-None-Match: \"x\"\r\n".to_owned(), 200),
        (format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {THEN_DATE}\r\n"), 200),
        (format!("If-Modified-Since: {THEN_DATE}\r\n"), 304),
        ("If-Modified-Since: Tue, 31 Dec 2019 23:59:59 GMT\r\n".to_owned(), 200),
        ("If-Modified-Since: yesterday\r\n".to_owned(), 200),
        (format!("If-Match: {tag}\r\n"), 200),
        (format!("If-Match: W/{tag}\r\n"), 412),
        ("If-Match: \"x\"\r\n".to_owned(), 412),
        ("If-Match: *\r\n".to_owned(), 200),
        (format!("If-Unmodified-Since: {THEN_DATE}\r\n"), 200),
        ("If-Unmodified-Since: Tue, 31 Dec 2019 23:59:59 GMT\r\n".to_owned(), 412),
        (format!("If-Match: \"x\"\r\nIf-None-Match: {tag}\r\n"), 412),
        ("If-Match: \"x\"\r\nRange: bytes=0-1\r\n".to_owned(), 412),
        (format!("If-None-Match: {tag}\r\nRange: bytes=0-1\r\n"), 304),
        (format!("If-None-Match: {tag}\r\nRange: bytes=90-\r\n"), 304),
    ];
    for (fields, status) in &rows {
        let answer = site.ask("GET", "/a.txt", fields);
        assert_eq!(answer.status(), *status, "{fields}");
        match status {
            200 => answer.expect_ok("0123456789"),
            304 => {
                assert_eq!(
                    (answer.head.get("etag"), answer.body.len()),
                    (Some(tag.as_str()), 0),
                    "{fields}"
                );
                assert_eq!(answer.head.get("last-modified"), Some(THEN_DATE));
            }
            status => answer.expect_refusal(*status),
        }
    }
    site.ask("GET", "/none", "If-Match: *\r\n").expect_refusal(404);
}

#[test]
fn a_changed_file_has_another_tag() {
    let site = Permit::new().serve(&[]);
    let root = site.place.root();
    let tag = || site.get("/a.txt").head.get("etag").unwrap().to_owned();
    let first = tag();
    assert_eq!(tag(), first);
    let file = fs::File::options().write(true).open(root.join("a.txt")).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(THEN) + Duration::from_nanos(10)).unwrap();
    let second = tag();
    assert_ne!(second, first, "a change of nanoseconds");
    // Another file of the same size and time in its place.
    let before = file.metadata().unwrap();
    site.place.write("new", "9876543210");
    fs::File::options()
        .write(true)
        .open(root.join("new"))
        .unwrap()
        .set_modified(before.modified().unwrap())
        .unwrap();
    fs::rename(root.join("new"), root.join("a.txt")).unwrap();
    assert_ne!(fs::metadata(root.join("a.txt")).unwrap().ino(), before.ino());
    assert_ne!(tag(), second);
    assert_eq!(site.ask("GET", "/a.txt", &format!("If-None-Match: {second}\r\n")).status(), 200);
}

#[test]
fn ranges_are_parts_of_the_file() {
    let place = Permit::new();
    place.write("empty", "");
    let site = place.serve(&[]);
    let tag = site.get("/a.txt").head.get("etag").unwrap().to_owned();
    let (old, whole) = ("Tue, 31 Dec 2019 23:59:59 GMT", ("0123456789", ""));
    let rows: Vec<(String, u16, (&str, &str))> = vec![
        ("Range: bytes=0-3\r\n".into(), 206, ("0123", "bytes 0-3/10")),
        ("Range: bytes=4-\r\n".into(), 206, ("456789", "bytes 4-9/10")),
        ("Range: bytes=9-9\r\n".into(), 206, ("9", "bytes 9-9/10")),
        ("Range: bytes=5-500\r\n".into(), 206, ("56789", "bytes 5-9/10")),
        ("Range: bytes=-3\r\n".into(), 206, ("789", "bytes 7-9/10")),
        ("Range: bytes=-300\r\n".into(), 206, ("0123456789", "bytes 0-9/10")),
        (format!("Range: bytes=0-3\r\nIf-Range: {tag}\r\n"), 206, ("0123", "bytes 0-3/10")),
        (format!("Range: bytes=0-3\r\nIf-Range: {THEN_DATE}\r\n"), 206, ("0123", "bytes 0-3/10")),
        (format!("Range: bytes=0-3\r\nIf-Match: {tag}\r\n"), 206, ("0123", "bytes 0-3/10")),
        ("Range: bytes=10-\r\n".into(), 416, ("", "bytes */10")),
        ("Range: bytes=99999999999999999999-\r\n".into(), 416, ("", "bytes */10")),
        ("Range: bytes=-0\r\n".into(), 416, ("", "bytes */10")),
        (format!("Range: bytes=10-\r\nIf-Range: {tag}\r\n"), 416, ("", "bytes */10")),
        ("Range: bytes=10-\r\nIf-Range: \"x\"\r\n".into(), 200, whole),
        ("Range: bytes=0-3\r\nIf-Range: \"x\"\r\n".into(), 200, whole),
        (format!("Range: bytes=0-3\r\nIf-Range: W/{tag}\r\n"), 200, whole),
        (format!("Range: bytes=0-3\r\nIf-Range: {old}\r\n"), 200, whole),
        ("Range: bytes=0-1,4-5\r\n".into(), 200, whole),
        (format!("Range: bytes={}\r\n", "0-,".repeat(1000)), 200, whole),
        ("Range: bytes=3-1\r\n".into(), 200, whole),
        ("Range: bytes=a-b\r\n".into(), 200, whole),
        ("Range: bytes=-\r\n".into(), 200, whole),
        ("Range: lines=0-1\r\n".into(), 200, whole),
        ("Range: bytes=0-1\r\nRange: bytes=2-3\r\n".into(), 200, whole),
    ];
    for (fields, status, (body, part)) in &rows {
        let answer = site.ask("GET", "/a.txt", fields);
        assert_eq!(answer.status(), *status, "{fields}");
        assert_eq!(answer.head.get("content-range").unwrap_or_default(), *part, "{fields}");
        match status {
            416 => answer.expect_refusal(416),
            _ => {
                assert_eq!(answer.text(), *body, "{fields}");
                assert_eq!(answer.head.get("etag"), Some(tag.as_str()));
                assert_eq!(answer.head.get("content-type"), Some("text/plain; charset=utf-8"));
            }
        }
    }
    assert_eq!(
        site.ask("GET", "/empty", "Range: bytes=0-\r\n").head.get("content-range"),
        Some("bytes */0")
    );
    site.ask("GET", "/empty", "Range: bytes=-1\r\n").expect_ok("");
    assert_eq!(site.ask("HEAD", "/a.txt", "Range: bytes=90-\r\n").status(), 200);
}

// ── what is not served ──

/// Targets that lead out, or would if somebody decoded, resolved or joined them carelessly.
fn ways_out(place: &Permit) -> Vec<String> {
    let outside = place.dir.0.join("secret");
    let outside = outside.to_str().unwrap();
    let up = "../".repeat(12);
    let mut ways: Vec<String> = [
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
    ]
    .map(str::to_owned)
    .to_vec();
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

// ── files that change, and large ones ──

/// More than all buffers on the way hold.
const LARGE: u64 = 64 << 20;

fn with_large() -> Site {
    let place = Permit::new();
    fs::File::create(place.root().join("large")).unwrap().set_len(LARGE).unwrap();
    place.serve(&[])
}

#[test]
fn a_file_that_shrinks_while_it_is_served_aborts_the_message() {
    let site = with_large();
    let mut visitor = site.gateway.visitor();
    visitor.write(get("/lamp/large"));
    assert!(visitor.stirs_within(Duration::from_secs(10)));
    fs::File::options()
        .write(true)
        .open(site.place.root().join("large"))
        .unwrap()
        .set_len(1000)
        .unwrap();
    let cut = visitor
        .read_answer_or_cut("GET")
        .expect_err("an answer that is not whole must not look whole");
    let head = cut.head.unwrap();
    assert_eq!(head.get("content-length"), Some(LARGE.to_string().as_str()));
    assert!((cut.body.len() as u64) < LARGE, "padded");
    site.get("/large").expect_ok(vec![0; 1000]);
}

#[test]
fn a_file_that_grows_while_it_is_served_is_cut_at_its_announced_length() {
    let site = with_large();
    let mut visitor = site.gateway.visitor();
    visitor.write(get("/lamp/large"));
    assert!(visitor.stirs_within(Duration::from_secs(10)));
    fs::File::options()
        .append(true)
        .open(site.place.root().join("large"))
        .unwrap()
        .write_all(b"and more")
        .unwrap();
    let answer = visitor.read_answer("GET");
    assert_eq!((answer.status(), answer.body.len() as u64), (200, LARGE));
    assert!(answer.body.iter().all(|byte| *byte == 0));
    // The connection goes on where the message ended.
    let answer = visitor.ask("GET /lamp/large HTTP/1.1\r\nHost: a\r\nRange: bytes=-8\r\n\r\n");
    assert_eq!((answer.status(), answer.text().as_str()), (206, "and more"));
}

#[test]
fn a_file_that_is_replaced_while_it_is_served_is_sent_as_it_was() {
    let site = with_large();
    let root = site.place.root();
    let mut visitor = site.gateway.visitor();
    visitor.write(get("/lamp/large"));
    assert!(visitor.stirs_within(Duration::from_secs(10)));
    site.place.write("new", "new");
    fs::rename(root.join("new"), root.join("large")).unwrap();
    let answer = visitor.read_answer("GET");
    assert_eq!((answer.status(), answer.body.len() as u64), (200, LARGE));
    visitor.ask(&get("/lamp/large")).expect_ok("new");
}

#[test]
fn a_large_file_takes_no_memory_of_the_device() {
    const SIZE: usize = 50_000_000;
    let place = Permit::new();
    place.write("large.bin", pattern(SIZE));
    let site = place.serve(&[]);
    for _ in 0..20 {
        site.get("/a.txt").expect_ok("0123456789");
    }
    let before = site.device.resident_kib();
    let mut most = before;
    let mut visitor = site.gateway.visitor();
    visitor.write(get("/lamp/large.bin"));
    let head = visitor.read_head();
    assert_eq!((head.status(), head.get("content-length")), (200, Some(SIZE.to_string().as_str())));
    let (mut hash, mut sampled) = (Hash::default(), 0);
    visitor.read_through(SIZE as u64, |bytes| {
        hash.update(bytes);
        if hash.len - sampled > 1_000_000 {
            sampled = hash.len;
            most = most.max(site.device.resident_kib());
        }
    });
    assert_eq!(hash.finish(), Hash::of_pattern(SIZE as u64));
    let growth = most.saturating_sub(before);
    say(&format!(
        "a file of 50 MB: the device's resident memory went from {before} KiB to at most {most} KiB (+{growth} KiB)"
    ));
    assert!(growth < 8 * 1024, "{growth} KiB more");
}

// ── curl ──

/// Runs curl to a good end; what it wrote to its standard output.
#[track_caller]
fn curl(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("curl")
        .args(["-sS", "--noproxy", "*", "--max-time", "20"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "curl {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

#[test]
fn curl_resumes_a_download() {
    if !need("curl") {
        return;
    }
    let place = Permit::new();
    let bytes = pattern(3_000_000);
    place.write("large.bin", &bytes);
    let site = place.serve(&[]);
    let down = site.place.dir.0.join("down");
    for there in [1, 65_536, 1_234_567, bytes.len() - 1] {
        fs::write(&down, &bytes[..there]).unwrap();
        let said = curl(&[
            "-C",
            "-",
            "-o",
            down.to_str().unwrap(),
            "-w",
            "%{http_code} %{size_download}",
            &site.url("/large.bin"),
        ]);
        assert_eq!(String::from_utf8_lossy(&said), format!("206 {}", bytes.len() - there));
        assert_eq!(Hash::of(&fs::read(&down).unwrap()), Hash::of(&bytes), "resumed at {there}");
    }
    assert_eq!(curl(&["-r", "10-19", &site.url("/large.bin")]), &bytes[10..20]);
    assert_eq!(curl(&["-r", "-5", &site.url("/large.bin")]), &bytes[bytes.len() - 5..]);
}

#[test]
fn curl_finds_its_way_and_asks_again_only_for_what_is_new() {
    if !need("curl") {
        return;
    }
    let site = Permit::new().serve(&[]);
    let code = |arguments: &[&str]| {
        let answer = curl(&[&["-o", "/dev/null", "-w", "%{http_code}"], arguments].concat());
        String::from_utf8_lossy(&answer).into_owned()
    };
    assert_eq!(
        curl(&["-L", &site.url("/sub")]),
        b"<h1>sub</h1>",
        "the relative way to the slash, behind the gateway's prefix"
    );
    assert_eq!(curl(&["-L", &site.url("")]), b"<h1>home</h1>");
    assert_eq!(code(&["--path-as-is", &site.url("/../secret")]), "400", "the gateway's own");
    assert_eq!(code(&["--path-as-is", &site.url("/..%2fsecret")]), "404");
    assert_eq!(Head::parse(&curl(&["-I", &site.url("/a.txt")])).get("content-length"), Some("10"));
    let tag = site.place.dir.0.join("tag");
    let (tag, url) = (tag.to_str().unwrap(), site.url("/a.txt"));
    assert_eq!(code(&["--etag-save", tag, &url]), "200");
    assert_eq!(code(&["--etag-compare", tag, &url]), "304");
    let down = site.place.dir.0.join("down");
    assert_eq!(curl(&["-R", "-o", down.to_str().unwrap(), "-w", "%{http_code}", &url]), b"200");
    assert_eq!(
        fs::metadata(&down).unwrap().modified().unwrap(),
        UNIX_EPOCH + Duration::from_secs(THEN)
    );
    assert_eq!(code(&["-z", down.to_str().unwrap(), &url]), "304");
    site.place.write("a.txt", "changed");
    fs::File::options()
        .write(true)
        .open(site.place.root().join("a.txt"))
        .unwrap()
        .set_modified(SystemTime::now())
        .unwrap();
    assert_eq!(code(&["-z", down.to_str().unwrap(), &url]), "200");
    assert_eq!(code(&["--etag-compare", tag, &url]), "200");
}

// ── the command and the library ──

#[test]
fn the_directory_comes_from_the_environment_too() {
    let place = Permit::new();
    let gateway = Gateway::start(&[]);
    let mut command = Ptth::command(&["device", &gateway.device_url("lamp")]);
    // Relative to where the command is started.
    let _device = Process::start(command.env("PTTH_DIR", "root/sub").current_dir(&place.dir.0));
    crate::support::eventually("it is served", || {
        (gateway.get("/lamp/b.txt").status() == 200).then_some(())
    });
    gateway.get("/lamp/").expect_ok("<h1>sub</h1>");
    gateway.get("/lamp/a.txt").expect_refusal(404);
}

#[test]
fn files_are_served_over_polls_as_over_links() {
    let place = Permit::new();
    let gateway = Gateway::start(&[]);
    let dir = place.root();
    let device = Ptth::start(&[
        "device",
        &gateway.device_url("lamp"),
        "--dir",
        dir.to_str().unwrap(),
        "--fallback",
        "only",
    ]);
    assert!(device.line().contains("COMET"));
    gateway.get("/lamp/a.txt").expect_ok("0123456789");
    let answer =
        gateway.visitor().ask("GET /lamp/a.txt HTTP/1.1\r\nHost: a\r\nRange: bytes=2-3\r\n\r\n");
    assert_eq!(
        (answer.status(), answer.text().as_str(), answer.head.get("content-range")),
        (206, "23", Some("bytes 2-3/10"))
    );
    gateway.get("/lamp/..%2fsecret").expect_refusal(404);
}

#[test]
fn a_program_serves_a_directory_and_hears_what_is_none() {
    let place = Permit::new();
    let gateway = reverse_http::Gateway::builder().listen("127.0.0.1:0").start().unwrap();
    let device =
        || Device::builder(format!("http://{}/lamp", gateway.devices_addr())).build().unwrap();
    for path in [place.root().join("a.txt"), place.root().join("none")] {
        let error = device().spawn_dir(&path).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert!(device().serve_dir(&path).unwrap_err().is_usage());
    }
    let running = device().spawn_dir(place.root()).unwrap();
    let lamp = gateway.device("lamp");
    lamp.wait(Duration::from_secs(10)).unwrap();
    let ask =
        |request: http::request::Builder| lamp.send(request.body(Body::empty()).unwrap()).unwrap();
    let response = ask(http::Request::get("/a.txt"));
    assert_eq!(response.status(), 200);
    assert_eq!(response.into_body().read_to_text(100).unwrap(), "0123456789");
    let response = ask(http::Request::get("/..%2fsecret"));
    assert_eq!(response.status(), 404);
    let text = response.into_body().read_to_text(100).unwrap();
    assert!(find(text.as_bytes(), SECRET.as_bytes()).is_none());
    assert_eq!(ask(http::Request::post("/a.txt")).status(), 405);
    running.stop();
}
