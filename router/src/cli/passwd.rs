//! `millrace passwd`: creates, changes and deletes users of a password file.
//!
//! In: a file, a user, a password from the terminal or from standard input. Out: the file, replaced as a whole, readable
//! by its owner alone. Never: a password on the command line, where every process can read it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

use super::{Exit, PasswdArgs};
use crate::access::PasswordFile;
use crate::access::passwords::{self, Cost};

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
        replace(&args.file, &text).map_err(named)?;
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
    replace(&args.file, &text).map_err(named)?;
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

/// Replaces a file whole: nobody ever sees half of it, and a crash leaves the old one or the new one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    // A link keeps leading to the file.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let unfinished = folder.join(name);
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        if let Ok(old) = fs::metadata(&target) {
            // Run by root, the router must still be able to read it.
            let current = file.metadata()?;
            if (old.uid(), old.gid()) != (current.uid(), current.gid()) {
                std::os::unix::fs::chown(&unfinished, Some(old.uid()), Some(old.gid()))?;
            }
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&unfinished, &target)?;
        File::open(folder)?.sync_all()
    };
    write().inspect_err(|_| drop(fs::remove_file(&unfinished)))
}
