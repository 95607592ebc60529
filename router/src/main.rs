//! The program: reads its flags, then does what it was asked.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use millrace::app::{OpenError, StartError};
use millrace::cli::{Cli, Command, Exit, RunArgs};
use millrace::{app, cli, config, control, status};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(exit) => exit.into(),
        // Whoever reads has read enough, as `head` does.
        Err(error) if is_broken_pipe(&error) => Exit::Done.into(),
        Err(error) => {
            eprintln!("millrace: {error:#}");
            // A certificate that cannot be used is a mistake of the configuration, wherever it lies.
            let is_certificate = matches!(error.downcast_ref(), Some(OpenError::Certificate(_)));
            if is_certificate || matches!(error.downcast_ref(), Some(StartError::Config(_))) {
                Exit::BadConfig.into()
            } else {
                Exit::Failed.into()
            }
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn run(cli: &Cli) -> anyhow::Result<Exit> {
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr());
    match &cli.command {
        Command::Run(args) => {
            drop(out);
            run_router(args)
        }
        Command::Check(args) => {
            cli::check(args, config::environment(), &mut out, &mut err).context("output cannot be written")
        }
        Command::Route(args) => cli::route(args, &mut out, &mut err).context("output cannot be written"),
        Command::Authz(args) => {
            cli::authz(args, config::environment(), &mut out, &mut err).context("output cannot be written")
        }
        Command::Store(args) => cli::store(args, &mut out, &mut err).context("output cannot be written"),
        Command::Passwd(args) => cli::passwd(args, &mut std::io::stdin().lock(), &mut out, &mut err)
            .context("output cannot be written"),
        Command::Identity(args) => {
            cli::identity(args, &mut out, &mut err).context("output cannot be written")
        }
        Command::Lanes(args) => control::lanes(args, &mut out, &mut err),
        Command::Status(args) => {
            status::print(args.http, &mut out)?;
            Ok(Exit::Done)
        }
    }
}

/// A connection is a file, and the usual soft limit of 1 024 is for programs that use `select`.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_err()
    {
        eprintln!(
            "millrace: the limit on open files stays at {soft}; more connections than that are not accepted"
        );
    }
}

fn run_router(args: &RunArgs) -> anyhow::Result<Exit> {
    // Huge pages double what an idle router holds (35 instead of 16 MiB, 11 instead of 2 KiB per idle connection) and
    // gain nothing measurable. A kernel without the switch has no huge pages either.
    nix::sys::prctl::set_thp_disable(true).ok();
    raise_file_limit();
    let load = || config::load(&args.config, config::environment());
    match load() {
        Ok(config) => {
            app::run(config, args.ready_file.as_deref(), &load)?;
            Ok(Exit::Done)
        }
        Err(errors) => {
            eprintln!("{errors}");
            Ok(Exit::BadConfig)
        }
    }
}
