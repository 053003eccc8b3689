//! `Body` by itself: what it gives, what it knows of its length, and what it never shows.

use std::io::{self, Read, Seek, SeekFrom, Write};

use http::{HeaderMap, HeaderValue};
use reverse_http::Body;

#[test]
fn bodies_from_memory_know_their_length() {
    let bodies = [
        Body::from("four"),
        Body::from(String::from("four")),
        Body::from(vec![b'f', b'o', b'u', b'r']),
        Body::from(&b"four"[..]),
    ];
    for mut body in bodies {
        assert_eq!(body.length(), Some(4));
        body.read_exact(&mut [0; 1]).unwrap();
        assert_eq!(body.length(), Some(3));
        assert_eq!(body.read_to_text(3).unwrap(), "our");
        assert_eq!((body.length(), body.read(&mut [0; 8]).unwrap()), (Some(0), 0));
    }
    assert_eq!(Body::empty().length(), Some(0));
    assert_eq!(Body::default().read_to_vec(0).unwrap(), b"");
}

#[test]
fn a_file_is_sent_from_its_position() {
    let path = std::env::temp_dir().join(format!("ptth-body-{}", std::process::id()));
    let mut file = std::fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .unwrap();
    file.write_all(b"0123456789").unwrap();
    file.seek(SeekFrom::Start(4)).unwrap();
    std::fs::remove_file(&path).unwrap();
    let mut body = Body::from_file(file).unwrap();
    assert_eq!(body.length(), Some(6));
    assert_eq!(body.read_to_text(6).unwrap(), "456789");
}

#[test]
fn files_of_the_kernel_pipes_and_directories_are_no_surprise() {
    if cfg!(target_os = "linux") {
        let told = std::fs::File::open("/proc/self/status").unwrap(); // its length is 0
        assert!(Body::from_file(told).unwrap().read_to_text(65_536).unwrap().starts_with("Name:"));
        let page = std::fs::File::open("/sys/kernel/mm/transparent_hugepage/enabled"); // 4096
        if let Ok(page) = page {
            let text = Body::from_file(page).unwrap().read_to_text(4_096).unwrap();
            assert!(text.ends_with('\n'), "{text}");
        }
    }
    let (reads, mut writes) = std::os::unix::net::UnixStream::pair().unwrap();
    writes.write_all(b"piped").unwrap();
    drop(writes);
    let mut body = Body::from_file(std::fs::File::from(std::os::fd::OwnedFd::from(reads))).unwrap();
    assert_eq!((body.length(), body.read_to_text(9).unwrap()), (None, "piped".to_owned()));
    let folder = std::fs::File::open(std::env::temp_dir()).unwrap();
    assert_eq!(Body::from_file(folder).unwrap_err().kind(), io::ErrorKind::IsADirectory);
}

#[test]
fn a_reader_gives_what_was_promised_or_fails() {
    let mut body = Body::from_reader_with_length(io::repeat(b'x'), 5);
    assert_eq!(body.read_to_text(10).unwrap(), "xxxxx");
    let mut body = Body::from_reader_with_length(io::Cursor::new("abc"), 5);
    let mut bytes = Vec::new();
    assert_eq!(body.read_to_end(&mut bytes).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    let mut body = Body::from_reader(io::Cursor::new("abc"));
    assert_eq!(body.length(), None);
    assert_eq!(body.read_to_text(3).unwrap(), "abc");
    assert_eq!(body.length(), Some(0));
}

#[test]
fn collecting_is_bounded() {
    assert!(Body::from("12345").read_to_vec(4).unwrap_err().to_string().contains("4 bytes"));
    assert_eq!(Body::from("12345").read_to_vec(5).unwrap(), b"12345");
    assert!(Body::from_reader(io::repeat(0)).read_to_vec(1_000_000).is_err());
    let error = Body::from(vec![0xff]).read_to_text(10).unwrap_err();
    assert!(error.is_malformed() && error.to_string().contains("UTF-8"), "{error}");
    assert!(Body::from_reader_with_length(io::empty(), u64::MAX).read_to_vec(usize::MAX).is_err());
}

#[test]
fn trailers_come_after_the_end() {
    let mut trailers = HeaderMap::new();
    trailers.insert("x", HeaderValue::from_static("y"));
    let mut body = Body::from("ab").with_trailers(trailers);
    assert!(body.trailers().is_none());
    body.read_to_vec(2).unwrap();
    assert_eq!(body.trailers().unwrap()["x"], "y");
}

#[test]
fn debug_shows_no_content_and_bodies_can_move() {
    let shown = format!("{:?}", Body::from("secret"));
    assert!(!shown.contains("secret") && shown.contains('6'), "{shown}");
    fn is_send<T: Send + 'static>() {}
    is_send::<Body>();
}

#[test]
fn a_body_tells_how_far_it_is_and_once_that_it_is_complete() {
    let bodies: [(Body, Option<u64>); 4] = [
        ("four".into(), Some(4)),
        (String::from("four").into(), Some(4)),
        (Body::from_reader_with_length(io::repeat(b'x'), 4), Some(4)),
        (Body::from_reader(io::Cursor::new("four")), None),
    ];
    for (body, whole) in bodies {
        let (told, progress) = std::sync::mpsc::channel();
        let second = told.clone();
        let mut body = body
            .with_progress(move |now| told.send((1, now)).unwrap())
            .with_progress(move |now| second.send((2, now)).unwrap());
        assert_eq!(body.length(), whole);
        body.read_exact(&mut [0; 3]).unwrap();
        for listener in [1, 2] {
            let (of, now) = progress.try_recv().unwrap();
            assert_eq!((of, now.bytes, now.total, now.is_complete()), (listener, 3, whole, false));
        }
        assert_eq!(body.read(&mut []).unwrap(), 0);
        assert!(progress.try_recv().is_err(), "nothing was read");
        body.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(body.read(&mut [0; 3]).unwrap(), 0);
        drop(body);
        let ends = progress.iter().filter(|(_, now)| now.is_complete());
        let ends: Vec<_> = ends.map(|(of, now)| (of, now.bytes, now.total)).collect();
        assert_eq!(ends, [(1, 4, Some(4)), (2, 4, Some(4))]);
    }
}

#[test]
fn a_body_that_fails_is_never_complete() {
    let (told, progress) = std::sync::mpsc::channel();
    let short = Body::from_reader_with_length(io::Cursor::new("abc"), 5);
    let mut short = short.with_progress(move |now| told.send(now).unwrap());
    short.read_to_end(&mut Vec::new()).unwrap_err();
    drop(short);
    let all: Vec<_> = progress.iter().map(|now| (now.bytes, now.total)).collect();
    assert_eq!(all, [(3, Some(5))]);
}
