//! Fine-tuning as a person does it, on a few scenes: every task from a pre-trained model, its scores, what the models
//! say of pictures, and what is said when the model or the data are another's.
#![allow(clippy::unwrap_used)]

mod program;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use program::{failure, json, samples};
use serde_json::Value;

const ALBEF: &str = r#"
system = "albef"
[model.albef]
embed_dim = 16
[model.albef.vision]
image_size = 32
patch_size = 16
width = 32
depth = 1
heads = 2
[model.albef.text]
vocab_size = 600
hidden_size = 32
num_hidden_layers = 2
fusion_layer = 1
num_attention_heads = 2
intermediate_size = 64
max_position_embeddings = 48
encoder_width = 32
[objectives]
queue_size = 32
"#;

const CLIP: &str = r#"
system = "clip"
[model.clip]
embed_dim = 16
[model.clip.vision]
image_size = 32
patch_size = 16
width = 32
depth = 1
heads = 2
mlp_width = 64
[model.clip.text]
vocab_size = 600
context_length = 48
width = 32
depth = 1
heads = 2
mlp_width = 64
end_of_text = "last"
[objectives]
itm = false
mlm = false
queue_size = 0
"#;

const VILT: &str = r#"
system = "vilt"
[model.vilt]
vocab_size = 600
max_text_len = 48
[model.vilt.vision]
image_size = 32
patch_size = 16
width = 32
depth = 1
heads = 2
[objectives]
itc = false
queue_size = 0
"#;

const VLMO: &str = r#"
system = "vlmo"
[model.vlmo]
image_size = 32
patch_size = 16
width = 32
depth = 2
heads = 2
mlp_ratio = 2
vl_start_layer = 1
max_text_len = 48
vocab_size = 600
layer_scale = true
drop_path = 0.1
positions = { relative = { table_text_len = 48 } }
[objectives]
queue_size = 0
"#;

const RUN: &str = r#"
name = "NAME"
seed = 5
[data]
train = { kind = "albef-json", files = ["data/scenes/train/captions.json"], image_root = "data/scenes/train" }
vocabulary_from = { kind = "lines", files = ["data/scenes/train/texts.txt"] }
batch_size = 8
max_tokens = 40
[schedule]
kind = "constant"
lr = 1e-3
epochs = 1
[run]
steps = 3
evaluate_every = 0
[model]
init_std = 0.05
"#;

/// A folder with scenes, a picture that is none, and every system pre-trained for three steps; for tests that add
/// runs of names of their own.
fn world() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tasks");
        if folder.exists() {
            std::fs::remove_dir_all(&folder).unwrap();
        }
        std::fs::create_dir_all(&folder).unwrap();
        let pictograms = samples();
        let scenes = ["data", "scenes", "--pictograms", &pictograms];
        let sizes = ["--train", "60", "--val", "24", "--test", "40"];
        let options = ["--side", "64", "--out", "data/scenes"];
        json(&folder, &[&scenes[..], &sizes, &options].concat());
        for (name, model) in [
            ("albef", ALBEF),
            ("clip", CLIP),
            ("vilt", VILT),
            ("vlmo", VLMO),
        ] {
            let recipe = format!("{}{model}", RUN.replace("NAME", name));
            let file = format!("{name}.toml");
            std::fs::write(folder.join(&file), recipe).unwrap();
            json(&folder, &["pretrain", &file]);
        }
        folder
    })
}

/// Settings that make the built-in recipes small.
const SMALL: [&str; 8] = [
    "--set",
    "data.batch_size=8",
    "--set",
    "run.evaluate_images=16",
    "--set",
    "schedule.lr=1e-3",
    "--set",
    "schedule.warmup_steps=1",
];

/// The recipes of tasks leave momentum distillation out; ALBEF has it.
const DISTILLED: [&str; 2] = ["--set", "task.distill=true"];

/// Fine-tunes with a built-in recipe; returns what the run says.
fn finetuned(task: &str, from: &str, out: &str, more: &[&str]) -> Value {
    let start = [
        "finetune", task, "--from", from, "--out", out, "--steps", "3",
    ];
    json(world(), &[&start[..], &SMALL, more].concat())
}

/// Fine-tunes once for all tests that want the same.
fn albef(task: &'static str) -> &'static str {
    static RUNS: [OnceLock<()>; 3] = [const { OnceLock::new() }; 3];
    let (at, out) = match task {
        "vqa" => (0, "runs/vqa"),
        "nlvr2" => (1, "runs/nlvr2"),
        _ => (2, "runs/entailment"),
    };
    RUNS[at].get_or_init(|| {
        let run = finetuned(task, "runs/albef", out, &DISTILLED);
        assert_eq!(run["step"], 3, "{run}");
        assert!(run["last_step"]["total"].as_f64().unwrap() > 0.0);
        // The run's last evaluation, on the validation scenes.
        percent(&run["last_evaluation"]["accuracy"]);
        let page = std::fs::read_to_string(world().join(out).join("report.html")).unwrap();
        assert!(page.contains("<h2>Task</h2>") && page.contains("<h2>Start</h2>"));
        let inspected = json(world(), &["model", "inspect", out]);
        assert_eq!(inspected["system"], "albef");
    });
    out
}

#[track_caller]
fn percent(value: &Value) -> f64 {
    let value = value.as_f64().unwrap();
    assert!((0.0..=100.0).contains(&value), "{value}");
    value
}

fn list(file: &str) -> Vec<Value> {
    let text = std::fs::read(world().join(file)).unwrap();
    let Value::Array(list) = serde_json::from_slice(&text).unwrap() else {
        panic!("{file} is no list");
    };
    list
}

const IMAGES: [&str; 2] = ["--images", "data/scenes/test"];

/// Evaluates a task of the test scenes; returns the document.
fn evaluated(task: &str, model: &str, files: &[&str], more: &[&str]) -> Value {
    let start = ["evaluate", task, "--model", model, "--data"];
    json(world(), &[&start[..], files, &IMAGES, more].concat())
}

const QUESTIONS: [&str; 2] = [
    "data/scenes/test/v2_questions.json",
    "data/scenes/test/v2_annotations.json",
];

#[test]
fn questions_are_learnt_scored_and_asked() {
    let model = albef("vqa");
    let out = ["--out", "answers.json"];
    let official = evaluated("vqa", model, &QUESTIONS, &out);
    let asked = list("data/scenes/test/vqa.json");
    let result = &official["result"];
    assert_eq!(result["questions"], asked.len());
    let protocol = result["protocol"].as_str().unwrap();
    assert!(
        protocol.starts_with(&format!("{} questions, ranked among ", asked.len())),
        "{protocol}"
    );
    assert!(official["data"].as_str().unwrap().contains("v2_questions"));
    let accuracy = percent(&result["accuracy"]);
    for kind in ["by_answer_type", "by_question_type"] {
        let by_kind = result[kind].as_object().unwrap();
        assert!(!by_kind.is_empty(), "{kind}");
        by_kind.values().for_each(|value| {
            percent(value);
        });
    }

    // What the evaluation server takes: an answer a question, in the questions' order.
    let answers = list("answers.json");
    let ids = |list: &[Value]| -> Vec<u64> {
        let ids = list.iter().map(|entry| entry["question_id"].as_u64());
        ids.collect::<Option<_>>().unwrap()
    };
    assert_eq!(ids(&answers), ids(&asked));
    for entry in &answers {
        let fields: Vec<&String> = entry.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["answer", "question_id"]);
    }
    // The score is the share of them that people gave, all ten of them the same in scenes.
    let pairs = answers.iter().zip(&asked);
    let right = pairs.filter(|(said, asked)| said["answer"] == asked["answer"][0]);
    let share = 100.0 * right.count() as f64 / asked.len() as f64;
    assert!((share - accuracy).abs() < 1e-9, "{share} {accuracy}");

    // ALBEF's list of the same questions, and a part of it.
    let lists = ["data/scenes/test/vqa.json"];
    let of_list = evaluated("vqa", model, &lists, &[]);
    assert_eq!(percent(&of_list["result"]["accuracy"]), accuracy);
    let few = evaluated("vqa", model, &lists, &["--limit", "3", "--k", "2"]);
    assert_eq!(few["result"]["questions"], 3);
    let protocol = few["result"]["protocol"].as_str().unwrap();
    assert!(
        protocol.ends_with(", top 2 by the first token"),
        "{protocol}"
    );
    let twice = evaluated("vqa", model, &lists, &["--first-token-twice"]);
    let protocol = twice["result"]["protocol"].as_str().unwrap();
    assert!(protocol.contains("counts twice"), "{protocol}");
    // Of a test part there are answers and no score.
    let silent = evaluated("vqa", model, &QUESTIONS[..1], &out);
    assert!(silent["result"].is_null());
    assert_eq!(list("answers.json"), answers);

    // One question asked by itself has the answer that it has among many.
    let (first, said) = (&asked[0], &answers[0]["answer"]);
    let image = format!("data/scenes/test/{}", first["image"].as_str().unwrap());
    let question = first["question"].as_str().unwrap();
    let ask = ["ask", &image, question, "--model", model];
    let ranked = json(world(), &[&ask[..], &["--top", "1000"]].concat());
    let found = ranked["answers"].as_array().unwrap();
    assert_eq!(&found[0]["text"], said);
    let total: f64 = probabilities(found).iter().sum();
    assert!((total - 1.0).abs() < 1e-4, "{total}");
    assert!(probabilities(found).is_sorted_by(|a, b| a >= b));
    let two = json(world(), &[&ask[..], &["--top", "2"]].concat());
    assert_eq!(two["answers"].as_array().unwrap()[..], found[..2]);
    let written = json(
        world(),
        &[&ask[..], &["--open-ended", "--beams", "4"]].concat(),
    );
    let written_answers = written["answers"].as_array().unwrap();
    assert_eq!(written_answers.len(), 4);
    let total: f64 = probabilities(written_answers).iter().sum();
    assert!(total > 0.0 && total <= 1.0 + 1e-4, "{total}");
    assert_eq!(written["decoding"], "written freely, 4 beams");
    let free = evaluated("vqa", model, &lists, &["--open-ended", "--limit", "5"]);
    percent(&free["result"]["accuracy"]);
}

fn probabilities(answers: &[Value]) -> Vec<f64> {
    let probabilities = answers.iter().map(|a| a["probability"].as_f64());
    probabilities.collect::<Option<_>>().unwrap()
}

/// Evaluates a task with classes, checks what the document says of itself, and returns the judgements.
fn judged(task: &str, model: &str, file: &str, classes: &[&str]) -> Vec<Value> {
    let out = format!("{}-judgements.json", model.replace('/', "-"));
    let document = evaluated(task, model, &[file], &["--out", &out]);
    let (result, judgements) = (&document["result"], list(&out));
    assert_eq!(result["records"], judgements.len());
    let count = judgements.len().to_string();
    let protocol = result["protocol"].as_str().unwrap();
    assert!(protocol.starts_with(&count), "{protocol}");
    let by_class = result["by_class"].as_array().unwrap();
    let names: Vec<&str> = by_class
        .iter()
        .map(|class| class["class"].as_str().unwrap())
        .collect();
    assert_eq!(names, classes);
    let sum = |field: &str| -> u64 {
        let counts = by_class.iter().map(|class| class[field].as_u64().unwrap());
        counts.sum()
    };
    assert_eq!(sum("records"), judgements.len() as u64);
    let share = 100.0 * sum("right") as f64 / judgements.len() as f64;
    assert!((percent(&result["accuracy"]) - share).abs() < 1e-9);
    if task == "nlvr2" {
        assert!(percent(&result["consistency"]) <= 100.0);
    } else {
        assert!(result["consistency"].is_null());
    }
    judgements
}

/// The first line of a file of lines.
fn first_line(file: &str) -> Value {
    let text = std::fs::read_to_string(world().join(file)).unwrap();
    serde_json::from_str(text.lines().next().unwrap()).unwrap()
}

/// Probabilities of classes, which must sum to 1, beside the judgement of the same record in an evaluation.
fn agrees(said: &Value, judgement: &Value) {
    let classes = said["probabilities"].as_object().unwrap();
    let total: f64 = classes.values().map(|p| p.as_f64().unwrap()).sum();
    assert!((total - 1.0).abs() < 1e-5, "{said}");
    let predicted = judgement["predicted"].as_str().unwrap();
    let likeliest = judgement["probability"].as_f64().unwrap();
    let same = classes[predicted].as_f64().unwrap();
    assert!((same - likeliest).abs() < 1e-4, "{said} {judgement}");
    let most = classes.values().map(|p| p.as_f64().unwrap());
    assert!(most.fold(0.0, f64::max) <= same + 1e-4, "{said}");
}

#[test]
fn statements_are_learnt_scored_and_compared() {
    let model = albef("nlvr2");
    let file = "data/scenes/test/nlvr2.jsonl";
    let judgements = judged("nlvr2", model, file, &["false", "true"]);
    let first = first_line(file);
    assert_eq!(judgements[0]["key"], first["identifier"]);
    let picture = |side: &str| format!("data/scenes/test/{}", first[side].as_str().unwrap());
    let (left, right) = (picture("left_url"), picture("right_url"));
    let sentence = first["sentence"].as_str().unwrap();
    let said = json(
        world(),
        &["compare", &left, &right, sentence, "--model", model],
    );
    agrees(&said, &judgements[0]);
    // Left and right are not the same thing.
    let swapped = json(
        world(),
        &["compare", &right, &left, sentence, "--model", model],
    );
    assert_ne!(swapped["probabilities"], said["probabilities"]);
    // ALBEF's list holds the same statements.
    let list = judged(
        "nlvr2",
        model,
        "data/scenes/test/nlvr.json",
        &["false", "true"],
    );
    assert_eq!(list.len(), judgements.len());
    assert_eq!(list[0]["probability"], judgements[0]["probability"]);
}

#[test]
fn hypotheses_are_learnt_scored_and_judged() {
    let model = albef("entailment");
    let file = "data/scenes/test/snli_ve.jsonl";
    let classes = ["contradiction", "neutral", "entailment"];
    let judgements = judged("entailment", model, file, &classes);
    let first = first_line(file);
    assert_eq!(judgements[0]["key"], first["pairID"]);
    let name = first["Flickr30K_ID"].as_str().unwrap();
    let image = format!("data/scenes/test/images/{name}.jpg");
    let hypothesis = first["sentence2"].as_str().unwrap();
    let said = json(world(), &["entail", &image, hypothesis, "--model", model]);
    agrees(&said, &judgements[0]);
}

#[test]
fn nlvr2_starts_from_text_assignment_and_retrieval_goes_on_as_pre_training() {
    let run = finetuned("text-assignment", "runs/albef", "runs/assigned", &[]);
    assert!(run["last_evaluation"].is_null());
    let accuracy = run["last_step"]["accuracy"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&accuracy));
    let run = finetuned("nlvr2", "runs/assigned", "runs/from-assigned", &DISTILLED);
    percent(&run["last_evaluation"]["accuracy"]);
    let log = std::fs::read_to_string(world().join("runs/from-assigned/metrics.jsonl")).unwrap();
    let start: Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    let names = |field: &str| start["report"][field].to_string();
    assert!(names("fresh").contains("cls_head.0.weight"), "{start}");
    assert!(names("dropped").contains("ta_head.weight"), "{start}");

    let run = finetuned("retrieval", "runs/albef", "runs/retrieval", &[]);
    assert!(run["last_step"]["itc"].is_number() && run["last_step"]["mlm"].is_null());
    assert!(run["last_evaluation"]["reranked"]["official"]["img_r1"].is_number());
    let data = "data/scenes/test/captions.json:data/scenes/test";
    let model = ["--model", "runs/retrieval"];
    let evaluate = ["evaluate", "retrieval", "--data", data, "--k", "4"];
    let result = &json(world(), &[&evaluate[..], &model].concat())["result"];
    percent(&result["reranked"]["official"]["txt_r1"]);
    let image = format!(
        "data/scenes/test/{}",
        list("data/scenes/test/captions.json")[0]["image"]
            .as_str()
            .unwrap()
    );
    let matched = json(
        world(),
        &[&["match", &image, "a red cup"][..], &model].concat(),
    );
    assert!(matched["match_probability"].is_number());
}

#[test]
fn every_other_system_is_fine_tuned_on_the_same_recipes() {
    for (system, second) in [("clip", "nlvr2"), ("vilt", "nlvr2"), ("vlmo", "entailment")] {
        let from = format!("runs/{system}");
        let out = format!("runs/{system}-vqa");
        finetuned("vqa", &from, &out, &[]);
        let answers = format!("{system}-answers.json");
        let document = evaluated("vqa", &out, &QUESTIONS, &["--out", &answers]);
        percent(&document["result"]["accuracy"]);
        let protocol = document["result"]["protocol"].as_str().unwrap();
        assert!(protocol.contains("the likeliest of "), "{protocol}");
        assert_eq!(
            list(&answers).len(),
            list("data/scenes/test/vqa.json").len()
        );
        let asked = &list("data/scenes/test/vqa.json")[0];
        let image = format!("data/scenes/test/{}", asked["image"].as_str().unwrap());
        let ask = ["ask", &image, "is it red?", "--model", &out];
        let said = json(world(), &ask);
        assert_eq!(said["answers"].as_array().unwrap().len(), 5);
        let refused = failure(world(), 1, &[&ask[..], &["--open-ended"]].concat());
        assert!(refused.contains("leave --open-ended out"), "{refused}");

        let out = format!("runs/{system}-{second}");
        finetuned(second, &from, &out, &[]);
        let (file, classes) = match second {
            "nlvr2" => ("data/scenes/test/nlvr2.jsonl", &["false", "true"][..]),
            _ => (
                "data/scenes/test/snli_ve.jsonl",
                &["contradiction", "neutral", "entailment"][..],
            ),
        };
        judged(second, &out, file, classes);
        // Momentum distillation is ALBEF's.
        let start = ["finetune", second, "--from", &from, "--out", "runs/refused"];
        let refused = failure(world(), 1, &[&start[..], &SMALL, &DISTILLED].concat());
        assert!(
            refused.contains("task.distill") && refused.contains(system),
            "{refused}"
        );
    }
}

#[test]
fn another_model_or_other_data_are_named_with_what_to_do() {
    let folder = world();
    let image = format!(
        "data/scenes/test/{}",
        list("data/scenes/test/captions.json")[0]["image"]
            .as_str()
            .unwrap()
    );
    let (vqa, nlvr2) = (albef("vqa"), albef("nlvr2"));
    let questions = ["data/scenes/test/vqa.json", "--images", "data/scenes/test"];
    let empty = tempfile::tempdir().unwrap();
    let cases: [(&[&str], &[&str]); 14] = [
        (
            &["ask", &image, "is it red?", "--model", "runs/albef"],
            &["a pre-trained model", "fitup finetune vqa"],
        ),
        (
            &["ask", &image, "is it red?", "--model", nlvr2],
            &["fine-tuned for nlvr2", "fitup finetune vqa"],
        ),
        (
            &["compare", &image, &image, "it is red", "--model", vqa],
            &["fine-tuned for vqa", "fitup finetune nlvr2"],
        ),
        (
            &["entail", &image, "it is red", "--model", vqa],
            &["fine-tuned for vqa", "fitup finetune entailment"],
        ),
        (
            &["match", &image, "it is red", "--model", vqa],
            &["fine-tuned for vqa", "fitup ask"],
        ),
        (&["ask", &image, "", "--model", vqa], &["holds no words"]),
        (
            &["compare", &image, &image, "...", "--model", nlvr2],
            &["holds no words"],
        ),
        (
            &["ask", "gone.jpg", "is it red?", "--model", vqa],
            &["gone.jpg"],
        ),
        (
            &[
                "evaluate",
                "nlvr2",
                "--model",
                nlvr2,
                "--data",
                questions[0],
                questions[1],
                questions[2],
            ],
            &["vqa.json: record 1, field `images`"],
        ),
        (
            &[
                "evaluate",
                "vqa",
                "--model",
                vqa,
                "--data",
                questions[0],
                "--images",
                "data",
            ],
            &["record 300", "field `image`", "data check"],
        ),
        (
            &["finetune", "vqa", "--from", "gone.safetensors"],
            &["gone.safetensors"],
        ),
        (
            &["finetune", "vqa", "--from", "runs/albef", "--out", vqa],
            &["runs/vqa", "--resume", "--out"],
        ),
        (
            &["finetune", "caption", "--from", "runs/albef"],
            &["no recipe caption", "text-assignment"],
        ),
        (
            &["finetune", "albef.toml", "--from", "runs/albef"],
            &["no table [task]", "fitup pretrain"],
        ),
    ];
    for (args, parts) in cases {
        let message = failure(folder, 1, args);
        for part in parts {
            assert!(message.contains(part), "{args:?}: no {part:?} in {message}");
        }
    }
    // Without a run of the usual name.
    let picture = folder.join(&image);
    let picture = picture.to_str().unwrap();
    let message = failure(empty.path(), 1, &["ask", picture, "is it red?"]);
    assert!(
        message.contains("runs/vqa") && message.contains("fitup finetune vqa --from"),
        "{message}"
    );
    let message = failure(empty.path(), 1, &["finetune", "vqa", "--resume"]);
    assert!(
        message.contains("runs/vqa") && message.contains("--from"),
        "{message}"
    );
    // A number that asks for nothing is refused as it is read.
    let k = [
        "evaluate",
        "vqa",
        "--k",
        "0",
        "--data",
        questions[0],
        questions[1],
        questions[2],
    ];
    assert!(failure(folder, 2, &k).contains("--k"));
    // A recipe of a task is not for pre-training.
    let recipe = format!("{vqa}/recipe.toml");
    let message = failure(folder, 1, &["pretrain", &recipe, "--out", "runs/refused"]);
    assert!(
        message.contains("fine-tunes for vqa") && message.contains("fitup finetune"),
        "{message}"
    );
}

#[test]
fn bad_records_are_left_out_of_training_where_the_recipe_says_so_and_told() {
    let mut questions = list("data/scenes/train/vqa.json");
    questions[0].as_object_mut().unwrap().remove("question");
    questions[1]["answer"] = Value::from("yes");
    let text = serde_json::to_string(&questions).unwrap();
    std::fs::write(world().join("bad.json"), text).unwrap();
    let files = ["--set", "data.train.files=['bad.json']"];
    let skip = ["--set", "data.train.on_bad=skip"];
    let start = [
        "finetune",
        "vqa",
        "--from",
        "runs/albef",
        "--out",
        "runs/bad",
        "--steps",
        "1",
    ];
    let refused = failure(world(), 1, &[&start[..], &SMALL, &files].concat());
    assert!(
        refused.contains("bad.json: record 1, field `question`"),
        "{refused}"
    );
    let output = program::fitup(world(), &[&start[..], &SMALL, &files, &skip].concat());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert!(
        told.contains("warning: 2 records left out, of bad.json: ")
            && told.contains("field `question`")
            && told.contains("record 2, field `answer`"),
        "{told}"
    );
}

/// Every tensor of a run's last checkpoint: weights, momentum weights, optimizer state.
fn last_state(out: &Path, step: u64) -> BTreeMap<String, Vec<u32>> {
    let path = out.join(format!("checkpoints/step-{step:08}.safetensors"));
    let (tensors, _) = fitup_models::weights::read(&path).unwrap();
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
    tensors
        .into_iter()
        .map(|(name, tensor)| (name, bits(tensor.values)))
        .collect()
}

#[test]
fn killed_and_resumed_gives_the_same_weights() {
    const STEPS: u64 = 30;
    let run = |out: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fitup"));
        command
            .args(["finetune", "nlvr2", "--from", "runs/albef", "--resume"])
            .args(["--out", out, "--steps", &STEPS.to_string()])
            .args(SMALL)
            .args(DISTILLED)
            .args(["--set", "run.checkpoint_every=3"])
            .args(["--set", "run.evaluate_every=0"])
            .current_dir(world())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    };
    let started = Instant::now();
    assert!(run("runs/whole").status().unwrap().success());
    let duration = started.elapsed();
    let killed = world().join("runs/killed");
    let mut kills = 0;
    for attempt in 0.. {
        assert!(attempt < 40, "{kills} kills in {attempt} attempts");
        let mut child = run("runs/killed").spawn().unwrap();
        if kills == 4 {
            assert!(child.wait().unwrap().success());
            break;
        }
        let random = std::hash::RandomState::new().build_hasher().finish();
        let share = (random % 1000) as f64 / 1000.0;
        std::thread::sleep(duration.mul_f64(0.1 + 0.3 * share));
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
        } else {
            // It finished before all kills: start over, so that one run sees them all.
            std::fs::remove_dir_all(&killed).unwrap();
            kills = 0;
        }
    }
    let whole = last_state(&world().join("runs/whole"), STEPS);
    let resumed = last_state(&killed, STEPS);
    assert!(whole.keys().any(|name| name.starts_with("optimizer.")));
    assert!(whole.keys().any(|name| name.starts_with("text_encoder_m.")));
    assert_eq!(whole.len(), resumed.len());
    for (name, tensor) in &whole {
        assert!(*tensor == resumed[name], "{name} differs after resuming");
    }
}
