//! What a step does to a parameter, in one pass over its memory: AdamW, and the momentum model's
//! move towards it. For tensors on the plain (not autodiff) device.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use multiversion::multiversion;
use rayon::prelude::*;

use crate::flex::{elements, owned};

/// One AdamW step of a parameter: with gradient `g`,
/// `first = beta1 first + (1 - beta1) g`, `second = beta2 second + (1 - beta2) g^2`,
/// `value = (value decay_before - rate first / (sqrt(second) / root_correction + eps)) decay_after`.
#[derive(Clone, Copy, Debug)]
pub struct AdamWStep {
    /// Decay rates of the first and second moment; in float64, since one minus them is taken.
    pub betas: [f64; 2],
    /// Root of the second moment's bias correction; 1 where `rate` holds it.
    pub root_correction: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Learning rate, with the bias corrections that belong to it.
    pub rate: f32,
    /// Factor on the value before the step.
    pub decay_before: f32,
    /// Factor on the value after the step.
    pub decay_after: f32,
}

/// A parameter with its moments, all of one shape.
#[derive(Clone, Debug)]
pub struct AdamWState {
    /// The parameter.
    pub value: Tensor<1>,
    /// Moving mean of the gradients.
    pub first: Tensor<1>,
    /// Moving mean of their squares.
    pub second: Tensor<1>,
}

/// The state after one step; `gradient` has the value's shape. On the CPU in one pass, on other
/// devices [`adamw_plain`].
pub fn adamw(state: AdamWState, gradient: Tensor<1>, step: AdamWStep) -> AdamWState {
    if !crate::is_fused(&state.value) {
        return adamw_plain(state, gradient, step);
    }
    let (value, first, second) = <Dispatch as ParameterUpdate>::fused_adamw(
        state.value.into_dispatch(),
        state.first.into_dispatch(),
        state.second.into_dispatch(),
        gradient.into_dispatch(),
        step,
    );
    AdamWState {
        value: Tensor::from_dispatch(value),
        first: Tensor::from_dispatch(first),
        second: Tensor::from_dispatch(second),
    }
}

/// The same from Burn's own operators: the reference, and the fallback on other devices.
pub fn adamw_plain(state: AdamWState, gradient: Tensor<1>, step: AdamWStep) -> AdamWState {
    let [(beta1, rest1), (beta2, rest2)] = step.betas.map(with_rest);
    let squared = gradient.clone().square();
    let first = state.first.mul_scalar(beta1) + gradient.mul_scalar(rest1);
    let second = state.second.mul_scalar(beta2) + squared.mul_scalar(rest2);
    let denominator = second.clone().sqrt().div_scalar(step.root_correction);
    let change = first.clone() / denominator.add_scalar(step.eps);
    let value = state.value.mul_scalar(step.decay_before) - change.mul_scalar(step.rate);
    AdamWState {
        value: value.mul_scalar(step.decay_after),
        first,
        second,
    }
}

/// `m teacher + (1 - m) student`; `m` in `[0, 1]`. On the CPU in one pass, on other devices
/// [`moved_plain`].
pub fn moved<const D: usize>(teacher: Tensor<D>, student: Tensor<D>, m: f64) -> Tensor<D> {
    if !crate::is_fused(&teacher) {
        return moved_plain(teacher, student, m);
    }
    Tensor::from_dispatch(<Dispatch as ParameterUpdate>::fused_moved(
        teacher.into_dispatch(),
        student.into_dispatch(),
        m,
    ))
}

/// The same from Burn's own operators: the reference, and the fallback on other devices.
pub fn moved_plain<const D: usize>(teacher: Tensor<D>, student: Tensor<D>, m: f64) -> Tensor<D> {
    let (m, rest) = with_rest(m);
    teacher.mul_scalar(m) + student.mul_scalar(rest)
}

/// A share and what is missing to one. Taken in float32, one minus 0.999 would be off by 1e-5 of
/// itself.
fn with_rest(share: f64) -> (f32, f32) {
    (share as f32, (1.0 - share) as f32)
}

/// The operators as a backend extension.
#[backend_extension(Flex)]
pub trait ParameterUpdate: Backend {
    /// See [`adamw`]: value, first and second moment after the step.
    fn fused_adamw(
        value: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        step: AdamWStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    /// See [`moved`].
    fn fused_moved(
        teacher: FloatTensor<Self>,
        student: FloatTensor<Self>,
        m: f64,
    ) -> FloatTensor<Self>;
}

/// Elements handled as one task.
const PER_TASK: usize = 1 << 14;

impl ParameterUpdate for Flex {
    fn fused_adamw(
        value: FlexTensor,
        first: FlexTensor,
        second: FlexTensor,
        gradient: FlexTensor,
        step: AdamWStep,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let [mut value, mut first, mut second] = [value, first, second].map(owned);
        let gradient = gradient.to_contiguous();
        value
            .storage_mut::<f32>()
            .par_chunks_mut(PER_TASK)
            .zip(first.storage_mut::<f32>().par_chunks_mut(PER_TASK))
            .zip(second.storage_mut::<f32>().par_chunks_mut(PER_TASK))
            .zip(elements(&gradient).par_chunks(PER_TASK))
            .for_each(|(((value, first), second), gradient)| {
                adamw_chunk(value, first, second, gradient, step);
            });
        (value, first, second)
    }

    fn fused_moved(teacher: FlexTensor, student: FlexTensor, m: f64) -> FlexTensor {
        let mut teacher = owned(teacher);
        let student = student.to_contiguous();
        teacher
            .storage_mut::<f32>()
            .par_chunks_mut(PER_TASK)
            .zip(elements(&student).par_chunks(PER_TASK))
            .for_each(|(teacher, student)| moved_chunk(teacher, student, m));
        teacher
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2", "aarch64+neon"))]
fn adamw_chunk(
    value: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
    gradient: &[f32],
    step: AdamWStep,
) {
    let [(beta1, rest1), (beta2, rest2)] = step.betas.map(with_rest);
    let state = value.iter_mut().zip(first).zip(second);
    for (((value, first), second), &g) in state.zip(gradient) {
        *first = beta1 * *first + rest1 * g;
        *second = beta2 * *second + rest2 * (g * g);
        let change = *first / (second.sqrt() / step.root_correction + step.eps);
        *value = (*value * step.decay_before - step.rate * change) * step.decay_after;
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2", "aarch64+neon"))]
fn moved_chunk(teacher: &mut [f32], student: &[f32], m: f64) {
    let (m, rest) = with_rest(m);
    for (teacher, &student) in teacher.iter_mut().zip(student) {
        *teacher = m * *teacher + rest * student;
    }
}
