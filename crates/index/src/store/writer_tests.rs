#![allow(clippy::unwrap_used)]

use super::*;
use crate::store::{ItemKind, ModelId, Store};

/// A disk with room for so many more bytes; with `syncs` false, one that fails at the last step.
struct FullDisk {
    file: File,
    room: usize,
    syncs: bool,
}

impl Write for FullDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fits = bytes.len().min(self.room);
        if fits == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.room -= fits;
        self.file.write(&bytes[..fits])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Sink for FullDisk {
    fn sync(&mut self) -> io::Result<()> {
        if self.syncs {
            self.file.sync_data()
        } else {
            Err(io::ErrorKind::StorageFull.into())
        }
    }
}

fn spec() -> StoreSpec {
    StoreSpec {
        model: ModelId {
            name: "tiny".to_owned(),
            fingerprint: "c0ffee".to_owned(),
        },
        dim: 3,
        dtype: Dtype::F32,
        normalised: false,
    }
}

fn item(key: &str) -> Item {
    Item {
        key: key.to_owned(),
        locator: format!("pictures/{key}.jpg"),
        text: "a \"dog\"\non a beach".to_owned(),
        kind: ItemKind::Image,
    }
}

fn started(folder: &Path) -> StoreWriter {
    let mut writer = StoreWriter::create(folder, &spec()).unwrap();
    writer.append(&[1.0, 2.0, 3.0], &[item("a")]).unwrap();
    writer.commit().unwrap();
    writer
}

/// The store is as last committed, and goes on from there.
fn goes_on(folder: &Path) {
    assert_eq!(Store::open(folder, None).unwrap().len(), 1);
    let mut writer = StoreWriter::open_append(folder, &spec()).unwrap();
    assert!(writer.contains("a") && !writer.contains("b"));
    writer.append(&[4.0, 5.0, 6.0], &[item("b")]).unwrap();
    writer.finish().unwrap();
    let store = Store::open(folder, None).unwrap();
    assert_eq!(store.items(), [item("a"), item("b")]);
    assert_eq!(*store.row(1), [4.0, 5.0, 6.0]);
}

#[test]
fn a_full_disk_costs_no_committed_row() {
    let line = serde_json::to_vec(&item("b")).unwrap().len() + 1;
    for (in_features, room) in (0..12)
        .map(|room| (true, room))
        .chain((0..line).map(|room| (false, room)))
    {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = started(folder.path());
        let name = if in_features { FEATURES } else { ITEMS };
        let full = Box::new(FullDisk {
            file: appendable(&folder.path().join(name)).unwrap(),
            room,
            syncs: true,
        });
        if in_features {
            writer.features = full;
        } else {
            writer.items = full;
        }
        let error = writer.append(&[4.0, 5.0, 6.0], &[item("b")]).unwrap_err();
        assert!(
            matches!(&error, StoreError::Io { path, source, .. }
                if path.ends_with(name) && source.kind() == io::ErrorKind::StorageFull),
            "{error:?}"
        );
        assert!(!writer.contains("b"));
        assert!(matches!(
            writer.append(&[], &[]),
            Err(StoreError::WriterFailed { .. })
        ));
        assert!(matches!(
            writer.commit(),
            Err(StoreError::WriterFailed { .. })
        ));
        drop(writer);
        goes_on(folder.path());
    }
}

#[test]
fn a_failed_sync_commits_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = started(folder.path());
    writer.features = Box::new(FullDisk {
        file: appendable(&folder.path().join(FEATURES)).unwrap(),
        room: usize::MAX,
        syncs: false,
    });
    writer.append(&[4.0, 5.0, 6.0], &[item("b")]).unwrap();
    assert!(matches!(
        writer.commit(),
        Err(StoreError::Io { action: "sync", .. })
    ));
    assert!(matches!(
        writer.finish(),
        Err(StoreError::WriterFailed { .. })
    ));
    goes_on(folder.path());
}

#[cfg(target_os = "linux")]
#[test]
fn the_systems_own_full_device_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = started(folder.path());
    writer.features = Box::new(OpenOptions::new().write(true).open("/dev/full").unwrap());
    let error = writer.append(&[4.0, 5.0, 6.0], &[item("b")]).unwrap_err();
    assert!(matches!(error, StoreError::Io { source, .. }
        if source.kind() == io::ErrorKind::StorageFull));
    drop(writer);
    goes_on(folder.path());
}
