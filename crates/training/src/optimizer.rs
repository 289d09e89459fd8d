//! AdamW over a module's parameters, with groups, its state kept by parameter path so that a
//! checkpoint can name it. Burn's own optimizer cannot order the decay as Hugging Face's does and
//! stores its state by random ids.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use fitup_kernels::parameter_update::{self, AdamWState, AdamWStep};
use fitup_models::weights::{HostTensor, TensorMap};
use serde::{Deserialize, Serialize};

use crate::parameter_groups::{ParameterGroup, albef_group};

/// Where weight decay and epsilon come in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdamWOrder {
    /// `torch.optim.AdamW` (ALBEF): decay before the step, epsilon after bias correction.
    #[default]
    Torch,
    /// `transformers.AdamW` 4.8 (VLMo, ViLT): decay after the step, epsilon before correction.
    Transformers,
}

/// Optimizer settings of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Variant.
    pub order: AdamWOrder,
    /// Decay rates of the first and second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay of the parameters that the system's groups do not spare
    /// ([`crate::parameter_groups`]).
    pub weight_decay: f64,
    /// Largest norm of all gradients together; absent: no clipping, as the originals.
    pub clip_norm: Option<f64>,
    /// Micro-batches whose gradients are averaged for one step.
    pub accumulate: u64,
    /// Official names of parameters that stay as they are; `*` stands for anything.
    pub frozen: Vec<String>,
    /// Factors on the learning rate by the beginning of a parameter's official name.
    pub lr_scales: BTreeMap<String, f64>,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            order: AdamWOrder::Torch,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.02,
            clip_norm: None,
            accumulate: 1,
            frozen: Vec::new(),
            lr_scales: BTreeMap::new(),
        }
    }
}

/// The optimizer and its state.
#[derive(Debug)]
pub struct AdamW {
    config: OptimizerConfig,
    /// Steps taken.
    steps: u64,
    moments: BTreeMap<String, Moments>,
    /// Official name of a parameter path.
    name: fn(&str) -> String,
    /// Group of a parameter by official name and shape.
    group: fn(&str, &[usize]) -> ParameterGroup,
}

#[derive(Clone, Debug)]
struct Moments {
    first: Tensor<1>,
    second: Tensor<1>,
}

impl AdamW {
    /// No steps taken. `name` turns a parameter's path into its official name. Groups are ALBEF's.
    pub fn new(config: OptimizerConfig, name: fn(&str) -> String) -> Self {
        Self {
            config,
            steps: 0,
            moments: BTreeMap::new(),
            name,
            group: albef_group,
        }
    }

    /// With a system's own groups, by official name and shape.
    pub fn with_groups(self, group: fn(&str, &[usize]) -> ParameterGroup) -> Self {
        Self { group, ..self }
    }

    /// Makes the state of all parameters that are trained, zero. Without it each is made at the
    /// parameter's first step, in the gaps that the activations left: then the next step's
    /// activations need memory elsewhere.
    pub fn reserve<M: Module>(&mut self, module: &M) {
        module.visit(&mut Reserve {
            optimizer: self,
            path: Vec::new(),
        });
    }

    /// One step with learning rate `lr`. Parameters without a gradient stay as they are.
    pub fn step<M: Module>(&mut self, module: M, gradients: GradientsParams, lr: f64) -> M {
        self.steps += 1;
        module.map(&mut Step {
            optimizer: self,
            gradients,
            lr,
            path: Vec::new(),
        })
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The state, as `optimizer.first.NAME` and `optimizer.second.NAME`.
    pub fn export(&self) -> TensorMap {
        let host = |tensor: &Tensor<1>| HostTensor {
            shape: tensor.dims().to_vec(),
            values: tensor
                .to_data()
                .try_to_vec()
                .expect("moments are float32 as the parameters"),
        };
        self.moments
            .iter()
            .flat_map(|(name, moments)| {
                [
                    (format!("{FIRST}{name}"), host(&moments.first)),
                    (format!("{SECOND}{name}"), host(&moments.second)),
                ]
            })
            .collect()
    }

    /// Takes over an exported state after `steps` steps.
    pub fn import(&mut self, tensors: &TensorMap, steps: u64, device: &burn::tensor::Device) {
        let tensor = |t: &HostTensor| {
            let data = burn::tensor::TensorData::new(t.values.clone(), [t.values.len()]);
            Tensor::from_data(data, device)
        };
        self.steps = steps;
        self.moments = tensors
            .iter()
            .filter_map(|(key, first)| {
                let name = key.strip_prefix(FIRST)?;
                let second = tensors.get(&format!("{SECOND}{name}"))?;
                let moments = Moments {
                    first: tensor(first),
                    second: tensor(second),
                };
                Some((name.to_owned(), moments))
            })
            .collect();
    }

    fn update<const D: usize>(
        &mut self,
        name: String,
        value: Tensor<D>,
        gradient: Tensor<D>,
        lr: f64,
    ) -> Tensor<D> {
        let c = &self.config;
        let scale = c
            .lr_scales
            .iter()
            .find(|(prefix, _)| name.starts_with(*prefix));
        let shape = value.shape();
        let group = (self.group)(&name, &value.dims());
        let lr = lr * scale.map_or(1.0, |(_, factor)| *factor) * group.lr_factor;
        let decay = 1.0 - lr * if group.decays { c.weight_decay } else { 0.0 };
        let [beta1, beta2] = c.betas;
        let t = self.steps as i32;
        let (correction1, correction2) = (1.0 - beta1.powi(t), 1.0 - beta2.powi(t));

        let gradient: Tensor<1> = gradient.flatten(0, D - 1);
        let value: Tensor<1> = value.flatten(0, D - 1);
        let (first, second) = match self.moments.remove(&name) {
            Some(moments) => (moments.first, moments.second),
            None => (gradient.zeros_like(), gradient.zeros_like()),
        };
        let step = match c.order {
            AdamWOrder::Torch => AdamWStep {
                betas: c.betas,
                root_correction: correction2.sqrt() as f32,
                eps: c.eps as f32,
                rate: (lr / correction1) as f32,
                decay_before: decay as f32,
                decay_after: 1.0,
            },
            AdamWOrder::Transformers => AdamWStep {
                betas: c.betas,
                root_correction: 1.0,
                eps: c.eps as f32,
                rate: (lr * correction2.sqrt() / correction1) as f32,
                decay_before: 1.0,
                decay_after: decay as f32,
            },
        };
        let state = AdamWState {
            value,
            first,
            second,
        };
        let AdamWState {
            value,
            first,
            second,
        } = parameter_update::adamw(state, gradient, step);
        self.moments.insert(name, Moments { first, second });
        value.reshape(shape)
    }
}

const FIRST: &str = "optimizer.first.";
const SECOND: &str = "optimizer.second.";

struct Reserve<'a> {
    optimizer: &'a mut AdamW,
    path: Vec<String>,
}

impl ModuleVisitor for Reserve<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return;
        }
        let name = (self.optimizer.name)(&self.path.join("."));
        let value = param.val().inner();
        // Not lazily zero: the memory is to be there from the start.
        let zeros = || Tensor::full([value.shape().num_elements()], 0.0, &value.device());
        let moments = Moments {
            first: zeros(),
            second: zeros(),
        };
        self.optimizer.moments.entry(name).or_insert(moments);
    }

    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
}

struct Step<'a> {
    optimizer: &'a mut AdamW,
    gradients: GradientsParams,
    lr: f64,
    path: Vec<String>,
}

impl ModuleMapper for Step<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else {
            return param;
        };
        let name = (self.optimizer.name)(&self.path.join("."));
        param.map(|value| {
            let tracked = value.is_require_grad();
            let updated = self
                .optimizer
                .update(name, value.inner(), gradient, self.lr);
            let value = Tensor::from_inner(updated);
            if tracked { value.require_grad() } else { value }
        })
    }

    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
}

/// Euclidean norm of all gradients together.
pub fn gradient_norm<M: Module>(module: &M, gradients: &GradientsParams) -> f64 {
    struct SquaredSum<'a> {
        gradients: &'a GradientsParams,
        total: f64,
    }
    impl ModuleVisitor for SquaredSum<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.gradients.get::<D>(param.id) {
                self.total += f64::from(gradient.square().sum().into_scalar::<f32>());
            }
        }
    }
    let mut visitor = SquaredSum {
        gradients,
        total: 0.0,
    };
    module.visit(&mut visitor);
    visitor.total.sqrt()
}

/// Multiplies all gradients by `factor`.
pub fn scale_gradients<M: Module>(module: &M, gradients: &mut GradientsParams, factor: f64) {
    struct Scale<'a> {
        gradients: &'a mut GradientsParams,
        factor: f64,
    }
    impl ModuleVisitor for Scale<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.gradients.remove::<D>(param.id) {
                let scaled = gradient.mul_scalar(self.factor);
                self.gradients.register(param.id, scaled);
            }
        }
    }
    module.visit(&mut Scale { gradients, factor });
}
