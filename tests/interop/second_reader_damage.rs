//! Damage that `reader.py`, written from `src/FORMATS.md` alone, must find and name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::second_reader::{CLUSTER, World, can_read, json, reader, text, world};
use crate::tool::run;

/// Copies the repository, lets `change` do something in it, and has it verified; which files have faults.
fn faults(world: &World, change: impl FnOnce(&Path)) -> (Option<i32>, BTreeSet<String>, String) {
    let copy = world.path("copy");
    let _ = fs::remove_dir_all(&copy);
    run("cp", &["-a", text(&world.path("repo")), text(&copy)]);
    change(&copy);
    let output = reader(&["verify", text(&copy)]);
    let found = String::from_utf8_lossy(&output.stdout).into_owned();
    let files = found
        .lines()
        .filter(|line| !line.starts_with("note: "))
        .map(|line| line.split_once(": ").unwrap().0.to_owned())
        .collect();
    let said = found + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), files, said)
}

/// Replaces a file, which nobody may write.
fn replace(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn offset(entry: u64) -> usize {
    usize::try_from(entry & 0x00ff_ffff_ffff_fe00).unwrap()
}

/// Where things lie in a layer that maps something in its first region.
struct Places {
    l1: usize,
    l2: usize,
    refcounts: usize,
    refcount_block: usize,
    data: usize,
    compressed: Option<usize>,
    backing: usize,
}

fn places(layer: &[u8]) -> Places {
    let l1 = offset(number(layer, 40));
    let l2 = offset(number(layer, l1));
    let refcounts = offset(number(layer, 48));
    let entries: Vec<u64> = (0..8_192).map(|n| number(layer, l2 + 8 * n)).collect();
    let data = entries.iter().find(|entry| **entry >> 63 == 1).unwrap();
    let compressed = entries.iter().find(|entry| **entry >> 62 == 1);
    Places {
        l1,
        l2,
        refcounts,
        refcount_block: offset(number(layer, refcounts)),
        data: offset(*data),
        compressed: compressed.map(|entry| usize::try_from(entry & ((1 << 54) - 1)).unwrap()),
        backing: offset(0) + usize::try_from(number(layer, 8)).unwrap(),
    }
}

/// The sums beside a layer.
fn sums(layer: &Path) -> PathBuf {
    let bytes = fs::read(layer).unwrap();
    let at = bytes.windows(4).position(|four| four == b"RFS1").unwrap();
    let id = uuid::Uuid::from_slice(&bytes[at + 8..at + 24]).unwrap();
    layer.with_extension(format!("{id}.sums"))
}

#[test]
fn each_flipped_byte_is_found_and_its_file_named() {
    if !can_read() {
        return;
    }
    let world = world();
    let daemon = world.serve();
    world.ok(&["begin", "web01", "--session", "nightly"]);
    let repo = world.path("repo");
    let in_repo = |path: &Path| path.strip_prefix(&repo).unwrap().to_owned();
    let vm = |name: &str| PathBuf::from("vms/web01").join(name);
    let one = in_repo(&world.layer("web01", "one", "vda"));
    let two = in_repo(&world.layer("web01", "two", "vda"));
    let three = in_repo(&world.layer("web01", "three", "vda"));
    let bytes = |path: &Path| fs::read(repo.join(path)).unwrap();
    let at = places(&bytes(&two));
    let state = fs::read_dir(repo.join(vm("state")))
        .unwrap()
        .next()
        .unwrap();
    let sums = in_repo(&sums(&world.layer("web01", "two", "vdb")));
    let sums_end = bytes(&sums).len() - 1;
    let flips = [
        ("restorefs.json".into(), 20),
        (vm("vm.json"), 30),
        (vm("index.json"), 500),
        (vm("points/four/point.json"), 300),
        (vm("points/.nightly.partial/session.json"), 300),
        (in_repo(&state.unwrap().path()), 100),
        // The name of the hash, its digits, the end.
        (vm("vm.json"), bytes(&vm("vm.json")).len() - 75),
        (vm("vm.json"), bytes(&vm("vm.json")).len() - 40),
        (vm("vm.json"), bytes(&vm("vm.json")).len() - 1),
        (vm("points/two/attached/note.txt"), 69_999),
        (sums.clone(), 3),
        (sums.clone(), 20),
        (sums.clone(), 110),
        (sums, sums_end),
        // Magic, size, layer id, a name of a feature, backing name, the rest of the cluster.
        (two.clone(), 0),
        (two.clone(), 29),
        (two.clone(), 140),
        (two.clone(), 170),
        (two.clone(), at.backing + 2),
        (two.clone(), 60_000),
        (two.clone(), at.l1 + 7),
        (two.clone(), at.l2 + 6),
        (two.clone(), at.refcounts + 5),
        (two.clone(), at.refcount_block + 1),
        (two.clone(), at.data + 40_000),
        (two, at.compressed.unwrap() + 30),
        (
            three.clone(),
            places(&bytes(&three)).compressed.unwrap() + 30,
        ),
        (one.clone(), places(&bytes(&one)).data),
    ];
    // One flip of each file at a time.
    let mut rounds: Vec<BTreeMap<PathBuf, usize>> = Vec::new();
    for (file, at) in flips {
        let round = rounds.iter().position(|round| !round.contains_key(&file));
        let round = round.unwrap_or_else(|| {
            rounds.push(BTreeMap::new());
            rounds.len() - 1
        });
        rounds[round].insert(file, at);
    }
    for round in rounds {
        let (code, files, said) = faults(&world, |copy| {
            for (file, at) in &round {
                let mut bytes = fs::read(copy.join(file)).unwrap();
                bytes[*at] ^= 1;
                replace(&copy.join(file), &bytes);
            }
        });
        assert_eq!(code, Some(3), "{round:?}: {said}");
        let right: BTreeSet<String> = round.keys().map(|file| text(file).to_owned()).collect();
        assert_eq!(files, right, "{round:?}: {said}");
    }
    drop(daemon);
}

/// Changes a sidecar and takes its hash away, as a person with an editor does.
fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut fields = json(path);
    fields.as_object_mut().unwrap().remove("blake3");
    change(&mut fields);
    replace(path, &serde_json::to_vec_pretty(&fields).unwrap());
}

/// Changes a byte of a metadata cluster of a layer, and makes the hashes in its sums right again.
fn reseal(layer: &Path, at: usize, to: u8) {
    let mut bytes = fs::read(layer).unwrap();
    assert_ne!(bytes[at], to);
    bytes[at] = to;
    let path = sums(layer);
    replace(layer, &bytes);
    let mut sums = fs::read(&path).unwrap();
    let count = |at: usize| usize::from(sums[at]);
    let (regions, touched, metadata) = (count(80), count(88), count(96));
    for n in 0..metadata {
        let entry = 104 + 32 * regions + 16 * touched + 40 * n;
        if usize::from(sums[entry]) == at / CLUSTER {
            let whole = &bytes[at / CLUSTER * CLUSTER..][..CLUSTER];
            sums[entry + 8..entry + 40].copy_from_slice(blake3::hash(whole).as_bytes());
        }
    }
    replace_sums(&path, sums);
}

/// Writes sums, with their hash made right.
fn replace_sums(path: &Path, mut sums: Vec<u8>) {
    let hash = *blake3::hash(&sums[40..]).as_bytes();
    sums[8..40].copy_from_slice(&hash);
    replace(path, &sums);
}

/// Flips a bit in the sums of a layer, at what `at` says of their length, and makes their hash right again.
fn flip_in_sums(layer: &Path, at: impl FnOnce(usize) -> usize) {
    let path = sums(layer);
    let mut sums = fs::read(&path).unwrap();
    let at = at(sums.len());
    sums[at] ^= 1;
    replace_sums(&path, sums);
}

#[test]
fn what_contradicts_itself_under_right_hashes_is_found() {
    if !can_read() {
        return;
    }
    let world = world();
    let index = "vms/web01/index.json";
    let point = "vms/web01/points/two/point.json";
    let layer = world.layer("web01", "two", "vda");
    let layer = layer.strip_prefix(world.path("repo")).unwrap();
    let at = places(&fs::read(world.layer("web01", "two", "vda")).unwrap());
    let check = |file: &str, what: &str, change: &dyn Fn(&Path)| {
        let (code, files, said) = faults(&world, |copy| change(&copy.join(file)));
        assert_eq!(code, Some(3), "{what}: {said}");
        assert!(files.contains(file), "{what}: {said}");
        assert!(said.contains(what), "{what}: {said}");
    };
    check(index, "gives a seq twice", &|path| {
        edit(path, |fields| fields["points"][1]["seq"] = 1.into());
    });
    check(index, "`serial_high` is too low", &|path| {
        edit(path, |fields| fields["serial_high"] = 1.into());
    });
    let serial = &json(&world.path("repo/vms/db01/vm.json"))["serial"];
    let what = format!("serial {serial} is that of db01 and of web01");
    check("vms/web01/vm.json", &what, &|path| {
        for name in ["vm.json", "index.json"] {
            let path = path.with_file_name(name);
            edit(&path, |fields| fields["serial"] = serial.clone());
        }
    });
    check(point, "has another `content_root`", &|path| {
        edit(path, |fields| {
            fields["disks"][0]["content_root"] = "00".repeat(32).into()
        });
    });
    check(point, "does not match `point_blake3`", &|path| {
        edit(path, |fields| fields["writer"] = "somebody".into());
    });
    check(point, "`data_bytes` is not", &|path| {
        edit(path, |fields| fields["disks"][1]["data_bytes"] = 0.into());
    });
    check(text(layer), "has refcount 3", &|path| {
        reseal(path, at.refcount_block + 1, 3);
    });
    check(text(layer), "has a path as backing name", &|path| {
        reseal(path, at.backing + 1, b'/');
    });
    check(text(layer), "has another virtual size", &|path| {
        reseal(path, 30, 0xfe);
    });
    check(text(layer), "region 0 has another content", &|path| {
        flip_in_sums(path, |_| 104);
    });
    check(text(layer), "cluster 13 is damaged", &|path| {
        flip_in_sums(path, |len| len - 1);
    });
    let beside = sums(&world.layer("web01", "two", "vda"));
    let beside = beside.strip_prefix(world.path("repo")).unwrap();
    check(text(beside), "does not have the", &|path| {
        // The bitmap of the one region that is touched lies behind the metadata clusters.
        let layer = world.layer("web01", "two", "vda");
        let layer = path.with_file_name(layer.file_name().unwrap());
        let metadata = usize::from(fs::read(path).unwrap()[96]);
        flip_in_sums(&layer, |_| 104 + 32 + 16 + 40 * metadata);
    });
    let (code, _, said) = faults(&world, |copy| {
        edit(&copy.join("vms/web01/vm.json"), |fields| {
            fields["schema"] = 2.into()
        });
    });
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("vm.json: schema 2"), "{said}");
}
