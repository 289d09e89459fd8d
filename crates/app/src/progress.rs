//! What a person sees while something takes long: a live line on a terminal, plain lines in a
//! file or pipe.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fitup_data::loader::SkipReport;
use fitup_models::weights::initial::InitialReport;
use fitup_training::metrics::Event;
use fitup_training::trainer::{Observer, StepNumbers};
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

/// Weight of the newest step in the numbers of the live line, which would flicker otherwise.
const SMOOTHING: f64 = 0.1;

/// A live bar on standard error.
fn bar(total: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("━╸─"));
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

/// A bar that starts anew with every phase; shown on a terminal only.
#[derive(Debug, Default)]
pub struct Phases {
    phase: String,
    bar: Option<ProgressBar>,
}

impl Phases {
    /// `done` of `all` in the phase of this name.
    pub fn show(&mut self, phase: &str, done: usize, all: usize) {
        if !std::io::stderr().is_terminal() {
            return;
        }
        if self.phase != phase {
            self.clear();
            phase.clone_into(&mut self.phase);
            let bar = bar(
                all as u64,
                "{msg:<12} {bar:30} {pos}/{len}  {elapsed} spent, {eta} left",
            );
            bar.set_message(phase.to_owned());
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        }
    }

    /// Takes the bar off the screen.
    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// Shows a training run, and remembers its last numbers.
#[derive(Debug)]
pub struct RunDisplay {
    /// The last training step.
    pub last_step: Option<Event>,
    /// The last evaluation.
    pub last_evaluation: Option<Event>,
    /// The last checkpoint.
    pub checkpoint: Option<PathBuf>,
    /// What the run took from published encoders.
    pub encoders: Vec<Value>,
    begun: Instant,
    start: u64,
    total: u64,
    log_every: u64,
    /// Standard output is for one JSON document.
    json: bool,
    live: bool,
    bar: Option<ProgressBar>,
    smooth: Option<StepNumbers>,
}

impl RunDisplay {
    /// Live on a terminal; elsewhere one line every `log_every` steps.
    pub fn new(json: bool, log_every: u64) -> Self {
        let live = std::io::stderr().is_terminal() && (json || std::io::stdout().is_terminal());
        Self {
            last_step: None,
            last_evaluation: None,
            checkpoint: None,
            encoders: Vec::new(),
            begun: Instant::now(),
            start: 0,
            total: 0,
            log_every: log_every.max(1),
            json,
            live,
            bar: None,
            smooth: None,
        }
    }

    /// Steps taken.
    pub fn step(&self) -> u64 {
        self.last_step.as_ref().map_or(self.start, Event::step)
    }

    /// Takes the live line off the screen.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn line(&self, text: &str) {
        match (&self.bar, self.json) {
            (Some(bar), _) => bar.println(text),
            (None, true) => eprintln!("{text}"),
            (None, false) => println!("{text}"),
        }
    }
}

impl Observer for RunDisplay {
    fn warning(&mut self, text: &str) {
        eprintln!("warning: {text}");
    }

    fn encoder(&mut self, file: &Path, report: &InitialReport) {
        self.line(&format!("from {}: {report}", file.display()));
        self.encoders.push(json!({
            "file": file,
            "taken": report.taken.len(),
            "fresh": report.fresh,
            "dropped": report.dropped,
            "fitted": report.fitted,
        }));
    }

    fn start(&mut self, event: &Event) {
        let Event::Start {
            init_weights,
            report,
            frozen,
            ..
        } = event
        else {
            return;
        };
        if let (Some(path), Some(report)) = (init_weights, report) {
            self.line(&format!("from {}: {report}", path.display()));
        }
        if !frozen.is_empty() {
            self.line(&format!("{} tensors are frozen", frozen.len()));
        }
    }

    fn begin(&mut self, start: u64, total: u64, pairs_per_step: u64, data: &str) {
        (self.start, self.total, self.begun) = (start, total, Instant::now());
        if self.live {
            let bar = bar(
                total,
                "{bar:24} {pos}/{len}  {prefix}  {elapsed} spent, {eta} left\n{wide_msg}",
            );
            bar.set_position(start);
            // Steps of an earlier process are no measure of this one's speed.
            bar.reset_eta();
            self.bar = Some(bar);
        }
        let from = match start {
            0 => String::new(),
            start => format!(", resumed at step {start}"),
        };
        self.line(&format!(
            "{total} steps of {pairs_per_step} records{from}; {data}"
        ));
    }

    fn step(&mut self, event: &Event) {
        let Event::Step {
            step,
            numbers,
            pairs_per_second,
            ..
        } = event
        else {
            return;
        };
        self.last_step = Some(event.clone());
        if let Some(bar) = &self.bar {
            let shown = match &self.smooth {
                Some(before) => blend(before, numbers),
                None => numbers.clone(),
            };
            bar.set_prefix(speed(*pairs_per_second));
            bar.set_message(describe(&shown));
            bar.set_position(*step);
            self.smooth = Some(shown);
        } else if step.is_multiple_of(self.log_every) || *step == self.total {
            let (numbers, speed) = (describe(numbers), speed(*pairs_per_second));
            let taken = (step - self.start).max(1) as f64;
            let left = (self.total - step) as f64 * self.begun.elapsed().as_secs_f64() / taken;
            self.line(&format!(
                "step {step}/{}  {numbers}  {speed}  {} left",
                self.total,
                HumanDuration(Duration::from_secs_f64(left))
            ));
        }
    }

    fn evaluation(&mut self, event: &Event) {
        let Some(text) = scores(event) else {
            return;
        };
        self.line(&text);
        self.last_evaluation = Some(event.clone());
    }

    fn checkpoint(&mut self, path: &Path) {
        self.line(&format!("saved {}", path.display()));
        self.checkpoint = Some(path.to_owned());
    }

    fn end(&mut self, skipped: &SkipReport) {
        if skipped.skipped > 0 {
            self.line(&skipped.to_string());
        }
    }
}

/// An evaluation in a line; `None` for other events, and where nothing was ranked.
fn scores(event: &Event) -> Option<String> {
    let text = match event {
        Event::Evaluation {
            step,
            result,
            seconds,
        } => {
            let scores = &result.last_ranking()?.official;
            format!(
                "step {step}: text retrieval R@1/5/10 {:.1}/{:.1}/{:.1}, image retrieval {:.1}/{:.1}/{:.1} ({}; {seconds:.0} s)",
                scores.txt_r1,
                scores.txt_r5,
                scores.txt_r10,
                scores.img_r1,
                scores.img_r5,
                scores.img_r10,
                result.protocol
            )
        }
        Event::MaskedPrediction {
            step,
            scores,
            seconds,
        } => format!(
            "step {step}: {:.1} % of what is masked predicted right, always the most frequent {:.1} %, loss {:.3} ({}; {seconds:.0} s)",
            100.0 * scores.accuracy,
            100.0 * scores.majority,
            scores.loss,
            scores.protocol
        ),
        Event::Tokenization {
            step,
            scores,
            seconds,
        } => format!(
            "step {step}: mean squared error {:.4}, {} of {} visual tokens used, perplexity {:.1} ({} images; {seconds:.0} s)",
            scores.reconstruction,
            scores.codes_used,
            scores.codes,
            scores.perplexity,
            scores.images
        ),
        Event::Answers {
            step,
            scores,
            seconds,
        } => format!(
            "step {step}: accuracy {:.2} % ({}; {seconds:.0} s)",
            scores.accuracy, scores.protocol
        ),
        Event::Classes {
            step,
            scores,
            seconds,
        } => format!(
            "step {step}: accuracy {:.2} % ({}; {seconds:.0} s)",
            scores.accuracy, scores.protocol
        ),
        Event::Start { .. } | Event::Step { .. } | Event::Skipped { .. } => return None,
    };
    Some(text)
}

fn speed(pairs_per_second: f64) -> String {
    format!("{pairs_per_second:.0} records/s")
}

/// The numbers of a step, short enough for a narrow terminal.
fn describe(numbers: &StepNumbers) -> String {
    let mut parts = vec![format!("loss {:.3}", numbers.total)];
    for (name, loss) in [
        ("itc", numbers.itc),
        ("itm", numbers.itm),
        ("mlm", numbers.mlm),
        ("mim", numbers.mim),
        ("error", numbers.reconstruction),
    ] {
        parts.extend(loss.map(|loss| format!("{name} {loss:.3}")));
    }
    for (name, share) in [
        ("itm acc", numbers.itm_accuracy),
        ("batch R@1", numbers.batch_r1),
        ("masked acc", numbers.masked_accuracy),
        ("acc", numbers.accuracy),
    ] {
        parts.extend(share.map(|share| format!("{name} {:.0} %", 100.0 * share)));
    }
    parts.extend(numbers.codes_used.map(|codes| format!("tokens {codes:.0}")));
    parts.join("  ")
}

/// A running mean of what both have; what the newer lacks is left out.
fn blend(before: &StepNumbers, now: &StepNumbers) -> StepNumbers {
    let mix = |before: f64, now: f64| before + SMOOTHING * (now - before);
    let part = |before: Option<f64>, now: Option<f64>| match (before, now) {
        (Some(before), Some(now)) => Some(mix(before, now)),
        (_, now) => now,
    };
    StepNumbers {
        total: mix(before.total, now.total),
        itc: part(before.itc, now.itc),
        itm: part(before.itm, now.itm),
        mlm: part(before.mlm, now.mlm),
        mim: part(before.mim, now.mim),
        reconstruction: part(before.reconstruction, now.reconstruction),
        masked_accuracy: part(before.masked_accuracy, now.masked_accuracy),
        codes_used: part(before.codes_used, now.codes_used),
        accuracy: part(before.accuracy, now.accuracy),
        itm_accuracy: part(before.itm_accuracy, now.itm_accuracy),
        batch_r1: part(before.batch_r1, now.batch_r1),
        temp: now.temp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_that_are_off_are_not_shown() {
        let numbers = StepNumbers {
            total: 2.5,
            itm: Some(0.5),
            itm_accuracy: Some(0.75),
            ..StepNumbers::default()
        };
        assert_eq!(describe(&numbers), "loss 2.500  itm 0.500  itm acc 75 %");
    }

    #[test]
    fn the_live_line_is_a_running_mean() {
        let with = |itc| StepNumbers {
            total: 1.0,
            itc,
            ..StepNumbers::default()
        };
        assert_eq!(blend(&with(Some(2.0)), &with(Some(1.0))).itc, Some(1.9));
        assert_eq!(blend(&with(None), &with(Some(1.0))).itc, Some(1.0));
        assert_eq!(blend(&with(Some(2.0)), &with(None)).itc, None);
    }
}
