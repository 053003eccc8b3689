//! The settings of a device.

use std::ffi::{c_char, c_int};
use std::time::{Duration, UNIX_EPOCH};

use reverse_http::proto::turn::Fallback;
use reverse_http::{Device, DeviceBuilder, Limits, OnRefusal};

use crate::outcome::{Failure, guarded, ptth_status, status};
use crate::strings::text;
use crate::tls::Tls;

/// When the fallback (COMET: long polling) is used.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub enum ptth_fallback {
    /// If connections cannot be upgraded: the default.
    PTTH_FALLBACK_AUTO = 0,
    /// Never: connections have to be upgraded.
    PTTH_FALLBACK_NEVER = 1,
    /// Always: no connection is upgraded.
    PTTH_FALLBACK_ONLY = 2,
}

/// The settings of a device; an opaque object.
#[allow(non_camel_case_types)]
pub struct ptth_options {
    /// Applied in this order to a new builder, so that options may be used more than once.
    url: String,
    settings: Vec<Setting>,
    limits: Limits,
    tls: Option<Tls>,
}

type Setting = Box<dyn Fn(DeviceBuilder) -> DeviceBuilder + Send + Sync>;

impl ptth_options {
    /// A device with these settings, after checking them.
    pub(crate) fn device(&self) -> Result<Device, Failure> {
        let mut builder = Device::builder(&self.url).limits(self.limits.clone());
        for setting in &self.settings {
            builder = setting(builder);
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            builder = builder.tls(tls.0.clone());
        }
        Ok(builder.build()?)
    }
}

/// # Safety
/// `options` is NULL or came from ptth_options_new, and no other thread uses it.
unsafe fn object<'o>(options: *mut ptth_options) -> Result<&'o mut ptth_options, Failure> {
    // SAFETY: the caller's promise.
    unsafe { options.as_mut() }.ok_or_else(|| Failure::usage("the options are NULL"))
}

/// # Safety
/// Those of [`object`] and [`text`].
unsafe fn set(
    options: *mut ptth_options,
    value: (*const c_char, &str),
    setting: impl Fn(DeviceBuilder, &str) -> DeviceBuilder + Send + Sync + 'static,
) -> ptth_status {
    status(|| {
        // SAFETY: the caller's promise, for both.
        let (options, value) = unsafe { (object(options)?, text(value.0, value.1)?.to_owned()) };
        options.settings.push(Box::new(move |builder| setting(builder, &value)));
        Ok(())
    })
}

/// Options of a device of the gateway at this URL: "http://gw.example:9999/lamp" registers the name
/// "lamp"; https:// needs a library with TLS. NULL: the URL is NULL or not UTF-8. Its content is
/// checked when a device is started.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_options_new(url: *const c_char) -> *mut ptth_options {
    let made = guarded(|| {
        // SAFETY: the caller's promise (ptth.h).
        let url = unsafe { text(url, "the gateway's URL")? }.to_owned();
        let options =
            ptth_options { url, settings: Vec::new(), limits: Limits::default(), tls: None };
        Ok(Box::into_raw(Box::new(options)))
    });
    made.unwrap_or(std::ptr::null_mut())
}

/// Frees options. Devices that were started with them are not affected. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_options_free(options: *mut ptth_options) {
    if !options.is_null() {
        // SAFETY: it came from ptth_options_new, and is not used afterwards (ptth.h).
        let options = unsafe { Box::from_raw(options) };
        let _ = guarded(|| {
            drop(options);
            Ok(())
        });
    }
}

/// Adds another gateway to which the device connects, too; up to 16 in all.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_options_gateway(
    options: *mut ptth_options,
    url: *const c_char,
) -> ptth_status {
    // SAFETY: the caller's promise (ptth.h).
    unsafe { set(options, (url, "the gateway's URL"), |builder, url| builder.gateway(url)) }
}

/// Whether the gateways are used one at a time, in their order, instead of all at once (the
/// default).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_options_failover(
    options: *mut ptth_options,
    failover: bool,
) -> ptth_status {
    status(|| {
        // SAFETY: the caller's promise (ptth.h).
        let options = unsafe { object(options)? };
        options.settings.push(Box::new(move |builder| builder.failover(failover)));
        Ok(())
    })
}

/// Sends "Authorization: Bearer TOKEN" with the offer, to the gateways only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_options_token(
    options: *mut ptth_options,
    token: *const c_char,
) -> ptth_status {
    // SAFETY: the caller's promise (ptth.h).
    unsafe { set(options, (token, "the token"), |builder, token| builder.bearer_token(token)) }
}

/// Sends a field with each offer, to the gateways only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_options_field(
    options: *mut ptth_options,
    name: *const c_char,
    value: *const c_char,
) -> ptth_status {
    let name = guarded(|| {
        // SAFETY: the caller's promise (ptth.h).
        Ok(unsafe { text(name, "the field's name")? }.to_owned())
    });
    match name {
        Err(status) => status,
        // SAFETY: the caller's promise (ptth.h).
        Ok(name) => unsafe {
            set(options, (value, "the field's value"), move |builder, value| {
                builder.field(&name, value)
            })
        },
    }
}

/// A proxy through which connections are made, with CONNECT: "http://proxy.example:3128".
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_options_proxy(
    options: *mut ptth_options,
    url: *const c_char,
) -> ptth_status {
    // SAFETY: the caller's promise (ptth.h).
    unsafe { set(options, (url, "the proxy's URL"), |builder, url| builder.proxy(url)) }
}

/// User and password for the proxy (Basic). Its URL must not contain them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_options_proxy_credentials(
    options: *mut ptth_options,
    user: *const c_char,
    password: *const c_char,
) -> ptth_status {
    let user = guarded(|| {
        // SAFETY: the caller's promise (ptth.h).
        Ok(unsafe { text(user, "the proxy's user")? }.to_owned())
    });
    match user {
        Err(status) => status,
        // SAFETY: the caller's promise (ptth.h).
        Ok(user) => unsafe {
            set(options, (password, "the proxy's password"), move |builder, password| {
                builder.proxy_credentials(&user, password)
            })
        },
    }
}

/// A host to which a gateway may redirect the device, in addition to the hosts of its own gateways:
/// "gw2.example", "*.gw.example", an address or a network; with ":PORT" only that port. May be
/// called several times.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_options_redirect_host(
    options: *mut ptth_options,
    host: *const c_char,
) -> ptth_status {
    // SAFETY: the caller's promise (ptth.h).
    unsafe { set(options, (host, "the host"), |builder, host| builder.redirect_host(host)) }
}

/// Whether a gateway's URL may have more than a name: then path and query are sent in the offer
/// unchanged, for other gateway software (not the default).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_options_whole_target(
    options: *mut ptth_options,
    whole: bool,
) -> ptth_status {
    status(|| {
        // SAFETY: the caller's promise (ptth.h).
        let options = unsafe { object(options)? };
        options.settings.push(Box::new(move |builder| builder.whole_target(whole)));
        Ok(())
    })
}

/// `Host` of requests that are forwarded to a local server (ptth_forward), instead of the visitor's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_options_host_header(
    options: *mut ptth_options,
    host: *const c_char,
) -> ptth_status {
    // SAFETY: the caller's promise (ptth.h).
    unsafe { set(options, (host, "the host"), |builder, host| builder.host_header(host)) }
}

/// The least and the most links (upgraded connections) to each gateway (1 and 128 by default).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_options_links(
    options: *mut ptth_options,
    least: usize,
    most: usize,
) -> ptth_status {
    status(|| {
        // SAFETY: the caller's promise (ptth.h).
        let options = unsafe { object(options)? };
        options.settings.push(Box::new(move |builder| builder.links(least..=most)));
        Ok(())
    })
}

/// The least and the most polls of the fallback (2 and 64 by default).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_options_polls(
    options: *mut ptth_options,
    least: usize,
    most: usize,
) -> ptth_status {
    status(|| {
        // SAFETY: the caller's promise (ptth.h).
        let options = unsafe { object(options)? };
        options.settings.push(Box::new(move |builder| builder.polls(least..=most)));
        Ok(())
    })
}

/// When the fallback is used: one of `ptth_fallback`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_options_fallback(
    options: *mut ptth_options,
    fallback: c_int,
) -> ptth_status {
    status(|| {
        // SAFETY: the caller's promise (ptth.h).
        let options = unsafe { object(options)? };
        let fallback = match fallback {
            0 => Fallback::Auto,
            1 => Fallback::Never,
            2 => Fallback::Only,
            _ => return Err(Failure::usage(format!("{fallback} is no ptth_fallback"))),
        };
        options.settings.push(Box::new(move |builder| builder.fallback(fallback)));
        Ok(())
    })
}

/// Pauses between attempts to connect, in milliseconds: they grow from the first to the second
/// (1,000 and 60,000 by default), with jitter.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_options_backoff(
    options: *mut ptth_options,
    least_ms: u32,
    most_ms: u32,
) -> ptth_status {
    status(|| {
        // SAFETY: the caller's promise (ptth.h).
        let options = unsafe { object(options)? };
        options.limits.backoff_min = Duration::from_millis(least_ms.into());
        options.limits.backoff_max = Duration::from_millis(most_ms.into());
        Ok(())
    })
}

/// Ends the device after this number of failed attempts in a row while it is not connected
/// (ptth_device_wait returns the reason); by default it never gives up.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_options_max_retries(
    options: *mut ptth_options,
    attempts: u32,
) -> ptth_status {
    status(|| {
        // SAFETY: the caller's promise (ptth.h).
        let options = unsafe { object(options)? };
        options.settings.push(Box::new(move |builder| builder.max_retries(attempts)));
        Ok(())
    })
}

/// The most callbacks that answer requests at once (64 by default); more requests wait.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_options_handlers(
    options: *mut ptth_options,
    most: usize,
) -> ptth_status {
    status(|| {
        // SAFETY: the caller's promise (ptth.h).
        unsafe { object(options)? }.limits.handlers_max = most;
        Ok(())
    })
}

/// Whether the device ends when a gateway refuses its first offer, instead of trying again later
/// (the default).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_options_stop_when_refused(
    options: *mut ptth_options,
    stop: bool,
) -> ptth_status {
    status(|| {
        // SAFETY: the caller's promise (ptth.h).
        let options = unsafe { object(options)? };
        let what = if stop { OnRefusal::Stop } else { OnRefusal::Retry };
        options.settings.push(Box::new(move |builder| builder.on_refusal(what)));
        Ok(())
    })
}

/// # Safety
/// That of [`object`].
unsafe fn set_tls(
    options: *mut ptth_options,
    change: impl FnOnce(Tls) -> Result<Tls, Failure>,
) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    let options = unsafe { object(options)? };
    options.tls = Some(change(options.tls.clone().unwrap_or_default())?);
    Ok(())
}

/// CA certificates (PEM) with which the gateway's certificate is verified, instead of the system's.
/// May be called several times.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_options_ca(
    options: *mut ptth_options,
    pem: *const c_char,
) -> ptth_status {
    // SAFETY: the caller's promise (ptth.h), for both.
    status(|| unsafe {
        let pem = text(pem, "the CA")?;
        set_tls(options, |tls| tls.ca(pem))
    })
}

/// The public key of the gateway's certificate, "sha256/" and base64 (curl's "sha256//" is
/// accepted, too), instead of a chain to a CA. May be called several times.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_options_pin(
    options: *mut ptth_options,
    pin: *const c_char,
) -> ptth_status {
    // SAFETY: the caller's promise (ptth.h), for both.
    status(|| unsafe {
        let pin = text(pin, "the pin")?;
        set_tls(options, |tls| tls.pin(pin))
    })
}

/// The earliest possible current time, in seconds since 1970, for a device that starts without a
/// clock. Without it, a device whose clock shows a time before 2026 waits until the clock is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_options_clock_floor(
    options: *mut ptth_options,
    seconds: u64,
) -> ptth_status {
    // SAFETY: the caller's promise (ptth.h).
    status(|| unsafe {
        let floor = UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        let floor = floor.ok_or_else(|| Failure::usage(format!("{seconds} s is no time")))?;
        set_tls(options, |tls| tls.clock_floor(floor))
    })
}

/// The certificate chain (PEM) that the device presents to the gateway, and its private key (PEM).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_options_identity(
    options: *mut ptth_options,
    certificates: *const c_char,
    key: *const c_char,
) -> ptth_status {
    // SAFETY: the caller's promise (ptth.h), for all.
    status(|| unsafe {
        let certificates = text(certificates, "the certificates")?;
        let key = text(key, "the key")?;
        set_tls(options, |tls| tls.identity(certificates, key))
    })
}
