//! Learning rate and distillation weight, as functions of the step.

use serde::{Deserialize, Serialize};

/// How the learning rate moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// ALBEF's: in epoch 0 up from `warmup_lr` in `warmup_steps / 100` stairs of 100 steps each,
    /// then one value per epoch on a cosine over `epochs` (`scheduler/cosine_lr.py` as called by
    /// `Pretrain.py`).
    #[default]
    Albef,
    /// Linear warm-up over `warmup_steps`, then a cosine over the remaining steps, moving at every
    /// step.
    Cosine,
    /// ViLT's and VLMo's: linear warm-up over `warmup_steps`, beginning *at* `warmup_lr`, then down
    /// to `min_lr` with the remaining share of the steps to the power `power`
    /// (`get_polynomial_decay_schedule_with_warmup` of transformers 4.8).
    Polynomial,
    /// `lr` throughout.
    Constant,
}

/// Learning rate settings of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// How the learning rate moves.
    #[serde(default)]
    pub kind: ScheduleKind,
    /// Highest learning rate.
    pub lr: f64,
    /// Learning rate at the end.
    #[serde(default)]
    pub min_lr: f64,
    /// Learning rate at the start.
    #[serde(default)]
    pub warmup_lr: f64,
    /// Steps until `lr` is reached.
    #[serde(default)]
    pub warmup_steps: u64,
    /// Exponent of the `polynomial` schedule; 1: a straight line.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub power: f64,
    /// Passes over the data.
    pub epochs: u64,
}

fn one() -> f64 {
    1.0
}

/// Left out where it is 1, so that recipes of other schedules read as they did.
fn is_one(power: &f64) -> bool {
    *power == 1.0
}

/// A schedule for a known number of steps per epoch.
#[derive(Clone, Debug)]
pub struct Schedule {
    config: ScheduleConfig,
    steps_per_epoch: u64,
    total_steps: u64,
}

/// Steps of one stair of ALBEF's warm-up.
const STAIR: u64 = 100;

impl Schedule {
    /// `total_steps` is where the schedules that move at every step end; normally `epochs * steps_per_epoch`.
    pub fn new(config: ScheduleConfig, steps_per_epoch: u64, total_steps: u64) -> Self {
        Self {
            config,
            steps_per_epoch: steps_per_epoch.max(1),
            total_steps,
        }
    }

    /// Learning rate of step `step`, counted from 0 over the whole run.
    pub fn lr(&self, step: u64) -> f64 {
        let c = &self.config;
        match c.kind {
            ScheduleKind::Constant => c.lr,
            ScheduleKind::Albef => self.albef(step),
            ScheduleKind::Cosine if step < c.warmup_steps => {
                let share = (step + 1) as f64 / c.warmup_steps as f64;
                c.warmup_lr + (c.lr - c.warmup_lr) * share
            }
            ScheduleKind::Cosine => {
                let rest = self.total_steps.saturating_sub(c.warmup_steps).max(1);
                let share = (step - c.warmup_steps) as f64 / rest as f64;
                self.cosine(share.min(1.0))
            }
            ScheduleKind::Polynomial if step < c.warmup_steps => {
                let share = step as f64 / c.warmup_steps as f64;
                c.warmup_lr + (c.lr - c.warmup_lr) * share
            }
            ScheduleKind::Polynomial => {
                let rest = self.total_steps.saturating_sub(c.warmup_steps).max(1);
                let share = (step - c.warmup_steps) as f64 / rest as f64;
                c.min_lr + (c.lr - c.min_lr) * (1.0 - share.min(1.0)).powf(c.power)
            }
        }
    }

    fn albef(&self, step: u64) -> f64 {
        let c = &self.config;
        let epoch = step / self.steps_per_epoch;
        if epoch > 0 {
            let epochs = c.epochs.max(1);
            return if epoch >= epochs {
                c.min_lr
            } else {
                self.cosine(epoch as f64 / epochs as f64)
            };
        }
        // The original sets the stair after the optimizer's step: it counts from the next one.
        let stair = step.saturating_sub(1) / STAIR;
        let stairs = c.warmup_steps / STAIR;
        if stair >= stairs {
            return c.lr;
        }
        c.warmup_lr + stair as f64 * (c.lr - c.warmup_lr) / stairs as f64
    }

    fn cosine(&self, share: f64) -> f64 {
        let c = &self.config;
        c.min_lr + 0.5 * (c.lr - c.min_lr) * (1.0 + (std::f64::consts::PI * share).cos())
    }

    /// Share of the momentum model in the targets at `step`: `alpha`, reached linearly over the
    /// first `ramp_epochs`.
    pub fn alpha(&self, alpha: f64, ramp_epochs: f64, step: u64) -> f64 {
        let ramp = self.steps_per_epoch as f64 * ramp_epochs;
        if ramp > 0.0 {
            alpha * (step as f64 / ramp).min(1.0)
        } else {
            alpha
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn equals_the_recorded_schedules() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/golden/albef_schedule.json"
        );
        let golden: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let cases = golden["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 3);
        for case in cases {
            let s = &case["schedular"];
            let steps_per_epoch = case["iters_per_epoch"].as_u64().unwrap();
            let total = case["total_iters"].as_u64().unwrap();
            let schedule = Schedule::new(
                ScheduleConfig {
                    kind: ScheduleKind::Albef,
                    lr: s["lr"].as_f64().unwrap(),
                    min_lr: s["min_lr"].as_f64().unwrap(),
                    warmup_lr: s["warmup_lr"].as_f64().unwrap(),
                    warmup_steps: s["warmup_epochs"].as_u64().unwrap() * STAIR,
                    power: 1.0,
                    epochs: s["epochs"].as_u64().unwrap(),
                },
                steps_per_epoch,
                total,
            );
            let changes: Vec<(u64, f64)> = case["lr_changes"]
                .as_array()
                .unwrap()
                .iter()
                .map(|c| (c[0].as_u64().unwrap(), c[1].as_f64().unwrap()))
                .collect();
            for step in 0..total {
                let want = changes.iter().rev().find(|(at, _)| *at <= step).unwrap().1;
                let got = schedule.lr(step);
                assert!(
                    (got - want).abs() < 1e-12,
                    "{} step {step}: {got}, recorded {want}",
                    case["style"]
                );
            }
        }
    }

    #[test]
    fn cosine_starts_low_peaks_and_ends_at_the_minimum() {
        let schedule = Schedule::new(
            ScheduleConfig {
                kind: ScheduleKind::Cosine,
                lr: 1e-3,
                min_lr: 1e-5,
                warmup_lr: 0.0,
                warmup_steps: 10,
                power: 1.0,
                epochs: 1,
            },
            110,
            110,
        );
        assert!((schedule.lr(0) - 1e-4).abs() < 1e-12);
        assert!((schedule.lr(9) - 1e-3).abs() < 1e-12);
        assert!((schedule.lr(60) - 5.05e-4).abs() < 1e-9);
        assert!((schedule.lr(110) - 1e-5).abs() < 1e-12);
    }

    #[test]
    fn polynomial_equals_the_recorded_steps() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/golden/polynomial_schedule.json"
        );
        let golden: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let mut compared = 0;
        for case in golden["cases"].as_array().unwrap() {
            let number = |name: &str| case[name].as_f64().unwrap();
            let count = |name: &str| case[name].as_u64().unwrap();
            let config = ScheduleConfig {
                kind: ScheduleKind::Polynomial,
                lr: number("lr"),
                min_lr: number("min_lr"),
                warmup_lr: 0.0,
                warmup_steps: count("warmup_steps"),
                power: number("power"),
                epochs: 1,
            };
            let total = count("total_steps");
            let schedule = Schedule::new(config, total, total);
            let lrs = case["lrs"].as_array().unwrap();
            for (step, want) in lrs.iter().enumerate() {
                let (got, want) = (schedule.lr(step as u64), want.as_f64().unwrap());
                assert!(
                    (got - want).abs() < 1e-12,
                    "step {step} of {total}: {got}, recorded {want}"
                );
                compared += 1;
            }
        }
        assert_eq!(compared, 203 + 13 + 33 + 43);
    }

    #[test]
    fn alpha_ramps_over_the_first_epoch() {
        let config = ScheduleConfig {
            kind: ScheduleKind::Constant,
            lr: 1.0,
            min_lr: 0.0,
            warmup_lr: 0.0,
            warmup_steps: 0,
            power: 1.0,
            epochs: 2,
        };
        let schedule = Schedule::new(config, 5, 10);
        assert_eq!(schedule.alpha(0.4, 1.0, 0), 0.0);
        assert!((schedule.alpha(0.4, 1.0, 2) - 0.16).abs() < 1e-12);
        assert_eq!(schedule.alpha(0.4, 1.0, 7), 0.4);
        assert_eq!(schedule.alpha(0.4, 0.0, 0), 0.4);
    }
}
