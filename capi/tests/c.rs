//! Programs in C, Python and Lua on the library as it is built here, with a gateway in this process.
//! Without a compiler, valgrind, Python or LuaJIT a test is skipped, except under `CI=true`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use http::Request;
use reverse_http::{Body, DeviceRef, Gateway};

const WAIT: Duration = Duration::from_secs(60);

/// target/PROFILE, where libptth.a and libptth.so are: cargo makes them for itself, not for tests.
fn libraries() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let test = std::env::current_exe().unwrap();
        let profile = test.parent().unwrap().parent().unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--lib", "--manifest-path"]).arg(root().join("Cargo.toml"));
        cargo.arg("--target-dir").arg(profile.parent().unwrap());
        cargo.args(profile.ends_with("release").then_some("--release"));
        let said = cargo.output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        profile.to_path_buf()
    };
    BUILT.get_or_init(build).clone()
}

/// What capi/install puts under a prefix, from the same libraries.
fn installed() -> PathBuf {
    static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
    let install = || {
        let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join("installed");
        let built = libraries();
        let mut script = Command::new("sh");
        script.arg(root().join("install")).arg(&prefix).env_remove("DESTDIR");
        script.env("CARGO_TARGET_DIR", built.parent().unwrap());
        script.env("PROFILE", built.file_name().unwrap());
        let said = script.output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        prefix
    };
    INSTALLED.get_or_init(install).clone()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether these programs are there.
fn has(programs: &[&str]) -> bool {
    let absent: Vec<_> = programs
        .iter()
        .filter(|program| Command::new(program).arg("--version").output().is_err())
        .collect();
    if absent.is_empty() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "not installed: {absent:?}");
    println!("SKIPPED: {absent:?} not installed");
    false
}

/// Compiles a source of ours against the static library, or the shared one. `None`: no compiler.
fn compile(compiler: &str, source: &str, name: &str, more: &[&str]) -> Option<PathBuf> {
    if !has(&[compiler]) {
        return None;
    }
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let is_shared = more.contains(&"-lptth");
    let libraries = if is_shared { installed().join("lib") } else { libraries() };
    let mut command = Command::new(compiler);
    command.args(["-std=c11", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Werror", "-g"]);
    command.arg("-I").arg(root().join("include")).arg(root().join(source));
    if is_shared {
        command.arg("-L").arg(&libraries).arg(format!("-Wl,-rpath,{}", libraries.display()));
    } else {
        command.arg(libraries.join("libptth.a"));
    }
    command.args(more).args(["-lpthread", "-ldl", "-lm", "-o"]).arg(&program);
    let said = command.output().unwrap();
    assert!(said.status.success(), "{compiler}: {}", String::from_utf8_lossy(&said.stderr));
    Some(program)
}

fn gateway() -> (Gateway, String) {
    let gateway = Gateway::builder().listen("127.0.0.1:0").start().unwrap();
    let url = format!("http://{}/lamp", gateway.devices_addr());
    (gateway, url)
}

/// A program that is ended by the test's own end.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn terminate(&self) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    /// What it said, once it has ended; it has to by itself.
    fn end(mut self) -> Output {
        let until = Instant::now() + WAIT;
        while self.0.try_wait().unwrap().is_none() {
            assert!(Instant::now() < until, "the program does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut out = Output { status: self.0.wait().unwrap(), stdout: vec![], stderr: vec![] };
        self.0.stdout.take().unwrap().read_to_end(&mut out.stdout).unwrap();
        if let Some(mut stderr) = self.0.stderr.take() {
            stderr.read_to_end(&mut out.stderr).unwrap();
        }
        out
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        if let Some(mut stderr) = self.0.stderr.take().filter(|_| std::thread::panicking()) {
            let mut said = String::new();
            let _ = stderr.read_to_string(&mut said);
            println!("the program said: {said}");
        }
    }
}

fn send(lamp: &DeviceRef, method: &str, target: &str, body: &'static str) -> (u16, String) {
    let request = Request::builder().method(method).uri(target).header("User-Agent", "a test");
    let response = lamp.send(request.body(Body::from(body)).unwrap()).unwrap();
    let status = response.status().as_u16();
    (status, response.into_body().read_to_text(1 << 20).unwrap())
}

/// What examples/device.c and its like in other languages answer.
fn plays_the_device(url: &str, gateway: &Gateway, mut command: Command) {
    let running = Running::start(command.arg(url));
    let lamp = gateway.device("lamp");
    lamp.wait_connected(WAIT).unwrap();
    assert_eq!(send(&lamp, "GET", "/status", ""), (200, "on, and you are a test\n".to_owned()));
    assert_eq!(send(&lamp, "POST", "/echo", "hello"), (200, "hello".to_owned()));
    let numbers: String = (0..10).map(|n| format!("{n}\n")).collect();
    assert_eq!(send(&lamp, "GET", "/count", ""), (200, numbers));
    assert_eq!(send(&lamp, "GET", "/x", "").0, 404);
    let all: Vec<_> = (0..8)
        .map(|_| {
            let lamp = lamp.clone();
            std::thread::spawn(move || (0..20).all(|_| send(&lamp, "POST", "/echo", "x").1 == "x"))
        })
        .collect();
    assert!(all.into_iter().all(|thread| thread.join().unwrap()));
    running.terminate();
    let out = running.end();
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{:?}: {told}", out.status);
    let connected = format!("connected lamp via {url} (PTTH/1.0 turn)");
    assert_eq!(told.matches(&connected).count(), 1, "{told}");
}

#[test]
fn the_example_is_a_device() {
    for (compiler, more) in [("gcc", &[][..]), ("clang", &[]), ("gcc", &["-lptth"])] {
        let name = format!("device-{compiler}{}", more.len());
        let Some(program) = compile(compiler, "examples/device.c", &name, more) else { continue };
        let (gateway, url) = gateway();
        plays_the_device(&url, &gateway, Command::new(program));
    }
}

/// docs/c.md: pkg-config tells how to compile, the loader finds the library by its SONAME, and an
/// update is the file behind the links.
#[test]
fn an_installed_library_is_found() {
    if !has(&["gcc", "pkg-config", "readelf"]) {
        return;
    }
    let prefix = installed();
    let lib = prefix.join("lib");
    let link = |name: &str| std::fs::read_link(lib.join(name)).unwrap();
    assert_eq!(link("libptth.so"), Path::new("libptth.so.0"));
    assert_eq!(link("libptth.so.0"), Path::new(concat!("libptth.so.", env!("CARGO_PKG_VERSION"))));
    let mut pkg_config = Command::new("pkg-config");
    pkg_config.args(["--cflags", "--libs", "ptth"]).env("PKG_CONFIG_PATH", lib.join("pkgconfig"));
    let flags = pkg_config.output().unwrap();
    assert!(flags.status.success(), "{}", String::from_utf8_lossy(&flags.stderr));
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("device-installed");
    let mut gcc = Command::new("gcc");
    gcc.args(["-std=c11", "-D_POSIX_C_SOURCE=200809L"]).arg(root().join("examples/device.c"));
    gcc.args(String::from_utf8(flags.stdout).unwrap().split_whitespace()).arg("-o").arg(&program);
    let said = gcc.output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let needed = Command::new("readelf").arg("-d").arg(&program).output().unwrap();
    assert!(String::from_utf8_lossy(&needed.stdout).contains("[libptth.so.0]"));
    let (gateway, url) = gateway();
    let mut command = Command::new(program);
    command.env("LD_LIBRARY_PATH", &lib);
    plays_the_device(&url, &gateway, command);
}

#[test]
fn the_example_leaks_nothing() {
    let Some(program) = compile("gcc", "examples/device.c", "device-valgrind", &[]) else { return };
    if !has(&["valgrind"]) {
        return;
    }
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--quiet", "--error-exitcode=99", "--leak-check=full"]);
    valgrind.args(["--errors-for-leak-kinds=definite", "--show-leak-kinds=definite"]).arg(program);
    let (gateway, url) = gateway();
    plays_the_device(&url, &gateway, valgrind);
}

/// The requests that tests/calls.c expects, in its order.
fn plays_the_calls(mut command: Command) {
    let (gateway, url) = gateway();
    // As without it: a length that no memory has is no reason to end the program.
    command.env("ASAN_OPTIONS", "allocator_may_return_null=1");
    let running = Running::start(command.arg(&url));
    let lamp = gateway.device("lamp");
    lamp.wait_connected(WAIT).unwrap();
    let request = Request::post("/fields?a=1").header("X-One", "1").body(Body::from("hello"));
    let response = lamp.send(request.unwrap()).unwrap();
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["content-type"], "text/plain");
    let two: Vec<_> = response.headers().get_all("x-two").iter().collect();
    assert_eq!(two, ["2", "3"]);
    assert_eq!(response.into_body().read_to_text(10).unwrap(), "made");
    let large = Request::post("/large").body(Body::from("hello"));
    assert_eq!(lamp.send(large.unwrap()).unwrap().status(), 500); // it was given no response
    let request = |target: &str| Request::get(target).body(Body::empty()).unwrap();
    let response = lamp.send(request("/file")).unwrap();
    let program = std::fs::metadata(command.get_program()).map_or(0, |program| program.len());
    let length: u64 = response.headers()["content-length"].to_str().unwrap().parse().unwrap();
    let body = response.into_body().read_to_vec(1 << 30).unwrap();
    assert!(length == body.len() as u64 && (length == program || program < 10_000_000));
    for cut in ["/fails", "/too-much"] {
        // A POST: nobody asks again.
        let request = Request::post(cut).body(Body::from("x")).unwrap();
        let response = lamp.send(request);
        assert!(response.and_then(|response| response.into_body().read_to_vec(100)).is_err());
    }
    for n in 0..20 {
        let mut body = lamp.send(request("/endless")).unwrap().into_body();
        body.read_exact(&mut vec![0; n * 10_000]).unwrap(); // and it is dropped
    }
    assert_eq!(lamp.send(request("/nothing")).unwrap().status(), 500);
    let out = running.end();
    let (said, complained) =
        (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{:?}: {said}{complained}", out.status);
    assert_eq!(said, "all calls as expected\n", "{complained}");
}

#[test]
fn each_function_can_be_called_rightly_and_wrongly() {
    if let Some(program) = compile("gcc", "tests/calls.c", "calls", &[]) {
        plays_the_calls(Command::new(program));
    }
    let sanitized = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    if let Some(program) = compile("gcc", "tests/calls.c", "calls-sanitized", &sanitized) {
        plays_the_calls(Command::new(program));
    }
}

/// docs/c.md: a handler that still runs when its device ends, or when the library is unloaded, comes
/// to its end, and what it uses is released behind that (T73).
#[test]
fn a_handler_outlives_its_device_and_a_library_that_is_unloaded() {
    let sanitized = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    for (name, more) in [("endings", &[][..]), ("endings-sanitized", &sanitized[..])] {
        let Some(program) = compile("gcc", "tests/endings.c", name, more) else { continue };
        let (gateway, url) = gateway();
        let mut command = Command::new(program);
        let mut running = Running::start(command.arg(installed().join("lib/libptth.so")).arg(&url));
        let lamp = gateway.device("lamp");
        while running.0.try_wait().unwrap().is_none() {
            // Its connection is cut, or there was no device just now.
            assert!(lamp.send(Request::get("/").body(Body::empty()).unwrap()).is_err());
        }
        let out = running.end();
        let told = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{:?}: {told}", out.status);
        assert_eq!(
            String::from_utf8_lossy(&out.stdout),
            "each handler came to its end\n",
            "{told}"
        );
    }
}

/// A log that nobody reads any more ends no program (T73): SIGPIPE would.
#[test]
fn a_log_that_nobody_reads_raises_no_signal() {
    let Some(program) = compile("gcc", "tests/unread.c", "unread", &[]) else { return };
    let mut running = Running::start(&mut Command::new(program));
    drop(running.0.stderr.take());
    let out = running.end();
    assert!(out.status.success(), "{:?}", out.status);
    assert_eq!(String::from_utf8_lossy(&out.stdout), "9 9\n", "PTTH_FAILED: out of attempts");
}

/// The header is C99, C11 and C++, without a warning.
#[test]
fn the_header_is_c_and_cpp() {
    let header = root().join("include/ptth.h");
    for (compiler, language) in [
        ("gcc", ["-std=c99", "c"]),
        ("clang", ["-std=c11", "c"]),
        ("g++", ["-std=c++11", "c++"]),
        ("clang++", ["-std=c++20", "c++"]),
    ] {
        if !has(&[compiler]) {
            continue;
        }
        let mut command = Command::new(compiler);
        command.args([language[0], "-x", language[1], "-Wall", "-Wextra", "-Wpedantic", "-Werror"]);
        let said = command.arg("-fsyntax-only").arg(&header).output().unwrap();
        let told = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "{compiler}: {told}");
    }
}

/// A device in another language, on the installed shared library.
fn is_a_device(program: &str, example: &str) {
    let (gateway, url) = gateway();
    let device = || {
        let mut device = Command::new(program);
        device.arg(root().join("examples").join(example));
        device.env("PTTH_LIBRARY", installed().join("lib/libptth.so"));
        device
    };
    plays_the_device(&url, &gateway, device());
    // Without a gateway it says why, again and again.
    drop(gateway);
    let mut alone = Running::start(device().arg(&url));
    let mut lines = BufReader::new(alone.0.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("next attempt in")), "it is mute");
    alone.terminate();
    assert!(alone.end().status.success());
}

#[test]
fn python_is_a_device() {
    if has(&["python3"]) {
        is_a_device("python3", "device.py");
    }
}

#[test]
fn lua_is_a_device() {
    if has(&["luajit"]) {
        is_a_device("luajit", "device.lua");
    }
}
