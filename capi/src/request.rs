//! A request that a program answers, and its response.

use std::ffi::{CString, c_char, c_void};
use std::fs::File;
use std::io::{self, Read};

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode};
use reverse_http::{Body, Exchange};

use crate::callback::{User, ptth_release_callback};
use crate::outcome::{Failure, guarded, ptth_status, status};
use crate::strings::{bytes, text, text_or_none};
use crate::words::in_c;

/// One request, and its future response; an opaque object.
#[allow(non_camel_case_types)]
pub struct ptth_request {
    method: CString,
    target: CString,
    fields: Vec<(CString, CString)>,
    body: Asked,
    /// Fields of the response.
    added: HeaderMap,
    response: Option<Response<Body>>,
}

/// The place of the request's body.
enum Asked {
    Handler(Body),
    Received(Box<Exchange>),
}

impl Asked {
    fn body(&mut self) -> &mut Body {
        match self {
            Asked::Handler(body) => body,
            Asked::Received(exchange) => exchange.request_mut().body_mut(),
        }
    }
}

/// Returns true for fields of a response that a program may not set.
fn is_the_librarys(name: &HeaderName) -> bool {
    const OURS: [&str; 8] = [
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    OURS.contains(&name.as_str())
}

/// Bytes without a NUL, as a C string.
fn c_string(bytes: impl Into<Vec<u8>>) -> CString {
    CString::new(bytes).unwrap_or_default()
}

impl ptth_request {
    fn new<B>(request: &Request<B>, body: Asked) -> Self {
        let fields = request.headers().iter();
        ptth_request {
            method: c_string(request.method().as_str()),
            target: c_string(request.uri().to_string()),
            fields: fields
                .map(|(name, value)| (c_string(name.as_str()), c_string(value.as_bytes())))
                .collect(),
            body,
            added: HeaderMap::new(),
            response: None,
        }
    }

    pub(crate) fn of_handler(request: Request<Body>) -> Self {
        let (parts, body) = request.into_parts();
        Self::new(&Request::from_parts(parts, ()), Asked::Handler(body))
    }

    pub(crate) fn received(mut exchange: Exchange) -> Self {
        // The fields are copied before the exchange moves.
        let request = exchange.request_mut();
        let mut this = Self::new(request, Asked::Handler(Body::empty()));
        this.body = Asked::Received(Box::new(exchange));
        this
    }

    /// The response that was given, or the 500 in its place.
    fn take_response(&mut self) -> Response<Body> {
        let mut response = self.response.take().unwrap_or_else(|| {
            log::error!(
                "{} {}: no response was given",
                text_of(&self.method),
                text_of(&self.target)
            );
            let mut response = Response::new(Body::from("the device's program gave no response\n"));
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        });
        response.headers_mut().extend(std::mem::take(&mut self.added));
        response
    }

    /// The response that a handler's thread returns.
    pub(crate) fn into_response(mut self) -> Response<Body> {
        self.take_response()
    }

    /// Sends the response of a received request.
    fn send(mut self) -> Result<(), Failure> {
        let response = self.take_response();
        match self.body {
            Asked::Received(exchange) => Ok(exchange.respond(response)?),
            Asked::Handler(_) => Err(Failure::usage(
                "this request is a handler's: its response is sent when the handler returns",
            )),
        }
    }
}

fn text_of(text: &CString) -> std::borrow::Cow<'_, str> {
    text.to_string_lossy()
}

/// # Safety
/// `request` is NULL, or was given to this program and not freed yet; no other thread uses it.
unsafe fn object<'r>(request: *mut ptth_request) -> Result<&'r mut ptth_request, Failure> {
    // SAFETY: the caller's promise.
    unsafe { request.as_mut() }.ok_or_else(|| Failure::usage("the request is NULL"))
}

/// The method, such as "GET". NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_request_method(request: *const ptth_request) -> *const c_char {
    // SAFETY: NULL or an object of the caller's (ptth.h).
    unsafe { request.as_ref() }.map_or(std::ptr::null(), |request| request.method.as_ptr())
}

/// The target: the path, and the query if there is one, such as "/status?all". NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_request_target(request: *const ptth_request) -> *const c_char {
    // SAFETY: NULL or an object of the caller's (ptth.h).
    unsafe { request.as_ref() }.map_or(std::ptr::null(), |request| request.target.as_ptr())
}

/// The value of the first field of this name, whatever the case of its letters; NULL if there is
/// none. It may have bytes that are not UTF-8.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_request_field(
    request: *const ptth_request,
    name: *const c_char,
) -> *const c_char {
    let found = guarded(|| {
        // SAFETY: NULL or an object of the caller's, and a string (ptth.h).
        let (request, name) = unsafe { (request.as_ref(), text(name, "the field's name")?) };
        let request = request.ok_or_else(|| Failure::usage("the request is NULL"))?;
        let mut fields = request.fields.iter();
        let found = fields.find(|(n, _)| n.as_bytes().eq_ignore_ascii_case(name.as_bytes()));
        Ok(found.map_or(std::ptr::null(), |(_, value)| value.as_ptr()))
    });
    found.unwrap_or(std::ptr::null())
}

/// The number of fields; those of the same name are counted separately. 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_request_fields(request: *const ptth_request) -> usize {
    // SAFETY: NULL or an object of the caller's (ptth.h).
    unsafe { request.as_ref() }.map_or(0, |request| request.fields.len())
}

/// A field by its number, from 0: its name in lower case, and its value. Either pointer may be
/// NULL. PTTH_USAGE after the last one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_request_field_at(
    request: *const ptth_request,
    number: usize,
    name: *mut *const c_char,
    value: *mut *const c_char,
) -> ptth_status {
    status(|| {
        // SAFETY: NULL or an object of the caller's (ptth.h).
        let request = unsafe { request.as_ref() };
        let request = request.ok_or_else(|| Failure::usage("the request is NULL"))?;
        let (n, v) = request.fields.get(number).ok_or_else(|| {
            Failure::usage(format!("there are {} fields, no number {number}", request.fields.len()))
        })?;
        for (to, from) in [(name, n), (value, v)] {
            if !to.is_null() {
                // SAFETY: not NULL, and the caller's own (ptth.h).
                unsafe { to.write(from.as_ptr()) };
            }
        }
        Ok(())
    })
}

/// Bytes of the body that are still to come; -1 if that is unknown until its end, or for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_request_length(request: *mut ptth_request) -> i64 {
    let length = guarded(|| {
        // SAFETY: NULL or an object of the caller's (ptth.h).
        let length = unsafe { object(request)? }.body.body().length();
        Ok(length.and_then(|length| i64::try_from(length).ok()).unwrap_or(-1))
    });
    length.unwrap_or(-1)
}

/// Bytes of a body that are read at once.
const STEP: usize = 64 * 1024;

/// Reads the next bytes of the body, at most `size`, and waits for the first of them. Returns their
/// number, 0 at the end, -1 if the body was cut (then the program does not have the whole body).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_request_read(
    request: *mut ptth_request,
    buffer: *mut c_void,
    size: usize,
) -> isize {
    let read = guarded(|| {
        // SAFETY: NULL or an object of the caller's (ptth.h).
        let request = unsafe { object(request)? };
        if buffer.is_null() || size > isize::MAX as usize {
            return Err(Failure::usage("the buffer is NULL, or longer than memory"));
        }
        // The program calls again for the rest: initialising all of a long buffer each time would
        // take longer than reading.
        let size = size.min(STEP);
        // SAFETY: `size` bytes of the caller's (ptth.h). They are initialised first, since a reader
        // may read them.
        let buffer = unsafe {
            std::ptr::write_bytes(buffer.cast::<u8>(), 0, size);
            std::slice::from_raw_parts_mut(buffer.cast::<u8>(), size)
        };
        let read = request.body.body().read(buffer);
        let read = read.map_err(|e| {
            Failure::new(ptth_status::PTTH_CLOSED, in_c(format!("reading a request's body: {e}")))
        })?;
        Ok(isize::try_from(read).unwrap_or(isize::MAX))
    });
    read.unwrap_or(-1)
}

/// Adds a field to the response. The library itself writes those that frame the message or apply to
/// one connection (Content-Length, Transfer-Encoding, Trailer, Connection, Keep-Alive, Upgrade and
/// similar ones): PTTH_USAGE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_response_field(
    request: *mut ptth_request,
    name: *const c_char,
    value: *const c_char,
) -> ptth_status {
    status(|| {
        // SAFETY: NULL or an object of the caller's, and strings (ptth.h).
        let (request, name, value) = unsafe {
            (object(request)?, text(name, "the field's name")?, text(value, "the field's value")?)
        };
        let name = HeaderName::try_from(name)
            .map_err(|_| Failure::usage(format!("{name:?} is no name of a field")))?;
        let value = HeaderValue::try_from(value).map_err(|_| {
            Failure::usage(format!("the value of {name} has bytes that no field may have"))
        })?;
        if is_the_librarys(&name) {
            return Err(Failure::usage(format!(
                "{name} is written by the library, which frames the response by the body that it is given"
            )));
        }
        request.added.append(name, value);
        Ok(())
    })
}

/// # Safety
/// Those of [`object`] and [`text_or_none`].
unsafe fn respond(
    request: *mut ptth_request,
    code: u16,
    content_type: *const c_char,
    body: impl FnOnce() -> Result<Body, Failure>,
) -> Result<(), Failure> {
    // SAFETY: the caller's promise, for both.
    let (request, content_type) =
        unsafe { (object(request)?, text_or_none(content_type, "the content type")?) };
    if request.response.is_some() {
        return Err(Failure::usage("this request has its response already"));
    }
    let code = StatusCode::from_u16(code).ok().filter(|code| !code.is_informational());
    let code = code.ok_or_else(|| Failure::usage("a response takes a status of 200 to 999"))?;
    let content_type = content_type.map(HeaderValue::try_from).transpose();
    let content_type = content_type
        .map_err(|_| Failure::usage("the content type has bytes that no field may have"))?;
    let mut response = Response::new(body()?);
    *response.status_mut() = code;
    if let Some(value) = content_type {
        response.headers_mut().insert(CONTENT_TYPE, value);
    }
    request.response = Some(response);
    Ok(())
}

/// The response: its status, its content type (NULL: none), and its body (NULL with 0: empty),
/// which is copied. It is sent when the handler returns, or by ptth_request_done. Only once for
/// each request.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_respond(
    request: *mut ptth_request,
    code: u16,
    content_type: *const c_char,
    body: *const c_void,
    length: usize,
) -> ptth_status {
    status(|| {
        // SAFETY: the caller's promise (ptth.h).
        unsafe {
            respond(request, code, content_type, || {
                let bytes = bytes(body.cast(), length, "the body")?;
                let mut copy = Vec::new();
                copy.try_reserve_exact(length).map_err(|_| {
                    let text = format!("there is no memory for a copy of the body's {length} bytes; give it piece by piece (ptth_respond_stream)");
                    Failure::new(ptth_status::PTTH_FULL, text)
                })?;
                copy.extend_from_slice(bytes);
                Ok(Body::from(copy))
            })
        }
    })
}

/// The same with a file as its body, from its beginning to its current end. PTTH_SYSTEM: it cannot
/// be opened or read, or is a directory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_respond_file(
    request: *mut ptth_request,
    code: u16,
    content_type: *const c_char,
    path: *const c_char,
) -> ptth_status {
    status(|| {
        // SAFETY: the caller's promise (ptth.h).
        unsafe {
            respond(request, code, content_type, || {
                let path = text(path, "the path")?;
                File::open(path).and_then(Body::from_file).map_err(|e| {
                    Failure::new(ptth_status::PTTH_SYSTEM, format!("opening {path}: {e}"))
                })
            })
        }
    })
}

/// Provides bytes of a body: writes at most `size` of them to `buffer` and returns their number, 0
/// at the end, -1 for a failure (then the response is aborted). It may block.
#[allow(non_camel_case_types)]
pub type ptth_read_callback =
    Option<unsafe extern "C" fn(user: *mut c_void, buffer: *mut c_void, size: usize) -> isize>;

struct Source {
    read: unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> isize,
    user: User,
}

// SAFETY: the caller of ptth_respond_stream promises that another thread may use it, one at a time.
unsafe impl Send for Source {}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the promise of ptth_respond_stream's caller; the buffer has the given length.
        let read =
            unsafe { (self.read)(self.user.pointer, buffer.as_mut_ptr().cast(), buffer.len()) };
        match usize::try_from(read) {
            Ok(read) if read <= buffer.len() => Ok(read),
            Ok(read) => Err(io::Error::other(format!(
                "the program's callback gave {read} bytes for a buffer of {}",
                buffer.len()
            ))),
            Err(_) => Err(io::Error::other("the program's callback failed")),
        }
    }
}

/// The same with a body that a callback provides piece by piece, of `length` bytes, or of an
/// unknown length (-1). It is called on a thread of the library after the handler has returned,
/// until it returns 0 or -1, or the rest is not needed any more; `release` (may be NULL) is called
/// at the end, and also if this function fails.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_respond_stream(
    request: *mut ptth_request,
    code: u16,
    content_type: *const c_char,
    length: i64,
    read: ptth_read_callback,
    release: ptth_release_callback,
    user: *mut c_void,
) -> ptth_status {
    status(|| {
        unsafe extern "C" fn nothing(_: *mut c_void, _: *mut c_void, _: usize) -> isize {
            0
        }
        let source = Source { read: read.unwrap_or(nothing), user: User::new(user, release) };
        if read.is_none() {
            return Err(Failure::usage("the callback is NULL"));
        }
        // SAFETY: the caller's promise (ptth.h).
        unsafe {
            respond(request, code, content_type, || match u64::try_from(length) {
                Ok(length) => Ok(Body::from_reader_with_length(source, length)),
                Err(_) if length == -1 => Ok(Body::from_reader(source)),
                Err(_) => Err(Failure::usage(format!("{length} is no length"))),
            })
        }
    })
}

/// Sends the response of a request that came from ptth_receive, and frees the request, whatever
/// this returns. Without a response, a 500 is sent. It must not be called for a handler's request.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_request_done(request: *mut ptth_request) -> ptth_status {
    status(|| {
        // SAFETY: NULL or an object of the caller's (ptth.h).
        if !matches!(unsafe { object(request)? }.body, Asked::Received(_)) {
            return Err(Failure::usage(
                "this request is a handler's: its response is sent when the handler returns",
            ));
        }
        // SAFETY: it came from ptth_receive, which made it by Box::into_raw, and is not used afterwards.
        unsafe { Box::from_raw(request) }.send()
    })
}
