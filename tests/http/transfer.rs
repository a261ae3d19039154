//! Bytes of disks and of guests: ranges, names, archives.

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::guest::{self, NAMES, encoded};
use crate::kit::need::{can_mount, has_all};
use crate::kit::shell::{run, text};
use crate::scene::{POINT, Scene, VMS};

const DISK: &str = "/api/v1/repositories/default/vms/web01/points/one/disks/vda";

#[test]
fn each_form_of_a_range_has_the_bytes_of_the_source() {
    let Some(scene) = Scene::of_disks().map(Scene::started) else {
        return;
    };
    let token = scene.token("laptop", "restore", "*");
    let source = std::fs::read(scene.place.path("a.raw")).unwrap();
    let size = source.len();
    let get = |range: &str| {
        let range = format!("Range: {range}");
        scene.get(DISK).token(&token).header(&range)
    };
    for (range, begin, end) in [
        ("bytes=0-0", 0, 1),
        ("bytes=0-999", 0, 1000),
        ("bytes=65535-65536", 65_535, 65_537),
        ("bytes=1000001-1500000", 1_000_001, 1_500_001),
        ("bytes=131072-196607", 131_072, 196_608),
        ("bytes=-1", size - 1, size),
        ("bytes=-70000", size - 70_000, size),
        ("bytes=2000000-", 2_000_000, size),
        ("bytes=2000000-99999999999999999999", 2_000_000, size),
        ("bytes=-99999999999999999999", 0, size),
    ] {
        let answer = get(range).expect(206);
        let stated = format!("bytes {begin}-{}/{size}", end - 1);
        assert_eq!(
            answer.header("content-range"),
            Some(stated.as_str()),
            "{range}"
        );
        let length = (end - begin).to_string();
        assert_eq!(answer.header("content-length"), Some(length.as_str()));
        assert!(answer.body == source[begin..end], "{range}");
    }
    for range in [
        format!("bytes={size}-"),
        "bytes=-0".to_owned(),
        "bytes=99999999999999999999-".to_owned(),
    ] {
        let answer = get(&range).expect(416);
        let stated = format!("bytes */{size}");
        assert_eq!(answer.header("content-range"), Some(stated.as_str()));
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json")
        );
    }
    for range in ["bytes=9-1", "bytes=0-1,5-6", "lines=0-1", "bytes=x"] {
        assert!(get(range).expect(200).body == source, "{range}");
    }
    // The tag names the content, for ever.
    let whole = scene.get(DISK).token(&token).expect(200);
    assert!(whole.body == source);
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    let tag = whole.header("etag").unwrap().to_owned();
    let part = || get("bytes=5-9");
    assert_eq!(
        part().header(&format!("If-Range: {tag}")).expect(206).body,
        source[5..10]
    );
    for other in ["\"other\"", "W/\"other\"", "Mon, 30 Nov 2026 00:00:00 GMT"] {
        let answer = part().header(&format!("If-Range: {other}")).expect(200);
        assert!(answer.body == source, "{other}");
    }
    for known in [
        tag.clone(),
        format!("\"other\", {tag}"),
        "*".to_owned(),
        format!("W/{tag}"),
    ] {
        let answer = scene
            .get(DISK)
            .token(&token)
            .header(&format!("If-None-Match: {known}"));
        let answer = answer.expect(304);
        assert_eq!(
            (answer.header("etag"), answer.body.len()),
            (Some(tag.as_str()), 0)
        );
    }
    let request = scene
        .get(DISK)
        .token(&token)
        .header("If-None-Match: \"other\"");
    request.expect(200);
    scene
        .get(DISK)
        .token(&token)
        .header("If-Match: \"other\"")
        .expect(412);
    part().header("If-Match: \"other\"").expect(412);
    part()
        .header(&format!("If-Match: \"other\", {tag}"))
        .expect(206);
    part().header("If-Match: *").expect(206);
    let head = scene.ask("HEAD", DISK).token(&token).expect(200);
    let length = size.to_string();
    assert_eq!(head.header("content-length"), Some(length.as_str()));
    assert_eq!(
        (head.header("etag"), head.body.len()),
        (Some(tag.as_str()), head.body.len())
    );
    // The same content is the same tag, wherever it is.
    let other = scene
        .ask("HEAD", &DISK.replace("web01", "db01"))
        .token(&token);
    assert_eq!(other.expect(200).header("etag"), Some(tag.as_str()));
}

#[test]
fn curl_goes_on_where_it_was_broken_off() {
    let Some(scene) = Scene::of_disks().map(Scene::started) else {
        return;
    };
    let token = scene.token("laptop", "restore", "*");
    let source = std::fs::read(scene.place.path("a.raw")).unwrap();
    let part = scene.place.path("part.raw");
    std::fs::write(&part, &source[..1_234_567]).unwrap();
    let output = Command::new("curl")
        .args(["-q", "-sS", "-f", "-C", "-", "-H"])
        .arg(format!("Authorization: Bearer {token}"))
        .arg("-o")
        .arg(&part)
        .arg(format!("{}{DISK}", scene.base))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(std::fs::read(part).unwrap() == source);
}

#[test]
fn attached_files_come_back_as_they_were() {
    let Some(mut scene) = Scene::of_disks() else {
        return;
    };
    let page = b"<html><script>alert(1)</script>";
    std::fs::write(scene.place.path("domain.html"), page).unwrap();
    scene.place.disk("b.raw", 2, 2);
    let attach = [
        "backup",
        "web01",
        "vda=b.raw",
        "--full",
        "vda",
        "--point",
        "two",
        "--attach",
        "domain.html",
    ];
    scene.place.ok(&attach);
    scene.start(&[]);
    let token = scene.token("laptop", "read,restore", "*");
    let path = format!("{VMS}/web01/points/two/attached/domain.html");
    let answer = scene.get(&path).token(&token).expect(200);
    assert_eq!(answer.body, page);
    is_harmless(&answer);
    scene
        .get(&path.replace("domain.html", "other"))
        .token(&token)
        .expect(404);
    let reader = scene.token("reader", "read", "*");
    scene.get(&path).token(&reader).expect(403);
}

/// Whether a browser saves an answer, and runs nothing of it.
fn is_harmless(answer: &crate::curl::Answer) {
    let header = |name: &str| answer.header(name).unwrap_or_default();
    let saved = header("content-disposition");
    assert!(saved.starts_with("attachment"), "{saved}");
    assert!(
        saved.bytes().all(|byte| (0x20..0x7f).contains(&byte)),
        "{saved}"
    );
    assert_eq!(header("content-type"), "application/octet-stream");
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert_eq!(
        header("content-security-policy"),
        "sandbox; default-src 'none'"
    );
    assert!(answer.header("set-cookie").is_none(), "{}", answer.head);
}

#[test]
fn names_of_guests_are_bytes_and_do_no_harm() {
    let Some(scene) = Scene::of_guest().map(Scene::started) else {
        return;
    };
    let token = scene.token("laptop", "read,restore", "*");
    let list = scene
        .get(&format!("{POINT}/files?path=/files/names"))
        .token(&token)
        .value(200);
    let items = list["items"].as_array().unwrap();
    for name in NAMES {
        let path = format!("/files/names/{}", String::from_utf8_lossy(b""));
        let path = format!("{POINT}/content?path={path}{}", encoded(name));
        let answer = scene.get(&path).token(&token).expect(200);
        let shown = String::from_utf8_lossy(name).into_owned();
        assert_eq!(answer.body, guest::content(name), "{shown:?}");
        is_harmless(&answer);
        let item = items.iter().find(|item| item["name"] == shown).unwrap();
        let bytes = item["name_b64"]
            .as_str()
            .map(|text| STANDARD.decode(text).unwrap());
        match std::str::from_utf8(name) {
            Ok(_) => assert_eq!(bytes, None, "{shown}"),
            Err(_) => assert_eq!(bytes.as_deref(), Some(name), "{shown}"),
        }
        assert_eq!(item["type"], "file");
        assert_eq!(item["size_bytes"], guest::content(name).len());
    }
    // A plus is a plus, and no space.
    let get = |path: &str| {
        scene
            .get(&format!("{POINT}/content?path=/files/names/{path}"))
            .token(&token)
    };
    assert_eq!(get("a+b").expect(200).body, guest::content(b"a+b"));
    get("a%20b").expect(404);
    // What is decoded once is not decoded again.
    assert_eq!(get("%2541").expect(200).body, guest::content(b"%41"));
    let listed = |path: &str| {
        scene
            .get(&format!("{POINT}/files?path={path}"))
            .token(&token)
            .run()
            .status
    };
    for path in [
        "/files/%zz",
        "/files/%",
        "/files/%0",
        "/files/a%00b",
        "/files/../etc",
        "/..",
        "..",
        "/files/names/%2e%2e/x",
    ] {
        assert_eq!(listed(path), 400, "{path}");
        let archive = scene
            .get(&format!("{POINT}/archive?path={path}"))
            .token(&token);
        assert_eq!(archive.run().status, 400, "{path}");
    }
    for (path, status) in [
        ("/files/none", 404),
        ("/files/etc/hostname/x", 404),
        ("/files/srv/loop/x", 400),
        ("/files/srv/loop", 200),
        ("", 200),
        ("/", 200),
        ("files", 200),
        ("//files//./etc/", 200),
    ] {
        assert_eq!(listed(path), status, "{path}");
    }
    for (path, status) in [
        ("/files/etc", 400),
        ("/files/etc/hostname/x", 404),
        ("/files/srv/a/link", 400),
        ("/files/srv/empty", 200),
    ] {
        let answer = scene
            .get(&format!("{POINT}/content?path={path}"))
            .token(&token)
            .run();
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
    }
    scene
        .get(&format!("{POINT}/files"))
        .token(&token)
        .expect(400);
    scene
        .get(&format!("{POINT}/files?path=/&path=/"))
        .token(&token)
        .expect(400);
    // Pages of a directory have each entry once.
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let page = format!("{POINT}/files?path=/files/names&limit=3{after}");
        let page = scene.get(&page).token(&token).value(200);
        for item in page["items"].as_array().unwrap() {
            names.push(item["name"].as_str().unwrap().to_owned());
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    names.sort();
    let mut expected: Vec<_> = NAMES
        .iter()
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    expected.sort();
    assert_eq!(names, expected);
    // Ranges of a file.
    let large = format!("{POINT}/content?path=/files/srv/large");
    let answer = scene
        .get(&large)
        .token(&token)
        .header("Range: bytes=1048570-1048585")
        .expect(206);
    assert_eq!(answer.body, guest::large()[1_048_570..1_048_586]);
    let tag = answer.header("etag").unwrap().to_owned();
    scene
        .get(&large)
        .token(&token)
        .header(&format!("If-None-Match: {tag}"))
        .expect(304);
}

/// Takes paths of the point as an archive, extracts it in a new directory, and returns that.
fn extracted(scene: &Scene, token: &str, format: &str, query: &str) -> std::path::PathBuf {
    let path = format!("{POINT}/archive?format={format}{query}");
    let answer = scene.get(&path).token(token).expect(200);
    let saved = answer.header("content-disposition").unwrap();
    assert!(saved.contains(&format!("web01-one.{format}")), "{saved}");
    let archive = scene.place.path(&format!("a.{format}"));
    std::fs::write(&archive, &answer.body).unwrap();
    let to = scene.place.path(&format!("out-{format}"));
    let _ = std::fs::remove_dir_all(&to);
    std::fs::create_dir(&to).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    std::fs::set_permissions(&to, mode).unwrap();
    match format {
        "zip" => run("unzip", &["-q", text(&archive), "-d", text(&to)]),
        "tar" => run("tar", &["-xpf", text(&archive), "-C", text(&to)]),
        _ => run("tar", &["--zstd", "-xpf", text(&archive), "-C", text(&to)]),
    };
    let meta = std::fs::metadata(&to).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions());
    assert_eq!(mode & 0o7777, 0o711, "{format}: the mode of the directory");
    to
}

#[test]
fn an_archive_of_several_paths_is_what_the_mounted_tree_has() {
    if !can_mount() || !has_all(&["tar", "zstd", "unzip", "rsync"]) {
        return;
    }
    let Some(mut scene) = Scene::of_guest() else {
        return;
    };
    let mnt = scene.place.path("mnt");
    std::fs::create_dir(&mnt).unwrap();
    scene.start(&["--mount", mnt.to_str().unwrap()]);
    let token = scene.token("laptop", "restore", "*");
    let tree = mnt.join("web01/one/files");
    let plain = scene.place.path("plain");
    std::fs::create_dir(&plain).unwrap();
    for path in ["etc", "srv/a", "srv/large"] {
        let from = tree.join(path);
        let to = plain.join(path);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        run("cp", &["-a", text(&from), text(&to)]);
    }
    let query = "&path=/files/etc&path=/files/srv/a&path=/files/srv/large&path=/files/etc/hostname";
    for format in ["tar", "tar.zst", "zip"] {
        let got = extracted(&scene, &token, format, query);
        run(
            "diff",
            &["-r", "--no-dereference", text(&plain), text(&got)],
        );
        if format != "zip" {
            // Modes, times and owners, too; the directories above what was chosen are only a frame.
            for path in ["etc", "srv/a"] {
                let pair =
                    [plain.join(path), got.join(path)].map(|path| format!("{}/", path.display()));
                let differing = run("rsync", &["-aHni", "--delete", &pair[0], &pair[1]]);
                assert_eq!(differing, "", "{format}: {path}");
            }
        }
    }
    // A single path has its own name; the guest's root has none.
    let got = extracted(&scene, &token, "tar", "&path=/files/srv/a");
    assert!(got.join("a/b/two").exists());
    // A path through a symbolic link of the guest leads where that leads, and so does one to a file's content.
    let got = extracted(
        &scene,
        &token,
        "tar",
        "&path=/files/way/one&path=/files/way/b&path=/files/srv/a/b/two",
    );
    assert!(got.join("one").exists() && got.join("b/two").exists());
    let one = scene.get(&format!("{POINT}/content?path=/files/way/one"));
    assert_eq!(one.token(&token).expect(200).body, b"1");
    let got = extracted(&scene, &token, "tar", "&path=/files/way");
    assert!(got.join("way").is_symlink());
    let got = extracted(&scene, &token, "tar", "&path=/files");
    assert!(got.join("files/etc/hostname").exists() || got.join("etc/hostname").exists());
    let names = extracted(&scene, &token, "tar", "&path=/files/names");
    for name in NAMES {
        let path = names
            .join("names")
            .join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name));
        assert!(
            std::fs::read(&path).is_ok_and(|bytes| bytes == guest::content(name)),
            "{path:?}"
        );
    }
    // Nothing to take, or not as such.
    for (query, status) in [
        ("", 400),
        ("?path=/files/none", 404),
        ("?path=/files&format=rar", 400),
        ("?path=/files&x=1", 400),
    ] {
        scene
            .get(&format!("{POINT}/archive{query}"))
            .token(&token)
            .expect(status);
    }
    assert!(scene.stop().success());
    assert!(std::fs::read_dir(Path::new(&mnt)).unwrap().next().is_none());
}

#[test]
fn a_client_that_could_not_tell_a_broken_archive_gets_none() {
    let Some(scene) = Scene::of_guest().map(Scene::started) else {
        return;
    };
    let token = scene.token("laptop", "restore", "*");
    let archive = format!("{POINT}/archive?path=/files/etc");
    let answer = scene
        .get(&archive)
        .token(&token)
        .with(&["--http1.0"])
        .expect(501);
    assert!(answer.text().contains("HTTP/1.1"), "{}", answer.text());
    // A disk has a length by which it can tell.
    let answer = scene
        .get(DISK)
        .token(&token)
        .with(&["--http1.0"])
        .expect(200);
    assert_eq!(answer.body.len(), 64 << 20);
    assert!(answer.body == std::fs::read(scene.place.path("guest.raw")).unwrap());
}
