//! Mounts that a helper makes: as mount(8) runs it, and for a daemon that may not mount.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::mount::{UnmountFlags, unmount};

use crate::house::{House, Service, nbd};
use crate::kit::need::{can_mount, has};
use crate::kit::wait::eventually;

/// A house whose repository has a few VMs, with mountpoints that are given back.
pub(crate) struct Site {
    pub(crate) house: House,
    pub(crate) points: Vec<PathBuf>,
}

impl Drop for Site {
    fn drop(&mut self) {
        for point in &self.points {
            let _ = unmount(point, UnmountFlags::DETACH);
        }
    }
}

impl Site {
    pub(crate) fn new(mountpoints: &[&str]) -> Self {
        let house = House::new();
        house.place.disk("a.raw", 4, 1);
        for vm in ["web01", "web02", "db01"] {
            house
                .place
                .ok(&["backup", vm, "vda=a.raw", "--point", "p1"]);
        }
        let points = mountpoints.iter().map(|name| house.place.path(name));
        let points: Vec<PathBuf> = points.collect();
        points
            .iter()
            .for_each(|point| std::fs::create_dir(point).unwrap());
        // Other users are to come as far as the mount.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(house.place.dir.path(), open).unwrap();
        Self { house, points }
    }

    /// Starts a daemon that may not mount, and is in a namespace of its own.
    pub(crate) fn start(&self) -> Service {
        let plain = self.house.command(&["--no-mount"]);
        let mut command = Command::new("setpriv");
        command
            .args([
                "--bounding-set",
                "-sys_admin",
                "--inh-caps",
                "-sys_admin",
                "--no-new-privs",
            ])
            .arg(plain.get_program())
            .args(plain.get_args())
            .current_dir(self.house.place.dir.path())
            .stdout(std::process::Stdio::null())
            .stderr(
                std::fs::File::options()
                    .append(true)
                    .create(true)
                    .open(self.house.place.path("log"))
                    .unwrap(),
            );
        for (key, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        self.house.start_by(command)
    }

    /// The helper as mount(8) runs it.
    pub(crate) fn helper(&self, args: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-helpers/mount.restorefs");
        Command::new(script)
            .args(args)
            .env("RESTOREFS_PROGRAM", env!("CARGO_BIN_EXE_restorefs"))
            .env("RESTOREFS_RUNTIME_DIR", self.house.place.dir.path())
            .current_dir("/")
            .output()
            .unwrap()
    }

    pub(crate) fn mount(&self, at: usize, options: &str) {
        let repo = self.house.place.repo();
        let output = self.helper(&[text(&repo), text(&self.points[at]), "-o", options]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{options}: {} {said} {}",
            output.status,
            self.house.log()
        );
    }

    pub(crate) fn umount(&self, at: usize) {
        // The kernel lets go of a directory a moment after its last user has closed it.
        eventually("nobody uses it", || {
            let status = Command::new("umount").arg(&self.points[at]).output();
            status.unwrap().status.success()
        });
    }

    fn at(&self, at: usize, path: &str) -> PathBuf {
        self.points[at].join(path)
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Mount options of a mountpoint as the kernel has them.
fn flags(path: &Path) -> String {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts
        .lines()
        .rev()
        .find(|line| line.split(' ').nth(1) == Some(text(path)));
    line.unwrap().to_owned()
}

/// What another user is told who lists a directory.
fn as_other(path: &Path) -> std::process::Output {
    Command::new("setpriv")
        .args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "ls",
        ])
        .arg(path)
        .output()
        .unwrap()
}

#[test]
fn a_daemon_without_rights_serves_what_the_helper_mounts() {
    if !can_mount() {
        return;
    }
    let site = Site::new(&["a", "b"]);
    let house = &site.house;
    house.configure("", &nbd(house, ""));
    let service = site.start();
    site.mount(0, "rw");
    site.mount(1, "ro,vm=web*,allow_other,uid=65534,gid=100,umask=077");
    assert_eq!(names(&site.points[0]), ["db01", "web01", "web02"]);
    assert_eq!(names(&site.points[1]), ["web01", "web02"]);
    // Source, type and flags are what df and findmnt show.
    let line = flags(&site.points[1]);
    let repo = house.place.repo().canonicalize().unwrap();
    assert!(line.starts_with(&format!("{} ", repo.display())), "{line}");
    for flag in [
        "fuse.restorefs ro,",
        "nosuid",
        "nodev",
        "noexec",
        "allow_other",
    ] {
        assert!(line.contains(flag), "{flag}: {line}");
    }
    let meta = std::fs::metadata(site.at(1, "web01")).unwrap();
    assert_eq!(
        (meta.uid(), meta.gid(), meta.mode() & 0o777),
        (65534, 100, 0o700)
    );
    // A point that is written through the one mount is seen in the other.
    std::fs::create_dir(site.at(0, "web01/x.partial")).unwrap();
    std::fs::copy(
        house.place.path("a.raw"),
        site.at(0, "web01/x.partial/disks/vda.raw"),
    )
    .unwrap();
    std::fs::rename(site.at(0, "web01/x.partial"), site.at(0, "web01/p2")).unwrap();
    eventually("the other mount shows it", || {
        std::fs::read_link(site.at(1, "web01/latest")).unwrap() == Path::new("p2")
    });
    let bytes = std::fs::read(site.at(1, "web01/latest/disks/vda.raw")).unwrap();
    assert!(bytes == std::fs::read(house.place.path("a.raw")).unwrap());
    // Read-only, and nothing of other VMs.
    let error = std::fs::create_dir(site.at(1, "web01/y.partial")).unwrap_err();
    assert_eq!(
        error.raw_os_error(),
        Some(rustix::io::Errno::ROFS.raw_os_error())
    );
    assert!(std::fs::metadata(site.at(1, "db01")).is_err());
    // umount(8) ends them, and the daemon lets go.
    site.umount(0);
    site.umount(1);
    eventually("the daemon lets go of both", || {
        house.log().matches("unmounted").count() == 2
    });
    site.mount(0, "ro");
    site.umount(0);
    service.stop();
}

#[test]
fn others_see_nothing_unless_they_are_let_in() {
    if !can_mount() || !has("setpriv") {
        return;
    }
    let site = Site::new(&["a", "b", "c"]);
    site.house.configure("", "");
    let service = site.start();
    site.mount(0, "ro");
    site.mount(1, "ro,allow_other");
    site.mount(2, "ro,allow_other,umask=022");
    // Not let in at all; let in, but VMs are private; VMs are for all, and disks still are not.
    assert!(!as_other(&site.points[0]).status.success());
    assert!(as_other(&site.points[1]).status.success());
    assert!(!as_other(&site.at(1, "web01")).status.success());
    let output = as_other(&site.at(2, "web01/p1/disks"));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "vda.raw\n");
    service.kill();
}

#[test]
fn without_a_daemon_a_follower_serves_it_read_only() {
    if !can_mount() {
        return;
    }
    let site = Site::new(&["a"]);
    let repo = site.house.place.repo();
    // mount(8) says rw where nobody said ro.
    let output = site.helper(&[text(&repo), text(&site.points[0]), "-o", "rw,vm=db01"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("no daemon") && said.contains("read-only"),
        "{said}"
    );
    assert_eq!(names(&site.points[0]), ["db01"]);
    assert!(flags(&site.points[0]).contains(" fuse.restorefs ro,"));
    site.umount(0);
}

/// A label of a mount, as RHEL and its like need it: handed to a kernel with SELinux, and warned of without.
#[test]
fn a_label_with_commas_is_one_option_for_a_daemon_a_follower_and_a_configuration() {
    if !can_mount() {
        return;
    }
    let site = Site::new(&["a"]);
    let repo = site.house.place.repo();
    let label = "ro,context=\"system_u:object_r:samba_share_t:s0:c1,c2\",vm=db01";
    let has_selinux = Path::new("/sys/fs/selinux").exists();
    let mount = |words: &str| {
        let output = site.helper(&[text(&repo), text(&site.points[0]), "-o", words]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        assert_eq!(names(&site.points[0]), ["db01"]);
        assert_eq!(flags(&site.points[0]).contains("context="), has_selinux);
        site.umount(0);
        said
    };
    let said = mount(label);
    assert!(has_selinux || said.contains("no SELinux"), "{said}");
    let site_dir = site.house.place.dir.path();
    let output = site
        .house
        .place
        .run(&["mount", text(&site.points[0]), "-o", label]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && site_dir.exists(), "{said}");
    assert!(has_selinux || said.contains("no SELinux"), "{said}");
    site.umount(0);
    site.house.configure("", "");
    let service = site.start();
    mount(label);
    service.stop();
}

#[test]
fn what_the_helper_cannot_do_it_says_with_the_codes_of_mount() {
    if !can_mount() {
        return;
    }
    let site = Site::new(&["a", "full"]);
    std::fs::write(site.at(1, "something"), "").unwrap();
    let (repo, point) = (site.house.place.repo(), site.points[0].clone());
    let (repo, point, full) = (text(&repo), text(&point), text(&site.points[1]));
    let nowhere = format!("{point}/nowhere");
    let file = format!("{full}/something");
    let inside = format!("{repo}/vms");
    for (code, args, words) in [
        (1, vec![repo, point, "-o", "ro,colour=blue"], "colour=blue"),
        (
            1,
            vec![repo, point, "-o", "remount,ro"],
            "unmount, and mount again",
        ),
        (1, vec![repo, point, "-o", "suid"], "suid"),
        (
            1,
            vec!["repo", point],
            "the path of the repository is not absolute",
        ),
        (
            1,
            vec![repo, "mnt"],
            "the path of the mountpoint is not absolute",
        ),
        (1, vec![repo], "MOUNTPOINT"),
        (1, vec![repo, point, "-N", "/proc/1/ns/mnt"], "nsenter"),
        (1, vec![repo, &inside], "lies in the repository"),
        (32, vec![repo, &nowhere], "cannot use the mountpoint"),
        (32, vec![repo, &file], "not a directory"),
        (32, vec![repo, full], "not empty"),
        (32, vec![full, point], "no repository"),
        (32, vec!["/nowhere/at/all", point], "/nowhere/at/all"),
    ] {
        for with_daemon in [false, true] {
            site.house.configure("", "");
            let service = with_daemon.then(|| site.start());
            let output = site.helper(&args);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
            assert!(said.contains(words), "{args:?}: {said}");
            assert!(!said.contains("panicked"), "{said}");
            drop(service);
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(
        !mounts.contains(text(site.house.place.dir.path())),
        "nothing is left mounted"
    );
    // Sloppy leaves out what is not known; fake mounts nothing.
    let output = site.helper(&[repo, point, "-s", "-f", "-o", "ro,colour=blue"]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("colour=blue"));
    assert!(names(&site.points[0]).is_empty());
    let output = site.helper(&[repo, full, "-o", "ro,nonempty"]);
    assert!(output.status.success());
    assert_eq!(names(&site.points[1]).len(), 3);
    // A second mount on the same place is Busy.
    let output = site.helper(&[repo, full, "-o", "ro,nonempty"]);
    assert_eq!(output.status.code(), Some(32));
}

#[test]
fn the_mounts_of_a_configuration_come_and_go_with_the_service() {
    if !can_mount() {
        return;
    }
    let site = Site::new(&["a", "b", "fstab"]);
    let house = &site.house;
    let mount = |n: usize, options: &str| {
        let at = site.points[n].display();
        format!("[[repository.mount]]\nat = \"{at}\"\noptions = \"{options}\"\n")
    };
    house.configure("", &(mount(0, "") + &mount(1, "ro,vm=db*")));
    let config = house.place.path("config.toml");
    let config = text(&config);
    let service = site.start();
    assert!(names(&site.points[0]).is_empty(), "a helper is to mount it");
    house.place.ok(&["mount", "--config", config]);
    site.mount(2, "ro");
    assert_eq!(names(&site.points[0]).len(), 3);
    assert_eq!(names(&site.points[1]), ["db01"]);
    // Once more: what is mounted already is left.
    house.place.ok(&["mount", "--config", config]);
    service.kill();
    for point in &site.points {
        assert!(rustix::fs::statfs(point).is_err(), "the mount is dead");
    }
    house.place.ok(&["umount", "--config", config]);
    for point in &site.points {
        assert!(names(point).is_empty(), "also those that fstab made");
    }
    let service = site.start();
    house.place.ok(&["mount", "--config", config]);
    assert_eq!(names(&site.points[1]), ["db01"]);
    // Somebody stands in it: it is taken from under him.
    let mut sleeper = Command::new("sleep")
        .arg("60")
        .current_dir(&site.points[0])
        .spawn()
        .unwrap();
    house.place.ok(&["umount", "--config", config]);
    assert!(names(&site.points[0]).is_empty());
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    service.stop();
    // Without a daemon there is nobody to hand them to.
    let said = house.place.fails(1, &["mount", "--config", config]);
    assert!(said.contains("no daemon"), "{said}");
}

#[test]
fn mount_finds_the_helper_and_fstab_is_understood() {
    if !can_mount() || !has("unshare") || !has("mount") {
        return;
    }
    let site = Site::new(&["a", "b"]);
    site.house.configure("", "");
    let service = site.start();
    let (repo, dir) = (site.house.place.repo(), site.house.place.dir.path());
    let fstab = format!(
        "{} {} restorefs ro,allow_other,noauto,nofail,x-systemd.automount,x-systemd.requires=restorefs.service,_netdev,context=\"system_u:object_r:samba_share_t:s0:c1,c2\",vm=web01 0 0\n",
        repo.display(),
        site.points[1].display()
    );
    std::fs::write(dir.join("fstab"), fstab).unwrap();
    // In a namespace where /usr/sbin has the helper, so that this machine's own stays as it is.
    let script = format!(
        "set -e\n\
         mkdir upper work; cp {helper} upper/\n\
         mount -t tmpfs none work; mkdir work/upper work/work; cp upper/* work/upper/\n\
         mount -t overlay none -o lowerdir=/usr/sbin,upperdir=work/upper,workdir=work/work /usr/sbin\n\
         mount -t restorefs {repo} {a} -o ro,allow_other,vm=web01,uid=65534,umask=077\n\
         ls {a}; stat -c %u:%a {a}/web01\n\
         mount --bind fstab /etc/fstab\n\
         mount {b}; ls {b}\n\
         mount -a\n\
         umount {a}; umount {b}\n\
         mount -t restorefs {repo} {a}; touch {a}/web01/p1 2>&1 | grep -c 'Read-only'\n\
         umount {a}\n\
         mount -t restorefs {repo} {a} -o bogus || echo failed with $?\n\
         mount -o remount,ro -t restorefs {repo} {a} || echo failed with $?\n\
         mount -t restorefs {repo} {a} -o 'ro,context=\"system_u:object_r:samba_share_t:s0:c1,c2\",vm=web01'; ls {a}; umount {a}\n",
        helper = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("mount-helpers/mount.restorefs")
            .display(),
        repo = repo.display(),
        a = site.points[0].display(),
        b = site.points[1].display(),
    );
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .current_dir(dir)
        .env("RESTOREFS_PROGRAM", env!("CARGO_BIN_EXE_restorefs"))
        .env("RESTOREFS_RUNTIME_DIR", dir)
        .output()
        .unwrap();
    let (out, said) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(
        out,
        "web01\n65534:700\nweb01\n1\nfailed with 1\nfailed with 1\nweb01\n",
        "{said} {}",
        site.house.log()
    );
    assert!(said.contains("\"bogus\""), "{said}");
    service.stop();
}

#[test]
fn a_number_means_the_same_in_all_mounts() {
    if !can_mount() {
        return;
    }
    let site = Site::new(&["all", "one"]);
    let house = &site.house;
    house.configure("", "");
    // A copy of a VM, as rsync makes one behind the daemon's back: it has the numbers of its original, and content of its own.
    house.place.disk("b.raw", 4, 77);
    house
        .place
        .ok(&["backup", "zeta", "vda=b.raw", "--point", "p1"]);
    let service = site.start();
    let vms = house.place.repo().join("vms");
    let output = Command::new("cp")
        .arg("-a")
        .args([vms.join("zeta"), vms.join("alpha")])
        .status()
        .unwrap();
    assert!(output.success());
    site.mount(0, "ro,poll=1");
    site.mount(1, "ro,vm=alpha,poll=1");
    let ino = |at: usize, path: &str| std::fs::metadata(site.at(at, path)).unwrap().ino();
    eventually("the copy is seen", || {
        site.at(1, "alpha/p1").exists() && site.at(0, "alpha/p1").exists()
    });
    for path in ["alpha", "alpha/p1", "alpha/p1/disks/vda.raw"] {
        assert_eq!(ino(0, path), ino(1, path), "{path}");
        assert_ne!(
            ino(0, path),
            ino(0, &path.replacen("alpha", "zeta", 1)),
            "{path}"
        );
    }
    let bytes = std::fs::read(house.place.path("b.raw")).unwrap();
    for path in [site.at(0, "zeta"), site.at(1, "alpha"), site.at(0, "alpha")] {
        assert!(
            std::fs::read(path.join("p1/disks/vda.raw")).unwrap() == bytes,
            "{}",
            path.display()
        );
    }
    service.kill();
}

#[test]
fn another_mount_in_the_place_of_one_of_the_configuration_is_told() {
    if !can_mount() {
        return;
    }
    let site = Site::new(&["a"]);
    let house = &site.house;
    let at = text(&site.points[0]);
    house.configure("", &format!("[[repository.mount]]\nat = \"{at}\"\n"));
    let service = site.start();
    // A follower: nothing could be written there, and nobody would have been told.
    house.place.ok(&["mount", at]);
    let config = house.place.path("config.toml");
    let said = house.place.fails(1, &["mount", "--config", text(&config)]);
    assert!(said.contains("does not serve"), "{said}");
    house.place.ok(&["umount", at]);
    house.place.ok(&["mount", "--config", text(&config)]);
    house.place.ok(&["mount", "--config", text(&config)]);
    service.stop();
}
