//! Samba over the mount, through its own client.

use std::path::Path;
use std::process::Command;

use crate::kit::need::free_port;
use crate::kit::noise::noise;
use crate::world::{Mount, OLD, Server, VDB_BYTES, World, ready, run, text};

/// As in the README, with all of smbd's own files in a directory of ours.
fn configuration(dir: &Path, share: &Path) -> String {
    let own: String = ["private", "lock", "state", "cache", "pid"]
        .iter()
        .map(|name| format!("{name} directory = {}/{name}\n", dir.display()))
        .collect();
    format!(
        "[global]\nserver role = standalone server\nmap to guest = Bad User\nguest account = root\n\
         ncalrpc dir = {0}/ncalrpc\nlog file = {0}/log\ninterfaces = 127.0.0.1\nbind interfaces only = yes\n\
         disable netbios = yes\nload printers = no\nprinting = bsd\ndisable spoolss = yes\nprivate dir = {0}/private\n{own}\
         [backups]\npath = {1}\nread only = yes\nguest ok = yes\nwide links = no\noplocks = no\nlevel2 oplocks = no\nstore dos attributes = no\nmap archive = no\n",
        dir.display(),
        share.display()
    )
    .replace("private directory", "# private")
}

struct Share {
    _server: Server,
    port: u16,
}

impl Share {
    fn new(world: &World, mount: &Mount) -> Self {
        let dir = world.path("smb");
        for name in ["private", "lock", "state", "cache", "pid", "ncalrpc"] {
            std::fs::create_dir_all(dir.join(name)).unwrap();
        }
        let file = dir.join("smb.conf");
        std::fs::write(&file, configuration(&dir, mount.root())).unwrap();
        let port = free_port();
        let mut command = Command::new("smbd");
        command.args(["-F", "-s", text(&file), "-p", &port.to_string()]);
        Self {
            _server: Server::start(&mut command, port),
            port,
        }
    }

    fn ask(&self, commands: &str) -> String {
        let port = self.port.to_string();
        run(
            "smbclient",
            &[
                "-s",
                "/dev/null",
                "-p",
                &port,
                "-N",
                "//127.0.0.1/backups",
                "-c",
                commands,
            ],
        )
    }
}

#[test]
fn a_share_shows_what_is_there() {
    if !ready(&["smbd", "smbclient"]) {
        return;
    }
    let world = World::new();
    let mount = world.mount("allow_other");
    let share = Share::new(&world, &mount);
    let size = |listing: &str, name: &str| -> u64 {
        let line = listing
            .lines()
            .find(|line| line.trim_start().starts_with(name));
        let line = line.unwrap_or_else(|| panic!("{name} in {listing}"));
        let rest = line.trim_start()[name.len()..].split_whitespace();
        let numbers: Vec<&str> = rest.collect();
        numbers[1].parse().unwrap()
    };
    let top = share.ask("cd web01; ls");
    assert!(top.contains("latest") && top.contains("one"), "{top}");
    // `latest` is a symlink; the server follows it.
    let disks = share.ask("cd web01\\latest\\disks; ls");
    assert_eq!(size(&disks, "vda.raw"), 64 << 20);
    assert_eq!(size(&disks, "vdb.raw"), VDB_BYTES);
    let files = share.ask("cd web01\\one\\files\\srv; ls");
    let name = OLD.strip_prefix("srv/").unwrap();
    assert_eq!(size(&files, name), 6);
    let line = files.lines().find(|line| line.contains(name)).unwrap();
    assert!(line.contains("Feb  3") && line.ends_with("1999"), "{line}");
    let many = share.ask("cd web01\\one\\files\\srv\\many; ls");
    assert_eq!(many.lines().filter(|l| l.contains("file ")).count(), 500);
    // A directory that has more than a name; a hard link; a symlink within the guest.
    let etc = share.ask("cd web01\\one\\files\\etc; ls");
    for same in ["passwd", "passwd-", "link"] {
        assert_eq!(size(&etc, same), 30, "{etc}");
    }
    let got = world.path("got");
    share.ask(&format!(
        "get web01\\latest\\files\\srv\\big {}",
        text(&got)
    ));
    assert_eq!(std::fs::read(&got).unwrap(), noise(1, 3_000_000));
    // Nothing is written.
    let refused = Command::new("smbclient")
        .args([
            "-s",
            "/dev/null",
            "-N",
            "-p",
            &share.port.to_string(),
            "//127.0.0.1/backups",
        ])
        .args(["-c", &format!("put {} web01\\x", text(&got))])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stdout);
    assert!(
        said.contains("NT_STATUS_ACCESS_DENIED") || said.contains("NT_STATUS_MEDIA_WRITE"),
        "{said}"
    );
}

#[test]
fn a_new_point_is_in_the_share_at_once() {
    if !ready(&["smbd", "smbclient"]) {
        return;
    }
    let world = World::new();
    let mount = world.mount("allow_other");
    let share = Share::new(&world, &mount);
    assert!(!share.ask("cd web01; ls").contains("two"));
    world.back_up("two");
    crate::kit::wait::eventually("the new point", || {
        share.ask("cd web01; ls").contains("two")
    });
    let disks = share.ask("cd web01\\latest; ls info.json");
    assert!(disks.contains("info.json"), "{disks}");
}
