//! The device's side: what a gateway, right or hostile, gets for its bytes.

mod bounds;
mod requests;
mod responses;

use std::sync::Arc;

use http::{HeaderValue, Request, Response, StatusCode, header};
use reverse_http::{Body, DeviceLink, Error, Limits};

use super::{Script, limits};

const HELLO: &str = "!dlrow ,olleH\r\n";

/// Plays `steps` to a device that answers each request by `handler`; how often it did, and how the
/// link ended.
fn serve_with(
    limits: Arc<Limits>,
    script: Script,
    mut handler: impl FnMut(Request<Body>) -> Response<Body>,
) -> (usize, Result<(), Error>) {
    let mut link = DeviceLink::new(script, Vec::new(), limits);
    let mut served = 0;
    let end = loop {
        match link.next_request() {
            Ok(Some(request)) => {
                served += 1;
                if let Err(error) = link.respond(handler(request)) {
                    break Err(error);
                }
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    (served, end)
}

fn serve(
    script: Script,
    handler: impl FnMut(Request<Body>) -> Response<Body>,
) -> (usize, Result<(), Error>) {
    serve_with(limits(), script, handler)
}

fn hello(_: Request<Body>) -> Response<Body> {
    let mut response = Response::new(Body::from(HELLO));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

fn with_status(status: u16, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

/// What the device wrote for `bytes`, answered by `handler`.
fn answer_to(bytes: &[u8], handler: impl FnMut(Request<Body>) -> Response<Body>) -> String {
    let (script, seen) = Script::giving(bytes);
    serve(script, handler).1.unwrap();
    seen.text()
}
