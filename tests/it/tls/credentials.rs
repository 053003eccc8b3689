//! Which devices are admitted, by certificate or token.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use reverse_http::Device;
use reverse_http::tls::{ClientCertificates, DeviceTls, GatewayTls, Identity};

use super::{Api, device, dial, echo, secure_gateway, url};
use crate::support::pki::{NOW, TlsPeer, Years};
use crate::support::process::get;
use crate::support::{
    Authority, DEADLINE, Gateway, Pair, Process, Ptth, RawPeer, eventually, slack,
};

// ── which devices are admitted ──

#[test]
fn a_device_checks_its_gateway() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (gateway, pair) = secure_gateway(&authority, &[]);
    let _connected = device(&authority, &gateway, "by-ca", &["--text", "hi"]);
    let pinned = dial(&gateway, "by-pin", &["--text", "hi", "--pin", &pair.pin]);
    assert!(pinned.line().starts_with("connected by-pin"));
    let curls = dial(
        &gateway,
        "as-curl",
        &["--text", "hi", "--pin", &pair.pin.replacen('/', "//", 1), "--ca", authority.ca()],
    );
    assert!(curls.line().starts_with("connected as-curl"));
    let other = stranger.server("other");
    for (arguments, why) in [
        (&["--ca", stranger.ca()][..], "no CA that is trusted here"),
        (&["--pin", &other.pin], "none of those that are pinned"),
        (&["--ca", authority.ca(), "--pin", &other.pin], "none of those that are pinned"),
        (&["--ca", stranger.ca(), "--pin", &pair.pin], "no CA that is trusted here"),
        (&[], "no CA that is trusted here"),
    ] {
        dial(&gateway, "lamp", &[arguments, &["--text", "hi"]].concat()).expect_stderr(why);
    }
    for (what, names, years, more, why) in [
        ("expired", &["localhost"][..], Years(2020, 2021), &[][..], Some("has expired")),
        ("early", &["localhost"], Years(2080, 2085), &[], Some("not valid before")),
        ("early-floor", &["localhost"], Years(2080, 2085), &["--clock-floor", "2081-06-01"], None),
        (
            "late-floor",
            &["localhost"],
            Years(2080, 2085),
            &["--clock-floor", "2086-06-01"],
            Some("has expired"),
        ),
        ("elsewhere", &["gw.example"], NOW, &[], Some("another host")),
    ] {
        let pair = authority.issue(what, names, years);
        let gateway =
            Gateway::start(&["--devices-cert", pair.certificate(), "--devices-key", pair.key()]);
        let device =
            dial(&gateway, "lamp", &[&["--text", "hi", "--ca", authority.ca()], more].concat());
        match why {
            Some(why) => device.expect_stderr(why),
            None => assert!(device.line().starts_with("connected lamp"), "{what}"),
        }
        let pinned = dial(&gateway, "pinned", &["--text", "hi", "--pin", &pair.pin]);
        assert!(
            pinned.line().starts_with("connected pinned"),
            "a key has no dates and no name: {what}"
        );
    }
}

/// As `openssl req -x509` makes it: a CA's own, and a server's or device's at the same time.
#[test]
fn a_self_made_certificate_is_taken_where_exactly_it_is_trusted() {
    let (authority, localhost) = (Authority::new(), &["localhost"][..]);
    let made =
        |file: &str, names: &[&str], years: Years| authority.self_made(file, names, years, true);
    let (own, twin) = (made("own", localhost, NOW), made("twin", localhost, NOW));
    let bundle = authority.folder().join("bundle.pem");
    std::fs::write(&bundle, format!("{}{}", authority.pem, own.certificate_pem)).unwrap();
    let serve = |pair: &Pair| {
        Gateway::start(&["--devices-cert", pair.certificate(), "--devices-key", pair.key()])
    };
    let gateway = serve(&own);
    for ca in [own.certificate(), bundle.to_str().unwrap()] {
        let device = dial(&gateway, "lamp", &["--text", "hi", "--ca", ca]);
        assert!(device.line().starts_with("connected lamp"), "{}", device.stderr());
    }
    for ca in [twin.certificate(), authority.ca()] {
        dial(&gateway, "lamp", &["--text", "hi", "--ca", ca])
            .expect_stderr("a CA's own (CA:TRUE), and not exactly one of those that are given (DeviceTls::ca, or --ca)");
    }
    for (file, names, years, why) in [
        (
            "elsewhere",
            &["gw.example", "other.example"][..],
            NOW,
            "for gw.example, other.example, localhost is asked for",
        ),
        ("nameless", &[], NOW, "it has no name at all (subjectAltName)"),
        ("old", localhost, Years(2020, 2021), "has expired, on Fri, 01 Jan 2021"),
        ("early", localhost, Years(2080, 2085), "is not valid before Mon, 01 Jan 2080"),
    ] {
        let pair = made(file, names, years);
        let gateway = serve(&pair);
        dial(&gateway, "lamp", &["--text", "hi", "--ca", pair.certificate()]).expect_stderr(why);
        let pinned = dial(&gateway, "lamp", &["--text", "hi", "--pin", &pair.pin]);
        assert!(pinned.line().starts_with("connected lamp"), "{file}");
    }
    let plain = authority.self_made("plain", localhost, NOW, false);
    let gateway = serve(&plain);
    let device = dial(&gateway, "lamp", &["--text", "hi", "--ca", plain.certificate()]);
    assert!(device.line().starts_with("connected lamp"), "{}", device.stderr());
    // A device's, at a gateway.
    let (lamp, other) = (made("lamp", &["lamp"], NOW), made("other", &["lamp"], NOW));
    let (gateway, _) = secure_gateway(&authority, &["--devices-client-ca", lamp.certificate()]);
    let with = |pair: &Pair| {
        dial(
            &gateway,
            "lamp",
            &[
                "--text",
                "hi",
                "--ca",
                authority.ca(),
                "--cert",
                pair.certificate(),
                "--key",
                pair.key(),
            ],
        )
    };
    let _refused = with(&other);
    gateway.process.expect_stderr("the device's certificate is a CA's own (CA:TRUE), and not exactly one of those that are given (GatewayTls::client_ca, or --devices-client-ca)");
    let device = with(&lamp);
    assert!(device.line().starts_with("connected lamp"), "{}", device.stderr());
    let _refused = with(&authority.issue("late", &["lamp"], Years(2020, 2021)));
    gateway.process.expect_stderr("the device's certificate has expired, on Fri, 01 Jan 2021");
}

/// A handshake that fails after the client's own last message looks like an offer that is hung up
/// on, and says nothing of offers.
#[test]
fn a_certificate_that_is_refused_makes_no_device_poll() {
    let authority = Authority::new();
    let pair = authority.server("gateway");
    let gateway = Gateway::start(&[
        "--devices-cert",
        pair.certificate(),
        "--devices-key",
        pair.key(),
        "--devices-client-ca",
        authority.ca(),
    ]);
    let device = dial(&gateway, "lamp", &["--text", "hi", "--ca", authority.ca()]);
    eventually(&format!("five attempts; there is:\n{}", device.stderr()), || {
        (device.stderr().matches("cannot be reached").count()
            + device.stderr().matches("the connection to the gateway broke").count()
            >= 5)
            .then_some(())
    });
    assert!(!device.stderr().contains("polling without Upgrade"), "{}", device.stderr());
}

#[test]
fn what_the_command_line_says_is_in_the_environment_too() {
    let authority = Authority::new();
    let (pair, own) = (authority.server("gateway"), authority.device("own", &["lamp"]));
    let gateway = Gateway::start_with_env(
        &[],
        &[
            ("PTTH_DEVICES_CERT", pair.certificate()),
            ("PTTH_DEVICES_KEY", pair.key()),
            ("PTTH_DEVICES_CLIENT_CA", authority.ca()),
            ("PTTH_DEVICES_CLIENT_CERT", "optional"),
            ("PTTH_VISITORS_CERT", pair.certificate()),
            ("PTTH_VISITORS_KEY", pair.key()),
            ("PTTH_HANDSHAKE", "300ms"),
        ],
    );
    let environment = [
        ("PTTH_CA", authority.ca()),
        ("PTTH_PIN", &pair.pin),
        ("PTTH_CERT", own.certificate()),
        ("PTTH_KEY", own.key()),
        ("PTTH_CLOCK_FLOOR", "2026-02-01"),
    ];
    let mut command = Ptth::command(&["device", &url(&gateway, "lamp"), "--text", "hi"]);
    let shown = Process::start(command.envs(environment));
    assert!(shown.line().starts_with("connected lamp"));
    // Optional: without a certificate a device may register any name, with one only its own.
    let mut command = Ptth::command(&["device", &url(&gateway, "other"), "--text", "hi"]);
    let bare = Process::start(command.envs(environment[..2].iter().copied()));
    assert!(bare.line().starts_with("connected other"));
    let mut command = Ptth::command(&["device", &url(&gateway, "other"), "--text", "hi"]);
    assert_eq!(Process::start(command.envs(environment)).exit_code(), 3);
    let (head, body) =
        TlsPeer::connect(gateway.visitors, Arc::new(authority.client(None))).ask(&get("/lamp/"));
    assert_eq!((head.status(), body.as_str()), (200, "hi"));
    let began = Instant::now();
    RawPeer::connect(gateway.visitors).expect_closed();
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(300) && took < Duration::from_millis(300) + slack(),
        "{took:?}"
    );
}

#[test]
fn a_certificate_is_a_credential_for_its_names() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (gateway, _) = secure_gateway(&authority, &["--devices-client-ca", authority.ca()]);
    let with = |pair: &Pair, name: &str, more: &[&str]| {
        let files = [
            "--cert",
            pair.certificate(),
            "--key",
            pair.key(),
            "--ca",
            authority.ca(),
            "--text",
            "hi",
        ];
        dial(&gateway, name, &[&files[..], more].concat())
    };
    // Without one, or with one of another CA, the handshake fails.
    dial(&gateway, "lamp", &["--ca", authority.ca(), "--text", "hi"]).expect_stderr("--cert");
    with(&stranger.device("lamp", &["lamp"]), "lamp", &[])
        .expect_stderr("does not accept the certificate");
    with(&authority.issue("old", &["lamp"], Years(2020, 2021)), "lamp", &[])
        .expect_stderr("does not accept the certificate");
    // What it is for, and what not; polls as offers.
    let lamp = authority.device("lamp", &["lamp", "bulb"]);
    for more in [&[][..], &["--fallback", "only"]] {
        for name in ["lamp", "bulb"] {
            let device = with(&lamp, name, more);
            assert!(device.line().starts_with(&format!("connected {name}")), "{more:?}");
        }
        let mut refused = with(&lamp, "other", more);
        assert_eq!(refused.exit_code(), 3, "{more:?}");
        assert!(refused.stderr().contains("403"), "{}", refused.stderr());
    }
    let mut nameless = with(&authority.device("nameless", &[]), "lamp", &[]);
    assert_eq!(nameless.exit_code(), 3);
    for (names, origin, good) in [
        (&["lamp.example"][..], "https://lamp.example", true),
        (&["lamp.example"], "https://lamp.example:8443", true),
        (&["lamp.example"], "https://a.lamp.example", false),
        (&["*.lamp.example"], "https://a.lamp.example", true),
        (&["*.lamp.example"], "https://lamp.example", false),
    ] {
        let pair = authority.device("origins", names);
        let mut device = with(&pair, "", &["--dialect", "ptth", "--origin", origin]);
        match good {
            true => assert!(device.line().starts_with(&format!("connected {origin}")), "{names:?}"),
            false => assert_eq!(device.exit_code(), 3, "{names:?} {origin}"),
        }
    }
}

/// Where a certificate is optional, either will do, and neither will not.
#[test]
fn a_certificate_or_a_token_lets_a_device_in() {
    let authority = Authority::new();
    let drawn = Command::new(env!("CARGO_BIN_EXE_ptth")).args(["token", "desk"]).output().unwrap();
    let drawn = String::from_utf8(drawn.stdout).unwrap();
    let (token, line) = drawn.trim_end().split_once('\n').unwrap();
    let dir = crate::support::TempDir::new("either");
    let (tokens, shown) = (dir.0.join("tokens"), dir.0.join("token"));
    std::fs::write(&tokens, format!("{line}\n")).unwrap();
    std::fs::write(&shown, token).unwrap();
    let optional = [
        "--devices-client-ca",
        authority.ca(),
        "--devices-client-cert",
        "optional",
        "--tokens",
        tokens.to_str().unwrap(),
    ];
    let (gateway, _) = secure_gateway(&authority, &optional);
    let lamp = authority.device("lamp", &["lamp"]);
    let certificate = ["--cert", lamp.certificate(), "--key", lamp.key(), "--text", "hi"];
    let _by_certificate = device(&authority, &gateway, "lamp", &certificate);
    let _by_token = device(
        &authority,
        &gateway,
        "desk",
        &["--token-file", shown.to_str().unwrap(), "--text", "hi"],
    );
    for (name, more, status) in [
        ("lamp", &["--text", "hi"][..], "401"),
        ("desk", &certificate, "403"),
        ("lamp", &["--token-file", shown.to_str().unwrap(), "--text", "hi"], "403"),
    ] {
        let mut refused = dial(&gateway, name, &[&["--ca", authority.ca()], more].concat());
        assert_eq!(refused.exit_code(), 3, "{name} {more:?}");
        assert!(refused.stderr().contains(status), "{name} {more:?}: {}", refused.stderr());
    }
}

#[test]
fn a_renewed_certificate_is_the_same_device_and_another_is_not() {
    let authority = Authority::new();
    let (gateway, _) = secure_gateway(&authority, &["--devices-client-ca", authority.ca()]);
    let with = |pair: &Pair| {
        dial(
            &gateway,
            "lamp",
            &[
                "--cert",
                pair.certificate(),
                "--key",
                pair.key(),
                "--ca",
                authority.ca(),
                "--text",
                "hi",
            ],
        )
    };
    let first = with(&authority.device("first", &["lamp", "bulb"]));
    assert!(first.line().starts_with("connected lamp"));
    with(&authority.device("stranger", &["lamp"])).expect_stderr("409");
    let renewed = with(&authority.device("renewed", &["bulb", "lamp"]));
    assert!(renewed.line().starts_with("connected lamp"), "{}", renewed.stderr());
}

#[test]
fn authorize_is_told_the_names_of_the_certificate() {
    let authority = Authority::new();
    let pair = authority.server("gateway");
    let tls =
        GatewayTls::new(Identity::from_pem(&pair.certificate_pem, &pair.key_pem).unwrap()).unwrap();
    let tls = tls.client_ca(&authority.pem, ClientCertificates::Optional).unwrap();
    let (told, names) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let gateway =
        crate::support::gateway().listen_tls("127.0.0.1:0", tls).authorize(move |offer| {
            told.lock().unwrap().send(offer.certificate_names().map(<[String]>::to_vec)).unwrap();
            Ok(reverse_http::Grant::offered())
        });
    let gateway = gateway.start().unwrap();
    let own = authority.device("own", &["lamp", "Bulb"]);
    for (identity, expected) in
        [(None, None), (Some(own), Some(vec!["bulb".to_owned(), "lamp".to_owned()]))]
    {
        let mut tls = DeviceTls::new().ca(&authority.pem).unwrap();
        if let Some(pair) = identity {
            tls = tls.identity(Identity::from_pem(&pair.certificate_pem, &pair.key_pem).unwrap());
        }
        let url = format!("https://localhost:{}/lamp", gateway.devices_addr().port());
        let device =
            Device::builder(url).tls(tls).links(1..=1).build().unwrap().spawn(echo).unwrap();
        assert_eq!(names.recv_timeout(DEADLINE).unwrap(), expected);
        device.stop();
    }
}

#[test]
fn a_device_without_a_clock_waits_for_one() {
    let api = Api::new(|builder| builder);
    let clock = Arc::new(AtomicU64::new(1000));
    let shown = clock.clone();
    let tls = DeviceTls::new().ca(&api.authority.pem).unwrap();
    let tls = tls.clock(move || SystemTime::UNIX_EPOCH + Duration::from_secs(shown.load(Relaxed)));
    let url = format!("https://localhost:{}/lamp", api.gateway.devices_addr().port());
    let device = Device::builder(url).tls(tls).build().unwrap();
    let events = device.events();
    let running = device.spawn(echo).unwrap();
    let waiting = events.recv_timeout(DEADLINE).unwrap();
    assert!(waiting.detail.contains("clock"), "{waiting:?}");
    assert!(
        events.recv_timeout(Duration::from_secs(3)).is_err(),
        "it says so once, and dials nobody"
    );
    assert_eq!(api.gateway.stats().turns, 0);
    clock.store(1_800_000_000, Relaxed);
    api.gateway.device("lamp").wait_connected(DEADLINE).unwrap();
    running.stop();
}

/// The command fails with these words.
#[track_caller]
fn expect_mistake(command: &[&str], arguments: &[&str], parts: &[&str]) {
    let (code, _, stderr) = Ptth::run(&[command, arguments].concat());
    assert_eq!(code, 2, "{arguments:?}: {stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{part} in {stderr}");
    }
}

#[test]
fn mistakes_in_files_are_told_with_option_file_and_remedy() {
    let authority = Authority::new();
    let pair = authority.server("gateway");
    let file = |name: &str, text: &str| {
        let path = authority.folder().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (empty, rubbish) = (
        file("empty", ""),
        file("rubbish", "-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n"),
    );
    let nothing = authority.folder().join("nothing");
    let nothing = nothing.to_str().unwrap();
    let gateway = ["gateway", "--devices", "127.0.0.1:0", "--visitors", "127.0.0.1:0"];
    for (command, arguments, parts) in [
        (
            &gateway[..],
            &["--devices-cert", pair.certificate()][..],
            &["--devices-key", "give both"][..],
        ),
        (&gateway, &["--visitors-key", pair.key()], &["--visitors-cert", "give both"]),
        (
            &gateway,
            &["--devices-cert", nothing, "--devices-key", pair.key()],
            &["--devices-cert", nothing, "No such file"],
        ),
        (
            &gateway,
            &["--devices-cert", &empty, "--devices-key", pair.key()],
            &[&empty, "no certificate in it"],
        ),
        (
            &gateway,
            &["--devices-cert", &rubbish, "--devices-key", pair.key()],
            &[&rubbish, "no PEM"],
        ),
        (
            &gateway,
            &["--devices-client-ca", authority.ca()],
            &["--devices-client-ca", "--devices-cert"],
        ),
        (
            &gateway,
            &[
                "--devices-cert",
                pair.certificate(),
                "--devices-key",
                pair.key(),
                "--devices-client-ca",
                &empty,
            ],
            &["--devices-client-ca", &empty, "no certificate in it"],
        ),
    ] {
        expect_mistake(command, arguments, parts);
    }
}

#[test]
fn mistakes_in_keys_are_told_with_option_file_and_remedy() {
    let authority = Authority::new();
    let (pair, other) = (authority.server("gateway"), authority.server("other"));
    let file = |name: &str, text: &str| {
        let path = authority.folder().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let empty = file("empty", "");
    let encrypted = file(
        "encrypted",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let gateway = ["gateway", "--devices", "127.0.0.1:0", "--visitors", "127.0.0.1:0"];
    for (arguments, parts) in [
        (
            &["--visitors-cert", pair.certificate(), "--visitors-key", &empty][..],
            &["--visitors-key", &empty, "no private key"][..],
        ),
        (
            &["--visitors-cert", pair.certificate(), "--visitors-key", &encrypted],
            &[&encrypted, "encrypted", "openssl pkey"],
        ),
        (
            &["--visitors-cert", pair.certificate(), "--visitors-key", other.key()],
            &[other.key(), "not the certificate's"],
        ),
        (
            &["--visitors-cert", pair.key(), "--visitors-key", pair.certificate()],
            &["no certificate in it"],
        ),
    ] {
        expect_mistake(&gateway, arguments, parts);
    }
}

#[test]
fn mistakes_in_a_devices_files_are_told_with_option_file_and_remedy() {
    let authority = Authority::new();
    let (pair, other) = (authority.server("gateway"), authority.server("other"));
    let empty = authority.folder().join("empty");
    std::fs::write(&empty, "").unwrap();
    let empty = empty.to_str().unwrap();
    let device = ["device", "https://localhost:1/lamp", "--text", "hi"];
    for (command, arguments, parts) in [
        (&device[..], &["--ca", empty][..], &["--ca", empty, "no certificate in it"][..]),
        (
            &device,
            &["--cert", pair.certificate(), "--key", other.key()],
            &["--key", other.key(), "not the certificate's"],
        ),
        (&device, &["--key", other.key()], &["--cert", "give both"]),
        (&device, &["--pin", "sha1/AAAA"], &["--pin", "sha256/"]),
        (&device, &["--clock-floor", "2026-02-30"], &["--clock-floor", "2026-01-31"]),
        (
            &["device", "http://localhost:1/lamp", "--text", "hi"],
            &["--ca", authority.ca()],
            &["https://"],
        ),
    ] {
        expect_mistake(command, arguments, parts);
    }
}

#[test]
fn a_key_that_everybody_can_read_is_told() {
    let authority = Authority::new();
    let pair = authority.server("gateway");
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&pair.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let files = ["--devices-cert", pair.certificate(), "--devices-key", pair.key()];
    Gateway::start(&files).process.expect_stderr("every user of this machine can read this secret");
    std::fs::set_permissions(&pair.key, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(!Gateway::start(&files).process.stderr().contains("can read this secret"));
}
