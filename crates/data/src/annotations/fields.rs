//! The fields of one record, each asked for with the type it must have.

use std::path::Path;

use serde_json::{Map, Value};

use super::BadRecord;

/// One record and where it stands.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    file: &'a Path,
    record: usize,
    object: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// A record that must be an object.
    pub(super) fn of(file: &'a Path, record: usize, value: &'a Value) -> Result<Self, BadRecord> {
        match value {
            Value::Object(object) => Ok(Self {
                file,
                record,
                object,
            }),
            other => Err(BadRecord {
                file: file.to_owned(),
                record,
                field: "-".to_owned(),
                problem: format!("expected an object, found {}", named(other)),
            }),
        }
    }

    /// What is wrong with a field.
    pub(super) fn bad(&self, field: &str, problem: impl Into<String>) -> BadRecord {
        BadRecord {
            file: self.file.to_owned(),
            record: self.record,
            field: field.to_owned(),
            problem: problem.into(),
        }
    }

    fn wrong(&self, field: &str, expected: &str, found: &Value) -> BadRecord {
        self.bad(
            field,
            format!("expected {expected}, found {}", named(found)),
        )
    }

    /// A field, where null counts as absent.
    pub(super) fn get(&self, field: &str) -> Option<&'a Value> {
        self.object.get(field).filter(|value| !value.is_null())
    }

    pub(super) fn required(&self, field: &str) -> Result<&'a Value, BadRecord> {
        self.get(field).ok_or_else(|| {
            let there: Vec<&str> = self.object.keys().map(String::as_str).take(12).collect();
            self.bad(
                field,
                format!(
                    "missing; the record has {}",
                    if there.is_empty() {
                        "no fields".to_owned()
                    } else {
                        there.join(", ")
                    }
                ),
            )
        })
    }

    pub(super) fn text(&self, field: &str) -> Result<String, BadRecord> {
        let value = self.required(field)?;
        let text = value.as_str();
        text.map(str::to_owned)
            .ok_or_else(|| self.wrong(field, "a text", value))
    }

    /// A text that names a picture.
    pub(super) fn image(&self, field: &str) -> Result<String, BadRecord> {
        let image = self.text(field)?;
        if image.trim().is_empty() {
            return Err(self.bad(field, "expected the path of a picture, found an empty text"));
        }
        Ok(image)
    }

    pub(super) fn optional_text(&self, field: &str) -> Result<Option<String>, BadRecord> {
        self.get(field).map(|_| self.text(field)).transpose()
    }

    pub(super) fn texts(&self, field: &str) -> Result<Vec<String>, BadRecord> {
        let list = self.list(field)?;
        let texts = list.iter().map(|value| {
            let text = value.as_str().map(str::to_owned);
            text.ok_or_else(|| self.wrong(field, "a list of texts", value))
        });
        texts.collect()
    }

    pub(super) fn list(&self, field: &str) -> Result<&'a [Value], BadRecord> {
        let value = self.required(field)?;
        let list = value.as_array().map(Vec::as_slice);
        list.ok_or_else(|| self.wrong(field, "a list", value))
    }

    /// A whole number that is not negative.
    pub(super) fn number(&self, field: &str) -> Result<u64, BadRecord> {
        let value = self.required(field)?;
        whole(value).ok_or_else(|| self.wrong(field, "a whole number", value))
    }

    /// An identity that some authors write as a number and others as a text.
    pub(super) fn identity(&self, field: &str) -> Result<String, BadRecord> {
        match self.required(field)? {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) => Ok(number.to_string()),
            other => Err(self.wrong(field, "a number or a text", other)),
        }
    }

    /// A box: left, top, width, height.
    pub(super) fn region(&self, field: &str) -> Result<[f64; 4], BadRecord> {
        let value = self.required(field)?;
        region(value).ok_or_else(|| {
            self.wrong(
                field,
                "a box of four numbers (left, top, width, height; no negative lengths)",
                value,
            )
        })
    }

    /// The records of a field that is a list, each as part of this one.
    pub(super) fn parts(&self, field: &str) -> Result<Vec<Self>, BadRecord> {
        let parts = self.list(field)?.iter().map(|value| match value {
            Value::Object(object) => Ok(Self { object, ..*self }),
            other => Err(self.wrong(field, "a list of objects", other)),
        });
        parts.collect()
    }
}

/// A whole number that is not negative, also where its author wrote `7.0`.
fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let number = value.as_f64()?;
        (number >= 0.0 && number.fract() == 0.0 && number < 2f64.powi(53)).then_some(number as u64)
    })
}

/// The first four numbers of a list, as a box: detectors add a score or a class behind them.
pub(super) fn region(value: &Value) -> Option<[f64; 4]> {
    let list = value.as_array()?;
    let mut region = [0.0; 4];
    for (place, side) in region.iter_mut().enumerate() {
        *side = list.get(place)?.as_f64().filter(|side| side.is_finite())?;
    }
    (region[2] >= 0.0 && region[3] >= 0.0).then_some(region)
}

/// What a value is, to a person, cut short.
pub(super) fn named(value: &Value) -> String {
    let kind = match value {
        Value::Null => return "null".to_owned(),
        Value::Bool(_) => "",
        Value::Number(_) => "the number ",
        Value::String(_) => "the text ",
        Value::Array(list) => return format!("a list of {}", list.len()),
        Value::Object(_) => return "an object".to_owned(),
    };
    let mut text: String = value.to_string().chars().take(60).collect();
    if value.to_string().len() > text.len() {
        text.push('…');
    }
    format!("{kind}{text}")
}
