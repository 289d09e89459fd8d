//! Which samples were left out, and why.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// Names kept in a report; the counts go on.
const EXAMPLES: usize = 20;

/// Why a sample could not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SkipReason {
    /// The source could not read the record.
    Unreadable,
    /// The picture does not decode, or exceeds the limits.
    BadImage,
    /// No caption, or nothing of it left after cleaning.
    EmptyCaption,
    /// A question without an answer to learn.
    NoAnswer,
    /// Decoder or transform panicked: a defect, but not one that should end a run of days.
    Panicked,
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreadable => "unreadable",
            Self::BadImage => "bad image",
            Self::EmptyCaption => "empty caption",
            Self::NoAnswer => "no answer",
            Self::Panicked => "panicked",
        })
    }
}

/// One sample that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SkippedSample {
    /// The record's key, or its index when it could not be read.
    pub key: String,
    /// The kind of fault.
    pub reason: SkipReason,
    /// The fault in words.
    pub detail: String,
}

/// How many samples were tried and how many of them could not be used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SkipReport {
    /// Samples tried, usable or not; a record counts each time it comes up.
    pub seen: u64,
    /// Samples that could not be used.
    pub skipped: u64,
    /// The same by reason.
    pub by_reason: BTreeMap<SkipReason, u64>,
    /// The first different ones, at most 20.
    pub examples: Vec<SkippedSample>,
}

impl SkipReport {
    /// Skipped samples per sample tried, in [0, 1].
    pub fn share(&self) -> f64 {
        if self.seen == 0 {
            0.0
        } else {
            self.skipped as f64 / self.seen as f64
        }
    }

    pub(super) fn add(&mut self, tally: Tally) {
        self.seen += tally.seen;
        self.skipped += tally.skipped.len() as u64;
        for sample in tally.skipped {
            *self.by_reason.entry(sample.reason).or_default() += 1;
            if self.examples.len() < EXAMPLES && !self.examples.contains(&sample) {
                self.examples.push(sample);
            }
        }
    }
}

impl fmt::Display for SkipReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} samples skipped", self.skipped, self.seen)?;
        for (at, (reason, count)) in self.by_reason.iter().enumerate() {
            write!(f, "{}{count} {reason}", if at == 0 { " (" } else { ", " })?;
        }
        if !self.by_reason.is_empty() {
            f.write_str(")")?;
        }
        for sample in &self.examples {
            write!(
                f,
                "\n  {}: {}: {}",
                sample.key, sample.reason, sample.detail
            )?;
        }
        Ok(())
    }
}

/// What one batch adds to the report.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) seen: u64,
    pub(super) skipped: Vec<SkippedSample>,
}
