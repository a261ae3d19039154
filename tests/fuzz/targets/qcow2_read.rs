//! A QCOW2 image of any bytes: as a single image, table by table, and as a source that may open nothing else.

use std::path::PathBuf;
use std::sync::Arc;

use restorefs::block::{MemoryDisk, ReadAt};
use restorefs::qcow2::source::{DenyAll, OpenedFile, Source};
use restorefs::qcow2::{Image, Mapping};

/// Tables and entries that are looked at; there may be millions.
const TABLES: usize = 16;
const ENTRIES: u64 = 256;

/// Reads what the header, the tables and the entries name.
pub(crate) fn run(data: &[u8]) {
    let file: Arc<dyn ReadAt> = Arc::new(MemoryDisk::from_bytes(data));
    tables(&file);
    let opened = OpenedFile {
        path: PathBuf::from("/nowhere/image.qcow2"),
        file,
        identity: None,
        local: None,
    };
    let Ok(source) = Source::open(opened, &DenyAll) else {
        return;
    };
    let size = source.size_bytes();
    let mut buf = vec![0; 70_000];
    for at in [0, 511, 65_535, size / 2, size.saturating_sub(70_000)] {
        let length = size.saturating_sub(at).min(70_000);
        if let Ok(length) = usize::try_from(length) {
            let _ = source.read_at(at, buf.get_mut(..length).unwrap_or_default());
        }
    }
    let mut at = 0;
    for _ in 0..64 {
        if at >= size {
            break;
        }
        let Ok(extent) = source.extent_at(at, size - at) else {
            break;
        };
        assert!(extent.length_bytes > 0 && extent.length_bytes <= size - at);
        at += extent.length_bytes;
    }
}

fn tables(file: &Arc<dyn ReadAt>) {
    let Ok(image) = Image::open(Arc::clone(file)) else {
        return;
    };
    let Ok(cluster_bytes) = usize::try_from(image.cluster_bits().size_bytes()) else {
        return;
    };
    let mut buf = vec![0; cluster_bytes];
    let indices: Vec<u64> = image.l1_indices().take(TABLES).collect();
    for index in indices {
        let Ok(Some(table)) = image.load_l2(index) else {
            continue;
        };
        for entry in 0..table.len().min(ENTRIES) {
            match table.mapping(entry) {
                Ok(Mapping::Data(host)) => {
                    let _ = image.read_data(host, &mut buf);
                }
                Ok(Mapping::Compressed(cluster)) => {
                    let _ = image.read_compressed(cluster, &mut buf);
                }
                _ => {}
            }
        }
        assert!(table.mapping(table.len()).is_err());
    }
}
