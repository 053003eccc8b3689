//! Access to the admin listener, and its lines in the log.
//!
//! With tokens, the first request with each token from each address is logged, and so is every
//! request with an invalid token. Without tokens every client that can connect is admitted. Pages
//! of other sites must not use an operator's browser: requests for a DNS name that resolves to
//! loopback (DNS rebinding) are refused, and actions need a field that such pages cannot set
//! (CSRF).

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError, RwLock};

use crate::admin::reply::Reply;
use crate::error::Error;
use crate::gateway::tokens::{Digest, Tokens, shown};
use crate::logs::Gate;

use crate::proto::fields::begins;
use crate::proto::forward;
use crate::proto::framed::FramedRequest;
use crate::proto::peer;
use crate::proto::rebinding;

/// The most pairs of token and address that are remembered as logged; beyond that, the oldest is
/// logged again.
const SEEN_MAX: usize = 256;
/// Lines about refusals, per second.
const REFUSALS_PER_SECOND: u32 = 1;

/// The source of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remote {
    Address(IpAddr),
    UnixSocket,
}

impl Remote {
    /// The address for the bound per address, if it is beyond this machine.
    pub(super) fn beyond(self) -> Option<IpAddr> {
        match self {
            Remote::Address(address) if !address.is_loopback() => Some(address),
            _ => None,
        }
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remote::Address(address) => address.fmt(f),
            Remote::UnixSocket => f.write_str("the Unix socket"),
        }
    }
}

/// The token of the operator. `None` if there are no tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operator(Option<Digest>);

/// The current tokens, and the pairs of token and address that were logged.
pub(super) struct Operators {
    tokens: RwLock<Option<Tokens>>,
    seen: Mutex<VecDeque<(Digest, Remote)>>,
    token_bytes_max: usize,
}

impl Operators {
    pub(super) fn new(tokens: Option<Tokens>, token_bytes_max: usize) -> Self {
        Operators { tokens: RwLock::new(tokens), seen: Mutex::default(), token_bytes_max }
    }

    /// Replaces the tokens, if the listener has tokens.
    pub(super) fn replace(&self, new: Tokens) -> Result<(), Error> {
        let mut tokens = self.tokens.write().unwrap_or_else(PoisonError::into_inner);
        if tokens.is_none() {
            return Err(Error::usage("this admin listener was started without tokens"));
        }
        *tokens = Some(new);
        Ok(())
    }

    /// Admits a request; returns its operator.
    ///
    /// # Errors
    /// The refusal to answer with.
    pub(super) fn admit(
        &self,
        request: &FramedRequest<'_>,
        from: Remote,
    ) -> Result<Operator, Reply> {
        // Another gateway sends visitors' requests here, because the directory has the wrong port.
        if request.fields.iter().any(|field| begins(field.name, peer::PREFIX)) {
            return Err(Reply::text(
                421,
                "this port is for operators; other gateways have one of their own",
            ));
        }
        let operator = match &*self.tokens.read().unwrap_or_else(PoisonError::into_inner) {
            Some(tokens) => Operator(Some(self.known(request, tokens, from)?)),
            None if is_local(request) => Operator(None),
            None => {
                return Err(Reply::text(
                    421,
                    "the admin listener answers for localhost and for addresses alone (DNS rebinding)",
                ));
            }
        };
        if request.method == "POST" && request.fields.get("X-Ptth-Admin").is_none() {
            return Err(Reply::text(403, "actions need the field X-Ptth-Admin: 1 (CSRF)"));
        }
        Ok(operator)
    }

    fn known(
        &self,
        request: &FramedRequest<'_>,
        tokens: &Tokens,
        from: Remote,
    ) -> Result<Digest, Reply> {
        static REFUSED: Gate = Gate::new(module_path!(), REFUSALS_PER_SECOND);
        let digest = self.shown(request);
        match digest.filter(|digest| tokens.is_valid(digest)) {
            Some(digest) => {
                self.tell_first(digest, tokens, from);
                return Ok(digest);
            }
            // A browser sends its first request without one.
            None if request.fields.all("Authorization").next().is_none() => {
                log_names!(Debug, "an operator at {from} showed no token");
            }
            None => {
                let why = match digest.and_then(|digest| tokens.expired(&digest)) {
                    Some(day) => format!("a token whose last day was {day}"),
                    None => "no token of this gateway's operators".to_owned(),
                };
                REFUSED.log(
                    log::Level::Warn,
                    format_args!("a client of the admin listener at {from} showed {why}"),
                );
            }
        }
        let is_shown = request.fields.get("Authorization").is_some();
        Err(Reply::text(401, if is_shown { NOT_KNOWN } else { UNKNOWN })
            .field("WWW-Authenticate", "Basic realm=\"ptth admin\", charset=\"UTF-8\"")
            .field("WWW-Authenticate", "Bearer realm=\"ptth admin\""))
    }

    fn shown(&self, request: &FramedRequest<'_>) -> Option<Digest> {
        shown(request.fields.all("Authorization"), self.token_bytes_max)
    }

    /// Logs a token once for each address from which it comes.
    fn tell_first(&self, digest: Digest, tokens: &Tokens, from: Remote) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.contains(&(digest, from)) {
            return;
        }
        if seen.len() == SEEN_MAX {
            seen.pop_front();
        }
        seen.push_back((digest, from));
        drop(seen);
        let label = tokens.label(&digest).unwrap_or_default();
        log_names!(Info, "an operator came from {from}, with the token {label}");
    }

    /// Returns true if a request has the credential that [`admit`](Self::admit) requires,
    /// regardless of its path. A connection without a token is not kept, because it would occupy an
    /// operator's place.
    pub(super) fn are_shown(&self, request: &FramedRequest<'_>) -> bool {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        let is_valid =
            |tokens: &Tokens| self.shown(request).is_some_and(|digest| tokens.is_valid(&digest));
        tokens.as_ref().is_none_or(is_valid)
    }

    /// Returns true if an operator that was admitted still would be.
    pub(super) fn still_admit(&self, operator: Operator) -> bool {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        match (&*tokens, operator.0) {
            (Some(tokens), Some(digest)) => tokens.is_valid(&digest),
            (None, _) => true,
            (Some(_), None) => false,
        }
    }

    /// The label of an operator's token; empty if there are no tokens.
    pub(super) fn label(&self, operator: Operator) -> String {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        let label = tokens.as_ref().zip(operator.0).and_then(|(all, digest)| all.label(&digest));
        label.map(String::from).unwrap_or_default()
    }
}

/// The answer to a request without a token.
pub(super) const UNKNOWN: &str = "operators of this gateway show a token";
const NOT_KNOWN: &str = "the token is not one of this gateway's operators";

fn is_local(request: &FramedRequest<'_>) -> bool {
    forward::host_of(request)
        .is_ok_and(|host| host.is_some_and(|host| rebinding::is_local(host.as_bytes())))
}
