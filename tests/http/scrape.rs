//! `/metrics`, read by the program that it is for.

use crate::kit::need::has_all;
use crate::kit::prometheus::{Samples, complaints, scrape_with_prometheus};
use crate::scene::Scene;

#[test]
fn a_real_prometheus_scrapes_the_door_with_its_token() {
    if !has_all(&["prometheus", "promtool"]) {
        return;
    }
    let Some(scene) = Scene::of_disks().map(Scene::started) else {
        return;
    };
    let token = scene.token("prometheus", "metrics", "web*");
    let text = scene.get("/metrics").token(&token).expect(200).text();
    assert_eq!(complaints(&text), "");
    let scraped = scrape_with_prometheus(&format!("{}/metrics", scene.base), Some(&token));
    let asked = Samples::parse(&text);
    assert_eq!(scraped.names(), asked.names());
    let points = "restorefs_vm_points";
    let of = |vm| scraped.find(points, &[("repository", "default"), ("vm", vm)]);
    assert_eq!(of("web01"), Some(1.0), "{text}");
    assert_eq!(of("db01"), None, "a VM that the token may not name");
    assert_eq!(
        scraped.value("restorefs_repository_points", &[("repository", "default")]),
        2.0
    );
}
