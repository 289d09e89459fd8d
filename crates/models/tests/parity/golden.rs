//! Reading a fixture, and comparing with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use fitup_models::weights::{HostTensor, TensorMap};
use safetensors::{Dtype, SafeTensors};

/// One recorded run.
pub struct Golden {
    pub config: serde_json::Value,
    floats: TensorMap,
    ints: BTreeMap<String, (Vec<usize>, Vec<i64>)>,
}

impl Golden {
    pub fn load(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let path = |extension: &str| -> PathBuf { folder.join(format!("{name}.{extension}")) };
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path("json")).unwrap()).unwrap();
        let bytes = std::fs::read(path("safetensors")).unwrap();
        let (mut floats, mut ints) = (TensorMap::new(), BTreeMap::new());
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
            let shape = view.shape().to_vec();
            let data = view.data();
            if view.dtype() == Dtype::F32 {
                let values = data
                    .as_chunks::<4>()
                    .0
                    .iter()
                    .map(|b| f32::from_le_bytes(*b));
                let values = values.collect();
                floats.insert(name.to_owned(), HostTensor { shape, values });
            } else if view.dtype() == Dtype::I64 {
                let values = data
                    .as_chunks::<8>()
                    .0
                    .iter()
                    .map(|b| i64::from_le_bytes(*b));
                ints.insert(name.to_owned(), (shape, values.collect()));
            } else if view.dtype() == Dtype::U8 {
                let values = data.iter().map(|b| i64::from(*b)).collect();
                ints.insert(name.to_owned(), (shape, values));
            }
        }
        Self {
            config: json,
            floats,
            ints,
        }
    }

    /// Tensors whose name starts with `prefix`, without it.
    pub fn group(&self, prefix: &str) -> TensorMap {
        self.floats
            .iter()
            .filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_owned(), t.clone())))
            .collect()
    }

    pub fn host(&self, name: &str) -> &HostTensor {
        self.floats
            .get(name)
            .unwrap_or_else(|| panic!("fixture lacks {name}"))
    }

    pub fn float<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D> {
        let t = self.host(name);
        Tensor::from_data(TensorData::new(t.values.clone(), t.shape.clone()), device)
    }

    pub fn ints(&self, name: &str) -> Vec<i64> {
        self.ints[name].1.clone()
    }

    pub fn int<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D, Int> {
        let (shape, values) = self.ints[name].clone();
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    /// Panics unless `got` equals the recorded `name` within 1e-4, scaled by the recorded
    /// tensor's largest magnitude where that is above 1.
    pub fn assert_output<const D: usize>(&self, name: &str, got: Tensor<D>) {
        let got = got.inner().into_data().try_to_vec::<f32>().unwrap();
        let want = self.host(name);
        let scale = magnitude(&want.values).max(1.0);
        assert_close(name, &got, &want.values, 1e-4 * scale);
    }

    /// As [`Self::assert_output`] for values far below 1: within 1e-4 of the recorded tensor's
    /// largest magnitude.
    pub fn assert_small<const D: usize>(&self, name: &str, got: Tensor<D>) {
        let want = &self.host(name).values;
        let got = got.into_data().try_to_vec::<f32>().unwrap();
        assert_close(name, &got, want, 1e-4 * magnitude(want).min(1.0));
    }

    /// Panics unless every recorded gradient is in `got` within 1e-3 of its largest magnitude.
    /// Attention key biases have no true gradient: what is recorded of them is rounding noise, and
    /// what is found may be no more.
    pub fn assert_gradients(&self, got: &TensorMap) {
        let is_noise = |name: &str| name.ends_with(".key.bias");
        self.assert_group("grad.", got, 1e-3, is_noise);
        for (name, recorded) in self.group("grad.") {
            if is_noise(&name) {
                let (recorded, found) =
                    (magnitude(&recorded.values), magnitude(&got[&name].values));
                assert!(
                    recorded < 1e-5 && found < 1e-5,
                    "{name}: {found:e}, {recorded:e}"
                );
            }
        }
    }

    /// Panics unless every recorded `prefix` tensor is in `got` within `relative` of its largest
    /// magnitude, except those `skipped`.
    pub fn assert_group(
        &self,
        prefix: &str,
        got: &TensorMap,
        relative: f32,
        skipped: impl Fn(&str) -> bool,
    ) {
        let wanted = self.group(prefix);
        assert!(!wanted.is_empty(), "fixture has no {prefix}*");
        for (name, want) in wanted {
            if skipped(&name) {
                continue;
            }
            let got = got
                .get(&name)
                .unwrap_or_else(|| panic!("{prefix}{name} is missing"));
            let tolerance = relative * magnitude(&want.values).max(1e-3);
            assert_close(
                &format!("{prefix}{name}"),
                &got.values,
                &want.values,
                tolerance,
            );
        }
    }
}

pub fn magnitude(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |m, v| m.max(v.abs()))
}

#[track_caller]
pub fn assert_close(name: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{name}: number of elements");
    let (at, diff) = got
        .iter()
        .zip(want)
        .map(|(g, w)| {
            if g.is_finite() {
                (g - w).abs()
            } else {
                f32::INFINITY
            }
        })
        .enumerate()
        .fold((0, 0.0), |worst, x| if x.1 > worst.1 { x } else { worst });
    assert!(
        diff <= tolerance,
        "{name} differs: element {at} is {}, recorded {}, difference {diff:e} > {tolerance:e}",
        got[at],
        want[at]
    );
}

/// A field of the fixture's configuration.
pub fn field(config: &serde_json::Value, path: &str) -> usize {
    let value = config.pointer(path).and_then(serde_json::Value::as_u64);
    value.unwrap_or_else(|| panic!("fixture config lacks {path}")) as usize
}
