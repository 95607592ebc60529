//! `millrace passwd`: creates, changes and deletes users of a password file.
//!
//! In: a file, a user, a password from the terminal or from standard input. Out: the file, replaced as a whole, readable
//! by its owner alone. Never: a password on the command line, where every process can read it.

use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};

use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

use super::{Exit, PasswdArgs};
use crate::access::PasswordFile;
use crate::access::passwords::{self, Cost};
use crate::files;

/// Does what `args` ask.
///
/// `input` is where the password comes from if standard input is no terminal: its first line. Fails only if the writers
/// fail; what is wrong with the file, the user or the password is written to `err`, and the file stays as it was.
pub fn passwd(
    args: &PasswdArgs,
    input: &mut impl BufRead,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<Exit> {
    match change(args, input, err) {
        Ok(done) => {
            writeln!(out, "{}: user {} {done}", args.file.display(), args.user)?;
            Ok(Exit::Done)
        }
        Err(fault) => {
            writeln!(err, "millrace passwd: {fault}")?;
            Ok(Exit::BadConfig)
        }
    }
}

fn change(args: &PasswdArgs, input: &mut impl BufRead, err: &mut impl Write) -> Result<&'static str, String> {
    let named = |error: io::Error| format!("{}: {error}", args.file.display());
    let text = match fs::read_to_string(&args.file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !args.delete => String::new(),
        Err(error) => return Err(named(error)),
    };
    // A file with mistakes would stop the router; nothing is added to it before they are repaired.
    if let Err(errors) = PasswordFile::parse(&text, u32::MAX, u32::MAX) {
        let lines: Vec<_> =
            errors.iter().map(|(line, error)| format!("{}:{line}: {error}", args.file.display())).collect();
        return Err(lines.join("\n"));
    }
    if args.delete {
        let (text, found) = passwords::with_user(&text, &args.user, None);
        if !found {
            return Err(format!("{} has no user {}", args.file.display(), args.user));
        }
        files::replace(&args.file, text.as_bytes()).map_err(named)?;
        return Ok("deleted");
    }
    let password =
        if io::stdin().is_terminal() && !args.stdin { ask(input, err)? } else { first_line(input)? };
    if password.is_empty() {
        return Err("the password is empty".to_owned());
    }
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(|error| format!("no randomness for the salt: {error}"))?;
    let cost = Cost { memory_kib: args.memory_kib, passes: args.passes };
    let line =
        passwords::line(&args.user, password.as_bytes(), salt, cost).map_err(|error| error.to_string())?;
    let (text, found) = passwords::with_user(&text, &args.user, Some(&line));
    files::replace(&args.file, text.as_bytes()).map_err(named)?;
    Ok(if found { "changed" } else { "created" })
}

fn ask(input: &mut impl BufRead, err: &mut impl Write) -> Result<String, String> {
    let once = |input: &mut _, err: &mut dyn Write, prompt: &str| -> Result<String, String> {
        let terminal = io::stdin();
        let before =
            tcgetattr(&terminal).map_err(|error| format!("the terminal cannot be asked: {error}"))?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        let set = |flags| tcsetattr(&terminal, SetArg::TCSAFLUSH, flags).map_err(|error| error.to_string());
        write!(err, "{prompt}: ").and_then(|()| err.flush()).map_err(|error| error.to_string())?;
        set(&silent)?;
        let line = first_line(input);
        set(&before)?;
        writeln!(err).map_err(|error| error.to_string())?;
        line
    };
    let password = once(input, err, "Password")?;
    if password != once(input, err, "Again")? {
        return Err("the two passwords differ".to_owned());
    }
    Ok(password)
}

fn first_line(input: &mut impl BufRead) -> Result<String, String> {
    let mut line = String::new();
    input.read_line(&mut line).map_err(|error| format!("the password cannot be read: {error}"))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
