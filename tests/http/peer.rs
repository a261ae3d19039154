//! Callers who are known without a token: users of this machine by the Unix socket, and clients by their certificates.

use std::os::unix::fs::{PermissionsExt, chown};

use serde_json::json;

use crate::kit::need::{has, is_root};
use crate::scene::{POINT, Scene, VMS};

/// Users and a group that no account has; the group is that of the socket.
const ALICE: u32 = 4001;
const BOB: u32 = 4002;
const SOCKET_GROUP: u32 = 5000;

#[test]
fn on_the_unix_socket_the_kernel_names_the_caller() {
    if !is_root() || !has("setpriv") {
        return;
    }
    let Some(scene) = Scene::of_disks().map(Scene::started) else {
        return;
    };
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(scene.place.dir.path(), open).unwrap();
    let mode = std::fs::metadata(scene.http_socket())
        .unwrap()
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o660);
    chown(scene.http_socket(), None, Some(SOCKET_GROUP)).unwrap();
    let disk = format!("{POINT}/disks/vda");
    let session = format!("{VMS}/web01/sessions/s");
    let statuses = |user: u32, groups: &str| {
        let ask = |method: &str, path: &str| {
            let request = scene.ask(method, path).unix();
            let request = match method {
                "PUT" | "PATCH" => request.json(&json!({})),
                _ => request,
            };
            request.by(user, groups).run().status
        };
        [
            ask("GET", VMS),
            ask("GET", &disk),
            ask("PUT", &session),
            ask("DELETE", &session),
            ask("PATCH", POINT),
            ask("DELETE", "/api/v1/repositories/default/trash"),
        ]
    };
    let group = SOCKET_GROUP.to_string();
    assert_eq!(statuses(0, "0"), [200, 200, 201, 204, 200, 200]);
    // Without a table members of the group read, restore and ingest; others do not get as far as the daemon.
    assert_eq!(statuses(ALICE, &group), [200, 200, 201, 204, 403, 403]);
    assert_eq!(statuses(ALICE, "65534"), [0; 6]);
    // A name in a page elsewhere means nothing here, and no page comes here.
    let foreign = scene.ask("PUT", &session).unix().json(&json!({}));
    foreign.header("Origin: https://evil.example").expect(201);
    scene.ask("DELETE", &session).unix().expect(204);
    // With an entry for a user the table alone decides.
    let table = "[[access]]\nuser = 4001\nvms = [\"web*\"]\nrights = [\"read\"]\n";
    std::fs::write(scene.place.path("access.toml"), table).unwrap();
    assert_eq!(statuses(ALICE, &group), [200, 403, 403, 403, 403, 403]);
    assert_eq!(statuses(BOB, &group), [404; 6]);
    assert_eq!(statuses(0, "0"), [200, 200, 201, 204, 200, 200]);
    // A token on the socket counts for more than its peer, and a wrong one for nothing.
    let token = scene.token("web", "restore", "web*");
    let request = scene.get(&disk).token(&token).unix();
    request.by(BOB, &group).expect(200);
    scene.get(VMS).token("rfs_0").unix().expect(401);
}
