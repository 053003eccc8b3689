//! The request on its way from the downstream to the upstream connection.

use crate::engine::connections::{Connection, Fetched};
use crate::proto::body::{self, Piece};
use crate::relay::exchange::Exchange;
use crate::relay::failure::ExchangeError;

impl Exchange {
    /// Reads and drops such a rest where the upstream connection takes none of it. Returns true if
    /// something moved.
    pub(super) fn drop_rest<T>(
        &mut self,
        downstream: &mut Connection<T>,
        scratch: &mut [u8],
    ) -> bool {
        let most =
            self.request.remaining().map_or(0, |left| left.min(scratch.len() as u64) as usize);
        let filled = match downstream.fetch(scratch, most) {
            Ok(Fetched::Bytes(n)) => n,
            Ok(Fetched::Nothing) => return false,
            Ok(Fetched::End) | Err(_) => {
                self.downstream_keeps = false;
                return true;
            }
        };
        self.request_cut = true;
        let dropped = self.request.decode(&scratch[..filled]).map_or(filled, |(used, _)| used); // of known length, so one piece
        downstream.keep(&scratch[dropped..filled]);
        true
    }

    pub(super) fn pump_request<T>(
        &mut self,
        downstream: &mut Connection<T>,
        link: &mut Connection<T>,
        scratch: &mut [u8],
    ) -> Result<bool, ExchangeError> {
        let written = link.written();
        let mut moved = false;
        let takes = self.request_cut || link.pending() <= self.before + self.request().len();
        if !self.request.is_done() && takes && downstream.has_input() {
            // What is pipelined behind a body of known length stays in the socket, where it is
            // bounded.
            let most = self
                .request
                .remaining()
                .map_or(scratch.len(), |left| left.min(scratch.len() as u64) as usize);
            let filled = match downstream.fetch(scratch, most) {
                Ok(Fetched::Bytes(n)) => n,
                Ok(Fetched::Nothing) => 0,
                Ok(Fetched::End) => return self.asker_stops(link),
                Err(_) => return Err(ExchangeError::Asker),
            };
            moved = filled > 0;
            let used = self.take_request(&scratch[..filled], link)?;
            downstream.keep(&scratch[used..filled]);
            if downstream.is_over() && !self.request.is_done() {
                // Before its beginning goes out: it will never be whole.
                return if downstream.has_failed() {
                    Err(ExchangeError::Asker)
                } else {
                    self.asker_stops(link)
                };
            }
        }
        if link.flush().is_err() {
            self.cut_request(link);
        }
        Ok(moved || link.written() != written)
    }

    /// The upstream side takes no more. It may have answered already (a 413, then close), so its
    /// socket is read to the end before anything is given up; and the rest of the request is read
    /// and dropped, for there are clients that read nothing before they have written everything.
    pub(super) fn cut_request<T>(&mut self, link: &mut Connection<T>) {
        self.request_cut = true;
        link.drop_output();
        link.look_again();
    }

    /// The downstream side ends in the middle of its request. Where the answer has begun, it is
    /// what made it stop, and is still wanted; the answering side is told that no more will come.
    pub(super) fn asker_stops<T>(
        &mut self,
        link: &mut Connection<T>,
    ) -> Result<bool, ExchangeError> {
        if !self.answered {
            return Err(ExchangeError::Asker);
        }
        if !std::mem::replace(&mut self.request_cut, true) {
            link.drop_output();
            let _ = link.end_output(); // where it cannot be told, the end of the exchange tells it
        }
        Ok(false)
    }

    /// The downstream side takes nothing any more. What it has sent may be a whole request, and
    /// then goes on.
    pub(super) fn asker_is_deaf<T>(
        &mut self,
        downstream: &mut Connection<T>,
    ) -> Result<(), ExchangeError> {
        downstream.drop_output();
        if self.upstream.is_none()
            || self.request.is_done()
            || self.request_cut
            || downstream.is_over()
        {
            return Err(ExchangeError::Asker);
        }
        if !std::mem::replace(&mut self.downstream_deaf, true) {
            downstream.look_again();
        }
        Ok(())
    }

    pub(super) fn take_request<T>(
        &mut self,
        bytes: &[u8],
        link: &mut Connection<T>,
    ) -> Result<usize, ExchangeError> {
        let mut used = 0;
        loop {
            let (n, piece) = self.request.decode(&bytes[used..]).map_err(ExchangeError::Refused)?;
            used += n;
            let sent = match piece {
                Piece::More => return Ok(used),
                Piece::Data(_) if self.request_cut => continue,
                Piece::Data(data) => {
                    self.observed.sent(data.len());
                    self.body_moved = true;
                    send_piece(link, data, self.request_chunked)
                }
                Piece::End => {
                    if self.request_chunked && !self.request_cut {
                        self.body_moved = true;
                        body::last_chunk(link.output(), self.request.trailers())
                            .map_err(ExchangeError::Refused)?;
                    }
                    return Ok(used);
                }
            };
            if sent.is_err() {
                self.cut_request(link);
            }
        }
    }
}

/// Writes one piece of a body, as a chunk where the message is chunked.
pub(super) fn send_piece<T>(
    to: &mut Connection<T>,
    data: &[u8],
    chunked: bool,
) -> std::io::Result<()> {
    if !chunked {
        return to.send(data);
    }
    body::open_chunk(to.output(), data.len());
    to.send(data)?;
    to.output().extend_from_slice(b"\r\n");
    Ok(())
}
