//! A module's parameters by official name.

use std::collections::BTreeSet;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients, Int, Tensor, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{HostTensor, TensorMap, WeightsError, is_redundant};

/// How a parameter is laid out in the official file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// As here.
    Same,
    /// As here, the bias of a linear layer: a vector even when it has one element.
    Bias,
    /// A linear layer: `[output, input]` there, `[input, output]` here.
    Transposed,
    /// A patch projection: `[width, 3, patch, patch]` there, `[3 * patch * patch, width]` here.
    Patch,
}

impl Layout {
    fn official_shape(self, shape: &[usize]) -> Vec<usize> {
        match self {
            // A learnable scalar is `[1]` here and has no dimensions there.
            Layout::Same if shape == [1] => vec![],
            Layout::Same | Layout::Bias => shape.to_vec(),
            Layout::Transposed => shape.iter().rev().copied().collect(),
            Layout::Patch => {
                let patch = (shape[0] / 3).isqrt();
                vec![shape[1], 3, patch, patch]
            }
        }
    }

    /// Row-major `values` of `shape` here, as the official file holds them.
    fn to_official(self, values: Vec<f32>, shape: &[usize]) -> Vec<f32> {
        match self {
            Layout::Same | Layout::Bias => values,
            Layout::Transposed | Layout::Patch => transpose(&values, shape[0], shape[1]),
        }
    }

    fn to_ours(self, values: &[f32], shape: &[usize]) -> Vec<f32> {
        match self {
            Layout::Same | Layout::Bias => values.to_vec(),
            Layout::Transposed | Layout::Patch => transpose(values, shape[1], shape[0]),
        }
    }
}

pub(super) fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for column in 0..columns {
        out.extend((0..rows).map(|row| values[row * columns + column]));
    }
    out
}

/// Where the visitor stands: path segments, and the container of the innermost one.
#[derive(Default)]
pub(super) struct Location {
    path: Vec<(String, String)>,
}

impl Location {
    pub(super) fn enter(&mut self, name: &str, container: &str) {
        self.path.push((name.to_owned(), container.to_owned()));
    }

    pub(super) fn exit(&mut self) {
        self.path.pop();
    }

    pub(super) fn path(&self) -> String {
        let names: Vec<&str> = self.path.iter().map(|(name, _)| name.as_str()).collect();
        names.join(".")
    }

    fn layout(&self) -> Layout {
        let is = |at: usize, name: &str| {
            let at = self.path.len().checked_sub(at);
            at.is_some_and(|i| self.path[i].0 == name)
        };
        let linear = self
            .path
            .last()
            .is_some_and(|(_, container)| container == "Struct:Linear");
        match (
            linear && is(1, "weight"),
            is(2, "proj") && is(3, "patch_embed"),
        ) {
            (true, true) => Layout::Patch,
            (true, false) => Layout::Transposed,
            (false, _) if linear => Layout::Bias,
            (false, _) => Layout::Same,
        }
    }
}

/// The elements of a tensor of any float type as float32, row-major.
pub fn host_values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor
        .into_data()
        .convert::<f32>()
        .try_to_vec()
        .expect("converted to float32 the line before")
}

/// The elements of a tensor of any integer type, row-major.
pub fn host_integers<const D: usize>(tensor: Tensor<D, Int>) -> Vec<i64> {
    tensor
        .into_data()
        .convert::<i64>()
        .try_to_vec()
        .expect("converted to int64 the line before")
}

struct Visit<'a, F> {
    location: Location,
    each: F,
    gradients: Option<&'a Gradients>,
}

/// What the visitor knows of one parameter.
pub struct Parameter {
    /// Path of the fields in the module, dot-separated.
    pub path: String,
    /// Shape in the official layout.
    pub shape: Vec<usize>,
    values: Vec<f32>,
}

impl<F: FnMut(Parameter)> ModuleVisitor for Visit<'_, F> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let value = match self.gradients {
            None => value.inner(),
            Some(gradients) => match value.grad(gradients) {
                Some(gradient) => gradient,
                None => return,
            },
        };
        let layout = self.location.layout();
        let shape = value.dims();
        (self.each)(Parameter {
            path: self.location.path(),
            shape: layout.official_shape(&shape),
            values: layout.to_official(host_values(value), &shape),
        });
    }

    fn enter_module(&mut self, name: &str, container: &str) {
        self.location.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.location.exit();
    }
}

fn visit<M: Module>(module: &M, gradients: Option<&Gradients>, each: impl FnMut(Parameter)) {
    module.visit(&mut Visit {
        location: Location::default(),
        each,
        gradients,
    });
}

/// Path and official shape of every parameter, in visiting order.
pub fn parameters<M: Module>(module: &M) -> Vec<(String, Vec<usize>)> {
    let mut found = Vec::new();
    visit(module, None, |p| found.push((p.path, p.shape)));
    found
}

/// All parameters under their official names and layouts. `name` turns a path into a name.
pub fn export<M: Module>(module: &M, name: impl Fn(&str) -> String) -> TensorMap {
    let mut tensors = TensorMap::new();
    visit(module, None, |p| {
        let tensor = HostTensor {
            shape: p.shape,
            values: p.values,
        };
        tensors.insert(name(&p.path), tensor);
    });
    tensors
}

/// Gradients of the parameters that have one, under official names and layouts.
pub fn export_gradients<M: Module>(
    module: &M,
    gradients: &Gradients,
    name: impl Fn(&str) -> String,
) -> TensorMap {
    let mut tensors = TensorMap::new();
    visit(module, Some(gradients), |p| {
        let tensor = HostTensor {
            shape: p.shape,
            values: p.values,
        };
        tensors.insert(name(&p.path), tensor);
    });
    tensors
}

struct Load<'a, N> {
    location: Location,
    tensors: &'a TensorMap,
    name: N,
    missing: Vec<String>,
    mis_shaped: Vec<(String, Vec<usize>, Vec<usize>)>,
    used: BTreeSet<String>,
}

impl<N: Fn(&str) -> String> ModuleMapper for Load<'_, N> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = (self.name)(&self.location.path());
        let layout = self.location.layout();
        let shape = param.val().dims();
        let Some(tensor) = self.tensors.get(&name) else {
            self.missing.push(name);
            return param;
        };
        self.used.insert(name.clone());
        let want = layout.official_shape(&shape);
        // A scalar may be stored with no dimensions or with one.
        if tensor.shape != want && !(want.is_empty() && tensor.shape == [1]) {
            self.mis_shaped.push((name, want, tensor.shape.clone()));
            return param;
        }
        let values = layout.to_ours(&tensor.values, &shape);
        replace(param, TensorData::new(values, shape))
    }

    fn enter_module(&mut self, name: &str, container: &str) {
        self.location.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.location.exit();
    }
}

/// The parameter with new data, on its device and with its gradient setting.
pub(super) fn replace<const D: usize>(
    param: Param<Tensor<D>>,
    data: TensorData,
) -> Param<Tensor<D>> {
    param.map(|old| {
        let new = Tensor::from_data(data, &old.device());
        if old.is_require_grad() {
            new.require_grad()
        } else {
            new
        }
    })
}

/// Puts tensors of official names into the module, strictly: every parameter must be there in
/// its shape, and every tensor whose name `belongs` must have been used. Buffers and copies of
/// tied parameters are ignored.
///
/// # Errors
/// [`WeightsError::Mismatch`] that lists all that is missing, unexpected and of another shape.
pub fn load<M: Module>(
    module: M,
    tensors: &TensorMap,
    name: impl Fn(&str) -> String,
    belongs: impl Fn(&str) -> bool,
) -> Result<M, WeightsError> {
    let mut mapper = Load {
        location: Location::default(),
        tensors,
        name,
        missing: Vec::new(),
        mis_shaped: Vec::new(),
        used: BTreeSet::new(),
    };
    let module = module.map(&mut mapper);
    let unexpected: Vec<String> = tensors
        .keys()
        .filter(|name| belongs(name) && !is_redundant(name) && !mapper.used.contains(*name))
        .cloned()
        .collect();
    if mapper.missing.is_empty() && mapper.mis_shaped.is_empty() && unexpected.is_empty() {
        return Ok(module);
    }
    Err(WeightsError::Mismatch {
        missing: mapper.missing,
        unexpected,
        mis_shaped: mapper.mis_shaped,
    })
}

struct Initialize {
    rng: ChaCha8Rng,
    std: f64,
}

impl ModuleMapper for Initialize {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if D < 2 {
            return param; // biases, norms and scalars start where their modules put them
        }
        let shape = param.val().shape();
        let values: Vec<f32> = (0..shape.num_elements())
            .map(|_| (self.std * truncated_normal(&mut self.rng)) as f32)
            .collect();
        replace(param, TensorData::new(values, shape))
    }
}

/// A standard normal draw within two standard deviations, by Box-Muller and rejection.
fn truncated_normal(rng: &mut ChaCha8Rng) -> f64 {
    loop {
        let u: f64 = 1.0 - rand::RngExt::random::<f64>(rng);
        let v: f64 = rand::RngExt::random(rng);
        let z = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
        if z.abs() <= 2.0 {
            return z;
        }
    }
}

/// Draws every matrix (linear layers, embeddings, CLS token, positions) from a normal
/// distribution of standard deviation `std`, cut at two deviations, as timm and BERT do with
/// 0.02. Biases, norms and scalars keep their values. The same seed gives the same weights.
pub fn initialize<M: Module>(module: M, std: f64, seed: u64) -> M {
    module.map(&mut Initialize {
        rng: ChaCha8Rng::seed_from_u64(seed),
        std,
    })
}
