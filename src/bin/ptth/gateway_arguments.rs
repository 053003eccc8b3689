//! The options of `ptth gateway`: their names, defaults, variables and help texts.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};
use reverse_http::TurnMode;
use reverse_http::gateway::Rate;

use crate::access_log::AccessLogArgs;
use crate::addresses::address;
use crate::admin::AdminArgs;
use crate::arguments::{
    Polling, burst, connections, memory, rate, size, some_number, some_time, turn, yes_or_no,
};
use crate::certificates::GatewayFiles;
use crate::config::duration;
use crate::log_levels::LogFormat;
use crate::peers::PeersArgs;

/// Options about the requests that a gateway accepts.
#[derive(Args)]
pub(crate) struct LeniencyArgs {
    /// Let --devices listen beyond loopback although every peer can register any name
    #[arg(long, env = "PTTH_INSECURE_ANYONE_MAY_REGISTER", value_parser = yes_or_no, action = ArgAction::SetTrue)]
    pub(crate) insecure_anyone_may_register: bool,
    /// Accept offers without a Host field (AirPlay senders)
    #[arg(long, env = "PTTH_MISSING_HOST", value_parser = yes_or_no, action = ArgAction::SetTrue)]
    pub(crate) missing_host: bool,
    /// Refuse offers whose Connection field does not list `upgrade`
    #[arg(long, env = "PTTH_STRICT_CONNECTION", value_parser = yes_or_no, action = ArgAction::SetTrue)]
    pub(crate) strict_connection: bool,
    /// Forward visitors' fields whose names have an underscore, or another character besides letters, digits and hyphens
    #[arg(long, env = "PTTH_KEEP_UNDERSCORE", value_parser = yes_or_no, action = ArgAction::SetTrue)]
    pub(crate) keep_underscore: bool,
}

/// Options for requests that are routed by --route.
#[derive(Args)]
pub(crate) struct EdgeArgs {
    /// With --route path: put /NAME in front of paths in devices' responses (Location,
    /// Content-Location, Refresh, cookies), for devices that do not know of it
    #[arg(long, env = "PTTH_REWRITE_PATHS", value_parser = yes_or_no, action = ArgAction::SetTrue)]
    pub(crate) rewrite_paths: bool,
    /// With --visitor-tokens: show browsers a form for the token, on requests that no route of
    /// --config matches; a cookie replaces it from then on
    #[arg(long, env = "PTTH_SIGN_IN", value_parser = yes_or_no, action = ArgAction::SetTrue)]
    pub(crate) sign_in: bool,
    /// With --visitor-tokens: a file with the key of sign-ins in its first line, for gateways that
    /// share them, and so that they outlast a restart; more lines are keys by which sign-ins still
    /// count; read again on SIGHUP [default: drawn at the start]
    #[arg(long, value_name = "FILE", env = "PTTH_SIGN_IN_KEY")]
    pub(crate) sign_in_key: Option<PathBuf>,
    /// Requests that one visitor's address (IPv6: one /64) may send, counting those that no route
    /// of --config matches: 20/s, 100/m or 1000/h; beyond: 429 with Retry-After [default: any]
    #[arg(long, value_name = "N/s|m|h", value_parser = rate, env = "PTTH_RATE")]
    pub(crate) rate: Option<Rate>,
    /// The same for each visitor's token, beside --rate or alone [default: any]
    #[arg(long, value_name = "N/s|m|h", value_parser = rate, env = "PTTH_RATE_PER_TOKEN")]
    pub(crate) rate_per_token: Option<Rate>,
    /// With --rate and --rate-per-token: requests at once [default: the number of the rate]
    #[arg(long, value_name = "N", value_parser = burst, env = "PTTH_BURST")]
    pub(crate) burst: Option<u32>,
}

#[derive(Args)]
pub(crate) struct GatewayArgs {
    /// The address for devices (port 0: any free one)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9999", value_parser = address, env = "PTTH_DEVICES")]
    pub(crate) devices: String,
    /// The address for visitors
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = address, env = "PTTH_VISITORS")]
    pub(crate) visitors: String,
    #[command(flatten)]
    pub(crate) tls: GatewayFiles,
    /// How a visitor's request names a device, if no route of --config matches: `path`
    /// (/NAME/rest), `host=SUFFIX` (NAME.SUFFIX) or `none`; may be given several times
    #[arg(
        long,
        value_name = "path|host=SUFFIX|none",
        default_value = "path",
        value_delimiter = ',',
        env = "PTTH_ROUTE"
    )]
    pub(crate) route: Vec<String>,
    #[command(flatten)]
    pub(crate) edge: EdgeArgs,
    /// A file (TOML) with options in its table `gateway` (and those of devices in `device`), and
    /// `route` tables that map host and path to a device; the command line and the environment take
    /// precedence; routes, listeners and limits are read again on SIGHUP
    #[arg(long, value_name = "FILE", env = "PTTH_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Validate the options, the files, certificates, tokens and routes that they name, and the
    /// addresses, then exit: 0 if valid, else 2; nothing is bound
    #[arg(long)]
    pub(crate) check: bool,
    /// Proxies before this gateway whose X-Forwarded-* and Forwarded fields are trusted: addresses
    /// or networks, like 10.0.0.0/8
    #[arg(
        long,
        value_name = "CIDR[,CIDR...]",
        value_delimiter = ',',
        env = "PTTH_TRUSTED_PROXIES"
    )]
    pub(crate) trusted_proxies: Vec<String>,
    /// Also name the visitor to devices in Forwarded (RFC 7239)
    #[arg(long, env = "PTTH_FORWARDED", value_parser = yes_or_no, action = ArgAction::SetTrue)]
    pub(crate) forwarded: bool,
    /// When an offer is answered: `now`, or `on-demand` (when a request for the device comes);
    /// NAME=now or NAME=on-demand sets it for one device; may be given several times
    #[arg(long, value_name = "[NAME=]now|on-demand", default_value = "now", value_delimiter = ',', value_parser = turn, env = "PTTH_TURN")]
    pub(crate) turn: Vec<(Option<String>, TurnMode)>,
    /// Also accept offers of this protocol: `h2o` (its reverse tunnel, Upgrade: reverse), or an
    /// upgrade token of your own, offered as PTTH/1.0 is; may be given several times
    #[arg(long, value_name = "h2o|TOKEN", value_delimiter = ',', env = "PTTH_DIALECT")]
    pub(crate) dialect: Vec<String>,
    /// Whether devices may poll: if no upgrade gets through (auto), never, or always and without
    /// upgrades (only)
    #[arg(long, value_name = "WHEN", value_enum, default_value = "auto", env = "PTTH_FALLBACK")]
    pub(crate) fallback: Polling,
    /// Let web pages of this origin use --devices, so that a browser tab can be a device; may be
    /// given several times
    #[arg(long, value_name = "ORIGIN", value_delimiter = ',', env = "PTTH_CORS_ORIGIN")]
    pub(crate) cors_origin: Vec<String>,
    /// A file with the devices' tokens, one a line: SHA-256 in hex, then the names it is for (see
    /// ptth token); read again on SIGHUP
    #[arg(long, value_name = "FILE", env = "PTTH_TOKENS")]
    pub(crate) tokens: Option<PathBuf>,
    /// A file like that of --tokens with the visitors' tokens, and the devices that each may reach;
    /// read again on SIGHUP
    #[arg(long, value_name = "FILE", env = "PTTH_VISITOR_TOKENS")]
    pub(crate) visitor_tokens: Option<PathBuf>,
    /// Accept devices' connections only from these addresses or networks, like 10.0.0.0/8 (of a
    /// proxy, its own address counts unless it sends a PROXY header)
    #[arg(long, value_name = "CIDR[,CIDR...]", value_delimiter = ',', env = "PTTH_DEVICES_ALLOW")]
    pub(crate) devices_allow: Vec<String>,
    /// Accept visitors' requests only from these addresses or networks; others get 403 (of a proxy,
    /// its own address counts unless it sends a PROXY header)
    #[arg(long, value_name = "CIDR[,CIDR...]", value_delimiter = ',', env = "PTTH_VISITORS_ALLOW")]
    pub(crate) visitors_allow: Vec<String>,
    /// TCP balancers (addresses or networks) whose connections to --devices begin with a PROXY
    /// header, of version 1 or 2 and before TLS; the peer that it names counts instead of the
    /// balancer; from other addresses no header is accepted
    #[arg(
        long,
        value_name = "CIDR[,CIDR...]",
        value_delimiter = ',',
        env = "PTTH_DEVICES_PROXY_PROTOCOL"
    )]
    pub(crate) devices_proxy_protocol: Vec<String>,
    /// The same for --visitors
    #[arg(
        long,
        value_name = "CIDR[,CIDR...]",
        value_delimiter = ',',
        env = "PTTH_VISITORS_PROXY_PROTOCOL"
    )]
    pub(crate) visitors_proxy_protocol: Vec<String>,
    /// Event loops, each on a thread of its own (1 to 64); a device and its visitors are always in
    /// one of them [default: 1]
    #[arg(long, value_name = "N", value_parser = some_number, env = "PTTH_LOOPS")]
    pub(crate) loops: Option<usize>,
    /// Connections in all; beyond, idle visitors' connections are closed, or accepting pauses;
    /// lowered to the limit of open files
    #[arg(long, value_name = "N", default_value = "65000", value_parser = connections, env = "PTTH_CONNECTIONS")]
    pub(crate) connections: usize,
    /// Connections from one peer address (IPv6: one /64) to --devices, and as many to --visitors,
    /// trusted proxies aside; more are closed at once [default: a quarter of --connections]
    #[arg(long, value_name = "N", value_parser = some_number, env = "PTTH_CONNECTIONS_PER_ADDRESS")]
    pub(crate) connections_per_address: Option<usize>,
    /// Connections to --devices without an accepted offer or poll; of more the oldest is closed
    /// [default: a quarter of --connections]
    #[arg(long, value_name = "N", value_parser = some_number, env = "PTTH_UNAUTHENTICATED")]
    pub(crate) unauthenticated: Option<usize>,
    #[command(flatten)]
    pub(crate) leniency: LeniencyArgs,
    /// This gateway's name in Via; a request that has it already came round in a loop, and gets 508
    /// (default: ptth- and a random number)
    #[arg(long, value_name = "NAME", env = "PTTH_VIA")]
    pub(crate) via: Option<String>,
    /// Silence on an idle link before a heartbeat is sent to the device (0s: never)
    #[arg(long, value_name = "DURATION", default_value = "25s", value_parser = duration, env = "PTTH_HEARTBEAT")]
    pub(crate) heartbeat: Duration,
    /// How long the answer to a heartbeat may take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = some_time, env = "PTTH_HEARTBEAT_TIMEOUT")]
    pub(crate) heartbeat_timeout: Duration,
    /// How long a poll (and, with --turn on-demand, an offer) is held before it gets an empty
    /// answer
    #[arg(long, value_name = "DURATION", default_value = "25s", value_parser = some_time, env = "PTTH_POLL_HOLD")]
    pub(crate) poll_hold: Duration,
    /// How long a request waits for a link of a known device, then 503
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration, env = "PTTH_WAIT_FOR_LINK")]
    pub(crate) wait_for_link: Duration,
    /// How long a device may take to begin its response, then 504
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = some_time, env = "PTTH_FIRST_BYTE")]
    pub(crate) first_byte: Duration,
    /// How long a request's head may take to arrive, in all, then 408
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = some_time, env = "PTTH_HEAD")]
    pub(crate) head: Duration,
    /// How long a TLS handshake may take, in all, and a balancer's PROXY header before it, then
    /// closed
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = some_time, env = "PTTH_HANDSHAKE")]
    pub(crate) handshake: Duration,
    /// How long a kept-alive visitor may stay silent between requests
    #[arg(long, value_name = "DURATION", default_value = "75s", value_parser = some_time, env = "PTTH_IDLE_VISITOR")]
    pub(crate) idle_visitor: Duration,
    /// How long a device may not read from a request that is written to it, then 504
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = some_time, env = "PTTH_REQUEST_WRITE")]
    pub(crate) request_write: Duration,
    /// Longest silence within the body of a request or response, then 408 or an abort
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = some_time, env = "PTTH_BODY_SILENCE")]
    pub(crate) body_silence: Duration,
    /// Longest exchange, from the visitor's head to the response's last byte, then 504 or an abort
    /// (0s: no bound)
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration, env = "PTTH_EXCHANGE")]
    pub(crate) exchange: Duration,
    /// Longest silence on a tunnel (a WebSocket, say) before it is closed (0s: no bound)
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration, env = "PTTH_TUNNEL_SILENCE")]
    pub(crate) tunnel_silence: Duration,
    /// Requests in flight to one device; others wait
    #[arg(long, value_name = "N", default_value = "1024", value_parser = some_number, env = "PTTH_IN_FLIGHT")]
    pub(crate) in_flight: usize,
    /// Requests that wait for one device; further ones get 503
    #[arg(long, value_name = "N", default_value = "1024", value_parser = some_number, env = "PTTH_WAITING")]
    pub(crate) waiting: usize,
    /// Bytes of memory for connections and their buffers; from nine tenths on new requests get 503
    #[arg(long, value_name = "BYTES", default_value = "1Gi", value_parser = memory, env = "PTTH_MEMORY")]
    pub(crate) memory: u64,
    /// Let several devices with the same credential have one name; requests go to them in turn
    #[arg(long, env = "PTTH_SHARED_NAMES", value_parser = yes_or_no, action = ArgAction::SetTrue)]
    pub(crate) shared_names: bool,
    /// Bytes per second that a visitor has to read while others wait for its link, or for the
    /// memory of its response; and that an upload has to send while others wait for its link or its
    /// memory (0: no minimum)
    #[arg(long, value_name = "BYTES", default_value = "1Ki", value_parser = size, env = "PTTH_MIN_RATE")]
    pub(crate) min_rate: u64,
    /// Serve visitors that have ended their direction of the connection (half-close) even while
    /// others wait for the link; else they count as gone after one second without progress
    #[arg(long, env = "PTTH_HALF_CLOSE", value_parser = yes_or_no, action = ArgAction::SetTrue)]
    pub(crate) half_close: bool,
    /// A path on --visitors that this gateway answers itself: 200 while it serves, 503 from SIGTERM
    /// on (for load balancers; default: none)
    #[arg(long, value_name = "PATH", env = "PTTH_HEALTH_PATH")]
    pub(crate) health_path: Option<String>,
    /// On SIGTERM: how long to keep serving while the health path reports 503, so that load
    /// balancers notice, before --drain-timeout begins (0s: no notice; a second signal ends it)
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration, env = "PTTH_DRAIN_NOTICE")]
    pub(crate) drain_notice: Duration,
    /// On SIGTERM: the gateway that devices are sent to, like http://b.example:9999
    #[arg(long, value_name = "URL", env = "PTTH_DRAIN_TO")]
    pub(crate) drain_to: Option<String>,
    /// On SIGTERM, after --drain-notice: how long requests in progress may take to finish
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration, env = "PTTH_DRAIN_TIMEOUT")]
    pub(crate) drain_timeout: Duration,
    #[command(flatten)]
    pub(crate) others: PeersArgs,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    /// The form of the log's lines on standard error
    #[arg(long, value_name = "FORM", value_enum, default_value = "text", env = "PTTH_LOG_FORMAT")]
    pub(crate) log_format: LogFormat,
    #[command(flatten)]
    pub(crate) access_log: AccessLogArgs,
}
