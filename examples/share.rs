//! A folder shared by a link that nobody can guess, as the device's name is random: the page lists the
//! files, and `PUT` adds one, under a name that is free. The argument is the folder; without one it
//! makes a folder, and ends when it has tried itself.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{Request, StatusCode};
use reverse_http::{Body, Device, Gateway, Routes};

/// The file that a path names. Only names that need no encoding, and no hidden ones: so no path leads
/// out of the folder.
fn file(folder: &Path, path: &str) -> Option<PathBuf> {
    let name = path.strip_prefix('/')?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_fit = !name.is_empty() && !name.starts_with('.') && name.chars().all(is_plain);
    is_fit.then(|| folder.join(name))
}

fn list(folder: &Path) -> io::Result<Body> {
    let mut page = String::from("files, one a line; append a name to this page's address\n");
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        if file(folder, &format!("/{name}")).is_some() {
            page += &format!("{name}\n");
        }
    }
    Ok(Body::from(page))
}

fn answer(folder: &Path, mut request: Request<Body>) -> Result<Body, StatusCode> {
    let path = file(folder, request.uri().path());
    let done = match (request.method().as_str(), path) {
        ("GET", None) if request.uri().path() == "/" => list(folder),
        (_, None) => return Err(StatusCode::NOT_FOUND),
        ("GET", Some(path)) => File::open(path).and_then(Body::from_file),
        ("PUT", Some(path)) => File::create_new(&path).and_then(|mut new| {
            let copied = io::copy(request.body_mut(), &mut new);
            copied.map(|n| Body::from(format!("{n} bytes\n"))).inspect_err(|_| {
                let _ = fs::remove_file(&path); // the visitor left half-way, or the disk is full
            })
        }),
        _ => return Err(StatusCode::METHOD_NOT_ALLOWED),
    };
    done.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => StatusCode::NOT_FOUND,
        io::ErrorKind::AlreadyExists => StatusCode::CONFLICT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let own = std::env::temp_dir().join(format!("ptth-share-{}", std::process::id()));
    let folder = std::env::args().nth(1).map_or_else(|| own.clone(), PathBuf::from);
    let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
    let visitors = gateway.listen_visitors("127.0.0.1:0", Routes::path())?;
    let mut random = [0; 16];
    getrandom::fill(&mut random)?;
    let name = format!("share-{:032x}", u128::from_ne_bytes(random));
    let url = format!("http://{}/{name}", gateway.devices_addr());
    let shared = folder.clone();
    let device = Device::builder(url).build()?.spawn(move |request| answer(&shared, request))?;
    let share = gateway.device(&name);
    share.wait_connected(Duration::from_secs(5))?;
    println!("http://{visitors}/{name}/ has the files; curl -T FILE adds one");
    if folder != own {
        return Ok(device.wait()?);
    }
    fs::create_dir(&own)?;
    for (method, path) in [("PUT", "/note"), ("PUT", "/note"), ("GET", "/note"), ("GET", "/.no")] {
        let request = Request::builder().method(method).uri(path).body(Body::from("kept"))?;
        println!("{method} {path}: {}", share.send(request)?.status());
    }
    device.stop();
    fs::remove_dir_all(&own)?;
    Ok(())
}
