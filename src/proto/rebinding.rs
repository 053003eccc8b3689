//! DNS rebinding: a web page whose own name resolves to this machine makes a browser send requests
//! to a listener on loopback, and reads the answers. Such a request is recognised by its `Host`.

use core::net::IpAddr;

use crate::proto::authority;

/// Returns true if this `Host` is `localhost` or an address, with or without a port: another site's
/// page cannot have such a name.
///
/// ```
/// use reverse_http::proto::rebinding::is_local;
/// assert!(is_local(b"localhost:9990") && is_local(b"127.0.0.1") && is_local(b"[::1]:80"));
/// assert!(!is_local(b"rebound.example") && !is_local(b"127.0.0.1.example") && !is_local(b""));
/// ```
#[must_use]
pub fn is_local(host: &[u8]) -> bool {
    let Ok(authority) = authority::authority(host) else { return false };
    let bare = authority::bare(authority.host);
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}
