//! A handler of rouille as a device, without a socket between: each request becomes one of rouille's,
//! and what its handler returns goes back as it streams.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use reverse_http::{Body, Device, Gateway, IntoResponse};

/// rouille's, as it would stand in `rouille::start_server`.
fn lamp(request: &rouille::Request) -> rouille::Response {
    rouille::router!(request,
        (GET) (/status) => { rouille::Response::text("on") },
        (PUT) (/level/{level: u8}) => {
            let why = rouille::input::plain_text_body(request).unwrap_or_default();
            rouille::Response::text(format!("now {level}: {why}"))
        },
        _ => rouille::Response::empty_404()
    )
}

/// The largest body of a request, which rouille takes whole.
const REQUEST_BYTES_MAX: usize = 1024 * 1024;

/// Any handler of rouille as a device's.
fn answer(
    handler: impl Fn(&rouille::Request) -> rouille::Response,
    mut request: Request<Body>,
) -> Result<Response<Body>, Response<Body>> {
    let body = request.body_mut().read_to_vec(REQUEST_BYTES_MAX);
    let body = body.map_err(IntoResponse::into_response)?;
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let fields = request.headers().iter();
    let fields = fields.map(|(name, value)| (name.to_string(), text(value))).collect();
    let url = request.uri().path_and_query().map_or("/", |path| path.as_str());
    // The gateway says in X-Forwarded-For which visitor asks.
    let from = SocketAddr::from(([127, 0, 0, 1], 0));
    let method = request.method().as_str();
    let request = rouille::Request::fake_http_from(from, method, url, fields, body);
    let rouille::Response { status_code, headers, data, .. } = handler(&request);
    let mut response = Response::builder().status(status_code);
    for (name, value) in headers {
        response = response.header(&*name, &*value);
    }
    let body = match data.into_reader_and_size() {
        (reader, Some(length)) => Body::from_reader_with_length(reader, length as u64),
        (reader, None) => Body::from_reader(reader),
    };
    response.body(body).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
    let url = format!("http://{}/lamp", gateway.devices_addr());
    let running = Device::builder(url).build()?.spawn(|request| answer(lamp, request))?;
    let device = gateway.device("lamp");
    device.wait_connected(Duration::from_secs(5))?;
    let request = Request::get("/status").body(Body::empty())?;
    let response = device.send(request)?;
    println!("{} {}", response.status(), response.into_body().read_to_text(100)?);
    running.stop();
    Ok(())
}

#[test]
fn rouille_answers() -> Result<(), Box<dyn std::error::Error>> {
    let device = reverse_http::testing::TestDevice::new(|request| answer(lamp, request));
    let put = Request::put("/level/7").header("Content-Type", "text/plain");
    let response = device.send(put.body("dusk".into())?)?;
    assert_eq!(response.into_body().read_to_text(100)?, "now 7: dusk");
    let response = device.send(Request::get("/level/999").body(Body::empty())?)?;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    Ok(())
}
