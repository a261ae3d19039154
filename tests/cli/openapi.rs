//! `openapi`: the description of the HTTP API.

use crate::kit::place::Place;

#[test]
fn it_is_what_is_committed_and_needs_no_repository() {
    let place = Place::without_repository();
    let printed = place.ok(&["openapi"]);
    assert!(
        printed == include_str!("../../src/http/openapi.json"),
        "it differs from src/http/openapi.json"
    );
    let document: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(
        document["openapi"].as_str().unwrap().split('.').next(),
        Some("3")
    );
    assert!(document["paths"].as_object().unwrap().len() > 30);
}
