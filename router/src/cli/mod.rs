//! The command line: what can be asked of `millrace`, and the commands that need no running router.
//!
//! Knows: subcommands, flags, exit codes. May use: `config`, `access`, `routes`, files named on the command line, a store
//! that nobody runs. Never: sockets. In: arguments. Out: text on a writer, and an exit code.

mod authz;
mod check;
mod identity;
mod passwd;
mod route;
mod store;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::access::passwords::Cost;
use crate::config::ConfigArgs;

pub use authz::authz;
pub use check::check;
pub use identity::identity;
pub use passwd::passwd;
pub use route::route;
pub(crate) use route::sink_name;
pub use store::store;

/// What the process tells the one who started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done; for `run`: drained and stopped.
    Done = 0,
    /// It failed while it ran.
    Failed = 1,
    /// The configuration or the command line is wrong; nothing was started.
    BadConfig = 2,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        std::process::ExitCode::from(exit as u8)
    }
}

/// High-throughput local MQTT message router and edge stream processor.
#[derive(Debug, Parser)]
#[command(name = "millrace", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be asked of the program.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the router and run until SIGTERM or SIGINT.
    Run(RunArgs),
    /// Judge a configuration without starting it: every mistake, or a plan of what would run.
    Check(CheckArgs),
    /// Check and try routes.
    Route(RouteArgs),
    /// Show what a client may do, and which rule says so.
    Authz(AuthzArgs),
    /// Create, change or delete a user of a password file.
    Passwd(PasswdArgs),
    /// Make, show and change the identities of a gateway that has no IoT Hub.
    Identity(IdentityArgs),
    /// Ask a running router how it is.
    Status(StatusArgs),
    /// Show lanes, and what no upstream wanted.
    Lanes(LanesArgs),
    /// Look into a store that no router runs on, and mend it.
    Store(StoreArgs),
}

/// `millrace store`.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// What to do with it.
    #[command(subcommand)]
    pub command: StoreCommand,
}

/// What can be done with a store; `path` is what `store.path` says.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Read everything and check every checksum; exit code 1 if something is wrong.
    Verify {
        /// The store.
        path: PathBuf,
    },
    /// Show what it takes and what waits in its lanes.
    Stats {
        /// The store.
        path: PathBuf,
    },
    /// Show the loss ledger: which messages are gone, why and when.
    Losses {
        /// The store.
        path: PathBuf,
    },
    /// Merge its files, so that only what is alive takes space.
    Compact {
        /// The store.
        path: PathBuf,
    },
    /// Write it anew with everything that can be read; damage is set aside. Needs as much free space as its messages have.
    Repair {
        /// The store.
        path: PathBuf,
    },
    /// Write every waiting message as a JSON object with lane, place, times and the record in base64.
    Export {
        /// The store.
        path: PathBuf,
        /// Only the lane of this name.
        #[arg(long, value_name = "NAME")]
        lane: Option<String>,
    },
}

impl StoreCommand {
    /// The store that it is about.
    fn path(&self) -> &std::path::Path {
        match self {
            StoreCommand::Verify { path }
            | StoreCommand::Stats { path }
            | StoreCommand::Losses { path }
            | StoreCommand::Compact { path }
            | StoreCommand::Repair { path }
            | StoreCommand::Export { path, .. } => path,
        }
    }
}

/// Flags of `millrace run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// What to run on.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Write the bound addresses here, as JSON, as soon as every listener accepts.
    #[arg(long, value_name = "PATH")]
    pub ready_file: Option<PathBuf>,
}

/// Flags of `millrace check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// What to judge.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Print every configuration key as Markdown, and stop.
    #[arg(long)]
    pub reference: bool,
}

/// `millrace authz`.
#[derive(Debug, Args)]
pub struct AuthzArgs {
    /// What to ask.
    #[command(subcommand)]
    pub command: AuthzCommand,
}

/// What can be asked about rules.
#[derive(Debug, Subcommand)]
pub enum AuthzCommand {
    /// Say whether a client may do something, which rule decides, and which ones come close.
    Explain(ExplainArgs),
}

/// Flags of `millrace authz explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Where the rules are.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The client's user; anonymous without it.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Its client identifier.
    #[arg(long, value_name = "ID")]
    pub client: String,
    /// Its user comes from a certificate.
    #[arg(long, requires = "user")]
    pub certificate: bool,
    /// What it wants to do.
    pub action: AuthzAction,
    /// The topic to publish to, or the filter to subscribe to.
    pub topic: String,
}

/// What a client may want to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AuthzAction {
    /// Publish; a will is a publication too.
    Publish,
    /// Subscribe.
    Subscribe,
}

/// Flags of `millrace passwd`.
#[derive(Debug, Args)]
pub struct PasswdArgs {
    /// The password file; made if it is not there.
    pub file: PathBuf,
    /// The user.
    pub user: String,
    /// Delete the user.
    #[arg(long)]
    pub delete: bool,
    /// Take the password from the first line of standard input, even if that is a terminal.
    #[arg(long)]
    pub stdin: bool,
    /// Memory that one attempt costs.
    #[arg(long, value_name = "KIB", default_value_t = Cost::default().memory_kib)]
    pub memory_kib: u32,
    /// Passes over that memory.
    #[arg(long, value_name = "COUNT", default_value_t = Cost::default().passes)]
    pub passes: u32,
}

/// `millrace identity`.
#[derive(Debug, Args)]
pub struct IdentityArgs {
    /// The identity file, as `edge.identities` names it.
    #[arg(long, value_name = "FILE", default_value = "identities.json", global = true)]
    pub file: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: IdentityCommand,
}

/// What can be done with identities. An id is DEVICE or DEVICE/MODULE.
#[derive(Debug, Subcommand)]
pub enum IdentityCommand {
    /// Add an identity with two new keys. The first one of a file is the gateway itself and needs --edge.
    Create {
        /// Its id.
        id: String,
        /// It is an edge device, which others connect through.
        #[arg(long, conflicts_with_all = ["thumbprint", "authority"])]
        edge: bool,
        /// It authenticates by a certificate with this thumbprint (SHA-1 or SHA-256, hex); once or twice.
        #[arg(long, value_name = "HEX", num_args = 1, conflicts_with = "authority")]
        thumbprint: Vec<String>,
        /// It authenticates by a certificate of an authority in the trust bundle, with its id as common name.
        #[arg(long)]
        authority: bool,
        /// The edge device that it is below.
        #[arg(long, value_name = "DEVICE")]
        parent: Option<String>,
    },
    /// Print the connection string of an identity: it holds the key.
    Show {
        /// Its id.
        id: String,
        /// The host name that its client connects to.
        #[arg(long, value_name = "NAME", default_value = "localhost")]
        host: String,
    },
    /// Print a token of an identity, for a client that cannot make its own.
    Token {
        /// Its id.
        id: String,
        /// The host name that it is for: that of the gateway.
        #[arg(long, value_name = "NAME", default_value = "localhost")]
        host: String,
        /// How long it is good.
        #[arg(long, value_name = "MINUTES", default_value_t = 60)]
        minutes: u32,
    },
    /// List all identities, without their keys.
    List,
    /// Give an identity a new primary key; the old one becomes the secondary.
    Rotate {
        /// Its id.
        id: String,
    },
    /// Let a device in again.
    Enable {
        /// Its id.
        id: String,
    },
    /// Keep a device and its modules out.
    Disable {
        /// Its id.
        id: String,
    },
    /// Remove an identity; with a device go its modules.
    Delete {
        /// Its id.
        id: String,
    },
}

/// Flags of `millrace status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The router's `http.bind`.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9883")]
    pub http: SocketAddr,
}

/// `millrace lanes`.
#[derive(Debug, Args)]
pub struct LanesArgs {
    /// Where the router's configuration is; its store and its control socket are found there.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The store itself, without a configuration.
    #[arg(long, value_name = "PATH", conflicts_with = "config", global = true)]
    pub store: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: LanesCommand,
}

/// What can be asked about lanes.
#[derive(Debug, Subcommand)]
pub enum LanesCommand {
    /// Every lane with what waits in it.
    List,
    /// Messages that an upstream never accepted.
    Poison {
        /// What to do with them.
        #[command(subcommand)]
        command: PoisonCommand,
    },
}

/// What can be done with messages in poison lanes.
#[derive(Debug, Subcommand)]
pub enum PoisonCommand {
    /// One line for each, the oldest first.
    List {
        /// Of this uplink alone.
        #[arg(value_parser = uplink_name)]
        uplink: Option<String>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// One with everything that is known about it, as JSON.
    Show {
        /// Whose poison lane.
        #[arg(value_parser = uplink_name)]
        uplink: String,
        /// Its place, as `list` shows it.
        place: u64,
    },
    /// Put some back at the end of the lanes they come from.
    Retry(Which),
    /// Drop some for good.
    Drop(Which),
}

/// Which messages of a poison lane.
#[derive(Debug, Args)]
pub struct Which {
    /// Whose poison lane.
    #[arg(value_parser = uplink_name)]
    pub uplink: String,
    /// Their places, as `list` shows them.
    #[arg(required_unless_present = "all")]
    pub place: Vec<u64>,
    /// Every one that is there.
    #[arg(long, conflicts_with = "place")]
    pub all: bool,
}

impl Which {
    /// As the control door understands it.
    pub(crate) fn places(&self) -> String {
        if self.all {
            return "all".to_owned();
        }
        self.place.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
    }
}

fn uplink_name(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !text.is_empty() && text.chars().all(is_plain) {
        return Ok(text.to_owned());
    }
    Err("the name of an uplink has letters, digits, _ and -".to_owned())
}

/// `millrace route`.
#[derive(Debug, Args)]
pub struct RouteArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub command: RouteCommand,
}

/// What can be done with routes.
#[derive(Debug, Subcommand)]
pub enum RouteCommand {
    /// Compile every route of a file and show where each leads.
    Check {
        /// A configuration file with [routes], or a file with one route per line.
        file: PathBuf,
    },
    /// Show which routes a message would take, and why not the others.
    Test(RouteTestArgs),
    /// Show how each route is found, what it reads and what it costs.
    Explain {
        /// A configuration file with [routes], or a file with one route per line.
        file: PathBuf,
    },
}

/// Flags of `millrace route test`.
#[derive(Debug, Args)]
pub struct RouteTestArgs {
    /// A configuration file with [routes], or a file with one route per line.
    pub file: PathBuf,
    /// The message, as a JSON object with topic, body (any JSON) or text, properties, system, source, client,
    /// user, qos and retain; each may be left out.
    #[arg(long, value_name = "FILE")]
    pub message: Option<PathBuf>,
    /// Its topic; stronger than the file.
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<String>,
    /// One of its properties; added to those of the file.
    #[arg(long = "prop", value_name = "KEY=VALUE")]
    pub properties: Vec<String>,
    /// The client that published it; stronger than the file.
    #[arg(long, value_name = "ID")]
    pub client: Option<String>,
}
