//! A download that is resumed: the gateway fetches a file from a device that serves a directory, loses
//! it half-way, and asks for the rest (`Range`), if the file is still the same (`If-Range`).
#![allow(clippy::expect_used)] // an example that cannot go on ends

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::time::Duration;

use http::{Request, StatusCode};
use reverse_http::{Body, Cancel, Device, DeviceRef, Gateway};

/// Goes on where `file` ends; `tag` is what the device called the version of which that is a part.
/// `most`: bytes after which it breaks, as a lost connection would.
fn fetch(meter: &DeviceRef, file: &mut File, tag: &mut String, most: u64) -> io::Result<()> {
    let from = file.seek(SeekFrom::End(0))?;
    let mut request = Request::get("/meter.log");
    if from > 0 {
        request = request.header("Range", format!("bytes={from}-")).header("If-Range", &*tag);
    }
    let breaks = Cancel::new();
    let meter = meter.clone().cancel_with(&breaks);
    let request = request.body(Body::empty()).map_err(io::Error::other)?;
    let response = meter.send(request)?;
    println!("from byte {from} on: {}", response.status());
    match response.status() {
        StatusCode::PARTIAL_CONTENT => {}
        StatusCode::OK => {
            file.set_len(0)?; // another version: from its beginning
            file.rewind()?;
        }
        other => return Err(io::Error::other(format!("the device answered {other}"))),
    }
    let etag = response.headers().get("ETag").and_then(|tag| tag.to_str().ok());
    *tag = etag.unwrap_or_default().to_owned();
    let mut body = response.into_body().with_progress(move |now| {
        if now.bytes > most {
            breaks.cancel();
        }
        if now.is_complete() {
            println!("{} bytes came", now.bytes);
        }
    });
    io::copy(&mut body, file).map(drop)
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("ptth-download-{}", std::process::id()));
    fs::create_dir(&folder)?;
    let log: Vec<u8> = (0..4_000_000_u32).map(|n| (n % 251) as u8).collect();
    fs::write(folder.join("meter.log"), &log)?;

    let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
    let url = format!("http://{}/meter", gateway.devices_addr());
    let running = Device::builder(url).build()?.spawn_dir(&folder)?;
    let meter = gateway.device("meter").timeout(Duration::from_secs(30));
    meter.wait_connected(Duration::from_secs(5))?;

    let path = folder.join(".copy"); // names with a dot are not served
    let mut file = File::options().read(true).append(true).create(true).open(&path)?;
    let mut tag = String::new();
    for most in [1_000_000, u64::MAX] {
        if let Err(e) = fetch(&meter, &mut file, &mut tag, most) {
            println!("it broke: {e}");
        }
    }
    file.flush()?;
    assert!(fs::read(&path)? == log, "every byte is there, once");
    running.stop();
    fs::remove_dir_all(&folder)?;
    Ok(())
}
