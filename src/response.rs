//! What a handler may return.

use std::fs::File;
use std::io;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};

use crate::body::Body;
use crate::error::Error;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// What a device's handler may return: a [`Response`], or anything that converts into one.
///
/// | type | response |
/// |---|---|
/// | `Response<T>`, where `T` becomes a [`Body`] | as it is |
/// | `&'static str`, `String` | 200, `text/plain; charset=utf-8` |
/// | `&'static [u8]`, `Vec<u8>` | 200, `application/octet-stream` |
/// | [`Body`] | 200, without `Content-Type` |
/// | [`File`] | 200, `application/octet-stream`, from the file's position on; 500 where the system does not tell its length |
/// | [`StatusCode`] | that status, without a body |
/// | `(StatusCode, T)` | the response of `T`, with that status |
/// | `Result<T, E>` | that of the value, or that of the error |
/// | [`Error`] | its [`status_hint`](Error::status_hint), else 500: a body that is too long is 413. The caller reads the text of a 4xx; that of any other is logged |
/// | `std::io::Error`, `http::Error`, `Box<dyn Error + Send + Sync>` | that of the [`Error`] inside, where there is one; else 500, and its text is logged |
///
/// ```
/// use http::Request;
/// use reverse_http::{Body, Device, Gateway, IntoResponse};
///
/// /// A question mark ends a request whose body cannot be read.
/// fn answer(mut request: Request<Body>) -> Result<String, reverse_http::Error> {
///     Ok(request.body_mut().read_to_text(1000)?.to_uppercase())
/// }
///
/// let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
/// let url = format!("http://{}/lamp", gateway.devices_addr());
/// let device = Device::builder(url).build()?.spawn(answer)?;
///
/// // A test of the handler needs neither.
/// let response = answer(Request::new(Body::from("on"))).into_response();
/// assert_eq!(response.into_body().read_to_text(10)?, "ON");
/// let response = answer(Request::new(Body::from("x".repeat(1001)))).into_response();
/// assert_eq!(response.status(), 413);
/// # device.stop();
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`: it becomes no response",
    note = "it becomes one from text, bytes, `Body`, `File`, `StatusCode`, `(StatusCode, T)`, `Response<T>`, or a `Result` of these",
    note = "an error does so as `StatusCode`, `reverse_http::Error`, `std::io::Error`, `http::Error` or `Box<dyn Error + Send + Sync>`; `map_err(…)` makes one of these of another"
)]
pub trait IntoResponse {
    /// The response.
    fn into_response(self) -> Response<Body>;
}

fn ok(body: impl Into<Body>, content_type: HeaderValue) -> Response<Body> {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

impl<T: Into<Body>> IntoResponse for Response<T> {
    fn into_response(self) -> Response<Body> {
        self.map(Into::into)
    }
}

impl IntoResponse for &'static str {
    fn into_response(self) -> Response<Body> {
        ok(self, TEXT)
    }
}

impl IntoResponse for String {
    fn into_response(self) -> Response<Body> {
        ok(self, TEXT)
    }
}

impl IntoResponse for &'static [u8] {
    fn into_response(self) -> Response<Body> {
        ok(self, BYTES)
    }
}

impl IntoResponse for Vec<u8> {
    fn into_response(self) -> Response<Body> {
        ok(self, BYTES)
    }
}

impl IntoResponse for Body {
    fn into_response(self) -> Response<Body> {
        Response::new(self)
    }
}

impl IntoResponse for File {
    fn into_response(self) -> Response<Body> {
        match Body::from_file(self) {
            Ok(body) => ok(body, BYTES),
            Err(e) => {
                log::error!(
                    "a handler's file has no length ({e}); its request is answered with 500"
                );
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}

impl IntoResponse for StatusCode {
    fn into_response(self) -> Response<Body> {
        (self, Body::empty()).into_response()
    }
}

impl<T: IntoResponse> IntoResponse for (StatusCode, T) {
    fn into_response(self) -> Response<Body> {
        let mut response = self.1.into_response();
        *response.status_mut() = self.0;
        response
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response<Body> {
        let hint = self.status_hint().and_then(|status| StatusCode::from_u16(status).ok());
        let status = hint.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_client_error() {
            return (status, self.to_string()).into_response();
        }
        log_names!(Warn, "a handler failed, and its request is answered with {status}: {self}");
        status.into_response()
    }
}

impl IntoResponse for io::Error {
    fn into_response(self) -> Response<Body> {
        match self.downcast() {
            Ok(error) => Error::into_response(error),
            Err(other) => failed(&other),
        }
    }
}

impl IntoResponse for http::Error {
    fn into_response(self) -> Response<Body> {
        failed(&self)
    }
}

impl IntoResponse for Box<dyn std::error::Error + Send + Sync> {
    fn into_response(self) -> Response<Body> {
        match self.downcast::<Error>().map_err(|other| other.downcast::<io::Error>()) {
            Ok(error) => error.into_response(),
            Err(Ok(error)) => error.into_response(),
            Err(Err(other)) => failed(&*other),
        }
    }
}

/// Answers a handler's error that has no status of its own.
fn failed(error: &dyn std::error::Error) -> Response<Body> {
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    log_names!(Warn, "a handler failed, and its request is answered with {status}: {error}");
    status.into_response()
}

impl<T: IntoResponse, E: IntoResponse> IntoResponse for Result<T, E> {
    fn into_response(self) -> Response<Body> {
        match self {
            Ok(value) => value.into_response(),
            Err(error) => error.into_response(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::error::Fault;

    fn read(of: impl IntoResponse) -> (u16, Option<String>, Vec<u8>) {
        let (parts, mut body) = of.into_response().into_parts();
        let content_type = parts.headers.get(CONTENT_TYPE);
        (
            parts.status.as_u16(),
            content_type.map(|value| value.to_str().unwrap().to_owned()),
            body.read_to_vec(1000).unwrap(),
        )
    }

    #[test]
    fn each_type_becomes_its_response() {
        let text = Some("text/plain; charset=utf-8".to_owned());
        let bytes = Some("application/octet-stream".to_owned());
        assert_eq!(read("on"), (200, text.clone(), b"on".to_vec()));
        assert_eq!(read("on".to_owned()), (200, text.clone(), b"on".to_vec()));
        assert_eq!(read(&b"\0"[..]), (200, bytes.clone(), vec![0]));
        assert_eq!(read(vec![0]), (200, bytes, vec![0]));
        assert_eq!(read(Body::from("on")), (200, None, b"on".to_vec()));
        assert_eq!(read(StatusCode::NO_CONTENT), (204, None, Vec::new()));
        assert_eq!(read(Response::new("on")), (200, None, b"on".to_vec()));
        let missing = (StatusCode::NOT_FOUND, "no such lamp");
        assert_eq!(read(missing), (404, text.clone(), b"no such lamp".to_vec()));
        let taken = |is_there: bool| if is_there { Ok("on") } else { Err(missing) };
        assert_eq!(read(taken(true)), (200, text.clone(), b"on".to_vec()));
        assert_eq!(read(taken(false)), (404, text, b"no such lamp".to_vec()));
    }

    #[test]
    fn an_error_has_the_status_of_its_hint_and_shows_its_text_where_the_caller_is_at_fault() {
        let too_long = Body::from("12345").read_to_vec(4).unwrap_err();
        let text = too_long.to_string();
        let (status, _, body) = read(too_long);
        assert_eq!((status, String::from_utf8(body).unwrap()), (413, text));
        let not_text = Body::from(&b"\xff"[..]).read_to_text(4).unwrap_err();
        assert_eq!(read(not_text).0, 400);
        for hidden in [Error::usage("secret"), Error::closed(Fault::Gateway, "secret")] {
            let expected = hidden.status_hint().unwrap_or(500);
            assert_eq!(read(hidden), (expected, None, Vec::new()));
        }
    }

    #[test]
    fn an_error_of_others_is_500_unless_it_holds_one_of_ours() {
        type Any = Box<dyn std::error::Error + Send + Sync>;
        let too_long = || Body::from("12345").read_to_vec(4).unwrap_err();
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let invalid = || Response::builder().status(7).body("").unwrap_err();
        for (status, response) in [
            (500, read(missing())),
            (500, read(invalid())),
            (500, read(Any::from("secret"))),
            (500, read(Any::from(missing()))),
            (413, read(io::Error::from(too_long()))),
            (413, read(Any::from(too_long()))),
            (413, read(Any::from(io::Error::from(too_long())))),
        ] {
            assert_eq!(response.0, status, "{response:?}");
            assert_eq!(response.2.is_empty(), status == 500, "{response:?}");
        }
        let built: Result<_, Any> = Response::builder().body("on").map_err(Any::from);
        assert_eq!(read(built).2, b"on");
    }

    #[test]
    fn a_file_is_sent_from_its_position() {
        use std::io::{Seek, SeekFrom};
        let mut file = File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
        let whole = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
        file.seek(SeekFrom::Start(3)).unwrap();
        let (parts, mut body) = file.into_response().into_parts();
        assert_eq!((parts.status, body.length()), (StatusCode::OK, Some(whole.len() as u64 - 3)));
        assert_eq!(body.read_to_vec(1 << 20).unwrap(), &whole[3..]);
    }
}
