//! Zip files as PyTorch writes them: entries stored without compression. Entries that somebody
//! packed again with deflate are read too. Offsets and sizes are checked against the file before
//! anything is allocated.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use flate2::read::DeflateDecoder;

const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;
/// Bytes of the directory; one of a hundred thousand tensors has a tenth of this.
const MAX_DIRECTORY: u64 = 64 << 20;
/// PyTorch lets data start at multiples of this, so that a file can be mapped.
const ALIGNMENT: u64 = 64;
/// Compression methods of an entry.
const STORED: u16 = 0;
const DEFLATED: u16 = 8;
/// Bytes that one byte of deflate stands for at most: repetitions of 258 bytes in two bits each.
const MAX_INFLATION: u64 = 1032;

/// Why a zip file is not read.
#[derive(Debug, thiserror::Error)]
pub enum ZipError {
    /// The end of the file, where the directory is, is missing.
    #[error("the zip file has no directory at its end: it is truncated; copy or download it again")]
    Truncated,
    /// Sizes or offsets that the file cannot have.
    #[error("damaged zip file: {0}")]
    Damaged(String),
    /// An entry is compressed by something else than deflate.
    #[error(
        "{name} is compressed by method {method}; only entries that are stored or deflated are read: save it again with torch.save"
    )]
    Method {
        /// The entry.
        name: String,
        /// Number of the method in the zip format.
        method: u16,
    },
    /// An entry claims a length that its compressed data cannot have.
    #[error("{name} claims to expand from {stored} bytes to {size}, more than deflate can")]
    Inflation {
        /// The entry.
        name: String,
        /// Its length in the file.
        stored: u64,
        /// The length it claims to expand to.
        size: u64,
    },
    /// The data of an entry do not match their checksum.
    #[error("the data of {name} do not match their checksum; copy or download the file again")]
    Checksum {
        /// The entry.
        name: String,
    },
    /// An entry is not there.
    #[error("the zip file has no entry {name}")]
    Missing {
        /// The entry.
        name: String,
    },
    /// The system could not read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

fn damaged<T>(what: impl Into<String>) -> Result<T, ZipError> {
    Err(ZipError::Damaged(what.into()))
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    method: u16,
    encrypted: bool,
    crc: u32,
    stored: u64,
    size: u64,
    header: u64,
}

/// An open zip file.
#[derive(Debug)]
pub(super) struct ZipReader {
    file: File,
    length: u64,
    entries: BTreeMap<String, Entry>,
}

impl ZipReader {
    pub fn open(mut file: File) -> Result<Self, ZipError> {
        let length = file.seek(SeekFrom::End(0))?;
        let (start, size) = directory(&mut file, length)?;
        if size > MAX_DIRECTORY || start.checked_add(size).is_none_or(|end| end > length) {
            return damaged(format!(
                "a directory of {size} bytes at {start} in a file of {length}"
            ));
        }
        let bytes = read_at(&mut file, start, size)?;
        let mut entries = BTreeMap::new();
        let mut rest = Fields(&bytes);
        let mut total = 0u64;
        while !rest.0.is_empty() {
            let (name, entry) = central(&mut rest)?;
            total = total.saturating_add(entry.stored);
            // Entries that overlap, or lie about their size, hold more than the file.
            if entry.header.saturating_add(entry.stored) > length || total > length {
                return damaged(format!(
                    "{name} of {} bytes at {} reaches over the end of the file ({length} bytes)",
                    entry.stored, entry.header
                ));
            }
            if entries.insert(name.clone(), entry).is_some() {
                return damaged(format!("two entries are called {name}"));
            }
        }
        Ok(Self {
            file,
            length,
            entries,
        })
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Length of an entry's data, checked against the file.
    pub fn size(&self, name: &str) -> Result<u64, ZipError> {
        Ok(self.readable(name)?.size)
    }

    /// An entry's data, checked against their checksum.
    pub fn read(&mut self, name: &str) -> Result<Vec<u8>, ZipError> {
        let entry = self.readable(name)?;
        let header = read_at(&mut self.file, entry.header, 30)?;
        let mut fields = Fields(&header);
        if fields.u32()? != LOCAL {
            return damaged(format!("{name} is not where the directory says"));
        }
        let mut lengths = Fields(&header[26..]);
        let (name_length, extra_length) = (lengths.u16()?, lengths.u16()?);
        let start = entry.header + 30 + u64::from(name_length) + u64::from(extra_length);
        if start.saturating_add(entry.stored) > self.length {
            return damaged(format!("{name} reaches over the end of the file"));
        }
        let mut data = read_at(&mut self.file, start, entry.stored)?;
        if entry.method == DEFLATED {
            data = inflate(name, &data, entry.size)?;
        }
        if crc32fast::hash(&data) != entry.crc {
            return Err(ZipError::Checksum { name: name.into() });
        }
        Ok(data)
    }

    /// An entry whose method is known and whose lengths can be true.
    fn readable(&self, name: &str) -> Result<Entry, ZipError> {
        let entry = self.entries.get(name).copied();
        let entry = entry.ok_or_else(|| ZipError::Missing { name: name.into() })?;
        if entry.encrypted {
            return damaged(format!("{name} is encrypted"));
        }
        let (stored, size) = (entry.stored, entry.size);
        match entry.method {
            STORED if stored != size => damaged(format!(
                "{name} is stored in {stored} bytes but claims {size}"
            )),
            DEFLATED if size > stored.saturating_mul(MAX_INFLATION) => Err(ZipError::Inflation {
                name: name.into(),
                stored,
                size,
            }),
            STORED | DEFLATED => Ok(entry),
            method => Err(ZipError::Method {
                name: name.into(),
                method,
            }),
        }
    }
}

/// Expands an entry to the `size` that it claims. Memory grows with what comes out, and nothing
/// beyond `size` is expanded.
fn inflate(name: &str, data: &[u8], size: u64) -> Result<Vec<u8>, ZipError> {
    let mut out = Vec::new();
    let mut rest = DeflateDecoder::new(data).take(size.saturating_add(1));
    if let Err(error) = rest.read_to_end(&mut out) {
        return damaged(format!("{name} does not expand: {error}"));
    }
    match out.len() as u64 {
        length if length > size => {
            damaged(format!("{name} expands beyond the {size} bytes it claims"))
        }
        length if length < size => damaged(format!(
            "{name} expands to {length} bytes but claims {size}"
        )),
        _ => Ok(out),
    }
}

/// Reads `size` bytes at `start`, which the caller has checked to lie inside the file.
pub(super) fn read_at(file: &mut File, start: u64, size: u64) -> std::io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = vec![0; size as usize];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Start and size of the directory.
fn directory(file: &mut File, length: u64) -> Result<(u64, u64), ZipError> {
    // The end record is 22 bytes and may be followed by a comment of up to 65,535.
    let tail_length = length.min(22 + 65_535);
    let tail_start = length - tail_length;
    let tail = read_at(file, tail_start, tail_length)?;
    let signature = END.to_le_bytes();
    let at = tail.windows(22).rposition(|w| w.starts_with(&signature));
    let at = at.ok_or(ZipError::Truncated)?;
    let mut fields = Fields(&tail[at + 12..]);
    let (size, start) = (fields.u32()?, fields.u32()?);
    let end = tail_start + at as u64;
    if (size != u32::MAX && start != u32::MAX) || end < 20 {
        return Ok((u64::from(start), u64::from(size)));
    }
    let locator = read_at(file, end - 20, 20)?;
    let mut fields = Fields(&locator);
    if fields.u32()? != LOCATOR_64 {
        return damaged("large, but without the record for large files");
    }
    fields.u32()?;
    let at = fields.u64()?;
    if at.checked_add(56).is_none_or(|end| end > length) {
        return damaged("the record for large files is outside the file");
    }
    let record = read_at(file, at, 56)?;
    let mut fields = Fields(&record);
    if fields.u32()? != END_64 {
        return damaged("the record for large files is not where it should be");
    }
    let mut fields = Fields(&record[40..]);
    let (size, start) = (fields.u64()?, fields.u64()?);
    Ok((start, size))
}

/// One entry of the directory.
fn central(rest: &mut Fields<'_>) -> Result<(String, Entry), ZipError> {
    if rest.u32()? != CENTRAL {
        return damaged("the directory holds something else than entries");
    }
    rest.take(4)?;
    let flags = rest.u16()?;
    let method = rest.u16()?;
    rest.take(4)?;
    let crc = rest.u32()?;
    let mut stored = u64::from(rest.u32()?);
    let mut size = u64::from(rest.u32()?);
    let lengths = [rest.u16()?, rest.u16()?, rest.u16()?];
    rest.take(8)?;
    let mut header = u64::from(rest.u32()?);
    let name = rest.take(usize::from(lengths[0]))?;
    let name = String::from_utf8_lossy(name).into_owned();
    let mut extra = Fields(rest.take(usize::from(lengths[1]))?);
    rest.take(usize::from(lengths[2]))?;
    while extra.0.len() >= 4 {
        let (id, length) = (extra.u16()?, extra.u16()?);
        let mut field = Fields(extra.take(usize::from(length))?);
        if id == 1 {
            // Holds those of the three that did not fit into 32 bits.
            for value in [&mut size, &mut stored, &mut header] {
                if *value == u64::from(u32::MAX) {
                    *value = field.u64()?;
                }
            }
        }
    }
    let entry = Entry {
        method,
        encrypted: flags & 1 != 0,
        crc,
        stored,
        size,
        header,
    };
    Ok((name, entry))
}

/// Little-endian fields, one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], ZipError> {
        let Some((field, rest)) = self.0.split_at_checked(length) else {
            return damaged("a record ends early");
        };
        self.0 = rest;
        Ok(field)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ZipError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u16(&mut self) -> Result<u16, ZipError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, ZipError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, ZipError> {
        self.array().map(u64::from_le_bytes)
    }
}

/// Writes a zip file, one entry after the other. Sizes are always written in 64 bits.
pub(super) struct ZipWriter<W> {
    out: W,
    at: u64,
    directory: Vec<u8>,
    entries: u64,
}

impl<W: Write> ZipWriter<W> {
    pub fn new(out: W) -> Self {
        Self {
            out,
            at: 0,
            directory: Vec::new(),
            entries: 0,
        }
    }

    pub fn add(&mut self, name: &str, data: &[u8]) -> std::io::Result<()> {
        let (crc, size) = (crc32fast::hash(data), data.len() as u64);
        let mut sizes = Vec::with_capacity(20);
        sizes.extend(1u16.to_le_bytes());
        sizes.extend(16u16.to_le_bytes());
        sizes.extend(size.to_le_bytes());
        sizes.extend(size.to_le_bytes());
        // PyTorch's own padding field: "FB", a length, any bytes.
        let unpadded = self.at + 30 + name.len() as u64 + 20 + 4;
        let padding = (ALIGNMENT - unpadded % ALIGNMENT) % ALIGNMENT;
        let extra_length = 20 + 4 + padding as u16;
        let mut header = Vec::new();
        header.extend(LOCAL.to_le_bytes());
        header.extend(common(crc, name, extra_length));
        header.extend(name.as_bytes());
        header.extend(&sizes);
        header.extend(b"FB");
        header.extend((padding as u16).to_le_bytes());
        header.resize(header.len() + padding as usize, b'Z');

        self.directory.extend(CENTRAL.to_le_bytes());
        self.directory.extend(45u16.to_le_bytes()); // made by version 4.5
        self.directory.extend(common(crc, name, 28));
        self.directory.extend([0; 10]); // comment, disk, attributes
        self.directory.extend(u32::MAX.to_le_bytes());
        self.directory.extend(name.as_bytes());
        sizes[2..4].copy_from_slice(&24u16.to_le_bytes());
        sizes.extend(self.at.to_le_bytes());
        self.directory.extend(&sizes);

        self.out.write_all(&header)?;
        self.out.write_all(data)?;
        self.at += header.len() as u64 + size;
        self.entries += 1;
        Ok(())
    }

    /// Writes the directory.
    pub fn finish(mut self) -> std::io::Result<()> {
        let mut end = std::mem::take(&mut self.directory);
        let (size, start) = (end.len() as u64, self.at);
        end.extend(END_64.to_le_bytes());
        end.extend(44u64.to_le_bytes());
        end.extend([45, 0, 45, 0]);
        end.extend([0; 8]); // numbers of disks
        for value in [self.entries, self.entries, size, start] {
            end.extend(value.to_le_bytes());
        }
        end.extend(LOCATOR_64.to_le_bytes());
        end.extend(0u32.to_le_bytes());
        end.extend((start + size).to_le_bytes());
        end.extend(1u32.to_le_bytes());
        end.extend(END.to_le_bytes());
        end.extend([0; 4]);
        end.extend([0xff; 12]); // see the record above
        end.extend([0; 2]);
        self.out.write_all(&end)?;
        self.out.flush()
    }
}

/// The fields that local and central headers share, from the version needed to the length of the
/// extra field. Sizes are in that field.
fn common(crc: u32, name: &str, extra_length: u16) -> Vec<u8> {
    let mut fields = Vec::with_capacity(26);
    fields.extend(45u16.to_le_bytes());
    fields.extend(0x0800u16.to_le_bytes()); // names are UTF-8
    fields.extend([0; 2]); // stored
    fields.extend([0, 0, 0x21, 0]); // midnight, 1 January 1980
    fields.extend(crc.to_le_bytes());
    fields.extend([0xff; 8]);
    fields.extend((name.len() as u16).to_le_bytes());
    fields.extend(extra_length.to_le_bytes());
    fields
}
