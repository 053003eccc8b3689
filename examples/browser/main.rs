//! A browser tab as a device: a gateway, and one page whose script makes the tab answer HTTP
//! requests.
//!
//!     cargo run --example browser                     # then open http://127.0.0.1:8080/page/
//!     curl http://127.0.0.1:8080/tab/anything         # the tab shows the request; what you type there is the answer
//!
//! Arguments, all optional: the devices' address, the visitors', and how many seconds to run (else:
//! until Enter, or the end of standard input). The page comes through the gateway itself: it is
//! what the in-process device `page` answers.

use std::error::Error;
use std::time::Duration;

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use reverse_http::{Body, Device, Gateway, Routes};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let devices = arguments.next().unwrap_or_else(|| "127.0.0.1:9999".to_owned());
    let visitors = arguments.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let seconds = arguments.next().map(|text| text.parse()).transpose()?;

    // A page may use the devices' port only where its origin is listed.
    let port = visitors.rsplit_once(':').map_or("80", |(_, port)| port);
    let gateway = Gateway::builder()
        .listen(&devices)
        .cors_origin(format!("http://127.0.0.1:{port}"))
        .cors_origin(format!("http://localhost:{port}"))
        .start()?;
    let visitors = gateway.listen_visitors(&visitors, Routes::path())?;
    let devices = gateway.devices_addr();

    let page = include_str!("page.html")
        .replace("{{DEVICE}}", &format!("http://{devices}/tab"))
        .replace("{{VISITORS}}", &format!("http://{visitors}/tab"));
    let server = Device::builder(format!("http://{devices}/page")).build()?.spawn(move |_| {
        let mut response = http::Response::new(Body::from(page.clone()));
        response
            .headers_mut()
            .insert(CONTENT_TYPE, http::HeaderValue::from_static("text/html; charset=utf-8"));
        response.headers_mut().insert(CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
        response
    })?;
    gateway.device("page").wait_connected(Duration::from_secs(5))?;

    println!(
        "open http://{visitors}/page/ in a browser, then: curl http://{visitors}/tab/anything"
    );
    match seconds {
        Some(seconds) => std::thread::sleep(Duration::from_secs(seconds)),
        None => {
            println!("Enter ends it.");
            std::io::stdin().read_line(&mut String::new())?;
        }
    }
    server.stop();
    gateway.drain(Duration::from_secs(1));
    Ok(())
}
