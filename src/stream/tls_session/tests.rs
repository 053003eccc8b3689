//! TLS sessions over a pair of sockets: what one side writes, the other one reads.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use std::os::unix::net::UnixStream;

use crate::tls::{DeviceTls, Identity};

/// A session after its handshake: the gateway's side with its socket, the device's with
/// its.
fn session() -> [(Arc<TlsSession>, Socket); 2] {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let gateway = GatewayTls::new(
        Identity::from_pem(made.cert.pem(), made.signing_key.serialize_pem()).unwrap(),
    )
    .unwrap();
    let device = DeviceTls::new().ca(made.cert.pem()).unwrap().connector().unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    let ends = [
        (TlsSession::to_peer(&gateway, 0, false).unwrap(), Socket::Unix(near)),
        (TlsSession::to_server(&device, "localhost").unwrap(), Socket::Unix(far)),
    ];
    ends[1].0.compute();
    let mut done = 0;
    while done < 2 {
        done = 0;
        for (session, socket) in &ends {
            socket.set_nonblocking(true).unwrap();
            match session.shake(socket) {
                Shaken::Waiting => {}
                Shaken::Compute => session.compute(),
                Shaken::Done => done += 1,
                Shaken::Failed(broken) => panic!("{}", broken.text),
            }
        }
    }
    ends
}

/// Every byte in a record of its own.
fn in_small_records(session: &TlsSession, text: &[u8]) -> Vec<u8> {
    let mut out = Outgoing::default();
    let mut session = session.session();
    for byte in text {
        session.tls.writer().write_all(&[*byte]).unwrap();
        session.collect(&mut out);
    }
    out.text
}

/// Encrypted bytes go out: a writer that took them back and wrote others would lose the end of
/// those, and the peer would get bytes that were never meant for it.
#[test]
fn what_was_encrypted_is_owed_until_the_same_bytes_are_written() {
    let (message, other) = (vec![b'a'; 100_000], vec![b'b'; 100_000]);
    for (next, taken) in [(&message[..], true), (&message[..1], false), (&other[..], false)] {
        let [(writer, near), (_, far)] = &session();
        assert!(!writer.owes());
        while !writer.owes() {
            let wrote = writer.write(near, &[IoSlice::new(&message)]);
            assert!(wrote.is_ok_and(|n| n > 0), "the socket's buffers have their end");
        }
        let full = writer.write(near, &[IoSlice::new(&message)]).unwrap_err();
        assert_eq!((full.kind(), writer.owes()), (io::ErrorKind::WouldBlock, true));
        while (&*far).read(&mut [0; 65_536]).is_ok() {}
        let wrote = writer.write(near, &[IoSlice::new(next)]);
        assert_eq!(wrote.map_err(|e| e.kind()).is_ok(), taken, "{} bytes", next.len());
    }
}

#[test]
fn a_read_stops_at_so_many_records_and_goes_on() {
    let text: Vec<u8> = (0..3 * RECORDS + 5).map(|n| n as u8).collect();
    for swap in [false, true] {
        let mut ends = session();
        if swap {
            ends.swap(0, 1); // a device reads as a gateway does
        }
        let [(reader, near), (writer, far)] = &ends;
        (&*far).write_all(&in_small_records(writer, &text)).unwrap();
        let (mut got, mut pieces, mut buffer) = (Vec::new(), Vec::new(), [0; 4096]);
        loop {
            match reader.read(near, &mut buffer) {
                Ok(n) => {
                    got.extend_from_slice(&buffer[..n]);
                    pieces.push((n, reader.is_paused()));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && reader.is_paused() => {} // tickets are records, too
                Err(e) => {
                    assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        assert_eq!(got, text);
        assert!(
            pieces.iter().all(|(n, _)| *n <= RECORDS) && pieces[0].1 && !pieces[pieces.len() - 1].1,
            "{pieces:?}"
        );
        // Full records are no reason to stop.
        let big = vec![7; 100_000];
        let mut out = Outgoing::default();
        {
            let mut session = writer.session();
            session.tls.set_buffer_limit(None);
            session.tls.writer().write_all(&big).unwrap();
            session.collect(&mut out);
        }
        let (mut sent, mut received, mut buffer) = (0, 0, vec![0; 256 * 1024]);
        while received < big.len() {
            sent += (&*far).write(&out.text[sent..]).unwrap_or(0);
            received += reader.read(near, &mut buffer).unwrap_or(0);
            assert!(!reader.is_paused());
        }
    }
}

#[test]
fn records_are_counted_however_they_are_cut() {
    let lengths = [0, 1, 3, 300, 0, 0, 17, 16_640, 1];
    let text: Vec<u8> = lengths
        .iter()
        .flat_map(|n: &usize| [&[23, 3, 3, (n >> 8) as u8, *n as u8][..], &vec![9; *n]].concat())
        .collect();
    for step in [1, 2, 4, 5, 6, 7, 100, text.len()] {
        let (mut records, mut begun) = (Records::default(), 0);
        for piece in text.chunks(step) {
            let (walked, n) = records.walk(piece, usize::MAX);
            assert_eq!(walked, piece.len());
            begun += n;
        }
        assert_eq!(
            (begun, records.left, records.seen),
            (lengths.len(), 0, 0),
            "in steps of {step}"
        );
    }
    for most in 0..=lengths.len() {
        let whole: usize = lengths.iter().take(most).map(|n| RECORD_HEAD + n).sum();
        assert_eq!(Records::default().walk(&text, most), (whole, most));
    }
    // A record that has begun goes on to its end; the next one is not begun.
    let mut records = Records::default();
    records.walk(&text[..RECORD_HEAD + RECORD_HEAD], usize::MAX);
    assert_eq!(records.walk(&text[2 * RECORD_HEAD..], 0), (1, 0));
}
