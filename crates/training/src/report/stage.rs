//! Sections of runs that start from other weights or train on one modality.

use std::fmt::Write;

use fitup_models::weights::initial::InitialReport;

use super::chart::{Chart, Series, Stroke, thousands};
use super::page::escape;
use crate::metrics::Event;
use crate::tasks::masked::{MaskedScores, TokenizerScores};

/// What the run starts from and leaves as it is; empty for one that starts from the seed alone.
pub(super) fn start(events: &[Event]) -> String {
    let found = events.iter().find_map(|event| match event {
        Event::Start {
            init_weights,
            report,
            frozen,
            ..
        } => Some((init_weights, report, frozen)),
        _ => None,
    });
    let Some((init_weights, report, frozen)) = found else {
        return String::new();
    };
    let mut html = "<h2>Start</h2>\n".to_owned();
    if let Some(path) = init_weights {
        let path = escape(&path.display().to_string());
        let _ = writeln!(html, "<p>From <code>{path}</code>.</p>");
    }
    let InitialReport {
        taken,
        fresh,
        dropped,
        fitted,
    } = report.clone().unwrap_or_default();
    let taken: Vec<String> = taken.into_iter().map(|(_, to)| to).collect();
    for (what, names) in [
        ("taken over", &taken),
        ("new, drawn from the seed", &fresh),
        ("left behind", &dropped),
        ("fitted in size", &fitted),
        ("frozen", frozen),
    ] {
        if !names.is_empty() {
            let _ = writeln!(
                html,
                "<details><summary>{} tensors {what}</summary><pre>{}</pre></details>",
                names.len(),
                escape(&names.join("\n"))
            );
        }
    }
    html
}

/// Evaluations of masked words or patches; empty where there are none.
pub(super) fn masked(events: &[Event]) -> String {
    let scores = |event| match event {
        &Event::MaskedPrediction {
            step, ref scores, ..
        } => Some((step, scores)),
        _ => None,
    };
    let scores: Vec<(u64, &MaskedScores)> = events.iter().filter_map(scores).collect();
    let Some((step, last)) = scores.last() else {
        return String::new();
    };
    let points = |value: fn(&MaskedScores) -> f64| {
        let point = |(step, scores): &(u64, &MaskedScores)| (*step as f64, 100.0 * value(scores));
        scores.iter().map(point).collect()
    };
    let chart = Chart {
        title: "Masked parts predicted right".into(),
        x_label: "step".into(),
        y_label: "%".into(),
        from_zero: true,
        series: vec![
            Series {
                name: "model".into(),
                points: points(|scores| scores.accuracy),
                color: 0,
                stroke: Stroke::Solid,
            },
            Series {
                name: "always the most frequent".into(),
                points: points(|scores| scores.majority),
                color: 1,
                stroke: Stroke::Dashed,
            },
        ],
    };
    format!(
        "<h2>Masked parts</h2>\n<p>Protocol: {}. At step {}: {:.1} % right (always the most \
         frequent: {:.1} %), loss {:.3} nats.</p>\n<div class=\"charts\">\n{}</div>\n",
        escape(&last.protocol),
        thousands(&step.to_string()),
        100.0 * last.accuracy,
        100.0 * last.majority,
        last.loss,
        chart.render()
    )
}

/// Evaluations of a task; empty where there are none.
pub(super) fn task(events: &[Event]) -> String {
    let accuracy = |event: &Event| match event {
        Event::Answers { step, scores, .. } => {
            Some((*step, scores.accuracy, scores.protocol.clone()))
        }
        Event::Classes { step, scores, .. } => {
            Some((*step, scores.accuracy, scores.protocol.clone()))
        }
        _ => None,
    };
    let scores: Vec<_> = events.iter().filter_map(accuracy).collect();
    let Some((step, last, protocol)) = scores.last() else {
        return String::new();
    };
    let points = scores.iter().map(|(step, score, _)| (*step as f64, *score));
    let chart = Chart {
        title: "Accuracy".into(),
        x_label: "step".into(),
        y_label: "%".into(),
        from_zero: true,
        series: vec![Series {
            name: "validation".into(),
            points: points.collect(),
            color: 0,
            stroke: Stroke::Solid,
        }],
    };
    format!(
        "<h2>Task</h2>\n<p>Protocol: {}. At step {}: {last:.2} % right.</p>\n<div class=\"charts\">\n{}</div>\n",
        escape(protocol),
        thousands(&step.to_string()),
        chart.render()
    )
}

/// Evaluations of an image tokenizer; empty where there are none.
pub(super) fn tokenizer(events: &[Event]) -> String {
    let scores = |event| match event {
        &Event::Tokenization {
            step, ref scores, ..
        } => Some((step, scores)),
        _ => None,
    };
    let scores: Vec<(u64, &TokenizerScores)> = events.iter().filter_map(scores).collect();
    let Some((step, last)) = scores.last() else {
        return String::new();
    };
    let chart = |title: &str, y_label: &str, value: fn(&TokenizerScores) -> f64| {
        let point = |(step, scores): &(u64, &TokenizerScores)| (*step as f64, value(scores));
        Chart {
            title: title.into(),
            x_label: "step".into(),
            y_label: y_label.into(),
            from_zero: true,
            series: vec![Series {
                name: title.into(),
                points: scores.iter().map(point).collect(),
                color: 0,
                stroke: Stroke::Solid,
            }],
        }
        .render()
    };
    format!(
        "<h2>Tokenizer</h2>\n<p>{} validation images. At step {}: mean squared error {:.4}, {} of \
         {} visual tokens used, perplexity {:.1}.</p>\n<div class=\"charts\">\n{}{}</div>\n",
        last.images,
        thousands(&step.to_string()),
        last.reconstruction,
        last.codes_used,
        last.codes,
        last.perplexity,
        chart("Reconstruction", "mean squared error", |s| s.reconstruction),
        chart("Visual tokens used", "tokens", |s| s.codes_used as f64),
    )
}
