//! Gradient checkpointing (Chen et al. 2016, <https://arxiv.org/abs/1604.06174>): a part of a model
//! whose forward pass keeps its inputs alone. The backward pass computes the part again, with a
//! graph of its own, and differentiates that.
//!
//! Burn's own checkpointing computes element-wise operators again and keeps what products and
//! attention read. Here the part is one node of the graph: its parents are the inputs and the
//! parameters, its state is the part and the inputs without any graph.

use std::fmt;
use std::sync::Arc;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::NoCheckpointing};
use burn::backend::autodiff::grads::Gradients as GradientsOfNodes;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, AutodiffBackend, Backend, DispatchDevice, DispatchKindConversion, Flex,
};
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DispatchTensor, Gradients, Tensor};

/// Parents of the node: most inputs and parameters of a part together. A fusion layer of ALBEF has
/// 29; Burn's nodes have a number that the compiler knows.
const PARENTS: usize = 32;

/// `forward(part, inputs)`, of which the backward pass finds nothing but the inputs.
///
/// `forward` must be a function of its arguments: what it draws comes from seeds, and every tensor
/// that it reads besides them has no gradient and lives on the plain device. Where the first input
/// is on a plain device too, nothing is to be kept and this is `forward` alone.
///
/// # Panics
/// If the part has more than 32 inputs and parameters, if the inputs are on different devices or on
/// one with Burn's own checkpointing; in the backward pass if the part does not read one of its
/// inputs.
pub fn checkpointed<M, F, const D: usize>(part: &M, inputs: &[Tensor<D>], forward: F) -> Tensor<D>
where
    M: Module + Sync + 'static,
    F: Fn(&M, &[Tensor<D>]) -> Tensor<D> + Send + Sync + 'static,
{
    let device = inputs[0].device();
    if !device.is_autodiff() {
        return forward(part, inputs);
    }
    match device.inner().as_dispatch() {
        DispatchDevice::Flex(_) => recorded::<Flex, M, F, D>(part, inputs, forward),
        #[cfg(feature = "gpu")]
        DispatchDevice::Cube(_) => recorded::<burn::backend::Cube, M, F, D>(part, inputs, forward),
        _ => forward(part, inputs),
    }
}

fn recorded<B, M, F, const D: usize>(part: &M, inputs: &[Tensor<D>], forward: F) -> Tensor<D>
where
    B: Backend,
    DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B>>,
    M: Module + Sync + 'static,
    F: Fn(&M, &[Tensor<D>]) -> Tensor<D> + Send + Sync + 'static,
{
    let mut parents = Parents::<B>(Vec::new());
    inputs.iter().for_each(|x| parents.add(x.clone()));
    part.visit(&mut parents);
    let parents = parents.0;
    assert!(
        parents.len() <= PARENTS,
        "{} inputs and parameters, at most {PARENTS}",
        parents.len()
    );

    let tracked: Vec<bool> = inputs.iter().map(Tensor::is_tracked).collect();
    let inputs: Vec<Tensor<D>> = inputs.iter().map(|x| x.clone().inner()).collect();
    let part = part.valid();
    let output: FloatTensor<B> = primitive::<B, D>(forward(&part, &inputs));

    // Parents without a gradient fill the places that are left.
    let filling = <Autodiff<B> as AutodiffBackend>::from_inner(output.clone());
    let nodes = std::array::from_fn(|i| parents.get(i).unwrap_or(&filling).node());
    let prepared = CheckpointedNode
        .prepare::<NoCheckpointing>(nodes)
        .compute_bound()
        .stateful();
    let output = match prepared {
        OpsKind::UnTracked(prepared) => prepared.finish(output),
        OpsKind::Tracked(prepared) => {
            let pass = move |upstream| {
                let part = part.clone().train();
                let inputs: Vec<Tensor<D>> = (inputs.iter().zip(&tracked))
                    .map(|(x, tracked)| Tensor::from_inner(x.clone()).set_require_grad(*tracked))
                    .collect();
                let upstream = Tensor::<D>::from_primitive::<B>(upstream);
                let output = forward(&part, &inputs) * Tensor::from_inner(upstream);
                let mut found = Found::<B> {
                    gradients: output.sum().backward(),
                    of_parents: Vec::with_capacity(PARENTS),
                };
                for (x, tracked) in inputs.iter().zip(&tracked) {
                    found.take(x);
                    let read = !tracked || found.of_parents.last().is_some_and(Option::is_some);
                    assert!(read, "an input that the part does not read");
                }
                part.visit(&mut found);
                found.of_parents
            };
            prepared.finish(Pass(Arc::new(pass)), output)
        }
    };
    Tensor::from_primitive::<Autodiff<B>>(output)
}

fn primitive<B: Backend, const D: usize>(tensor: Tensor<D>) -> FloatTensor<B>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    let found = tensor.try_into_primitive::<B>();
    found.expect("all tensors of a part are on one device, and without Burn's own checkpointing")
}

/// Inputs, then parameters as they are visited; those without a gradient among them.
struct Parents<B: Backend>(Vec<FloatTensor<Autodiff<B>>>);

impl<B: Backend> Parents<B>
where
    DispatchTensor: DispatchKindConversion<Autodiff<B>>,
{
    fn add<const D: usize>(&mut self, tensor: Tensor<D>) {
        self.0.push(primitive::<Autodiff<B>, D>(tensor.autodiff()));
    }
}

impl<B: Backend> ModuleVisitor for Parents<B>
where
    DispatchTensor: DispatchKindConversion<Autodiff<B>>,
{
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.add(param.val());
    }
}

/// Gradients of the leaves that stand for the parents, in the order of [`Parents`].
struct Found<B: Backend> {
    gradients: Gradients,
    of_parents: Vec<Option<FloatTensor<B>>>,
}

impl<B: Backend> Found<B>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    fn take<const D: usize>(&mut self, leaf: &Tensor<D>) {
        let gradient = leaf.grad_remove(&mut self.gradients);
        self.of_parents.push(gradient.map(primitive::<B, D>));
    }
}

impl<B: Backend> ModuleVisitor for Found<B>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.take(&param.val());
    }
}

#[derive(Debug)]
struct CheckpointedNode;

/// From the gradient of the output to those of the parents, as far as they have one.
type PassFn<B> = dyn Fn(FloatTensor<B>) -> Vec<Option<FloatTensor<B>>> + Send + Sync;

/// Both passes of the part.
struct Pass<B: Backend>(Arc<PassFn<B>>);

impl<B: Backend> Clone for Pass<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B: Backend> fmt::Debug for Pass<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pass")
    }
}

impl<B: Backend> Backward<B, PARENTS> for CheckpointedNode {
    type State = Pass<B>;

    fn backward(
        self,
        ops: Ops<Self::State, PARENTS>,
        grads: &mut GradientsOfNodes,
        _checkpointer: &mut Checkpointer,
    ) {
        let upstream = grads.consume::<B>(&ops.node);
        // A backward pass inside a backward pass: Burn allows it where the graphs share no node.
        let found = (ops.state.0)(upstream);
        for (node, gradient) in ops.parents.into_iter().zip(found) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use burn::tensor::{Device, Int};

    use super::*;

    #[derive(Module, Debug)]
    struct Part {
        weight: Param<Tensor<2>>,
        frozen: Param<Tensor<2>>,
        unread: Param<Tensor<1>>,
    }

    impl Part {
        fn new(device: &Device) -> Self {
            let matrix = |from| {
                Tensor::<1, Int>::arange(from..from + 9, device)
                    .float()
                    .sin()
            };
            Self {
                weight: Param::from_tensor(matrix(0).reshape([3, 3])),
                frozen: Param::from_tensor(matrix(20).reshape([3, 3])).set_require_grad(false),
                unread: Param::from_tensor(Tensor::ones([3], device)),
            }
        }

        fn forward(&self, x: &Tensor<2>, y: &Tensor<2>) -> Tensor<2> {
            let hidden = x.clone().matmul(self.weight.val()).tanh();
            hidden.matmul(self.frozen.val()) * y.clone() + x.clone()
        }
    }

    /// Gradients of x, y (both read by two parts, one after the other) and the parameters.
    fn gradients(checkpointing: bool) -> Vec<Option<Vec<f32>>> {
        let device = Device::flex().autodiff();
        let part = Part::new(&device);
        let input = |from| {
            Tensor::<1, Int>::arange(from..from + 6, &device)
                .float()
                .cos()
        };
        let [x, y] = [40, 50].map(|from| input(from).reshape([2, 3]).require_grad());
        let run = |x: Tensor<2>| match checkpointing {
            true => checkpointed(&part, &[x, y.clone()], |part, inputs| {
                part.forward(&inputs[0], &inputs[1])
            }),
            false => part.forward(&x, &y),
        };
        let mut gradients = run(run(x.clone())).square().sum().backward();
        let mut of = |tensor: &Tensor<2>| {
            let gradient = tensor.grad_remove(&mut gradients)?;
            Some(gradient.into_data().try_to_vec().unwrap())
        };
        vec![
            of(&x),
            of(&y),
            of(&part.weight.val()),
            of(&part.frozen.val()),
        ]
    }

    #[test]
    fn gradients_are_those_of_the_part_itself() {
        let kept = gradients(false);
        assert_eq!(gradients(true), kept);
        assert!(kept[..3].iter().all(Option::is_some) && kept[3].is_none());
    }

    #[test]
    fn without_gradients_it_is_the_part_alone() {
        for device in [Device::flex(), Device::flex().autodiff()] {
            let part = Part::new(&device).no_grad();
            let x = Tensor::<2>::ones([2, 3], &device);
            let y = checkpointed(&part, std::slice::from_ref(&x), |part, x| {
                part.forward(&x[0], &x[0])
            });
            assert!(!y.is_tracked());
            let difference = (y - part.forward(&x, &x)).abs().max();
            assert_eq!(difference.into_scalar::<f32>(), 0.0);
        }
    }
}
