//! Files that change, large ones, and the option in all its places.

use std::fs;
use std::io::Write;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reverse_http::{Body, Device};

use super::{Permit, SECRET, Site, THEN};
use crate::support::process::get;
use crate::support::raw::find;
use crate::support::{Gateway, Hash, Head, Process, Ptth, need, pattern, say};

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
    let gateway = crate::support::gateway().listen("127.0.0.1:0").start().unwrap();
    let device =
        || Device::builder(format!("http://{}/lamp", gateway.devices_addr())).build().unwrap();
    for path in [place.root().join("a.txt"), place.root().join("none")] {
        let error = device().spawn_dir(&path).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert!(device().serve_dir(&path).unwrap_err().is_usage());
    }
    let running = device().spawn_dir(place.root()).unwrap();
    let lamp = gateway.device("lamp");
    lamp.wait_connected(Duration::from_secs(10)).unwrap();
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
