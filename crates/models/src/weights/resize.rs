//! Position embeddings of a checkpoint fitted to another image size.

use burn::tensor::{Device, Tensor, TensorData};

use super::{TensorMap, WeightsError, host_values};
use crate::layers::position::interpolate_pos_embed;

/// Resizes the position embedding `name`, `[1, 1 + side * side, width]`, to a grid of
/// `grid x grid` patches as `interpolate_pos_embed` of ALBEF's `models/vit.py` does when it loads a
/// checkpoint: bicubic, the CLS row untouched. Returns a line for the report, or `None` when the
/// grid is that one already.
///
/// # Errors
/// [`WeightsError::Mismatch`] when the tensor is missing, or is no square grid with CLS in front.
pub fn fit_positions(
    tensors: &mut TensorMap,
    name: &str,
    grid: usize,
) -> Result<Option<String>, WeightsError> {
    let Some(tensor) = tensors.get_mut(name) else {
        return Err(WeightsError::Mismatch {
            missing: vec![name.to_owned()],
            unexpected: vec![],
            mis_shaped: vec![],
        });
    };
    let square = match tensor.shape[..] {
        [1, tokens, width] if tokens > 1 && width > 0 => {
            let side = (tokens - 1).isqrt();
            (side * side == tokens - 1).then_some((side, width))
        }
        _ => None,
    };
    let width = tensor.shape.last().copied().unwrap_or(0);
    let wanted = vec![1, 1 + grid * grid, width];
    let Some((side, width)) = square.filter(|_| grid > 0) else {
        return Err(WeightsError::Mismatch {
            missing: vec![],
            unexpected: vec![],
            mis_shaped: vec![(name.to_owned(), wanted, tensor.shape.clone())],
        });
    };
    if side == grid {
        return Ok(None);
    }
    let data = TensorData::new(
        std::mem::take(&mut tensor.values),
        [1, 1 + side * side, width],
    );
    let old = Tensor::from_data(data, &Device::flex());
    tensor.values = host_values(interpolate_pos_embed(old, grid, grid));
    tensor.shape = wanted;
    Ok(Some(format!(
        "{name}: {side} x {side} patches resized to {grid} x {grid} (bicubic)"
    )))
}
