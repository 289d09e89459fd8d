//! The report of a run: one self-contained page drawn from `metrics.jsonl` and `recipe.toml`.

pub mod chart;
pub mod page;
mod stage;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use fitup_index::metrics::RetrievalMetrics;

use crate::metrics::{self, Event, MetricsError};
use crate::tasks::retrieval::RetrievalResult;
use crate::trainer::StepNumbers;
use chart::{Chart, Series, Stroke, significant, thousands};
use page::{escape, page, write_page};

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The log cannot be read.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// Not the folder of a run, or it cannot be read.
    #[error("{path}: {source}; a report needs the folder that a pre-training run wrote")]
    Recipe {
        /// The recipe that was looked for.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The page cannot be written.
    #[error("{path}: {source}")]
    Write {
        /// The page.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Writes `report.html` into the folder of a run, whole or not at all, and returns its path. A run
/// that has logged nothing yet gets a page that says so.
///
/// # Errors
/// [`ReportError`], naming the file.
pub fn write(run: &Path) -> Result<PathBuf, ReportError> {
    let recipe = run.join("recipe.toml");
    let recipe = std::fs::read_to_string(&recipe).map_err(|source| ReportError::Recipe {
        path: recipe,
        source,
    })?;
    let events = metrics::read(&run.join("metrics.jsonl"))?;
    let path = run.join("report.html");
    write_page(&path, &render(&events, &recipe)).map_err(|source| ReportError::Write {
        path: path.clone(),
        source,
    })?;
    Ok(path)
}

/// The page of these events under this recipe.
fn render(events: &[Event], recipe: &str) -> String {
    let name = toml::from_str::<toml::Table>(recipe).ok();
    let name = name.and_then(|table| Some(table.get("name")?.as_str()?.to_owned()));
    let name = name.unwrap_or_else(|| "run".into());
    let mut body = format!("<h1>{}</h1>\n", escape(&name));
    body += &summary(events);
    body += &stage::start(events);
    body += &format!(
        "<h2>Losses</h2>\n<div class=\"charts\">\n{}</div>\n",
        losses(events)
    );
    body += &format!(
        "<h2>Progress</h2>\n<div class=\"charts\">\n{}</div>\n",
        progress(events)
    );
    body += &evaluations(events);
    body += &stage::masked(events);
    body += &stage::tokenizer(events);
    body += &stage::task(events);
    body += &skipped(events);
    let _ = write!(
        body,
        "<h2>Recipe</h2>\n<p class=\"soft\">As resolved: defaults and overrides included.</p>\n\
         <pre>{}</pre>\n",
        escape(recipe)
    );
    page(&format!("{name} - fitup report"), "", &body)
}

/// Points of the steps that have a value.
fn steps(
    events: &[Event],
    value: impl Fn(&StepNumbers, f64, f64) -> Option<f64>,
) -> Vec<(f64, f64)> {
    let point = |event: &Event| match event {
        Event::Step {
            step,
            numbers,
            lr,
            pairs_per_second,
            ..
        } => Some((*step as f64, value(numbers, *lr, *pairs_per_second)?)),
        _ => None,
    };
    events.iter().filter_map(point).collect()
}

/// The loss curves: all losses together, then each alone.
///
/// Public for pages that show a run without being its report.
pub fn losses(events: &[Event]) -> String {
    type Part = fn(&StepNumbers) -> Option<f64>;
    let parts: [(&str, &str, Part); 6] = [
        ("total", "All losses, weighted sum", |n| Some(n.total)),
        ("ITC", "Contrastive (ITC)", |n| n.itc),
        ("ITM", "Matching (ITM)", |n| n.itm),
        ("MLM", "Masked words (MLM)", |n| n.mlm),
        ("MIM", "Masked patches (MIM)", |n| n.mim),
        ("error", "Pixels given back (mean squared error)", |n| {
            n.reconstruction
        }),
    ];
    let mut html = String::new();
    for (color, (name, title, part)) in parts.into_iter().enumerate() {
        html += &Chart {
            title: title.into(),
            x_label: "step".into(),
            y_label: "loss (nats)".into(),
            from_zero: false,
            series: vec![Series {
                name: name.into(),
                points: steps(events, |numbers, _, _| part(numbers)),
                color,
                stroke: Stroke::Smoothed,
            }],
        }
        .render();
    }
    html
}

fn progress(events: &[Event]) -> String {
    let series = |name: &str, color, stroke, points| Series {
        name: name.into(),
        points,
        color,
        stroke,
    };
    let percent = |share: Option<f64>| share.map(|x| 100.0 * x);
    let chart = |title: &str, y_label: &str, series: Vec<Series>| {
        Chart {
            title: title.into(),
            x_label: "step".into(),
            y_label: y_label.into(),
            from_zero: true,
            series,
        }
        .render()
    };
    let accuracy = steps(events, |n, _, _| percent(n.itm_accuracy));
    let r1 = steps(events, |n, _, _| percent(n.batch_r1));
    let masked = steps(events, |n, _, _| percent(n.masked_accuracy));
    [
        chart(
            "Inside the batch",
            "%",
            vec![
                series("matching decisions right", 2, Stroke::Smoothed, accuracy),
                series("image finds its text (R@1)", 1, Stroke::Smoothed, r1),
                series("masked parts right", 0, Stroke::Smoothed, masked),
            ],
        ),
        chart(
            "Learning rate",
            "learning rate",
            vec![series(
                "lr",
                4,
                Stroke::Solid,
                steps(events, |_, lr, _| Some(lr)),
            )],
        ),
        chart(
            "Temperature",
            "temperature",
            vec![series(
                "temp",
                3,
                Stroke::Solid,
                steps(events, |n, _, _| Some(n.temp)),
            )],
        ),
        chart(
            "Speed",
            "pairs per second",
            vec![series(
                "records/s",
                0,
                Stroke::Smoothed,
                steps(events, |_, _, p| Some(p)),
            )],
        ),
    ]
    .concat()
}

/// What one wants to know first, as tiles.
fn summary(events: &[Event]) -> String {
    let last = events.iter().rev().find_map(|event| match event {
        Event::Step {
            step,
            epoch,
            numbers,
            seconds,
            ..
        } => Some((*step, *epoch, numbers, *seconds)),
        _ => None,
    });
    let Some((step, epoch, numbers, seconds)) = last else {
        return "<p>No step is logged yet: the first line comes after <code>run.log_every</code> \
                steps.</p>\n"
            .into();
    };
    let speeds = steps(events, |_, _, p| Some(p));
    let speed = speeds.iter().map(|(_, p)| p).sum::<f64>() / speeds.len() as f64;
    let mut tiles = vec![
        (
            thousands(&step.to_string()),
            format!("steps, in epoch {}", epoch + 1),
        ),
        (duration(seconds), "of training".into()),
        (significant(speed), "pairs per second".into()),
        (
            significant(numbers.total),
            "loss at the last logged step".into(),
        ),
    ];
    if let Some((_, result)) = results(events).last()
        && let Some(best) = result.last_ranking()
    {
        let how = if result.reranked.is_some() {
            "re-ranked"
        } else {
            "contrastive"
        };
        tiles.push((
            format!("{:.1} %", best.official.img_r1),
            format!("text-to-image R@1, {how}"),
        ));
        tiles.push((
            format!("{:.1} %", best.official.txt_r1),
            format!("image-to-text R@1, {how}"),
        ));
    }
    let tiles: String = tiles
        .iter()
        .map(|(value, what)| format!("<div class=\"tile\"><b>{value}</b><span>{what}</span></div>"))
        .collect();
    format!("<div class=\"tiles\">{tiles}</div>\n")
}

fn results(events: &[Event]) -> Vec<(u64, &RetrievalResult)> {
    let result = |event| match event {
        &Event::Evaluation {
            step, ref result, ..
        } => Some((step, result.as_ref())),
        _ => None,
    };
    events.iter().filter_map(result).collect()
}

/// Recalls at 1, 5 and 10 in one direction.
type Recalls = fn(&RetrievalMetrics) -> [f64; 3];
const TEXT_TO_IMAGE: Recalls = |m| [m.img_r1, m.img_r5, m.img_r10];
const IMAGE_TO_TEXT: Recalls = |m| [m.txt_r1, m.txt_r5, m.txt_r10];

fn evaluations(events: &[Event]) -> String {
    let results = results(events);
    let Some((step, last)) = results.last() else {
        return String::new();
    };
    let chart = |title: &str, recalls: Recalls| {
        let mut series = Vec::new();
        for (color, k) in [1, 5, 10].into_iter().enumerate() {
            let points = |of: fn(&RetrievalResult) -> Option<&RetrievalMetrics>| {
                let value = |(step, result): &(u64, &RetrievalResult)| {
                    Some((*step as f64, recalls(of(result)?)[color]))
                };
                results.iter().filter_map(value).collect()
            };
            series.push(Series {
                name: format!("R@{k} re-ranked"),
                points: points(|result| result.reranked.as_ref().map(|r| &r.official)),
                color,
                stroke: Stroke::Solid,
            });
            series.push(Series {
                name: format!("R@{k} ITC"),
                points: points(|result| result.itc.as_ref().map(|r| &r.official)),
                color,
                stroke: Stroke::Dashed,
            });
        }
        Chart {
            title: title.into(),
            x_label: "step".into(),
            y_label: "recall (%)".into(),
            from_zero: true,
            series,
        }
        .render()
    };
    format!(
        "<h2>Retrieval</h2>\n<p>Protocol: {}. Below, the values at step {}.</p>\n{}\
         <div class=\"charts\">\n{}{}</div>\n",
        escape(&last.protocol),
        thousands(&step.to_string()),
        recall_table(last),
        chart("Text to image", TEXT_TO_IMAGE),
        chart("Image to text", IMAGE_TO_TEXT),
    )
}

fn recall_table(result: &RetrievalResult) -> String {
    let rankings = [
        ("Contrastive (ITC)", &result.itc),
        ("Matching (ITM)", &result.reranked),
    ];
    let rows = rankings.into_iter().filter_map(|(name, ranking)| {
        let ranking = ranking.as_ref()?;
        Some([
            (name, &ranking.official),
            ("equal captions right", &ranking.equal_captions),
        ])
    });
    let mut html = String::from(
        "<div class=\"scroll\"><table>\n<thead><tr><th scope=\"col\">ranking</th>\
         <th scope=\"col\">text to image R@1</th><th scope=\"col\">R@5</th><th scope=\"col\">R@10</th>\
         <th scope=\"col\">image to text R@1</th><th scope=\"col\">R@5</th><th scope=\"col\">R@10</th>\
         </tr></thead>\n<tbody>\n",
    );
    for (name, metrics) in rows.flatten() {
        let _ = write!(html, "<tr><th scope=\"row\">{name}</th>");
        for value in [TEXT_TO_IMAGE(metrics), IMAGE_TO_TEXT(metrics)].concat() {
            let _ = write!(html, "<td>{value:.2}</td>");
        }
        html += "</tr>\n";
    }
    html + "</tbody></table></div>\n"
}

fn skipped(events: &[Event]) -> String {
    let reports: Vec<String> = events
        .iter()
        .filter_map(|event| match event {
            Event::Skipped {
                step,
                skipped,
                seen,
                report,
            } => Some(format!(
                "<p>Until step {}: {} of {} samples could not be used.</p>\n<pre>{}</pre>\n",
                thousands(&step.to_string()),
                thousands(&skipped.to_string()),
                thousands(&seen.to_string()),
                escape(report)
            )),
            _ => None,
        })
        .collect();
    if reports.is_empty() {
        return "<h2>Skipped samples</h2>\n<p>None is reported.</p>\n".into();
    }
    format!("<h2>Skipped samples</h2>\n{}", reports.concat())
}

/// Hours, minutes and seconds, without empty leading parts.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s:02} s"),
        (h, m, _) => format!("{h} h {m:02} min"),
    }
}

#[cfg(test)]
mod tests;
