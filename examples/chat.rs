//! A chat between browser tabs: each tab holds one response of the device open (server-sent events),
//! and what one tab posts, all see. The program itself shows that first; then open the URL that it
//! prints in two tabs. Enter, or the end of standard input, ends it.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use reverse_http::{Body, Device, Gateway, Routes};

const PAGE: &str = "<!doctype html><ul id=said></ul><form id=form><input name=text></form><script>
new EventSource('events').onmessage = ({ data }) => said.append(data, document.createElement('br'))
form.onsubmit = event => {
  event.preventDefault()
  fetch('say', { method: 'POST', body: form.text.value }).then(() => form.reset())
}</script>";

/// What a tab is told: lines of the chat, and a comment every 20 s, by which a tab that has gone is
/// noticed (and `body_silence_timeout` does not end the response).
struct Events(Receiver<String>, io::Cursor<Vec<u8>>);

impl Read for Events {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.1.position() == self.1.get_ref().len() as u64 {
            self.1 = io::Cursor::new(match self.0.recv_timeout(Duration::from_secs(20)) {
                Ok(line) => format!("data: {line}\n\n").into_bytes(),
                Err(RecvTimeoutError::Timeout) => b":\n\n".to_vec(),
                Err(RecvTimeoutError::Disconnected) => return Ok(0), // the end of the body
            });
        }
        self.1.read(buf)
    }
}

/// The open tabs.
static TABS: Mutex<Vec<SyncSender<String>>> = Mutex::new(Vec::new());

fn answer(mut request: Request<Body>) -> Result<Response<Body>, StatusCode> {
    let tabs = || TABS.lock().unwrap_or_else(PoisonError::into_inner);
    let (kind, body) = match (request.method().as_str(), request.uri().path()) {
        ("GET", "/") => ("text/html", Body::from(PAGE)),
        ("GET", "/events") => {
            let (tab, lines) = sync_channel(100);
            tabs().push(tab);
            let hello = io::Cursor::new(b":\n\n".to_vec()); // the response begins now
            ("text/event-stream", Body::from_reader(Events(lines, hello)))
        }
        ("POST", "/say") => {
            let text = request.body_mut().read_to_text(1000);
            let line = text.map_err(|_| StatusCode::BAD_REQUEST)?.replace(['\r', '\n'], " ");
            tabs().retain(|tab| tab.try_send(line.clone()).is_ok()); // others have gone, or are slow
            ("text/plain", Body::empty())
        }
        _ => return Err(StatusCode::NOT_FOUND),
    };
    let response = Response::builder().header("Content-Type", kind).body(body);
    response.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
    let visitors = gateway.listen_visitors("127.0.0.1:0", Routes::path())?;
    let device = format!("http://{}/chat", gateway.devices_addr());
    let device = Device::builder(device).build()?.spawn(answer)?;
    let chat = gateway.device("chat");
    chat.wait_connected(Duration::from_secs(5))?;

    let events = chat.send(Request::get("/events").body(Body::empty())?)?.into_body();
    let mut lines = BufReader::new(events).lines().map_while(Result::ok);
    assert_eq!(lines.next().as_deref(), Some(":"));
    chat.send(Request::post("/say").body(Body::from("hello"))?)?;
    assert!(lines.any(|line| line == "data: hello"), "one reads what another says");
    println!("open http://{visitors}/chat/ in two tabs; Enter ends it");
    io::stdin().read_line(&mut String::new())?;
    device.stop();
    Ok(())
}
