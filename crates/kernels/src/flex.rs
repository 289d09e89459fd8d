//! Access to the memory of the CPU backend's tensors.

use std::mem::MaybeUninit;

use burn::tensor::{Bytes, DType, Shape};
use burn_flex::{FlexTensor, Layout};

/// The elements of a contiguous float32 tensor.
pub(crate) fn elements(tensor: &FlexTensor) -> &[f32] {
    let layout = tensor.layout();
    assert!(
        tensor.is_contiguous(),
        "the caller makes the tensor contiguous"
    );
    let start = layout.start_offset();
    &tensor.storage::<f32>()[start..start + layout.num_elements()]
}

/// A contiguous tensor that starts at the beginning of its storage, as in-place writers need.
pub(crate) fn owned(tensor: FlexTensor) -> FlexTensor {
    let whole = tensor.is_contiguous()
        && tensor.layout().start_offset() == 0
        && tensor.storage::<f32>().len() == tensor.layout().num_elements();
    if whole {
        return tensor;
    }
    let shape = tensor.layout().shape().clone();
    let contiguous = tensor.to_contiguous();
    let values = elements(&contiguous).to_vec();
    from_vec(values, shape)
}

/// A new tensor over `values`, row-major.
pub(crate) fn from_vec(values: Vec<f32>, shape: Shape) -> FlexTensor {
    debug_assert_eq!(values.len(), shape.num_elements());
    FlexTensor::new(
        Bytes::from_elems(values),
        Layout::contiguous(shape),
        DType::F32,
    )
}

/// Rows and width of a tensor whose leading dimensions are rows.
pub(crate) fn leading(shape: &Shape) -> (usize, usize) {
    let last = shape[shape.num_dims() - 1];
    (shape.num_elements() / last.max(1), last)
}

/// The shape with another last dimension.
pub(crate) fn with_last(shape: &Shape, last: usize) -> Shape {
    let mut dims = shape.to_vec();
    if let Some(end) = dims.last_mut() {
        *end = last;
    }
    Shape::from(dims)
}

/// `len` values, without clearing their memory first.
///
/// # Safety
/// `fill` must write every value.
pub(crate) unsafe fn filled(len: usize, fill: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
    let mut values = Vec::with_capacity(len);
    fill(&mut values.spare_capacity_mut()[..len]);
    // SAFETY: there is room for `len` values, and `fill` has written them.
    unsafe { values.set_len(len) };
    values
}
