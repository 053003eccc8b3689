//! Gives the shared library its SONAME, so that programs find the one that they were linked with.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let system = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if system != "macos" {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libptth.so.0");
    }
}
