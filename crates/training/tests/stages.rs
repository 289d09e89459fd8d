//! VLMo's stages on the committed sample, each from the checkpoint of the one before: what is taken
//! over, what stays as it is bit for bit, and that a stopped stage goes on as an unbroken one.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use fitup_models::vlmo::image_stage::in_image_stage;
use fitup_models::vlmo::text_stage::frozen_in_text_stage;
use fitup_models::weights::TensorMap;
use fitup_training::checkpoint::{Checkpoint, path_of_step};
use fitup_training::loaded::LoadedModel;
use fitup_training::metrics::{self, Event};
use fitup_training::recipe::Recipe;
use fitup_training::trainer::{self, Outcome, RunOptions};

const RUN: &str = r#"
seed = 5
[data]
train = { kind = "shards", paths = ["SAMPLES/train-00000.tar"], limit = 64 }
validation = { kind = "shards", paths = ["SAMPLES/test-00000.tar"], limit = 12 }
batch_size = 8
max_tokens = 12
fit = "pad_white"
[schedule]
kind = "constant"
lr = 2e-3
epochs = 1
[run]
steps = 4
checkpoint_every = 2
evaluate_every = 4
evaluate_k = 4
log_every = 1
"#;

const TOKENIZER: &str = r#"
[model.image_tokenizer]
image_size = 24
patch_size = 6
hidden = 32
code_dim = 8
codes = 32
"#;

const VLMO: &str = r#"
[model.vlmo]
image_size = 24
patch_size = 6
width = 16
depth = 2
heads = 2
mlp_ratio = 2
vl_start_layer = 1
max_text_len = 16
vocab_size = 200
layer_scale = true
drop_path = 0.1
positions = "absolute"
"#;

const FROZEN: &str = r#"["transformer.blocks.*.attn.*", "transformer.blocks.*.norm1.*", "transformer.blocks.*.gamma_*", "transformer.blocks.*imag.*", "transformer.cls_token", "transformer.pos_embed", "transformer.patch_embed.*", "pooler.*"]"#;

fn samples() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../samples/pictograms");
    path.replace('\\', "/")
}

/// Runs of the stages in one folder.
struct Runs {
    folder: tempfile::TempDir,
}

impl Runs {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, run: &str) -> PathBuf {
        self.folder.path().join(run)
    }

    fn model(&self, run: &str) -> String {
        let path = self.path(run).join("model.safetensors");
        path.to_str().unwrap().replace('\\', "/")
    }

    fn recipe(&self, stage: &str, set: &[&str]) -> Recipe {
        let model = match stage {
            "tokenizer" => format!("system = \"image_tokenizer\"{TOKENIZER}"),
            "image" => format!(
                "system = \"vlmo\"\nstage = \"image\"\nimage_tokenizer_weights = {:?}{TOKENIZER}{VLMO}",
                self.model("tokenizer")
            ),
            "text" => format!(
                "system = \"vlmo\"\nstage = \"text\"\ninit_weights = {:?}{VLMO}\n[optimizer]\nfrozen = {FROZEN}",
                self.model("image")
            ),
            _ => format!(
                "system = \"vlmo\"\ninit_weights = {:?}{VLMO}\n[objectives]\nqueue_size = 0",
                self.model("text")
            ),
        };
        let text = format!("name = \"{stage}\"\n{RUN}\n[model]\ninit_std = 0.05\n{model}\n");
        let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
        Recipe::parse(&text.replace("SAMPLES", &samples()), stage, &set).unwrap()
    }

    /// The stage with weights drawn from the seed, not those of the stage before.
    fn recipe_from_seed(&self, stage: &str, set: &[&str]) -> Recipe {
        let mut recipe = self.recipe(stage, set);
        recipe.model.init_weights = None;
        recipe
    }

    fn train(&self, recipe: &Recipe, run: &str, resume: bool) -> Result<(), String> {
        let options = RunOptions {
            folder: self.path(run),
            resume,
            device: Device::flex(),
            stop: Default::default(),
        };
        let outcome = trainer::pretrain(recipe, &options, &mut ()).map_err(|e| e.to_string())?;
        assert_eq!(outcome, Outcome::Finished);
        Ok(())
    }

    /// The stage with everything as it is written above, under its own name.
    fn stage(&self, stage: &str) {
        self.train(&self.recipe(stage, &[]), stage, false).unwrap();
    }

    fn checkpoint(&self, run: &str, step: u64) -> Checkpoint {
        Checkpoint::read(&path_of_step(&self.path(run).join("checkpoints"), step)).unwrap()
    }

    fn events(&self, run: &str) -> Vec<Event> {
        metrics::read(&self.path(run).join("metrics.jsonl")).unwrap()
    }
}

/// The bits of the tensors that fit.
fn bits(tensors: &TensorMap, fits: impl Fn(&str) -> bool) -> Vec<(String, Vec<u32>)> {
    let chosen = tensors.iter().filter(|(name, _)| fits(name));
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect();
    chosen
        .map(|(name, t)| (name.clone(), bits(&t.values)))
        .collect()
}

fn of_optimizer(name: &str) -> bool {
    name.starts_with("optimizer.")
}

fn names(tensors: &TensorMap) -> BTreeSet<&str> {
    tensors.keys().map(String::as_str).collect()
}

#[test]
fn each_stage_starts_from_the_one_before_and_frozen_weights_stay() {
    let runs = Runs::new();
    for stage in ["tokenizer", "image", "text", "pairs"] {
        runs.stage(stage);
    }

    // The image stage holds what it trains and its tokenizer, as it was.
    let tokenizer = runs.checkpoint("tokenizer", 4).for_use().tensors;
    let image = runs.checkpoint("image", 4).for_use().tensors;
    let inside = |name: &str| name.starts_with("image_tokenizer.");
    let kept: TensorMap = tokenizer
        .into_iter()
        .map(|(name, tensor)| (format!("image_tokenizer.{name}"), tensor))
        .collect();
    assert_eq!(bits(&image, inside), bits(&kept, |_| true));
    assert!(image.keys().all(|name| in_image_stage(name)));
    let before = runs.checkpoint("image", 2).for_use().tensors;
    let attention = |name: &str| name.contains(".attn.");
    assert_ne!(bits(&before, attention), bits(&image, attention));

    // The text stage: frozen is frozen, everything else moves.
    let (early, late) = (runs.checkpoint("text", 2), runs.checkpoint("text", 4));
    let weight = |name: &str| !of_optimizer(name);
    let frozen = |name: &str| weight(name) && frozen_in_text_stage(name);
    let from_image = |name: &str| frozen(name) && !name.starts_with("pooler.");
    assert_eq!(bits(&early.tensors, frozen), bits(&late.tensors, frozen));
    let taken = bits(&late.tensors, from_image);
    assert!(taken.len() > 20, "{} tensors", taken.len());
    for (name, bits_after) in &taken {
        let before: Vec<u32> = image[name].values.iter().map(|v| v.to_bits()).collect();
        assert_eq!(bits_after, &before, "{name}");
    }
    let state: BTreeSet<&str> = names(&late.tensors)
        .into_iter()
        .filter_map(|name| name.strip_prefix("optimizer.first."))
        .collect();
    for (name, tensor) in late.tensors.iter().filter(|(name, _)| weight(name)) {
        assert_eq!(state.contains(name.as_str()), !frozen(name), "{name}");
        if !frozen(name) {
            assert_ne!(tensor, &early.tensors[name], "{name} is trained");
        }
    }

    // What each start took, and what not.
    let start = |run| match &runs.events(run)[0] {
        Event::Start { report, frozen, .. } => (report.clone().unwrap(), frozen.clone()),
        other => panic!("{run}: {other:?}"),
    };
    let (text, frozen_names) = start("text");
    assert!(frozen_names.iter().all(|name| frozen_in_text_stage(name)));
    assert_eq!(text.taken.len() + text.dropped.len(), image.len());
    assert!(text.dropped.contains(&"mask_token".to_owned()));
    assert!(
        text.fresh
            .contains(&"transformer.blocks.0.mlp_text.fc1.weight".to_owned())
    );
    let (pairs, _) = start("pairs");
    assert_eq!(pairs.taken.len(), late.for_use().tensors.len());
    assert!(pairs.dropped.is_empty());
    assert!(
        pairs
            .fresh
            .contains(&"transformer.blocks.1.mlp_vl.fc1.weight".to_owned())
    );

    // Each stage measures what it trains.
    let measured = |run, kind: fn(&Event) -> bool| runs.events(run).iter().any(kind);
    assert!(measured("tokenizer", |e| matches!(
        e,
        Event::Tokenization { step: 4, .. }
    )));
    for run in ["image", "text"] {
        assert!(measured(run, |e| matches!(
            e,
            Event::MaskedPrediction { step: 4, scores, .. } if scores.items > 20 && scores.loss > 0.0
        )));
    }
    assert!(measured("pairs", |e| matches!(
        e,
        Event::Evaluation { step: 4, .. }
    )));

    // Only pairs make a model that can be asked.
    let open = |run: &str| LoadedModel::open(Path::new(&runs.model(run)), &Device::flex());
    for (run, what) in [
        ("tokenizer", "tokenizer"),
        ("image", "image stage"),
        ("text", "text stage"),
    ] {
        let error = open(run).unwrap_err().to_string();
        assert!(
            error.contains(what) && error.contains("later stage"),
            "{error}"
        );
    }
    assert!(open("pairs").is_ok());
}

#[test]
fn a_stopped_stage_goes_on_as_an_unbroken_one() {
    let runs = Runs::new();
    for stage in ["tokenizer", "image", "text"] {
        runs.stage(stage);
        let parted = format!("{stage}-parted");
        runs.train(&runs.recipe(stage, &["run.steps=2"]), &parted, false)
            .unwrap();
        // To go on, a run needs nothing but its own folder.
        let gone = [
            "model.init_weights=gone",
            "model.image_tokenizer_weights=gone",
        ];
        let set = match stage {
            "tokenizer" => &gone[..0],
            "image" => &gone[1..],
            _ => &gone[..1],
        };
        runs.train(&runs.recipe(stage, set), &parted, true).unwrap();
        let state = |run: &str| bits(&runs.checkpoint(run, 4).tensors, |_| true);
        assert_eq!(state(&parted), state(stage), "{stage}");
        let predictions = |run: &str| {
            let events = runs.events(run).into_iter();
            let of = |event| match event {
                Event::MaskedPrediction { scores, .. } => Some(scores),
                _ => None,
            };
            events.filter_map(of).next_back()
        };
        assert_eq!(predictions(&parted), predictions(stage));
    }
}

#[test]
fn what_every_step_moves_can_be_frozen_too() {
    let runs = Runs::new();
    // The temperature of both contrasts lies outside its range, to which every step moves it.
    let set = [
        "optimizer.frozen=['logit_scale']",
        "objectives.temp_range=[0.5, 0.5]",
        "run.evaluate_every=0",
    ];
    let recipe = runs.recipe_from_seed("pairs", &set);
    runs.train(&recipe, "pairs", false).unwrap();
    let tensors = runs.checkpoint("pairs", 4).tensors;
    let drawn = (1.0f64 / 0.07).ln() as f32;
    assert_eq!(tensors["logit_scale"].values, [drawn]);
    assert!(tensors["logit_vl_scale"].values[0] < 1.0);
    assert!(!tensors.contains_key("optimizer.first.logit_scale"));
}

#[test]
fn a_run_starts_from_sine_positions_where_the_model_has_positions() {
    let runs = Runs::new();
    let set = [
        "model.sine_positions=0.5",
        "optimizer.frozen=['transformer.pos_embed']",
        "run.evaluate_every=0",
    ];
    let recipe = runs.recipe_from_seed("pairs", &set);
    runs.train(&recipe, "pairs", false).unwrap();
    let tensors = runs.checkpoint("pairs", 4).tensors;
    // CLS, then the first patch, at column 0 and row 0: four sines and four cosines of each.
    let (sines, cosines) = ([0.0; 4], [0.5; 4]);
    let first = [sines, cosines, sines, cosines].concat();
    let values = &tensors["transformer.pos_embed"].values;
    assert_eq!(values[..32], [vec![0.0; 16], first].concat());

    let relative = "model.vlmo.positions={ relative = { table_text_len = 16 } }";
    let recipe = runs.recipe_from_seed("pairs", &["model.sine_positions=0.5", relative]);
    let error = runs.train(&recipe, "relative", false).unwrap_err();
    assert!(error.contains("model.sine_positions"), "{error}");
}

#[test]
fn the_tokenizer_learns_and_uses_its_codes() {
    let runs = Runs::new();
    let set = [
        "schedule.lr=1e-2",
        "run.steps=60",
        "run.evaluate_every=60",
        "run.checkpoint_every=60",
    ];
    runs.train(&runs.recipe("tokenizer", &set), "tokenizer", false)
        .unwrap();
    let events = runs.events("tokenizer");
    let errors: Vec<f64> = events
        .iter()
        .filter_map(|event| match event {
            Event::Step { numbers, .. } => numbers.reconstruction,
            _ => None,
        })
        .collect();
    let mean = |errors: &[f64]| errors.iter().sum::<f64>() / errors.len() as f64;
    let (first, last) = (mean(&errors[..5]), mean(&errors[55..]));
    assert!(last < 0.5 * first, "mean squared error {first} to {last}");
    let scores = events.iter().find_map(|event| match event {
        Event::Tokenization { scores, .. } => Some(scores),
        _ => None,
    });
    let scores = scores.unwrap();
    assert!(
        scores.codes_used >= 12 && scores.perplexity > 6.0,
        "{scores:?}"
    );
}

#[test]
fn what_does_not_fit_is_named() {
    let runs = Runs::new();
    runs.stage("tokenizer");
    runs.stage("image");
    let refused = |recipe: &Recipe| runs.train(recipe, "refused", false).unwrap_err();

    let pattern = "optimizer.frozen=['transformer.blocks.*.attn.*', 'transformer.atn.*']";
    let error = refused(&runs.recipe("text", &[pattern]));
    assert!(
        error.contains("\"transformer.atn.*\" fits no parameter"),
        "{error}"
    );

    // A tokenizer is no stage of a VLMo.
    let set = format!("model.init_weights={:?}", runs.model("tokenizer"));
    let error = refused(&runs.recipe("text", &[set.as_str()]));
    assert!(
        error.contains("tokenizer") && error.contains("unexpected"),
        "{error}"
    );
    let set = format!("model.image_tokenizer_weights={:?}", runs.model("image"));
    let error = refused(&runs.recipe("image", &[set.as_str()]));
    assert!(error.contains("encoder.fc1"), "{error}");
    let error = refused(&runs.recipe("text", &["model.vlmo.width=32"]));
    assert!(
        error.contains("model.safetensors") && error.contains("another shape"),
        "{error}"
    );
}

#[test]
fn the_words_of_a_stage_are_those_of_its_start() {
    let runs = Runs::new();
    let sentences: String = (0..30)
        .map(|n| format!("a line of text about {n} things\n"))
        .collect();
    let lines = runs.path("lines.txt");
    std::fs::write(&lines, sentences).unwrap();
    let lines = lines.to_str().unwrap().replace('\\', "/");
    // Texts alone, and no stage before them.
    let source = format!("{{ kind = \"lines\", files = [{lines:?}] }}");
    let sources = [
        format!("data.train={source}"),
        format!("data.validation={source}"),
    ];
    let recipe = runs.recipe_from_seed("text", &[&sources[0], &sources[1], "optimizer.frozen=[]"]);
    runs.train(&recipe, "text", false).unwrap();
    assert!(
        !runs
            .events("text")
            .iter()
            .any(|e| matches!(e, Event::Start { .. }))
    );

    // Captions of other words follow; the word embeddings keep theirs.
    runs.stage("pairs");
    let vocabulary = |run| runs.checkpoint(run, 4).vocabulary;
    assert_eq!(vocabulary("pairs"), vocabulary("text"));
    assert!(vocabulary("text").contains(&"things".to_owned()));

    let other = runs.path("vocab.txt");
    std::fs::write(&other, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nheart\n").unwrap();
    let set = format!(
        "data.vocabulary={:?}",
        other.to_str().unwrap().replace('\\', "/")
    );
    let recipe = runs.recipe("pairs", &[set.as_str()]);
    let error = runs.train(&recipe, "other", false).unwrap_err();
    assert!(
        error.contains("vocab.txt") && error.contains("init_weights"),
        "{error}"
    );
}
