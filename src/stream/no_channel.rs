//! In place of `channel.rs` in a build without the feature `tls`: there is no session, so nothing of one can be reached.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::stream::Kind;

pub(crate) enum Channel {}

/// In place of `tls::GatewayTls`.
#[derive(Clone)]
pub(crate) enum GatewayTls {}

/// In place of `tls::Connector`.
pub(crate) enum Connector {}

impl Connector {
    pub(crate) fn has_time(&self) -> bool {
        match *self {}
    }
}

#[allow(dead_code, reason = "nothing can be constructed")]
pub(crate) enum Shaken {
    Waiting,
    Compute,
    Done,
    Failed(Broken),
}

#[allow(dead_code, reason = "nothing can be constructed")]
pub(crate) struct Broken {
    pub(crate) text: String,
    pub(crate) plain: bool,
}

impl Channel {
    pub(crate) fn to_gateway(connector: &Connector, _: &str) -> Result<Arc<Channel>, Error> {
        match *connector {}
    }
    pub(crate) fn to_peer(config: &GatewayTls) -> Result<Arc<Channel>, Error> {
        match *config {}
    }
    pub(crate) fn speaks_first(&self) -> bool {
        match *self {}
    }
    pub(super) fn shake(&self, _: &Kind) -> Shaken {
        match *self {}
    }
    pub(crate) fn compute(&self) {
        match *self {}
    }
    pub(crate) fn names(&self) -> Option<Arc<[String]>> {
        match *self {}
    }
    pub(super) fn set_nonblocking(&self, _: bool) -> io::Result<()> {
        match *self {}
    }
    pub(super) fn limit_read(&self, _: Option<Duration>) {
        match *self {}
    }
    pub(super) fn moved(&self) -> (u64, u64) {
        match *self {}
    }
    pub(super) fn holds_end(&self) -> bool {
        match *self {}
    }
    pub(super) fn share(self: &Arc<Self>) -> Arc<Self> {
        match **self {}
    }
    pub(super) fn forsake(&self) {
        match *self {}
    }
    pub(super) fn leave(&self, _: &Kind) {
        match *self {}
    }
    pub(super) fn end(&self, _: &Kind) -> io::Result<()> {
        match *self {}
    }
    pub(super) fn read(&self, _: &Kind, _: &mut [u8]) -> io::Result<usize> {
        match *self {}
    }
    pub(super) fn write(&self, _: &Kind, _: &[IoSlice<'_>]) -> io::Result<usize> {
        match *self {}
    }
}
