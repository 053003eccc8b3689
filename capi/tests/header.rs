//! `include/ptth.h` is what the sources say: each function, type and comment.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

const FILES: [&str; 6] = ["outcome", "callback", "logging", "options", "device", "request"];

#[test]
fn the_header_is_written_from_the_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    let sources =
        FILES.iter().fold(cbindgen::Builder::new().with_config(config), |builder, file| {
            builder.with_src(root.join(format!("src/{file}.rs")))
        });
    let mut written = Vec::new();
    sources.generate().unwrap().write(&mut written);
    let header = root.join("include/ptth.h");
    if std::env::var_os("PTTH_WRITE_HEADER").is_some() {
        std::fs::write(&header, &written).unwrap();
    }
    assert!(
        std::fs::read(&header).is_ok_and(|there| there == written),
        "include/ptth.h is not what the sources say: PTTH_WRITE_HEADER=1 cargo test -p reverse-http-c header"
    );
}
