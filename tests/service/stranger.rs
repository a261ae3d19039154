//! Members of the socket's group, and others who have no rights in the repository: what they cannot do to its daemon, or in its place.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use restorefs::control::Client;
use restorefs::repo::Repository;
use restorefs::service::Service;
use restorefs::task::TaskState;

use crate::helper::{Site, names, text};
use crate::house::House;
use crate::kit::need::{can_mount, has};
use crate::kit::wait::eventually;

/// The file of a repository's control socket: its id, and device and inode of its lock.
pub(crate) fn control_name(house: &House) -> String {
    let id = std::fs::read_to_string(house.place.repo().join("restorefs.json")).unwrap();
    let id: serde_json::Value = serde_json::from_str(&id).unwrap();
    let lock = std::fs::metadata(house.place.repo().join("lock")).unwrap();
    let id = id["repository_id"].as_str().unwrap();
    format!("{id}.{:x}-{}.sock", lock.dev(), lock.ino())
}

/// What is said first on a connection to the daemon of a repository, as a line.
pub(crate) fn hello(house: &House) -> String {
    let identity = |path: PathBuf| {
        let meta = std::fs::metadata(path).unwrap();
        serde_json::json!({"device": meta.dev(), "inode": meta.ino()})
    };
    let (directory, lock) = (house.place.repo(), house.place.repo().join("lock"));
    let site = serde_json::json!({"directory": identity(directory), "lock": identity(lock)});
    serde_json::json!({"command": "hello", "protocol": 4, "release": "test", "site": site})
        .to_string()
        + "\n"
}

/// What every script of a member begins with: it connects, says hello, and `ask` sends a request and answers the beginning of the reply.
pub(crate) const MEMBER: &str = "import socket,sys,json\n\
    s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); f=s.makefile()\n\
    s.sendall(sys.argv[2].encode()); f.readline()\n\
    def ask(content=b'',**line):\n\
    \x20 s.sendall(json.dumps(line).encode()+b'\\n'+content); return f.readline().strip()[:200]\n";

/// A script of Python's that is run on the socket as a user of the group 65534; its second argument is what is said first.
fn script(house: &House, socket: &Path, user: &str, text: &str) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", user, "--regid", "65534", "--clear-groups"])
        .args(["/usr/bin/python3", "-c", text])
        .arg(socket)
        .arg(hello(house));
    command
}

/// What such a script says.
fn ask(house: &House, socket: &Path, user: &str, text: &str) -> String {
    let output = script(house, socket, user, text).output().unwrap();
    String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr)
}

/// A daemon whose socket lets in the group 65534.
fn open_to_group(house: &House) -> PathBuf {
    let socket = house.place.path(&control_name(house));
    std::os::unix::fs::chown(&socket, None, Some(65534)).unwrap();
    socket
}

#[test]
fn who_may_only_ingest_cannot_hand_over_a_mount() {
    if !can_mount() || !has("python3") {
        return;
    }
    let site = Site::new(&["a"]);
    let house = &site.house;
    house.configure("", "");
    let service = site.start();
    let socket = open_to_group(house);
    let script = "import socket,sys,array,os\n\
        s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); f=s.makefile()\n\
        s.sendall(sys.argv[2].encode()); f.readline()\n\
        fd=os.open('/dev/null',os.O_RDONLY)\n\
        line=b'{\"command\":\"mount\",\"mountpoint\":\"/x\",\"options\":\"allow_forget\",\"uid\":0,\"gid\":0}\\n'\n\
        s.sendmsg([line],[(socket.SOL_SOCKET,socket.SCM_RIGHTS,array.array('i',[fd]))])\n\
        print(f.readline())\n";
    let ask = |user| ask(house, &socket, user, script);
    let said = ask("65534");
    assert!(said.contains("permission-denied"), "{said}");
    // Root may, and then the descriptor is looked at.
    assert!(ask("0").contains("not of /dev/fuse"));
    service.stop();
}

/// Members read and ingest; what has all commits wait is for those whose repository it is.
#[test]
fn who_may_only_ingest_does_no_maintenance() {
    if !can_mount() || !has("python3") {
        return;
    }
    let site = Site::new(&["a"]);
    let house = &site.house;
    house.configure("", "");
    let service = site.start();
    let socket = open_to_group(house);
    let script = "import socket,sys\n\
        s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); f=s.makefile()\n\
        s.sendall(sys.argv[2].encode()); f.readline()\n\
        for command in ['rebuild-catalog','status','sessions']:\n\
        \x20 s.sendall(b'{\"command\":\"%s\"}\\n' % command.encode()); print(command, f.readline().strip()[:80])\n";
    let said = ask(house, &socket, "65534", script);
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].contains("permission-denied"), "{said}");
    assert!(
        lines[1].contains("\"ok\"") && lines[2].contains("\"ok\""),
        "{said}"
    );
    let said = ask(house, &socket, "0", script);
    assert!(said.starts_with("rebuild-catalog {\"ok\""), "{said}");
    service.stop();
}

/// A policy has a command that the daemon's user runs, and decides what is forgotten: members change none.
#[test]
fn who_may_only_ingest_changes_no_policy() {
    if !can_mount() || !has("python3") {
        return;
    }
    let site = Site::new(&["a"]);
    let house = &site.house;
    house.configure("", "");
    let service = site.start();
    let socket = open_to_group(house);
    let script = format!(
        "{MEMBER}\
         policy=dict(schema=1,name='evil',vms=['*'],created_at='2026-01-01T00:00:00Z',schedule='hourly',command=['id'])\n\
         run=dict(policy='evil',vm='web01',action='backup',attempted_at='2026-01-01T00:00:00Z')\n\
         for change in [dict(change='put',policy=policy,is_new=True),dict(change='remove',name='evil'),\
           dict(change='assign',vm='web01',policy=None),dict(change='runner',runner=None),dict(change='note',runs=[run])]:\n\
         \x20 print(ask(command='change-policy',policy=change))\n"
    );
    let said = ask(house, &socket, "65534", &script);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 5, "{said}");
    assert!(
        lines.iter().all(|line| line.contains("permission-denied")),
        "{said}"
    );
    assert!(!house.place.repo().join("policies/evil.json").exists());
    let said = ask(house, &socket, "0", &script);
    assert!(said.lines().next().unwrap().contains("\"ok\""), "{said}");
    service.stop();
}

/// Members announce what they may do, and no more; what they announce ends with the connection.
#[test]
fn who_may_only_ingest_announces_no_merges() {
    if !can_mount() || !has("python3") {
        return;
    }
    let site = Site::new(&["a"]);
    let house = &site.house;
    house.configure("", "");
    let service = site.start();
    let socket = open_to_group(house);
    let script = format!(
        "{MEMBER}\
         for kind in ['merge','restore','forget']:\n\
         \x20 print(kind, ask(command='begin-task',kind=kind,vm='web01',session=None,point=None))\n\
         for n in range(64): last=ask(command='begin-task',kind='verify',vm=None,session=None,point=None)\n\
         print(last)\n"
    );
    let said = ask(house, &socket, "65534", &script);
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].contains("permission-denied"), "{said}");
    assert!(lines[1].contains("\"ok\""), "{said}");
    assert!(lines[2].contains("invalid-input"), "{said}");
    assert!(lines[3].contains("limit-exceeded"), "{said}");
    let client = Client::connect(&Repository::open(&house.place.repo()).unwrap())
        .unwrap()
        .unwrap();
    eventually("they have ended", || {
        let tasks = client.tasks().unwrap();
        tasks.len() == 64 && tasks.iter().all(|task| task.state == TaskState::Failed)
    });
    service.stop();
}

/// Sessions cost who begins them nothing, and the daemon two files for each disk.
#[test]
fn a_member_cannot_use_up_the_files_that_may_be_open() {
    if !can_mount() || !has("python3") || !has("prlimit") {
        return;
    }
    let site = Site::new(&["a"]);
    let house = &site.house;
    house.configure("", "");
    let service = site.start();
    let socket = open_to_group(house);
    let pid = service.pid().to_string();
    let limited = Command::new("prlimit")
        .args(["--pid", &pid, "--nofile=400:400"])
        .status();
    assert!(limited.unwrap().success());
    let script = "for n in range(8):\n\
        \x20 disks=[dict(name='d%d'%k,source_bytes=512,key=None,full=False) for k in range(40)]\n\
        \x20 s.sendall(json.dumps(dict(command='begin',vm='many%d'%n,session='s',point=None,disks=disks,full=False,differential=False,\n\
        \x20  parent=None,ttl_seconds=3600,resumable=True,compression='none')).encode()+b'\\n')\n\
        \x20 print(n, f.readline()[:200])\n";
    let said = ask(house, &socket, "65534", &format!("{MEMBER}{script}"));
    assert!(
        said.contains("2 {\"ok\"") && said.contains("7 {\"error\":{\"kind\":\"limit-exceeded\""),
        "{said}"
    );
    // Whoever may do so can end them.
    house.place.ok(&["abort", "many0/s"]);
    house.place.ok(&["begin", "other01", "vda=1M"]);
    service.stop();
}

/// What is kept of what a member says is read whole whenever the VM is, by everybody.
#[test]
fn what_a_member_says_is_bounded() {
    if !can_mount() || !has("python3") {
        return;
    }
    let site = Site::new(&["a"]);
    let house = &site.house;
    house.configure("", "");
    let service = site.start();
    let socket = open_to_group(house);
    let script = "def begin(key):\n\
        \x20 disk=dict(name='vda',source_bytes=512,key=key,full=False)\n\
        \x20 return ask(command='begin',vm='fresh01',session='s',point=None,disks=[disk],full=False,differential=False,\n\
        \x20  parent=None,ttl_seconds=3600,resumable=True,compression='none')\n\
        def attach(name):\n\
        \x20 return ask(b'x',command='attach',session=dict(vm='fresh01',session='s'),name=name,length_bytes=1)\n\
        print('long', begin('k'*256)); print('red', begin('\\x1b[31m')); print('good', begin('k'*255))\n\
        print('id', ask(command='commit',session=dict(vm='fresh01',session='s'),request=dict(change_ids={'vda':'z'*65537})))\n\
        for n in range(1000): last=attach('f%d'%n)\n\
        print('last', last); print('again', attach('f7')); print('more', attach('more'))\n\
        print('large', ask(command='attach',session=dict(vm='fresh01',session='s'),name='f7',length_bytes=(16<<20)+1))\n";
    let said = ask(house, &socket, "65534", &format!("{MEMBER}{script}"));
    for (what, answer) in [
        ("long", "invalid-input"),
        ("red", "invalid-input"),
        ("good", "\"ok\""),
        ("id", "limit-exceeded"),
        ("last", "\"ok\""),
        ("again", "\"ok\""),
        ("more", "limit-exceeded"),
        ("large", "too-large"),
    ] {
        let line = said.lines().find(|line| line.starts_with(what));
        assert!(
            line.is_some_and(|line| line.contains(answer)),
            "{what}: {said}"
        );
    }
    service.stop();
}

/// No request names a file to open; what is a name in a request leads to no other place.
#[test]
fn names_that_a_member_says_lead_out_of_nothing() {
    if !can_mount() || !has("python3") {
        return;
    }
    let site = Site::new(&["a"]);
    let house = &site.house;
    house.configure("", "");
    let service = site.start();
    let socket = open_to_group(house);
    let script = "def begin(vm='fresh01',session='s',disk='vda',point=None,parent=None):\n\
        \x20 one=dict(name=disk,source_bytes=512,key=None,full=False)\n\
        \x20 return ask(command='begin',vm=vm,session=session,point=point,disks=[one],full=False,differential=False,\n\
        \x20  parent=parent,ttl_seconds=3600,resumable=True,compression='none')\n\
        print('begun', begin())\n\
        for bad in ['../x','..','.','','/etc/x','a/b','a/../b','x\\0y','x'*300,'.tmp-1']:\n\
        \x20 for what in ['vm','session','disk','point']: print('bad', what, ascii(bad), begin(**{'vm':'fresh02',what:bad}))\n\
        \x20 s1=dict(vm='fresh01',session='s')\n\
        \x20 print('bad', 'attach', ascii(bad), ask(b'x',command='attach',session=s1,name=bad,length_bytes=1))\n\
        \x20 print('bad', 'failed', ascii(bad), ask(command='note-failure',vm=bad,reason='x'))\n\
        \x20 print('bad', 'abort', ascii(bad), ask(command='abort',session=dict(vm='fresh01',session=bad)))\n\
        \x20 print('bad', 'commit', ascii(bad), ask(command='commit',session=s1,request=dict(point=bad,unchanged=['vda'])))\n";
    let said = ask(house, &socket, "65534", &format!("{MEMBER}{script}"));
    assert!(said.starts_with("begun {\"ok\""), "{said}");
    let bad: Vec<_> = said
        .lines()
        .filter(|line| line.starts_with("bad"))
        .collect();
    assert_eq!(bad.len(), 80, "{said}");
    for line in bad {
        assert!(line.contains("{\"error\""), "{line}");
    }
    let vms = names(&house.place.repo().join("vms"));
    assert_eq!(vms, ["db01", "fresh01", "web01", "web02"]);
    service.stop();
}

#[test]
fn descriptors_of_who_may_hand_over_nothing_are_left_to_the_kernel() {
    if !can_mount() || !has("python3") {
        return;
    }
    let site = Site::new(&[]);
    let house = &site.house;
    house.configure("", "");
    let service = site.start();
    let socket = open_to_group(house);
    // More at once than anybody may send: whoever's are received is cut off.
    let script = "import socket,sys,array,os\n\
        s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); f=s.makefile()\n\
        s.sendall(sys.argv[2].encode()); f.readline()\n\
        fd=os.open('/dev/null',os.O_RDONLY)\n\
        s.sendmsg([b'{\"command\":\"status\"}\\n'],[(socket.SOL_SOCKET,socket.SCM_RIGHTS,array.array('i',[fd]*30))])\n\
        print(f.readline())\n";
    let ask = |user| ask(house, &socket, user, script);
    let said = ask("65534");
    assert!(said.contains("\"version\""), "{said}");
    let said = ask("0");
    assert!(!said.contains("\"version\""), "{said}");
    service.stop();
}

#[test]
fn who_listens_in_the_daemons_place_is_given_nothing() {
    if !can_mount() || !has("python3") {
        return;
    }
    let site = Site::new(&["a"]);
    let house = &site.house;
    // Somebody writes the repository, so that there may be a daemon.
    let lock = std::fs::File::create(house.place.repo().join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let socket = house.place.path(&control_name(house));
    let heard = house.place.path("heard");
    // Members of the group may make files in the service's directory.
    let script = "import socket,sys,os\n\
        s=socket.socket(socket.AF_UNIX); s.bind(sys.argv[1])\n\
        heard=open(sys.argv[2]+'.part','wb',0); os.setresgid(65534,65534,65534); os.setresuid(65534,65534,65534)\n\
        s.listen(9)\n\
        print('listening',flush=True)\n\
        while True:\n \
        c,_=s.accept(); heard.write(c.recv(9999)); c.close()\n";
    let mut other = Command::new("/usr/bin/python3")
        .args(["-c", script])
        .args([&socket, &heard])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(other.stdout.take().unwrap()),
        &mut line,
    )
    .unwrap();
    let point = house.place.path("a");
    let (repo, at) = (house.place.repo(), text(&point).to_owned());
    let mounted = house
        .place
        .run(&["mount.restorefs", text(&repo), &at, "-o", "ro"]);
    let listed = house.place.run(&["sessions"]);
    other.kill().unwrap();
    other.wait().unwrap();
    let heard = std::fs::read(house.place.path("heard.part")).unwrap();
    assert_eq!(String::from_utf8_lossy(&heard), "");
    for output in [mounted, listed] {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("passed over"), "{said}");
    }
    // A follower of its own serves it.
    assert_eq!(names(&point), ["db01", "web01", "web02"]);
}

#[test]
fn a_command_of_another_release_is_told_so() {
    if !has("python3") || !has("setpriv") || !can_mount() {
        return;
    }
    let house = &House::new();
    house.configure("", "");
    let service = house.start();
    let socket = open_to_group(house);
    let text = "import socket,sys,json\n\
        def say(*lines):\n\
        \x20 s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); f=s.makefile()\n\
        \x20 for line in lines: s.sendall(line.encode()+b'\\n'); last=f.readline()\n\
        \x20 print(last.strip())\n\
        hello=sys.argv[2].strip(); sessions='{\"command\":\"sessions\"}'\n\
        say(sessions)\n\
        say(json.dumps(dict(json.loads(hello),protocol=7,release='9.9')), sessions)\n\
        other=json.loads(hello); other['site']['lock']['inode']+=1\n\
        say(json.dumps(other), sessions)\n\
        say('{\"command\":\"later\"}')\n\
        say(hello, sessions)\n";
    let said = ask(house, &socket, "0", text);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 5, "{said}");
    for line in &lines[..4] {
        assert!(
            line.contains("\"unsupported\"") && line.contains("different releases"),
            "{line}"
        );
    }
    assert_eq!(lines[4], "{\"ok\":[]}");
    service.stop();
}

#[test]
fn who_is_turned_away_is_told_why() {
    let house = House::new();
    house.configure("", "");
    let service = house.start();
    let socket = house.place.path(&control_name(&house));
    let many: Vec<UnixStream> = (0..256)
        .map(|_| UnixStream::connect(&socket).unwrap())
        .collect();
    let said = house.place.fails(1, &["begin", "web01", "vda=1M"]);
    assert!(said.contains("256 commands"), "{said}");
    drop(many);
    eventually("a place is free", || {
        house
            .place
            .run(&["begin", "web01", "vda=1M"])
            .status
            .success()
    });
    service.stop();
}

#[test]
fn a_member_of_the_group_keeps_nobody_else_from_being_answered() {
    // Only root can be somebody else.
    if !can_mount() || !has("setpriv") || !has("python3") {
        return;
    }
    let house = House::new();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(house.place.dir.path(), open).unwrap();
    house.configure("", "");
    let service = house.start();
    let socket = open_to_group(&house);
    let text = "import socket,sys\n\
        all=[socket.socket(socket.AF_UNIX) for _ in range(64)]\n\
        [s.connect(sys.argv[1]) for s in all]\n\
        more=socket.socket(socket.AF_UNIX); more.connect(sys.argv[1])\n\
        print(more.makefile().readline(), flush=True); sys.stdin.read()\n";
    let mut member = script(&house, &socket, "65534", text)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut out = BufReader::new(member.stdout.take().unwrap());
    out.read_line(&mut said).unwrap();
    assert!(said.contains("256 commands"), "{said}");
    house.place.ok(&["begin", "web01", "vda=1M"]);
    member.kill().unwrap();
    member.wait().unwrap();
    service.stop();
}
