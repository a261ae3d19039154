//! What an ordinary user can have mounted, and what root's commands make of it: his mounts are asked nothing, and taken away by nobody who
//! takes them for ours.

use std::process::{Command, Output};

use crate::helper::{Site, text};
use crate::kit::need::{can_mount, has};

/// Mounts through `fusermount3`, with the names of one of our mounts; then answers nothing (`silent`), or ends (`dead`).
const ATTACK: &str = r#"
import array, os, socket, subprocess, sys, time
how, repo, mnt = sys.argv[1:]
ours, theirs = socket.socketpair()
env = dict(os.environ, _FUSE_COMMFD=str(theirs.fileno()))
options = f"fsname={repo},subtype=restorefs,allow_other"
subprocess.run(["fusermount3", "-o", options, "--", mnt], pass_fds=[theirs.fileno()], env=env, check=True)
_, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4))
print("mounted", flush=True)
if how == "silent": time.sleep(600)
"#;

/// Runs a script as root in a namespace where users may let others into their mounts; `eve MODE PLACE` attacks as an ordinary user.
fn stage(site: &Site, script: &str) -> Output {
    let dir = site.house.place.dir.path();
    std::fs::write(dir.join("attack.py"), ATTACK).unwrap();
    std::fs::write(dir.join("fuse.conf"), "user_allow_other\n").unwrap();
    let script = format!(
        "set -ex
         mount --bind fuse.conf /etc/fuse.conf
         mkdir -p eve; chown 65534:65534 eve
         eve() {{
             rm -f said; touch said
             setpriv --reuid 65534 --regid 65534 --clear-groups mkdir -p \"$2\"
             setpriv --reuid 65534 --regid 65534 --clear-groups /usr/bin/python3 attack.py \"$1\" {repo} \"$2\" > said & PID=$!
             for n in $(seq 600); do grep -q mounted said && break; sleep 0.05; done
             grep -q mounted said
             if [ $1 = dead ]; then wait $PID; fi
         }}
         count() {{ grep -c \" $1 \" /proc/self/mountinfo || true; }}
         {script}",
        repo = site.house.place.repo().display(),
    );
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "bash",
            "-c",
            &script,
        ])
        .current_dir(dir)
        .env("RESTOREFS", env!("CARGO_BIN_EXE_restorefs"))
        .env("RESTOREFS_RUNTIME_DIR", dir)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{said} {}",
        String::from_utf8_lossy(&output.stdout)
    );
    output
}

fn site() -> Option<Site> {
    if !can_mount()
        || !["unshare", "setpriv", "fusermount3", "python3"]
            .iter()
            .all(|tool| has(tool))
    {
        return None;
    }
    let site = Site::new(&["a"]);
    let at = site.points[0].display();
    site.house.configure(
        "",
        &format!("[[repository.mount]]\nat = \"{at}\"\noptions = \"ro\"\n"),
    );
    Some(site)
}

fn config(site: &Site) -> String {
    text(&site.house.place.path("config.toml")).to_owned()
}

/// Root would unmount by path what calls itself ours, and the path leads where the user wants by then.
#[test]
fn a_dead_mount_of_a_user_is_left_alone_whatever_it_calls_itself() {
    let Some(site) = site() else { return };
    let script = format!(
        "eve dead $PWD/eve/dead
         [ $(count $PWD/eve/dead) = 1 ]
         timeout 60 \"$RESTOREFS\" umount --config {}
         [ $(count $PWD/eve/dead) = 1 ]
         # The same of root's own: it is taken away.
         mkdir mine; /usr/bin/python3 attack.py dead {} $PWD/mine > said
         [ $(count $PWD/mine) = 1 ]
         timeout 60 \"$RESTOREFS\" umount --config {}
         [ $(count $PWD/mine) = 0 ]
         umount -l eve/dead",
        config(&site),
        site.house.place.repo().display(),
        config(&site)
    );
    stage(&site, &script);
}

/// Nothing ends a wait for an answer of it, not even SIGKILL: the unit could neither stop nor start.
#[test]
fn a_silent_mount_of_a_user_is_asked_nothing() {
    let Some(site) = site() else { return };
    let at = site.points[0].display().to_string();
    let script = format!(
        "eve silent $PWD/eve/silent
         timeout 60 \"$RESTOREFS\" umount --config {config}
         [ $(count $PWD/eve/silent) = 1 ]
         # On the very mountpoint of the configuration, and on another one.
         umount -l eve/silent; chown 65534 {at}
         eve silent {at}
         timeout 60 \"$RESTOREFS\" umount --config {config}
         [ $(count {at}) = 1 ]
         for place in {at}; do
             if timeout 60 \"$RESTOREFS\" -r {repo} mount $place 2> said; then false; fi
             grep -q 'another user has mounted' said
         done
         timeout 60 \"$RESTOREFS\" check-config {config} 2> said || true
         umount -l {at}",
        config = config(&site),
        repo = site.house.place.repo().display(),
    );
    stage(&site, &script);
}

/// A mount of root below a directory that a user has covered with a mount of his own.
#[test]
fn a_path_through_a_users_mount_is_not_walked() {
    let Some(site) = site() else { return };
    let script = format!(
        "mkdir -p eve/d/mine; /usr/bin/python3 attack.py dead {repo} $PWD/eve/d/mine > said
         chown 65534 eve/d; eve silent $PWD/eve/d
         timeout 60 \"$RESTOREFS\" umount --config {config} 2> said
         grep -q 'below one of another user' said
         umount -l eve/d; umount -l eve/d/mine",
        repo = site.house.place.repo().display(),
        config = config(&site),
    );
    stage(&site, &script);
}

/// The directories of the package: `daemon` belongs to the daemon's user (1), and a member of the group (2) comes first.
#[test]
fn a_member_of_the_group_does_not_keep_the_daemon_from_starting() {
    let Some(site) = site() else { return };
    let script = "
         mount -t tmpfs -o mode=755 none /run
         unset RESTOREFS_RUNTIME_DIR
         install -d -m 755 /run/restorefs; install -d -m 755 -o 1 -g 1 /run/restorefs/daemon
         daemon() { setpriv --reuid 1 --regid 1 --clear-groups env XDG_RUNTIME_DIR=/run \"$@\"; }
         eve() { setpriv --reuid 2 --regid 2 --groups 1 /usr/bin/python3 squat.py \"$@\"; }
         chmod 755 .; cp \"$RESTOREFS\" restorefs; RESTOREFS=$PWD/restorefs
         install -d -o 1 -g 1 here; daemon \"$RESTOREFS\" --repo here/repo init
         serve() {
             setpriv --reuid 1 --regid 1 --clear-groups \"$RESTOREFS\" --repo here/repo serve --nbd here/s 2> log & PID=$!
             for n in $(seq 600); do ls /run/restorefs/daemon | grep -v nbd.sock && break; sleep 0.05; done
         }
         serve; name=$(ls /run/restorefs/daemon | grep -v nbd.sock); kill $PID; wait $PID
         [ -n \"$name\" ] && [ ! -e /run/restorefs/daemon/$name ]
         for place in /run/restorefs /run/restorefs/daemon; do
             if eve refuse $place/$name; then exit 1; fi
         done
         # Where he may write he does listen, accepts nobody, and holds nobody: neither the daemon nor its clients.
         install -d -m 1775 -g 1 /run/shared
         eve hold /run/shared/$name > said & for n in $(seq 600); do grep -q held said && break; sleep 0.05; done
         grep -q held said
         if daemon env RESTOREFS_RUNTIME_DIR=/run/shared timeout 60 \
             \"$RESTOREFS\" --repo here/repo serve --nbd here/s 2> refused; then exit 1; fi
         grep -q 'listen there in the daemon.s place' refused
         if daemon timeout 60 \"$RESTOREFS\" --repo here/repo serve --nbd /run/shared/$name 2> refused; then exit 1; fi
         grep -q 'another process listens on the socket already' refused
         serve; [ -S /run/restorefs/daemon/$name ]
         timeout 60 \"$RESTOREFS\" --repo here/repo begin web01 --session one vda=1M
         timeout 60 \"$RESTOREFS\" --repo here/repo sessions | grep one
         kill $PID; wait $PID";
    std::fs::write(site.house.place.path("squat.py"), SQUAT).unwrap();
    stage(&site, script);
}

/// Takes a socket's name; then fills the queue of those who wait, and lets it be (`hold`).
const SQUAT: &str = r#"
import os, socket, sys, time
how, path = sys.argv[1:]
taken = socket.socket(socket.AF_UNIX)
taken.bind(path)
os.chmod(path, 0o777)
taken.listen(0)
waiting = []
if how == "hold":
    while True:
        waiting.append(socket.socket(socket.AF_UNIX))
        waiting[-1].setblocking(False)
        try: waiting[-1].connect(path)
        except BlockingIOError: break
    print("held", flush=True)
    time.sleep(600)
"#;

/// A configuration with this mountpoint, written by the script.
fn configure(site: &Site, at: &str) -> String {
    let repo = site.house.place.repo();
    format!(
        "printf '[[repository]]\\npath = \"{}\"\\n[[repository.mount]]\\nat = \"%s\"\\noptions = \"ro\"\\n' {at} > eve.toml",
        repo.display()
    )
}

/// The mountpoint lies in a directory that the user covers: whoever follows the path waits for his answer.
#[test]
fn a_mountpoint_behind_a_users_mount_holds_up_nobody() {
    let Some(site) = site() else { return };
    let script = format!(
        "mkdir -p eve/d/mnt; chown 65534 eve/d
         {configure}
         timeout 60 \"$RESTOREFS\" check-config eve.toml
         eve silent $PWD/eve/d
         timeout 60 \"$RESTOREFS\" umount --config eve.toml
         timeout 60 \"$RESTOREFS\" check-config eve.toml 2> said && false
         grep -q 'in a mount of another user' said
         for command in mount umount; do
             timeout 60 \"$RESTOREFS\" -r {repo} $command eve/d/mnt 2> said && false
             grep -q 'in a mount of another user' said
         done
         umount -l eve/d",
        configure = configure(&site, "$PWD/eve/d/mnt"),
        repo = site.house.place.repo().display(),
    );
    stage(&site, &script);
}

/// A symlink in the place of a mountpoint leads to what root has mounted elsewhere.
#[test]
fn a_symlink_to_another_mount_does_not_have_that_unmounted() {
    let Some(site) = site() else { return };
    let script = format!(
        "mkdir other eve/up; /usr/bin/python3 attack.py dead {repo} $PWD/other > said
         ln -s $PWD/other eve/link; ln -s $PWD eve/up/link; chown 65534 eve/up
         for at in eve/link eve/up/link/other; do
             {configure}
             timeout 60 \"$RESTOREFS\" check-config eve.toml 2> said && false
             grep -q 'symlink that another user' said
             sed -i 's|path = .*|path = \"'$PWD'/elsewhere\"|' eve.toml
             timeout 60 \"$RESTOREFS\" umount --config eve.toml
             timeout 60 \"$RESTOREFS\" umount $at 2> said && false
             [ $(count $PWD/other) = 1 ]
         done
         umount -l other",
        configure = configure(&site, "$PWD/$at"),
        repo = site.house.place.repo().display(),
    );
    stage(&site, &script);
}
