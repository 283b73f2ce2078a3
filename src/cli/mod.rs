//! The command line. Without arguments the program is the relay; with them it is one of its tools.
//!
//! A subcommand is a word, its options follow in any order as `--name value` or `--name=value`. Nothing is
//! read or written while arguments are parsed. Results go to stdout, faults to stderr; the exit codes are
//! those of sysexits.h where one fits.

mod ask;
mod dead_letters;
pub mod health;
mod hurried;
mod mqtt;
mod properties;
mod routes;
mod spool;
mod status;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;
use std::process::ExitCode;

pub use self::dead_letters::{Action, DeadLettersCommand, Which};
pub use self::routes::RoutesCommand;
pub use self::spool::{SpoolCommand, SpoolTool};
pub use self::status::StatusCommand;

/// `EX_USAGE`: arguments or environment are faulty; trying again will not help.
pub const EXIT_USAGE: u8 = 64;

const USAGE: &str = "\
Usage: cloud-relay                   run the relay; its settings come from the environment
       cloud-relay status [--json]   what the running relay is doing
       cloud-relay health            ask whether the relay beside it takes and keeps messages: code 0 or 1
       cloud-relay routes            print the rules that lead to the cloud, as the environment sets them
       cloud-relay routes explain TOPIC …
                                     print what becomes of messages on these topics
       cloud-relay spool TOOL …      look into the spool of a stopped relay
       cloud-relay dead-letters …    what the cloud never takes: list, show, replay, drop
       cloud-relay --help | --version

`cloud-relay spool --help` lists the tools, `cloud-relay dead-letters --help` the rest.
";

const STATUS_USAGE: &str = "\
Usage: cloud-relay status [--json]   what the running relay is doing

Asks it at STATUS_LISTEN (127.0.0.1:9180), with STATUS_PASSWORD if that is set.

Exit codes: 0 data is accepted and safe, 1 it is not, 64 wrong usage, 69 no relay answers.
";

const SPOOL_USAGE: &str = "\
Usage: cloud-relay spool inspect [--data-dir DIR]          what is in the spool
       cloud-relay spool verify  [--data-dir DIR]          read and check every byte
       cloud-relay spool export  [--data-dir DIR] [--all]  unsettled messages as JSON lines

Looks into the spool of a stopped relay; nothing is changed.

  --data-dir DIR  the relay's data directory; otherwise DATA_DIR, otherwise /data
  --all           export settled messages too, as far as they are still on disk

Exit codes: 0 done and sound, 1 verify or export met damage, 64 wrong usage, 65 a format this
version does not know, 66 no spool there, 74 the system refused, 75 a relay is running on it.
";

/// What the arguments ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Be the relay.
    Relay,
    /// Ask the running relay.
    Status(StatusCommand),
    /// Ask whether the relay is healthy.
    Health,
    /// Explain the routes.
    Routes(RoutesCommand),
    /// Look into a spool.
    Spool(SpoolCommand),
    /// Do something with dead letters.
    DeadLetters(DeadLettersCommand),
    /// Print this text.
    Print(String),
}

/// Arguments that cannot be understood. `Display` ends with the usage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageError {
    what: String,
    usage: &'static str,
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n\n{}", self.what, self.usage.trim_end())
    }
}

impl std::error::Error for UsageError {}

impl Command {
    /// Understands the arguments, without the program's own name.
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Self, UsageError> {
        let mut words = words.into_iter();
        let Some(first) = words.next() else {
            return Ok(Command::Relay);
        };
        match first.to_str() {
            Some("health") => parse_health(words),
            Some("routes") => parse_routes(words),
            Some("spool") => parse_spool(words),
            Some("dead-letters") => dead_letters::parse(words),
            Some("status") => parse_status(words),
            Some("-h" | "--help") => Ok(Command::Print(USAGE.to_owned())),
            Some("-V" | "--version") => Ok(Command::Print(format!(
                "cloud-relay {}\n",
                env!("CARGO_PKG_VERSION")
            ))),
            _ => Err(unknown(&first, USAGE)),
        }
    }
}

fn parse_status(words: impl Iterator<Item = OsString>) -> Result<Command, UsageError> {
    let mut command = StatusCommand::default();
    for word in words {
        match word.to_str() {
            Some("--json") => command.json = true,
            Some("-h" | "--help") => return Ok(Command::Print(STATUS_USAGE.to_owned())),
            _ => return Err(unknown(&word, STATUS_USAGE)),
        }
    }
    Ok(Command::Status(command))
}

fn parse_health(mut words: impl Iterator<Item = OsString>) -> Result<Command, UsageError> {
    match words.next() {
        None => Ok(Command::Health),
        Some(word) if word == "-h" || word == "--help" => Ok(Command::Print(USAGE.to_owned())),
        Some(word) => Err(unknown(&word, USAGE)),
    }
}

fn parse_routes(mut words: impl Iterator<Item = OsString>) -> Result<Command, UsageError> {
    match words.next() {
        None => return Ok(Command::Routes(RoutesCommand::Table)),
        Some(word) if word == "explain" => {}
        Some(word) if word == "-h" || word == "--help" => {
            return Ok(Command::Print(USAGE.to_owned()));
        }
        Some(word) => return Err(unknown(&word, USAGE)),
    }
    let topics: Result<Vec<_>, _> = words.map(OsString::into_string).collect();
    let error = |what: String| UsageError { what, usage: USAGE };
    let topics = topics.map_err(|word| error(format!("{} is not UTF-8", word.display())))?;
    if topics.is_empty() {
        return Err(error("`routes explain` needs a topic".to_owned()));
    }
    Ok(Command::Routes(RoutesCommand::Explain(topics)))
}

fn parse_spool(mut words: impl Iterator<Item = OsString>) -> Result<Command, UsageError> {
    let error = |what: &str| UsageError {
        what: what.to_owned(),
        usage: SPOOL_USAGE,
    };
    let tool = words
        .next()
        .ok_or_else(|| error("`spool` needs the name of a tool"))?;
    let mut command = SpoolCommand {
        tool: match tool.to_str() {
            Some("inspect") => SpoolTool::Inspect,
            Some("verify") => SpoolTool::Verify,
            Some("export") => SpoolTool::Export { all: false },
            Some("-h" | "--help") => return Ok(Command::Print(SPOOL_USAGE.to_owned())),
            _ => return Err(unknown(&tool, SPOOL_USAGE)),
        },
        data_dir: None,
    };
    while let Some(word) = words.next() {
        match (word.to_str(), &mut command.tool) {
            (Some("-h" | "--help"), _) => return Ok(Command::Print(SPOOL_USAGE.to_owned())),
            (Some("--all"), SpoolTool::Export { all }) => *all = true,
            _ => {
                let directory = match word.as_bytes().strip_prefix(b"--data-dir") {
                    Some(b"") => words.next().unwrap_or_default(),
                    Some([b'=', value @ ..]) => OsString::from_vec(value.to_vec()),
                    _ => return Err(unknown(&word, SPOOL_USAGE)),
                };
                if directory.is_empty() {
                    return Err(error("--data-dir needs a directory"));
                }
                command.data_dir = Some(PathBuf::from(directory));
            }
        }
    }
    Ok(Command::Spool(command))
}

fn unknown(word: &OsString, usage: &'static str) -> UsageError {
    UsageError {
        what: format!("unknown argument {}", word.display()),
        usage,
    }
}

/// Where a client on the same host finds what listens on `listen`: "every address" is none to connect to.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Prints `text` to stdout. That nobody reads it any more is no failure.
pub fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Command, UsageError> {
        Command::parse(words.split_whitespace().map(OsString::from))
    }

    fn spool(tool: SpoolTool, data_dir: Option<&str>) -> Command {
        Command::Spool(SpoolCommand {
            tool,
            data_dir: data_dir.map(PathBuf::from),
        })
    }

    #[test]
    fn without_arguments_it_is_the_relay() {
        assert_eq!(parse(""), Ok(Command::Relay));
    }

    #[test]
    fn health_takes_no_arguments() {
        assert_eq!(parse("health"), Ok(Command::Health));
        assert!(parse("health --port 1883").is_err());
    }

    #[test]
    fn tools_take_their_options_in_any_order_and_both_spellings() {
        let export = |all| SpoolTool::Export { all };
        assert_eq!(parse("spool inspect"), Ok(spool(SpoolTool::Inspect, None)));
        assert_eq!(
            parse("spool verify --data-dir /d"),
            Ok(spool(SpoolTool::Verify, Some("/d")))
        );
        assert_eq!(
            parse("spool export --all --data-dir=/d"),
            Ok(spool(export(true), Some("/d")))
        );
        assert_eq!(
            parse("spool export --data-dir=/d=e --all"),
            Ok(spool(export(true), Some("/d=e")))
        );
        assert_eq!(parse("spool export"), Ok(spool(export(false), None)));
    }

    #[test]
    fn the_status_is_for_people_or_for_programs() {
        let status = |json| Command::Status(StatusCommand { json });
        assert_eq!(parse("status"), Ok(status(false)));
        assert_eq!(parse("status --json"), Ok(status(true)));
    }

    #[test]
    fn routes_are_shown_or_explained_for_topics() {
        let explain = |topics: &[&str]| {
            let topics = topics.iter().map(ToString::to_string).collect();
            Ok(Command::Routes(RoutesCommand::Explain(topics)))
        };
        assert_eq!(parse("routes"), Ok(Command::Routes(RoutesCommand::Table)));
        assert_eq!(parse("routes explain a"), explain(&["a"]));
        assert_eq!(parse("routes explain a/b --c"), explain(&["a/b", "--c"]));
    }

    #[test]
    fn help_and_version_are_printed_wherever_they_are_asked_for() {
        for (words, part) in [
            ("--help", "run the relay"),
            ("-h", "run the relay"),
            ("--version", env!("CARGO_PKG_VERSION")),
            ("-V", "cloud-relay "),
            ("health --help", "health  "),
            ("spool --help", "spool export"),
            ("status --json -h", "STATUS_LISTEN"),
            ("spool verify --data-dir /d --help", "spool export"),
        ] {
            let Ok(Command::Print(text)) = parse(words) else {
                panic!("{words}");
            };
            assert!(text.contains(part), "{words}: {text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named_and_the_usage_shown() {
        for (words, part) in [
            ("spol", "spol"),
            ("--verbose", "--verbose"),
            ("status --jason", "--jason"),
            ("spool", "name of a tool"),
            ("routes explain", "needs a topic"),
            ("routes sensors", "sensors"),
            ("spool mend", "mend"),
            ("spool verify --all", "--all"),
            ("spool verify --data-dirs=/d", "--data-dirs=/d"),
            ("spool verify --data-dir", "needs a directory"),
            ("spool verify --data-dir=", "needs a directory"),
            ("spool verify /data", "/data"),
        ] {
            let text = parse(words).unwrap_err().to_string();
            assert!(text.contains(part) && text.contains("Usage:"), "{text}");
        }
    }

    #[test]
    fn a_directory_need_not_be_utf8() {
        let words = ["spool", "verify"].map(OsString::from);
        let option = OsString::from_vec(b"--data-dir=/d\xFF".to_vec());
        let Ok(Command::Spool(command)) = Command::parse(words.into_iter().chain([option])) else {
            panic!("not understood");
        };
        assert_eq!(command.data_dir.unwrap().as_os_str().as_bytes(), b"/d\xFF");
    }
}
