//! Bytes that were read and not used yet. No byte is read twice, and none is lost before
//! `into_parts()`.

/// Bytes read from the stream and not used yet.
pub(super) struct Inbox {
    /// Initialised over its whole length; `start..end` is unread.
    buf: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbox {
    pub(super) fn new(unread: Vec<u8>) -> Self {
        let end = unread.len();
        Inbox { buf: unread, start: 0, end }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }

    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Returns true if it contains nothing, or a stray line end (RFC 9112 §2.2), or the beginning
    /// of one.
    pub(super) fn is_blank(&self) -> bool {
        b"\r\n".starts_with(self.bytes())
    }

    pub(super) fn consume(&mut self, n: usize) {
        self.start += n;
        if self.start == self.end {
            self.clear();
        }
    }

    pub(super) fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    pub(super) fn take(&mut self) -> Vec<u8> {
        let unread = self.bytes().to_vec();
        *self = Inbox::new(Vec::new());
        unread
    }

    /// The free space after the unread bytes, at least half of `step`.
    pub(super) fn room(&mut self, step: usize) -> &mut [u8] {
        if self.buf.len() - self.end < step / 2 && self.start > 0 {
            self.buf.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.buf.len() - self.end < step / 2 {
            self.buf.resize(self.end + step, 0);
        }
        &mut self.buf[self.end..]
    }

    pub(super) fn filled(&mut self, n: usize) {
        // A transport may report more bytes than fit; that must not make us read beyond the buffer.
        self.end = (self.end + n).min(self.buf.len());
    }
}
