//! Logins of people: codes that work once, and the cookies that they make.

use crate::curl::{Answer, Request};
use crate::kit::certificate::{Authority, can_certify};
use crate::kit::need::need;
use crate::scene::{POINT, Scene, VMS};

/// A daemon with its pages, and the code of its first login.
fn scene(more: &[&str]) -> Option<(Scene, String)> {
    let mut scene = Scene::of_disks()?;
    let answer = scene.start(more);
    let login = &answer["login"];
    let (url, code) = (&login["url"], login["code"].as_str().unwrap());
    assert!(
        url.as_str().unwrap().ends_with(&format!("/login#{code}")),
        "{url}"
    );
    assert_eq!(code.len(), 32, "128 bits as hexadecimal digits");
    let is_there = !more.is_empty() || scene.get("/login").run().status != 404;
    need(is_there, "the page /login in this build").then(|| (scene, code.to_owned()))
}

fn enter<'a>(scene: &'a Scene, secret: &str) -> Request<'a> {
    let form = format!("secret={secret}&next=%2F");
    let own = format!("Origin: {}", scene.base);
    scene
        .ask("POST", "/login")
        .header(&own)
        .with(&["--data-raw", &form])
}

/// The cookie that an answer sets, as a request sends it.
fn cookie(answer: &Answer) -> String {
    let set = answer.header("set-cookie").unwrap();
    let pair = set.split(';').next().unwrap();
    format!("Cookie: {pair}")
}

#[test]
fn a_code_works_once_and_a_get_uses_none_up() {
    let Some((scene, code)) = scene(&[]) else {
        return;
    };
    for path in [
        "/login".to_owned(),
        format!("/login?code={code}"),
        format!("/login?secret={code}"),
    ] {
        let answer = scene.get(&path).expect(200);
        assert!(answer.header("set-cookie").is_none(), "{path}");
    }
    scene.ask("HEAD", "/login").expect(200);
    // A page elsewhere logs nobody in.
    let form = format!("secret={code}");
    let post = || scene.ask("POST", "/login").with(&["--data-raw", &form]);
    post().expect(403);
    post().header("Origin: https://evil.example").expect(403);
    let answer = enter(&scene, &code).expect(303);
    let set = answer.header("set-cookie").unwrap().to_ascii_lowercase();
    for word in ["httponly", "samesite=strict", "path=/", "max-age=3600"] {
        assert!(set.contains(word), "{set}");
    }
    assert!(!set.contains("domain=") && !set.contains("secure"), "{set}");
    enter(&scene, &code).expect(401);
    let cookie = cookie(&answer);
    // On plain loopback it reads and restores, whatever the person may do.
    let ask = |method: &str, path: &str| {
        let own = format!("Origin: {}", scene.base);
        scene.ask(method, path).header(&cookie).header(&own)
    };
    ask("GET", VMS).expect(200);
    ask("GET", &format!("{POINT}/disks/vda")).expect(200);
    ask("PATCH", POINT).with(&["--data-raw", "{}"]).expect(403);
    ask("PUT", &format!("{VMS}/web01/sessions/s"))
        .with(&["--data-raw", "{}"])
        .expect(403);
    ask("GET", "/metrics").expect(403);
    // A page elsewhere changes nothing with it.
    for foreign in [
        "X-None: 1",
        "Origin: https://evil.example",
        "Sec-Fetch-Site: cross-site",
    ] {
        let request = scene.ask("PATCH", POINT).header(&cookie).header(foreign);
        let answer = request.with(&["--data-raw", "{}"]).expect(403);
        assert!(
            answer.text().contains("page of this server"),
            "{}",
            answer.text()
        );
    }
    // Logging out ends it.
    ask("POST", "/logout").expect(303);
    ask("GET", VMS).expect(401);
    let acts = scene.acts();
    let logins = acts.iter().filter(|act| act["operation"] == "login");
    let outcomes: Vec<_> = logins.map(|act| act["outcome"].clone()).collect();
    assert_eq!(outcomes, ["ok", "permission-denied"]);
    let secret = cookie.split('=').nth(1).unwrap();
    let audit = std::fs::read_to_string(scene.place.path("audit.jsonl")).unwrap();
    for text in [audit, scene.log()] {
        assert!(!text.contains(secret) && !text.contains(&code), "{text}");
    }
}

#[test]
fn wrong_codes_are_refused_and_then_the_address_is() {
    let Some((scene, code)) = scene(&[]) else {
        return;
    };
    for n in 0..10 {
        enter(&scene, &format!("{n:032x}")).expect(401);
    }
    enter(&scene, "0").expect(429);
    enter(&scene, &code).expect(429);
}

#[test]
fn a_login_with_a_token_ends_with_the_token() {
    let Some((scene, _)) = scene(&[]) else {
        return;
    };
    let token = scene.token("laptop", "read", "web*");
    let answer = enter(&scene, &token).expect(303);
    let cookie = cookie(&answer);
    let list = scene.get(VMS).header(&cookie).value(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    scene.place.ok(&["token", "revoke", "laptop"]);
    scene.get(VMS).header(&cookie).expect(401);
    // Another token of that name is another token.
    scene.token("laptop", "read", "*");
    scene.get(VMS).header(&cookie).expect(401);
}

#[test]
fn with_tls_the_cookie_is_bound_to_the_host_and_keeps_the_rights() {
    if !can_certify() {
        return;
    }
    let authority = Authority::new();
    let server = authority.server();
    let Some((scene, code)) = scene(&["--tls-certificates", server.to_str().unwrap()]) else {
        return;
    };
    if !need(
        scene.get("/login").tls(&server).run().status != 404,
        "the page /login in this build",
    ) {
        return;
    }
    let own = format!("Origin: https://localhost:{}", scene.port());
    let form = format!("secret={code}");
    let request = scene.ask("POST", "/login").tls(&server).header(&own);
    let answer = request.with(&["--data-raw", &form]).expect(303);
    let set = answer.header("set-cookie").unwrap();
    assert!(set.starts_with("__Host-restorefs="), "{set}");
    for word in ["; Secure", "; HttpOnly", "; SameSite=Strict", "; Path=/"] {
        assert!(set.contains(word), "{set}");
    }
    let cookie = cookie(&answer);
    let patch = || {
        let request = scene.ask("PATCH", POINT).tls(&server).header(&cookie);
        request.with(&["--data-raw", "{\"keep\": true}"])
    };
    patch().header(&own).expect(200);
    patch().expect(403);
}
