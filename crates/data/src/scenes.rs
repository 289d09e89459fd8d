//! Scenes: pictures whose truth is known. Two to six pictograms on a generated background, described by a scene
//! graph, of which every text is a program's rendering: true, false or undecidable by construction.
//!
//! ```text
//! Scene   := Background Curtain? Object{2..6}
//! Object  := name category colour? size{small,large} maker tight-box      (boxes disjoint)
//! Query   := [size] [colour] (name | category) [half of the picture]
//! Program := exists(Q) | count(Q) = k | relation(Q, Q) | attribute(Q) | larger(Q, Q)  ->  True | False | Unknown
//! ```
//!
//! [`generate`] writes pictures and the annotation files of five tasks, in the formats in which their data sets are
//! published (COCO, VQAv2, SNLI-VE, NLVR2, RefCOCO) and in the lists that ALBEF's code reads. Labels and answers are
//! balanced so that neither text nor picture alone gives them away; [`check`] measures that with two baselines.
//!
//! In the folder of a split:
//!
//! | file | what it is |
//! |---|---|
//! | `images/`, `SPLIT-000000.tar` | pictures as files, as shards |
//! | `scenes.json` | scene graphs, captions with what is wrong with them |
//! | `captions.json`, `retrieval.json`, `coco_captions.json` | captions: ALBEF, one an entry, COCO |
//! | `vqa.json`, `v2_questions.json`, `v2_annotations.json`, `answer_list.json` | questions: ALBEF, VQAv2 |
//! | `ve.json`, `snli_ve.jsonl` | entailment: ALBEF, SNLI-VE |
//! | `nlvr.json`, `nlvr2.jsonl` | pairs: ALBEF, NLVR2 |
//! | `grounding.json`, `dets.json`, `refs.json`, `instances.json` | referring expressions: ALBEF, box proposals, RefCOCO |
//! | `texts.txt` | every different text, one a line: what a vocabulary is built from |
//! | `split.json`, `ATTRIBUTION.md` | options and numbers, who drew what |

mod background;
mod balance;
mod baselines;
mod captions;
mod colour;
mod compose;
mod draws;
mod entailment;
mod formats;
mod generate;
mod graph;
mod lexicon;
mod likeness;
mod names;
mod noise;
mod options;
mod pair_program;
mod pairs;
mod parallel;
mod phrases;
mod pictures;
mod pool;
mod program;
mod questions;
mod referring;
mod render;
mod report;
mod texts;
mod variants;

pub use background::Background;
pub use baselines::{CheckError, CheckReport, TaskCheck, check};
pub use captions::CaptionKind;
pub use entailment::{Hypothesis, Label};
pub use generate::{MadeSplit, ScenesError, generate};
pub use graph::{Category, Colour, Object, Region, Scene, Side, Size, Split};
pub use lexicon::LexiconError;
pub use noise::{Caption, Noise};
pub use options::{HeldOut, ScenesOptions, Storage};
pub use pair_program::PairProgram;
pub use pairs::PairStatement;
pub use program::{Attribute, Kind, Program, Query, Reading, Relation, Truth};
pub use questions::{Question, Template};
pub use referring::Referring;
pub use report::SplitReport;
