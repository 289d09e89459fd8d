use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use fitup_models::albef::vqa::{
    AlbefVqa, FirstToken, Generation, QuestionStates, RankedAnswer, VqaBatch,
};
use fitup_models::layers::bert::DecoderState;
use fitup_models::layers::packing::Packing;
use fitup_models::weights::host_values;

use crate::albef_pretrain::config;
use crate::albef_tasks::{
    assert_follows_dropout, assert_task_gradients, with_dropout, with_momentum,
};
use crate::golden::{Golden, assert_close, field, magnitude};

fn models(golden: &Golden) -> (AlbefVqa, AlbefVqa) {
    with_momentum(
        golden,
        |state| state,
        |device| config(golden).init_vqa(device),
    )
}

fn batch(golden: &Golden, device: &Device) -> VqaBatch {
    let answers = golden.ints("in.k");
    let questions = answers.iter().enumerate();
    let questions = questions.flat_map(|(i, k)| vec![i; *k as usize]);
    VqaBatch {
        image: golden.float("in.image", device),
        question_ids: golden.int("in.question_ids", device),
        question_mask: golden.int("in.question_atts", device),
        answer_ids: golden.int("in.answer_ids", device),
        answer_mask: golden.int("in.answer_atts", device),
        questions: questions.collect(),
        weights: golden.host("in.weights").values.clone(),
    }
}

fn read(model: &AlbefVqa, batch: &VqaBatch) -> QuestionStates {
    let packing = Packing::from_mask(batch.question_mask.clone());
    let ids = packing.pack(batch.question_ids.clone());
    model.read_questions(batch.image.clone(), ids, &packing, None)
}

/// Rows of a recorded padded tensor, `[n, seq, width]`, at the first `keep(length)` places of each.
fn recorded_rows(golden: &Golden, name: &str, lengths: &[usize]) -> Vec<f32> {
    let tensor = golden.host(name);
    let (seq, width) = (tensor.shape[1], tensor.shape[2]);
    let texts = tensor.values.chunks(seq * width).zip(lengths);
    texts.flat_map(|(t, n)| t[..n * width].to_vec()).collect()
}

fn assert_rows(name: &str, got: Tensor<2>, want: &[f32]) {
    let scale = magnitude(want).max(1.0);
    assert_close(name, &host_values(got), want, 1e-4 * scale);
}

#[test]
fn loss_and_gradients() {
    let golden = Golden::load("albef_vqa");
    let (model, momentum) = models(&golden);
    let batch = batch(&golden, &Device::flex());
    let out = model.loss(Some(&momentum), &batch, 0.4, None);
    golden.assert_output("out.answer_losses", out.answer_losses);
    golden.assert_output("out.loss", out.loss.clone());
    assert_task_gradients(&golden, &model, out.loss);
}

#[test]
fn without_distillation() {
    let golden = Golden::load("albef_vqa");
    let (model, _) = models(&golden);
    let out = model.loss(None, &batch(&golden, &Device::flex()), 0.4, None);
    golden.assert_output("out.nodistill_loss", out.loss);
}

#[test]
fn question_states_and_answer_logits() {
    let golden = Golden::load("albef_vqa");
    let (model, momentum) = models(&golden);
    let batch = batch(&golden, &Device::flex());
    let answers = Packing::from_mask(batch.answer_mask.clone());
    let predicting: Vec<usize> = answers.lengths().iter().map(|n| n - 1).collect();
    for (model, states_name, logits_name) in [
        (
            model.valid(),
            Some("out.question_states"),
            "out.answer_logits",
        ),
        (momentum, None, "out.logits_m"),
    ] {
        let states = read(&model, &batch);
        if let Some(name) = states_name {
            let want = recorded_rows(&golden, name, states.packing.lengths());
            assert_rows(name, states.states.clone(), &want);
        }
        let ids = answers.pack(batch.answer_ids.clone());
        let source = model.source(&states);
        let logits = model.answer_logits(&source, ids, &answers, &batch.questions, None);
        let want = recorded_rows(&golden, logits_name, &predicting);
        assert_rows(logits_name, logits, &want);
    }
}

struct Candidates {
    ids: Tensor<1, Int>,
    packing: Packing,
}

fn candidates(golden: &Golden, device: &Device) -> Candidates {
    let packing = Packing::from_mask(golden.int("in.cand_atts", device));
    Candidates {
        ids: packing.pack(golden.int("in.cand_ids", device)),
        packing,
    }
}

fn rank(golden: &Golden, how: FirstToken) -> Vec<Vec<RankedAnswer>> {
    let device = Device::flex();
    let model = models(golden).0.valid();
    let states = read(&model, &batch(golden, &device));
    let list = candidates(golden, &device);
    let k = field(&golden.config, "/config/k_test");
    model.rank_answers(&states, list.ids, &list.packing, k, how)
}

#[test]
fn answers_ranked_as_the_original() {
    let golden = Golden::load("albef_vqa");
    let ranked = rank(&golden, FirstToken::Twice);
    let ids: Vec<i64> = ranked.iter().flatten().map(|a| a.answer as i64).collect();
    assert_eq!(ids, golden.ints("out.rank_ids"));
    let probs: Vec<f32> = ranked.iter().flatten().map(|a| a.prob).collect();
    let want = &golden.host("out.rank_probs").values;
    assert_close("out.rank_probs", &probs, want, 1e-4);

    let device = Device::flex();
    let model = models(&golden).0.valid();
    let states = read(&model, &batch(&golden, &device));
    let list = candidates(&golden, &device);
    let first = model.first_token_log_probs(&states, list.ids, &list.packing);
    golden.assert_small("out.rank_first_token_probs", first.clone().exp());

    // Recorded in the order in which the first tokens chose the answers, which is not kept here:
    // what is compared is sorted within each question.
    let sorted = |values: &[f32]| {
        let mut rows = values.to_vec();
        rows.chunks_mut(4)
            .for_each(|row| row.sort_by(f32::total_cmp));
        rows
    };
    let losses: Vec<f32> = ranked.iter().flatten().map(|a| -a.log_likelihood).collect();
    let want = sorted(&golden.host("out.rank_answer_loss").values);
    let scale = magnitude(&want);
    assert_close(
        "out.rank_answer_loss",
        &sorted(&losses),
        &want,
        1e-4 * scale,
    );
    let (first, count) = (host_values(first), list.packing.texts());
    let sums: Vec<f32> = ranked
        .iter()
        .enumerate()
        .flat_map(|(question, answers)| {
            let first = &first[question * count..(question + 1) * count];
            answers
                .iter()
                .map(move |a| a.log_likelihood + first[a.answer])
        })
        .collect();
    let want = sorted(&golden.host("out.rank_log_probs_sum").values);
    let scale = magnitude(&want);
    assert_close(
        "out.rank_log_probs_sum",
        &sorted(&sums),
        &want,
        1e-4 * scale,
    );
}

#[test]
fn the_first_token_counted_once_ranks_by_likelihood() {
    let golden = Golden::load("albef_vqa");
    for answers in rank(&golden, FirstToken::Once) {
        assert!(answers.is_sorted_by(|a, b| a.log_likelihood >= b.log_likelihood));
        let total: f32 = answers.iter().map(|a| a.prob).sum();
        assert!((total - 1.0).abs() < 1e-5);
        let odds = (answers[0].prob / answers[1].prob).ln();
        let apart = answers[0].log_likelihood - answers[1].log_likelihood;
        assert!((odds - apart).abs() < 1e-3, "{odds}, {apart}");
    }
}

#[test]
fn a_list_shorter_than_k_is_ranked_whole() {
    let golden = Golden::load("albef_vqa");
    let device = Device::flex();
    let model = models(&golden).0.valid();
    let states = read(&model, &batch(&golden, &device));
    let list = candidates(&golden, &device);
    let rank = |packing: &Packing, k| {
        let ids = list.ids.clone();
        model.rank_answers(&states, ids, packing, k, FirstToken::Once)
    };
    let all = rank(&list.packing, 100);
    assert!(
        all.iter()
            .all(|answers| answers.len() == list.packing.texts())
    );
    // What is likeliest as a whole need not begin as the likeliest: fewer may miss it, more not.
    for (few, all) in rank(&list.packing, 1).iter().zip(&all) {
        assert!(few[0].log_likelihood <= all[0].log_likelihood);
        let same = all.iter().find(|answer| answer.answer == few[0].answer);
        assert!((few[0].log_likelihood - same.unwrap().log_likelihood).abs() < 1e-4);
    }
    assert_eq!(rank(&Packing::new(vec![]), 4), vec![vec![]; 4]);
}

#[test]
fn dropout_follows_its_seed() {
    let golden = Golden::load("albef_vqa");
    let config = with_dropout(&golden);
    let init = |device: &Device| config.init_vqa(device);
    let (model, _) = with_momentum(&golden, |state| state, init);
    let batch = batch(&golden, &Device::flex());
    assert_follows_dropout(|dropout| model.loss(None, &batch, 0.0, dropout).loss);
}

#[test]
fn token_by_token_is_all_at_once() {
    let golden = Golden::load("albef_vqa");
    let device = Device::flex();
    let model = models(&golden).0.valid();
    let states = read(&model, &batch(&golden, &device));
    let source = model.source(&states);
    // Two sequences of question 2, one of question 0.
    let sequences = [[2, 40, 7], [2, 99, 3], [2, 5, 11]];
    let reads = [2, 0, 2];
    let ids = TensorData::new(sequences.concat(), [9]);
    let ids = Tensor::<1, Int>::from_data(ids, &device);
    let packing = Packing::new(vec![3; 3]);
    let decoder = &model.text_decoder;
    let whole = decoder.decode_rows(ids.clone(), &packing, &source, &reads, None);
    let whole = whole.reshape([3, 3, 32]);
    let mut state = DecoderState::new(reads.to_vec());
    for step in 0..3 {
        let ids = ids
            .clone()
            .reshape([3, 3])
            .narrow(1, step, 1)
            .squeeze_dim::<1>(1);
        let (hidden, grown) = decoder.decode_next(ids, &state, &source);
        let want = host_values(whole.clone().narrow(1, step, 1));
        assert_rows(&format!("token {step}"), hidden, &want);
        state = grown;
    }
    // In another order, one of them twice.
    let chosen = [2, 1, 2];
    let (hidden, _) = decoder.decode_next(
        Tensor::from_data([3, 8, 3], &device),
        &state.chosen(&chosen),
        &source,
    );
    let rows = host_values(hidden);
    assert_eq!(rows[..32], rows[64..]);
    let ids = Tensor::<1, Int>::from_data([2, 5, 11, 3], &device);
    let whole = decoder.decode_rows(ids, &Packing::new(vec![4]), &source, &[2], None);
    assert_close("fourth", &rows[..32], &host_values(whole)[96..], 1e-4);
}

fn how(beams: usize, max_tokens: usize) -> Generation {
    Generation {
        start: 2,
        end: 3,
        max_tokens,
        beams,
        length_penalty: 0.0,
    }
}

#[test]
fn one_beam_takes_the_likeliest_token() {
    let golden = Golden::load("albef_vqa");
    let device = Device::flex();
    let model = models(&golden).0.valid();
    let states = read(&model, &batch(&golden, &device));
    let source = model.source(&states);
    let answers = model.generate_answers(&states, &how(1, 6));
    assert_eq!(answers.len(), 4);
    for (question, answers) in answers.iter().enumerate() {
        let [answer] = &answers[..] else {
            panic!("one answer a question, not {answers:?}");
        };
        let mut tokens = vec![2];
        tokens.extend(&answer.tokens);
        if answer.ended {
            tokens.push(3);
        }
        assert!(answer.ended || answer.tokens.len() == 6);
        let packing = Packing::new(vec![tokens.len()]);
        let ids = Tensor::from_data(TensorData::new(tokens.clone(), [tokens.len()]), &device);
        let logits = model.answer_logits(&source, ids, &packing, &[question], None);
        let mut log_likelihood = 0.0;
        for (row, next) in host_values(logits).chunks(120).zip(&tokens[1..]) {
            let best = row.iter().copied().fold(f32::MIN, f32::max);
            assert_eq!(row[*next as usize], best, "question {question}");
            let total: f32 = row.iter().map(|v| (v - best).exp()).sum();
            log_likelihood -= total.ln();
        }
        assert!((log_likelihood - answer.log_likelihood).abs() < 1e-3);
    }
}

#[test]
fn beams_as_wide_as_the_vocabulary_find_the_best_answer() {
    let golden = Golden::load("albef_vqa");
    let device = Device::flex();
    let model = models(&golden).0.valid();
    let states = read(&model, &batch(&golden, &device));
    // Every answer of at most two tokens, scored by the ranking.
    let mut lists = vec![vec![2i64, 3]];
    lists.extend((0..120).filter(|t| *t != 3).map(|t| vec![2, t, 3]));
    let packing = Packing::new(lists.iter().map(Vec::len).collect());
    let ids = lists.concat();
    let ids = Tensor::from_data(TensorData::new(ids.clone(), [ids.len()]), &device);
    let ranked = model.rank_answers(&states, ids, &packing, 120, FirstToken::Once);
    let written = model.generate_answers(&states, &how(120, 2));
    for (ranked, written) in ranked.iter().zip(&written) {
        let ended = written.iter().find(|answer| answer.ended).unwrap();
        let mut tokens = vec![2];
        tokens.extend(&ended.tokens);
        tokens.push(3);
        assert_eq!(tokens, lists[ranked[0].answer]);
        assert!((ended.log_likelihood - ranked[0].log_likelihood).abs() < 1e-3);
        let scores: Vec<f32> = written.iter().map(|a| a.log_likelihood).collect();
        assert!(scores.is_sorted_by(|a, b| a >= b));
    }
}
