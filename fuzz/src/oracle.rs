//! The independent parser: milo, an implementation of RFC 9112 of its own. One message at the front
//! of some bytes, as it reads it.

use std::cell::RefCell;

use milo_parser::{CALLBACK_ACTIVE_ALL, Parser};

/// What the oracle read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Of a request.
    pub method: Vec<u8>,
    /// Of a request.
    pub target: Vec<u8>,
    /// Of a response.
    pub status: Vec<u8>,
    /// Of a response.
    pub reason: Vec<u8>,
    /// Names of fields.
    names: Vec<Vec<u8>>,
    values: Vec<Vec<u8>>,
    trailer_names: Vec<Vec<u8>>,
    trailer_values: Vec<Vec<u8>>,
    /// The body's data.
    pub body: Vec<u8>,
    /// The head is whole.
    pub head_whole: bool,
    /// The message is whole; so many bytes are its own.
    pub end: Option<usize>,
    /// The connection became a tunnel behind this message.
    pub tunnel: bool,
    /// Why it is no message.
    pub error: Option<String>,
}

impl Reading {
    fn is_over(&self) -> bool {
        self.end.is_some() || self.tunnel
    }
    /// Names and values in their order.
    pub fn fields(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.names.iter().cloned().zip(self.values.iter().cloned()).collect()
    }
    /// Those of the trailer section.
    pub fn trailers(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.trailer_names.iter().cloned().zip(self.trailer_values.iter().cloned()).collect()
    }
}

thread_local! {
    static NOW: RefCell<(Vec<u8>, Reading)> = RefCell::default();
}

/// A callback that keeps the bytes of one part. `from` counts from where the running call of
/// `parse` began, which is the start.
macro_rules! keep {
    ($name:ident, $read:ident, $bytes:ident => $do:expr) => {
        fn $name(_: &mut Parser, from: usize, len: usize) {
            NOW.with_borrow_mut(|(all, $read)| {
                let $bytes = &all[from..from + len];
                // It reads on behind the message; what it says of that is not asked for.
                if !$read.is_over() {
                    $do
                }
            });
        }
    };
}

keep!(on_method, read, bytes => read.method.extend_from_slice(bytes));
keep!(on_url, read, bytes => read.target.extend_from_slice(bytes));
keep!(on_status, read, bytes => read.status.extend_from_slice(bytes));
keep!(on_reason, read, bytes => read.reason.extend_from_slice(bytes));
keep!(on_header_name, read, bytes => read.names.push(bytes.to_vec()));
keep!(on_header_value, read, bytes => read.values.push(bytes.to_vec()));
keep!(on_trailer_name, read, bytes => read.trailer_names.push(bytes.to_vec()));
keep!(on_trailer_value, read, bytes => read.trailer_values.push(bytes.to_vec()));
keep!(on_data, read, bytes => read.body.extend_from_slice(bytes));

fn on_headers(_: &mut Parser, _: usize, _: usize) {
    NOW.with_borrow_mut(|(_, read)| read.head_whole = true);
}

fn on_tunnel(_: &mut Parser, _: usize, _: usize) {
    NOW.with_borrow_mut(|(_, read)| read.tunnel |= read.end.is_none());
}

fn on_message_complete(_: &mut Parser, from: usize, _: usize) {
    NOW.with_borrow_mut(|(_, read)| read.end = read.end.or(Some(from)));
}

/// Reads a request at the front.
pub fn request(bytes: &[u8]) -> Reading {
    read(bytes, true, false)
}

/// Reads a response at the front. `bodiless`: it answers HEAD.
pub fn response(bytes: &[u8], bodiless: bool) -> Reading {
    read(bytes, false, bodiless)
}

fn read(bytes: &[u8], is_request: bool, bodiless: bool) -> Reading {
    NOW.set((bytes.to_vec(), Reading::default()));
    let mut parser = Parser::new();
    (parser.autodetect, parser.is_request, parser.skip_body) = (false, is_request, bodiless);
    (parser.max_start_line_length, parser.max_header_length) = (1 << 20, 1 << 20);
    parser.active_callbacks = CALLBACK_ACTIVE_ALL;
    let calls = &mut parser.callbacks;
    (calls.on_method, calls.on_url, calls.on_status, calls.on_reason) =
        (on_method, on_url, on_status, on_reason);
    (calls.on_header_name, calls.on_header_value, calls.on_headers) =
        (on_header_name, on_header_value, on_headers);
    (calls.on_trailer_name, calls.on_trailer_value, calls.on_data) =
        (on_trailer_name, on_trailer_value, on_data);
    (calls.on_upgrade, calls.on_connect, calls.on_message_complete) =
        (on_tunnel, on_tunnel, on_message_complete);
    parser.parse(bytes.as_ptr(), bytes.len());
    let mut reading = NOW.take().1;
    if parser.error_code != milo_parser::ERROR_NONE && !reading.is_over() {
        reading.error =
            Some(format!("{}: {}", parser.error_code_str(), parser.error_description_str()));
    }
    reading
}
