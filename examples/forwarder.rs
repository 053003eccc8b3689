//! A device without a handler: what it is asked goes to a server on the same machine, and visitors
//! reach that through the gateway. The bytes move in the event loops; no thread of ours is between.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use reverse_http::{Device, Gateway, Routes};

/// Stands for whatever runs on the device already: says which path it was asked for.
fn local_server() -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(&stream);
            let mut line = String::new();
            let _ = reader.read_line(&mut line);
            let rest: Vec<_> =
                reader.lines().map_while(Result::ok).take_while(|l| !l.is_empty()).collect();
            let text = format!("{} with {} fields\n", line.trim_end(), rest.len());
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", text.len());
            let _ = write!(&stream, "{head}Connection: close\r\n\r\n{text}");
        }
    });
    Ok(format!("http://{address}"))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
    // `http://gateway/NAME/…` is for the device of that name.
    let visitors = gateway.listen_visitors("127.0.0.1:0", Routes::path())?;

    let url = format!("http://{}/house", gateway.devices_addr());
    let device = Device::builder(url).build()?.spawn_forward(&local_server()?)?;
    gateway.device("house").wait_connected(Duration::from_secs(5))?;

    let mut visitor = TcpStream::connect(visitors)?;
    write!(visitor, "GET /house/heating HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    visitor.read_to_string(&mut answer)?;
    println!("{answer}");
    assert!(answer.contains("GET /heating HTTP/1.1"), "the device's name is taken off the path");
    device.stop();
    Ok(())
}
