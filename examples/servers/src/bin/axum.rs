//! A router of axum as a device. The device's handler runs it on a tokio runtime: both speak in types
//! of the crate `http`, so only bodies change hands. What axum streams (server-sent events, say) goes
//! out as it comes; it works over polls as well.

use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::routing::{get, put};
use http::{Request, Response};
use reverse_http::{Body, Device, Error, Gateway};
use tokio::runtime::{Builder, Handle};
use tokio_stream::StreamExt;
use tokio_util::io::{StreamReader, SyncIoBridge};
use tower::ServiceExt;

/// axum's, as it would stand in `axum::serve`.
fn lamp() -> Router {
    let set = |Path(level): Path<u8>, why: String| async move { format!("now {level}: {why}") };
    Router::new().route("/status", get(|| async { "on" })).route("/level/{level}", put(set))
}

/// The largest body of a request, which is read before the router begins.
const REQUEST_BYTES_MAX: usize = 1024 * 1024;

/// Any router as a device's handler. `runtime` polls its futures; the device's worker waits for them.
fn handler(
    router: Router,
    runtime: Handle,
) -> impl Fn(Request<Body>) -> Result<Response<Body>, Error> {
    move |request| {
        let (parts, mut body) = request.into_parts();
        let body = body.read_to_vec(REQUEST_BYTES_MAX)?; // too long: 413
        let request = Request::from_parts(parts, axum::body::Body::from(body));
        let Ok(response) = runtime.block_on(router.clone().oneshot(request)); // infallible
        Ok(response.map(|body| {
            let pieces = body.into_data_stream().map(|piece| piece.map_err(std::io::Error::other));
            let reader = StreamReader::new(pieces);
            Body::from_reader(SyncIoBridge::new_with_handle(Box::pin(reader), runtime.clone()))
        }))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
    let url = format!("http://{}/lamp", gateway.devices_addr());
    let running = Device::builder(url).build()?.spawn(handler(lamp(), runtime.handle().clone()))?;
    let device = gateway.device("lamp");
    device.wait_connected(Duration::from_secs(5))?;
    let response = device.send(Request::get("/status").body(Body::empty())?)?;
    println!("{} {}", response.status(), response.into_body().read_to_text(100)?);
    running.stop();
    Ok(())
}

#[test]
fn axum_answers() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let device = reverse_http::testing::TestDevice::new(handler(lamp(), runtime.handle().clone()));
    let response = device.send(Request::put("/level/7").body("dusk".into())?)?;
    assert_eq!(response.into_body().read_to_text(100)?, "now 7: dusk");
    let response = device.send(Request::put("/level/999").body(Body::empty())?)?;
    assert_eq!(response.status(), 400);
    Ok(())
}
