//! What fine-tuning makes of a batch, a pre-trained model and its momentum copy. The models' losses are proven against
//! recordings (`crates/models/tests/parity`); here a step must give exactly the loss of the model's own function on the
//! same tensors: the momentum copy has moved before it, pictures, classes and weights are in their places.

#![allow(clippy::unwrap_used, missing_docs)]

use burn::tensor::{Device, Int, Tensor, TensorData};
use fitup_data::loader::{EncodedAnswer, PairBatch, Position};
use fitup_data::text::{Tokenizer, build_vocabulary};
use fitup_models::albef::entailment::{AlbefEntailment, EntailmentBatch};
use fitup_models::albef::nlvr2::{AlbefNlvr2, Nlvr2Batch};
use fitup_models::albef::text_assignment::{
    AlbefTextAssignment, AssignmentBatch, AssignmentChoice,
};
use fitup_models::albef::vqa::{AlbefVqa, VqaBatch};
use fitup_models::clip::downstream::ClipClassifier;
use fitup_models::layers::dropout::DropoutSeed;
use fitup_models::objectives::assignment::AssignmentDraw;
use fitup_models::objectives::vqa::{soft_targets, vqa};
use fitup_models::vilt::ViltTexts;
use fitup_models::vilt::downstream::{ViltNlvr2, ViltVqa};
use fitup_models::vlmo::downstream::VlmoVqa;
use fitup_models::vlmo::encoder::TextBatch;
use fitup_models::weights::{self, TensorMap, host_values, is_momentum};
use fitup_training::albef::{AlbefPretrain, is_model};
use fitup_training::clip::ClipPretrain;
use fitup_training::finetune::{Finetune, TaskModel};
use fitup_training::momentum;
use fitup_training::recipe::Recipe;
use fitup_training::trainer::{Pretrain, scalar};
use fitup_training::vilt::ViltPretrain;
use fitup_training::vlmo::VlmoPretrain;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const RUN: &str = r#"
name = "tiny"
seed = 5
[model]
system = "SYSTEM"
init_std = 0.2
[model.albef]
embed_dim = 8
[model.albef.vision]
image_size = 16
patch_size = 8
width = 16
depth = 1
heads = 2
[model.albef.text]
vocab_size = 80
hidden_size = 16
num_hidden_layers = 4
fusion_layer = 2
num_attention_heads = 2
intermediate_size = 32
max_position_embeddings = 16
encoder_width = 16
[model.clip]
embed_dim = 8
[model.clip.vision]
image_size = 16
patch_size = 8
width = 16
depth = 1
heads = 2
mlp_width = 32
[model.clip.text]
vocab_size = 80
context_length = 16
width = 16
depth = 1
heads = 2
mlp_width = 32
end_of_text = "last"
[model.vilt]
vocab_size = 80
max_text_len = 16
[model.vilt.vision]
image_size = 16
patch_size = 8
width = 16
depth = 1
heads = 2
[model.vlmo]
image_size = 16
patch_size = 8
width = 16
depth = 2
heads = 2
mlp_ratio = 2
vl_start_layer = 1
max_text_len = 16
vocab_size = 80
layer_scale = true
drop_path = 0.1
positions = { relative = { table_text_len = 16 } }
[data]
train = { kind = "KIND", SOURCE }
batch_size = 4
max_tokens = 12
[objectives]
alpha = 0.4
momentum = 0.5
queue_size = 0
[schedule]
kind = "constant"
lr = 1e-3
epochs = 1
"#;

const ANNOTATIONS: &str = r#"files = ["a.json"], image_roots = ["a"]"#;

/// A recipe of a system; `task`: of the table `task`, `set`: overrides.
fn parsed(system: &str, kind: &str, task: &str, set: &[&str]) -> Result<Recipe, String> {
    let source = match kind {
        "albef-json" => r#"files = ["a.json"]"#,
        _ => ANNOTATIONS,
    };
    let text = RUN
        .replace("SYSTEM", system)
        .replace("KIND", kind)
        .replace("SOURCE", source);
    let task = match task {
        "" => String::new(),
        task => format!("[task]\n{task}\n"),
    };
    let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
    Recipe::parse(&format!("{text}{task}"), "recipe", &set).map_err(|e| e.to_string())
}

/// A recipe of a task that has a source of its own kind.
fn recipe(system: &str, kind: &str) -> Recipe {
    let source = match kind {
        "text-assignment" | "retrieval" => "albef-json",
        kind => kind,
    };
    let distill = system == "albef";
    let answers = match kind {
        "vqa" => "\nanswers = [\"yes\", \"no\", \"two\"]",
        _ => "",
    };
    let task = format!("kind = \"{kind}\"\ndistill = {distill}{answers}");
    parsed(system, source, &task, &[]).unwrap()
}

/// Of pre-training.
fn base(system: &str) -> Recipe {
    let set: &[&str] = match system {
        "clip" => &["objectives.itm=false", "objectives.mlm=false"],
        "vilt" => &["objectives.itc=false"],
        _ => &[],
    };
    parsed(system, "albef-json", "", set).unwrap()
}

fn tokenizer() -> Tokenizer {
    let words = ["is it red yes no two cups abcdefghijklmnopqrstuvwxyz"];
    Tokenizer::from_vocabulary(build_vocabulary(words.into_iter(), 80)).unwrap()
}

/// A pre-trained ALBEF whose momentum copy is far from it.
fn pretrained() -> TensorMap {
    let export = |seed| {
        let mut recipe = base("albef");
        recipe.seed = seed;
        let system = AlbefPretrain::new(&recipe, &tokenizer(), None, &Device::flex()).unwrap();
        system.export()
    };
    let mut tensors = export(1);
    tensors.extend(export(2).into_iter().filter(|(name, _)| is_momentum(name)));
    tensors
}

/// A fine-tuning run at its start.
fn started<M: TaskModel>(recipe: &Recipe, pretrained: TensorMap) -> Finetune<M> {
    let device = Device::flex();
    let (tensors, report) = Finetune::<M>::initial(recipe, pretrained, &device).unwrap();
    assert!(!report.unwrap().taken.is_empty());
    Finetune::new(recipe, &tokenizer(), Some(&tensors), &device).unwrap()
}

/// The momentum copy of an exported run.
fn teacher<M: TaskModel>(recipe: &Recipe, run: &TensorMap) -> M {
    let tensors = M::from_official(run.clone());
    let empty = M::empty(recipe, &Device::flex());
    weights::load(empty, &tensors, M::momentum_name, is_momentum).unwrap()
}

/// The model of an exported run, on the autodiff device.
fn student<M: TaskModel>(recipe: &Recipe, run: &TensorMap) -> M {
    let tensors = M::from_official(run.clone());
    let empty = M::empty(recipe, &Device::flex().autodiff());
    weights::load(empty, &tensors, M::parameter_name, is_model).unwrap()
}

const SIZE: usize = 4;
const SIDE: usize = 16;
/// Of the step's draws.
const DRAW_SEED: u64 = 77;
const ALPHA: f64 = 0.3;

fn pixels(seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let count = SIZE * 3 * SIDE * SIDE;
    (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Four records with texts of different lengths.
fn batch() -> PairBatch {
    let texts = ["is it red", "is it", "two cups red two", "red"];
    let tokens = tokenizer().encode_batch(&texts, 12);
    PairBatch {
        epoch: 0,
        batch: 0,
        size: SIZE,
        images: pixels(1),
        second_images: vec![],
        image_size: SIDE as u32,
        input_ids: tokens.input_ids,
        attention_mask: tokens.attention_mask,
        length: tokens.length,
        keys: (0..SIZE).map(|i| i.to_string()).collect(),
        captions: texts.map(str::to_owned).to_vec(),
        image_ids: (0..SIZE as u64).collect(),
        classes: vec![],
        answers: vec![],
        next: Position::default(),
    }
}

/// Different numbers of answers a question.
fn answers() -> Vec<Vec<EncodedAnswer>> {
    let tokenizer = tokenizer();
    let of = |answers: &[(&str, f64)]| -> Vec<EncodedAnswer> {
        let encoded = answers
            .iter()
            .map(|(text, weight)| EncodedAnswer::new(text, *weight, &tokenizer, 16));
        encoded.collect()
    };
    vec![
        of(&[("yes", 0.7), ("no", 0.3)]),
        of(&[("two", 1.0)]),
        of(&[("red cups", 0.5)]),
        of(&[("no", 0.2), ("yes", 0.1), ("Two", 0.4)]),
    ]
}

fn image(pixels: &[f32]) -> Tensor<4> {
    let data = TensorData::new(pixels.to_vec(), [SIZE, 3, SIDE, SIDE]);
    Tensor::from_data(data, &Device::flex())
}

fn ints(values: &[i64]) -> Tensor<2, Int> {
    let width = values.len() / SIZE;
    let data = TensorData::new(values.to_vec(), [SIZE, width]);
    Tensor::from_data(data, &Device::flex())
}

fn labels(classes: &[usize]) -> Tensor<1, Int> {
    let classes: Vec<i64> = classes.iter().map(|class| *class as i64).collect();
    Tensor::from_data(TensorData::new(classes, [SIZE]), &Device::flex())
}

/// The step's generator after dropout's seed was taken from it.
fn draws() -> (DropoutSeed, ChaCha8Rng) {
    let mut rng = ChaCha8Rng::seed_from_u64(DRAW_SEED);
    (DropoutSeed::new(rng.random()), rng)
}

/// Total and accuracy of one step of a run, whose momentum copy moves before it.
fn step<M: TaskModel>(run: &mut Finetune<M>, batch: &PairBatch) -> (f64, Option<f64>) {
    run.begin_step(0);
    let losses = run.losses(batch, DRAW_SEED, ALPHA);
    assert_eq!(scalar(&losses.total.unwrap()), losses.numbers.total);
    (losses.numbers.total, losses.numbers.accuracy)
}

/// Share of rows whose greatest logit is the right one.
fn accuracy(logits: Tensor<2>, classes: &[usize]) -> f64 {
    let width = logits.dims()[1];
    let values = host_values(logits);
    let right = values.chunks(width).zip(classes).filter(|(row, class)| {
        let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row[**class] == best
    });
    right.count() as f64 / classes.len() as f64
}

#[test]
fn a_step_of_questions_is_the_models_loss_with_the_moved_momentum_copy() {
    let recipe = recipe("albef", "vqa");
    let mut run = started::<AlbefVqa>(&recipe, pretrained());
    let at_start = run.export();
    let mut batch = batch();
    batch.answers = answers();
    let (total, right) = step(&mut run, &batch);
    assert_eq!(right, None);

    let student: AlbefVqa = student(&recipe, &at_start);
    let still: AlbefVqa = teacher(&recipe, &at_start);
    let moved = momentum::update(still.clone(), &student, 0.5);
    let rows: Vec<Vec<i64>> = batch
        .answers
        .iter()
        .flatten()
        .map(|answer| answer.input_ids.clone())
        .collect();
    let padded = tokenizer().pad(&rows, 0);
    let of_answers = |values: &[i64]| {
        let data = TensorData::new(values.to_vec(), [rows.len(), padded.length]);
        Tensor::<2, Int>::from_data(data, &Device::flex())
    };
    let input = VqaBatch {
        image: image(&batch.images),
        question_ids: ints(&batch.input_ids),
        question_mask: ints(&batch.attention_mask),
        answer_ids: of_answers(&padded.input_ids),
        answer_mask: of_answers(&padded.attention_mask),
        questions: vec![0, 0, 1, 2, 3, 3, 3],
        weights: vec![0.7, 0.3, 1.0, 0.5, 0.2, 0.1, 0.4],
    };
    let loss = |teacher, alpha, dropout| {
        scalar(&AlbefVqa::loss(&student, Some(teacher), &input, alpha, dropout).loss)
    };
    let dropout = Some(draws().0);
    assert_eq!(total, loss(&moved, ALPHA, dropout));
    // Each of these shows in the loss, so the line above tells them apart.
    assert_ne!(total, loss(&still, ALPHA, dropout));
    assert_ne!(total, loss(&moved, 0.4, dropout));
    assert_ne!(total, loss(&moved, ALPHA, None));
    // What the step left behind is the moved copy and the model as it was.
    let after = run.export();
    let moved = weights::export(&moved, AlbefVqa::momentum_name);
    for (name, tensor) in &after {
        let wanted = moved.get(name).unwrap_or_else(|| &at_start[name]);
        assert_eq!(tensor, wanted, "{name}");
    }
}

#[test]
fn a_step_of_hypotheses_has_the_classes_in_the_heads_order() {
    let recipe = recipe("albef", "entailment");
    let mut run = started::<AlbefEntailment>(&recipe, pretrained());
    let at_start = run.export();
    let mut batch = batch();
    batch.classes = vec![0, 2, 1, 2];
    let (total, right) = step(&mut run, &batch);

    let student: AlbefEntailment = student(&recipe, &at_start);
    let moved = momentum::update(teacher(&recipe, &at_start), &student, 0.5);
    let loss = |classes: &[usize]| {
        let input = EntailmentBatch {
            image: image(&batch.images),
            input_ids: ints(&batch.input_ids),
            attention_mask: ints(&batch.attention_mask),
            labels: labels(classes),
        };
        let output = AlbefEntailment::loss(&student, Some(&moved), &input, ALPHA, Some(draws().0));
        let right = accuracy(output.logits, classes);
        (scalar(&output.loss), Some(right))
    };
    assert_eq!((total, right), loss(&[0, 2, 1, 2]));
    assert_ne!(total, loss(&[2, 0, 1, 0]).0);
}

#[test]
fn a_step_of_statements_reads_the_right_picture_as_the_second() {
    let recipe = recipe("albef", "nlvr2");
    let mut run = started::<AlbefNlvr2>(&recipe, pretrained());
    let at_start = run.export();
    let mut batch = batch();
    batch.second_images = pixels(2);
    batch.classes = vec![1, 0, 0, 1];
    let (total, right) = step(&mut run, &batch);

    let student: AlbefNlvr2 = student(&recipe, &at_start);
    let moved = momentum::update(teacher(&recipe, &at_start), &student, 0.5);
    let loss = |first: &[f32], second: &[f32]| {
        let input = Nlvr2Batch {
            images: [image(first), image(second)],
            input_ids: ints(&batch.input_ids),
            attention_mask: ints(&batch.attention_mask),
            labels: labels(&batch.classes),
        };
        let output = AlbefNlvr2::loss(&student, Some(&moved), &input, ALPHA, Some(draws().0));
        let right = accuracy(output.logits, &batch.classes);
        (scalar(&output.loss), Some(right))
    };
    let (left, right_picture) = (&batch.images, &batch.second_images);
    assert_eq!((total, right), loss(left, right_picture));
    assert_ne!(total, loss(right_picture, left).0);
}

#[test]
fn a_step_of_text_assignment_draws_from_its_seed_and_has_no_momentum_copy() {
    let recipe = recipe("albef", "text-assignment");
    let mut run = started::<AlbefTextAssignment>(&recipe, pretrained());
    let at_start = run.export();
    assert!(!at_start.keys().any(|name| is_momentum(name)));
    let batch = batch();
    let (total, right) = step(&mut run, &batch);

    let student: AlbefTextAssignment = student(&recipe, &at_start);
    let (dropout, mut rng) = draws();
    let each = (0..SIZE).map(|_| AssignmentDraw {
        has_own: rng.random(),
        own_first: rng.random(),
        others: [rng.random(), rng.random()],
    });
    let choice = AssignmentChoice::Draw(each.collect());
    let input = AssignmentBatch {
        image: image(&batch.images),
        input_ids: ints(&batch.input_ids),
        attention_mask: ints(&batch.attention_mask),
    };
    let output = AlbefTextAssignment::loss(&student, &input, choice, Some(dropout));
    assert_eq!(total, scalar(&output.loss));
    let labels = output.assignment.labels().into_iter();
    let labels: Vec<usize> = labels.map(|label| label as usize).collect();
    assert_eq!(right, Some(accuracy(output.logits, &labels)));
}

/// `0.7, 0.3` of ten people are seven and three, and count as ViLT's authors have it; `red cups` is no answer of the
/// list, and `Two` is spelt as `two`.
fn degrees() -> Vec<Vec<(usize, f32)>> {
    vec![
        vec![(0, 1.0), (1, 0.9)],
        vec![(2, 1.0)],
        vec![],
        vec![(1, 0.6), (0, 0.3), (2, 1.0)],
    ]
}

/// A step of questions of a head on answers, beside its logits on the same tensors.
fn head_on_answers<M: TaskModel>(
    system: &str,
    pretrained: TensorMap,
    logits: impl Fn(&M, &PairBatch, DropoutSeed) -> Tensor<2>,
) {
    let recipe = recipe(system, "vqa");
    let mut run = started::<M>(&recipe, pretrained);
    let at_start = run.export();
    let mut batch = batch();
    batch.answers = answers();
    let (total, _) = step(&mut run, &batch);
    let student: M = student(&recipe, &at_start);
    let targets = soft_targets(&degrees(), 3);
    let targets = Tensor::from_inner(Tensor::from_data(targets, &Device::flex()));
    let wanted = vqa(logits(&student, &batch, draws().0), targets);
    assert_eq!(total, scalar(&wanted), "{system}");
}

/// Tensors of a pre-training run that starts from the seed.
fn drawn<S: Pretrain>(system: &str) -> TensorMap {
    let run = S::new(&base(system), &tokenizer(), None, &Device::flex());
    run.unwrap().export()
}

fn tracked(tensor: Tensor<2, Int>) -> Tensor<2, Int> {
    Tensor::from_inner(tensor)
}

#[test]
fn the_other_systems_learn_answers_by_how_many_gave_them() {
    head_on_answers("clip", drawn::<ClipPretrain>("clip"), |m, batch, _| {
        let image = Tensor::from_inner(image(&batch.images));
        let ids = tracked(ints(&batch.input_ids));
        ClipClassifier::forward(m, vec![image], ids, tracked(ints(&batch.attention_mask)))
    });
    head_on_answers(
        "vilt",
        drawn::<ViltPretrain>("vilt"),
        |m: &ViltVqa, batch, dropout| {
            let images = Tensor::from_inner(image(&batch.images));
            let texts = ViltTexts {
                input_ids: tracked(ints(&batch.input_ids)),
                attention_mask: tracked(ints(&batch.attention_mask)),
            };
            m.forward(&texts, &m.stream.whole_images(images), Some(dropout))
        },
    );
    head_on_answers(
        "vlmo",
        drawn::<VlmoPretrain>("vlmo"),
        |m, batch, dropout| {
            let texts = TextBatch {
                input_ids: tracked(ints(&batch.input_ids)),
                attention_mask: tracked(ints(&batch.attention_mask)),
            };
            let image = Tensor::from_inner(image(&batch.images));
            VlmoVqa::logits(m, &texts, image, Some(dropout))
        },
    );
}

#[test]
fn momentum_copies_start_where_the_authors_meant() {
    let pretrained = pretrained();
    // Of questions and of entailment, from the pre-trained momentum model; a new head is the model's own.
    let vqa = started::<AlbefVqa>(&recipe("albef", "vqa"), pretrained.clone()).export();
    let entailment = recipe("albef", "entailment");
    let entailment = started::<AlbefEntailment>(&entailment, pretrained.clone()).export();
    for run in [&vqa, &entailment] {
        for (to, from) in [
            ("visual_encoder_m.cls_token", "visual_encoder_m.cls_token"),
            (
                "text_encoder_m.encoder.layer.3.crossattention.self.query.weight",
                "text_encoder_m.bert.encoder.layer.3.crossattention.self.query.weight",
            ),
            (
                "text_encoder.encoder.layer.3.crossattention.self.query.weight",
                "text_encoder.bert.encoder.layer.3.crossattention.self.query.weight",
            ),
        ] {
            assert_eq!(run[to], pretrained[from], "{to}");
        }
    }
    // The decoder copies the fusion layers, the momentum model's from the momentum model's.
    assert_eq!(
        vqa["text_decoder_m.bert.encoder.layer.1.output.dense.weight"],
        pretrained["text_encoder_m.bert.encoder.layer.3.output.dense.weight"]
    );
    assert_eq!(
        entailment["cls_head_m.0.weight"],
        entailment["cls_head.0.weight"]
    );

    // NLVR2's is a copy of the model after loading: the authors' starts from random weights.
    let nlvr2 = started::<AlbefNlvr2>(&recipe("albef", "nlvr2"), pretrained.clone()).export();
    let mut copies = 0;
    for (name, tensor) in nlvr2.iter().filter(|(name, _)| is_momentum(name)) {
        let (module, rest) = name.split_once('.').unwrap();
        let of_model = format!("{}.{rest}", module.strip_suffix("_m").unwrap());
        assert_eq!(tensor, &nlvr2[&of_model], "{name}");
        copies += 1;
    }
    assert_eq!(2 * copies, nlvr2.len());
    assert_eq!(
        nlvr2["text_encoder.encoder.layer.4.crossattention.self.query.weight"],
        pretrained["text_encoder.bert.encoder.layer.3.crossattention.self.query.weight"]
    );

    // Without distillation there is none.
    let mut recipe = recipe("albef", "nlvr2");
    recipe.task.as_mut().unwrap().distill = false;
    let alone = started::<AlbefNlvr2>(&recipe, pretrained).export();
    assert_eq!(alone.len(), copies);
}

/// What a run holds, read back as a run that goes on, is what it holds.
fn comes_back<M: TaskModel>(recipe: &Recipe, pretrained: TensorMap) -> TensorMap {
    let mut tensors = started::<M>(recipe, pretrained).export();
    // So that model and momentum copy differ.
    for (_, tensor) in tensors.iter_mut().filter(|(name, _)| is_momentum(name)) {
        tensor.values.iter_mut().for_each(|value| *value *= 0.5);
    }
    let device = Device::flex();
    let again = Finetune::<M>::new(recipe, &tokenizer(), Some(&tensors), &device).unwrap();
    assert_eq!(again.export(), tensors);
    tensors
}

#[test]
fn what_is_exported_loads_again_under_the_official_names() {
    let key = |module: &str, layer: usize| {
        format!("{module}.encoder.layer.{layer}.crossattention.self.key.weight")
    };
    let pretrained = pretrained();
    comes_back::<AlbefVqa>(&recipe("albef", "vqa"), pretrained.clone());
    comes_back::<AlbefEntailment>(&recipe("albef", "entailment"), pretrained.clone());
    let assignment = recipe("albef", "text-assignment");
    let assigned = comes_back::<AlbefTextAssignment>(&assignment, pretrained.clone());
    // Two layers share keys and values, and the official file holds them under both names.
    for tensors in [
        &assigned,
        &comes_back::<AlbefNlvr2>(&recipe("albef", "nlvr2"), pretrained),
        // NLVR2 starts from text assignment just as well.
        &comes_back::<AlbefNlvr2>(&recipe("albef", "nlvr2"), assigned.clone()),
    ] {
        for first in [2, 4] {
            let module = "text_encoder";
            assert_eq!(
                tensors[&key(module, first)],
                tensors[&key(module, first + 1)]
            );
        }
        assert_ne!(
            tensors[&key("text_encoder", 2)],
            tensors[&key("text_encoder", 4)]
        );
        assert!(!tensors.contains_key(&key("text_encoder", 1)));
    }
    comes_back::<ClipClassifier>(&recipe("clip", "entailment"), drawn::<ClipPretrain>("clip"));
    let vilt = drawn::<ViltPretrain>("vilt");
    let two = comes_back::<ViltNlvr2>(&recipe("vilt", "nlvr2"), vilt.clone());
    // The second picture's type starts as the first's.
    let types = |tensors: &TensorMap, row: usize| {
        let width = 16;
        tensors["token_type_embeddings.weight"].values[row * width..(row + 1) * width].to_vec()
    };
    assert_eq!(types(&two, 2), types(&vilt, 1));
    comes_back::<VlmoVqa>(&recipe("vlmo", "vqa"), drawn::<VlmoPretrain>("vlmo"));
}

#[test]
fn a_model_that_does_not_fit_is_refused_by_the_names_of_its_tensors() {
    let device = Device::flex();
    let mut short = pretrained();
    short.remove("visual_encoder.norm.weight").unwrap();
    let refused = |recipe: &Recipe, tensors: TensorMap| {
        let error = Finetune::<AlbefVqa>::initial(recipe, tensors, &device).unwrap_err();
        error.to_string()
    };
    let error = refused(&recipe("albef", "vqa"), short);
    assert!(error.contains("visual_encoder.norm.weight"), "{error}");
    let mut wide = recipe("albef", "vqa");
    wide.model.albef.as_mut().unwrap().text.intermediate_size = 48;
    let error = refused(&wide, pretrained());
    assert!(error.contains("intermediate.dense"), "{error}");

    let mut vilt = drawn::<ViltPretrain>("vilt");
    vilt.remove("pooler.dense.bias").unwrap();
    let error = Finetune::<ViltVqa>::initial(&recipe("vilt", "vqa"), vilt, &device).unwrap_err();
    assert!(error.to_string().contains("pooler.dense.bias"), "{error}");
}

#[test]
fn what_does_not_fit_a_task_is_refused_by_field() {
    let vqa = "kind = \"vqa\"";
    let validation = format!("data.validation={{ kind = \"vqa\", {ANNOTATIONS} }}");
    for (system, source, task, set, field, part) in [
        (
            "albef",
            "nlvr2",
            vqa,
            &[][..],
            "data.train",
            "kind = \"vqa\"",
        ),
        (
            "albef",
            "albef-json",
            "kind = \"nlvr2\"",
            &[],
            "data.train",
            "kind = \"nlvr2\"",
        ),
        (
            "albef",
            "vqa",
            "kind = \"retrieval\"",
            &["objectives.mlm=false"],
            "data.train",
            "image-text pairs",
        ),
        (
            "albef",
            "entailment",
            "kind = \"text-assignment\"",
            &[],
            "data.train",
            "image-text pairs",
        ),
        (
            "albef",
            "nlvr2",
            "kind = \"nlvr2\"",
            &[validation.as_str()],
            "data.validation",
            "kind = \"nlvr2\"",
        ),
        (
            "albef",
            "albef-json",
            "kind = \"text-assignment\"",
            &["data.validation={ kind = \"albef-json\", files = [\"a.json\"] }"],
            "data.validation",
            "leave it out",
        ),
        ("vilt", "vqa", vqa, &[], "task.distill", "set it to false"),
        (
            "clip",
            "nlvr2",
            "kind = \"nlvr2\"",
            &[],
            "task.distill",
            "set it to false",
        ),
        (
            "vilt",
            "albef-json",
            "kind = \"retrieval\"\ndistill = false",
            &["objectives.mlm=false"],
            "task.kind",
            "vilt",
        ),
        (
            "vlmo",
            "albef-json",
            "kind = \"text-assignment\"\ndistill = false",
            &[],
            "task.kind",
            "vlmo",
        ),
        (
            "albef",
            "albef-json",
            "kind = \"retrieval\"",
            &[],
            "objectives.mlm",
            "false",
        ),
        (
            "albef",
            "vqa",
            "kind = \"vqa\"\nk = 0",
            &[],
            "task.k",
            "at least 1",
        ),
        (
            "vlmo",
            "vqa",
            "kind = \"vqa\"\ndistill = false",
            &["model.stage=text"],
            "model.stage",
            "pairs",
        ),
    ] {
        let error = parsed(system, source, task, set).unwrap_err();
        assert!(
            error.contains(&format!("recipe field {field}: ")) && error.contains(part),
            "{system} {task} {set:?}: {error}"
        );
    }
    let error = parsed("albef", "vqa", "kind = \"vqa\"\nanswer = []", &[]).unwrap_err();
    assert!(error.contains("answer"), "{error}");
    let unknown = parsed("albef", "vqa", "kind = \"caption\"", &[]).unwrap_err();
    assert!(unknown.contains("text-assignment"), "{unknown}");
}

#[test]
fn answers_are_taken_from_a_list_or_counted_in_the_annotations() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().replace('\\', "/")
    };
    let record = |id: u64, answers: &str| {
        format!(
            r#"{{"question_id": {id}, "question": "q", "image": "i", "dataset": "vqa", "answer": {answers}}}"#
        )
    };
    let records = [
        record(1, r#"["Yes", "yes", "no"]"#),
        record(2, r#"["yes."]"#),
        record(3, r#"["no"]"#),
    ];
    let train = write("vqa.json", &format!("[{}]", records.join(",")));
    let list = write("answer_list.json", r#"["two", "red cups"]"#);
    let broken = write("broken.json", r#"["two", "two"]"#);
    let train = format!("data.train.files=[{train:?}]");
    let answers = |set: &[&str]| {
        let set: Vec<&str> = std::iter::once(train.as_str())
            .chain(set.iter().copied())
            .collect();
        let recipe = parsed("albef", "vqa", "kind = \"vqa\"", &set).unwrap();
        let recipe = recipe.with_answers().map_err(|error| error.to_string())?;
        // What is filled in is what a checkpoint holds.
        let again = Recipe::parse(&recipe.to_toml(), "resolved", &[]).unwrap();
        assert_eq!(again.clone().with_answers().unwrap(), again);
        Ok::<_, String>(recipe.task.unwrap().answers)
    };
    assert_eq!(answers(&["task.min_answer_count=2"]).unwrap(), ["yes"]);
    assert_eq!(
        answers(&["task.min_answer_count=1"]).unwrap(),
        ["yes", "no"]
    );
    let error = answers(&[]).unwrap_err();
    assert!(
        error.contains("task.min_answer_count") && error.contains('9'),
        "{error}"
    );
    let from = format!("task.answers_from={list}");
    assert_eq!(answers(&[&from]).unwrap(), ["two", "red cups"]);
    let from = format!("task.answers_from={broken}");
    let error = answers(&[&from]).unwrap_err();
    assert!(
        error.contains("task.answers_from") && error.contains("record 2"),
        "{error}"
    );
}
