//! Documents read record by record: a list, lists under names of one object, an object of entries, lines.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::AnnotationError;

type Outcome = Result<(), AnnotationError>;

/// The outer form of an annotation file, told by its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A JSON list.
    List,
    /// A JSON object, or several, one a line.
    Object,
    /// A Python pickle.
    Pickle,
}

/// Tells the outer form of a file from its beginning.
///
/// # Errors
/// When it cannot be read, or begins like none of them.
pub fn shape(path: &Path) -> Result<Shape, AnnotationError> {
    let mut beginning = [0; 256];
    let read = open(path)?.read(&mut beginning).map_err(io(path))?;
    let beginning = &beginning[..read];
    let beginning = beginning.strip_prefix(b"\xef\xbb\xbf").unwrap_or(beginning);
    match beginning.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => Ok(Shape::List),
        Some(b'{') => Ok(Shape::Object),
        // The mark of protocols 2 and later, and how protocols 0 and 1 begin a list.
        Some(0x80 | b'(' | b']') => Ok(Shape::Pickle),
        None => Err(AnnotationError::malformed(
            path,
            "the file is empty; copy or download it again",
        )),
        Some(_) => Err(AnnotationError::malformed(
            path,
            "neither JSON nor a pickle; an archive must be unpacked, and a page of HTML is no download",
        )),
    }
}

/// Gives `each` every element of a document that is one list, with its number from 1.
pub(super) fn list(path: &Path, mut each: impl FnMut(usize, Value) -> Outcome) -> Outcome {
    let mut failed = None;
    let outcome = document(
        path,
        Elements {
            each: &mut |at, value| keep(each(at, value), &mut failed),
        },
    );
    failed.map_or(outcome, Err)
}

/// Gives `each` every element of the lists of these names in a document that is one object, with the list's place in
/// `names` and its number in the list from 1. What else the object holds is passed over.
///
/// Returns which of the names are there.
pub(super) fn lists_of<const N: usize>(
    path: &Path,
    names: [&str; N],
    each: impl FnMut(usize, usize, Value) -> Outcome,
) -> Result<[bool; N], AnnotationError> {
    lists_and_texts(path, names, [], each).map(|(found, [])| found)
}

/// As [`lists_of`], and what texts the object holds under these names.
pub(super) fn lists_and_texts<const N: usize, const T: usize>(
    path: &Path,
    names: [&str; N],
    texts: [&str; T],
    mut each: impl FnMut(usize, usize, Value) -> Outcome,
) -> Result<([bool; N], [Option<String>; T]), AnnotationError> {
    let mut found = [false; N];
    let mut values = [const { None }; T];
    let mut failed = None;
    let outcome = document(
        path,
        Lists {
            names: &names,
            found: &mut found,
            texts: &texts,
            values: &mut values,
            each: &mut |list, at, value| keep(each(list, at, value), &mut failed),
        },
    );
    failed.map_or(outcome, Err)?;
    Ok((found, values))
}

/// Gives `each` every entry of a document that is one object: number from 1, name, value.
pub(super) fn entries(path: &Path, mut each: impl FnMut(usize, &str, Value) -> Outcome) -> Outcome {
    let mut failed = None;
    let outcome = document(
        path,
        Entries {
            each: &mut |at, name, value| keep(each(at, name, value), &mut failed),
        },
    );
    failed.map_or(outcome, Err)
}

/// The first element of a document that is one list; what follows is not read.
pub(super) fn first(path: &Path) -> Result<Option<Value>, AnnotationError> {
    let mut first = None;
    let outcome = document(
        path,
        Elements {
            each: &mut |_, value| {
                first = Some(value);
                false
            },
        },
    );
    // Stopping early is an error to the deserializer.
    first.map_or(outcome.map(|()| None), |first| Ok(Some(first)))
}

/// The first element of the list of this name in a document that is one object; what follows is not read.
pub(super) fn first_of(path: &Path, name: &str) -> Result<Option<Value>, AnnotationError> {
    let mut first = None;
    let outcome = document(
        path,
        Lists {
            names: &[name],
            found: &mut [false],
            texts: &[],
            values: &mut [],
            each: &mut |_, _, value| {
                first = Some(value);
                false
            },
        },
    );
    first.map_or(outcome.map(|()| None), |first| Ok(Some(first)))
}

/// Gives `each` every line that is not blank, with its number from 1.
pub(super) fn lines(path: &Path, mut each: impl FnMut(usize, Value) -> Outcome) -> Outcome {
    for (at, line) in BufReader::new(open(path)?).lines().enumerate() {
        let line = line.map_err(io(path))?;
        if line.trim().is_empty() {
            continue;
        }
        let value = serde_json::from_str(&line).map_err(|error| {
            AnnotationError::malformed(
                path,
                format!("line {}: expected one JSON object a line: {error}", at + 1),
            )
        })?;
        each(at + 1, value)?;
    }
    Ok(())
}

/// Gives `each` every element of a pickled list, with its number from 1.
pub(super) fn pickled(path: &Path, mut each: impl FnMut(usize, Value) -> Outcome) -> Outcome {
    // Python 2 wrote these files, whose texts are bytes.
    let options = serde_pickle::DeOptions::new().decode_strings();
    let list: Vec<Value> = serde_pickle::from_reader(BufReader::new(open(path)?), options)
        .map_err(|error| {
            AnnotationError::malformed(path, format!("expected a pickled list of records: {error}"))
        })?;
    for (at, value) in list.into_iter().enumerate() {
        each(at + 1, value)?;
    }
    Ok(())
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> AnnotationError {
    let path = path.to_owned();
    move |source| AnnotationError::Io { path, source }
}

fn open(path: &Path) -> Result<File, AnnotationError> {
    File::open(path).map_err(io(path))
}

/// Whether to go on. A record's own error waits in `failed`, since the deserializer can only fail with one of its own.
fn keep(outcome: Outcome, failed: &mut Option<AnnotationError>) -> bool {
    match outcome {
        Ok(()) => true,
        Err(error) => {
            *failed = Some(error);
            false
        }
    }
}

/// Feeds a whole document to a visitor.
fn document(path: &Path, visitor: impl for<'de> Visitor<'de, Value = ()>) -> Outcome {
    let mut reader = BufReader::with_capacity(1 << 20, open(path)?);
    if reader
        .fill_buf()
        .map_err(io(path))?
        .starts_with(b"\xef\xbb\xbf")
    {
        reader.consume(3);
    }
    let mut deserializer = serde_json::Deserializer::from_reader(reader);
    deserializer
        .deserialize_any(visitor)
        .and_then(|()| deserializer.end())
        .map_err(|error| {
            let cut = if error.is_eof() {
                "; the file ends too early, copy or download it again"
            } else {
                ""
            };
            AnnotationError::malformed(path, format!("{error}{cut}"))
        })
}

/// The error that ends a document early; [`keep`] holds the true one.
fn stopped<E: serde::de::Error>() -> E {
    E::custom("stopped")
}

/// The elements of a list.
struct Elements<'a> {
    each: &'a mut dyn FnMut(usize, Value) -> bool,
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut at = 0;
        while let Some(value) = list.next_element()? {
            at += 1;
            if !(self.each)(at, value) {
                return Err(stopped());
            }
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Elements<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// What is told of an element: which list, which place, the element.
type EachOfLists<'a> = &'a mut dyn FnMut(usize, usize, Value) -> bool;

/// The elements of named lists of an object.
struct Lists<'a> {
    names: &'a [&'a str],
    found: &'a mut [bool],
    texts: &'a [&'a str],
    values: &'a mut [Option<String>],
    each: EachOfLists<'a>,
}

impl<'de> Visitor<'de> for Lists<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with {}", self.names.join(" or "))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        while let Some(name) = object.next_key::<String>()? {
            if let Some(text) = self.texts.iter().position(|known| *known == name) {
                self.values[text] = match object.next_value()? {
                    Value::String(value) => Some(value),
                    _ => None,
                };
                continue;
            }
            let Some(list) = self.names.iter().position(|known| *known == name) else {
                object.next_value::<IgnoredAny>()?;
                continue;
            };
            self.found[list] = true;
            let each = &mut *self.each;
            object.next_value_seed(Elements {
                each: &mut |at, value| each(list, at, value),
            })?;
        }
        Ok(())
    }
}

/// The entries of an object.
struct Entries<'a> {
    each: &'a mut dyn FnMut(usize, &str, Value) -> bool,
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with an entry for each picture")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let mut at = 0;
        while let Some((name, value)) = object.next_entry::<String, Value>()? {
            at += 1;
            if !(self.each)(at, &name, value) {
                return Err(stopped());
            }
        }
        Ok(())
    }
}
