//! Training: a recipe is a run. The trainer knows nothing of models; it owns the optimizer, the
//! schedule, the checkpoint and the log. A system takes part through [`trainer::Pretrain`].

pub mod albef;
pub mod checkpoint;
pub mod clip;
pub mod device;
pub mod finetune;
pub mod frozen;
pub mod image_tokenizer;
pub mod loaded;
pub mod metrics;
pub mod momentum;
pub mod optimizer;
pub mod parameter_groups;
pub mod queue;
pub mod recipe;
pub mod report;
pub mod schedule;
pub mod systems;
pub mod tasks;
pub mod trainer;
pub mod vilt;
pub mod vlmo;
