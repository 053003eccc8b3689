//! A running device.

use std::ffi::{c_char, c_void};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reverse_http::proto::turn::Transport;
use reverse_http::{Device, DeviceHandle, Exchange};

use crate::callback::{User, ptth_release_callback};
use crate::options::ptth_options;
use crate::outcome::{Failure, guarded, ptth_status, status};
use crate::request::ptth_request;
use crate::strings::text;

/// A running device; an opaque object.
#[allow(non_camel_case_types)]
pub struct ptth_device {
    handle: DeviceHandle,
    /// Set by ptth_open.
    receiver: Option<Receiver>,
}

/// Receives requests.
struct Receiver {
    device: Device,
    /// A request that arrived during the start.
    first: Mutex<Option<Exchange>>,
}

impl Receiver {
    fn first(&self) -> Option<Exchange> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Answers one request with ptth_respond or a similar function. It runs on a thread of the library,
/// possibly on several at once (ptth_options_handlers), with a stack of 2 MiB. The request is valid
/// until it returns. Then its response is sent: a 500 if it gave none.
#[allow(non_camel_case_types)]
pub type ptth_handler = Option<unsafe extern "C" fn(request: *mut ptth_request, user: *mut c_void)>;

/// How the device and a gateway are connected.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub enum ptth_transport {
    /// Not connected.
    PTTH_OFFLINE = 0,
    /// By upgraded connections (links).
    PTTH_UPGRADE = 1,
    /// By polls of the fallback (COMET).
    PTTH_COMET = 2,
}

/// The current state of a device, over all its gateways.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub struct ptth_state {
    /// The transport of its gateway, or of the first one that is connected.
    pub transport: ptth_transport,
    /// Upgraded connections.
    pub links: usize,
    /// Polls, those with a request in progress included.
    pub polls: usize,
    /// Links with a request in progress.
    pub busy: usize,
    /// Connections that are being established.
    pub dialing: usize,
    /// Requests since the start.
    pub requests: u64,
}

struct Handler {
    call: unsafe extern "C" fn(*mut ptth_request, *mut c_void),
    user: User,
}

// SAFETY: the caller of ptth_serve promises that its handler may run on any thread with that pointer.
unsafe impl Send for Handler {}
// SAFETY: as above; several at once.
unsafe impl Sync for Handler {}

impl Handler {
    fn answer(
        &self,
        request: http::Request<reverse_http::Body>,
    ) -> http::Response<reverse_http::Body> {
        let mut request = ptth_request::of_handler(request);
        // SAFETY: the promise of ptth_serve's caller; the request lives until the call returns.
        unsafe { (self.call)(&mut request, self.user.pointer) };
        request.into_response()
    }
}

/// # Safety
/// `options` is NULL or came from ptth_options_new; `place` is NULL or the caller's own.
unsafe fn start(
    options: *const ptth_options,
    place: *mut *mut ptth_device,
    start: impl FnOnce(Device) -> Result<ptth_device, Failure>,
) -> ptth_status {
    status(|| {
        if place.is_null() {
            return Err(Failure::usage("the place for the device is NULL"));
        }
        // SAFETY: not NULL, and the caller's own.
        unsafe { place.write(std::ptr::null_mut()) };
        // SAFETY: the caller's promise.
        let options = unsafe { options.as_ref() };
        let options = options.ok_or_else(|| Failure::usage("the options are NULL"))?;
        let device = start(options.device()?)?;
        // SAFETY: as above.
        unsafe { place.write(Box::into_raw(Box::new(device))) };
        Ok(())
    })
}

/// # Safety
/// `device` is NULL, or came from a function that starts one, and is not freed yet.
unsafe fn object<'d>(device: *const ptth_device) -> Result<&'d ptth_device, Failure> {
    // SAFETY: the caller's promise.
    unsafe { device.as_ref() }.ok_or_else(|| Failure::usage("the device is NULL"))
}

/// Starts a device whose requests a callback answers, and stores it in `*device` (NULL if this
/// fails). `user` is passed to the callback unchanged. `release` (may be NULL) is called once, when
/// the device has ended and the last callback has returned, which may be after ptth_device_free;
/// and also if this function fails. The caller keeps the options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_serve(
    options: *const ptth_options,
    handler: ptth_handler,
    release: ptth_release_callback,
    user: *mut c_void,
    device: *mut *mut ptth_device,
) -> ptth_status {
    let user = User::new(user, release);
    // SAFETY: the caller's promise (ptth.h).
    unsafe {
        start(options, device, |device| {
            let call = handler.ok_or_else(|| Failure::usage("the handler is NULL"))?;
            let handler = Handler { call, user };
            let handle = device.spawn(move |request| handler.answer(request))?;
            Ok(ptth_device { handle, receiver: None })
        })
    }
}

/// Starts a device that forwards its requests to a local HTTP server: "http://127.0.0.1:3000",
/// "unix:/run/app.sock". Requests need no threads. Stores it in `*device` (NULL if this fails).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_forward(
    options: *const ptth_options,
    server: *const c_char,
    device: *mut *mut ptth_device,
) -> ptth_status {
    // SAFETY: the caller's promise (ptth.h).
    unsafe {
        start(options, device, |device| {
            let server = text(server, "the local server's URL")?;
            Ok(ptth_device { handle: device.spawn_forward(server)?, receiver: None })
        })
    }
}

/// Starts a device whose requests the program receives with ptth_receive. Stores it in `*device`
/// (NULL if this fails).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_open(
    options: *const ptth_options,
    device: *mut *mut ptth_device,
) -> ptth_status {
    // SAFETY: the caller's promise (ptth.h).
    unsafe {
        start(options, device, |device| {
            let first = Mutex::new(device.recv_timeout(Duration::ZERO)?); // this starts it
            let handle = device.handle();
            let handle = handle.ok_or_else(|| Failure::usage("the device did not start"))?;
            Ok(ptth_device { handle, receiver: Some(Receiver { device, first }) })
        })
    }
}

/// The next request of a device that ptth_open started, on one thread or on several: stored in
/// `*request`, which is NULL otherwise. Waits for at most `time_ms` milliseconds (negative: until
/// there is one). PTTH_TIMEOUT: there was none; PTTH_STOPPED, PTTH_REFUSED: there will be none.
/// Each request has to be ended with ptth_request_done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_receive(
    device: *const ptth_device,
    time_ms: i64,
    request: *mut *mut ptth_request,
) -> ptth_status {
    status(|| {
        if request.is_null() {
            return Err(Failure::usage("the place for the request is NULL"));
        }
        // SAFETY: not NULL, and the caller's own (ptth.h).
        unsafe { request.write(std::ptr::null_mut()) };
        // SAFETY: the caller's promise (ptth.h).
        let device = unsafe { object(device)? };
        let receiver = device.receiver.as_ref().ok_or_else(|| {
            Failure::usage("this device answers its requests itself: start it with ptth_open")
        })?;
        let exchange = match (receiver.first(), u64::try_from(time_ms)) {
            (Some(first), _) => first,
            (None, Err(_)) => receiver.device.recv()?,
            (None, Ok(time)) => {
                let received = receiver.device.recv_timeout(Duration::from_millis(time))?;
                received.ok_or_else(|| {
                    Failure::new(ptth_status::PTTH_TIMEOUT, format!("no request within {time} ms"))
                })?
            }
        };
        let received = Box::new(ptth_request::received(exchange));
        // SAFETY: as above.
        unsafe { request.write(Box::into_raw(received)) };
        Ok(())
    })
}

/// Stores the current state of the device in `*state`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_device_state(
    device: *const ptth_device,
    state: *mut ptth_state,
) -> ptth_status {
    status(|| {
        // SAFETY: the caller's promise (ptth.h).
        let stats = unsafe { object(device)? }.handle.stats();
        if state.is_null() {
            return Err(Failure::usage("the place for the state is NULL"));
        }
        let transport = match stats.transport {
            None => ptth_transport::PTTH_OFFLINE,
            Some(Transport::Comet(_)) => ptth_transport::PTTH_COMET,
            Some(_) => ptth_transport::PTTH_UPGRADE,
        };
        let now = ptth_state {
            transport,
            links: stats.links,
            polls: stats.polls,
            busy: stats.busy,
            dialing: stats.dialing,
            requests: stats.exchanges,
        };
        // SAFETY: not NULL, and the caller's own (ptth.h).
        unsafe { state.write(now) };
        Ok(())
    })
}

/// Dials at once, without the rest of the pause after the last failure: for when the network is
/// back.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_device_retry_now(device: *const ptth_device) -> ptth_status {
    status(|| {
        // SAFETY: the caller's promise (ptth.h).
        unsafe { object(device)? }.handle.retry_now();
        Ok(())
    })
}

/// Accepts no new requests, lets requests in progress finish within the time, then ends the device:
/// with 0 they are cut. Returns when its connections have ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_device_stop(device: *const ptth_device, time_ms: u32) -> ptth_status {
    status(|| {
        // SAFETY: the caller's promise (ptth.h).
        let device = unsafe { object(device)? };
        device.handle.drain(Duration::from_millis(time_ms.into()));
        Ok(())
    })
}

/// Waits until the device has ended: because it was stopped (PTTH_OK), was refused by its gateway,
/// or has used up its attempts. Each call on any thread returns the same.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_device_wait(device: *const ptth_device) -> ptth_status {
    status(|| {
        // SAFETY: the caller's promise (ptth.h).
        Ok(unsafe { object(device)? }.handle.wait()?)
    })
}

/// Stops the device as with ptth_device_stop and 0, and frees it. No other call may use it then or
/// be in progress. A handler that still runs may continue after this; its request stays valid until
/// it returns. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_device_free(device: *mut ptth_device) {
    if !device.is_null() {
        // SAFETY: it came from a function that starts one, and is not used afterwards (ptth.h).
        let device = unsafe { Box::from_raw(device) };
        let _ = guarded(|| {
            device.handle.stop();
            drop(device);
            Ok(())
        });
    }
}
