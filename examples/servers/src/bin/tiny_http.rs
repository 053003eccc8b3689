//! A server of tiny_http as a device: it listens on a Unix socket in a folder that only this user may
//! enter, and the device forwards to it. No port is open, on no interface.

use std::error::Error;
use std::fs::{self, DirBuilder};
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use http::Request;
use reverse_http::{Body, Device, Gateway};
use tiny_http::{Response, Server};

/// tiny_http's own loop; several threads may run it on the same server.
fn lamp(server: &Server) {
    for mut request in server.incoming_requests() {
        let mut text = String::new();
        let read = request.as_reader().take(1000).read_to_string(&mut text);
        let (status, text) = match (request.method().as_str(), request.url(), read) {
            (_, _, Err(e)) => (400, e.to_string()),
            ("GET", "/status", _) => (200, "on".to_owned()),
            ("PUT", "/status", _) => (200, format!("now {text}")),
            _ => (404, "not here".to_owned()),
        };
        if let Err(e) = request.respond(Response::from_string(text).with_status_code(status)) {
            eprintln!("not answered: {e}");
        }
    }
}

fn asked(folder: &Path) -> Result<Vec<(u16, String)>, Box<dyn Error>> {
    let socket = folder.join("lamp.sock");
    let server = Server::http_unix(&socket).map_err(|e| e.to_string())?;
    let server = Arc::new(server);
    let serving = thread::spawn({
        let server = server.clone();
        move || lamp(&server)
    });

    let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
    let url = format!("http://{}/lamp", gateway.devices_addr());
    let running =
        Device::builder(url).build()?.spawn_forward(format!("unix:{}", socket.display()))?;
    let device = gateway.device("lamp");
    device.wait_connected(Duration::from_secs(5))?;
    let mut answers = Vec::new();
    for (method, path, body) in
        [("GET", "/status", ""), ("PUT", "/status", "off"), ("GET", "/else", "")]
    {
        let request = Request::builder().method(method).uri(path).body(Body::from(body))?;
        let response = device.send(request)?;
        let status = response.status().as_u16();
        answers.push((status, response.into_body().read_to_text(100)?));
    }
    running.stop();
    server.unblock();
    serving.join().map_err(|_| "the server panicked")?;
    Ok(answers)
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("ptth-tiny-http-{}", std::process::id()));
    DirBuilder::new().mode(0o700).create(&folder)?;
    let answers = asked(&folder);
    fs::remove_dir_all(&folder)?;
    let answers = answers?;
    println!("{answers:?}");
    assert_eq!(answers, [(200, "on".into()), (200, "now off".into()), (404, "not here".into())]);
    Ok(())
}

#[test]
fn tiny_http_answers() -> Result<(), Box<dyn Error>> {
    main()
}
