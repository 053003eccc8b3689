//! What SIGHUP reads again at a gateway, and what the log says has changed. A mistake in one file
//! changes nothing of what that one says.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use reverse_http::tls::GatewayTls;
use reverse_http::{Error, Gateway, Routes, Tokens};

use crate::arguments::GatewayArgs;
use crate::config::{File, changes};
use crate::files::Reading;
use crate::tokens;

/// The tables of tokens.
pub(crate) struct Tables {
    pub(crate) devices: Option<Tokens>,
    pub(crate) visitors: Option<Tokens>,
}

/// What the files said when they were last read.
pub(crate) struct LastRead {
    tables: Tables,
    routes: BTreeMap<String, String>,
    options: BTreeMap<String, String>,
}

impl LastRead {
    pub(crate) fn new(tables: Tables, file: Option<&File>) -> Self {
        LastRead {
            tables,
            routes: file.map(File::routes_by_key).unwrap_or_default(),
            options: file.and_then(|file| options_of(file).ok()).unwrap_or_default(),
        }
    }

    /// Reads every file of the command line again.
    pub(crate) fn read_again(
        &mut self,
        gateway: &Gateway,
        visitors: SocketAddr,
        args: &GatewayArgs,
        fixed: &Routes,
    ) {
        reload_tls(gateway, "devices", gateway.devices_addr(), args.tls.devices(Reading::Again));
        reload_tls(gateway, "visitors", visitors, args.tls.visitors(Reading::Again));
        match &args.config {
            Some(path) => self.read_config(gateway, visitors, path, fixed),
            None if !args.reads_files() => log::info!(
                "SIGHUP: nothing to read again: no --config, tokens or certificates are given"
            ),
            None => {}
        }
        reload_tokens("--tokens", &args.tokens, self.tables.devices.as_mut(), |tokens| {
            gateway.set_tokens(tokens)
        });
        let before = self.tables.visitors.as_mut();
        reload_tokens("--visitor-tokens", &args.visitor_tokens, before, |tokens| {
            gateway.set_visitor_tokens(tokens)
        });
    }

    fn read_config(
        &mut self,
        gateway: &Gateway,
        visitors: SocketAddr,
        path: &Path,
        fixed: &Routes,
    ) {
        let reloaded = File::read(path, Reading::Again).and_then(|file| {
            let options = options_of(&file)?;
            let routes = file.routes(fixed.clone())?;
            let length = routes.table_len();
            gateway.set_routes(visitors, routes).map_err(|e| e.to_string())?;
            Ok((length, file.routes_by_key(), options))
        });
        let (length, routes, options) = match reloaded {
            Ok(read) => read,
            Err(e) => return log::error!("--config {e}; the routes stay as they were"),
        };
        let what = changes(&self.routes, &routes);
        log::info!("{length} routes were read from {}: {what}", path.display());
        if options != self.options {
            log::warn!(
                "{}: options of [gateway] count from the next start on: {}",
                path.display(),
                changes(&self.options, &options)
            );
        }
        (self.routes, self.options) = (routes, options);
    }
}

/// What the file says of a gateway's options.
fn options_of(file: &File) -> Result<BTreeMap<String, String>, String> {
    let settings = file.settings(&crate::command())?;
    let own = settings.into_iter().filter(|setting| setting.table == "gateway");
    Ok(own.map(|setting| (setting.id, setting.arguments.join(" "))).collect())
}

/// New handshakes get what the files say now; what cannot be read leaves all as it was.
fn reload_tls(
    gateway: &Gateway,
    whose: &str,
    at: SocketAddr,
    read: Result<Option<GatewayTls>, String>,
) {
    match read.and_then(|tls| {
        tls.map(|tls| gateway.set_tls(at, tls).map_err(|e| e.to_string())).transpose()
    }) {
        Ok(None) => {}
        Ok(Some(())) => log::info!("the certificates for {whose} were read again"),
        Err(e) => log::error!("{e}; the certificates for {whose} stay as they were"),
    }
}

/// The table in the file of an option.
pub(crate) fn read_tokens(option: &str, file: &Path, reading: Reading) -> Result<Tokens, String> {
    tokens::read(file, reading).map_err(|e| format!("{option} {e}"))
}

/// Reads the file of an option again; a mistake in it changes nothing. `before` is the table that
/// was in force, where the caller keeps it.
pub(crate) fn reload_tokens(
    option: &str,
    file: &Option<PathBuf>,
    before: Option<&mut Tokens>,
    set: impl FnOnce(Tokens) -> Result<(), Error>,
) {
    let Some(file) = file else { return };
    let replaced = read_tokens(option, file, Reading::Again)
        .and_then(|tokens| set(tokens.clone()).map(|()| tokens).map_err(|e| e.to_string()));
    match replaced {
        Ok(tokens) => {
            let what = before.as_ref().map(|before| tokens.changes_since(before));
            let what = what.map(|what| format!(": {what}")).unwrap_or_default();
            log::info!("{} tokens were read from {}{what}", tokens.len(), file.display());
            before.into_iter().for_each(|before| *before = tokens.clone());
        }
        Err(e) => log::error!("{e}; the tokens stay as they were"),
    }
}
