//! In place of `tls_session.rs` in a build without the feature `tls`: there is no session, so nothing
//! of one can be reached.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::error::Error;
use crate::stream::handshake::Shaken;
use crate::stream::socket::Socket;

pub(crate) enum TlsSession {}

/// In place of `tls::GatewayTls`.
#[derive(Clone)]
pub(crate) enum GatewayTls {}

#[cfg_attr(not(feature = "admin"), allow(dead_code))]
impl GatewayTls {
    pub(crate) fn expires(&self) -> Option<SystemTime> {
        match *self {}
    }
    pub(crate) fn needs_client(&self) -> bool {
        match *self {}
    }
}

/// In place of `tls::Connector`.
#[derive(Debug)]
pub(crate) enum Connector {}

/// In place of `tls::Shown`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Shown {}

/// In place of `tls::ShownKey`.
pub(crate) type ShownKey = (usize, [u8; 32]);

impl Shown {
    pub(crate) fn names(&self) -> &[String] {
        match *self {}
    }
    pub(crate) fn key(&self) -> ShownKey {
        match *self {}
    }
    pub(crate) fn expires(&self) -> SystemTime {
        match *self {}
    }
}

impl Connector {
    pub(crate) fn has_time(&self) -> bool {
        match *self {}
    }
}

impl TlsSession {
    pub(crate) fn to_server(connector: &Connector, _: &str) -> Result<Arc<TlsSession>, Error> {
        match *connector {}
    }
    pub(crate) fn to_peer(tls: &GatewayTls, _: usize, _: bool) -> Result<Arc<TlsSession>, Error> {
        match *tls {}
    }
    pub(crate) fn speaks_first(&self) -> bool {
        match *self {}
    }
    pub(super) fn shake(&self, _: &Socket) -> Shaken {
        match *self {}
    }
    pub(crate) fn compute(&self) {
        match *self {}
    }
    pub(crate) fn shown(&self) -> Option<Arc<Shown>> {
        match *self {}
    }
    pub(super) fn set_nonblocking(&self, _: bool) -> io::Result<()> {
        match *self {}
    }
    pub(super) fn limit_read(&self, _: Option<Duration>) {
        match *self {}
    }
    pub(crate) fn held(&self) -> usize {
        match *self {}
    }
    pub(super) fn moved(&self) -> (u64, u64) {
        match *self {}
    }
    pub(super) fn owes(&self) -> bool {
        match *self {}
    }
    pub(super) fn holds_end(&self) -> bool {
        match *self {}
    }
    pub(super) fn is_paused(&self) -> bool {
        match *self {}
    }
    pub(super) fn share(self: &Arc<Self>) -> Arc<Self> {
        match **self {}
    }
    pub(super) fn forsake(&self) {
        match *self {}
    }
    pub(super) fn end_at_once(&self, _: &Socket) {
        match *self {}
    }
    pub(super) fn leave(&self, _: &Socket) {
        match *self {}
    }
    pub(super) fn end(&self, _: &Socket) -> io::Result<()> {
        match *self {}
    }
    pub(super) fn read(&self, _: &Socket, _: &mut [u8]) -> io::Result<usize> {
        match *self {}
    }
    pub(super) fn write(&self, _: &Socket, _: &[IoSlice<'_>]) -> io::Result<usize> {
        match *self {}
    }
}
