//! HTTPS: where it has to be, and clients that have certificates.

use serde_json::json;

use crate::kit::certificate::{Authority, can_certify};
use crate::kit::place::Place;
use crate::scene::{Scene, VMS};

#[test]
fn an_address_that_others_reach_is_served_with_tls_only() {
    let place = Place::new();
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.7:8420"] {
        let said = place.fails(2, &["serve", "--http", address]);
        assert!(
            said.contains("TLS") && said.contains("--tls-certificates"),
            "{said}"
        );
    }
    place.fails(
        2,
        &[
            "serve",
            "--http",
            "127.0.0.1:0",
            "--http-host",
            "https://x/",
        ],
    );
}

#[test]
fn a_client_is_known_by_its_certificate() {
    if !can_certify() {
        return;
    }
    let Some(mut scene) = Scene::of_disks() else {
        return;
    };
    let authority = Authority::new();
    let (server, agent) = (authority.server(), authority.client("agent1"));
    let stranger = Authority::new().client("agent1");
    let table =
        "[[access]]\ncertificate = \"agent1\"\nvms = [\"web*\"]\nrights = [\"read\", \"ingest\"]\n";
    std::fs::write(scene.place.path("access.toml"), table).unwrap();
    scene.start(&[
        "--tls-certificates",
        server.to_str().unwrap(),
        "--http",
        "0.0.0.0:0",
    ]);
    assert!(scene.base.starts_with("https://"), "{}", scene.base);
    let session = format!("{VMS}/web01/sessions/s");
    // Without a certificate a client needs a token.
    scene.get(VMS).tls(&server).expect(401);
    let token = scene.token("db", "read", "db*");
    let list = scene.get(VMS).tls(&server).token(&token).value(200);
    assert_eq!(list["items"][0]["name"], "db01");
    let list = scene.get(VMS).tls(&server).certificate(&agent).value(200);
    assert_eq!(list["items"][0]["name"], "web01");
    // A token counts for more.
    let request = scene.get(VMS).tls(&server).certificate(&agent);
    assert_eq!(request.token(&token).value(200)["items"][0]["name"], "db01");
    // A browser sends a certificate by itself: what changes something has to come from a page of this server.
    let own = format!("Origin: https://localhost:{}", scene.port());
    let put = || scene.ask("PUT", &session).tls(&server).certificate(&agent);
    for foreign in [
        "X-None: 1",
        "Origin: https://evil.example",
        "Origin: null",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
        "Sec-Fetch-Site: none",
    ] {
        put().json(&json!({})).header(foreign).expect(403);
    }
    let crossed = put().json(&json!({})).header(&own);
    crossed.header("Sec-Fetch-Site: cross-site").expect(403);
    put().json(&json!({})).header(&own).expect(201);
    let delete = scene.ask("DELETE", &session).tls(&server);
    let delete = delete.certificate(&agent);
    delete.header("Sec-Fetch-Site: same-origin").expect(204);
    // Of another authority, or none where TLS is spoken.
    let answer = scene.get(VMS).tls(&server).certificate(&stranger).run();
    assert_eq!((answer.status, answer.exit != 0), (0, true), "{answer:?}");
    let plain = format!("GET / HTTP/1.1\r\nHost: localhost:{}\r\n\r\n", scene.port());
    let answer = crate::wire::exchange(scene.port(), plain.as_bytes());
    assert!(!answer.contains("HTTP/1.1 200"), "{answer}");
    // HTTP/2 has the name in its own place.
    let answer = scene.get(VMS).tls(&server).token(&token);
    let answer = answer.with(&["--http2"]).expect(200);
    assert!(answer.head.starts_with("HTTP/2"), "{}", answer.head);
    let answer = scene.get(VMS).tls(&server).token(&token);
    answer
        .with(&["--http2"])
        .header("Host: evil.example")
        .expect(421);
    let acts = scene.acts();
    let begun = acts.iter().find(|act| act["operation"] == "begin").unwrap();
    assert_eq!(begun["caller"], "certificate cn:agent1", "{begun}");
    assert!(scene.stop().success());
}
