//! What the words behind `dead-letters` ask for. Pure.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use super::{Action, DeadLettersCommand, Which};
use crate::cli::{Command, UsageError, unknown};

const USAGE: &str = "\
Usage: cloud-relay dead-letters list   [--json]      what the cloud never takes, and why
       cloud-relay dead-letters show   ID [--raw]    one of them; --raw: its payload only, as it came
       cloud-relay dead-letters replay ID…|--all     publish them to the running relay again
       cloud-relay dead-letters drop   ID…|--all     remove them for good

The relay may run, and for `replay` must. An ID is one that `list` shows, or its number alone.
Run `replay` with the relay's own variables, for example inside its container: a letter whose
topic has no route now is kept. Each is removed when the relay has acknowledged it.

  --data-dir DIR         the relay's data directory; otherwise DATA_DIR, otherwise /data
  --broker ADDRESS:PORT  where `replay` publishes; otherwise LOCAL_MQTT_LISTEN

Exit codes: 0 done, 1 some could not be read, have no route, or were refused; 64 wrong usage,
66 no such letter, 69 no relay takes them, 74 the system refused, 77 the login was refused.
";

/// Understands the words behind `dead-letters`.
pub(in crate::cli) fn parse(
    mut words: impl Iterator<Item = OsString>,
) -> Result<Command, UsageError> {
    let error = |what: &str| UsageError {
        what: what.to_owned(),
        usage: USAGE,
    };
    let verb = words
        .next()
        .ok_or_else(|| error("`dead-letters` needs to know what to do"))?;
    let verb = match verb.to_str() {
        Some("-h" | "--help") => return Ok(Command::Print(USAGE.to_owned())),
        Some(known @ ("list" | "show" | "replay" | "drop")) => known,
        _ => return Err(unknown(&verb, USAGE)),
    };
    let mut said = Said::default();
    while let Some(word) = words.next() {
        if word == "-h" || word == "--help" {
            return Ok(Command::Print(USAGE.to_owned()));
        }
        if !said.take(verb, &word, &mut words).map_err(error)? {
            return Err(unknown(&word, USAGE));
        }
    }
    let Said {
        ids, all, broker, ..
    } = said;
    let action = match (verb, ids.as_slice()) {
        ("list", []) => Action::List { json: said.json },
        ("show", [id]) => Action::Show {
            id: id.clone(),
            raw: said.raw,
        },
        ("show", _) => return Err(error("`show` needs one ID")),
        (_, []) if !all => return Err(error("which ones? Name their IDs, or --all")),
        (_, [_, ..]) if all => return Err(error("either IDs or --all")),
        _ => {
            let which = if all { Which::All } else { Which::These(ids) };
            match verb {
                "replay" => Action::Replay { which, broker },
                _ => Action::Drop { which },
            }
        }
    };
    Ok(Command::DeadLetters(DeadLettersCommand {
        action,
        data_dir: said.data_dir,
    }))
}

/// What was said so far.
#[derive(Default)]
struct Said {
    json: bool,
    raw: bool,
    all: bool,
    ids: Vec<String>,
    data_dir: Option<PathBuf>,
    broker: Option<SocketAddr>,
}

impl Said {
    /// Takes one word, with its value from `more` if it has one; `false` if `verb` does not know it.
    fn take(
        &mut self,
        verb: &str,
        word: &OsString,
        more: &mut impl Iterator<Item = OsString>,
    ) -> Result<bool, &'static str> {
        match (word.to_str(), verb) {
            (Some("--json"), "list") => self.json = true,
            (Some("--raw"), "show") => self.raw = true,
            (Some("--all"), "replay" | "drop") => self.all = true,
            (Some(id), "show" | "replay" | "drop") if !id.starts_with('-') => {
                self.ids.push(id.to_owned());
            }
            _ => {
                if let Some(directory) = value_of("--data-dir", word, more) {
                    if directory.is_empty() {
                        return Err("--data-dir needs a directory");
                    }
                    self.data_dir = Some(PathBuf::from(directory));
                } else if verb == "replay"
                    && let Some(address) = value_of("--broker", word, more)
                {
                    let address = address.to_str().and_then(|address| address.parse().ok());
                    self.broker = Some(address.ok_or("--broker needs an IP address and a port")?);
                } else {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

/// The value of the option `name` if `word` is that, as `--name value` or `--name=value`.
fn value_of(
    name: &str,
    word: &OsString,
    more: &mut impl Iterator<Item = OsString>,
) -> Option<OsString> {
    match word.as_bytes().strip_prefix(name.as_bytes())? {
        [] => Some(more.next().unwrap_or_default()),
        [b'=', value @ ..] => Some(OsString::from_vec(value.to_vec())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Command, String> {
        let words = words.split_whitespace().map(OsString::from);
        super::parse(words).map_err(|error| error.to_string())
    }

    fn command(action: Action, data_dir: Option<&str>) -> Command {
        Command::DeadLetters(DeadLettersCommand {
            action,
            data_dir: data_dir.map(PathBuf::from),
        })
    }

    #[test]
    fn each_verb_takes_its_options_in_any_order() {
        let these = |ids: &[&str]| Which::These(ids.iter().map(ToString::to_string).collect());
        for (words, action, data_dir) in [
            ("list", Action::List { json: false }, None),
            (
                "list --data-dir=/d --json",
                Action::List { json: true },
                Some("/d"),
            ),
            (
                "show --raw 7",
                Action::Show {
                    id: "7".to_owned(),
                    raw: true,
                },
                None,
            ),
            (
                "replay 7 --broker 10.0.0.1:1883 8 --data-dir /d",
                Action::Replay {
                    which: these(&["7", "8"]),
                    broker: Some(([10, 0, 0, 1], 1883).into()),
                },
                Some("/d"),
            ),
            ("drop --all", Action::Drop { which: Which::All }, None),
        ] {
            assert_eq!(parse(words), Ok(command(action, data_dir)), "{words}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named_and_nothing_is_removed_by_a_slip() {
        for (words, part) in [
            ("", "what to do"),
            ("clear", "clear"),
            ("drop", "which ones"),
            ("replay", "which ones"),
            ("drop 7 --all", "either"),
            ("show", "one ID"),
            ("show 7 8", "one ID"),
            ("list 7", "unknown argument 7"),
            ("drop --json 7", "--json"),
            ("drop --broker=1.2.3.4:1 7", "--broker"),
            ("replay 7 --broker here", "an IP address and a port"),
            ("list --data-dir", "needs a directory"),
        ] {
            let text = parse(words).unwrap_err();
            assert!(text.contains(part) && text.contains("Usage:"), "{text}");
        }
        for words in ["--help", "drop --all --help"] {
            assert!(matches!(parse(words), Ok(Command::Print(_))), "{words}");
        }
    }
}
