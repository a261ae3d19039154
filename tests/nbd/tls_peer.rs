//! Other clients and servers over TLS, and ours with them.

use restorefs::error::ErrorKind;

use crate::client::check_writes;
use crate::kit::certificate::{Authority, can_certify};
use crate::kit::need::has;
use crate::kit::place::Place;
use crate::tls::{Secure, refused};
use crate::tool::{self, attempt, run};

#[test]
fn other_clients_read_and_write_over_tls() {
    if !can_certify() {
        return;
    }
    let secure = Secure::new();
    let uri = secure.uri("web01/latest/vda");
    let (first, copy) = (secure.place.path("a.raw"), secure.place.path("c.raw"));
    let (first, copy) = (first.to_str().unwrap(), copy.to_str().unwrap());
    if has("nbdinfo") && has("nbdcopy") {
        let text = run("nbdinfo", &["--list", &secure.uri("")]);
        assert!(text.contains("export=\"web01/p1/vda\""), "{text}");
        assert!(text.contains("newstyle-fixed with TLS"), "{text}");
        let map = run("nbdinfo", &["--map=qemu:allocation-depth", &uri]);
        assert!(map.lines().count() > 3, "{map}");
        run("nbdcopy", &[&uri, copy]);
        assert!(std::fs::read(copy).unwrap() == secure.bytes);
        let second = secure.place.disk("b.raw", 20, 4);
        let begun = secure.place.json(&["begin", "web01", "--session", "s"]);
        let target = secure.with_agent(&begun["disk_results"][0]["tcp_uri"]);
        let source = secure.place.path("b.raw");
        run("nbdcopy", &[source.to_str().unwrap(), &target]);
        secure.place.ok(&["commit", "web01/s", "--point", "p2"]);
        run("nbdcopy", &[&uri, copy]);
        assert!(std::fs::read(copy).unwrap() == second);
    }
    if has("nbddump") {
        let text = run("nbddump", &["-n", "512", &uri]);
        assert!(text.starts_with("0000000000"), "{text}");
    }
    if has("qemu-img") && has("qemu-io") {
        let tls = format!(
            "tls-creds-x509,id=t,endpoint=client,dir={}",
            secure.agent.display()
        );
        let options = |export: &str| {
            format!(
                "driver=nbd,server.type=inet,server.host=localhost,server.port={},export={export},tls-creds=t",
                secure.address.port()
            )
        };
        let point = options("web01/p1/vda");
        run(
            "qemu-img",
            &[
                "compare",
                "--object",
                &tls,
                "--image-opts",
                &point,
                &format!("driver=raw,file.filename={first}"),
            ],
        );
        let begun = secure.place.json(&["begin", "web01", "--session", "q"]);
        let tcp = begun["disk_results"][0]["tcp_uri"].as_str().unwrap();
        let export = tcp.splitn(4, '/').nth(3).unwrap();
        run(
            "qemu-io",
            &[
                "--object",
                &tls,
                "--image-opts",
                &options(export),
                "-c",
                "write -P 0x21 0 1M",
                "-c",
                "flush",
                "-c",
                "read -P 0x21 0 1M",
            ],
        );
        secure.place.ok(&["commit", "web01/q", "--point", "p3"]);
        // Without a certificate QEMU gets nothing.
        let none = "tls-creds-anon,id=t,endpoint=client";
        let output = attempt(
            "qemu-img",
            &["info", "--object", none, "--image-opts", &point],
        );
        assert!(!output.status.success());
    }
    if has("nbdkit") && has("nbdcopy") && has("fio") {
        let through = |export: &str| {
            let more = [
                format!("port={}", secure.address.port()),
                format!("export={export}"),
                format!("tls-certificates={}", secure.agent.display()),
            ];
            tool::Server::start("nbdkit", |socket| {
                let first = [
                    "-f",
                    "--unix",
                    socket,
                    "nbd",
                    "hostname=localhost",
                    "tls=require",
                ];
                first.map(str::to_owned).into_iter().chain(more).collect()
            })
        };
        let socket = through("web01/p1/vda");
        run("nbdcopy", &[&socket.uri(""), copy]);
        assert!(std::fs::read(copy).unwrap() == secure.bytes);
        // fio cannot be given certificates (libnbd allows no files in URIs to it): it goes through nbdkit.
        let begun = secure
            .place
            .json(&["begin", "web02", "vda=8M", "--session", "f"]);
        let tcp = begun["disk_results"][0]["tcp_uri"].as_str().unwrap();
        let socket = through(tcp.splitn(4, '/').nth(3).unwrap());
        let said = run(
            "fio",
            &[
                "--name=verify",
                "--ioengine=nbd",
                &format!("--uri={}", socket.uri("")),
                "--rw=randwrite",
                "--bs=4k",
                "--size=8M",
                "--iodepth=16",
                "--verify=crc32c",
                "--do_verify=1",
                "--verify_fatal=1",
                "--verify_state_save=0",
            ],
        );
        assert!(said.contains("err= 0"), "{said}");
        drop(socket);
        secure.place.ok(&["abort", "web02/f"]);
    }
    secure.daemon.stop();
}

#[test]
fn our_client_speaks_tls_with_others() {
    if !can_certify() || !has("nbdkit") {
        return;
    }
    let authority = Authority::new();
    let (server, client) = (authority.server(), authority.client("c"));
    let start = |tls: &str| {
        tool::Server::start("nbdkit", |socket| {
            [
                "-f",
                "--unix",
                socket,
                &format!("--tls={tls}"),
                "--tls-verify-peer",
                &format!("--tls-certificates={}", server.display()),
                "memory",
                "64M",
            ]
            .map(str::to_owned)
            .to_vec()
        })
    };
    let nbdkit = start("require");
    let uri = nbdkit.uri("").replace("nbd+unix", "nbds+unix");
    let uri = format!("{uri}&tls-certificates={}", client.display());
    check_writes(&uri);
    assert_eq!(refused(&nbdkit.uri("")).kind(), ErrorKind::Unsupported);
    // A server that does not speak TLS is not spoken to without.
    let plain = start("off");
    let uri = plain.uri("").replace("nbd+unix", "nbds+unix");
    let uri = format!("{uri}&tls-certificates={}", client.display());
    assert_eq!(refused(&uri).kind(), ErrorKind::Unsupported);
    // Backup from it, and restore into it, by the program.
    let place = Place::new();
    let source = nbdkit.uri("").replace("nbd+unix", "nbds+unix");
    let source = format!("{source}&tls-certificates={}", client.display());
    place.ok(&["backup", "web01", &format!("vda={source}"), "--point", "p"]);
    place.ok(&["restore", "web01@p", "vda", &source]);
}
