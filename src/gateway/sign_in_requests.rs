//! Sign-in of visitors: the routes that have it, the cookie, and the gateway's own pages for it.

use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use crate::engine::connections::{Connections, Id};
use crate::error::Refusal;
use crate::gateway::routes::SignInAt;
use crate::gateway::sign_in::{self, FORM_BYTES_MAX, Form, SIGN_IN, SIGN_OUT, Scope};
use crate::gateway::state::{GatewayRole, State};
use crate::gateway::tokens::{Digest, digest};
use crate::limits::{LOG_OTHER_SITES_PER_SECOND, Limits};
use crate::logs::Gate;
use crate::proto::body::{Decoder, Framing, Piece};
use crate::proto::forward::{Destination, GATEWAY_AUTHORIZATION};
use crate::proto::forwarded::ProxyClaims;
use crate::proto::framed::FramedRequest;
use crate::proto::head::Fields;
use crate::proto::prefixes::path_of;
use crate::relay::{LocalAnswer, Page};
use crate::setting::TRUSTED_PROXIES;

const WRONG_TOKEN: &str = "This token is not known.";
const OTHER_DEVICE: &str = "This token is not for this device.";
const OTHER_SITE: &str = "this was not sent by a page of this host (Sec-Fetch-Site, Origin)";
const NO_FORM: &str = "the form of the sign-in page is application/x-www-form-urlencoded";
const LONG_FORM: &str = "the form of the sign-in page is longer than any token";
const NOT_AWAITED: &str = "the form of the sign-in page comes without Expect";

/// A response about signing in.
#[derive(Debug)]
pub(super) struct SignInAnswer {
    pub(super) status: u16,
    pub(super) page: Page,
    pub(super) fields: Vec<(&'static str, String)>,
    pub(super) retry_after: Option<u64>,
}

impl SignInAnswer {
    fn page(status: u16, html: &str) -> Self {
        let page = Page { content_type: "text/html; charset=utf-8".into(), text: html.into() };
        // Only Bearer: with Basic, browsers would show their own dialogue.
        let challenge = ("WWW-Authenticate", "Bearer realm=\"ptth\"".to_owned());
        let fields = if status == 401 { vec![challenge] } else { Vec::new() };
        SignInAnswer { status, page, fields, retry_after: None }
    }

    fn text(status: u16, reason: &str) -> Self {
        let page = Page { content_type: "text/plain; charset=utf-8".into(), text: reason.into() };
        SignInAnswer { status, page, fields: Vec::new(), retry_after: None }
    }

    /// A page of another host offers an upgrade with the cookie of a signed-in visitor.
    pub(super) fn of_another_site() -> Self {
        SignInAnswer::text(403, OTHER_SITE)
    }

    /// Its error type, for `Proxy-Status` and the access log.
    pub(super) fn error(&self) -> Option<&'static str> {
        match self.status {
            200..=399 => None,
            401 | 403 | 429 => Some("http_request_denied"),
            _ => Some("http_request_error"),
        }
    }

    fn see_other(location: String, cookie: String) -> Self {
        let fields = vec![("Location", location), ("Set-Cookie", cookie)];
        SignInAnswer { fields, ..SignInAnswer::text(303, "go on; see Location") }
    }
}

/// The visitor of a request, and its connection.
#[derive(Clone, Copy)]
pub(super) struct VisitorContext<'a> {
    pub(super) from: IpAddr,
    pub(super) claims: Option<&'a ProxyClaims<'a>>,
    pub(super) secure: bool,
}

impl VisitorContext<'_> {
    /// The scheme that the visitor used, if known.
    pub(super) fn scheme(&self) -> Option<&'static str> {
        self.claims.and_then(ProxyClaims::scheme).or(self.secure.then_some("https"))
    }

    /// Returns true if the visitor's browser uses `https`.
    fn is_secure(&self) -> bool {
        self.scheme() == Some("https")
    }
}

/// The part of a form's body that has arrived.
pub(super) enum FormBody {
    NotYet,
    /// The whole body, and the number of bytes that it used.
    Whole(Vec<u8>, usize),
    Refused(Refusal),
}

/// Reads a form from the bytes after its head, framing first.
pub(super) fn read_form(request: &FramedRequest<'_>, bytes: &[u8], limits: &Limits) -> FormBody {
    let refused = |status, reason: &'static str| FormBody::Refused(Refusal::new(status, reason));
    if matches!(request.framing(), Framing::Length(length) if length > FORM_BYTES_MAX as u64) {
        return refused(413, LONG_FORM);
    }
    if request.fields.get("expect").is_some() {
        return refused(417, NOT_AWAITED);
    }
    let mut decoder = Decoder::new(request.framing(), limits);
    let (mut form, mut used) = (Vec::new(), 0);
    loop {
        match decoder.decode(&bytes[used..]) {
            Err(refusal) => return FormBody::Refused(refusal),
            Ok((n, Piece::Data(data))) => {
                form.extend_from_slice(data);
                used += n;
            }
            Ok((n, Piece::End)) => return FormBody::Whole(form, used + n),
            Ok((_, Piece::More)) if bytes.len() >= 2 * FORM_BYTES_MAX => {
                return refused(413, LONG_FORM);
            }
            Ok((_, Piece::More)) => return FormBody::NotYet,
        }
        if form.len() > FORM_BYTES_MAX {
            return refused(413, LONG_FORM);
        }
    }
}

impl GatewayRole {
    /// Writes the answer. `to_head` and `keep` are those of a [`LocalAnswer`].
    pub(super) fn answer_sign_in(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        answer: &SignInAnswer,
        (to_head, keep): (bool, bool),
    ) {
        let own = answer.fields.iter().map(|(name, value)| (*name, value.as_str()));
        let fields: Vec<(&str, &str)> = sign_in::FIELDS.into_iter().chain(own).collect();
        let told = LocalAnswer {
            error: answer.error(),
            retry_after: answer.retry_after,
            fields: &fields,
            page: Some(&answer.page),
            to_head,
            keep,
            ..LocalAnswer::new(
                answer.status,
                "a visitor's token is needed here; this is the gateway's own page for it",
            )
        };
        self.answer_visitor(cx, id, &told);
    }

    /// The scope in which the visitor of this request may sign in. `None` if it cannot, for example
    /// because visitors need no token.
    #[cold]
    pub(super) fn sign_in_scope(
        &self,
        to: &Destination<'_>,
        listener: usize,
        context: VisitorContext<'_>,
    ) -> Option<Scope> {
        let (table, port) = self.listeners.visitors(listener)?;
        if !table.signs_in_anywhere() || !self.credentials.know_visitors() || to.target == "*" {
            return None;
        }
        let SignInAt { prefix, device } = match self.origin(to, port, context.scheme()) {
            Some(origin) => table.sign_in_of_others(origin)?,
            None => table.sign_in(to)?,
        };
        let outer = context.claims.map_or("", ProxyClaims::prefix);
        // A semicolon would end the path of a cookie.
        let scope = Scope {
            host: to.host.clone(),
            prefix: prefix.to_owned(),
            outer: outer.to_owned(),
            device,
        };
        Some(scope).filter(|scope| !scope.path("").contains(';'))
    }

    /// The token of a request's cookie, unless a field with a token takes precedence.
    pub(super) fn cookie_token(&self, scope: &Scope, fields: &Fields<'_>) -> Option<Digest> {
        if fields.get(GATEWAY_AUTHORIZATION).is_some() {
            return None;
        }
        let digest = self.sign_ins.shown(scope, fields, SystemTime::now())?;
        self.credentials.is_visitor(&digest).then_some(digest)
    }

    /// Returns true if a request was made by a page of its own host.
    pub(super) fn is_same_origin(
        &self,
        fields: &Fields<'_>,
        to: &Destination<'_>,
        claims: Option<&ProxyClaims<'_>>,
    ) -> bool {
        let hosts = [Some(to.authority), claims.and_then(ProxyClaims::host)];
        sign_in::is_same_origin(fields, hosts.into_iter().flatten())
    }

    /// The page for a visitor without a token. `refused` means that its token is for another
    /// device.
    pub(super) fn sign_in_page(&self, scope: &Scope, target: &str, refused: bool) -> SignInAnswer {
        let to = scope.path(target.strip_prefix(scope.prefix.as_str()).unwrap_or_default());
        match refused {
            true => SignInAnswer::page(403, &sign_in::page(scope, &to, Some(OTHER_DEVICE))),
            false => SignInAnswer::page(401, &sign_in::page(scope, &to, None)),
        }
    }

    /// The answer of the gateway's own paths to a request without a form. `None` for other paths.
    pub(super) fn own_page(
        &self,
        scope: &Scope,
        request: &FramedRequest<'_>,
        to: &Destination<'_>,
        token: Option<&Digest>,
    ) -> Option<SignInAnswer> {
        let is_out = which(scope, to)?;
        if is_out || !matches!(request.method, "GET" | "HEAD") {
            let allowed = if is_out { "POST" } else { "GET, HEAD, POST" };
            let answer = SignInAnswer::text(405, "this path is the gateway's own, for signing in");
            let fields = vec![("Allow", allowed.to_owned())];
            return Some(SignInAnswer { fields, ..answer });
        }
        match token {
            Some(digest) => {
                let label = self.credentials.visitor_comment(digest);
                let html = sign_in::signed_in(scope, label.as_deref());
                Some(SignInAnswer::page(200, &html))
            }
            None if !sign_in::wants_page(&request.fields) => None, // the usual 401
            None => Some(self.sign_in_page(scope, "", false)),
        }
    }

    /// Returns true if a request sends a form to one of the gateway's own paths.
    pub(super) fn is_form(
        &self,
        scope: &Scope,
        request: &FramedRequest<'_>,
        to: &Destination<'_>,
    ) -> bool {
        request.method == "POST" && which(scope, to).is_some()
    }

    /// Answers a complete form.
    pub(super) fn take_form(
        &self,
        (request, to): (&FramedRequest<'_>, &Destination<'_>),
        scope: &Scope,
        body: &[u8],
        context: VisitorContext<'_>,
        now: Instant,
    ) -> SignInAnswer {
        if !self.is_same_origin(&request.fields, to, context.claims) {
            log_other_site(&request.fields, to, context.claims);
            return SignInAnswer::of_another_site();
        }
        if which(scope, to) == Some(true) {
            let cookie = scope.set_cookie(None, context.is_secure());
            return SignInAnswer::see_other(scope.path(SIGN_IN), cookie);
        }
        let kind = request.fields.get("content-type").unwrap_or_default();
        let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        if !kind.eq_ignore_ascii_case(b"application/x-www-form-urlencoded") {
            return SignInAnswer::text(415, NO_FORM);
        }
        let Some(form) = Form::read(body) else { return SignInAnswer::text(400, NO_FORM) };
        let goal = scope.goal(&form.to);
        let from = self.address_of(context.from, context.claims);
        if let Err(too_many) = self.rates.take(now, self.sign_ins.attempts(), from, None) {
            let html = sign_in::page(scope, &goal, Some("Too many attempts; try again later."));
            let retry_after = Some(too_many.seconds);
            return SignInAnswer { retry_after, ..SignInAnswer::page(429, &html) };
        }
        self.sign_in(scope, &form.token, goal, context.is_secure(), from)
    }

    fn sign_in(
        &self,
        scope: &Scope,
        token: &[u8],
        goal: String,
        secure: bool,
        from: IpAddr,
    ) -> SignInAnswer {
        let again =
            |status, why| SignInAnswer::page(status, &sign_in::page(scope, &goal, Some(why)));
        let fits = !token.is_empty() && token.len() <= self.settings.limits.token_bytes_max;
        let known =
            fits.then(|| digest(token)).filter(|digest| self.credentials.is_visitor(digest));
        let Some(digest) = known else {
            log_names!(Info, "a visitor from {from} has not signed in: the token is not known");
            return again(401, WRONG_TOKEN);
        };
        let label = self.credentials.visitor_label(&digest).unwrap_or_default();
        let may = |device: &String| self.credentials.visitor_may(&digest, device);
        if !scope.device.as_ref().is_none_or(may) {
            log_names!(
                Info,
                "a visitor from {from} has not signed in: {label} is not for this device"
            );
            return again(403, OTHER_DEVICE);
        }
        let (now, time) = (SystemTime::now(), self.settings.limits.sign_in_timeout);
        // A time that does not fit counts as a day.
        let ends = now.checked_add(time).unwrap_or(now + Duration::from_secs(86_400));
        let Some(value) = self.sign_ins.issue(scope, &digest, ends) else {
            return SignInAnswer::text(503, "this gateway has no randomness to sign anybody in");
        };
        log_names!(Info, "a visitor from {from} has signed in ({label})");
        SignInAnswer::see_other(goal, scope.set_cookie(Some(&value), secure))
    }
}

/// Logs a form or a WebSocket that comes, according to the browser, from a page of another host.
/// That may be an attacker's page, or a proxy has changed the name of the host.
pub(super) fn log_other_site(
    fields: &Fields<'_>,
    to: &Destination<'_>,
    claims: Option<&ProxyClaims<'_>>,
) {
    static GATE: Gate = Gate::new(module_path!(), LOG_OTHER_SITES_PER_SECOND);
    let value = |name| {
        let value = fields.get(name).unwrap_or(b"nothing");
        String::from_utf8_lossy(value).into_owned()
    };
    let believed =
        claims.and_then(ProxyClaims::host).map(|host| format!(", X-Forwarded-Host: {host}"));
    GATE.log(
        log::Level::Warn,
        format_args!(
            "a request of somebody who signs in, or has, got 403: it is for Host: {}{}, and its page is of Origin: {} (Sec-Fetch-Site: {}). If that is one host, a proxy before this gateway changes Host: have it pass Host on as it comes, or send X-Forwarded-Host and be trusted ({TRUSTED_PROXIES})",
            to.authority,
            believed.unwrap_or_default(),
            value("origin"),
            value("sec-fetch-site"),
        ),
    );
}

/// Which of the gateway's own paths a request is for: signing out, or in.
fn which(scope: &Scope, to: &Destination<'_>) -> Option<bool> {
    match path_of(to.target).strip_prefix(scope.prefix.as_str())? {
        SIGN_IN => Some(false),
        SIGN_OUT => Some(true),
        _ => None,
    }
}
