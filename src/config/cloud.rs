//! Which cloud, and what it takes to talk to it.

use std::fmt;
use std::path::PathBuf;

use super::fault::Reading;
use super::raw::Raw;
use super::value;
use crate::routes::Rulebook;
use crate::secret::Secret;

/// `AWS_PORT`: MQTT over TLS. On 443 AWS expects ALPN `x-amzn-mqtt-ca`.
const AWS_PORT_DEFAULT: u16 = 8883;
/// `MESSAGING_HOST`.
const GCP_HOST_DEFAULT: &str = "mqtt.googleapis.com";
/// `GCP_TOKEN_LIFETIME`: default and longest, 24 hours in minutes.
const GCP_TOKEN_LIFETIME_MINUTES_MAX: u64 = 1_440;
/// `CONNECT_TIMEOUT_SEC`: longer waits hide a dead link.
const CONNECT_TIMEOUT_S_MAX: u64 = 600;

/// The clouds there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// AWS.
    Aws,
    /// Azure.
    Azure,
    /// Google, and ClearBlade, which took over its protocol.
    Gcp,
}

impl Provider {
    /// The value of `CLOUD_PROVIDER` in any case.
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_uppercase().as_str() {
            "AWS" => Ok(Provider::Aws),
            "AZURE" => Ok(Provider::Azure),
            "GCP" | "CLEARBLADE" => Ok(Provider::Gcp),
            _ => Err("AWS, AZURE or GCP (which stands for ClearBlade too)".to_owned()),
        }
    }

    /// `CLOUD_PROVIDER`, or what the other variables imply.
    pub(super) fn read(raw: &Raw, reading: &mut Reading) -> Self {
        let named = reading.parse(
            "CLOUD_PROVIDER",
            raw.cloud_provider.as_deref(),
            Provider::parse,
        );
        named.unwrap_or_else(|| Provider::detect(raw))
    }

    /// Whose rules topics must keep.
    pub(super) fn rulebook(self) -> Rulebook {
        match self {
            Provider::Aws => Rulebook::Aws,
            Provider::Azure | Provider::Gcp => Rulebook::Mqtt,
        }
    }

    /// What the other variables imply. Nothing implied is taken as AWS, the relay's main cloud.
    fn detect(raw: &Raw) -> Self {
        let google_function = || {
            let url = raw.provision_url.as_deref();
            url.is_some_and(|url| url.contains("cloudfunctions.net"))
        };
        if raw.aws_data_endpoint.is_some() {
            Provider::Aws
        } else if raw.azure_hub_host.is_some() {
            Provider::Azure
        } else if google_function() {
            Provider::Gcp
        } else {
            Provider::Aws
        }
    }

    /// As in `CLOUD_PROVIDER`.
    pub fn name(self) -> &'static str {
        match self {
            Provider::Aws => "AWS",
            Provider::Azure => "AZURE",
            Provider::Gcp => "GCP",
        }
    }

    /// What to say when the cloud's host name is unknown.
    pub(super) fn how_to_set_host(self) -> &'static str {
        match self {
            Provider::Aws => {
                "set AWS_DATA_ENDPOINT to the host name of your AWS IoT Core (xxxxxxxx-ats.iot.<region>.amazonaws.com)"
            }
            Provider::Azure => "set AZURE_HUB_HOST to the host name of your IoT hub",
            Provider::Gcp => "set MESSAGING_HOST to the host name of the message broker",
        }
    }
}

/// `PROVISION_KEY`: who makes the device's private key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyMaker {
    /// The cloud function, which stores it in balenaCloud.
    #[default]
    Cloud,
    /// The device, which keeps it in `DATA_DIR` and asks for a certificate by a signing request.
    Device,
}

impl KeyMaker {
    pub(super) fn read(raw: &Raw, provider: Provider, reading: &mut Reading) -> Self {
        let parse = |text: &str| match (text.to_ascii_lowercase().as_str(), provider) {
            ("cloud", _) => Ok(KeyMaker::Cloud),
            ("device", Provider::Aws) => Ok(KeyMaker::Device),
            ("device", _) => Err("cloud, for `device` works with AWS only".to_owned()),
            _ => Err("cloud or device".to_owned()),
        };
        // Hidden, for its name asks for a key to be pasted in.
        let maker = reading.parse_hidden("PROVISION_KEY", raw.provision_key.as_deref(), parse);
        maker.unwrap_or_default()
    }

    /// As in `PROVISION_KEY`.
    pub fn name(self) -> &'static str {
        match self {
            KeyMaker::Cloud => "cloud",
            KeyMaker::Device => "device",
        }
    }
}

/// Which variables carry the provider's credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialVariables {
    /// All that the cloud function sets and the relay cannot do without.
    pub expected: &'static [&'static str],
    /// Those that are not set.
    pub missing: Vec<&'static str>,
}

impl CredentialVariables {
    pub(super) fn read(raw: &Raw, provider: Provider, key_maker: KeyMaker) -> Self {
        let (expected, values): (&'static [&'static str], Vec<&Option<String>>) = match provider {
            Provider::Aws if key_maker == KeyMaker::Device => (&["AWS_CERT"], vec![&raw.aws_cert]),
            Provider::Aws => (
                &["AWS_CERT", "AWS_PRIVATE_KEY"],
                vec![&raw.aws_cert, &raw.aws_private_key],
            ),
            Provider::Azure => (
                &["AZURE_CERT", "AZURE_PRIVATE_KEY"],
                vec![&raw.azure_cert, &raw.azure_private_key],
            ),
            Provider::Gcp => (
                &[
                    "GCP_CLIENT_PATH",
                    "GCP_DATA_TOPIC_ROOT",
                    "GCP_PRIVATE_KEY",
                    "GCP_PROJECT_ID",
                ],
                vec![
                    &raw.gcp_client_path,
                    &raw.gcp_data_topic_root,
                    &raw.gcp_private_key,
                    &raw.gcp_project_id,
                ],
            ),
        };
        let missing = expected
            .iter()
            .zip(values)
            .filter(|(_, value)| value.is_none());
        CredentialVariables {
            expected,
            missing: missing.map(|(name, _)| *name).collect(),
        }
    }

    /// Whether at least one of them is set.
    pub fn some_present(&self) -> bool {
        self.missing.len() < self.expected.len()
    }
}

/// Where to send to. The credentials in it may still be on their way. `Display` is for the
/// start-up log and shows no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloudConfig {
    /// AWS.
    Aws(AwsConfig),
    /// `AZURE_HUB_HOST`, a bare host name.
    Azure(String),
    /// `MESSAGING_HOST`, a bare host name.
    Gcp(String),
}

/// AWS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsConfig {
    /// `AWS_DATA_ENDPOINT`, a bare host name.
    pub endpoint: String,
    /// `AWS_PORT`. 443 means ALPN `x-amzn-mqtt-ca`.
    pub port: u16,
    /// `AWS_ROOT_CA_PATH`; `None` means the built-in roots. Not opened here.
    pub root_ca_path: Option<PathBuf>,
    /// `AWS_CERT`, base64 of PEM, not decoded here.
    pub cert: Option<Secret>,
    /// `AWS_PRIVATE_KEY`, base64 of PEM, not decoded here.
    pub private_key: Option<Secret>,
}

impl CloudConfig {
    /// Checks the variables of every cloud, so that a fault is seen whichever is chosen, and
    /// returns the chosen one if its host name is known.
    pub(super) fn read(raw: &Raw, provider: Provider, reading: &mut Reading) -> Option<Self> {
        let aws = AwsConfig::read(raw, reading);
        let azure = read_azure(raw, reading);
        let gcp = read_gcp(raw, reading);
        match provider {
            Provider::Aws => aws.map(CloudConfig::Aws),
            Provider::Azure => azure.map(CloudConfig::Azure),
            Provider::Gcp => Some(CloudConfig::Gcp(gcp)),
        }
    }
}

impl AwsConfig {
    fn read(raw: &Raw, reading: &mut Reading) -> Option<Self> {
        let endpoint = reading.parse(
            "AWS_DATA_ENDPOINT",
            raw.aws_data_endpoint.as_deref(),
            value::host,
        );
        let port = reading.parse("AWS_PORT", raw.aws_port.as_deref(), value::port);
        let root_ca_path = reading.parse(
            "AWS_ROOT_CA_PATH",
            raw.aws_root_ca_path.as_deref(),
            |path| Ok(PathBuf::from(path)),
        );
        let cert = reading.parse_hidden("AWS_CERT", raw.aws_cert.as_deref(), value::secret);
        let private_key = reading.parse_hidden(
            "AWS_PRIVATE_KEY",
            raw.aws_private_key.as_deref(),
            value::secret,
        );
        Some(AwsConfig {
            endpoint: endpoint?,
            port: port.unwrap_or(AWS_PORT_DEFAULT),
            root_ca_path,
            cert,
            private_key,
        })
    }
}

/// The host name for Azure, if it is set. The rest is checked and not kept: nothing is sent there yet.
fn read_azure(raw: &Raw, reading: &mut Reading) -> Option<String> {
    let host = reading.parse("AZURE_HUB_HOST", raw.azure_hub_host.as_deref(), value::host);
    reading.parse_hidden("AZURE_CERT", raw.azure_cert.as_deref(), value::secret);
    let private_key = raw.azure_private_key.as_deref();
    reading.parse_hidden("AZURE_PRIVATE_KEY", private_key, value::secret);
    host
}

/// The host name for Google or ClearBlade. The rest is checked and not kept: nothing is sent there yet.
fn read_gcp(raw: &Raw, reading: &mut Reading) -> String {
    let host = reading.parse("MESSAGING_HOST", raw.messaging_host.as_deref(), value::host);
    let lifetime_minutes = reading
        .parse(
            "GCP_TOKEN_LIFETIME",
            raw.gcp_token_lifetime.as_deref(),
            value::number(1..=GCP_TOKEN_LIFETIME_MINUTES_MAX, "minutes"),
        )
        .unwrap_or(GCP_TOKEN_LIFETIME_MINUTES_MAX);
    reading.parse(
        "GCP_RENEWAL_START",
        raw.gcp_renewal_start.as_deref(),
        value::number(
            0..=lifetime_minutes.saturating_sub(1),
            "minutes before expiry (less than GCP_TOKEN_LIFETIME)",
        ),
    );
    reading.parse(
        "CONNECT_TIMEOUT_SEC",
        raw.connect_timeout_sec.as_deref(),
        value::number(1..=CONNECT_TIMEOUT_S_MAX, "seconds"),
    );
    for (name, value) in [
        ("GCP_CLIENT_PATH", &raw.gcp_client_path),
        ("GCP_DATA_TOPIC_ROOT", &raw.gcp_data_topic_root),
        ("GCP_PROJECT_ID", &raw.gcp_project_id),
    ] {
        reading.parse(name, value.as_deref(), value::plain_text);
    }
    let private_key = raw.gcp_private_key.as_deref();
    reading.parse_hidden("GCP_PRIVATE_KEY", private_key, value::secret);
    host.unwrap_or_else(|| GCP_HOST_DEFAULT.to_owned())
}

impl fmt::Display for CloudConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloudConfig::Aws(aws) => {
                write!(f, "{}:{} roots=", aws.endpoint, aws.port)?;
                match &aws.root_ca_path {
                    Some(path) => write!(f, "{}", path.display()),
                    None => f.write_str("built-in"),
                }
            }
            CloudConfig::Azure(host) | CloudConfig::Gcp(host) => f.write_str(host),
        }
    }
}
