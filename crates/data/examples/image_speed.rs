//! Images per second of one core: decoding, the training transform and its parts.
//!
//! `cargo run --release -p fitup-data --example image_speed -- picture.png [size]`

use std::error::Error;
use std::time::{Duration, Instant};

use fitup_data::images::{
    CropBox, DecodeLimits, EvalTransform, Op, RandAugment, RandomResizedCrop, TrainTransform,
    Transform, crop_resize, decode,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Calls `work` for about a second and prints its mean time and rate.
fn measure<T>(name: &str, mut work: impl FnMut() -> T) {
    const AT_LEAST: Duration = Duration::from_secs(1);
    std::hint::black_box(work());
    let start = Instant::now();
    let mut count = 0_u32;
    while start.elapsed() < AT_LEAST {
        std::hint::black_box(work());
        count += 1;
    }
    let each = start.elapsed() / count;
    println!(
        "{name:<24} {:>9.3} ms {:>9.0} images/s",
        each.as_secs_f64() * 1e3,
        1.0 / each.as_secs_f64()
    );
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments
        .next()
        .ok_or("usage: image_speed PICTURE [SIZE]")?;
    let size: u32 = arguments.next().map_or(Ok(256), |text| text.parse())?;
    let bytes = std::fs::read(&path)?;
    let limits = DecodeLimits::default();
    let image = decode(&bytes, &limits)?;
    println!(
        "{path}: {}x{} to {size}x{size}, one core",
        image.width(),
        image.height()
    );

    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let train = TrainTransform::albef(size);
    let eval = EvalTransform::albef(size);
    measure("decode", || decode(&bytes, &limits));
    measure("train transform", || train.apply(&image, &mut rng));
    measure("evaluation transform", || eval.input(&image));
    measure("decode + train", || {
        decode(&bytes, &limits).map(|image| train.apply(&image, &mut rng))
    });

    measure("resize, whole", || {
        crop_resize(&image, CropBox::whole(&image), size, size)
    });
    let crop = RandomResizedCrop::new(train.scale);
    measure("resize, random crop", || {
        let crop = crop.draw(image.width(), image.height(), &mut rng);
        crop_resize(&image, crop, size, size)
    });
    let view = crop_resize(&image, CropBox::whole(&image), size, size);
    measure("normalise", || train.normalize.to_planes(&view));
    let settings = RandAugment::default();
    for op in Op::ALBEF {
        let value = op.value(settings.magnitude, 0.9);
        measure(&format!("{op:?}"), || {
            settings.apply_op(view.clone(), op, value)
        });
    }
    Ok(())
}
