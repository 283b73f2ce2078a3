use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, CertificateSigningRequestParams, KeyPair};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::credentials::DeviceKey;
use crate::dead_letters::DeadLetters;
use crate::local::{LocalBroker, Options};
use crate::routes::Routes;
use crate::spool;
use crate::store::Store;

/// Longer than any wait for the next try; the clock is the test's.
const PATIENCE: Duration = Duration::from_mins(2);

struct Running {
    state: StateBoard,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), AppError>>,
}

impl Running {
    /// What leads to the cloud, with `variables` beside those of any device.
    fn start(dir: &Path, variables: &[(&str, &str)]) -> Self {
        let always = [
            ("DATA_DIR", dir.to_str().unwrap()),
            ("AWS_DATA_ENDPOINT", "127.0.0.1"),
            ("AWS_PORT", "1"),
            ("BALENA_DEVICE_UUID", "c0ffee"),
        ];
        let variables = always.iter().chain(variables);
        let variables = variables.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let config = Config::from_vars(variables).unwrap();
        let (store, _) = Store::open(&dir.join("spool"), spool::Options::default()).unwrap();
        let source = Source {
            store,
            routes: Arc::new(Routes::new("a", "b")),
            dead_letters: DeadLetters::new(dir.join("letters"), config.dead_letters_bytes_max),
        };
        let state = StateBoard::new(State::Connecting);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn({
            let (state, shutdown) = (state.clone(), shutdown.clone());
            let publisher = LocalBroker::new(Options::default()).publisher(shutdown.clone());
            async move { run(&config, publisher, source, state, shutdown).await }
        });
        Running {
            state,
            shutdown,
            task,
        }
    }

    /// Waits for a state with this name, and returns how a person reads it.
    async fn until(&self, name: &str) -> String {
        let mut states = self.state.subscribe();
        let reached = states.wait_for(|state| state.name() == name);
        let Ok(state) = timeout(PATIENCE, reached).await else {
            panic!("not {name}, but {}", self.state.current());
        };
        state.unwrap().to_string()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// A certificate and its key, as the cloud function stores them.
fn pair() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::default().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[tokio::test(start_paused = true)]
async fn a_file_of_roots_that_is_not_there_yet_or_half_written_is_waited_for() {
    let dir = TempDir::new().unwrap();
    let roots = dir.path().join("roots.pem");
    let (cert, key) = pair();
    for half in [None, Some(cert.split_at(60).0)] {
        if let Some(half) = half {
            std::fs::write(&roots, half).unwrap();
        }
        let running = Running::start(
            dir.path(),
            &[
                ("AWS_CERT", &cert),
                ("AWS_PRIVATE_KEY", &key),
                ("AWS_ROOT_CA_PATH", roots.to_str().unwrap()),
            ],
        );
        let state = running.until("misconfigured").await;
        assert!(state.contains("roots.pem"), "{state}");
        assert!(state.ends_with("; tried again every minute"), "{state}");
        std::fs::write(&roots, &cert).unwrap();
        running.until("disconnected").await;
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_key_that_the_disk_does_not_give_is_tried_again() {
    let dir = TempDir::new().unwrap();
    let key = DeviceKey::load_or_create(dir.path()).unwrap();
    let cert = certificate_for(&key);
    let (path, aside) = (dir.path().join("device-key.pem"), dir.path().join("aside"));
    std::fs::rename(&path, &aside).unwrap();
    std::fs::create_dir(&path).unwrap();
    let variables = [("AWS_CERT", cert.as_str()), ("PROVISION_KEY", "device")];
    let running = Running::start(dir.path(), &variables);
    let state = running.until("misconfigured").await;
    assert!(state.contains("cannot read the device's key"), "{state}");
    assert!(state.ends_with("; tried again every minute"), "{state}");
    std::fs::remove_dir(&path).unwrap();
    std::fs::rename(&aside, &path).unwrap();
    running.until("disconnected").await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_value_that_cannot_be_used_is_not_tried_again() {
    let dir = TempDir::new().unwrap();
    let (cert, _) = pair();
    let variables = [("AWS_CERT", cert.as_str()), ("AWS_PRIVATE_KEY", "%")];
    let running = Running::start(dir.path(), &variables);
    let state = running.until("misconfigured").await;
    assert!(state.contains("AWS_PRIVATE_KEY does not decode"), "{state}");
    assert!(!state.contains("tried again"), "{state}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_device_whose_own_key_is_set_aside_is_told_so_and_does_not_ask_for_another() {
    let dir = TempDir::new().unwrap();
    let key = DeviceKey::load_or_create(dir.path()).unwrap();
    let cert = certificate_for(&key);
    let url = ("PROVISION_URL", "http://127.0.0.1:1");
    let running = Running::start(dir.path(), &[("AWS_CERT", &cert), url]);
    let state = running.until("misconfigured").await;
    for part in [
        "set PROVISION_KEY=device",
        "or remove AWS_CERT",
        "device-key.pem",
    ] {
        assert!(state.contains(part), "{state}");
    }
    running.stop().await;

    let (foreign, _) = pair();
    let running = Running::start(dir.path(), &[("AWS_CERT", &foreign), url]);
    running.until("awaiting-credentials").await;
    running.stop().await;
}

/// What the cloud answers to the device's signing request.
fn certificate_for(key: &DeviceKey) -> String {
    let request = CertificateSigningRequestParams::from_pem(&key.csr("c0ffee").unwrap()).unwrap();
    let issuer_key = KeyPair::generate().unwrap();
    let issuer = rcgen::Issuer::new(CertificateParams::default(), issuer_key);
    request.signed_by(&issuer).unwrap().pem()
}
