//! A relay on a file system of its own, publishers that note each acknowledgement, and the check at the end.

#![expect(
    clippy::unwrap_used,
    reason = "a test whose setting cannot be made fails"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use cloud_relay_sandbox::ca::{CertificateAuthority, KeyFormat};
use cloud_relay_sandbox::cloud::{Cloud, CloudOptions};
use cloud_relay_sandbox::ledger::{Audit, MessageId, audit};
use cloud_relay_sandbox::process::Environment;
use cloud_relay_sandbox::publisher::Publisher;
use cloud_relay_sandbox::relay::RelayProcess;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long anything may take that does not depend on the disk's speed.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);
/// How long [`Uplink::last`] waits for a message before it tries another one, and how often it does.
const LAST_PATIENCE: Duration = Duration::from_secs(3);
const LASTS_MAX: u64 = 20;
/// The device's UUID, as certificate and client id have it.
const UUID: &str = "7f3c1d2e9a";

/// Says, past the capture of test output, that a test did not run.
pub(super) fn skip(test: &str, why: &str) {
    use std::io::Write;
    let line = format!("\nSKIPPED {test}: {why}\n\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// Runs a program of the system; its error output if it fails.
pub(super) fn system(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {arguments:?}: {}", said.trim()))
}

/// A mounted file system, unmounted when dropped.
pub(super) struct Mount(PathBuf);

impl Mount {
    /// `mount ARGUMENTS AT`; the directory is made.
    pub(super) fn new(arguments: &[&str], at: &Path) -> Result<Self, String> {
        std::fs::create_dir_all(at).map_err(|e| e.to_string())?;
        let path = at.to_str().ok_or("a path that is not UTF-8")?;
        system("mount", &[arguments, &[path]].concat())?;
        Ok(Mount(at.to_owned()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let path = self.0.display().to_string();
        // A process that is still ending may hold it: then it goes when that has ended.
        let unmounted = system("umount", &[&path]).or_else(|_| system("umount", &["-l", &path]));
        if let Err(e) = unmounted {
            eprintln!("{e}");
        }
    }
}

/// A cloud that is down until [`Cloud::resume`] is called, and what a relay needs to reach it.
pub(super) struct Uplink {
    pub(super) cloud: Cloud,
    root: PathBuf,
    certificate: String,
    private_key: String,
}

impl Uplink {
    pub(super) async fn new(directory: &Path) -> Self {
        let authority = Arc::new(CertificateAuthority::new("test root").unwrap());
        let root = directory.join("root.pem");
        authority.write_root(&root).unwrap();
        let device = authority.issue_device(UUID, KeyFormat::Pkcs8).unwrap();
        let cloud = Cloud::start(CloudOptions::new(authority)).await.unwrap();
        cloud.stop().await.expect("the cloud stops");
        Uplink {
            cloud,
            root,
            certificate: device.certificate_base64(),
            private_key: device.private_key_base64(),
        }
    }

    /// What a relay with its data in `data_dir` finds in its environment.
    pub(super) fn environment(&self, data_dir: &Path) -> Environment {
        [
            ("DATA_DIR", data_dir.display().to_string()),
            ("AWS_DATA_ENDPOINT", "localhost".to_owned()),
            ("CLOUD_PUBLISH_RATE", "0".to_owned()),
            ("CLOUD_BYTE_RATE", "0".to_owned()),
            ("AWS_PORT", self.cloud.port().to_string()),
            ("AWS_ROOT_CA_PATH", self.root.display().to_string()),
            ("AWS_CERT", self.certificate.clone()),
            ("AWS_PRIVATE_KEY", self.private_key.clone()),
            ("BALENA_DEVICE_UUID", UUID.to_owned()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }

    /// Publishes one more message to `relay` and waits for it in the cloud, and another one if that is given up
    /// for want of room. Order is kept: once it is there, nothing that came before it is in the spool any more.
    /// Returns all of them.
    pub(super) async fn last(&self, relay: &RelayProcess) -> Vec<MessageId> {
        let mut connection = (Publisher::connect(relay.listen_addr(), "last").await).unwrap();
        let mut sent = Vec::new();
        for seq in 0..LASTS_MAX {
            let id = MessageId {
                publisher: u32::MAX,
                seq,
            };
            let acknowledged = connection.publish("sensors", &payload(id, 0), 1).await;
            acknowledged.unwrap();
            sent.push(id);
            let arrived = self.cloud.wait_for_messages(&[id], LAST_PATIENCE).await;
            if arrived.is_ok() {
                return sent;
            }
        }
        panic!("{LASTS_MAX} messages were acknowledged and none arrived");
    }

    /// Waits until all of `expected` have arrived, or until nothing more comes.
    pub(super) async fn audit(&self, expected: &[MessageId]) -> Audit {
        loop {
            let received = self.cloud.received();
            let payloads = received.iter().map(|received| received.payload.as_ref());
            let found = audit(expected.iter().copied(), payloads);
            let more = self.cloud.wait_for(received.len() + 1, PATIENCE);
            if found.missing.is_empty() || more.await.is_err() {
                return found;
            }
        }
    }
}

/// A payload of `size` bytes, or more if the id takes more.
fn payload(id: MessageId, size: usize) -> Vec<u8> {
    let mut payload = Vec::with_capacity(size);
    id.write_to(&mut payload);
    payload.push(b'}');
    payload.resize(size.max(payload.len()), b' ');
    payload
}

/// The relay's program, not started.
pub(super) async fn relay() -> RelayProcess {
    let program = env!("CARGO_BIN_EXE_cloud-relay");
    RelayProcess::new(program).unwrap()
}

/// Publishers that each wait for an acknowledgement before they go on.
pub(super) struct Publishers {
    acknowledged: watch::Receiver<Vec<MessageId>>,
    tasks: JoinSet<()>,
}

impl Publishers {
    /// `count` publishers of `messages` messages of `size` bytes each.
    pub(super) fn start(relay: &RelayProcess, count: u32, messages: u64, size: usize) -> Self {
        let (sender, acknowledged) = watch::channel(Vec::new());
        let mut tasks = JoinSet::new();
        let broker = relay.listen_addr();
        for publisher in 0..count {
            let sender = sender.clone();
            tasks.spawn(async move {
                let client_id = format!("publisher-{publisher}");
                let mut connection = Publisher::connect(broker, &client_id).await.unwrap();
                for seq in 0..messages {
                    let id = MessageId { publisher, seq };
                    let payload = payload(id, size);
                    let qos = if seq.is_multiple_of(4) { 2 } else { 1 };
                    if connection.publish("sensors", &payload, qos).await.is_err() {
                        return;
                    }
                    sender.send_modify(|acknowledged| acknowledged.push(id));
                }
            });
        }
        Publishers {
            acknowledged,
            tasks,
        }
    }

    /// What is acknowledged so far.
    pub(super) fn acknowledged(&self) -> Vec<MessageId> {
        self.acknowledged.borrow().clone()
    }

    /// Waits until `count` messages are acknowledged.
    pub(super) async fn wait_for(&mut self, count: usize) {
        let enough = self.acknowledged.wait_for(|ids| ids.len() >= count);
        let reached = tokio::time::timeout(PATIENCE, enough).await;
        reached.expect("acknowledgements come").unwrap();
    }

    /// Waits until no acknowledgement has come for `silence`.
    pub(super) async fn wait_for_stall(&mut self, silence: Duration) {
        while let Ok(changed) = tokio::time::timeout(silence, self.acknowledged.changed()).await {
            changed.expect("the publishers have not ended");
        }
    }

    /// Waits until each has had its last acknowledgement.
    pub(super) async fn join(mut self) -> Vec<MessageId> {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        tokio::time::timeout(PATIENCE, all)
            .await
            .expect("the publishers come to their end");
        self.acknowledged()
    }
}
