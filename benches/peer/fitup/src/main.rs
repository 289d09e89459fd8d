//! fitup's side of the side-by-side benchmark (`benches/peer`).
//!
//! `fitup-bench work FOLDER` sets up the work that `FOLDER/workload.json` describes, prints
//! `ready`, and answers one line for each line on standard input:
//!
//! | line | does | answer |
//! |---|---|---|
//! | `run` | the work once | `seconds S` |
//! | `outputs PATH` | writes what the last run computed, as safetensors | `written` |
//! | `reset` | forgets the peak of memory so far | `reset` |
//! | `memory` | | `peak BYTES`, or `peak unknown` |
//!
//! `fitup-bench batches FOLDER` writes real batches of a recipe's data for both sides.

mod batches;
mod encoding;
mod memory;
mod photos;
mod reranking;
mod search;
mod step;
mod tensors;

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail};
use fitup_kernels::allocation;
use serde::Deserialize;

use tensors::Outputs;

/// As the program `fitup` has it.
#[global_allocator]
static ALLOCATOR: allocation::Allocator = allocation::ALLOCATOR;

/// Work that both sides do.
trait Work {
    /// Does it once, to the end: nothing is left to a queue.
    fn run(&mut self) -> anyhow::Result<()>;
    /// What the last run computed.
    fn outputs(&self) -> Outputs;
}

/// `workload.json`.
#[derive(Debug, Deserialize)]
#[serde(tag = "work", rename_all = "snake_case")]
enum Workload {
    AlbefStep(step::Settings),
    ImageEncoding(encoding::ImageSettings),
    TextEncoding(encoding::TextSettings),
    Reranking(reranking::Settings),
    Search(search::Settings),
    Photos(photos::Settings),
}

impl Workload {
    fn set_up(self, folder: &Path) -> anyhow::Result<Box<dyn Work>> {
        Ok(match self {
            Self::AlbefStep(settings) => Box::new(step::AlbefStep::new(settings, folder)?),
            Self::ImageEncoding(settings) => {
                Box::new(encoding::ImageEncoding::new(&settings, folder)?)
            }
            Self::TextEncoding(settings) => {
                Box::new(encoding::TextEncoding::new(&settings, folder)?)
            }
            Self::Reranking(settings) => Box::new(reranking::Reranking::new(settings, folder)?),
            Self::Search(settings) => Box::new(search::Search::new(settings, folder)?),
            Self::Photos(settings) => Box::new(photos::Photos::new(settings, folder)?),
        })
    }
}

fn main() -> anyhow::Result<()> {
    allocation::keep_freed_memory();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [command, folder] if command == "work" => work(Path::new(folder)),
        [command, folder] if command == "batches" => batches::write(Path::new(folder)),
        _ => bail!("usage: fitup-bench work|batches FOLDER"),
    }
}

fn work(folder: &Path) -> anyhow::Result<()> {
    let workload: Workload = tensors::json(&folder.join("workload.json"))?;
    let mut work = workload.set_up(folder)?;
    answer("ready")?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("run", "") => {
                let start = Instant::now();
                work.run()?;
                answer(&format!("seconds {}", start.elapsed().as_secs_f64()))?;
            }
            ("outputs", path) => {
                work.outputs().write(Path::new(path))?;
                answer("written")?;
            }
            ("reset", "") => {
                memory::reset_peak();
                answer("reset")?;
            }
            ("memory", "") => match memory::peak() {
                Some(bytes) => answer(&format!("peak {bytes}"))?,
                None => answer("peak unknown")?,
            },
            _ => bail!("unknown line {line:?}"),
        }
    }
    Ok(())
}

fn answer(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").context("the driver is gone")?;
    out.flush().context("the driver is gone")
}
