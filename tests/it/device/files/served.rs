//! What is served, conditions and ranges.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, UNIX_EPOCH};

use super::{Links, Permit, THEN};
use crate::support::Answer;
use crate::support::process::get;

const THEN_DATE: &str = "Wed, 01 Jan 2020 00:00:00 GMT";

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
