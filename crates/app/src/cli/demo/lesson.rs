//! A short training run on the sample, so that the losses are seen to fall.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use fitup_data::sources::SourceSpec;
use fitup_training::device;
use fitup_training::metrics::Event;
use fitup_training::recipe::Recipe;
use fitup_training::trainer::{Observer, RunOptions, pretrain};
use indicatif::{ProgressBar, ProgressStyle};

use super::album::train_shards;

/// Between two lines where there is no terminal to draw on.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Steps whose mean loss is shown: a single batch says little.
const MEAN_OF: usize = 20;
/// A busy machine may take longer than was asked for: without some steps there is no curve to draw.
const LEAST_STEPS: usize = 6;

/// What a run on the sample showed.
#[derive(Debug)]
pub(super) struct Lesson {
    /// All its steps.
    pub(super) events: Vec<Event>,
    pub(super) pairs: u64,
    pub(super) seconds: f64,
    /// Mean loss of the first and of the last steps.
    pub(super) loss: [f64; 2],
}

impl Lesson {
    pub(super) fn steps(&self) -> u64 {
        self.events.last().map_or(0, Event::step)
    }
}

/// Trains a new model of the recipe's sizes for so many seconds.
pub(super) fn train(shipped: &Recipe, samples: &Path, seconds: f64) -> Result<Lesson> {
    let folder = tempfile::tempdir()?;
    let recipe = recipe(shipped, samples);
    let options = RunOptions {
        folder: folder.path().to_owned(),
        resume: false,
        device: device::open("cpu")?,
        stop: Arc::new(AtomicBool::new(false)),
    };
    let bar = ProgressBar::new(seconds.ceil() as u64).with_style(ProgressStyle::with_template(
        "   {bar:30} {elapsed} of {len} s  {msg}",
    )?);
    let started = Instant::now();
    let mut observer = Watch {
        stop: options.stop.clone(),
        until: Duration::from_secs_f64(seconds),
        started,
        last_line: started,
        bar,
        pairs_per_step: 0,
        events: Vec::new(),
    };
    pretrain(&recipe, &options, &mut observer)?;
    observer.bar.finish_and_clear();
    let events = observer.events;
    let losses: Vec<f64> = events.iter().filter_map(total).collect();
    let some = MEAN_OF.min(losses.len() / 2).max(1).min(losses.len());
    Ok(Lesson {
        pairs: observer.pairs_per_step * events.len() as u64,
        seconds: started.elapsed().as_secs_f64(),
        loss: [mean(&losses[..some]), mean(&losses[losses.len() - some..])],
        events,
    })
}

/// The recipe of the shipped model with all objectives, on the sample, until it is stopped.
fn recipe(shipped: &Recipe, samples: &Path) -> Recipe {
    let mut recipe = shipped.clone();
    recipe.name = "demo".into();
    recipe.model.init_weights = None;
    recipe.data.train = SourceSpec::Shards {
        paths: vec![train_shards(samples)],
        on_truncated: Default::default(),
        limit: None,
    };
    recipe.data.validation = None;
    recipe.data.vocabulary = None;
    recipe.objectives.itc = true;
    recipe.objectives.itm = true;
    recipe.objectives.mlm = true;
    // What a long run needs would hide what a minute can show: no loss is held back, and the
    // momentum model stays close to a model that changes fast, without teaching it yet.
    recipe.objectives.fusion_start = 0;
    recipe.objectives.alpha = 0.0;
    recipe.objectives.momentum = recipe.objectives.momentum.min(0.9);
    let queue = 4 * recipe.data.batch_size;
    recipe.objectives.queue_size = recipe.objectives.queue_size.min(queue);
    recipe.schedule.warmup_steps = recipe.schedule.warmup_steps.min(20);
    // The time ends the run, not the steps: the learning rate stays where the warm-up leads it.
    recipe.run.steps = Some(1_000_000);
    recipe.run.checkpoint_every = 0;
    recipe.run.evaluate_every = 0;
    recipe
}

/// Stops the run when its time is over, and shows it until then.
struct Watch {
    stop: Arc<AtomicBool>,
    until: Duration,
    started: Instant,
    last_line: Instant,
    bar: ProgressBar,
    pairs_per_step: u64,
    events: Vec<Event>,
}

impl Observer for Watch {
    fn begin(&mut self, _start: u64, _total: u64, pairs_per_step: u64, _data: &str) {
        self.pairs_per_step = pairs_per_step;
    }

    fn step(&mut self, event: &Event) {
        self.events.push(event.clone());
        let elapsed = self.started.elapsed();
        if elapsed >= self.until && self.events.len() >= LEAST_STEPS {
            self.stop.store(true, Ordering::Relaxed);
        }
        let line = line(event);
        self.bar.set_position(elapsed.as_secs());
        if self.bar.is_hidden() && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            eprintln!("   {:3.0} s  {line}", elapsed.as_secs_f64());
        }
        self.bar.set_message(line);
    }
}

fn line(event: &Event) -> String {
    let Event::Step { step, numbers, .. } = event else {
        return String::new();
    };
    let part = |name: &str, value: Option<f64>| {
        value.map_or(String::new(), |value| format!("  {name} {value:.2}"))
    };
    format!(
        "step {step}  loss {:.2}{}{}{}",
        numbers.total,
        part("itc", numbers.itc),
        part("itm", numbers.itm),
        part("mlm", numbers.mlm)
    )
}

fn total(event: &Event) -> Option<f64> {
    match event {
        Event::Step { numbers, .. } => Some(numbers.total),
        _ => None,
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
