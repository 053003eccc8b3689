//! The session that a device sends to each origin: other origins must not learn the session of its
//! own gateways.

use std::collections::VecDeque;

use sha2::{Digest as _, Sha256};

use crate::device::url::Url;
use crate::proto::digits::hex;

/// The most origins of redirects whose sessions are remembered.
const REMEMBERED_MAX: usize = 32;

/// The sessions of one run of a device.
pub(super) struct Sessions {
    /// The session for its own gateways, if it has one.
    own: Option<[u8; 16]>,
    /// The sessions for origins of redirects, the newest last.
    elsewhere: VecDeque<[u8; 16]>,
}

impl Sessions {
    pub(super) fn new(own: Option<[u8; 16]>) -> Self {
        Sessions { own, elsewhere: VecDeque::new() }
    }

    /// The session of the configured gateways.
    pub(super) fn own(&self) -> Option<[u8; 16]> {
        self.own
    }

    /// The session for any other origin: always the same for an origin, and without a relation to
    /// the own one.
    pub(super) fn of(&mut self, url: &Url) -> Option<[u8; 16]> {
        let scheme = if url.secure { "https" } else { "http" };
        let origin = format!("{scheme}://{}:{}", url.host.to_ascii_lowercase(), url.port);
        let digest = Sha256::new().chain_update(self.own?).chain_update(origin).finalize();
        let session = *digest.first_chunk::<16>()?;
        if !self.elsewhere.contains(&session) {
            self.elsewhere.push_back(session);
        }
        if self.elsewhere.len() > REMEMBERED_MAX {
            self.elsewhere.pop_front();
        }
        Some(session)
    }

    /// Returns true if `text` is one of the sessions that this device has sent.
    pub(super) fn is_one(&self, text: &[u8]) -> bool {
        self.own.iter().chain(&self.elsewhere).any(|session| hex(session).as_bytes() == text)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn each_origin_has_a_session_of_its_own_and_keeps_it() {
        let url = |text: &str| Url::parse(text, "gateway").unwrap();
        let mut sessions = Sessions::new(Some([7; 16]));
        let one = sessions.of(&url("http://GW.example:9000/lamp")).unwrap();
        assert_eq!(sessions.of(&url("http://gw.example:9000/other")), Some(one));
        let other = sessions.of(&url("http://gw.example:9001/lamp")).unwrap();
        assert!(one != other && one != [7; 16] && other != [7; 16]);
        assert!(
            [one, other, [7; 16]].iter().all(|session| sessions.is_one(hex(session).as_bytes()))
        );
        assert!(!sessions.is_one(hex(&[8; 16]).as_bytes()));
        for port in 1..100 {
            sessions.of(&url(&format!("http://gw.example:{port}/lamp")));
        }
        assert_eq!(sessions.elsewhere.len(), REMEMBERED_MAX);
        assert_eq!(Sessions::new(None).of(&url("http://gw.example/lamp")), None);
    }
}
