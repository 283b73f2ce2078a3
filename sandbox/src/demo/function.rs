//! The cloud function of the demo: the real one with moto as AWS, where both are there, else the stand-in.

use std::sync::Arc;
use std::time::Duration;

use cloud_relay_sandbox::balena::Balena;
use cloud_relay_sandbox::balena::api::FLEET_SLUG;
use cloud_relay_sandbox::ca::{CertificateAuthority, KeyFormat};
use cloud_relay_sandbox::provision_endpoint::{Answer, EndpointOptions, ProvisionEndpoint};
use cloud_relay_sandbox::provision_function::{FunctionPrograms, ProvisionFunction};
use cloud_relay_sandbox::site::environment;

use super::voice::{Speaker, Voice};
use super::{DemoError, STEP_TIMEOUT, VARIABLES_PAUSE};

/// How long the stand-in lets the relay wait: time for a backlog.
const DELAY: Duration = Duration::from_secs(4);

/// The end of its line in the function's log.
const CREATED: &str = "device created";

/// See the module.
pub(super) enum CloudFunction {
    Real(Box<ProvisionFunction>),
    StandIn(ProvisionEndpoint),
}

impl CloudFunction {
    /// Starts the real one by `programs`, or else the stand-in. Neither answers before [`CloudFunction::work`].
    pub(super) async fn start(
        programs: Option<&FunctionPrograms>,
        balena: Arc<Balena>,
        authority: Arc<CertificateAuthority>,
        voice: &Voice,
    ) -> Result<Self, DemoError> {
        let Some(programs) = programs else {
            let endpoint = ProvisionEndpoint::start(EndpointOptions {
                authority,
                balena,
                key_format: KeyFormat::Pkcs8,
                pause_between_variables: VARIABLES_PAUSE,
            })
            .await?;
            endpoint.script(Answer::Work { delay: DELAY });
            voice.tell(&format!("cloud function, a stand-in: {}", endpoint.url()));
            return Ok(CloudFunction::StandIn(endpoint));
        };
        let settings = environment([("FLEETS", FLEET_SLUG)]);
        let function =
            ProvisionFunction::start(programs, balena, Some(authority), settings).await?;
        function.process.freeze()?;
        voice.tell(&format!(
            "AWS IoT Core's control plane (moto): {}",
            function.aws_url
        ));
        voice.tell(&format!("balenaCloud's API: {}", function.api.url()));
        voice.tell(&format!("cloud function, the real one: {}", function.url));
        Ok(CloudFunction::Real(Box::new(function)))
    }

    /// `PROVISION_URL`.
    pub(super) fn url(&self) -> String {
        match self {
            CloudFunction::Real(function) => function.url.clone(),
            CloudFunction::StandIn(endpoint) => endpoint.url(),
        }
    }

    /// How often the Supervisor re-creates the relay at least: the real one writes the two variables so soon after one
    /// another that once can be enough.
    pub(super) fn recreations_min(&self) -> u64 {
        match self {
            CloudFunction::Real(_) => 1,
            CloudFunction::StandIn(_) => 2,
        }
    }

    /// Lets it work, and tells what it is asked.
    pub(super) async fn work(&self, voice: &Voice) -> Result<(), DemoError> {
        match self {
            CloudFunction::Real(function) => {
                function.process.thaw()?;
                voice.tell("(it was held until now, so that a backlog comes together)");
                let line = function.process.wait_for_log(CREATED, STEP_TIMEOUT).await?;
                voice.line(Speaker::Endpoint, &line);
            }
            CloudFunction::StandIn(endpoint) => {
                endpoint.wait_for_requests(1, STEP_TIMEOUT).await?;
                for request in endpoint.requests() {
                    let asked = format!("{} {}", request.method, request.body);
                    voice.line(Speaker::Endpoint, &asked);
                }
                voice.tell(&format!("(this one takes {} s)", DELAY.as_secs()));
            }
        }
        Ok(())
    }
}
