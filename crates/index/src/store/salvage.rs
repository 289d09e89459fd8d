//! Making a damaged store usable again.

use std::fs::{self, File};
use std::path::Path;

use super::header::Header;
use super::writer::{cut, lock};
use super::{FEATURES, ITEMS, Item, StoreError, items};

/// What [`salvage`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Salvaged {
    /// Rows the store holds now.
    pub kept: usize,
    /// Committed rows that were lost, and must be computed again.
    pub lost: usize,
}

/// Takes a store whose files were cut short or whose items were damaged back to the rows, from
/// the first on, that are whole in both files. A sound store is left as it is.
///
/// Only lengths and lines are checked: features carry no checksum, so a file whose bytes were
/// changed in place goes unnoticed. Do not call this while the store is open for reading.
///
/// # Errors
/// [`StoreError`]: no store there, `index.json` itself is damaged, or a writer is at work.
pub fn salvage(folder: impl AsRef<Path>) -> Result<Salvaged, StoreError> {
    let folder = folder.as_ref();
    let mut header = Header::read(folder)?;
    let _lock = lock(folder)?;
    let features_path = folder.join(FEATURES);
    let items_path = folder.join(ITEMS);

    let features_len = fs::metadata(&features_path)
        .map_err(StoreError::io("measure", &features_path))?
        .len();
    let limit = (features_len / header.row_bytes()).min(header.count as u64) as usize;
    let (mut kept, mut items_bytes) = (0, 0);
    let items_file = File::open(&items_path).map_err(StoreError::io("open", &items_path))?;
    items::each_line(&items_path, items_file, |_, line| {
        if kept == limit || serde_json::from_slice::<Item>(line).is_err() {
            return Ok(false);
        }
        kept += 1;
        items_bytes += line.len() as u64 + 1;
        Ok(true)
    })?;

    let lost = header.count - kept;
    if lost > 0 || items_bytes != header.items_bytes {
        header.count = kept;
        header.items_bytes = items_bytes;
        header.complete = false;
        // The index first: were the files cut before and the program killed in between, the
        // store would be damaged once more.
        header.write(folder)?;
        cut(&features_path, header.features_bytes(folder)?)?;
        cut(&items_path, items_bytes)?;
    }
    Ok(Salvaged { kept, lost })
}
