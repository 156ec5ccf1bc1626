//! The `portcullis` program: arguments, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use portcullis::cli::Cli;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    Cli::parse().run()
}
