//! Positions of patches that start as sines and cosines of their row and column.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};

use super::WeightsError;
use super::parameters::{Location, replace};

/// Last names of the parameters that hold a vector for CLS and one for every patch.
const POSITIONS: [&str; 2] = ["pos_embed", "visual.positional_embedding"];
/// Wavelengths grow from `2 pi` patches to this many times that, as in the attention paper.
const LONGEST: f64 = 10_000.0;

/// Sets every position embedding of patches to `amplitude` times the sines and cosines of the
/// patch's column (first half of the width) and row, as MAE (He et al. 2022, `pos_embed.py`) and
/// MoCo v3 do with amplitude 1; that of CLS to zero. Drawn small, positions drown in the patches'
/// content: at the scenes' size with standard deviation 0.05 they are a half percent of the power
/// that the first block sees, and a contrastive loss, content with what is in a picture, hardly
/// enlarges them. Anything but a square grid of patches stays as it is.
///
/// # Errors
/// When the module holds no vector for every patch of a square grid, as a VLMo with relative
/// positions.
pub fn sine_positions<M: Module>(module: M, amplitude: f64) -> Result<M, WeightsError> {
    let mut mapper = SinePositions {
        location: Location::default(),
        amplitude,
        set: 0,
    };
    let module = module.map(&mut mapper);
    match mapper.set {
        0 => Err(WeightsError::Unfit(
            "model.sine_positions: the model has no position embedding of a square grid of patches; leave it out",
        )),
        _ => Ok(module),
    }
}

struct SinePositions {
    location: Location,
    amplitude: f64,
    /// Parameters set so far.
    set: usize,
}

impl ModuleMapper for SinePositions {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let path = self.location.path();
        if !POSITIONS.iter().any(|name| path.ends_with(name)) {
            return param;
        }
        let shape = param.val().shape();
        let [tokens, width] = [shape[D - 2], shape[D - 1]];
        let side = (tokens - 1).isqrt();
        if side * side + 1 != tokens || shape.num_elements() != tokens * width {
            return param;
        }
        let mut values = vec![0.0; width];
        for row in 0..side {
            for column in 0..side {
                let of = |at, width| waves(at, width).map(|wave| (self.amplitude * wave) as f32);
                values.extend(of(column, width / 2));
                values.extend(of(row, width - width / 2));
            }
        }
        self.set += 1;
        replace(param, TensorData::new(values, shape))
    }

    fn enter_module(&mut self, name: &str, container: &str) {
        self.location.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.location.exit();
    }
}

/// Sines, then cosines, of a place along one axis.
fn waves(at: usize, width: usize) -> impl Iterator<Item = f64> {
    let angles = move |count: usize| {
        (0..count).map(move |i| at as f64 / LONGEST.powf(i as f64 / count as f64))
    };
    let sines = width / 2;
    let cosines = angles(width - sines).map(f64::cos);
    angles(sines).map(f64::sin).chain(cosines)
}

#[cfg(test)]
mod tests {
    use burn::module::Module as _;
    use burn::tensor::Device;

    use super::*;
    use crate::layers::vision_transformer::VisionTransformerConfig;
    use crate::weights::{host_values, initialize};

    #[test]
    fn patches_get_waves_and_all_else_stays() {
        let config = VisionTransformerConfig {
            image_size: 12,
            patch_size: 4,
            width: 8,
            depth: 1,
            heads: 2,
            mlp_ratio: 4,
        };
        let drawn = initialize(config.init(&Device::flex()), 0.1, 1);
        let placed = sine_positions(drawn.clone(), 0.5).expect("it has positions");
        let values = host_values(placed.pos_embed.val());
        assert!(values[..8].iter().all(|&value| value == 0.0), "CLS");
        // Column 2 of row 1: two wavelengths an axis, 1 and 100.
        let (column, row) = (2.0_f64, 1.0_f64);
        let wanted = [
            column.sin(),
            (column / 100.0).sin(),
            column.cos(),
            (column / 100.0).cos(),
            row.sin(),
            (row / 100.0).sin(),
            row.cos(),
            (row / 100.0).cos(),
        ];
        let place = 1 + 3 + 2;
        for (value, wanted) in values[place * 8..(place + 1) * 8].iter().zip(wanted) {
            assert!((f64::from(*value) - 0.5 * wanted).abs() < 1e-6);
        }
        assert_eq!(
            host_values(placed.patch_embed.proj.weight.val()),
            host_values(drawn.patch_embed.proj.weight.val())
        );
        assert_eq!(placed.num_params(), drawn.num_params());
    }

    #[test]
    fn a_model_without_positions_is_refused() {
        let linear = burn::nn::LinearConfig::new(2, 2).init(&Device::flex());
        let refused = sine_positions(linear, 1.0).expect_err("no positions");
        assert!(refused.to_string().contains("model.sine_positions"));
    }
}
