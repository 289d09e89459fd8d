//! The threads: workers prepare single samples in any order, an assembler puts them back in order
//! and into batches. Samples and not batches are the unit of work, so the first batch of a run is as
//! fast as all workers together.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::order::permutation;
use super::report::Tally;
use super::sample::{Pair, Preparation};
use super::{LoaderError, PairBatch, Position};

/// A batch with what was skipped for it; no batch when a place in it could not be filled.
pub(super) struct Delivery {
    pub(super) batch: Option<PairBatch>,
    pub(super) tally: Tally,
}

#[derive(Debug)]
pub(super) struct Pipeline {
    /// Taken when the pipeline ends, which wakes an assembler that waits to deliver.
    deliveries: Option<Receiver<Delivery>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

struct Task {
    ticket: u64,
    epoch: u64,
    /// Place in the epoch.
    position: u64,
    /// The record.
    index: usize,
}

struct Prepared {
    ticket: u64,
    pair: Option<Pair>,
    tally: Tally,
}

impl Pipeline {
    pub(super) fn start(
        preparation: Preparation,
        batches_per_epoch: u64,
        start: Position,
    ) -> Result<Self, LoaderError> {
        let preparation = Arc::new(preparation);
        let config = &preparation.config;
        let (deliver, deliveries) = bounded(config.queue);
        // Never full: the assembler hands out no more tasks than its window holds.
        let (tasks, queue) = unbounded::<Task>();
        let (finished, results) = unbounded::<Prepared>();

        let mut pipeline = Self {
            deliveries: Some(deliveries),
            stop: Arc::new(AtomicBool::new(false)),
            threads: Vec::with_capacity(config.workers + 1),
        };
        for worker in 0..config.workers {
            let (queue, finished) = (queue.clone(), finished.clone());
            let (preparation, stop) = (preparation.clone(), pipeline.stop.clone());
            pipeline.spawn(format!("loader worker {worker}"), move || {
                work(&preparation, &queue, &finished, &stop);
            })?;
        }
        // With the workers' copies alone left, `results` ends when the last worker does.
        drop(finished);

        let assembler = Assembler {
            issue: Issue {
                order: permutation(preparation.source.len(), config.seed, start.epoch),
                seed: config.seed,
                batch_size: config.batch_size as u64,
                per_epoch: batches_per_epoch * config.batch_size as u64,
                epoch: start.epoch,
                position: start.batch * config.batch_size as u64,
            },
            window: config.batch_size.max(2 * config.workers),
            stop: pipeline.stop.clone(),
            tasks,
            results,
            deliver,
            preparation: preparation.clone(),
        };
        pipeline.spawn("loader assembler".to_owned(), move || {
            assembler.run(start, batches_per_epoch);
        })?;
        Ok(pipeline)
    }

    fn spawn(
        &mut self,
        name: String,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<(), LoaderError> {
        let thread = thread::Builder::new()
            .name(name)
            .spawn(body)
            .map_err(LoaderError::Thread)?;
        self.threads.push(thread);
        Ok(())
    }

    /// Waits for the next delivery; `None` when the threads have ended.
    pub(super) fn receive(&self) -> Option<Delivery> {
        self.deliveries.as_ref()?.recv().ok()
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.deliveries = None;
        for thread in self.threads.drain(..) {
            // A panic was already printed by the thread, and nothing more can be done about it here.
            let _ = thread.join();
        }
    }
}

fn work(
    preparation: &Preparation,
    queue: &Receiver<Task>,
    finished: &Sender<Prepared>,
    stop: &AtomicBool,
) {
    for task in queue {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let (pair, tally) = preparation.pair(task.epoch, task.position, task.index);
        let prepared = Prepared {
            ticket: task.ticket,
            pair,
            tally,
        };
        if finished.send(prepared).is_err() {
            return;
        }
    }
}

/// Hands out the positions of one epoch after the other.
struct Issue {
    order: Vec<usize>,
    seed: u64,
    batch_size: u64,
    /// Positions that fill whole batches.
    per_epoch: u64,
    epoch: u64,
    position: u64,
}

impl Issue {
    fn next(&mut self, ticket: u64) -> Task {
        if self.position == self.per_epoch {
            self.epoch += 1;
            self.position = 0;
            self.order = permutation(self.order.len(), self.seed, self.epoch);
        }
        let position = self.position;
        self.position += 1;
        Task {
            ticket,
            epoch: self.epoch,
            position,
            index: self.order[position as usize],
        }
    }
}

struct Assembler {
    issue: Issue,
    /// Samples handed out or waiting for an earlier one, at most.
    window: usize,
    stop: Arc<AtomicBool>,
    tasks: Sender<Task>,
    results: Receiver<Prepared>,
    deliver: Sender<Delivery>,
    preparation: Arc<Preparation>,
}

impl Assembler {
    fn run(mut self, start: Position, batches_per_epoch: u64) {
        let batch_size = self.issue.batch_size as usize;
        let mut at = start;
        let mut pairs: Vec<Pair> = Vec::with_capacity(batch_size);
        let mut tally = Tally::default();
        // The front is the sample that is due; its ticket is `due`.
        let mut waiting: VecDeque<Option<Prepared>> = VecDeque::with_capacity(self.window);
        let mut due = 0;

        loop {
            while waiting.len() < self.window {
                let task = self.issue.next(due + waiting.len() as u64);
                waiting.push_back(None);
                if self.tasks.send(task).is_err() {
                    return;
                }
            }
            let Ok(prepared) = self.results.recv() else {
                return;
            };
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let place = (prepared.ticket - due) as usize;
            waiting[place] = Some(prepared);

            while let Some(Prepared {
                pair, tally: more, ..
            }) = waiting.front_mut().and_then(Option::take)
            {
                waiting.pop_front();
                due += 1;
                tally.seen += more.seen;
                tally.skipped.extend(more.skipped);
                let Some(pair) = pair else {
                    let _ = self.deliver.send(Delivery { batch: None, tally });
                    return;
                };
                pairs.push(pair);
                if pairs.len() == batch_size {
                    let batch = self.assemble(at, batches_per_epoch, std::mem::take(&mut pairs));
                    at = batch.next;
                    let delivery = Delivery {
                        batch: Some(batch),
                        tally: std::mem::take(&mut tally),
                    };
                    if self.deliver.send(delivery).is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn assemble(&self, at: Position, batches_per_epoch: u64, pairs: Vec<Pair>) -> PairBatch {
        let rows: Vec<&[i64]> = pairs.iter().map(|pair| pair.input_ids.as_slice()).collect();
        let tokens = self.preparation.tokenizer.pad(&rows, 0);
        let image_size = self.preparation.transform.size();

        let size = pairs.len();
        let mut batch = PairBatch {
            epoch: at.epoch,
            batch: at.batch,
            size,
            images: Vec::with_capacity(pairs.iter().map(|pair| pair.image.len()).sum()),
            image_size,
            input_ids: tokens.input_ids,
            attention_mask: tokens.attention_mask,
            length: tokens.length,
            keys: Vec::with_capacity(size),
            captions: Vec::with_capacity(size),
            image_ids: Vec::with_capacity(size),
            second_images: Vec::new(),
            classes: Vec::new(),
            answers: Vec::new(),
            next: if at.batch + 1 == batches_per_epoch {
                Position {
                    epoch: at.epoch + 1,
                    batch: 0,
                }
            } else {
                Position {
                    epoch: at.epoch,
                    batch: at.batch + 1,
                }
            },
        };
        for pair in pairs {
            batch.images.extend_from_slice(&pair.image);
            batch.keys.push(pair.key);
            batch.captions.extend(pair.caption);
            batch.image_ids.push(pair.image_id);
            batch.second_images.extend_from_slice(&pair.second_image);
            batch.classes.extend(pair.class);
            batch.answers.extend(pair.answers);
        }
        batch
    }
}
