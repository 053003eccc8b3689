//! `ptth demo`: a gateway, a device and one request in this process, with the bytes between them.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use reverse_http::{Device, Gateway, Routes};

use crate::device::answer_with_text;
use crate::output::print_line;
use crate::{Failure, failed};

/// The transcript of the original page, live: prints the bytes between the device and the gateway.
pub(crate) fn run() -> Result<(), Failure> {
    print_line(
        "A device that nobody can dial connects to its gateway and offers to turn the connection around.\n",
    )?;
    let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
    let visitors = gateway.listen_visitors("127.0.0.1:0", Routes::path())?;
    let (said, transcript) = mpsc::channel();
    let tap = tap(gateway.devices_addr(), said).map_err(failed)?;
    let device = Device::builder(format!("http://{tap}/lamp")).links(1..=1).build()?;
    let handle = device.spawn(answer_with_text("!dlrow ,olleH\r\n".to_owned()))?;
    gateway.device("lamp").wait_connected(Duration::from_secs(5))?;
    let print = |pieces: usize| {
        for (who, bytes) in transcript.iter().take(pieces) {
            print_line(format_args!("{who}\n{}", indented(&String::from_utf8_lossy(&bytes))))?;
        }
        Ok::<(), Failure>(())
    };
    print(2)?;
    print_line(format_args!(
        "From here on the gateway asks and the device answers. A visitor runs: curl http://{visitors}/lamp/status\n"
    ))?;
    let mut visitor = TcpStream::connect(visitors).map_err(failed)?;
    visitor.set_read_timeout(Some(Duration::from_secs(10))).map_err(failed)?;
    write!(visitor, "GET /lamp/status HTTP/1.1\r\nHost: {visitors}\r\nAccept: text/plain\r\nConnection: close\r\n\r\n").map_err(failed)?;
    let mut answer = String::new();
    visitor.read_to_string(&mut answer).map_err(failed)?;
    print(2)?;
    print_line(format_args!("The visitor got:\n{}", indented(&answer).trim_end_matches('\n')))?;
    handle.stop();
    match answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("!dlrow ,olleH\r\n") {
        true => Ok(()),
        false => Err(failed("the visitor did not get the device's answer")),
    }
}

/// Each line with blanks before it.
fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

/// A relay that shows bytes: connections to its address are passed on to `to`, and both directions
/// are reported.
fn tap(
    to: std::net::SocketAddr,
    said: mpsc::Sender<(&'static str, Vec<u8>)>,
) -> io::Result<std::net::SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let at = listener.local_addr()?;
    std::thread::spawn(move || {
        let both = listener.accept().and_then(|(device, _)| Ok((device, TcpStream::connect(to)?)));
        let Ok((device, gateway)) = both else { return };
        for (who, from, to) in [
            ("device:", device.try_clone(), gateway.try_clone()),
            ("gateway:", Ok(gateway), Ok(device)),
        ] {
            let (Ok(from), Ok(to), said) = (from, to, said.clone()) else { return };
            std::thread::spawn(move || copy(who, from, to, said));
        }
    });
    Ok(at)
}

fn copy(
    who: &'static str,
    mut from: TcpStream,
    mut to: TcpStream,
    said: mpsc::Sender<(&'static str, Vec<u8>)>,
) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(n) = from.read(&mut buffer) {
        if n == 0
            || said.send((who, buffer[..n].to_vec())).is_err()
            || to.write_all(&buffer[..n]).is_err()
        {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write); // the demonstration is over
}
