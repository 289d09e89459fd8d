//! Parity with recorded tensors of the original implementations: outputs, losses and the gradient
//! of every parameter. A failing comparison names the first tensor that differs.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "parity/albef_bert.rs"]
mod albef_bert;
#[path = "parity/albef_gradcam.rs"]
mod albef_gradcam;
#[path = "parity/albef_nlvr.rs"]
mod albef_nlvr;
#[path = "parity/albef_pretrain.rs"]
mod albef_pretrain;
#[path = "parity/albef_retrieval.rs"]
mod albef_retrieval;
#[path = "parity/albef_tasks.rs"]
mod albef_tasks;
#[path = "parity/albef_ve.rs"]
mod albef_ve;
#[path = "parity/albef_vit.rs"]
mod albef_vit;
#[path = "parity/albef_vqa.rs"]
mod albef_vqa;
#[path = "parity/clip.rs"]
mod clip;
#[path = "parity/golden.rs"]
mod golden;
#[path = "parity/vilt.rs"]
mod vilt;
#[path = "parity/vilt_downstream.rs"]
mod vilt_downstream;
#[path = "parity/vilt_ipot.rs"]
mod vilt_ipot;
#[path = "parity/vlmo.rs"]
mod vlmo;
#[path = "parity/vlmo_downstream.rs"]
mod vlmo_downstream;
