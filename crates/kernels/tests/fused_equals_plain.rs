//! Every fused operator equals its plain composition, forward and backward, over random shapes,
//! masks, odd sizes and strided inputs.

#![allow(missing_docs)]

use burn::tensor::{Device, Tensor, TensorData, s};
use fitup_kernels::attention::{
    AttentionDropout, Reach, attention, attention_biased, attention_biased_plain, attention_plain,
    attention_qkv, attention_rows, attention_rows_plain,
};
use fitup_kernels::gelu::{bias_gelu, bias_gelu_plain};
use fitup_kernels::layer_norm::{layer_norm, layer_norm_plain};
use fitup_kernels::linear::{linear, linear_plain};
use fitup_kernels::mlp::{LinearParts, mlp, mlp_plain};
use fitup_kernels::parameter_update::{
    AdamWState, AdamWStep, adamw, adamw_plain, moved, moved_plain,
};
use proptest::prelude::*;

/// Numbers in [-2, 2) that follow from the seed alone.
fn values(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 22) as f32 - 2.0
        })
        .collect()
}

fn tensor<const D: usize>(seed: u64, shape: [usize; D], device: &Device) -> Tensor<D> {
    let data = TensorData::new(values(seed, shape.iter().product()), shape);
    Tensor::from_data(data, device)
}

fn leaf<const D: usize>(seed: u64, shape: [usize; D], device: &Device) -> Tensor<D> {
    tensor(seed, shape, device).require_grad()
}

fn difference<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f32 {
    (a - b).abs().max().into_scalar()
}

/// Gradients of `sum(output * cotangent)` for each leaf, compared between both implementations.
fn compare<const D: usize, const L: usize, const N: usize>(
    fused: Tensor<D>,
    plain: Tensor<D>,
    leaves: [&Tensor<L>; N],
    cotangent: Tensor<D>,
) -> Result<(), TestCaseError> {
    let apart = difference(fused.clone().inner(), plain.clone().inner());
    prop_assert!(apart < 2e-5, "outputs differ by {apart:e}");
    let fused = (fused * cotangent.clone()).sum().backward();
    let plain = (plain * cotangent).sum().backward();
    for (i, leaf) in leaves.into_iter().enumerate() {
        let (Some(a), Some(b)) = (leaf.grad(&fused), leaf.grad(&plain)) else {
            return Err(TestCaseError::fail(format!("input {i} has no gradient")));
        };
        let scale: f32 = b.clone().abs().max().into_scalar::<f32>().max(1.0);
        let apart = difference(a, b) / scale;
        prop_assert!(apart < 3e-5, "gradient of input {i} differs by {apart:e}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn attention_with_and_without_mask(
        seed in 1u64..1_000_000,
        batch in 1usize..4,
        heads in 1usize..4,
        head_dim in 1usize..19,
        queries in 1usize..40,
        keys in 1usize..40,
        mask_kind in 0usize..3,
    ) {
        let device = Device::flex().autodiff();
        let width = heads * head_dim;
        let q = leaf(seed, [batch, queries, width], &device);
        let k = leaf(seed + 1, [batch, keys, width], &device);
        let v = leaf(seed + 2, [batch, keys, width], &device);
        let mask = match mask_kind {
            0 => None,
            kind => {
                let rows = if kind == 1 { 1 } else { queries };
                let mut mask = values(seed + 3, batch * rows * keys);
                for (i, m) in mask.iter_mut().enumerate() {
                    // The first key of every row stays visible.
                    *m = if *m < 0.0 && i % keys != 0 { -10_000.0 } else { 0.0 };
                }
                Some(Tensor::from_data(TensorData::new(mask, [batch, rows, keys]), &device))
            }
        };
        let fused = attention(q.clone(), k.clone(), v.clone(), mask.clone(), heads);
        let plain = attention_plain(q.clone(), k.clone(), v.clone(), mask, heads);
        let cotangent = tensor(seed + 4, [batch, queries, width], &device);
        compare(fused, plain, [&q, &k, &v], cotangent)?;
    }

    #[test]
    fn attention_with_a_trained_bias(
        seed in 1u64..1_000_000,
        batch in 1usize..4,
        heads in 1usize..4,
        head_dim in 1usize..19,
        queries in 1usize..30,
        keys in 1usize..30,
        masked: bool,
    ) {
        let device = Device::flex().autodiff();
        let width = heads * head_dim;
        let q = leaf(seed, [batch, queries, width], &device);
        let k = leaf(seed + 1, [batch, keys, width], &device);
        let v = leaf(seed + 2, [batch, keys, width], &device);
        let bias = leaf(seed + 3, [heads, queries, keys], &device);
        let mask = masked.then(|| {
            let hidden = (0..batch * keys).map(|i| if i % keys > 3 { f32::NEG_INFINITY } else { 0.0 });
            Tensor::from_data(TensorData::new(hidden.collect(), [batch, 1, keys]), &device)
        });
        let inputs = || (q.clone(), k.clone(), v.clone(), bias.clone(), mask.clone());
        let (a, b, c, d, e) = inputs();
        let fused = attention_biased(a, b, c, d, e, heads);
        let (a, b, c, d, e) = inputs();
        let plain = attention_biased_plain(a, b, c, d, e, heads);
        let cotangent = tensor(seed + 4, [batch, queries, width], &device);
        compare(fused, plain, [&q, &k, &v, &bias], cotangent)?;
    }

    #[test]
    fn attention_of_strided_inputs(
        seed in 1u64..1_000_000,
        batch in 1usize..4,
        seq in 1usize..20,
    ) {
        let device = Device::flex().autodiff();
        let heads = 2;
        // [seq, batch, width] swapped to [batch, seq, width]: not contiguous.
        let make = |i: u64| leaf(seed + i, [seq, batch, 8], &device);
        let (q, k, v) = (make(0), make(1), make(2));
        let swap = |x: &Tensor<3>| x.clone().swap_dims(0, 1);
        let fused = attention(swap(&q), swap(&k), swap(&v), None, heads);
        let plain = attention_plain(swap(&q), swap(&k), swap(&v), None, heads);
        let cotangent = tensor(seed + 4, [batch, seq, 8], &device);
        compare(fused, plain, [&q, &k, &v], cotangent)?;
    }

    #[test]
    fn packed_attention(
        seed in 1u64..1_000_000,
        batch in 1usize..4,
        heads in 1usize..5,
        head_dim in 1usize..17,
        seq in 1usize..40,
    ) {
        let device = Device::flex().autodiff();
        let width = heads * head_dim;
        let qkv = leaf(seed, [batch, seq, 3 * width], &device);
        let part = |i: usize| qkv.clone().narrow(2, i * width, width);
        let fused = attention_qkv(qkv.clone(), heads);
        let plain = attention_plain(part(0), part(1), part(2), None, heads);
        let cotangent = tensor(seed + 4, [batch, seq, width], &device);
        compare(fused, plain, [&qkv, &qkv, &qkv], cotangent)?;
    }

    #[test]
    fn attention_over_rows_of_any_lengths(
        seed in 1u64..1_000_000,
        heads in 1usize..4,
        head_dim in 1usize..19,
        key_lengths in prop::collection::vec(1usize..20, 1..5),
        // Length of each sequence of queries, 0 among them, and whose keys it reads.
        readers in prop::collection::vec((0usize..12, 0usize..5), 1..9),
        rate in prop::option::of(0.05..0.9),
    ) {
        let device = Device::flex().autodiff();
        let width = heads * head_dim;
        let ranges: Vec<_> = key_lengths
            .iter()
            .scan(0, |end, length| {
                *end += length;
                Some(*end - length..*end)
            })
            .collect();
        let sequences = readers
            .iter()
            .map(|(queries, read)| (*queries, ranges[read % ranges.len()].clone()));
        let reach = Reach::new(sequences, key_lengths.iter().sum());
        prop_assume!(reach.query_rows() > 0);
        let q = leaf(seed, [reach.query_rows(), width], &device);
        let k = leaf(seed + 1, [reach.key_rows(), width], &device);
        let v = leaf(seed + 2, [reach.key_rows(), width], &device);
        let dropout = rate.map(|rate| AttentionDropout { seed, rate });
        let fused = attention_rows(q.clone(), k.clone(), v.clone(), &reach, heads, dropout);
        let plain = attention_rows_plain(q.clone(), k.clone(), v.clone(), &reach, heads, dropout);
        let cotangent = tensor(seed + 4, [reach.query_rows(), width], &device);
        compare(fused, plain, [&q, &k, &v], cotangent)?;
    }

    #[test]
    fn linear_of_any_width(
        seed in 1u64..1_000_000,
        batch in 1usize..4,
        rows in 1usize..150,
        input in 1usize..70,
        output in 1usize..70,
        with_bias: bool,
    ) {
        let device = Device::flex().autodiff();
        // Swapped, so not contiguous.
        let x = leaf(seed, [rows, batch, input], &device);
        let weight = leaf(seed + 1, [1, input, output], &device);
        let bias = leaf(seed + 2, [1, 1, output], &device);
        let inputs = || {
            let x = x.clone().swap_dims(0, 1);
            let bias = with_bias.then(|| bias.clone().reshape([output]));
            (x, weight.clone().reshape([input, output]), bias)
        };
        let (a, b, c) = inputs();
        let fused = linear(a, b, c);
        let (a, b, c) = inputs();
        let plain = linear_plain(a, b, c);
        let cotangent = tensor(seed + 4, [batch, rows, output], &device);
        let third = if with_bias { &bias } else { &x };
        compare(fused, plain, [&x, &weight, third], cotangent)?;
    }

    #[test]
    fn parameter_updates_of_any_length(
        seed in 1u64..1_000_000,
        length in 1usize..40_000,
        decays_before: bool,
    ) {
        let device = Device::flex();
        let state = || AdamWState {
            value: tensor(seed, [length], &device),
            first: tensor(seed + 1, [length], &device),
            second: tensor::<1>(seed + 2, [length], &device).abs(),
        };
        let gradient = || tensor::<1>(seed + 3, [length], &device);
        let (before, after) = if decays_before { (0.9, 1.0) } else { (1.0, 0.9) };
        let step = AdamWStep {
            betas: [0.9, 0.98],
            root_correction: 0.7,
            eps: 1e-3,
            rate: 0.1,
            decay_before: before,
            decay_after: after,
        };
        let fused = adamw(state(), gradient(), step);
        let plain = adamw_plain(state(), gradient(), step);
        for (fused, plain) in [
            (fused.value, plain.value),
            (fused.first, plain.first),
            (fused.second, plain.second),
        ] {
            let scale: f32 = plain.clone().abs().max().into_scalar::<f32>().max(1.0);
            let apart = difference(fused, plain) / scale;
            prop_assert!(apart < 1e-5, "AdamW differs by {apart:e}");
        }
        let apart = difference(
            moved(state().value, gradient(), 0.995),
            moved_plain(state().value, gradient(), 0.995),
        );
        prop_assert!(apart < 1e-6, "the move differs by {apart:e}");
    }

    #[test]
    fn layer_norm_of_any_width(
        seed in 1u64..1_000_000,
        batch in 1usize..4,
        rows in 1usize..150,
        width in 2usize..70,
    ) {
        let device = Device::flex().autodiff();
        let x = leaf(seed, [batch, rows, width], &device);
        // As [1, 1, width] leaves, so that all three inputs compare alike.
        let gamma = leaf(seed + 1, [1, 1, width], &device);
        let beta = leaf(seed + 2, [1, 1, width], &device);
        let flat = |t: &Tensor<3>| t.clone().reshape([width]);
        let fused = layer_norm(x.clone(), flat(&gamma), flat(&beta), 1e-5);
        let plain = layer_norm_plain(x.clone(), flat(&gamma), flat(&beta), 1e-5);
        let cotangent = tensor(seed + 4, [batch, rows, width], &device);
        compare(fused, plain, [&x, &gamma, &beta], cotangent)?;
    }

    #[test]
    fn bias_gelu_of_any_width(
        seed in 1u64..1_000_000,
        batch in 1usize..4,
        rows in 1usize..150,
        width in 1usize..70,
    ) {
        let device = Device::flex().autodiff();
        let h = leaf(seed, [batch, rows, width], &device);
        let bias = leaf(seed + 1, [1, 1, width], &device);
        let flat = || bias.clone().reshape([width]);
        let fused = bias_gelu(h.clone(), flat());
        let plain = bias_gelu_plain(h.clone(), flat());
        let cotangent = tensor(seed + 4, [batch, rows, width], &device);
        compare(fused, plain, [&h, &bias, &h], cotangent)?;
    }

    #[test]
    fn mlp_of_any_sizes(
        seed in 1u64..1_000_000,
        rows in 1usize..150,
        input in 1usize..20,
        hidden in 1usize..70,
        output in 1usize..20,
        frozen in 0usize..3,
    ) {
        let device = Device::flex().autodiff();
        // The frozen layer's weights are no leaves: its gradients are left out, the others stay.
        let weight = |seed, shape: [usize; 2], layer| {
            let small: Tensor<2> = tensor(seed, shape, &device).mul_scalar(0.3);
            if frozen == layer { small } else { small.require_grad() }
        };
        let x = leaf(seed, [rows, input], &device);
        let weights = [weight(seed + 1, [input, hidden], 1), weight(seed + 2, [hidden, output], 2)];
        let biases = [weight(seed + 3, [1, hidden], 1), weight(seed + 4, [1, output], 2)];
        let parts = |i: usize| LinearParts {
            weight: weights[i].clone(),
            bias: biases[i].clone().reshape([-1]),
        };
        // Of every second row, too: a view that is not contiguous.
        for stride in [1, 2] {
            let rows = || x.clone().slice(s![..;stride]);
            let fused = mlp(rows(), parts(0), parts(1));
            let plain = mlp_plain(rows(), parts(0), parts(1));
            let cotangent = tensor(seed + 5, fused.dims(), &device);
            match frozen {
                0 => compare(
                    fused,
                    plain,
                    [&x, &weights[0], &biases[0], &weights[1], &biases[1]],
                    cotangent,
                )?,
                1 => compare(fused, plain, [&x, &weights[1], &biases[1]], cotangent)?,
                _ => compare(fused, plain, [&x, &weights[0], &biases[0]], cotangent)?,
            }
        }
    }
}

#[test]
fn inference_equals_training() {
    let (plain, tracked) = (Device::flex(), Device::flex().autodiff());
    let qkv = |device: &Device| tensor::<3>(5, [2, 7, 24], device);
    let a = attention_qkv(qkv(&plain), 2);
    let b = attention_qkv(qkv(&tracked).require_grad(), 2).inner();
    assert_eq!(difference(a, b), 0.0);
}

#[test]
fn a_row_masked_out_wholly_gives_zero_and_no_nan() {
    let device = Device::flex().autodiff();
    let q = leaf(1, [1, 2, 4], &device);
    let mask = Tensor::<3>::full([1, 1, 2], f32::NEG_INFINITY, &device);
    let out = attention(q.clone(), q.clone(), q.clone(), Some(mask), 2);
    let largest: f32 = out.clone().inner().abs().max().into_scalar();
    assert_eq!(largest, 0.0);
    let gradients = out.sum().backward();
    let finite = q
        .grad(&gradients)
        .is_some_and(|g| g.abs().max().into_scalar::<f32>() == 0.0);
    assert!(finite, "gradient of a masked row");
}

#[test]
fn the_result_does_not_depend_on_the_batch_beside_it() {
    let device = Device::flex();
    let x = tensor::<3>(9, [300, 5, 24], &device);
    let all = layer_norm(
        x.clone(),
        Tensor::ones([24], &device),
        Tensor::zeros([24], &device),
        1e-6,
    );
    let one = layer_norm(
        x.narrow(0, 299, 1),
        Tensor::ones([24], &device),
        Tensor::zeros([24], &device),
        1e-6,
    );
    assert_eq!(difference(all.narrow(0, 299, 1), one), 0.0);
}

#[test]
#[should_panic(expected = "keys overlap")]
fn ranges_of_keys_are_equal_or_apart() {
    Reach::new([(1, 0..3), (1, 2..4)], 4);
}
