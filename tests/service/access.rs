//! What the access table gives users of Unix sockets, at the control socket and over NBD, and what the audit log has of it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::house::{House, Service, nbd};
use crate::kit::need::{can_mount, has};
use crate::stranger::{MEMBER, control_name, hello};

/// Users and groups that no account has; all are in the group of the sockets.
const ALICE: u32 = 4001;
const BOB: u32 = 4002;
const OPERATORS: u32 = 5001;
const SOCKET_GROUP: u32 = 5000;

/// Requests of one user; `sys.argv[3]` is what is added to the requests below.
const REQUESTS: &str = "def begin(vm):\n\
    \x20 disk=dict(name='vda',source_bytes=131072,key=None,full=False)\n\
    \x20 return ask(command='begin',vm=vm,session='s',point=None,disks=[disk],full=False,differential=False,\n\
    \x20  parent=None,ttl_seconds=3600,resumable=True,compression='none')\n\
    def abort(vm): return ask(command='abort',session=dict(vm=vm,session='s'),failure=None)\n\
    def label(vm): return ask(command='label',vm=vm,point='one',change=dict(keep=True))\n\
    def task(kind,vm): return ask(command='begin-task',kind=kind,vm=vm,session=None,point=None)\n\
    def hold(vm): return ask(command='hold',vm=vm,point='one',holder='test')\n\
    def rebuild(): return ask(command='rebuild-catalog')\n\
    def sessions(): return ask(command='sessions')\n";

/// A daemon with points `web01@one` and `db01@one`, whose sockets let the group in.
struct Scene {
    house: House,
    service: Option<Service>,
}

impl Scene {
    /// With this access table; `None` where it cannot be tried.
    fn new(table: Option<&str>) -> Option<Self> {
        let needs = ["python3", "setpriv", "nbdinfo"];
        if !rustix::process::geteuid().is_root() || !needs.iter().all(|tool| has(tool)) {
            return None;
        }
        let house = House::new();
        house.place.disk("a.raw", 2, 3);
        for vm in ["web01", "db01"] {
            house
                .place
                .ok(&["backup", vm, "vda=a.raw", "--point", "one"]);
        }
        let mut scene = Self {
            house,
            service: None,
        };
        if let Some(table) = table {
            scene.put(table);
        }
        let audit = format!("audit = \"{}\"", scene.audit().display());
        scene.house.configure(&audit, &nbd(&scene.house, ""));
        scene.service = Some(scene.house.start());
        for socket in [scene.control(), scene.house.place.path("nbd.sock")] {
            chown(socket, None, Some(SOCKET_GROUP)).unwrap();
        }
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(scene.house.place.dir.path(), open).unwrap();
        Some(scene)
    }

    /// Replaces the default access table of the daemon.
    fn put(&self, table: &str) {
        let path = self.house.place.path("access.toml");
        let new = self.house.place.path("access.new");
        std::fs::write(&new, table).unwrap();
        std::fs::rename(&new, &path).unwrap();
    }

    fn audit(&self) -> PathBuf {
        self.house.place.path("audit.jsonl")
    }

    fn control(&self) -> PathBuf {
        self.house.place.path(&control_name(&self.house))
    }

    /// A command as a user with these supplementary groups.
    fn command(user: u32, groups: &[u32]) -> Command {
        let mut all = vec![SOCKET_GROUP.to_string()];
        all.extend(groups.iter().map(ToString::to_string));
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", &user.to_string(), "--regid", "65534"])
            .args(["--groups", &all.join(",")]);
        command
    }

    /// What a user's requests are answered, each with its kind of error, or `ok`.
    fn ask(&self, user: u32, groups: &[u32], requests: &[&str]) -> Vec<String> {
        let mut talk = self.talk(user, groups);
        requests.iter().map(|request| talk.ask(request)).collect()
    }

    /// A connection on which a user sends requests one by one.
    fn talk(&self, user: u32, groups: &[u32]) -> Talk {
        let script = format!(
            "{MEMBER}{REQUESTS}for line in sys.stdin:\n\x20 print(eval(line), flush=True)\n"
        );
        let mut child = Self::command(user, groups)
            .args(["/usr/bin/python3", "-c", &script])
            .arg(self.control())
            .arg(hello(&self.house))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Talk {
            requests: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// What `nbdinfo` says of an export to a user: its error, or nothing.
    fn nbd(&self, user: u32, groups: &[u32], export: &str) -> Result<String, String> {
        let socket = self.house.place.path("nbd.sock");
        let uri = format!("nbd+unix:///{export}?socket={}", socket.display());
        let flag = if export.is_empty() {
            "--list"
        } else {
            "--size"
        };
        let output = Self::command(user, groups)
            .args(["nbdinfo", flag, &uri])
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        match output.status.success() {
            true => Ok(text(output.stdout)),
            false => Err(text(output.stderr)),
        }
    }

    fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.audit()).unwrap();
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn stop(mut self) {
        self.service.take().unwrap().stop();
    }
}

struct Talk {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Talk {
    fn ask(&mut self, request: &str) -> String {
        writeln!(self.requests, "{request}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        match answer.split_once("\"kind\":\"") {
            Some((begin, rest)) if begin.contains("\"error\"") => {
                rest.split('"').next().unwrap().to_owned()
            }
            _ if answer.starts_with("{\"ok\"") => "ok".to_owned(),
            _ => answer,
        }
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Alice ingests on `web*`; the operators manage everything but rebuild nothing.
const TABLE: &str = "[[access]]\nuser = 4001\nvms = [\"web*\"]\nrights = [\"ingest\"]\n\
    [[access]]\ngroup = 5001\nvms = [\"*\"]\nrights = [\"read\", \"manage\"]\n";

const ALL: [&str; 8] = [
    "begin('web01')",
    "abort('web01')",
    "begin('db01')",
    "hold('web01')",
    "task('restore','web01')",
    "task('verify','web01')",
    "label('web01')",
    "rebuild()",
];

#[test]
fn without_a_table_members_of_the_group_read_restore_and_ingest() {
    let Some(scene) = Scene::new(None) else {
        return;
    };
    let answers = scene.ask(ALICE, &[], &ALL);
    let denied = "permission-denied";
    assert_eq!(
        answers,
        ["ok", "ok", "ok", "ok", "ok", "ok", denied, denied]
    );
    assert!(scene.nbd(ALICE, &[], "web01/one/vda").is_ok());
    assert!(scene.nbd(ALICE, &[], "db01/s/vda").is_ok(), "the session");
    scene.stop();
}

#[test]
fn with_an_entry_for_a_user_the_table_alone_decides() {
    let Some(scene) = Scene::new(Some(TABLE)) else {
        return;
    };
    let (denied, absent) = ("permission-denied", "not-found");
    // Who does not read a VM is not told that it is there.
    assert_eq!(
        scene.ask(ALICE, &[], &ALL),
        ["ok", "ok", absent, absent, absent, absent, absent, denied]
    );
    assert_eq!(
        scene.ask(BOB, &[], &ALL),
        [
            absent, absent, absent, absent, absent, absent, absent, denied
        ]
    );
    assert_eq!(
        scene.ask(BOB, &[OPERATORS], &ALL),
        [denied, denied, denied, "ok", denied, "ok", "ok", denied]
    );
    assert_eq!(scene.ask(0, &[], &ALL), ["ok"; 8]);
    scene.stop();
}

#[test]
fn over_nbd_a_user_sees_and_opens_what_the_table_gives() {
    let Some(scene) = Scene::new(Some(TABLE)) else {
        return;
    };
    for vm in ["web01", "db01"] {
        scene
            .house
            .place
            .ok(&["begin", vm, "--session", "s", "vda=1M"]);
    }
    let open = |user, groups: &[u32], export| scene.nbd(user, groups, export).is_ok();
    // Ingest is for the session's disk, read for points; neither implies the other.
    assert!(open(ALICE, &[], "web01/s/vda"));
    assert!(!open(ALICE, &[], "web01/one/vda"));
    assert!(!open(ALICE, &[], "db01/s/vda"));
    assert!(open(BOB, &[OPERATORS], "db01/one/vda"));
    assert!(!open(BOB, &[OPERATORS], "db01/s/vda"));
    assert!(!open(BOB, &[], "web01/one/vda"));
    assert!(open(0, &[], "db01/s/vda"));
    let list = scene.nbd(ALICE, &[], "").unwrap();
    assert!(list.contains("web01/s/vda"), "{list}");
    assert!(
        !list.contains("db01") && !list.contains("one/vda"),
        "{list}"
    );
    let list = scene.nbd(BOB, &[OPERATORS], "").unwrap();
    assert!(
        list.contains("db01/one/vda") && !list.contains("/s/vda"),
        "{list}"
    );
    // What is not allowed looks as what is not there.
    let refused = |export: &str| {
        let said = scene.nbd(ALICE, &[], export).unwrap_err();
        said.replace(export, "X")
    };
    assert_eq!(refused("db01/one/vda"), refused("db99/one/vda"));
    scene.stop();
}

/// A right that is taken away ends at the next request of a connection that is there, without a signal.
#[test]
fn a_table_that_changes_counts_at_the_next_request() {
    let Some(scene) = Scene::new(None) else {
        return;
    };
    let mut alice = scene.talk(ALICE, &[]);
    assert_eq!(alice.ask("begin('web01')"), "ok");
    // The default file appears while the daemon runs.
    scene.put(TABLE);
    assert_eq!(alice.ask("hold('web01')"), "not-found");
    assert_eq!(alice.ask("abort('web01')"), "ok");
    assert_eq!(alice.ask("begin('db01')"), "not-found");
    scene.put(&TABLE.replace("4001", "4003"));
    assert_eq!(alice.ask("begin('web01')"), "not-found");
    assert!(scene.nbd(ALICE, &[], "web01/one/vda").is_err());
    // A mistake changes nothing, and is in the log once.
    scene.put("[[access]\nuser = 4001\n");
    for _ in 0..3 {
        assert_eq!(alice.ask("begin('web01')"), "not-found");
    }
    let log = scene.house.log();
    assert_eq!(log.matches("has a mistake in it").count(), 1, "{log}");
    scene.put(&TABLE.replace("\"ingest\"", "\"ingest\", \"admin\""));
    // Admin on some VMs has no effect.
    assert_eq!(alice.ask("rebuild()"), "permission-denied");
    scene.put(&TABLE.replace("[\"web*\"]\nrights = [", "[\"*\"]\nrights = [\"admin\", "));
    assert_eq!(alice.ask("rebuild()"), "ok");
    scene.stop();
}

#[test]
fn an_entry_for_another_repository_is_not_for_this_one() {
    let table = format!("{TABLE}repositories = [\"offsite\"]\n");
    let Some(scene) = Scene::new(Some(&table)) else {
        return;
    };
    let ask = |scene: &Scene| scene.ask(BOB, &[OPERATORS], &["hold('web01')"]);
    assert_eq!(ask(&scene), ["not-found"]);
    // A repository without a name is "default".
    scene.put(&table.replace("offsite", "default"));
    assert_eq!(ask(&scene), ["ok"]);
    scene.stop();
}

#[test]
fn the_audit_log_has_who_did_what_and_who_was_refused() {
    let Some(scene) = Scene::new(Some(TABLE)) else {
        return;
    };
    scene.ask(ALICE, &[], &["begin('web01')", "begin('db01')"]);
    scene.nbd(ALICE, &[], "web01/s/vda").unwrap();
    scene.nbd(ALICE, &[], "db01/one/vda").unwrap_err();
    scene.nbd(BOB, &[OPERATORS], "db01/one/vda").unwrap();
    let lines = scene.lines();
    let find = |operation: &str, vm: &str, outcome: &str| {
        let is_it = |line: &&Value| {
            line["operation"] == operation && line["vm"] == vm && line["outcome"] == outcome
        };
        let found = lines.iter().find(is_it);
        found.unwrap_or_else(|| panic!("{operation} {vm} {outcome}: {lines:#?}"))
    };
    let begun = find("begin", "web01", "ok");
    assert_eq!(begun["caller"], "user 4001");
    assert_eq!(begun["door"], "control");
    assert_eq!(begun["subject"], "s");
    assert_eq!(begun["repository"], "default");
    assert!(begun["peer"].as_str().unwrap().starts_with("pid "));
    assert_eq!(find("begin", "db01", "not-found")["caller"], "user 4001");
    assert_eq!(find("write-disk", "web01", "ok")["door"], "nbd");
    assert_eq!(find("open-disk", "db01", "not-found")["subject"], "one/vda");
    assert_eq!(find("read-disk", "db01", "ok")["caller"], "user 4002");
    // The log of the daemon has the same.
    let log = scene.house.log();
    assert!(
        log.contains("audit: write-disk") && log.contains("user 4001"),
        "{log}"
    );
    // logrotate renames the file.
    let old = scene.house.place.path("audit.1");
    std::fs::rename(scene.audit(), old).unwrap();
    scene.ask(ALICE, &[], &["abort('web01')"]);
    let lines = scene.lines();
    assert_eq!((lines.len(), &lines[0]["operation"]), (1, &"abort".into()));
    scene.stop();
}

/// The token of a session is in the name of its export: it reaches neither the audit log nor the daemon's log.
#[test]
fn no_token_of_a_session_is_noted() {
    if !has("nbdinfo") {
        return;
    }
    let house = House::new();
    house.place.disk("a.raw", 2, 3);
    house
        .place
        .ok(&["backup", "web01", "vda=a.raw", "--point", "one"]);
    let audit = house.place.path("audit.jsonl");
    let tcp = nbd(&house, "listen = \"127.0.0.1:0\"\nplain = true\n");
    house.configure(&format!("audit = \"{}\"", audit.display()), &tcp);
    let service = house.start();
    let begun = house.place.json(&["begin", "web01", "--session", "s"]);
    let uri = begun["disk_results"][0]["tcp_uri"].as_str().unwrap();
    let token = uri.split_once('~').unwrap().1.split('/').next().unwrap();
    let is_opened = |uri: &str| {
        let output = Command::new("nbdinfo").args(["--size", uri]).output();
        output.unwrap().status.success()
    };
    assert!(is_opened(uri));
    for wrong in [uri.replace("/vda", "/vdb"), uri.replace("web01", "web02")] {
        assert!(!is_opened(&wrong), "{wrong}");
    }
    let text = std::fs::read_to_string(&audit).unwrap();
    assert_eq!(text.matches("s~.../vd").count(), 3, "{text}");
    assert!(text.contains("\"peer\":\"127.0.0.1:"), "{text}");
    assert!(
        !text.contains(token) && !house.log().contains(token),
        "{text}"
    );
    service.stop();
}

#[test]
fn what_a_mount_writes_is_noted() {
    if !can_mount() {
        return;
    }
    let house = House::new();
    house.place.disk("a.raw", 2, 3);
    house
        .place
        .ok(&["backup", "web01", "vda=a.raw", "--point", "one"]);
    let (at, audit) = (house.place.path("mnt"), house.place.path("audit.jsonl"));
    std::fs::create_dir(&at).unwrap();
    let mount = format!(
        "[[repository.mount]]\nat = \"{}\"\noptions = \"allow_forget\"\n",
        at.display()
    );
    house.configure(&format!("audit = \"{}\"", audit.display()), &mount);
    let service = house.start();
    let vm = at.join("web01");
    std::fs::create_dir(vm.join("s.partial")).unwrap();
    // A session without its disk is refused, which is noted, too.
    std::fs::rename(vm.join("s.partial"), vm.join("two")).unwrap_err();
    std::fs::write(vm.join("s.partial/disks/vda.raw"), [7; 131_072]).unwrap();
    std::fs::rename(vm.join("s.partial"), vm.join("two")).unwrap();
    std::fs::create_dir(vm.join("t.partial")).unwrap();
    std::fs::remove_dir(vm.join("t.partial")).unwrap();
    std::fs::remove_dir(vm.join("one")).unwrap();
    let text = std::fs::read_to_string(&audit).unwrap();
    let seen: Vec<(String, String)> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .inspect(|line| {
            assert_eq!(
                (&line["door"], &line["caller"]),
                (&"tree".into(), &"a mount".into())
            );
            assert_eq!(line["peer"], at.to_str().unwrap());
        })
        .map(|line| {
            (
                line["operation"].as_str().unwrap().to_owned(),
                line["subject"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    let expected = [
        ("begin", "s"),
        ("commit", "s"),
        ("commit", "s as two"),
        ("begin", "t"),
        ("abort", "t"),
        ("forget", "one"),
    ];
    let expected = expected.map(|(one, two)| (one.to_owned(), two.to_owned()));
    assert_eq!(seen, expected);
    service.stop();
}

/// An audit log that cannot be written stops nothing, and is complained of.
#[test]
fn a_full_audit_log_stops_nothing() {
    let Some(scene) = Scene::new(None) else {
        return;
    };
    std::fs::remove_file(scene.audit()).unwrap();
    std::fs::create_dir(scene.audit()).unwrap();
    assert_eq!(scene.ask(ALICE, &[], &["begin('web01')"]), ["ok"]);
    scene
        .house
        .wait_for_log("the audit log could not be written");
    std::fs::remove_dir(scene.audit()).unwrap();
    assert_eq!(scene.ask(ALICE, &[], &["abort('web01')"]), ["ok"]);
    assert_eq!(scene.lines()[0]["operation"], "abort");
    scene.stop();
}

/// What a configuration names is looked at before the daemon starts.
#[test]
fn a_table_or_an_audit_log_that_cannot_be_used_is_told_before() {
    let house = House::new();
    let (table, audit) = (house.place.path("table.toml"), house.place.path("no/where"));
    let config = house.configure(&format!("access = \"{}\"", table.display()), "");
    let config = config.to_str().unwrap();
    let refused = |what: &str| {
        for args in [["check-config", config], ["serve", "--config"]] {
            let mut all = args.to_vec();
            if args[0] == "serve" {
                all.push(config);
            }
            let output = house.place.run(&all);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                !output.status.success() && said.contains(what),
                "{all:?}: {said}"
            );
        }
    };
    refused("the access table is not there");
    std::fs::write(
        &table,
        "\n[[access]]\nuser = 1\nvms = []\nrights = [\"read\"]\n",
    )
    .unwrap();
    refused("line 2: \"1\": vms has no pattern");
    std::fs::write(&table, "").unwrap();
    house.place.ok(&["check-config", config]);
    // The default file counts as well, where none is named.
    house.configure(&format!("audit = \"{}\"", audit.display()), "");
    let said = house.place.fails(2, &["check-config", config]);
    assert!(
        said.contains("the directory of the audit log is not there"),
        "{said}"
    );
    house.configure("", "");
    std::fs::write(house.place.path("access.toml"), "[[acess]]\n").unwrap();
    refused("acess");
}
