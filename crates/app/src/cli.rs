//! The command line: one file a command.

mod ask;
mod classify;
mod data;
mod data_check;
mod demo;
mod evaluate;
mod evaluate_task;
mod explain;
mod fill;
mod finetune;
mod grounding;
mod index;
mod matching;
mod model;
mod model_file;
mod output;
mod pretrain;
mod pseudo_targets;
mod query_cost;
mod scenes;
mod search;
mod spec;
mod zero_shot;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use output::Output;

const EXAMPLES: &str = "\
Examples:
  fitup search \"a red bird\" --index runs/index
  fitup match photo.jpg \"a dog in the snow\"
  fitup pretrain albef-tiny
  fitup COMMAND --help      examples of each command

Exit codes:
  0  done
  1  failed; the message names the file or field and what to do
  2  the command line could not be understood
  3  stopped by Ctrl-C, after saving a checkpoint

Environment:
  FITUP_OPERATORS=plain  compute with Burn's own operators instead of the fused ones: slower;
                         to check one against the other";

/// Trains, evaluates and uses vision-language models.
#[derive(Debug, Parser)]
#[command(name = "fitup", version, after_help = EXAMPLES, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print one JSON document on standard output, and nothing else there
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Pretrain(pretrain::Pretrain),
    Finetune(finetune::Finetune),
    #[command(subcommand)]
    Evaluate(evaluate::Evaluate),
    #[command(subcommand)]
    Index(index::Index),
    Search(search::Search),
    Match(matching::Match),
    Classify(classify::Classify),
    Fill(fill::Fill),
    PseudoTargets(pseudo_targets::PseudoTargets),
    Ask(ask::Ask),
    Compare(ask::Compare),
    Entail(ask::Entail),
    Explain(explain::Explain),
    #[command(subcommand)]
    Model(model::Model),
    #[command(subcommand)]
    Data(data::Data),
    Demo(demo::Demo),
}

/// How a command that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Done,
    /// Asked to stop, and what was reached is saved.
    Stopped,
}

/// Runs the command of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(Ended::Done) => ExitCode::SUCCESS,
        Ok(Ended::Stopped) => ExitCode::from(3),
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", output::chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<Ended> {
    let output = Output { json: cli.json };
    match &cli.command {
        Command::Pretrain(args) => return pretrain::run(args, output),
        Command::Finetune(args) => return finetune::run(args, output),
        Command::Evaluate(args) => evaluate::run(args, output)?,
        Command::Index(args) => index::run(args, output)?,
        Command::Search(args) => search::run(args, output)?,
        Command::Match(args) => matching::run(args, output)?,
        Command::Classify(args) => classify::run(args, output)?,
        Command::Fill(args) => fill::run(args, output)?,
        Command::PseudoTargets(args) => pseudo_targets::run(args, output)?,
        Command::Ask(args) => ask::run(args, output)?,
        Command::Compare(args) => ask::run_compare(args, output)?,
        Command::Entail(args) => ask::run_entail(args, output)?,
        Command::Explain(args) => explain::run(args, output)?,
        Command::Model(args) => model::run(args, output)?,
        Command::Data(args) => data::run(args, output)?,
        Command::Demo(args) => demo::run(args, output)?,
    }
    Ok(Ended::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent_and_every_command_shows_examples() {
        fn check(command: &clap::Command) {
            let leaf = command.get_subcommands().next().is_none();
            let help = command.get_after_help().map(ToString::to_string);
            let shown = help.is_some_and(|help| help.starts_with("Example"));
            assert!(!leaf || shown, "{} has no examples", command.get_name());
            assert!(command.get_about().is_some(), "{}", command.get_name());
            command.get_subcommands().for_each(check);
        }
        let command = Cli::command();
        command.clone().debug_assert();
        check(&command);
    }
}
