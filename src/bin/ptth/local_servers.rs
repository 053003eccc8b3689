//! The options of local servers: --to, and those for one path or for all.

use reverse_http::Refusal;
use reverse_http::device::{DeviceBuilder, LocalServer};
use reverse_http::proto::edits::FieldEdits;

use crate::arguments::{DeviceArgs, ForPath};
use crate::{Failure, usage};

/// Refuses options for local servers, or for those at https, if there is none.
pub(crate) fn check(args: &DeviceArgs) -> Result<(), Failure> {
    let of_servers = [
        ("--host-header", !args.host_header.is_empty()),
        ("--strip-prefix", !args.strip_prefix.is_empty()),
        ("--to-connections", !args.to_connections.is_empty()),
        ("--set-field", !args.set_field.is_empty()),
        ("--remove-field", !args.remove_field.is_empty()),
        ("--set-response-field", !args.set_response_field.is_empty()),
        ("--remove-response-field", !args.remove_response_field.is_empty()),
    ];
    let given = of_servers.iter().find(|(_, is_given)| *is_given);
    if let Some((option, _)) = given.filter(|_| args.service.to.is_empty()) {
        return Err(usage(format!("{option} goes with --to")));
    }
    if args.map_origin && args.host_header.is_empty() {
        return Err(usage("--map-origin goes with --host-header"));
    }
    let secure = args.service.to.iter().filter(|to| is_secure(&to.value)).count();
    if let Some(option) = args.local.given().filter(|_| secure == 0) {
        return Err(usage(format!("{option} goes with --to https://")));
    }
    if args.local.has_server_name() && secure > 1 {
        return Err(usage(
            "--to-server-name is the name of one server, and several --to are at https://; name them in their URLs",
        ));
    }
    Ok(())
}

/// Returns true if a URL is at https.
pub(crate) fn is_secure(url: &str) -> bool {
    url.starts_with("https:")
}

/// Returns true if a local server is at https.
pub(crate) fn is_any_secure(args: &DeviceArgs) -> bool {
    args.service.to.iter().any(|to| is_secure(&to.value))
}

/// The servers of --to, each with the options of its path.
pub(crate) fn of(args: &DeviceArgs) -> Result<Vec<LocalServer>, Failure> {
    once("--host-header", args, &args.host_header)?;
    once("--to-connections", args, &args.to_connections)?;
    for path in &args.strip_prefix {
        is_known("--strip-prefix", args, path)?;
    }
    let server = |to: &ForPath<String>| {
        let path = to.path.as_deref().unwrap_or("/");
        let strips = args.strip_prefix.iter().any(|stripped| same(stripped, path));
        let mut server = LocalServer::new(&to.value).path(path)?.strip_path(strips);
        if let Some(host) = said_of(&args.host_header, path) {
            server = server.host_header(host);
        }
        if let Some(most) = said_of(&args.to_connections, path) {
            server = server.connections(*most);
        }
        Ok(server)
    };
    args.service.to.iter().map(server).collect()
}

/// Sets the options for all servers.
pub(crate) fn set(builder: DeviceBuilder, args: &DeviceArgs) -> Result<DeviceBuilder, Failure> {
    let builder = builder
        .map_origin(args.map_origin)
        .request_fields(edits(
            ("--set-field", &args.set_field),
            ("--remove-field", &args.remove_field),
        )?)
        .response_fields(edits(
            ("--set-response-field", &args.set_response_field),
            ("--remove-response-field", &args.remove_response_field),
        )?);
    Ok(match said_of_all(&args.host_header) {
        Some(host) => builder.host_header(host),
        None => builder,
    })
}

/// The edits to fields, by their options.
fn edits(
    set: (&str, &[(String, String)]),
    removed: (&str, &[String]),
) -> Result<FieldEdits, Failure> {
    let wrong =
        |option: &str, name: &str, why: Refusal| usage(format!("{option} {name}: {}", why.reason));
    let mut edits = FieldEdits::default();
    for (name, value) in set.1 {
        edits = edits.set(name, value).map_err(|why| wrong(set.0, name, why))?;
    }
    for name in removed.1 {
        edits = edits.remove(name).map_err(|why| wrong(removed.0, name, why))?;
    }
    Ok(edits)
}

/// The value of an option for all servers.
pub(crate) fn said_of_all<T>(said: &[ForPath<T>]) -> Option<&T> {
    said.iter().find(|said| said.path.is_none()).map(|said| &said.value)
}

/// The value of an option for the server of this path.
fn said_of<'a, T>(said: &'a [ForPath<T>], path: &str) -> Option<&'a T> {
    let is_it = |said: &&ForPath<T>| said.path.as_deref().is_some_and(|of| same(of, path));
    said.iter().find(is_it).map(|said| &said.value)
}

/// Refuses an option that is given twice for one server, or for a server that does not exist.
fn once<T>(option: &str, args: &DeviceArgs, said: &[ForPath<T>]) -> Result<(), Failure> {
    for (at, one) in said.iter().enumerate() {
        let path = one.path.as_deref();
        path.map_or(Ok(()), |path| is_known(option, args, path))?;
        let is_same = |other: &ForPath<T>| match (path, other.path.as_deref()) {
            (Some(path), Some(other)) => same(path, other),
            (path, other) => path.is_none() && other.is_none(),
        };
        if said[..at].iter().any(is_same) {
            let of = path.map_or(String::new(), |path| format!(" for {path}"));
            return Err(usage(format!("{option} is given twice{of}")));
        }
    }
    Ok(())
}

fn is_known(option: &str, args: &DeviceArgs, path: &str) -> Result<(), Failure> {
    let is_it = |to: &ForPath<String>| same(to.path.as_deref().unwrap_or("/"), path);
    match args.service.to.iter().any(is_it) {
        true => Ok(()),
        false => Err(usage(format!("{option} {path}: there is no --to {path}=URL"))),
    }
}

/// Compares paths: `/cam` and `/cam/` are equal.
fn same(a: &str, b: &str) -> bool {
    a.strip_suffix('/').unwrap_or(a) == b.strip_suffix('/').unwrap_or(b)
}
