//! No log may show a secret.

use cloud_relay_sandbox::balena::SUPERVISOR_API_KEY;
use cloud_relay_sandbox::process::Environment;
use cloud_relay_sandbox::relay::RelayProcess;

/// A token such as owners put into `PROVISION_URL`.
pub(crate) const TOKEN: &str = "tok3n-that-nobody-may-see";
/// Characters of a secret that no log line may hold: the rest would be guessed from them no sooner
/// than from nothing, but they prove that it was printed.
const REVEALING_CHARS: usize = 16;

/// Fails if a part of `secret` is in the relay's log, its lines taken together.
fn assert_hidden(relay: &RelayProcess, secret: &str) {
    let log = relay.log().lines().join("\n");
    assert!(!log.is_empty(), "a relay that says nothing proves nothing");
    let secret: Vec<char> = secret.chars().collect();
    for part in secret.windows(REVEALING_CHARS) {
        let part: String = part.iter().collect();
        assert!(!log.contains(&part), "{part:?} is in the log:\n{log}");
    }
}

/// Fails if anything secret in the relay's environment is in its log.
pub(crate) fn assert_no_secret(relay: &RelayProcess, environment: &Environment) {
    for name in ["AWS_PRIVATE_KEY", "AWS_CERT"] {
        if let Some(value) = environment.get(name) {
            assert_hidden(relay, value);
        }
    }
    assert_hidden(relay, TOKEN);
    assert_hidden(relay, SUPERVISOR_API_KEY);
}
