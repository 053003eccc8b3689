//! One end of a simulated connection.

use std::io::{self, ErrorKind, IoSlice};
use std::net::{IpAddr, Shutdown};

use super::{if_any, with};
use crate::engine::connection::Readiness;

/// One end of a simulated connection. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(super) conn: usize,
    pub(super) side: usize,
}

impl Socket {
    pub(crate) fn number(&self) -> usize {
        self.conn
    }
    pub(crate) fn watch(&self, watch: Option<(usize, usize)>) -> io::Result<()> {
        with(|net| {
            net.conns[self.conn].ends[self.side].watch = watch;
            if net.readiness(self.conn, self.side) != Readiness::default() {
                net.notify(self.conn, self.side);
            }
        });
        Ok(())
    }
    /// Does nothing: the socket never blocks.
    pub(crate) fn set_nonblocking(&self) -> io::Result<()> {
        Ok(())
    }
    pub(crate) fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        with(|net| net.read(self.conn, self.side, buf))
    }
    pub(crate) fn write(&self, buf: &[u8]) -> io::Result<usize> {
        with(|net| net.write(self.conn, self.side, &[buf], false))
    }
    pub(crate) fn write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let slices: Vec<&[u8]> = bufs.iter().map(|buf| &**buf).collect();
        with(|net| net.write(self.conn, self.side, &slices, false))
    }
    /// Writes bytes that arrive together or not at all.
    pub(crate) fn write_whole(&self, buf: &[u8]) -> io::Result<usize> {
        with(|net| {
            net.conns[self.conn].window = net.conns[self.conn].window.max(4 * buf.len() + 2048);
            net.write(self.conn, self.side, &[buf], true)
        })
    }
    pub(crate) fn is_connected(&self) -> bool {
        with(|net| net.conns[self.conn].ends[self.side].connected)
    }
    pub(crate) fn take_error(&self) -> Option<io::Error> {
        with(|net| net.conns[self.conn].ends[self.side].error.take().map(io::Error::from))
    }
    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        with(|net| {
            let end = &net.conns[self.conn].ends[self.side];
            if end.over.dead || !end.connected {
                return Err(ErrorKind::NotConnected.into());
            }
            if how != Shutdown::Read {
                net.end_direction(self.conn, self.side);
            }
            if how != Shutdown::Write {
                net.conns[self.conn].ends[self.side].over.fin = true;
                net.notify(self.conn, self.side);
            }
            Ok(())
        })
    }
    pub(crate) fn abort(&self) -> io::Result<()> {
        with(|net| net.conns[self.conn].ends[self.side].over.aborts = true);
        Ok(())
    }
    pub(crate) fn try_clone(&self) -> Socket {
        with(|net| net.conns[self.conn].ends[self.side].handles += 1);
        Socket { conn: self.conn, side: self.side }
    }
    pub(crate) fn remote_ip(&self) -> Option<IpAddr> {
        with(|net| {
            let conn = &net.conns[self.conn];
            (!conn.local).then(|| if self.side == 0 { conn.to.ip() } else { conn.from.ip() })
        })
    }
    pub(crate) fn label(&self) -> String {
        with(|net| net.transport(self.conn, self.side))
    }
    /// Fails: there is no descriptor, and a call that needs one would block.
    pub(crate) fn descriptor<T>(&self) -> T {
        panic!("a simulated socket has no descriptor, and no time-out of its own")
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if_any(|net| net.close(self.conn, self.side));
    }
}
