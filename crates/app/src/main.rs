//! `fitup`: train, evaluate and use vision-language models from the command line.

mod cli;
mod hub;
mod progress;

use std::process::ExitCode;

use fitup_kernels::allocation;

/// Training allocates and frees many buffers of the same sizes on several threads.
#[global_allocator]
static ALLOCATOR: allocation::Allocator = allocation::ALLOCATOR;

fn main() -> ExitCode {
    allocation::keep_freed_memory();
    cli::main()
}
