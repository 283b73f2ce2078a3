//! The demo: the relay's first hour in half a minute, told as it happens.
//!
//! Every step is checked against the stand-ins, never against the relay's own words: what the relay
//! logs is only shown.

mod function;
mod sensor;
mod voice;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cloud_relay_sandbox::balena::{Balena, BalenaError, BalenaOptions, SupervisorEvent};
use cloud_relay_sandbox::ca::{CaError, CertificateAuthority};
use cloud_relay_sandbox::cloud::{Cloud, CloudError, CloudOptions, NotArrived, Received};
use cloud_relay_sandbox::ledger::MessageId;
use cloud_relay_sandbox::process::ProcessError;
use cloud_relay_sandbox::provision_endpoint::EndpointError;
use cloud_relay_sandbox::provision_function::{FunctionError, FunctionPrograms};
use cloud_relay_sandbox::relay::{RelayError, RelayProcess};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::function::CloudFunction;
use self::sensor::{Sensor, TOPIC};
use self::voice::{Speaker, Voice};

/// The device that the demo plays.
const DEVICE_UUID: &str = "5a6dbc0de0123456789abcdef0123456";
/// MQTT's registered port, taken if it is free.
const MQTT_PORT: u16 = 1883;
/// Where the relay's status page is by default, taken if it is free.
const STATUS_PORT: u16 = 9180;
/// How long each step may take before the demo has failed.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it takes to write the second variable: the relay is started with only one meanwhile.
const VARIABLES_PAUSE: Duration = Duration::from_millis(1_500);
/// Sensor messages before provisioning, shown live, and let through in an outage, before the story goes on.
const MESSAGES_A_SCENE: usize = 3;
/// Characters of a payload that are shown.
const PAYLOAD_CHARS_SHOWN: usize = 200;

/// What the demo shall do.
#[derive(Debug)]
pub(crate) struct DemoOptions {
    /// The relay's program.
    pub(crate) relay: PathBuf,
    /// The real cloud function, and moto.
    pub(crate) function: Option<FunctionPrograms>,
    /// Whether an outage is shown.
    pub(crate) outage: bool,
    /// Whether it ends after the story.
    pub(crate) once: bool,
}

/// Why the demo failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    #[error(transparent)]
    Authority(#[from] CaError),
    #[error(transparent)]
    Cloud(#[from] CloudError),
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error(transparent)]
    Function(#[from] FunctionError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Balena(#[from] BalenaError),
    #[error(transparent)]
    Relay(#[from] RelayError),
    #[error("cannot make a temporary directory: {0}")]
    TempDir(std::io::Error),
    #[error("cannot find a free port for the relay: {0}")]
    Port(std::io::Error),
    #[error("{0}")]
    Sensor(String),
    #[error("the cloud function has not written AWS_PRIVATE_KEY within {STEP_TIMEOUT:?}")]
    NoCredentials,
    #[error("it was interrupted before the end of the story")]
    Interrupted,
    #[error(transparent)]
    Missing(#[from] NotArrived),
}

/// Everything around the relay, and the relay.
struct Stage {
    voice: Voice,
    cloud: Arc<Cloud>,
    function: CloudFunction,
    balena: Arc<Balena>,
    relay: Arc<RelayProcess>,
    /// Prints what the parties do.
    tellers: JoinSet<()>,
    /// How many of the cloud's messages have been printed.
    printed: watch::Receiver<u64>,
    // last: it holds the root certificate that the relay reads
    _dir: TempDir,
}

/// Plays the demo until it is over or `stop` resolves; leaves no process and no directory.
pub(crate) async fn run(
    options: &DemoOptions,
    stop: impl Future<Output = ()>,
) -> Result<(), DemoError> {
    let voice = Voice::new();
    let stage = build(options, voice.clone()).await?;
    let told = tokio::select! {
        told = play(&stage, options) => told,
        () = stop => if options.once { Err(DemoError::Interrupted) } else { Ok(()) },
    };
    stage.strike().await;
    match &told {
        Ok(()) => voice.tell("Everything is stopped, temporary files are removed."),
        Err(_) => voice.tell("Stopped: the story did not come true."),
    }
    told
}

async fn build(options: &DemoOptions, voice: Voice) -> Result<Stage, DemoError> {
    voice.step("The world: everything that a device meets, on this machine");
    let dir = tempfile::Builder::new()
        .prefix("cloud-relay-demo-")
        .tempdir()
        .map_err(DemoError::TempDir)?;
    let authority = Arc::new(CertificateAuthority::new("Cloud Relay sandbox root")?);
    let root = dir.path().join("root.pem");
    authority.write_root(&root)?;
    let cloud = Arc::new(Cloud::start(CloudOptions::new(Arc::clone(&authority))).await?);
    voice.tell(&format!("cloud (MQTT over mutual TLS): {}", cloud.addr()));
    let balena = Arc::new(Balena::start(BalenaOptions::new(DEVICE_UUID)).await?);
    voice.tell(&format!("Supervisor: {}", balena.supervisor_address()));
    let programs = options.function.as_ref();
    let function = CloudFunction::start(programs, Arc::clone(&balena), authority, &voice).await?;
    for (name, value) in [
        ("PROVISION_URL", function.url()),
        ("AWS_DATA_ENDPOINT", "localhost".to_owned()),
        ("AWS_PORT", cloud.port().to_string()),
        ("AWS_ROOT_CA_PATH", root.display().to_string()),
    ] {
        balena.set_variable(name, &value);
    }
    let listen = local_address(MQTT_PORT, &voice).await?;
    let status = local_address(STATUS_PORT, &voice).await?;
    let relay = RelayProcess::listening_on(&options.relay, listen)?.with_status(status);
    let relay = Arc::new(relay);
    voice.tell(&format!(
        "the relay's status page, to look at meanwhile: http://{status}/"
    ));
    let (counter, printed) = watch::channel(0);
    let tellers = tellers(&voice, &cloud, &balena, &relay, counter);
    Ok(Stage {
        voice,
        cloud,
        function,
        balena,
        relay,
        tellers,
        printed,
        _dir: dir,
    })
}

/// `port` if it is free, another if not.
async fn local_address(port: u16, voice: &Voice) -> Result<SocketAddr, DemoError> {
    let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    if TcpListener::bind(wanted).await.is_ok() {
        return Ok(wanted);
    }
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let other = other
        .and_then(|listener| listener.local_addr())
        .map_err(DemoError::Port)?;
    voice.tell(&format!(
        "port {port} is taken; the relay will listen on {}",
        other.port()
    ));
    Ok(other)
}

/// Starts to print what the parties do, and to count the cloud's messages that are printed.
fn tellers(
    voice: &Voice,
    cloud: &Cloud,
    balena: &Balena,
    relay: &RelayProcess,
    printed: watch::Sender<u64>,
) -> JoinSet<()> {
    let mut tellers = JoinSet::new();
    let teller = voice.clone();
    let log = move |line: String| teller.line(Speaker::Relay, &line);
    tellers.spawn(retell(relay.log().follow(), log, |_| {}));
    let teller = voice.clone();
    let event = move |event: SupervisorEvent| teller.line(Speaker::Supervisor, &event.to_string());
    tellers.spawn(retell(balena.follow(), event, |_| {}));
    let teller = voice.clone();
    let message = move |message: Received| teller.line(Speaker::Cloud, &shown(&message));
    let count = move |more| printed.send_modify(|printed| *printed += more);
    tellers.spawn(retell(cloud.follow(), message, count));
    tellers
}

/// Prints what comes until the sender is gone; `count` hears of each item and of those missed.
async fn retell<T: Clone>(mut source: Receiver<T>, print: impl Fn(T), count: impl Fn(u64)) {
    loop {
        match source.recv().await {
            Ok(item) => {
                print(item);
                count(1);
            }
            Err(RecvError::Lagged(missed)) => count(missed),
            Err(RecvError::Closed) => return,
        }
    }
}

fn shown(message: &Received) -> String {
    let payload: String = String::from_utf8_lossy(&message.payload)
        .chars()
        .take(PAYLOAD_CHARS_SHOWN)
        .collect();
    format!("{} <- {payload}", message.topic)
}

async fn play(stage: &Stage, options: &DemoOptions) -> Result<(), DemoError> {
    let Stage { voice, .. } = stage;
    voice.step("The relay boots for the first time, without credentials");
    stage.balena.supervise(Arc::clone(&stage.relay)).await?;
    stage.relay.wait_until_listening(STEP_TIMEOUT).await?;

    voice.step(
        "A sensor publishes all the same: its messages are acknowledged, so they are on disk",
    );
    let sensor = Sensor::start(stage.relay.listen_addr(), voice.clone());
    sensor
        .wait_for_acked(MESSAGES_A_SCENE, STEP_TIMEOUT)
        .await
        .map_err(DemoError::Sensor)?;

    stage.provisioning().await?;
    let before: Vec<MessageId> = sensor.acked();

    voice.step("With credentials the relay connects, and the backlog drains");
    stage.arrived(&before).await?;
    voice.tell(&format!(
        "{0} of {0} messages published before provisioning have arrived",
        before.len()
    ));

    voice.step("From now on messages arrive as they are published");
    let live = sensor.acked().len() + MESSAGES_A_SCENE;
    stage.acked_and_arrived(&sensor, live).await?;
    if options.outage {
        stage.outage(&sensor).await?;
    }
    if options.once {
        voice.tell("The story came true.");
        return Ok(());
    }
    voice.step("Your turn");
    voice.tell("In another terminal, send a message of your own and see it arrive here:");
    voice.tell("");
    voice.tell(&format!(
        "    mosquitto_pub -h 127.0.0.1 -p {} -t {TOPIC} -q 1 -m 'hello'",
        stage.relay.listen_addr().port()
    ));
    voice.tell("");
    voice.tell("Ctrl-C ends everything.");
    std::future::pending().await
}

impl Stage {
    /// The relay asks, the cloud function works, the Supervisor re-creates.
    async fn provisioning(&self) -> Result<(), DemoError> {
        let voice = &self.voice;
        voice.step("The relay provisions itself");
        let mut events = self.balena.follow();
        self.function.work(voice).await?;
        let written = async {
            while let Ok(event) = events.recv().await {
                if matches!(&event, SupervisorEvent::Changed(name) if name == "AWS_PRIVATE_KEY") {
                    voice.line(
                        Speaker::Endpoint,
                        "made a certificate, wrote AWS_CERT and AWS_PRIVATE_KEY into balenaCloud",
                    );
                    return;
                }
            }
        };
        let recreations = self.function.recreations_min();
        let recreated = self.balena.wait_for_recreations(recreations, STEP_TIMEOUT);
        let (recreated, written) = tokio::join!(recreated, timeout(STEP_TIMEOUT, written));
        recreated?;
        written.map_err(|_| DemoError::NoCredentials)?;
        self.relay.wait_until_listening(STEP_TIMEOUT).await?;
        Ok(())
    }

    async fn outage(&self, sensor: &Sensor) -> Result<(), DemoError> {
        self.voice
            .step("The cloud goes away; the sensor does not notice");
        self.cloud.stop().await?;
        let lost_sight = sensor.acked().len() + MESSAGES_A_SCENE;
        sensor
            .wait_for_acked(lost_sight, STEP_TIMEOUT)
            .await
            .map_err(DemoError::Sensor)?;
        self.voice
            .step("The cloud comes back, and so do the messages");
        self.cloud.resume().await?;
        self.acked_and_arrived(sensor, lost_sight).await?;
        self.voice.tell(&format!(
            "{0} of {0} acknowledged messages have arrived",
            sensor.acked().len()
        ));
        Ok(())
    }

    /// Waits for `count` acknowledged messages and then for the arrival of all of them.
    async fn acked_and_arrived(&self, sensor: &Sensor, count: usize) -> Result<(), DemoError> {
        sensor
            .wait_for_acked(count, STEP_TIMEOUT)
            .await
            .map_err(DemoError::Sensor)?;
        self.arrived(&sensor.acked()).await
    }

    /// Waits until each of `expected` is in the cloud's books, and printed.
    async fn arrived(&self, expected: &[MessageId]) -> Result<(), DemoError> {
        self.cloud.wait_for_messages(expected, STEP_TIMEOUT).await?;
        let all = u64::try_from(self.cloud.received_count()).unwrap_or(u64::MAX);
        // fails only if the teller has ended; then there is nothing to wait for
        self.printed
            .clone()
            .wait_for(|printed| *printed >= all)
            .await
            .ok();
        Ok(())
    }

    /// Ends everything in order.
    async fn strike(mut self) {
        self.balena.end_supervision().await;
        if self.relay.process().is_running() {
            match self.relay.terminate().await {
                Ok(stopped) => self.voice.tell(&format!(
                    "relay stopped by {} after {} ms",
                    if stopped.killed { "SIGKILL" } else { "SIGTERM" },
                    stopped.took.as_millis()
                )),
                // Ctrl-C in a terminal reaches the relay too, so it may have ended just now
                Err(_) => self.voice.tell("relay stopped"),
            }
        }
        self.tellers.shutdown().await;
    }
}
