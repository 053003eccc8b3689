//! Claims on names in a table that several gateways share. A claim belongs to one gateway, and
//! contains the credential and the session of the device that is connected there. It expires unless
//! the gateway renews it.
//!
//! The rules, which the table applies in one step, are those of the [registry](super::registry)
//! within one gateway: a name belongs to one credential (else 409); the newest session replaces the
//! others; a session that was replaced does not return while a newer one is connected (409);
//! gateways with the same session, or with shared names, hold the name together.

#![cfg_attr(not(feature = "redis"), allow(dead_code, reason = "no table is shared"))]

use std::sync::Arc;
use std::time::Duration;

use crate::gateway::announced::Announced;
use crate::gateway::registry::{Owner, Session};

/// An error of a table or of a program's directory.
pub(crate) type Failed = Box<dyn std::error::Error + Send + Sync>;

/// A device as the table knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claimant {
    /// A digest of its credential; empty without one.
    pub(crate) credential: Arc<str>,
    /// In hexadecimal digits; empty without one.
    pub(crate) session: Arc<str>,
}

impl Claimant {
    /// The claimant for an owner. The credential itself, which may be a secret of the program, is
    /// not sent to the table.
    pub(crate) fn of(owner: &Owner) -> Self {
        use sha2::{Digest as _, Sha256};
        let digest = |credential: &Arc<str>| hex(&Sha256::digest(credential.as_bytes())[..12]);
        let credential = owner.credential.as_ref().map(digest).unwrap_or_default();
        let session = owner.session.as_ref().map(|s: &Session| hex(s)).unwrap_or_default();
        Claimant { credential: credential.into(), session: session.into() }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A table's verdict on a new claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// This gateway has all names. A later claim has a larger epoch.
    Granted { epoch: u64 },
    /// Another credential has one of them, at another gateway.
    Held,
    /// A newer session of the same device has one of them.
    Newer,
}

/// A claim to be renewed.
#[derive(Clone, Debug)]
pub(crate) struct Renewal {
    pub(crate) name: Arc<str>,
    /// 0 if the table did not answer when the device connected, so that it does not have the claim
    /// yet.
    pub(crate) epoch: u64,
    pub(crate) claimant: Claimant,
}

/// The result of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewed {
    /// It is valid, with this epoch.
    Kept { epoch: u64 },
    /// A newer session is connected to another gateway.
    Newer,
    /// Another credential has the name, at another gateway.
    Held,
}

/// A name has another owner than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) name: Arc<str>,
    pub(crate) epoch: u64,
    /// The gateway that has it now.
    pub(crate) gateway: Box<str>,
    pub(crate) session: Box<str>,
}

/// A table that gateways share. Its methods block for a bounded time, on separate threads.
pub(crate) trait SharedTable: Send + Sync {
    /// For each name, in the same order, the gateways that have it.
    fn find(&self, names: &[&str]) -> Result<Vec<Vec<String>>, Failed>;

    /// Claims all of these names for a gateway, or none.
    fn claim(&self, by: &str, names: &[String], claimant: &Claimant) -> Result<Verdict, Failed>;

    /// Renews claims of a gateway; an answer for each, in the same order.
    fn renew(&self, by: &str, claims: &[Renewal]) -> Result<Vec<Renewed>, Failed>;

    /// Gives up a gateway's claims that still have these epochs.
    fn release(&self, by: &str, claims: &[(Arc<str>, u64)]) -> Result<(), Failed>;

    /// Announces that this gateway exists and how many names it has, or (`None`) that it leaves.
    /// `lists`: the answer is to have all gateways.
    fn announce(&self, by: &str, names: Option<usize>, lists: bool) -> Result<Announced, Failed>;

    /// Reports changes until `tell` returns false. It calls `tell` at least once a second, also
    /// without changes. The first call means that listening has begun.
    fn listen(&self, tell: &mut dyn FnMut(Option<Change>) -> bool) -> Result<(), Failed>;

    /// How long a claim lasts.
    fn claim_time(&self) -> Duration;
}
