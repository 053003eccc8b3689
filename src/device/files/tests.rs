//! The pure parts, accepted beside refused; the walk beneath the root, while links and directories
//! are swapped under it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use super::*;

/// A directory of its own, with `root` to be served and `secret` beside it.
struct TestDir(PathBuf);

impl TestDir {
    fn new() -> TestDir {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let path = std::env::temp_dir().join(format!(
            "ptth-files-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Relaxed)
        ));
        fs::create_dir_all(path.join("root")).unwrap();
        fs::create_dir(path.join("outside")).unwrap();
        fs::write(path.join("outside/secret"), "secret").unwrap();
        TestDir(path.canonicalize().unwrap())
    }

    fn root(&self, name: &str) -> PathBuf {
        self.0.join("root").join(name)
    }

    fn files(&self) -> Files {
        Files::open(&self.root("")).unwrap()
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // a directory left behind in /tmp harms nobody
    }
}

fn asked(files: &Files, target: &str) -> (u16, String) {
    let response = files.answer(&Request::get(target).body(Body::empty()).unwrap());
    (response.status().as_u16(), response.into_body().read_to_text(1000).unwrap())
}

fn names(names: &[&[u8]]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.to_vec()).collect()
}

#[test]
fn paths_are_names_or_nothing() {
    let taken: [(&str, &[&[u8]], bool); 14] = [
        ("/", &[], true),
        ("/a", &[b"a"], false),
        ("/a/", &[b"a"], true),
        ("/a/b.txt", &[b"a", b"b.txt"], false),
        ("/a%20b", &[b"a b"], false),
        ("/%61", &[b"a"], false),
        ("/%c3%A4", &["ä".as_bytes()], false),
        ("/%ff%FE", &[b"\xff\xfe"], false),
        ("/%2561", &[b"%61"], false), // decoded once
        ("/a%3Fb%23", &[b"a?b#"], false),
        ("/a..b/c...", &[b"a..b", b"c..."], false),
        ("/a+b", &[b"a+b"], false), // a plus is a plus in a path
        ("/.well-known/x", &[b".well-known", b"x"], false),
        ("/%2ewell-known/", &[b".well-known"], true),
    ];
    for (path, found, is_folder) in taken {
        assert_eq!(wanted(path), Ok(Wanted { names: names(found), is_folder }), "{path}");
    }
    let absent = [
        "",
        "*",
        "a",
        "//",
        "//a",
        "/a//",
        "/a//b",
        "/.",
        "/..",
        "/./a",
        "/../a",
        "/a/..",
        "/a/../b",
        "/%2e",
        "/%2E%2e/a",
        "/.%2e",
        "/a/%2e./b",
        "/...",
        "/.git/config",
        "/a/.env",
        "/%2eenv",
        "/a/.well-known/x",
        "/.well-known/.x",
        "/a%2fb",
        "/%2F",
        "/..%2f..%2fsecret",
        "/a%5Cb",
        "/a\\b",
        "/%00",
        "/a%00.txt",
        "/%5c..%5c..",
    ];
    for path in absent {
        assert_eq!(wanted(path).map_err(|e| e.status), Err(404), "{path}");
    }
    for path in ["/%", "/a%2", "/%zz", "/%+1", "/%2%65", "/a/%g0/b", "/%é"] {
        assert_eq!(wanted(path).map_err(|e| e.status), Err(400), "{path}");
    }
    assert_eq!(wanted(&"/a".repeat(STEPS_MAX)).map_err(|e| e.status), Err(404));
    assert!(wanted(&"/a".repeat(STEPS_MAX - 1)).is_ok());
}

#[test]
fn a_range_is_one_range_or_none() {
    let part = |first, last| Ranged::Part { first, last };
    let rows: [(&str, u64, Ranged); 38] = [
        ("bytes=0-0", 10, part(0, 0)),
        ("bytes=0-9", 10, part(0, 9)),
        ("bytes=0-99", 10, part(0, 9)),
        ("bytes=9-", 10, part(9, 9)),
        ("bytes=0-", 10, part(0, 9)),
        ("bytes=-1", 10, part(9, 9)),
        ("bytes=-10", 10, part(0, 9)),
        ("bytes=-11", 10, part(0, 9)),
        ("bytes=-99999999999999999999999", 10, part(0, 9)),
        ("bytes=3-99999999999999999999999", 10, part(3, 9)),
        ("bytes=00003-0004", 10, part(3, 4)),
        ("Bytes=1-2", 10, part(1, 2)),
        ("bytes= 1-2 ", 10, part(1, 2)),
        ("bytes=,1-2,", 10, part(1, 2)),
        ("bytes=18446744073709551614-", u64::MAX, part(u64::MAX - 1, u64::MAX - 1)),
        ("bytes=10-", 10, Ranged::Beyond),
        ("bytes=10-20", 10, Ranged::Beyond),
        ("bytes=99999999999999999999999-", 10, Ranged::Beyond),
        ("bytes=-0", 10, Ranged::Beyond),
        ("bytes=0-", 0, Ranged::Beyond),
        ("bytes=0-0", 0, Ranged::Beyond),
        ("bytes=-5", 0, Ranged::Whole),
        ("bytes=5-4", 10, Ranged::Whole),
        ("bytes=50-40", 10, Ranged::Whole),
        ("bytes=", 10, Ranged::Whole),
        ("bytes", 10, Ranged::Whole),
        ("bytes=-", 10, Ranged::Whole),
        ("bytes=--1", 10, Ranged::Whole),
        ("bytes=+1-2", 10, Ranged::Whole),
        ("bytes=1-+2", 10, Ranged::Whole),
        ("bytes=1- 2", 10, Ranged::Whole),
        ("bytes=0x1-2", 10, Ranged::Whole),
        ("bytes=1", 10, Ranged::Whole),
        ("bytes=1-2-3", 10, Ranged::Whole),
        ("bytes=0-1,4-5", 10, Ranged::Whole),
        ("bytes=0-1,90-95", 10, Ranged::Whole),
        ("lines=0-1", 10, Ranged::Whole),
        ("", 10, Ranged::Whole),
    ];
    for (value, size, ranged) in rows {
        assert_eq!(range(value.as_bytes(), size), ranged, "{value:?} of {size}");
    }
}

const DAY: &str = "Wed, 01 Jan 2020 00:00:00 GMT";
const DAY_SECONDS: u64 = 1_577_836_800;
const BEFORE: &str = "Tue, 31 Dec 2019 23:59:59 GMT";
const AFTER: &str = "Wed, 01 Jan 2020 00:00:01 GMT";

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    headers
}

#[test]
fn conditions_are_judged_in_the_order_of_the_rfc() {
    use Condition::{Fails, Holds, NotModified};
    let file = Validators { tag: "\"a\"".to_owned(), modified: Some(DAY_SECONDS) };
    let rows: [(&[(&str, &str)], Condition); 40] = [
        (&[], Holds),
        (&[("if-match", "\"a\"")], Holds),
        (&[("if-match", "*")], Holds),
        (&[("if-match", "\"x\", \"a\"")], Holds),
        (&[("if-match", "\"x\""), ("if-match", "\"a\"")], Holds),
        (&[("if-match", "\"x,\",,\"a\"")], Holds),
        (&[("if-match", "\"b\"")], Fails),
        (&[("if-match", "W/\"a\"")], Fails),
        (&[("if-match", "a")], Fails),
        (&[("if-match", "\"a")], Fails),
        (&[("if-match", "")], Fails),
        (&[("if-none-match", "\"a\"")], NotModified),
        (&[("if-none-match", "W/\"a\"")], NotModified),
        (&[("if-none-match", "*")], NotModified),
        (&[("if-none-match", "W/\"x\" , W/\"a\"")], NotModified),
        (&[("if-none-match", "\"x\",\"a\"")], NotModified),
        (&[("if-none-match", "\"b\"")], Holds),
        (&[("if-none-match", "\"A\"")], Holds),
        (&[("if-none-match", "w/\"a\"")], Holds),
        (&[("if-none-match", "a")], Holds),
        (&[("if-none-match", "\"x, \"a\"")], Holds),
        (&[("if-none-match", "")], Holds),
        (&[("if-modified-since", DAY)], NotModified),
        (&[("if-modified-since", AFTER)], NotModified),
        (&[("if-modified-since", BEFORE)], Holds),
        (&[("if-modified-since", "Wednesday, 01-Jan-20 00:00:00 GMT")], NotModified),
        (&[("if-modified-since", "Wed Jan  1 00:00:00 2020")], NotModified),
        (&[("if-modified-since", "soon")], Holds),
        (&[("if-modified-since", "1577836800")], Holds),
        (&[("if-modified-since", DAY), ("if-modified-since", DAY)], Holds),
        (&[("if-unmodified-since", DAY)], Holds),
        (&[("if-unmodified-since", AFTER)], Holds),
        (&[("if-unmodified-since", BEFORE)], Fails),
        (&[("if-unmodified-since", "never")], Holds),
        // What has a tag beats what has a date.
        (&[("if-match", "\"a\""), ("if-unmodified-since", BEFORE)], Holds),
        (&[("if-match", "\"b\""), ("if-unmodified-since", AFTER)], Fails),
        (&[("if-none-match", "\"b\""), ("if-modified-since", AFTER)], Holds),
        (&[("if-none-match", "\"a\""), ("if-modified-since", BEFORE)], NotModified),
        // 412 comes before 304.
        (&[("if-match", "\"b\""), ("if-none-match", "\"a\"")], Fails),
        (&[("if-match", "\"a\""), ("if-none-match", "\"a\"")], NotModified),
    ];
    for (fields, condition) in rows {
        assert_eq!(file.judge(&headers(fields)), condition, "{fields:?}");
    }
    let dateless = Validators { modified: None, ..file };
    assert_eq!(dateless.judge(&headers(&[("if-modified-since", AFTER)])), Holds);
    assert_eq!(dateless.judge(&headers(&[("if-unmodified-since", BEFORE)])), Holds);
}

#[test]
fn a_range_needs_the_file_it_is_of() {
    let file = Validators { tag: "\"a\"".to_owned(), modified: Some(DAY_SECONDS) };
    let at = |second| UNIX_EPOCH + Duration::from_secs(second);
    let later = at(DAY_SECONDS + 1);
    let rows: [(&[(&str, &str)], bool); 9] = [
        (&[], true),
        (&[("if-range", "\"a\"")], true),
        (&[("if-range", "\"b\"")], false),
        (&[("if-range", "W/\"a\"")], false),
        (&[("if-range", "\"a\""), ("if-range", "\"a\"")], false),
        (&[("if-range", DAY)], true),
        (&[("if-range", BEFORE)], false),
        (&[("if-range", AFTER)], false),
        (&[("if-range", "*")], false),
    ];
    for (fields, allowed) in rows {
        assert_eq!(file.allow_range(&headers(fields), later), allowed, "{fields:?}");
    }
    assert!(
        !file.allow_range(&headers(&[("if-range", DAY)]), at(DAY_SECONDS)),
        "it may change once more within this second"
    );
}

#[test]
fn dates_that_cannot_be_written_are_left_out() {
    let dir = TestDir::new();
    let date = |second: i64| {
        let file = File::create(dir.root("f")).unwrap();
        let time = match u64::try_from(second) {
            Ok(second) => UNIX_EPOCH + Duration::from_secs(second),
            Err(_) => UNIX_EPOCH - Duration::from_secs(second.unsigned_abs()),
        };
        file.set_modified(time).unwrap();
        let response = dir.files().answer(&Request::get("/f").body(Body::empty()).unwrap());
        assert_eq!(response.status(), 200);
        response
            .headers()
            .get(header::LAST_MODIFIED)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(date(DAY_SECONDS as i64).as_deref(), Some(DAY));
    assert_eq!(date(0).as_deref(), Some("Thu, 01 Jan 1970 00:00:00 GMT"));
    assert_eq!(date(-1), None);
    let future = date(4_000_000_000).expect("now, instead of a date that is still to come");
    assert!(httpdate::parse_http_date(&future).unwrap() <= SystemTime::now());
}

#[test]
fn types_go_by_the_ending() {
    for (name, kind) in [
        ("index.html", "text/html; charset=utf-8"),
        ("A.HTML", "text/html; charset=utf-8"),
        ("a.b.mjs", "text/javascript; charset=utf-8"),
        ("a.tar.gz", "application/gzip"),
        ("a.svg", "image/svg+xml"),
        ("a.woff2", "font/woff2"),
        (".html", "text/html; charset=utf-8"),
        ("html", UNKNOWN),
        ("a.", UNKNOWN),
        ("a.html ", UNKNOWN),
        ("a.js mjs", UNKNOWN),
        ("", UNKNOWN),
    ] {
        assert_eq!(content_type(name.as_bytes()), kind, "{name:?}");
    }
}

/// Symbolic links inside the directory, out of it, and nowhere: name and target.
fn links_in(dir: &TestDir) -> Vec<(&'static str, String)> {
    let absolute = |name: &str| dir.root(name).to_str().unwrap().to_owned();
    vec![
        ("to-f", "f".to_owned()),
        ("to-f-about", "a/../f".to_owned()),
        ("to-f-and-about", "./a/b/./../../f".to_owned()),
        ("to-b", "a/b".to_owned()),
        ("a/up-to-f", "../f".to_owned()),
        ("a/b/to-index", "../index.html".to_owned()),
        ("chain", "to-b/../up-to-f".to_owned()), // `..` of what the link leads to: a, not the root
        ("absolute", absolute("f")),
        ("absolute-folder", absolute("a")),
        ("a/b/absolute-and-up", absolute("a/../f")),
        ("itself", ".".to_owned()),
        ("loop", "loop".to_owned()),
        ("ping", "pong/x".to_owned()),
        ("pong", "ping/x".to_owned()),
        ("dangling", "nothing".to_owned()),
        ("through-a-file", "f/../f".to_owned()),
        ("out", "../outside/secret".to_owned()),
        ("out-folder", "../outside".to_owned()),
        ("out-and-in", "../root/f".to_owned()),
        ("over-the-top", "../f".to_owned()), // the root is not its own parent
        ("out-absolute", dir.0.join("outside/secret").to_str().unwrap().to_owned()),
        ("out-by-dots", format!("{}/../outside/secret", absolute(""))),
        ("out-beside", format!("{}-beside/f", absolute("").trim_end_matches('/'))),
        ("out-proc", "/proc/self/root/etc/passwd".to_owned()),
        ("top", "/".to_owned()),
        ("a/out-chain", "../out-folder/secret".to_owned()),
    ]
}

#[test]
fn links_are_followed_inside_and_not_out() {
    let dir = TestDir::new();
    fs::create_dir_all(dir.root("a/b")).unwrap();
    fs::write(dir.root("f"), "f").unwrap();
    fs::write(dir.root("a/b/g"), "g").unwrap();
    fs::write(dir.root("a/index.html"), "a's").unwrap();
    let links = links_in(&dir);
    for (name, target) in &links {
        symlink(target, dir.root(name)).unwrap();
    }
    let files = dir.files();
    for (target, answer) in [
        ("/to-f", "f"),
        ("/to-f-about", "f"),
        ("/to-f-and-about", "f"),
        ("/to-b/g", "g"),
        ("/a/up-to-f", "f"),
        ("/to-b/to-index", "a's"),
        ("/chain", "f"),
        ("/absolute", "f"),
        ("/absolute-folder/", "a's"),
        ("/absolute-folder/b/g", "g"),
        ("/a/b/absolute-and-up", "f"),
        ("/itself/itself/itself/f", "f"),
    ] {
        assert_eq!(asked(&files, target), (200, answer.to_owned()), "{target}");
    }
    for target in [
        "/loop",
        "/ping",
        "/pong/x",
        "/dangling",
        "/through-a-file",
        "/f/",
        "/f/x",
        "/out",
        "/out-folder/secret",
        "/out-folder",
        "/out-and-in",
        "/over-the-top",
        "/out-absolute",
        "/out-by-dots",
        "/out-beside",
        "/out-proc",
        "/top/etc/passwd",
        "/a/out-chain",
    ] {
        assert_eq!(asked(&files, target).0, 404, "{target}");
    }
}

/// Runs `swap` on a thread of its own, over and over, while `target` is asked for: at least 20,000
/// times and until both answers were seen (a busy machine may let the thread wait), unless `always`
/// one is expected. How often each came.
fn asked_while(
    dir: &TestDir,
    target: &str,
    always: bool,
    swap: impl Fn(&TestDir) + Sync,
) -> (usize, usize) {
    let (files, over) = (dir.files(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                swap(dir);
            }
        });
        let (mut served, mut absent) = (0, 0);
        let end = std::time::Instant::now() + Duration::from_secs(20);
        let enough =
            |served, absent| served + absent >= 20_000 && (always || (served > 0 && absent > 0));
        let mut other = None;
        while other.is_none() && !enough(served, absent) && std::time::Instant::now() < end {
            match asked(&files, target) {
                (200, text) if text == "inside" => served += 1,
                (404, _) => absent += 1,
                unexpected => other = Some(unexpected),
            }
        }
        over.store(true, Relaxed); // before any panic: the scope waits for the thread
        assert_eq!(other, None);
        (served, absent)
    })
}

#[test]
fn a_folder_swapped_for_a_link_while_it_is_passed_leads_nowhere_else() {
    let dir = TestDir::new();
    fs::create_dir_all(dir.root("x/d")).unwrap();
    fs::write(dir.root("x/d/secret"), "inside").unwrap();
    symlink("../../outside", dir.root("evil")).unwrap();
    symlink("../../outside", dir.root("x/evil")).unwrap();
    let (served, absent) = asked_while(&dir, "/x/d/secret", false, |dir| {
        // The folder goes, a link to the outside takes its name, and back.
        fs::rename(dir.root("x/d"), dir.root("x/kept")).unwrap();
        fs::rename(dir.root("x/evil"), dir.root("x/d")).unwrap();
        fs::rename(dir.root("x/d"), dir.root("x/evil")).unwrap();
        fs::rename(dir.root("x/kept"), dir.root("x/d")).unwrap();
    });
    assert!(
        served > 0 && absent > 0,
        "{served} served, {absent} not: nothing was swapped in between"
    );
}

#[test]
fn a_folder_moved_away_while_a_link_goes_up_from_it_leads_nowhere_else() {
    let dir = TestDir::new();
    fs::create_dir_all(dir.root("x/d")).unwrap();
    fs::write(dir.root("x/secret"), "inside").unwrap();
    symlink("../secret", dir.root("x/d/up")).unwrap();
    // Where the folder is moved to, the kernel's `..` would be the outside.
    let (served, absent) = asked_while(&dir, "/x/d/up", false, |dir| {
        fs::rename(dir.root("x/d"), dir.0.join("outside/d")).unwrap();
        fs::rename(dir.0.join("outside/d"), dir.root("x/d")).unwrap();
    });
    assert!(
        served > 0 && absent > 0,
        "{served} served, {absent} not: nothing was moved in between"
    );
}

#[test]
fn a_link_swapped_for_another_is_one_or_the_other() {
    let dir = TestDir::new();
    for release in ["1", "2"] {
        fs::create_dir(dir.root(release)).unwrap();
        fs::write(dir.root(release).join("f"), "inside").unwrap();
    }
    symlink("1", dir.root("current")).unwrap();
    let (_, absent) = asked_while(&dir, "/current/f", true, |dir| {
        for release in ["2", "1"] {
            symlink(release, dir.root("next")).unwrap();
            fs::rename(dir.root("next"), dir.root("current")).unwrap();
        }
    });
    assert_eq!(
        absent, 0,
        "a release that is put in the place of another has no moment in which there is none"
    );
}

#[cfg(target_os = "linux")] // no other system exchanges two names at once
#[test]
fn a_folder_and_a_link_that_change_places_are_one_or_the_other() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let dir = TestDir::new();
    for release in ["1", "current"] {
        fs::create_dir(dir.root(release)).unwrap();
        fs::write(dir.root(release).join("f"), "inside").unwrap();
    }
    symlink("1", dir.root("next")).unwrap();
    let exchange = |dir: &TestDir| {
        renameat_with(CWD, dir.root("next"), CWD, dir.root("current"), RenameFlags::EXCHANGE)
    };
    if exchange(&dir) == Err(Errno::INVAL) {
        return; // a file system that cannot
    }
    let (_, absent) = asked_while(&dir, "/current/f", true, |dir| exchange(dir).unwrap());
    assert_eq!(
        absent, 0,
        "what was one thing when it was looked at and another when it was opened is looked at once more"
    );
}

#[test]
fn what_may_be_passed_need_not_be_listed() {
    let dir = TestDir::new();
    fs::create_dir(dir.root("d")).unwrap();
    fs::write(dir.root("d/f"), "f").unwrap();
    fs::set_permissions(dir.root("d"), fs::Permissions::from_mode(0o111)).unwrap();
    assert_eq!(asked(&dir.files(), "/d/f"), (200, "f".to_owned()));
}

#[test]
fn folders_are_redirected_to_by_a_relative_reference() {
    for (name, location) in [
        (&b"docs"[..], "./docs/"),
        (b"a:b", "./a%3Ab/"),
        (b"a b", "./a%20b/"),
        (b"\xff\r\n", "./%FF%0D%0A/"),
        ("\u{e4}?#".as_bytes(), "./%C3%A4%3F%23/"),
    ] {
        let response = to_the_folder(&names(&[b"up", name]), None);
        assert_eq!(response.status(), 301);
        assert_eq!(response.headers()[header::LOCATION], location);
    }
    assert_eq!(to_the_folder(&names(&[b"a"]), Some("x=1")).headers()[header::LOCATION], "./a/?x=1");
}

#[test]
fn failures_of_the_system_are_told_apart() {
    for (error, status) in [
        (Errno::NOENT, 404),
        (Errno::NOTDIR, 404),
        (Errno::LOOP, 404),
        (Errno::XDEV, 404),
        (Errno::NAMETOOLONG, 404),
        (Errno::ACCESS, 403),
        (Errno::PERM, 403),
        (Errno::MFILE, 503),
        (Errno::IO, 500),
    ] {
        assert_eq!(not_found("/x", error).status, status, "{error:?}");
    }
}
