//! `fitup`: train, evaluate and use vision-language models from the command line.

mod cli;
mod hub;
mod progress;

use std::process::ExitCode;

/// Training allocates and frees many buffers of the same sizes on several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
