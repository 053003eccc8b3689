//! `ptth device --dir`: a directory's files, asked for by visitors, by curl, and over raw links
//! that no gateway of ours has looked at first.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod changing;
mod outside;
mod served;

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crate::support::{Answer, Gateway, Process, Ptth, RawGateway, RawPeer, TempDir};

const SECRET: &str = "the secret outside";

/// 2020-01-01, in seconds: files that are older than this second have dates that conditions can
/// rely on.
const THEN: u64 = 1_577_836_800;

/// A directory `root` to serve, and beside it what must never be served.
struct Permit {
    dir: TempDir,
}

impl Permit {
    fn new() -> Permit {
        let dir = TempDir::new("files");
        fs::create_dir_all(dir.0.join("root/sub/deep")).unwrap();
        fs::create_dir_all(dir.0.join("outside")).unwrap();
        for path in ["secret", "outside/secret", "root-secret"] {
            fs::write(dir.0.join(path), SECRET).unwrap();
        }
        let place = Permit { dir };
        place.write("index.html", "<h1>home</h1>");
        place.write("a.txt", "0123456789");
        place.write("sub/index.html", "<h1>sub</h1>");
        place.write("sub/b.txt", "b");
        place.write("sub/deep/c.txt", "c");
        place
    }

    fn root(&self) -> PathBuf {
        self.dir.0.join("root")
    }

    /// Writes a file of the year 2020.
    fn write(&self, name: impl AsRef<Path>, text: impl AsRef<[u8]>) {
        let path = self.root().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut file = fs::File::create(path).unwrap();
        file.write_all(text.as_ref()).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(THEN)).unwrap();
    }

    fn link(&self, name: &str, target: impl AsRef<Path>) {
        symlink(target, self.root().join(name)).unwrap();
    }

    fn serve(self, more: &[&str]) -> Site {
        let gateway = Gateway::start(&[]);
        let device = Ptth::device(
            &gateway,
            "lamp",
            &[&["--dir", self.root().to_str().unwrap()], more].concat(),
        );
        Site { place: self, gateway, device }
    }
}

/// A directory on its way to visitors.
struct Site {
    place: Permit,
    gateway: Gateway,
    device: Process,
}

impl Site {
    fn get(&self, target: &str) -> Answer {
        self.gateway.get(&format!("/lamp{target}"))
    }

    /// A request with fields, each with its CRLF.
    fn ask(&self, method: &str, target: &str, fields: &str) -> Answer {
        self.gateway
            .visitor()
            .ask(&format!("{method} /lamp{target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
    }

    fn url(&self, target: &str) -> String {
        format!("http://{}/lamp{target}", self.gateway.visitors)
    }
}

/// Links of a device to a gateway that is the test itself, so that targets arrive as they are.
struct Links {
    gateway: RawGateway,
    link: Option<RawPeer>,
    _device: Process,
}

impl Links {
    fn of(place: &Permit) -> Links {
        let gateway = RawGateway::start();
        let dir = place.root();
        let device = Ptth::start(&[
            "device",
            &gateway.url("lamp"),
            "--dir",
            dir.to_str().unwrap(),
            "--links",
            "1..1",
            "--backoff",
            "10ms..20ms",
        ]);
        Links { gateway, link: None, _device: device }
    }

    fn ask(&mut self, request: &str) -> Answer {
        let link = self.link.get_or_insert_with(|| self.gateway.turn());
        let answer = link.ask(request);
        if answer.head.closes() {
            self.link = None;
        }
        answer
    }
}
