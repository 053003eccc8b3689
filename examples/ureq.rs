//! ureq against devices: the agent's `http://NAME/…` is the device of that name, and everything else
//! (headers, JSON, time-outs, redirects) is ureq as one knows it.

use std::io::Read;
use std::time::Duration;

use http::{Request, Response, StatusCode, header};
use reverse_http::{Body, Device, Gateway, IntoResponse};

fn printer(mut request: Request<Body>) -> Response<Body> {
    match (request.method().as_str(), request.uri().path()) {
        ("GET", "/old") => {
            let moved = [(header::LOCATION, "/paper")];
            let mut response = StatusCode::FOUND.into_response();
            response
                .headers_mut()
                .extend(moved.map(|(name, to)| (name, header::HeaderValue::from_static(to))));
            response
        }
        ("GET", "/paper") => "12 sheets".into_response(),
        ("POST", "/print") => match request.body_mut().read_to_vec(1_000_000) {
            Ok(page) => format!("printed {} bytes", page.len()).into_response(),
            Err(_) => StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        },
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
    let url = format!("http://{}/printer", gateway.devices_addr());
    let device = Device::builder(url).build()?.spawn(printer)?;
    gateway.device("printer").wait_connected(Duration::from_secs(5))?;

    let timeout = Some(Duration::from_secs(10));
    let agent = gateway.agent_with(ureq::Agent::config_builder().timeout_global(timeout));
    let mut paper = agent.get("http://printer/old").header("Accept", "text/plain").call()?;
    println!("{}", paper.body_mut().read_to_string()?);
    let page = std::io::repeat(b'x').take(100_000);
    let mut printed =
        agent.post("http://printer/print").send(ureq::SendBody::from_owned_reader(page))?;
    println!("{}", printed.body_mut().read_to_string()?);
    match agent.get("http://printer/fax").call() {
        Err(ureq::Error::StatusCode(404)) => println!("it has no fax"),
        other => return Err(format!("{other:?}").into()),
    }
    device.stop();
    Ok(())
}
