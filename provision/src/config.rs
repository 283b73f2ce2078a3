//! Environment → settings, all faults at once. Only `main` hands the environment in.
//!
//! AWS's own variables (`AWS_REGION`, credentials, `AWS_ENDPOINT_URL`) are read by its SDK.

use std::collections::BTreeMap;
use std::fmt;

use url::{Host, Url};

use crate::access::Access;
use crate::balena::ApiOptions;
use crate::secret::Secret;

/// Where balenaCloud's API is, unless `BALENA_API_URL` says otherwise.
const BALENA_API_URL: &str = "https://api.balena-cloud.com";
/// How long a token must be, in characters: short ones can be guessed over the network.
const TOKEN_CHARS_MIN: usize = 16;
/// What stands where bytes were not UTF-8.
const NOT_UTF8: char = char::REPLACEMENT_CHARACTER;

/// What the owner has set.
#[derive(Clone, Debug)]
pub struct Config {
    /// `AWS_IOT_POLICY`: the policy that each certificate gets.
    pub policy: String,
    /// `BALENA_API_URL` and `BALENA_API_KEY`.
    pub balena: ApiOptions,
    /// `PROVISION_TOKEN`, `FLEETS`, `ALLOW_DELETE`, `ALLOW_TEST`.
    pub access: Access,
}

/// Every variable that cannot be used, one a line. No value is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

/// The variables while they are read.
struct Reader<'a> {
    variables: &'a BTreeMap<String, String>,
    faults: Vec<String>,
}

impl Reader<'_> {
    /// A value without the white space around it; blank is absent.
    fn text(&mut self, name: &str) -> Option<String> {
        let value = self.variables.get(name)?.trim();
        if value.contains(NOT_UTF8) {
            self.faults.push(format!("{name}: expected text in UTF-8"));
        }
        (!value.is_empty()).then(|| value.to_owned())
    }

    fn required(&mut self, name: &str, what: &str) -> String {
        self.text(name).unwrap_or_else(|| {
            self.faults.push(format!("{name} is not set: {what}"));
            String::new()
        })
    }

    fn flag(&mut self, name: &str) -> bool {
        match self.text(name).as_deref() {
            None | Some("0" | "false") => false,
            Some("1" | "true") => true,
            Some(_) => {
                self.faults.push(format!("{name}: expected 1 or 0"));
                false
            }
        }
    }

    fn token(&mut self) -> Option<Secret> {
        let token = self.text("PROVISION_TOKEN")?;
        if token.chars().count() < TOKEN_CHARS_MIN {
            self.faults.push(format!(
                "PROVISION_TOKEN: expected at least {TOKEN_CHARS_MIN} characters; `openssl rand -hex 24` makes a good one"
            ));
        }
        Some(Secret::new(token))
    }

    /// Those that are listed. A list of none would let in all, as no list does.
    fn fleets(&mut self) -> Vec<String> {
        let Some(text) = self.text("FLEETS") else {
            return Vec::new();
        };
        let fleets = text.split(',').map(str::trim);
        let fleets = fleets.filter(|fleet| !fleet.is_empty()).map(str::to_owned);
        let fleets: Vec<_> = fleets.collect();
        if fleets.is_empty() {
            self.faults
                .push("FLEETS: expected at least one fleet; unset, it lets in all".to_owned());
        }
        fleets
    }

    fn api_url(&mut self) -> Url {
        let text = self.text("BALENA_API_URL");
        let text = text.as_deref().unwrap_or(BALENA_API_URL);
        match Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") => url,
            _ => {
                self.faults.push(
                    "BALENA_API_URL: expected an address such as https://api.balena-cloud.com"
                        .to_owned(),
                );
                Url::parse(BALENA_API_URL).expect("invariant: a constant address")
            }
        }
    }
}

impl Config {
    /// Reads the variables. A value with U+FFFD in it counts as not being UTF-8.
    pub fn read(variables: &BTreeMap<String, String>) -> Result<Self, ConfigErrors> {
        let mut reader = Reader {
            variables,
            faults: Vec::new(),
        };
        let policy = reader.required("AWS_IOT_POLICY", "the name of the policy for devices");
        let key = reader.required("BALENA_API_KEY", "a balenaCloud API key");
        reader.required(
            "AWS_REGION",
            "the region of AWS IoT Core, such as eu-central-1",
        );
        let config = Config {
            policy,
            balena: ApiOptions {
                url: reader.api_url(),
                key: Secret::new(key),
            },
            access: Access {
                token: reader.token(),
                fleets: reader.fleets(),
                delete: reader.flag("ALLOW_DELETE"),
                test: reader.flag("ALLOW_TEST"),
            },
        };
        if reader.faults.is_empty() {
            Ok(config)
        } else {
            Err(ConfigErrors(reader.faults))
        }
    }

    /// What the owner may not have meant, each in one line.
    pub fn warnings(&self) -> Vec<&'static str> {
        let anybody = "PROVISION_TOKEN is not set: whoever knows a device's UUID may register it";
        let exposed = "BALENA_API_URL is plain http: whoever is on the way can read BALENA_API_KEY; use https";
        let token = self.access.token.is_none().then_some(anybody);
        let url = is_exposed(&self.balena.url).then_some(exposed);
        token.into_iter().chain(url).collect()
    }
}

/// Whether requests to it can be read on networks of others: without TLS, and to a host that is not near.
fn is_exposed(url: &Url) -> bool {
    let is_near = url.host().is_some_and(|host| match host {
        Host::Domain(name) => {
            !name.contains('.')
                || name
                    .rsplit_once('.')
                    .is_some_and(|(_, last)| last == "local")
        }
        Host::Ipv4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        Host::Ipv6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    });
    url.scheme() == "http" && !is_near
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Config::read(&pairs.iter().map(pair).collect())
    }

    const LEAST: [(&str, &str); 3] = [
        ("AWS_IOT_POLICY", " cloud-relay\n"),
        ("BALENA_API_KEY", "key"),
        ("AWS_REGION", "eu-central-1"),
    ];

    #[test]
    fn the_old_functions_three_variables_are_enough() {
        let config = read(&LEAST).unwrap();
        assert_eq!(config.policy, "cloud-relay");
        assert_eq!(config.balena.url.as_str(), "https://api.balena-cloud.com/");
        let access = config.access;
        assert!(access.token.is_none() && access.fleets.is_empty());
        assert!(!access.delete && !access.test);
    }

    #[test]
    fn all_faults_are_reported_at_once_and_no_value_is_shown() {
        let errors = read(&[
            ("BALENA_API_KEY", " "),
            ("BALENA_API_URL", "sesame"),
            ("PROVISION_TOKEN", "sesame"),
            ("ALLOW_DELETE", "sesame"),
            ("FLEETS", " ,"),
        ]);
        let text = errors.unwrap_err().to_string();
        for name in [
            "AWS_IOT_POLICY",
            "BALENA_API_KEY",
            "AWS_REGION",
            "BALENA_API_URL",
            "PROVISION_TOKEN",
            "ALLOW_DELETE",
            "FLEETS",
        ] {
            assert!(text.contains(name), "{name}: {text}");
        }
        assert!(!text.contains("sesame"), "{text}");
    }

    #[test]
    fn what_lets_in_anybody_or_shows_the_key_is_warned_of() {
        let warnings = |pairs: &[(&str, &str)]| {
            let config = read(&[&LEAST[..], pairs].concat()).unwrap();
            config.warnings().join("\n")
        };
        let token = ("PROVISION_TOKEN", "0123456789abcdef");
        assert!(warnings(&[]).starts_with("PROVISION_TOKEN is not set"));
        assert_eq!(warnings(&[token]), "");
        for (url, is_far) in [
            ("http://balena.example.com", true),
            ("http://8.8.8.8", true),
            ("http://[2001:db8::1]", true),
            ("https://balena.example.com", false),
            ("http://localhost:8080", false),
            ("http://balena-api", false),
            ("http://openbalena.local", false),
            ("http://127.0.0.1:8080", false),
            ("http://10.0.0.7", false),
            ("http://[::1]", false),
        ] {
            let text = warnings(&[token, ("BALENA_API_URL", url)]);
            assert_eq!(text.starts_with("BALENA_API_URL"), is_far, "{url}: {text}");
        }
    }

    #[test]
    fn access_is_read() {
        let more = [
            ("PROVISION_TOKEN", "0123456789abcdef"),
            ("FLEETS", "acme/weather, 42,,"),
            ("ALLOW_DELETE", "1"),
            ("ALLOW_TEST", "true"),
        ];
        let access = read(&[&LEAST[..], &more].concat()).unwrap().access;
        assert_eq!(access.fleets, ["acme/weather", "42"]);
        assert!(access.delete && access.test);
        assert_eq!(access.check_token(Some("0123456789abcdef")), Ok(()));
    }
}
