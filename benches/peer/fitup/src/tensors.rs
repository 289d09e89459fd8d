//! The files that the driver and both sides exchange.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};
use burn::tensor::{Device, Int, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::de::DeserializeOwned;

/// Reads a JSON file.
pub fn json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = std::fs::read(path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&text).with_context(|| path.display().to_string())
}

/// Values with their shape.
type Shaped<T> = (Vec<usize>, Vec<T>);

/// The tensors of one file, of float32 and int64.
#[derive(Debug, Default)]
pub struct Inputs {
    floats: BTreeMap<String, Shaped<f32>>,
    integers: BTreeMap<String, Shaped<i64>>,
}

impl Inputs {
    /// Reads a file.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        let mut inputs = Self::default();
        for (name, view) in SafeTensors::deserialize(&bytes)?.iter() {
            let (name, shape) = (name.to_owned(), view.shape().to_vec());
            match view.dtype() {
                Dtype::F32 => {
                    let values = view.data().as_chunks::<4>().0.iter();
                    let values = values.map(|b| f32::from_le_bytes(*b)).collect();
                    inputs.floats.insert(name, (shape, values));
                }
                Dtype::I64 => {
                    let values = view.data().as_chunks::<8>().0.iter();
                    let values = values.map(|b| i64::from_le_bytes(*b)).collect();
                    inputs.integers.insert(name, (shape, values));
                }
                other => bail!("{}: {name} is of type {other:?}", path.display()),
            }
        }
        Ok(inputs)
    }

    /// Shape and values of a float tensor, taken out.
    pub fn floats(&mut self, name: &str) -> anyhow::Result<Shaped<f32>> {
        let found = self.floats.remove(name);
        found.with_context(|| format!("no float tensor {name}"))
    }

    /// Shape and values of an integer tensor, taken out.
    pub fn integers(&mut self, name: &str) -> anyhow::Result<Shaped<i64>> {
        let found = self.integers.remove(name);
        found.with_context(|| format!("no integer tensor {name}"))
    }

    /// A float tensor of `D` dimensions, taken out.
    pub fn tensor<const D: usize>(
        &mut self,
        name: &str,
        device: &Device,
    ) -> anyhow::Result<Tensor<D>> {
        let (shape, values) = self.floats(name)?;
        Ok(Tensor::from_data(TensorData::new(values, shape), device))
    }
}

/// An integer tensor of host values.
pub fn integer_tensor<const D: usize>(
    values: &[i64],
    shape: [usize; D],
    device: &Device,
) -> Tensor<D, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

/// Tensors to be compared with the other side's, or given to it.
#[derive(Debug, Default)]
pub struct Outputs {
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

impl Outputs {
    /// Adds a float tensor.
    pub fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let tensor = (Dtype::F32, shape.to_vec(), bytes);
        self.tensors.insert(name.to_owned(), tensor);
    }

    /// Adds an integer tensor.
    pub fn integers(&mut self, name: &str, shape: &[usize], values: &[i64]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let tensor = (Dtype::I64, shape.to_vec(), bytes);
        self.tensors.insert(name.to_owned(), tensor);
    }

    /// Adds a float tensor from the device.
    pub fn tensor<const D: usize>(&mut self, name: &str, tensor: Tensor<D>) {
        let shape = tensor.dims();
        self.floats(name, &shape, &fitup_models::weights::host_values(tensor));
    }

    /// Writes them to a temporary name and renames it.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let views = self.tensors.iter().map(|(name, (dtype, shape, bytes))| {
            let view = TensorView::new(*dtype, shape.clone(), bytes)?;
            Ok((name.clone(), view))
        });
        let views: Vec<(String, TensorView<'_>)> = views.collect::<anyhow::Result<_>>()?;
        let temporary = path.with_extension("part");
        safetensors::serialize_to_file(views, None, &temporary)?;
        std::fs::rename(&temporary, path).with_context(|| path.display().to_string())
    }
}
