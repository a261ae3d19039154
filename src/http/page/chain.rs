//! The layers that a restore point needs, as a picture and as a table.

use maud::{Markup, html};

use super::address;
use super::quantity::maybe_bytes;
use crate::service::view::ChainLayer;
use crate::types::size::{Count, Human};
use crate::types::{DiskName, RepositoryName, VmName};

/// Layers in a row of the picture.
const ROW_LAYERS: usize = 40;
/// Units of the picture for a layer.
const PITCH: usize = 16;
/// LIMIT: layers of a disk in the table; the picture has all of them.
const TABLE_LAYERS_MAX: usize = 200;

/// The chain of one disk, from its own layer down to the full one.
struct Chain<'a> {
    disk: &'a DiskName,
    layers: &'a [ChainLayer],
}

impl Chain<'_> {
    fn sentence(&self) -> String {
        let hidden = self
            .layers
            .iter()
            .filter(|layer| layer.point.is_none())
            .count();
        let stored: u64 = self
            .layers
            .iter()
            .filter_map(|layer| layer.stored_bytes)
            .sum();
        format!(
            "{}: {}, {hidden} of them hidden, {} in all",
            self.disk,
            Count::of(self.layers.len(), "layer"),
            Human(stored)
        )
    }

    fn picture(&self) -> Markup {
        let columns = self.layers.len().clamp(1, ROW_LAYERS);
        let rows = self.layers.len().div_ceil(ROW_LAYERS).max(1);
        let (width, height) = (columns * PITCH, rows * PITCH);
        html! {
            svg.chain viewBox={ "0 0 " (width) " " (height) } width=(width) height=(height) role="img" aria-label=(self.sentence()) {
                @for (n, layer) in self.layers.iter().enumerate() {
                    rect class=(class(layer)) x=((n % ROW_LAYERS) * PITCH + 1) y=((n / ROW_LAYERS) * PITCH + 1)
                        width=(PITCH - 2) height=(PITCH - 2) rx="2" {
                        title { (what(layer)) }
                    }
                }
            }
        }
    }

    fn table(&self, repository: &RepositoryName, vm: &VmName) -> Markup {
        html! {
            details {
                summary { "Layers of " (self.disk) " as a table" }
                div.scroll tabindex="0" role="region" aria-label={ "Layers of " (self.disk) } {
                    table {
                        thead { tr { th.number scope="col" { "Depth" } th scope="col" { "Layer" } th scope="col" { "Restore point" } th.number scope="col" { "Stored" } } }
                        tbody {
                            @for (n, layer) in self.layers.iter().take(TABLE_LAYERS_MAX).enumerate() {
                                tr {
                                    td.number { (n + 1) }
                                    th scope="row" { code { (layer.file) } }
                                    td {
                                        @match &layer.point {
                                            Some(point) => a href=(address::point(repository, vm, point)) { (point) },
                                            None => span.quiet { "hidden" },
                                        }
                                        @if layer.backing.is_none() { " (full)" }
                                    }
                                    td.number { (maybe_bytes(layer.stored_bytes)) }
                                }
                            }
                        }
                    }
                }
                @if self.layers.len() > TABLE_LAYERS_MAX {
                    p.quiet { (self.layers.len() - TABLE_LAYERS_MAX) " deeper layers are left out; the API lists them all." }
                }
            }
        }
    }
}

const fn class(layer: &ChainLayer) -> &'static str {
    match (layer.backing.is_none(), layer.point.is_some()) {
        (true, _) => "layer-full",
        (false, true) => "layer-point",
        (false, false) => "layer-hidden",
    }
}

fn what(layer: &ChainLayer) -> String {
    let of = match &layer.point {
        Some(point) => format!("of {point}"),
        None => "hidden".to_owned(),
    };
    let full = if layer.backing.is_none() {
        ", full"
    } else {
        ""
    };
    let stored = layer.stored_bytes.map_or_else(
        || "unknown size".to_owned(),
        |bytes| Human(bytes).to_string(),
    );
    format!("{} {of}{full}, {stored}", layer.file)
}

/// All chains of a restore point.
pub(super) fn show(layers: &[ChainLayer], repository: &RepositoryName, vm: &VmName) -> Markup {
    let chains = layers
        .chunk_by(|a, b| a.disk == b.disk)
        .filter_map(|layers| {
            let disk = &layers.first()?.disk;
            Some(Chain { disk, layers })
        });
    html! {
        p.legend aria-hidden="true" {
            span.key.key-point { "layer of a restore point" } " "
            span.key.key-hidden { "hidden layer, which only later points need" } " "
            span.key.key-full { "full layer" }
        }
        @for chain in chains {
            p { (chain.sentence()) }
            div { (chain.picture()) }
            (chain.table(repository, vm))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::show;
    use crate::service::view::ChainLayer;
    use crate::types::{DiskName, PointName, RepositoryName, VmName};

    #[test]
    fn each_layer_is_in_the_picture() {
        let layers: Vec<ChainLayer> = (0..90)
            .map(|n| ChainLayer {
                file: format!("{n}.qcow2"),
                disk: DiskName::new("vda").unwrap(),
                point: (n % 3 == 0).then(|| PointName::new(format!("p{n}")).unwrap()),
                backing: (n < 89).then(|| format!("{}.qcow2", n + 1)),
                stored_bytes: Some(1024),
            })
            .collect();
        let shown = show(
            &layers,
            &RepositoryName::new("main").unwrap(),
            &VmName::new("web01").unwrap(),
        );
        let text = shown.into_string();
        assert_eq!(text.matches("<rect").count(), 90);
        assert!(
            text.contains("vda: 90 layers, 60 of them hidden, 90.0 KiB in all"),
            "{text}"
        );
        assert!(text.contains("viewBox=\"0 0 640 48\""));
        assert_eq!(text.matches("layer-full").count(), 1);
    }
}
