//! The momentum model: `teacher = m * teacher + (1 - m) * student`.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;
use burn::tensor::container::TensorContainer;
use fitup_kernels::parameter_update;

/// Moves the teacher towards the student. Both have the same structure; the teacher lives on the
/// plain device, the student may be tracked. `m`: momentum in `[0, 1]`; 0 copies the student.
pub fn update<M: Module>(teacher: M, student: &M, m: f64) -> M {
    let mut collect = Collect {
        values: TensorContainer::new(),
        count: 0,
    };
    student.visit(&mut collect);
    teacher.map(&mut Move {
        values: collect.values,
        count: 0,
        m,
    })
}

/// Parameters in visiting order, which the derive fixes: equal for student and teacher.
struct Collect {
    values: TensorContainer<usize>,
    count: usize,
}

impl ModuleVisitor for Collect {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.values.register(self.count, param.val().inner());
        self.count += 1;
    }
}

struct Move {
    values: TensorContainer<usize>,
    count: usize,
    m: f64,
}

impl ModuleMapper for Move {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let student: Tensor<D> = self
            .values
            .remove(&self.count)
            .expect("teacher and student have the same structure");
        self.count += 1;
        let m = self.m;
        param.map(|teacher| {
            if m == 0.0 {
                student
            } else {
                parameter_update::moved(teacher, student, m)
            }
        })
    }
}
