//! A release preserves the members that it does not know.

use serde_json::Value;

use super::copied::PointCopy;
use super::hidden::HiddenLayer;
use super::index::{Index, PointEntry};
use super::point::{Point, PointParent};
use super::retained::Retained;
use super::session::Session;
use super::state::{Damage, State};
use super::vm::Vm;
use super::{Sidecar, Unknown, encode, parse};
use crate::error::ErrorKind;
use crate::repo::format::Format;
use crate::types::{Digest, LayerId, PointId, RepositoryId};

/// Sidecars of all kinds; one byte before each states the kind.
const SAMPLES: [&[u8]; 11] = [
    include_bytes!("../../../tests/fuzz/corpus/sidecar/format"),
    include_bytes!("../../../tests/fuzz/corpus/sidecar/index"),
    include_bytes!("../../../tests/fuzz/corpus/sidecar/point1"),
    include_bytes!("../../../tests/fuzz/corpus/sidecar/point2"),
    include_bytes!("../../../tests/fuzz/corpus/sidecar/session"),
    include_bytes!("../../../tests/fuzz/corpus/sidecar/session2"),
    include_bytes!("../../../tests/fuzz/corpus/sidecar/state"),
    include_bytes!("../../../tests/fuzz/corpus/sidecar/vm"),
    include_bytes!("../../../tests/fuzz/corpus/sidecar/index_labels"),
    include_bytes!("../../../tests/fuzz/corpus/sidecar/retained"),
    include_bytes!("../../../tests/fuzz/corpus/sidecar/index_hidden"),
];

/// Members that are maps with names that users choose, not objects of a schema.
const MAPS: [&str; 4] = ["tags", "change_ids", "previous_change_ids", "volumes"];

/// Numbers that JSON allows (RFC 8259, section 6), and their spelling when written again: a lower-case
/// exponent with its sign.
const NUMBERS: [(&str, &str); 18] = [
    ("0", "0"),
    ("-0", "-0"),
    ("-0.0", "-0.0"),
    ("1.0", "1.0"),
    ("1.00", "1.00"),
    ("0.1", "0.1"),
    ("9007199254740993", "9007199254740993"),
    ("9223372036854775808", "9223372036854775808"),
    ("18446744073709551615", "18446744073709551615"),
    ("18446744073709551616", "18446744073709551616"),
    ("-9223372036854775808", "-9223372036854775808"),
    ("-9223372036854775809", "-9223372036854775809"),
    (
        "288888888888888888888888888888888888888888888888888",
        "288888888888888888888888888888888888888888888888888",
    ),
    (
        "3.14159265358979323846264338327950288",
        "3.14159265358979323846264338327950288",
    ),
    ("1e400", "1e+400"),
    ("1E5", "1e+5"),
    ("-1.50E+03", "-1.50e+03"),
    ("2.5e-400", "2.5e-400"),
];

fn again<T: Sidecar>(text: &[u8]) -> crate::error::Result<Vec<u8>> {
    encode(&parse::<T>(text)?)
}

fn written_again(which: u8, text: &[u8]) -> crate::error::Result<Vec<u8>> {
    match which {
        b'f' => again::<Format>(text),
        b'i' => again::<Index>(text),
        b'p' => again::<Point>(text),
        b'r' => again::<Retained>(text),
        b's' => again::<Session>(text),
        b't' => again::<State>(text),
        _ => again::<Vm>(text),
    }
}

fn samples() -> impl Iterator<Item = (u8, Value)> {
    SAMPLES.iter().map(|sample| {
        let (which, text) = sample.split_first().unwrap();
        let mut value: Value = serde_json::from_slice(text).unwrap();
        value.as_object_mut().unwrap().remove("blake3");
        (*which, value)
    })
}

/// Every object of a schema, as pointers.
fn objects(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            found.push(at.to_owned());
            for (name, value) in members.iter().filter(|(n, _)| !MAPS.contains(&n.as_str())) {
                objects(value, &format!("{at}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (n, value) in items.iter().enumerate() {
                objects(value, &format!("{at}/{n}"), found);
            }
        }
        _ => {}
    }
}

#[test]
fn every_object_of_every_sidecar_keeps_what_is_not_known_with_all_digits() {
    let numbers: Vec<&str> = NUMBERS.iter().map(|(text, _)| *text).collect();
    let list = numbers.join(",");
    let later = format!(r#"{{"z":[{list}],"a":{{"q\"\\\n":null,"b":"é\u2028"}},"0":[[],{{}}]}}"#);
    let later: Value = serde_json::from_str(&later).unwrap();
    let mut count = 0;
    for (which, value) in samples() {
        let mut found = Vec::new();
        objects(&value, "", &mut found);
        for at in found {
            let mut value = value.clone();
            let object = value.pointer_mut(&at).unwrap().as_object_mut().unwrap();
            object.insert("later".to_owned(), later.clone());
            object.insert("after".to_owned(), Value::from(1));
            let text = serde_json::to_vec(&value).unwrap();
            let bytes = written_again(which, &text).unwrap();
            let back: Value = serde_json::from_slice(&bytes).unwrap();
            let object = back.pointer(&at).unwrap().as_object().unwrap();
            assert_eq!(object["later"], later, "{} {at}", char::from(which));
            let names: Vec<&String> = object.keys().collect();
            let place = names.iter().position(|name| *name == "later").unwrap();
            assert_eq!(names[place + 1], "after", "{at}");
            let order: Vec<&String> = object["later"].as_object().unwrap().keys().collect();
            assert_eq!(order, ["z", "a", "0"]);
            // The numbers as text, independent of any decoder.
            let written = String::from_utf8(bytes).unwrap();
            let start = written.find("\"z\": [").unwrap();
            let list = &written[start + 6..start + written[start..].find(']').unwrap()];
            let list: Vec<&str> = list.split(',').map(str::trim).collect();
            let expected: Vec<&str> = NUMBERS.iter().map(|(_, text)| *text).collect();
            assert_eq!(list, expected);
            count += 1;
        }
    }
    assert!(count >= 25, "{count} objects");
}

#[test]
fn numbers_in_what_was_found_on_disks_are_kept() {
    let text = br#"{"schema":1,"point_id":"3f0e4a7e-8a39-4a8b-8e28-0a3f9a0d1c11","volumes":{"x":[18446744073709551616,1e400]}}"#;
    let written = String::from_utf8(again::<State>(text).unwrap()).unwrap();
    assert!(
        written.contains("18446744073709551616") && written.contains("1e+400"),
        "{written}"
    );
}

#[test]
fn a_number_that_does_not_fit_a_known_field_is_damage() {
    for (which, value) in samples() {
        for number in [
            "1.0",
            "-1",
            "-0",
            "1e0",
            "18446744073709551616",
            "4294967297",
        ] {
            let text = serde_json::to_string(&value).unwrap();
            let text = text.replacen("\"schema\":1", &format!("\"schema\":{number}"), 1);
            let kind = written_again(which, text.as_bytes()).unwrap_err().kind();
            assert_eq!(kind, ErrorKind::Corrupt, "{text}");
        }
    }
}

#[test]
fn a_member_that_would_be_lost_is_refused() {
    for (which, value) in samples() {
        let text = serde_json::to_string(&value).unwrap();
        let open = text.strip_suffix('}').unwrap();
        for more in [
            r#""later":1,"later":1"#,
            r#""later":{"a":1,"\u0061":2}"#,
            r#""later":{"$serde_json::private::Number":"1"}"#,
            r#""schema":1"#,
        ] {
            let kind = written_again(which, format!("{open},{more}}}").as_bytes())
                .unwrap_err()
                .kind();
            assert_eq!(kind, ErrorKind::Corrupt, "{more}");
        }
    }
}

#[test]
fn what_is_nested_deeper_than_is_read_is_refused() {
    let (which, value) = samples().next().unwrap();
    let text = serde_json::to_string(&value).unwrap();
    let open = text.strip_suffix('}').unwrap();
    let nested = |depth: usize| {
        let text = format!(
            "{open},\"later\":{}{}}}",
            "[".repeat(depth),
            "]".repeat(depth)
        );
        written_again(which, text.as_bytes())
    };
    for depth in [1, 64, 120] {
        let once = nested(depth).unwrap();
        assert_eq!(written_again(which, &once).unwrap(), once, "{depth}");
    }
    for depth in [128, 200_000] {
        assert_eq!(nested(depth).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

/// A session with an unknown compression does not continue without compression.
#[test]
fn an_unknown_compression_is_not_none() {
    let sample = std::str::from_utf8(SAMPLES[4]).unwrap();
    let object = sample.get(1..).unwrap();
    let mut value: Value = serde_json::from_str(object).unwrap();
    let fields = value.as_object_mut().unwrap();
    fields.remove("blake3");
    fields.insert("compression".to_owned(), "zstd".into());
    let known: Session = parse(value.to_string().as_bytes()).unwrap();
    assert_eq!(known.compression, crate::qcow2::Compression::Zstd);
    let written: Value = serde_json::from_slice(&encode(&known).unwrap()).unwrap();
    assert_eq!(written["compression"], "zstd");
    value["compression"] = "lz9".into();
    let error = parse::<Session>(value.to_string().as_bytes()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.report().contains("lz9"), "{}", error.report());
}

/// Checks that the one-pass decoder gives the same sidecar as the general one, and rejects an additional or
/// repeated member at any depth.
fn check_plain<T: Sidecar + PartialEq + std::fmt::Debug>(whole: &T, inner: &[&str]) {
    let bytes = serde_json::to_vec_pretty(whole).unwrap();
    let slow: T = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(&slow, whole);
    assert_eq!(T::parse_plain(&bytes), Some(slow));
    let text = String::from_utf8(bytes).unwrap();
    for name in inner.iter().chain(&["schema"]) {
        let member = format!("\"{name}\":");
        assert!(text.contains(&member), "{name}");
        for more in ["\"colour\": \"blue\",", &format!("{member} 1,")] {
            let bent = text.replacen(&member, &format!("{more} {member}"), 1);
            assert_eq!(T::parse_plain(bent.as_bytes()), None, "{bent}");
        }
    }
    let newer = text.replacen("\"schema\": 1", "\"schema\": 2", 1);
    assert_eq!(T::parse_plain(newer.as_bytes()), None);
}

#[test]
fn what_has_nothing_unknown_is_decoded_in_one_pass() {
    let mut point: Point = parse(SAMPLES[2].get(1..).unwrap()).unwrap();
    point.parent = Some(PointParent {
        point_id: PointId::random(),
        name: point.name.clone(),
        unknown: Unknown::new(),
    });
    check_plain(&point, &["committed_at", "content_root"]);
    let mut labelled = PointEntry::of(&point, Digest::of(b"x"), 4);
    labelled.tags = [("a".to_owned(), "b".to_owned())].into();
    labelled.kept = true;
    let index = Index {
        schema: 1,
        vm_id: point.vm_id,
        name: point.vm.clone(),
        serial: 1,
        generation: 2,
        seq_high: 3,
        serial_high: 4,
        points: vec![labelled],
        hidden: vec![HiddenLayer {
            slot: point.disks[0].layer.clone(),
            layer_id: LayerId::from_bytes([7; 16]),
            disk_key: "vda".to_owned(),
            content_root: Digest::of(b"y"),
            file_bytes: 5,
            held_clusters: 6,
            unknown: Unknown::new(),
        }],
        unknown: Unknown::new(),
    };
    check_plain(
        &index,
        &[
            "seq_high",
            "point_blake3",
            "source_bytes",
            "parent",
            "kept",
            "depth",
            "held_clusters",
        ],
    );
    let state = State {
        schema: 1,
        point_id: point.point_id,
        tags: [("a".to_owned(), "b".to_owned())].into(),
        kept: true,
        damage: Some(Damage {
            found_at: point.captured_at,
            faults: vec!["a layer is missing".to_owned()],
            ranges: Vec::new(),
            left_out: 1,
            unknown: Unknown::new(),
        }),
        copies: vec![PointCopy {
            repository_id: RepositoryId::random(),
            at: point.captured_at,
            verified_at: None,
            gone_at: None,
            unknown: Unknown::new(),
        }],
        volumes: Some(serde_json::json!({"volumes": [{"path": "vda"}], "files": []})),
        unknown: Unknown::new(),
    };
    check_plain(&state, &["point_id"]);
    let twice = serde_json::to_string(&state).unwrap();
    let twice = twice.replacen("\"path\":", "\"path\":0,\"path\":", 1);
    assert_eq!(State::parse_plain(twice.as_bytes()), None);
}
