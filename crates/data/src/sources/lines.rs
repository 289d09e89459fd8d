//! Text files with one sentence a line: texts without pictures. Lines are read by offset when asked
//! for, so a file may be larger than memory.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::{Record, RecordTexts, Source, SourceError, glob, stable_hash};

/// Longest line in bytes: a file with a longer one is no list of sentences.
const LONGEST_LINE: u64 = 1 << 16;

/// Begins some text files; part of no sentence.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One line: where it lies.
#[derive(Debug)]
struct Line {
    file: u32,
    /// From 1.
    number: u64,
    offset: u64,
    size: u64,
}

/// The lines of text files that are not blank, in order.
#[derive(Debug)]
pub struct Lines {
    files: Vec<PathBuf>,
    lines: Vec<Line>,
}

impl Lines {
    /// Finds the lines of the files (patterns may hold `*`).
    ///
    /// # Errors
    /// When a file cannot be read or has a line of more than 65,536 bytes.
    pub fn open(patterns: &[PathBuf]) -> Result<Self, SourceError> {
        let mut source = Self {
            files: glob::expand(patterns)?,
            lines: Vec::new(),
        };
        for file in 0..source.files.len() {
            source.index(file)?;
        }
        Ok(source)
    }

    fn index(&mut self, file: usize) -> Result<(), SourceError> {
        let path = &self.files[file];
        let mut reader = BufReader::new(File::open(path).map_err(SourceError::io(path))?);
        let mut bytes = Vec::new();
        let mut offset = 0;
        for number in 1.. {
            bytes.clear();
            let size = (&mut reader)
                .take(LONGEST_LINE + 1)
                .read_until(b'\n', &mut bytes)
                .map_err(SourceError::io(path))? as u64;
            if size == 0 {
                return Ok(());
            }
            if size > LONGEST_LINE {
                return Err(SourceError::malformed(
                    path,
                    format!(
                        "line {number} is longer than {LONGEST_LINE} bytes; write one sentence a line"
                    ),
                ));
            }
            if !sentence(&bytes, offset).is_empty() {
                self.lines.push(Line {
                    file: file as u32,
                    number,
                    offset,
                    size,
                });
            }
            offset += size;
        }
        Ok(())
    }

    fn line(&self, index: usize) -> Result<(&Line, &Path), SourceError> {
        let line = self.lines.get(index).ok_or(SourceError::OutOfRange {
            index,
            len: self.lines.len(),
        })?;
        Ok((line, &self.files[line.file as usize]))
    }
}

/// The line without white space around it and, at the beginning of a file, its byte-order mark.
fn sentence(line: &[u8], offset: u64) -> &[u8] {
    let line = match offset {
        0 => line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line),
        _ => line,
    };
    line.trim_ascii()
}

impl Source for Lines {
    fn len(&self) -> usize {
        self.lines.len()
    }

    /// Fails: there is no picture.
    fn get(&self, index: usize) -> Result<Record, SourceError> {
        let (line, path) = self.line(index)?;
        Err(SourceError::NoPicture {
            key: key(line, path),
        })
    }

    fn texts(&self, index: usize) -> Result<RecordTexts, SourceError> {
        let (line, path) = self.line(index)?;
        let mut file = File::open(path).map_err(SourceError::io(path))?;
        // No larger than the longest line, which was checked when the file was indexed.
        let mut bytes = vec![0; line.size as usize];
        file.seek(SeekFrom::Start(line.offset))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(SourceError::io(path))?;
        let text = std::str::from_utf8(sentence(&bytes, line.offset)).map_err(|_| {
            SourceError::malformed(path, format!("line {}: not UTF-8 text", line.number))
        })?;
        let key = key(line, path);
        Ok(RecordTexts {
            captions: vec![text.to_owned()],
            image_id: stable_hash(key.as_bytes()),
            key,
        })
    }

    fn describe(&self) -> String {
        let files: Vec<String> = self.files.iter().map(|f| f.display().to_string()).collect();
        format!("{} lines of {}", self.lines.len(), files.join(", "))
    }
}

fn key(line: &Line, path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!("{name}:{}", line.number)
}
