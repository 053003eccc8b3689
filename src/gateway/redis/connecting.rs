//! Connects to the server that accepts writes: the first of several that answers, or the one that
//! sentinels name; with the gateway's credentials.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use redis::{ConnectionLike, FromRedisValue, RedisError, RedisResult};

use crate::gateway::claims::Failed;
use crate::gateway::redis::error_text::told;
use crate::gateway::redis::wire::Wire;
use crate::gateway::redis::{RedisDirectory, RedisTable, Servers};
use crate::proto::authority::authority_of;

/// A connection, the place of its server, and the settings that it was made with.
pub(super) struct Server {
    pub(super) connection: Wire,
    pub(super) at: String,
    pub(super) settings: Arc<RedisDirectory>,
}

impl Server {
    pub(super) fn failed(&self, e: &RedisError) -> Failed {
        told(e, &self.at, self.settings.is_secure).into()
    }

    pub(super) fn ask<T: FromRedisValue>(&mut self, command: &redis::Cmd) -> Result<T, Failed> {
        command.query(&mut self.connection).map_err(|e| self.failed(&e))
    }
}

impl RedisTable {
    /// A connection to the server that accepts writes.
    pub(super) fn connect(&self) -> Result<Server, Failed> {
        self.connect_noting(&mut Vec::new())
    }

    /// The same; `passed_over` gets the failures of servers that were skipped.
    pub(super) fn connect_noting(&self, passed_over: &mut Vec<String>) -> Result<Server, Failed> {
        let settings = &self.settings();
        match &settings.servers {
            Servers::Socket(path) => self.open_socket(settings, path),
            Servers::Listed(at) => self
                .one_of(at, passed_over, |server| self.open_master(settings, server, at.len() > 1)),
            Servers::Sentinels { at, master } => {
                let ask = |sentinel: &_| self.ask_sentinel(settings, sentinel, master);
                let master = self.one_of(at, passed_over, ask)?;
                self.open_master(settings, &master, true)
            }
        }
    }

    /// The answer of the first of these servers that answers, beginning with the one that answered
    /// last. One that hangs uses up the time for all, so it is asked last the next time.
    fn one_of<T>(
        &self,
        at: &[(String, u16)],
        passed_over: &mut Vec<String>,
        ask: impl Fn(&(String, u16)) -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        let until = Instant::now() + self.wait;
        let mut why: Failed = "there is no server".into();
        for n in 0..at.len() {
            if n > 0 && Instant::now() >= until {
                break;
            }
            let turn = self.turn.load(Relaxed);
            match ask(&at[turn % at.len()]) {
                Ok(answer) => return Ok(answer),
                Err(e) => {
                    passed_over.push(e.to_string());
                    why = e;
                }
            }
            // Another thread may have advanced it as well.
            let _ = self.turn.compare_exchange(turn, turn.wrapping_add(1), Relaxed, Relaxed);
        }
        Err(why)
    }

    /// `may_be_replica`: its role is checked.
    fn open_master(
        &self,
        settings: &Arc<RedisDirectory>,
        server: &(String, u16),
        may_be_replica: bool,
    ) -> Result<Server, Failed> {
        let mut server = self.open(settings, server)?;
        introduce(&mut server.connection, settings).map_err(|e| server.failed(&e))?;
        if may_be_replica {
            let role: Vec<redis::Value> = server.ask(&redis::cmd("ROLE"))?;
            match role.first() {
                Some(redis::Value::BulkString(role)) if role == b"master" => {}
                _ => return Err(format!("Redis at {} is a replica", server.at).into()),
            }
        }
        Ok(server)
    }

    /// A connection to a server, or, without credentials, to a sentinel.
    fn open(
        &self,
        settings: &Arc<RedisDirectory>,
        (host, port): &(String, u16),
    ) -> Result<Server, Failed> {
        let at = authority_of(host, *port);
        let connect = || {
            let wire = Wire::to(host, *port, self.wait)?;
            match settings.is_secure {
                true => wire.secure(host, settings.ca_given()),
                false => Ok(wire),
            }
        };
        match connect() {
            Ok(connection) => Ok(Server { connection, at, settings: settings.clone() }),
            Err(e) => Err(told(&e.into(), &at, settings.is_secure).into()),
        }
    }

    fn open_socket(&self, settings: &Arc<RedisDirectory>, path: &Path) -> Result<Server, Failed> {
        let at = path.display().to_string();
        let connection = Wire::to_socket(path, self.wait);
        let connection = connection.map_err(|e| told(&e.into(), &at, false))?;
        let mut server = Server { connection, at, settings: settings.clone() };
        introduce(&mut server.connection, settings).map_err(|e| server.failed(&e))?;
        Ok(server)
    }

    fn ask_sentinel(
        &self,
        settings: &Arc<RedisDirectory>,
        at: &(String, u16),
        master: &str,
    ) -> Result<(String, u16), Failed> {
        let mut sentinel = self.open(settings, at)?;
        let mut asked = redis::cmd("SENTINEL");
        asked.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
        let found: Option<(String, u16)> = sentinel.ask(&asked)?;
        found.ok_or_else(|| {
            format!("the sentinel at {} knows no master {master}", sentinel.at).into()
        })
    }
}

/// Sends the credentials, and selects the database.
fn introduce(connection: &mut dyn ConnectionLike, settings: &RedisDirectory) -> RedisResult<()> {
    if settings.user.is_some() || settings.password.is_some() {
        let mut shown = redis::cmd("AUTH");
        shown.arg(settings.user.as_deref()); // nothing if there is none
        shown.arg(settings.password.as_deref().unwrap_or_default());
        shown.query::<()>(connection)?;
    }
    match settings.database {
        0 => Ok(()),
        database => redis::cmd("SELECT").arg(database).query(connection),
    }
}
