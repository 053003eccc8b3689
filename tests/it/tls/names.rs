//! Several certificates at one listener: who is shown which, and how they are read again together.

use std::process::Command;

use super::{openssl, say};
use crate::support::pki::{NOW, Years};
use crate::support::{Authority, Gateway, Pair, Ptth, TempDir, eventually, need, repository};

/// Whether curl, asking for this name, gets its answer over a certificate that is for the name.
fn is_served(authority: &Authority, port: u16, name: &str) -> bool {
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "30", "--http1.1", "--cacert", authority.ca()]);
    command.args(["--resolve", &format!("{name}:{port}:127.0.0.1")]);
    let output = command.arg(format!("https://{name}:{port}/lamp/")).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    say(&format!("curl for {name}: {told}"));
    assert!(output.status.success() || told.contains("SSL"), "{told}");
    output.status.success() && output.stdout == b"hi"
}

/// Whether openssl is shown this certificate.
fn is_shown(pair: &Pair, port: u16, more: &[&str]) -> bool {
    let to = format!("localhost:{port}");
    let said = openssl(&[&["s_client", "-connect", &to], more].concat(), "Q\n", 60);
    let bare = |text: &str| text.lines().collect::<String>();
    let body = |pem: &str| bare(pem).split("-----").nth(2).unwrap().to_owned();
    bare(&said).contains(&body(&pair.certificate_pem))
}

fn options<'a>(side: [&'a str; 2], pairs: &[&'a Pair]) -> Vec<&'a str> {
    let [certificate, key] = side;
    pairs.iter().flat_map(|pair| [certificate, pair.certificate(), key, pair.key()]).collect()
}

const VISITORS: [&str; 2] = ["--visitors-cert", "--visitors-key"];
const DEVICES: [&str; 2] = ["--devices-cert", "--devices-key"];

#[test]
fn each_name_is_shown_its_own_certificate() {
    let authority = Authority::new();
    let usual = authority.server("usual");
    let shop = authority.issue("shop", &["shop.example", "www.shop.example"], NOW);
    let below = authority.issue("below", &["*.devices.example"], NOW);
    let desk = authority.issue("desk", &["desk.devices.example"], NOW);
    let pairs = [&usual, &shop, &below, &desk];
    let gateway = Gateway::start(&[options(VISITORS, &pairs), options(DEVICES, &pairs)].concat());
    for name in ["localhost", "shop.example"] {
        let url = format!("https://localhost:{}/lamp", gateway.devices.port());
        let device = Ptth::start(&["device", &url, "--text", "hi", "--ca", authority.ca()]);
        assert!(device.line().starts_with("connected lamp via https://"));
        for (asked, served) in [
            (name, true),
            ("www.shop.example", true),
            ("lamp.devices.example", true),
            ("desk.devices.example", true),
            ("a.lamp.devices.example", false),
            ("devices.example", false),
            ("other.example", false),
        ] {
            assert_eq!(is_served(&authority, gateway.visitors.port(), asked), served, "{asked}");
        }
    }
    if !need("openssl") {
        return;
    }
    for port in [gateway.visitors.port(), gateway.devices.port()] {
        for (pair, more) in [
            (&usual, &["-noservername"][..]),
            (&usual, &["-servername", "other.example"]),
            (&shop, &["-servername", "SHOP.example"]),
            (&below, &["-servername", "lamp.devices.example"]),
            (&desk, &["-servername", "desk.devices.example"]),
        ] {
            assert!(is_shown(pair, port, more), "{more:?}");
            assert!(is_shown(pair, port, &[more, &["-tls1_2"]].concat()), "{more:?}");
        }
    }
}

#[test]
fn certificates_that_are_valid_now_are_shown_before_others() {
    if !need("openssl") {
        return;
    }
    let (over, early) = (Years(2020, 2021), Years(2080, 2090));
    let authority = Authority::new();
    let issue = |file: &str, name: &str, years| authority.issue(file, &[name], years);
    let old = issue("old", "shop.example", over);
    let coming = issue("coming", "shop.example", early);
    let shop = issue("shop", "shop.example", NOW);
    let desk = issue("desk", "desk.devices.example", over);
    let below = issue("below", "*.devices.example", NOW);
    let first = issue("first", "gone.example", over);
    let second = issue("second", "gone.example", over);
    let gateway =
        Gateway::start(&options(VISITORS, &[&old, &coming, &shop, &desk, &below, &first, &second]));
    let port = gateway.visitors.port();
    for (pair, name) in [
        (&shop, "shop.example"),
        (&below, "desk.devices.example"),
        (&below, "lamp.devices.example"),
        (&first, "gone.example"),
        (&old, "other.example"), // the first that is named stays the default
    ] {
        assert!(is_shown(pair, port, &["-servername", name]), "{name}");
    }
}

#[test]
fn the_default_of_a_folder_is_valid_now() {
    if !need("openssl") {
        return;
    }
    let (authority, folder) = (Authority::new(), TempDir::new("dates"));
    let put = |file: &str, years| {
        let pair = authority.issue(file, &[&format!("{file}.example")], years);
        std::fs::write(folder.0.join(format!("{file}.crt")), &pair.certificate_pem).unwrap();
        std::fs::write(folder.0.join(format!("{file}.key")), &pair.key_pem).unwrap();
        pair
    };
    let old = put("a", Years(2020, 2021));
    put("b", Years(2080, 2090));
    let valid = put("c", NOW);
    put("d", NOW);
    let gateway = Gateway::start(&["--visitors-certs", folder.0.to_str().unwrap()]);
    let port = gateway.visitors.port();
    assert!(is_shown(&valid, port, &["-noservername"]));
    assert!(is_shown(&valid, port, &["-servername", "other.example"]));
    assert!(is_shown(&old, port, &["-servername", "a.example"]));
    let renewed = put("a", NOW);
    gateway.process.signal("HUP");
    gateway.process.expect_stderr("the certificates for visitors were read again: a.example until");
    assert!(is_shown(&renewed, port, &["-noservername"]));
    // Where none is valid, the first.
    let old = put("a", Years(2020, 2021));
    ["c", "d"].iter().for_each(|file| drop(put(file, Years(2020, 2021))));
    gateway.process.signal("HUP");
    gateway.process.expect_stderr("d.crt: the certificate has expired");
    eventually("the first", || is_shown(&old, port, &["-noservername"]).then_some(()));
}

#[test]
fn a_star_may_stand_before_one_label() {
    if !need("openssl") {
        return;
    }
    let authority = Authority::new();
    let usual = authority.server("usual");
    let lan = authority.issue("lan", &["*.lan"], NOW);
    let desk = authority.issue("desk", &["desk.lan", "*.HOME", "*.lamps.lan"], NOW);
    let gateway = Gateway::start(&options(VISITORS, &[&usual, &lan, &desk]));
    let port = gateway.visitors.port();
    let shown = || {
        for (pair, name) in [
            (&lan, "printer.lan"),
            (&lan, "PRINTER.LAN"),
            (&desk, "desk.lan"),
            (&desk, "desk.home"),
            (&desk, "a.lamps.lan"),
            (&usual, "a.printer.lan"),
            (&usual, "lan"),
        ] {
            assert!(is_shown(pair, port, &["-servername", name]), "{name}");
        }
    };
    shown();
    gateway.process.signal("HUP");
    gateway.process.expect_stderr("*.lan until");
    shown();
}

/// Old clients take no ECDSA.
#[test]
fn of_two_certificates_of_a_name_a_client_is_shown_the_one_that_it_takes() {
    if !need("openssl") {
        return;
    }
    let (authority, folder) = (Authority::new(), TempDir::new("rsa"));
    let modern = authority.server("modern");
    let path = |name: &str| folder.0.join(name).to_str().unwrap().to_owned();
    let (certificate, key) = (path("rsa.crt"), path("rsa.key"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=old", "-keyout"])
        .args([&key, "-out", &certificate, "-addext", "subjectAltName=DNS:localhost"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut all = options(VISITORS, &[&modern]);
    all.extend(["--visitors-cert", &certificate, "--visitors-key", &key]);
    let gateway = Gateway::start(&all);
    let port = gateway.visitors.port();
    let old = Pair {
        certificate_pem: std::fs::read_to_string(&certificate).unwrap(),
        certificate: certificate.into(),
        key_pem: String::new(),
        key: key.into(),
        pin: String::new(),
    };
    let named = ["-servername", "localhost"];
    let rsa = [&named[..], &["-sigalgs", "rsa_pss_rsae_sha256"]].concat();
    assert!(is_shown(&modern, port, &named) && !is_shown(&old, port, &named));
    assert!(is_shown(&old, port, &rsa) && !is_shown(&modern, port, &rsa));
}

#[test]
fn a_folder_of_certificates_is_read_again_together() {
    let (authority, folder) = (Authority::new(), TempDir::new("certs"));
    let put = |pair: &Pair, certificate: &str, key: &str| {
        std::fs::create_dir_all(folder.0.join(certificate).parent().unwrap()).unwrap();
        std::fs::write(folder.0.join(certificate), &pair.certificate_pem).unwrap();
        std::fs::write(folder.0.join(key), &pair.key_pem).unwrap();
    };
    let lego = |pair: &Pair, name: &str| put(pair, &format!("{name}.crt"), &format!("{name}.key"));
    let certbot = |pair: &Pair, name: &str| {
        put(pair, &format!("{name}/fullchain.pem"), &format!("{name}/privkey.pem"))
    };
    let issue = |name: &str, years| authority.issue(name, &[name], years);
    lego(&issue("lego.example", NOW), "lego.example");
    std::fs::write(folder.0.join("lego.example.issuer.crt"), &authority.pem).unwrap();
    std::fs::write(folder.0.join("lego.example.json"), "{}").unwrap();
    certbot(&issue("certbot.example", NOW), "certbot.example");
    std::fs::write(folder.0.join("README"), "what certbot writes").unwrap();
    let usual = authority.server("usual");
    let path = folder.0.to_str().unwrap();
    let gateway =
        Gateway::start(&[&options(VISITORS, &[&usual])[..], &["--visitors-certs", path]].concat());
    let _lamp = Ptth::device(&gateway, "lamp", &["--text", "hi"]);
    let served = |name: &str| is_served(&authority, gateway.visitors.port(), name);
    let hup = |expected: &str| {
        let before = gateway.process.stderr().matches(expected).count();
        gateway.process.signal("HUP");
        eventually(expected, || {
            (gateway.process.stderr().matches(expected).count() > before).then_some(())
        });
    };
    let names = ["localhost", "lego.example", "certbot.example"];
    names.iter().for_each(|name| assert!(served(name), "{name}"));
    // A new one, and an old one that is renewed.
    lego(&issue("new.example", NOW), "new.example");
    certbot(&issue("renewed.example", NOW), "certbot.example");
    hup("the certificates for visitors were read again: localhost until Sun, 01 Jan 2090");
    for (name, is_here) in
        [("new.example", true), ("renewed.example", true), ("certbot.example", false)]
    {
        assert_eq!(served(name), is_here, "{name}");
    }
    // A pair that is half written: nothing of the folder counts.
    let half = issue("new.example", NOW);
    std::fs::write(folder.0.join("new.example.crt"), &half.certificate_pem).unwrap();
    lego(&issue("later.example", NOW), "later.example");
    hup("the key is not the certificate's");
    gateway.process.expect_stderr("the certificates for visitors stay as they were");
    assert!(served("new.example") && served("lego.example") && !served("later.example"));
    std::fs::write(folder.0.join("new.example.key"), &half.key_pem).unwrap();
    // One that has expired does not hold up the others.
    lego(&issue("old.example", Years(2020, 2021)), "old.example");
    hup("the certificates for visitors were read again");
    gateway.process.expect_stderr("old.example.crt: the certificate has expired");
    assert!(served("new.example") && served("later.example") && !served("old.example"));
    // Certificates that are taken out are shown no more.
    std::fs::remove_file(folder.0.join("later.example.crt")).unwrap();
    hup("later.example has a key and no certificate");
    std::fs::remove_file(folder.0.join("later.example.key")).unwrap();
    hup("the certificates for visitors were read again");
    assert!(!served("later.example") && served("new.example"));
}

#[test]
fn certificates_that_cannot_work_together_are_refused() {
    let (authority, folder) = (Authority::new(), TempDir::new("wrong"));
    let (one, two) = (authority.server("one"), authority.issue("two", &["two.example"], NOW));
    let nameless = authority.issue("nameless", &[], NOW);
    let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let torn = folder.0.join("torn.pem"); // not a name of a folder's pair
    std::fs::write(&torn, one.certificate_pem.clone() + junk).unwrap();
    let torn = torn.to_str().unwrap();
    let path = folder.0.to_str().unwrap();
    let check = |options: &[&str]| {
        let (code, _, stderr) = Ptth::run(&[&["gateway", "--check"], options].concat());
        assert!(matches!(code, 0 | 2), "{stderr}");
        (code == 0, stderr)
    };
    for side in [VISITORS, DEVICES] {
        let both = options(side, &[&one, &two]);
        assert!(check(&both).0, "{side:?}");
        assert!(check(&options(side, &[&nameless])).0, "alone it is for everybody");
        for (given, why) in [
            (&both[..6], "is given 2 times and --"),
            (&both[..2], "go together; give both"),
            (
                &options(side, &[&one, &nameless])[..],
                &format!("{} {}: it has no DNS name", side[0], nameless.certificate()),
            ),
            (&[side[0], one.certificate(), side[1], two.key()], "the key is not the certificate's"),
            (&[side[0], torn, side[1], one.key()], "certificate 2 of the chain cannot be read"),
        ] {
            let (fits, told) = check(given);
            assert!(!fits && told.contains(why), "{told}");
        }
        let folder_option = &format!("{}s", side[0])[..];
        let (fits, told) = check(&[folder_option, path]);
        assert!(!fits && told.contains("there is no pair in it"), "{told}");
        let beside = TempDir::new("nameless");
        let path_of = |file: &str| beside.0.join(file).to_str().unwrap().to_owned();
        for (file, pair) in [("a", &one), ("b", &nameless)] {
            std::fs::write(path_of(&format!("{file}.crt")), &pair.certificate_pem).unwrap();
            std::fs::write(path_of(&format!("{file}.key")), &pair.key_pem).unwrap();
        }
        let (fits, told) = check(&[folder_option, beside.0.to_str().unwrap()]);
        let whose = format!("{folder_option} {}: it has no DNS name", path_of("b.crt"));
        assert!(!fits && told.contains(&whose), "{told}");
        let (fits, told) = check(&[folder_option, one.key()]);
        assert!(!fits && told.contains("ot a directory"), "{told}");
        std::fs::write(folder.0.join("two.crt"), &two.certificate_pem).unwrap();
        let (fits, told) = check(&[folder_option, path]);
        assert!(!fits && told.contains("two has a certificate and no key"), "{told}");
        std::fs::write(folder.0.join("two.key"), &two.key_pem).unwrap();
        assert!(check(&[folder_option, path]).0, "{side:?}");
        let file = folder.0.join("ptth.toml");
        let quoted = |pairs: [&str; 2]| format!("[\"{}\", \"{}\"]", pairs[0], pairs[1]);
        let names = side.map(|option| option[2..].replace('-', "_"));
        let text = format!(
            "[gateway]\n{} = {}\n{} = {}\n{}s = \"{path}\"\n",
            names[0],
            quoted([one.certificate(), two.certificate()]),
            names[1],
            quoted([one.key(), two.key()]),
            names[0]
        );
        std::fs::write(&file, text).unwrap();
        let (fits, told) = check(&["--config", file.to_str().unwrap()]);
        assert!(fits, "{told}");
        std::fs::remove_file(folder.0.join("two.crt")).unwrap();
        std::fs::remove_file(folder.0.join("two.key")).unwrap();
    }
}

/// The hooks that docs/certificates.md has for certbot and lego, run as they stand there, but for
/// the folder, the group, and who sends the signal.
#[test]
fn the_hooks_of_the_page_renew_certificates() {
    if !need("openssl") {
        return;
    }
    let page = std::fs::read_to_string(repository("docs/certificates.md")).unwrap();
    let hooks: Vec<&str> = page
        .split("```sh\n")
        .filter(|block| block.starts_with("#!/bin/sh"))
        .filter_map(|block| block.split("```").next())
        .collect();
    let [certbot, lego] = hooks[..] else { panic!("{} hooks", hooks.len()) };
    let (folder, usual) = (TempDir::new("renewed"), Authority::new());
    let path = |name: &str| folder.0.join(name).to_str().unwrap().to_owned();
    let certs = path("certs");
    std::fs::create_dir_all(&certs).unwrap();
    std::fs::create_dir_all(path("live/bot.example")).unwrap();
    let pair = usual.server("usual");
    lego_pair(&folder, "first.example", "certs/first");
    let mut arguments = options(VISITORS, &[&pair]);
    arguments.extend(["--visitors-certs", &certs]);
    let gateway = Gateway::start(&arguments);
    let systemctl = format!("#!/bin/sh\nkill -HUP {}\n", gateway.process.id());
    let hook = |text: &str, name: &str| {
        let text = text.replace("/etc/ptth/certs", &certs).replace(" -g ptth", "");
        let file = folder.0.join(name);
        std::fs::write(&file, text).unwrap();
        file
    };
    std::fs::create_dir_all(path("bin")).unwrap();
    hook(&systemctl, "bin/systemctl");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(path("bin/systemctl"), executable).unwrap();
    let run = |file: &std::path::Path, variables: &[(&str, &str)]| {
        let search = format!("{}:{}", path("bin"), std::env::var("PATH").unwrap());
        let mut command = Command::new("sh");
        command.arg(file).env("PATH", search).envs(variables.iter().copied());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let (bot, go) = (hook(certbot, "certbot"), hook(lego, "lego"));
    let port = gateway.visitors.port();
    let mut before = Vec::new();
    for renewal in 0..2 {
        let made = lego_pair(&folder, "bot.example", "live/bot.example/x");
        std::fs::rename(path("live/bot.example/x.crt"), path("live/bot.example/fullchain.pem"))
            .unwrap();
        std::fs::rename(path("live/bot.example/x.key"), path("live/bot.example/privkey.pem"))
            .unwrap();
        run(&bot, &[("RENEWED_LINEAGE", &path("live/bot.example"))]);
        let other = lego_pair(&folder, "go.example", "go");
        run(&go, &[("LEGO_CERT_PATH", &path("go.crt")), ("LEGO_CERT_KEY_PATH", &path("go.key"))]);
        for (pair, name) in [(made, "bot.example"), (other, "go.example")] {
            let shown = || is_shown(&pair, port, &["-servername", name]);
            eventually(name, || shown().then_some(()));
            assert!(renewal == 0 || !before.contains(&pair.certificate_pem));
            before.push(pair.certificate_pem);
        }
    }
    assert!(is_shown(&pair, port, &["-noservername"]));
}

/// As openssl makes it.
fn lego_pair(folder: &TempDir, name: &str, file: &str) -> Pair {
    let path =
        |ending: &str| folder.0.join(format!("{file}.{ending}")).to_str().unwrap().to_owned();
    let (certificate, key) = (path("crt"), path("key"));
    let san = format!("subjectAltName=DNS:{name}");
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let output = Command::new("openssl")
        .args([&["req", "-x509", "-subj", "/CN=x", "-addext", &san][..], &curve].concat())
        .args(["-keyout", &key, "-out", &certificate])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Pair {
        certificate_pem: std::fs::read_to_string(&certificate).unwrap(),
        key_pem: std::fs::read_to_string(&key).unwrap(),
        certificate: certificate.into(),
        key: key.into(),
        pin: String::new(),
    }
}
