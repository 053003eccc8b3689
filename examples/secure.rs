//! Gateway and device with TLS, a token, limits of their own, and an orderly stop, in one process.
//!
//!     cargo run --features tls --example secure
//!
//! Certificates are made on the spot here; a program reads them from files (docs/tls-and-tokens.md).

use std::error::Error;
use std::thread;
use std::time::Duration;

use http::{Request, Response};
use reverse_http::tls::{DeviceTls, GatewayTls, Identity};
use reverse_http::{Body, Device, DeviceEventKind, Gateway, Limits, OnRefusal, Routes, Tokens};

fn main() -> Result<(), Box<dyn Error>> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());

    // The gateway: one certificate for both ports, and one token, which is for the name `lamp`.
    let token = Tokens::generate()?;
    let mut limits = Limits::default();
    limits.first_byte_timeout = Duration::from_secs(20);
    let tls = GatewayTls::new(Identity::from_pem(&certificate, &key)?)?;
    let gateway = Gateway::builder()
        .listen_tls("127.0.0.1:0", tls.clone())
        .tokens(Tokens::parse(&Tokens::line(&token, "lamp")?)?)
        .limits(limits)
        .start()?;
    let visitors = gateway.listen_visitors_tls("127.0.0.1:0", Routes::path(), tls)?;
    println!("visitors: https://localhost:{}/lamp/", visitors.port());

    // The device: trusts that certificate alone, and ends where its token is refused.
    let url = format!("https://localhost:{}/lamp", gateway.devices_addr().port());
    let device = |token: &str| {
        Device::builder(&url)
            .tls(DeviceTls::new().ca(&certificate)?)
            .bearer_token(token)
            .on_refusal(OnRefusal::Stop)
            .build()
    };
    let lamp = device(&token)?;
    let events = lamp.events();
    let running = lamp.spawn(|request: Request<Body>| {
        Response::new(Body::from(format!("you asked for {}\n", request.uri())))
    })?;
    // What happens, said by a thread of its own: it ends with the device.
    let teller = thread::spawn(move || {
        for event in events {
            let failed = event.kind == DeviceEventKind::Failed;
            println!("{}: {:?} {}", event.name, event.kind, event.detail);
            assert!(!failed, "the device cannot connect");
        }
    });

    gateway.device("lamp").wait_connected(Duration::from_secs(10))?;
    let request = Request::get("/status").body(Body::empty())?;
    let answer = gateway.device("lamp").send(request)?.into_body().read_to_text(1_024)?;
    print!("the lamp says: {answer}");

    // Another token: the gateway refuses the first offer, and the device ends with that error.
    let stranger = device("no-token-of-this-gateway")?;
    let refused = stranger.serve(|_| Response::new(Body::empty())).err().ok_or("it got in")?;
    println!("a stranger is told: {refused}");
    assert!(refused.is_refused() && refused.status_hint() == Some(401));

    // Requests in progress may finish; then both have ended. A service does this on SIGTERM.
    running.drain(Duration::from_secs(5));
    running.wait()?;
    gateway.drain(Duration::from_secs(5));
    drop((running, lamp));
    teller.join().map_err(|_| "the device failed")?;
    Ok(())
}
