//! Offers that were refused, as an operator sees them; visitors see none of it.

use super::Observed;
use super::operators::Tokens;
use crate::support::process::{get, offer};
use crate::support::{Ptth, RawPeer, TempDir, eventually};

impl Observed {
    /// What `ptth status` prints, and its exit code.
    #[track_caller]
    fn told(&self, more: &[&str]) -> (i32, String) {
        let at = self.admin.to_string();
        let (code, out, error) = Ptth::run(&[&["status", "--admin", &at], more].concat());
        (code, out + &error)
    }

    #[track_caller]
    fn refuses(&self, from: [u8; 4], name: &str, token: &str, status: u16) {
        let mut peer = RawPeer::connect_from(from, self.gateway.devices);
        peer.write(offer(name, &format!("Authorization: Bearer {token}\r\n")));
        assert_eq!(peer.read_answer("POST").status(), status);
    }
}

#[test]
fn who_was_refused_is_told_to_operators_and_not_to_visitors() {
    let folder = TempDir::new("refused-offers");
    let tokens = Tokens::draw(&folder, &["one", "two"]);
    let [one, two] = [&tokens.tokens[0], &tokens.tokens[1]];
    let observed = Observed::start(&["--tokens", tokens.file()]);
    let (_, before) = observed.told(&[]);
    assert!(!before.contains("refused"), "{before}");
    for _ in 0..3 {
        observed.refuses([127, 0, 0, 7], "lamp", "nobody-knows-this-one", 401);
    }
    let mut probe = RawPeer::connect_from([127, 0, 0, 9], observed.gateway.devices);
    probe.write(get("/"));
    probe.read_answer("GET").expect_refusal(405);
    // A name that is held says who holds it.
    let _door = observed.gateway.link_with("door", &format!("Authorization: Bearer {one}\r\n"));
    observed.refuses([127, 0, 0, 8], "door", two, 409);
    let log = "an offer for door from 127.0.0.8 was refused: 409 another credential";
    observed.gateway.process.expect_stderr(log);
    observed.gateway.process.expect_stderr("(door is connected from 127.0.0.1, for ");
    let lamp = "an offer for lamp from 127.0.0.7 was refused: 401 ";
    observed.gateway.process.expect_stderr(lamp);

    let offers = eventually("five of them", || {
        let offers = observed.json("/api/v1/status")["refused_offers"].clone();
        (offers["count"] == 5).then_some(offers)
    });
    let latest: Vec<String> = offers["latest"]
        .as_array()
        .unwrap()
        .iter()
        .map(|refused| {
            ["name", "address", "status", "count"].map(|key| refused[key].to_string()).join(" ")
        })
        .collect();
    let expected = [
        "\"door\" \"127.0.0.8\" 409 1",
        "null \"127.0.0.9\" 405 1",
        "\"lamp\" \"127.0.0.7\" 401 3",
    ];
    assert_eq!(latest, expected);
    assert!(offers["latest"][0]["reason"].as_str().unwrap().contains("door is connected from"));
    assert_eq!(observed.json("/api/v1/devices/door")["refused_offers"][0]["count"], 1);

    let (code, all) = observed.told(&[]);
    assert!(code == 0 && all.contains("5 offers refused so far, of late:"), "{all}");
    assert!(all.contains("  lamp from 127.0.0.7: 401, 3 times, "), "{all}");
    assert!(all.contains("  (no name) from 127.0.0.9: 405, 1 time, "), "{all}");
    let (code, door) = observed.told(&["door"]);
    assert!(code == 0 && door.contains("refused: door from 127.0.0.8: 409, 1 time, "), "{door}");
    let (code, lamp) = observed.told(&["lamp"]);
    assert!(lamp.contains("404 no device of this name was connected recently; "), "{lamp}");
    assert!(lamp.contains("3 offers for it from 127.0.0.7 refused with 401, the last "), "{lamp}");
    assert_eq!(code, 1, "{lamp}");
    let page = observed.get("/").text();
    assert!(page.contains("Refused offers") && page.contains("127.0.0.7"), "{page}");
    let page = observed.get("/devices/door").text();
    assert!(page.contains("Refused offers") && page.contains("127.0.0.8"), "{page}");
    assert!(![all, door, lamp, page].concat().contains("nobody-knows"), "no token is told");

    let answer = observed.gateway.get("/lamp/");
    answer.expect_refusal(404);
    let told = answer.head.text() + &answer.text();
    assert!(!told.contains("refused") && !told.contains("127.0.0.7"), "{told}");
    let (_, other) = observed.told(&["other"]);
    assert!(other.contains("404 no device of this name was connected recently\n"), "{other}");
}

#[test]
fn a_flood_of_refused_names_from_several_addresses_hides_no_other_device() {
    let folder = TempDir::new("refused-flood");
    let tokens = Tokens::draw(&folder, &["one"]);
    let observed = Observed::start(&["--tokens", tokens.file()]);
    observed.refuses([127, 0, 0, 7], "lamp", "nobody-knows-this-one", 401);
    for n in 0..80 {
        observed.refuses([127, 0, 0, 10 + n % 8], &format!("n{n}"), "nor-this-one", 401);
    }
    let latest = eventually("all of them", || {
        let offers = observed.json("/api/v1/status")["refused_offers"].clone();
        (offers["count"] == 81).then(|| offers["latest"].as_array().unwrap().clone())
    });
    assert_eq!(latest.len(), 32);
    assert!(latest.iter().any(|refused| refused["name"] == "lamp"), "{latest:?}");
    let (_, lamp) = observed.told(&["lamp"]);
    assert!(lamp.contains("1 offer for it from 127.0.0.7 refused with 401, "), "{lamp}");
}
