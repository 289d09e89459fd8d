use burn::tensor::{Device, Int, Tensor};
use fitup_models::objectives::wpa::{Ipot, Transport, transport};
use fitup_models::weights::{HostTensor, TensorMap};

use crate::golden::Golden;

struct Inputs {
    text: Tensor<3>,
    image: Tensor<3>,
    text_mask: Tensor<2, Int>,
    image_mask: Tensor<2, Int>,
}

impl Inputs {
    fn load(golden: &Golden, device: &Device) -> Self {
        let mask = |padding: &str| golden.int(padding, device).equal_elem(0).int();
        Self {
            text: golden.float("in.txt", device).require_grad(),
            image: golden.float("in.img", device).require_grad(),
            text_mask: mask("in.txt_pad"),
            image_mask: mask("in.img_pad"),
        }
    }

    fn transport(&self, config: Ipot) -> Transport {
        transport(
            self.text.clone(),
            self.image.clone(),
            self.text_mask.clone(),
            self.image_mask.clone(),
            config,
        )
    }
}

#[test]
fn plan_distance_and_gradients() {
    let golden = Golden::load("vilt_ipot");
    let device = Device::flex().autodiff();
    let inputs = Inputs::load(&golden, &device);
    let found = inputs.transport(Ipot::default());
    golden.assert_output("out.cost", found.cost);
    golden.assert_output("out.T", found.plan);
    golden.assert_output("out.distance", found.distance.clone());

    let loss = (found.distance * golden.float("in.weights", &device)).sum();
    let gradients = loss.backward();
    let gradient = |x: &Tensor<3>| {
        let gradient = x.grad(&gradients).unwrap();
        HostTensor {
            shape: gradient.dims().to_vec(),
            values: gradient.into_data().try_to_vec().unwrap(),
        }
    };
    let found = TensorMap::from([
        ("in.txt".to_owned(), gradient(&inputs.text)),
        ("in.img".to_owned(), gradient(&inputs.image)),
    ]);
    golden.assert_group("grad.", &found, 1e-3, |_| false);
}

#[test]
fn another_beta_and_few_iterations() {
    let golden = Golden::load("vilt_ipot");
    let inputs = Inputs::load(&golden, &Device::flex().autodiff());
    let found = inputs.transport(Ipot {
        beta: 0.3,
        iterations: 5,
    });
    golden.assert_output("out.distance_beta03_it5", found.distance);
}

#[test]
fn the_plan_spreads_each_side_evenly() {
    let golden = Golden::load("vilt_ipot");
    let inputs = Inputs::load(&golden, &Device::flex().autodiff());
    let plan = inputs.transport(Ipot::default()).plan.inner();
    let words = inputs.text_mask.float().inner();
    let even = words.clone() / words.sum_dim(1);
    let [batch, count] = even.dims();
    let of_words = plan.sum_dim(1).reshape([batch, count]);
    let diff: f32 = (of_words - even).abs().max().into_scalar();
    assert!(diff < 1e-4, "{diff:e}");
}
