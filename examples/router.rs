//! Paths with parameters: matchit finds the function, and a handler hands it what it found. This
//! crate has no router of its own. Its last lines test the same handler without a socket.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use http::{Method, Request, StatusCode};
use matchit::{Params, Router};
use reverse_http::testing::TestDevice;
use reverse_http::{Body, Device, Error, Gateway, IntoResponse};

static LEVELS: [AtomicU8; 4] = [const { AtomicU8::new(0) }; 4];

fn lamp(params: &Params<'_, '_>) -> Option<&'static AtomicU8> {
    LEVELS.get(params.get("lamp")?.parse::<usize>().ok()?)
}

fn show(_: Request<Body>, params: &Params<'_, '_>) -> Result<http::Response<Body>, Error> {
    let level = lamp(params).map(|level| level.load(Ordering::Relaxed).to_string());
    Ok(level.ok_or(StatusCode::NOT_FOUND).into_response())
}

fn set(mut request: Request<Body>, params: &Params<'_, '_>) -> Result<http::Response<Body>, Error> {
    let text = request.body_mut().read_to_text(10)?; // 413 or 400 where it cannot be read
    Ok(match (lamp(params), text.parse()) {
        (None, _) => StatusCode::NOT_FOUND.into_response(),
        (_, Err(_)) => (StatusCode::BAD_REQUEST, "a level is 0 to 255").into_response(),
        (Some(lamp), Ok(level)) => {
            lamp.store(level, Ordering::Relaxed);
            StatusCode::NO_CONTENT.into_response()
        }
    })
}

type Call = fn(Request<Body>, &Params<'_, '_>) -> Result<http::Response<Body>, Error>;

/// A handler for `spawn`. A path that is there, and not for this method, is 405.
fn handler() -> Result<impl Fn(Request<Body>) -> http::Response<Body>, matchit::InsertError> {
    let mut routes = Router::<Vec<(Method, Call)>>::new();
    routes.insert("/lamps/{lamp}", vec![(Method::GET, show), (Method::PUT, set)])?;
    Ok(move |request: Request<Body>| {
        let path = request.uri().path().to_owned();
        let Ok(found) = routes.at(&path) else { return StatusCode::NOT_FOUND.into_response() };
        match found.value.iter().find(|(method, _)| method == request.method()) {
            Some((_, call)) => call(request, &found.params).into_response(),
            None => StatusCode::METHOD_NOT_ALLOWED.into_response(),
        }
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
    let url = format!("http://{}/house", gateway.devices_addr());
    let running = Device::builder(url).build()?.spawn(handler()?)?;
    let house = gateway.device("house");
    house.wait_connected(Duration::from_secs(5))?;
    println!("{}", house.send(Request::put("/lamps/2").body("80".into())?)?.status());
    let response = house.send(Request::get("/lamps/2").body(Body::empty())?)?;
    println!("{}", response.into_body().read_to_text(10)?);
    running.stop();

    let house = TestDevice::new(handler()?);
    let statuses = [("GET", "/lamps/9", ""), ("PUT", "/lamps/1", "300"), ("POST", "/lamps/1", "")];
    for ((method, path, body), expected) in statuses.into_iter().zip([404, 400, 405]) {
        let request = Request::builder().method(method).uri(path).body(body.into())?;
        assert_eq!(house.send(request)?.status(), expected, "{method} {path}");
    }
    Ok(())
}
