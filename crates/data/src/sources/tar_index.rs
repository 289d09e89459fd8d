//! Where the files of a tar archive lie: one pass over its headers, so that later every file is read
//! by its offset. Contents are skipped, not read.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::SourceError;

const BLOCK: u64 = 512;

/// A regular file inside an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarEntry {
    /// Path inside the archive.
    pub name: String,
    /// Byte offset of the contents.
    pub offset: u64,
    /// Bytes of contents.
    pub size: u64,
}

/// How an archive ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TarEnd {
    /// With its end mark.
    Whole,
    /// In the middle of the entry whose header is at `offset`, or without an end mark there.
    Truncated {
        /// Byte offset.
        offset: u64,
        /// Bytes the file has.
        length: u64,
        /// Path of the entry that is cut, if its header could be read.
        entry: Option<String>,
    },
}

/// Lists the regular files of an archive that are wholly there, and says how the archive ends.
///
/// # Errors
/// When the file cannot be read or is not an (uncompressed) tar archive.
pub fn scan(path: &Path) -> Result<(Vec<TarEntry>, TarEnd), SourceError> {
    let mut file = File::open(path).map_err(SourceError::io(path))?;
    let length = file.metadata().map_err(SourceError::io(path))?.len();
    let mut entries = Vec::new();
    // Where the next header is due: behind the padded contents of the entry before.
    let mut due = 0;
    let mut cut = None;

    let mut archive = tar::Archive::new(&mut file);
    for entry in archive.entries_with_seek().map_err(SourceError::io(path))? {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) if is_cut(&error, due, length) => {
                cut = Some(None);
                break;
            }
            Err(error) => {
                return Err(SourceError::malformed(
                    path,
                    format!("no uncompressed tar archive at byte {due}: {error}"),
                ));
            }
        };
        let (offset, size) = (entry.raw_file_position(), entry.size());
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let Some(end) = offset.checked_add(size).filter(|&end| end <= length) else {
            cut = Some(Some(name));
            break;
        };
        due = end.next_multiple_of(BLOCK);
        if entry.header().entry_type().is_file() {
            entries.push(TarEntry { name, offset, size });
        }
    }

    // The tar crate takes the end of the file for the end of the archive. An archive that was cut
    // between two entries is told from a whole one only by the block of zeros at its end.
    if cut.is_none() && !zero_block_at(&mut file, due).map_err(SourceError::io(path))? {
        cut = Some(None);
    }
    let end = match cut {
        Some(entry) => TarEnd::Truncated {
            offset: due,
            length,
            entry,
        },
        None => TarEnd::Whole,
    };
    Ok((entries, end))
}

/// Whether reading an entry failed because the file stops short of a whole header. Other failures
/// with bytes left (a wrong checksum, an unreadable number) mean the bytes are no tar.
fn is_cut(error: &io::Error, due: u64, length: u64) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof || length < due.saturating_add(BLOCK)
}

fn zero_block_at(file: &mut File, offset: u64) -> io::Result<bool> {
    file.seek(SeekFrom::Start(offset))?;
    let mut block = Vec::with_capacity(BLOCK as usize);
    file.take(BLOCK).read_to_end(&mut block)?;
    Ok(block.len() == BLOCK as usize && block.iter().all(|&byte| byte == 0))
}
