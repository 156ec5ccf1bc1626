//! The command line, one file per subcommand.
//!
//! Data goes to standard output, words to standard error. Exit codes: 0 fine, 1 the thing asked
//! failed, 2 misuse.

/// As `println!`, for data. A reader that has seen enough is no failure, and changes no exit code.
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::put_line(format_args!($($text)*)) };
}

mod authority;
pub mod ca;
pub mod cert;
mod check;
mod commands;
mod confine;
pub mod ctl;
mod doctor;
mod password;
mod pki;
mod policy;
mod quickstart;
mod reloader;
mod revocation;
mod running;
mod sandbox;
mod serve;
mod store;
mod watch;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use crate::policy::{LoadError, QuestionError};

/// A security-hardened MQTT broker.
#[derive(Debug, clap::Parser)]
#[command(name = "portcullis", version, about, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Makes certificates, configuration and policies, serves, and shows what is let through
    Quickstart(quickstart::QuickstartArgs),
    /// Runs the broker
    Serve(serve::ServeArgs),
    /// Checks configuration, certificates and policies; nothing is bound
    Check(check::CheckArgs),
    /// Looks for what is wrong, or soon will be
    Doctor(doctor::DoctorArgs),
    /// Makes and looks after a certificate authority
    Ca(ca::CaArgs),
    /// Issues, renews, revokes and lists certificates
    Cert(cert::CertArgs),
    /// Runs the authority as a service of its own, apart from the broker
    Pki(pki::PkiArgs),
    /// Sets, removes and lists passwords
    Password(password::PasswordArgs),
    /// Checks, tests, explains and compares policies
    Policy(policy::PolicyArgs),
    /// Backs up, restores, checks and shows what the broker keeps on disk
    Store(store::StoreArgs),
    /// Asks or tells a running broker
    Ctl(ctl::Args),
}

/// Why a command failed, for the person who gave it: what, where, and the remedy.
#[derive(Debug)]
pub struct Failure(String);

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

impl Failure {
    /// Policies that cannot be loaded: a line for each problem.
    fn policies(error: &LoadError) -> Self {
        let lines: Vec<String> = error.lines().collect();
        Self(format!("{error}\n{}", lines.join("\n")))
    }
}

impl Cli {
    /// Does what the command line says.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let done = match self.command {
            Command::Quickstart(args) => args.run(),
            Command::Serve(args) => args.run(),
            Command::Check(args) => args.run(),
            Command::Doctor(args) => match args.run() {
                Ok(code) => return code,
                Err(failure) => Err(failure),
            },
            Command::Ca(args) => args.run(),
            Command::Cert(args) => args.run(),
            Command::Pki(args) => args.run(),
            Command::Password(args) => args.run(),
            Command::Policy(args) => args.run(),
            Command::Store(args) => args.run(),
            Command::Ctl(args) => {
                let called = ctl::run(&args, &mut std::io::stdout(), &mut std::io::stderr());
                return called.map_or(ExitCode::FAILURE, ExitCode::from);
            }
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(Failure(text)) => {
                eprintln!("error: {text}");
                ExitCode::FAILURE
            }
        }
    }
}

/// Whether words on standard error may be coloured.
fn coloured() -> bool {
    may_colour(&std::io::stderr())
}

/// Whether what goes there may be coloured.
fn may_colour(output: &impl IsTerminal) -> bool {
    output.is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Writes data to standard output.
fn put(data: &str) -> Result<(), Failure> {
    let mut output = std::io::stdout().lock();
    match output.write_all(data.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// Writes a line of data to standard output; without it the program is of no use.
fn put_line(data: std::fmt::Arguments<'_>) {
    if let Err(Failure(why)) = put(&format!("{data}\n")) {
        eprintln!("error: standard output: {why}");
        std::process::exit(1);
    }
}

/// How many there are of something.
fn count(number: usize, one: &str, several: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { several })
}

/// Ends the program as clap does for arguments that cannot be read.
fn misuse(error: &QuestionError) -> ! {
    let message = format!("{error}; {}\n", error.remedy);
    clap::Error::raw(clap::error::ErrorKind::ValueValidation, message).exit()
}

/// Reads `NAME=VALUE`.
fn fact(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE, such as qos=1")?;
    Ok((name.to_owned(), value.to_owned()))
}
