#![allow(clippy::unwrap_used)]
use super::*;
use crate::tasks::masked::{MaskedScores, TokenizerScores};
use crate::tasks::retrieval::Recall;
use crate::trainer::Scores;
use fitup_models::weights::initial::InitialReport;

fn step(step: u64, mlm: Option<f64>) -> Event {
    let progress = step as f64;
    Event::Step {
        step,
        epoch: step / 100,
        numbers: StepNumbers {
            total: 12.0 - progress / 300.0 + (progress * 0.7).sin() * 0.5,
            itc: Some(4.0 - progress / 500.0),
            itm: Some(0.7 - progress / 9000.0),
            mlm,
            itm_accuracy: Some(0.66 + progress / 9000.0),
            batch_r1: Some(progress / 3000.0),
            temp: 0.05,
            ..StepNumbers::default()
        },
        lr: 6e-4 * (1.0 - progress / 2100.0),
        alpha: 0.0,
        gradient_norm: None,
        pairs_per_second: 200.0 + (progress * 0.3).cos() * 10.0,
        seconds: progress * 0.16,
    }
}

fn recalls(shift: f64) -> RetrievalMetrics {
    let json = serde_json::json!({
        "txt_r1": 30.25 + shift, "txt_r5": 50.0 + shift, "txt_r10": 61.0 + shift, "txt_r_mean": 47.1,
        "img_r1": 33.75 + shift, "img_r5": 52.0 + shift, "img_r10": 70.0 + shift, "img_r_mean": 51.9,
        "r_mean": 49.5,
    });
    serde_json::from_value(json).unwrap()
}

fn both(shift: f64) -> Recall {
    Recall {
        official: recalls(shift),
        equal_captions: recalls(shift + 2.0),
    }
}

fn evaluation(step: u64, shift: f64) -> Event {
    Event::Evaluation {
        step,
        result: Box::new(RetrievalResult {
            protocol: "500 images, 500 texts <first>".into(),
            images: 500,
            texts: 500,
            k: 16,
            itc: Some(both(shift)),
            reranked: Some(both(shift + 6.0)),
        }),
        seconds: 20.0,
    }
}

fn run() -> Vec<Event> {
    let mut events: Vec<Event> = (1..=200).map(|n| step(10 * n, Some(8.0))).collect();
    events.extend((1..=4).map(|n| evaluation(500 * n, 3.0 * n as f64)));
    events.push(Event::Skipped {
        step: 2000,
        skipped: 3,
        seen: 64_000,
        report: "a/<b>.png: broken".into(),
    });
    events
}

#[test]
fn a_run_folder_gets_one_page_with_everything_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let lines: Vec<String> = run()
        .iter()
        .map(|e| serde_json::to_string(e).unwrap())
        .collect();
    std::fs::write(folder.path().join("metrics.jsonl"), lines.join("\n")).unwrap();
    std::fs::write(
        folder.path().join("recipe.toml"),
        "name = \"a <tiny> run\"\nseed = 7\n",
    )
    .unwrap();
    let path = write(folder.path()).unwrap();
    let html = std::fs::read_to_string(&path).unwrap();
    assert_eq!(path, folder.path().join("report.html"));
    assert_eq!(html.matches("<figure").count(), 10);
    for part in [
        "<h1>a &lt;tiny&gt; run</h1>",
        "<b>2,000</b>",
        "5 min 20 s",
        "51.8 %",
        "500 images, 500 texts &lt;first&gt;",
        "3 of 64,000 samples",
        "a/&lt;b&gt;.png: broken",
        "seed = 7",
    ] {
        assert!(html.contains(part), "{part}");
    }
    // The last evaluation's contrastive and re-ranked rows.
    assert!(html.contains("<td>45.75</td><td>64.00</td><td>82.00</td>"));
    assert!(html.contains("<td>51.75</td><td>70.00</td><td>88.00</td>"));
    for outside in ["http://", "https://", "<script", "<link", " src="] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert!(!html.contains("<tiny>") && !html.contains("a/<b>"));
}

#[test]
fn what_was_not_measured_is_not_drawn() {
    let events: Vec<Event> = (1..=5).map(|n| step(n, None)).collect();
    let html = render(&events, "name = \"x\"");
    assert!(!html.contains("Masked words"));
    assert!(!html.contains("Retrieval"));
    assert!(html.contains("Matching (ITM)"));
}

#[test]
fn an_empty_log_and_an_odd_recipe_still_give_a_page() {
    let html = render(&[], "not TOML <at all>");
    assert!(html.contains("No step is logged yet"));
    assert!(html.contains("not TOML &lt;at all&gt;"));
    assert!(!html.contains("NaN"));
}

#[test]
fn a_folder_that_is_no_run_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = write(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("recipe.toml") && error.contains("folder"),
        "{error}"
    );
}

#[test]
fn durations_read_like_durations() {
    assert_eq!(duration(9.4), "9 s");
    assert_eq!(duration(61.0), "1 min 01 s");
    assert_eq!(duration(3725.0), "1 h 02 min");
}

#[test]
fn a_stage_shows_its_start_and_its_predictions() {
    let report = InitialReport {
        taken: vec![("a.weight".into(), "a.weight".into())],
        fresh: vec!["new.<weight>".into()],
        dropped: vec!["lm_head.bias".into()],
        fitted: vec!["pos_embed from 14 x 14".into()],
    };
    let start = Event::Start {
        step: 0,
        init_weights: Some("runs/before".into()),
        report: Some(report),
        frozen: vec!["a.weight".into()],
    };
    let masked = |step| {
        let scores = MaskedScores {
            protocol: "9 texts".into(),
            items: 30,
            accuracy: 0.25,
            majority: 0.125,
            loss: 3.5,
        };
        Event::evaluation(step, Scores::Masked(scores), 1.0)
    };
    let scores = TokenizerScores {
        images: 9,
        reconstruction: 0.0625,
        codes: 64,
        codes_used: 40,
        perplexity: 21.5,
    };
    let tokens = Event::evaluation(20, Scores::Tokenizer(scores), 1.0);
    let events = [start, step(10, Some(8.0)), masked(10), masked(20), tokens];
    // As a log gives them back.
    let line = |event: &Event| serde_json::to_string(event).unwrap();
    let events: Vec<Event> = events
        .iter()
        .map(|event| serde_json::from_str(&line(event)).unwrap())
        .collect();
    let html = render(&events, "name = \"x\"");
    for part in [
        "runs/before",
        "1 tensors taken over",
        "new.&lt;weight&gt;",
        "1 tensors frozen",
        "9 texts. At step 20: 25.0 % right",
        "12.5 %",
        "40 of 64 visual tokens",
    ] {
        assert!(html.contains(part), "{part}");
    }
}
