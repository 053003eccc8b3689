//! `ptth call`: one request to a device, as a visitor.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use clap::Args;
use reverse_http::proto::head_writer;
use reverse_http::proto::head_writer::{write_field, write_request_line};
use reverse_http::text::spelled_out;

use crate::arguments::some_time;
use crate::certificates::DeviceFiles;
use crate::device::token;
use crate::files::{self, Reading};
use crate::output::print;
use crate::visitors::Visitors;
use crate::wire::Part;
use crate::{Failure, failed, usage};

/// Longest body that is sent or shown, in bytes.
const BODY_MAX: usize = 64 << 20;

#[derive(Args)]
pub(crate) struct CallArgs {
    /// The device
    name: String,
    /// The method: GET, POST, ...
    method: String,
    /// The path, and a query: /status?all=1
    target: String,
    /// The gateway's address for visitors, which serves devices below /NAME (--route path)
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:8080",
        env = "PTTH_CALL_VISITORS"
    )]
    visitors: String,
    /// A field of the request, like `Accept: text/plain`; may be given several times
    #[arg(long, short = 'H', value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// The body, or @FILE (`@-` is standard input, one line)
    #[arg(long, short, value_name = "TEXT|@FILE")]
    data: Option<String>,
    /// Show status and fields of the answer, too
    #[arg(long, short)]
    include: bool,
    /// A file with a visitor's token (`-`: standard input); or set PTTH_VISITOR_TOKEN
    #[arg(long, value_name = "FILE|-")]
    token_file: Option<String>,
    #[command(flatten)]
    tls: DeviceFiles,
    /// How long the answer may take, in all
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = some_time)]
    timeout: Duration,
}

/// Sends the request, and prints the answer's body. Exit codes: 0 for a status below 400, else 1; 2
/// for wrong usage.
pub(crate) fn run(args: CallArgs) -> Result<(), Failure> {
    let to = Visitors::of(&args.visitors, &args.tls, "--visitors ", "http://127.0.0.1:8080")?;
    let request = request(&args, &to)?;
    let mut wire = to.connect(Instant::now() + args.timeout)?;
    wire.send(&request).map_err(failed)?;
    let status = wire.answer(&args.method, BODY_MAX, |_, part| match part {
        Part::Head(head) if args.include && io::stdout().is_terminal() => {
            print(for_terminal(head).as_bytes())
        }
        Part::Head(head) if args.include => print(head),
        Part::Head(_) => Ok(()),
        Part::Body(data) => print(data),
    })?;
    match status {
        0..=399 => Ok(()),
        _ => Err(failed(format_args!("{status} {}", head_writer::reason_phrase(status)))),
    }
}

/// A head without control characters, except line ends.
fn for_terminal(head: &[u8]) -> String {
    let text = String::from_utf8_lossy(head);
    text.lines().map(|line| spelled_out(line) + "\r\n").collect()
}

fn request(args: &CallArgs, to: &Visitors) -> Result<Vec<u8>, Failure> {
    if !args.target.starts_with('/') {
        return Err(usage(format!("{}: write a path, /status", args.target)));
    }
    let body = match args.data.as_deref().map(|data| (data, data.strip_prefix('@'))) {
        None => None,
        Some((_, Some("-"))) => Some(files::line_of_stdin().map_err(usage)?.into_bytes()),
        Some((_, Some(path))) => {
            let read = files::read(std::path::Path::new(path), BODY_MAX as u64, Reading::First);
            Some(read.map_err(|e| usage(format!("--data @{path}: {e}")))?)
        }
        Some((text, None)) => Some(text.as_bytes().to_vec()),
    };
    let mut request = Vec::new();
    let target = format!("{}/{}{}", to.path, args.name, args.target);
    let wrong = |e: reverse_http::Refusal| usage(e.reason.into_owned());
    write_request_line(&mut request, &args.method, &target).map_err(wrong)?;
    let mut field = |name: &str, value: &str| write_field(&mut request, name, value.as_bytes());
    field("Host", &to.authority).map_err(wrong)?;
    field("Connection", "close").map_err(wrong)?;
    if let Some(token) = token(args.token_file.as_deref(), "--token-file", "PTTH_VISITOR_TOKEN")? {
        field("Authorization", &format!("Bearer {token}")).map_err(wrong)?;
    }
    for line in &args.header {
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| usage(format!("--header {line}: write NAME: VALUE")))?;
        let framing = ["host", "connection", "content-length", "transfer-encoding"];
        if framing.iter().any(|ours| name.eq_ignore_ascii_case(ours)) {
            return Err(usage(format!("--header {name}: ptth writes this field itself")));
        }
        field(name, value.trim()).map_err(wrong)?;
    }
    if body.is_some() || !matches!(args.method.as_str(), "GET" | "HEAD" | "OPTIONS" | "DELETE") {
        let length = body.as_ref().map_or(0, Vec::len);
        field("Content-Length", &length.to_string()).map_err(wrong)?;
    }
    request.extend_from_slice(b"\r\n");
    request.extend(body.unwrap_or_default());
    Ok(request)
}
