//! NFSv4 over the mount, by NFS-Ganesha: listings, content, and handles that outlive the server and the mount.

use std::path::Path;
use std::process::Command;

use crate::kit::need::free_port;
use crate::kit::noise::noise;
use crate::wire;
use crate::world::{Mount, OLD, Server, VDB_BYTES, World, ready, run, text};

/// As in the README, on loopback.
fn configuration(world: &World, export: &Path, port: u16) -> String {
    let plugins = [
        "/usr/lib/x86_64-linux-gnu/ganesha",
        "/usr/lib/aarch64-linux-gnu/ganesha",
        "/usr/lib/ganesha",
    ];
    let plugins = plugins
        .iter()
        .find(|dir| Path::new(dir).join("libfsalvfs.so").exists())
        .unwrap();
    format!(
        "NFS_CORE_PARAM {{ Protocols = 4; NFS_Port = {port}; Bind_Addr = 127.0.0.1; Enable_NLM = false; Enable_RQUOTA = false;\n\
         Enable_UDP = false; Plugins_Dir = \"{plugins}\"; }}\n\
         NFSv4 {{ RecoveryBackend = fs; RecoveryRoot = \"{}\"; Graceless = true; }}\nNFS_KRB5 {{ Active_krb5 = false; }}\n\
         EXPORT {{ Export_Id = 77; Path = {}; Pseudo = /backups; Access_Type = RO; Squash = No_Root_Squash; SecType = sys;\n\
         Transports = TCP; Protocols = 4; PrivilegedPort = false; Filesystem_Id = 192.168; FSAL {{ Name = VFS; }} }}\n",
        text(&world.path("recovery")),
        text(export)
    )
}

fn serve(world: &World, mount: &Mount, port: u16) -> Server {
    std::fs::create_dir_all(world.path("recovery")).unwrap();
    let (file, log, pid) = (
        world.path("ganesha.conf"),
        world.path("ganesha.log"),
        world.path("ganesha.pid"),
    );
    std::fs::write(&file, configuration(world, mount.root(), port)).unwrap();
    let mut command = Command::new("ganesha.nfsd");
    command.args(["-F", "-f", text(&file), "-L", text(&log), "-p", text(&pid)]);
    Server::start(&mut command, port)
}

#[test]
fn a_client_reads_what_is_there() {
    if !ready(&["ganesha.nfsd", "nfs-ls", "nfs-cat"]) {
        return;
    }
    let world = World::new();
    let mount = world.mount("allow_other");
    let port = free_port();
    let _server = serve(&world, &mount, port);
    let url = |path: &str| format!("nfs://127.0.0.1/backups/{path}?nfsport={port}&version=4");
    let listing = run("nfs-ls", &[&url("web01/one/disks")]);
    assert!(
        listing.contains(&VDB_BYTES.to_string()) && listing.contains("vda.raw"),
        "{listing}"
    );
    let listing = run("nfs-ls", &[&url("web01/one/files/srv")]);
    assert!(
        listing.contains(OLD.strip_prefix("srv/").unwrap()),
        "{listing}"
    );
    assert_eq!(
        run("nfs-ls", &[&url("web01/one/files/srv/many")])
            .lines()
            .count(),
        500
    );
    let output = Command::new("nfs-cat")
        .arg(url("web01/one/files/srv/big"))
        .output()
        .unwrap();
    assert!(output.status.success() && output.stdout == noise(1, 3_000_000));
}

#[test]
fn a_handle_outlives_the_server_and_the_mount() {
    if !ready(&["ganesha.nfsd"]) {
        return;
    }
    let world = World::new();
    let mount = world.mount("allow_other");
    let port = free_port();
    let server = serve(&world, &mount, port);
    let path = "backups/web01/one/files/srv/big";
    let handle = wire::handle(port, path);
    let expected = noise(1, 3_000_000);
    let is_read = |handle: &[u8], at: usize| {
        let (status, bytes) = wire::read(port, handle, at as u64, 4096);
        assert_eq!(status, wire::OK, "at {at}");
        assert!(bytes == expected[at..at + 4096], "other bytes at {at}");
    };
    is_read(&handle, 0);
    // The server starts anew; it knows nothing but what the handle says.
    drop(server);
    let server = serve(&world, &mount, port);
    is_read(&handle, 1_000_000);
    // And the mount, by another process, whose kernel side has never heard of the file. Ganesha's handles hold the mount's device number,
    // which another mount can have taken meanwhile: then the handle is stale, and never another file's.
    drop(server);
    let device = mount.device();
    mount.kill();
    let mount = world.mount("allow_other");
    let server = serve(&world, &mount, port);
    if mount.device() == device {
        is_read(&handle, 2_000_000);
    } else {
        assert_eq!(wire::read(port, &handle, 0, 10).0, wire::STALE);
    }
    let handle = wire::handle(port, path);
    is_read(&handle, 2_000_000);
    // What is no handle is an error, not a file.
    let mut other = handle.clone();
    *other.last_mut().unwrap() ^= 0x55;
    assert_ne!(wire::read(port, &other, 0, 10).0, wire::OK);
    drop(server);
}
