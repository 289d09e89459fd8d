//! The fitup command line.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    use fitup_training::{recipe::Recipe, trainer::*, metrics::Event};
    struct Print;
    impl Observer for Print {
        fn begin(&mut self, s: u64, t: u64, p: u64, d: &str) { println!("{s} {t} {p} {d}"); }
        fn step(&mut self, e: &Event) { if e.step() % 20 == 0 { println!("{}", serde_json::to_string(e).unwrap()); } }
        fn evaluation(&mut self, e: &Event) { println!("{}", serde_json::to_string(e).unwrap()); }
    }
    let a: Vec<String> = std::env::args().collect();
    let recipe = Recipe::load(a[1].as_ref(), &a[3..]).unwrap();
    let o = RunOptions { folder: a[2].clone().into(), resume: false, device: fitup_training::device::open("cpu").unwrap(), stop: Default::default() };
    println!("{:?}", pretrain(&recipe, &o, &mut Print));
}
