//! `items.jsonl`: one item a line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use super::{Item, StoreError};

/// Reads the committed lines: the first `bytes` of the file, which must be `count` whole lines.
pub(super) fn read(path: &Path, bytes: u64, count: usize) -> Result<Vec<Item>, StoreError> {
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    let got = file
        .metadata()
        .map_err(StoreError::io("measure", path))?
        .len();
    if got < bytes {
        return Err(StoreError::CutShort {
            path: path.to_owned(),
            expected: bytes,
            got,
        });
    }
    let mut items = Vec::new();
    each_line(path, file.take(bytes), |number, line| {
        let item = serde_json::from_slice(line).map_err(|source| StoreError::Item {
            path: path.to_owned(),
            line: number,
            source,
        })?;
        items.push(item);
        Ok(true)
    })?;
    if items.len() != count {
        return Err(StoreError::ItemCount {
            path: path.to_owned(),
            expected: count,
            got: items.len(),
        });
    }
    Ok(items)
}

/// Shows `visit` every line that ends, with its number from 1, until it returns false; a last
/// line without an end is torn and not shown.
pub(super) fn each_line(
    path: &Path,
    file: impl Read,
    mut visit: impl FnMut(usize, &[u8]) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        reader
            .read_until(b'\n', &mut line)
            .map_err(StoreError::io("read", path))?;
        if line.pop() != Some(b'\n') || !visit(number, &line)? {
            break;
        }
    }
    Ok(())
}

/// Appends the line of `item` to `out`.
pub(super) fn write_line(out: &mut Vec<u8>, path: &Path, item: &Item) -> Result<(), StoreError> {
    serde_json::to_writer(&mut *out, item).map_err(|source| StoreError::Item {
        path: path.to_owned(),
        line: 0,
        source,
    })?;
    // JSON escapes line breaks within strings, so this is the only one.
    out.push(b'\n');
    Ok(())
}
