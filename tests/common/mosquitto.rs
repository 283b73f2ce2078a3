//! Debian's mosquitto as the cloud, over mutual TLS, with keys that OpenSSL made.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cloud_relay_sandbox::port::ReservedPort;
use cloud_relay_sandbox::process::{Environment, Process};
use cloud_relay_sandbox::site::{DEVICE_UUID, PATIENCE, environment};
use tempfile::TempDir;

use super::{mosquitto_pub, mosquitto_sub, run, start};

/// How a device's private key is written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Key {
    /// `BEGIN RSA PRIVATE KEY`, as AWS makes it.
    RsaPkcs1,
    /// `BEGIN PRIVATE KEY`.
    RsaPkcs8,
    /// `BEGIN EC PRIVATE KEY`.
    EcSec1,
}

impl Key {
    /// The first line of its file.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Key::RsaPkcs1 => "-----BEGIN RSA PRIVATE KEY-----",
            Key::RsaPkcs8 => "-----BEGIN PRIVATE KEY-----",
            Key::EcSec1 => "-----BEGIN EC PRIVATE KEY-----",
        }
    }
}

/// mosquitto, running.
pub(crate) struct MosquittoCloud {
    process: Process,
    port: ReservedPort,
    directory: TempDir,
}

impl MosquittoCloud {
    /// An authority, a server certificate, and mosquitto with them.
    pub(crate) async fn start() -> Self {
        Self::start_allowing(None).await
    }

    /// The same, with `rules` for who may do what, if there are any: lines of an ACL file.
    pub(crate) async fn start_allowing(rules: Option<&str>) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let port = ReservedPort::new().expect("a free port");
        let cloud = |process| MosquittoCloud {
            process,
            port,
            directory,
        };
        let cloud = cloud(Process::new("mosquitto", std::iter::empty::<String>()));
        cloud.make_authority().await;
        cloud.make_certificate("server", Key::RsaPkcs8).await;
        let template = include_str!("../peers/mosquitto_cloud.conf.template");
        let mut configuration = template
            .replace("@PORT@", &cloud.port().to_string())
            .replace("@DIR@", &cloud.file(""));
        if let Some(rules) = rules {
            cloud.write_rules(rules);
            let line = format!("\nacl_file {}\n", cloud.file("acl"));
            configuration.push_str(&line);
        }
        std::fs::write(cloud.file("cloud.conf"), configuration).expect("cloud.conf is written");
        let process = start("mosquitto", &["-c", &cloud.file("cloud.conf")]).await;
        process
            .wait_for_log(" running", PATIENCE)
            .await
            .expect("mosquitto starts");
        MosquittoCloud { process, ..cloud }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.addr().port()
    }

    /// What mosquitto says about connections and certificates.
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    fn write_rules(&self, rules: &str) {
        std::fs::write(self.file("acl"), rules).expect("the ACL file is written");
    }

    /// Lets other rules than the ones it was started with count from now on.
    pub(crate) async fn change_rules(&self, rules: &str) {
        self.write_rules(rules);
        let pid = self.process.pid().expect("mosquitto runs").to_string();
        run("kill", &["-HUP", &pid]).await;
    }

    fn file(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    async fn make_authority(&self) {
        let (key, certificate) = (self.file("ca.key"), self.file("ca.pem"));
        let made = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority";
        let files = ["-keyout", &key, "-out", &certificate];
        run(
            "openssl",
            &[made.split(' ').collect(), files.to_vec()].concat(),
        )
        .await;
    }

    /// A certificate for `name` and its key, as `name.pem` and `name.key`.
    async fn make_certificate(&self, name: &str, key: Key) {
        let [key_file, request, certificate, extensions] =
            ["key", "csr", "pem", "ext"].map(|ending| self.file(&format!("{name}.{ending}")));
        let (authority, authority_key) = (self.file("ca.pem"), self.file("ca.key"));
        std::fs::write(&extensions, "subjectAltName=DNS:localhost")
            .expect("extensions are written");
        let make_key = match key {
            Key::RsaPkcs1 => "genrsa -traditional -out",
            Key::RsaPkcs8 => "genrsa -out",
            Key::EcSec1 => "ecparam -name prime256v1 -genkey -noout -out",
        };
        let make_key: Vec<&str> = make_key.split(' ').chain([key_file.as_str()]).collect();
        run("openssl", &make_key).await;
        let subject = format!("/CN={name}");
        run(
            "openssl",
            &[
                "req", "-new", "-key", &key_file, "-subj", &subject, "-out", &request,
            ],
        )
        .await;
        let sign = "x509 -req -days 2 -CAcreateserial";
        let files = [
            ["-in", &request],
            ["-CA", &authority],
            ["-CAkey", &authority_key],
            ["-extfile", &extensions],
            ["-out", &certificate],
        ];
        run(
            "openssl",
            &[sign.split(' ').collect(), files.concat()].concat(),
        )
        .await;
    }

    /// The environment of a relay whose device has a key of this kind.
    pub(crate) async fn relay_environment(&self, key: Key) -> Environment {
        self.make_certificate("device", key).await;
        let read = |name: &str| std::fs::read_to_string(self.file(name)).expect("openssl wrote it");
        let private_key = read("device.key");
        assert!(private_key.starts_with(key.label()), "{key:?}");
        environment([
            ("BALENA_DEVICE_UUID", DEVICE_UUID),
            ("AWS_DATA_ENDPOINT", "localhost"),
            ("AWS_PORT", &self.port().to_string()),
            ("AWS_ROOT_CA_PATH", &self.file("ca.pem")),
            ("CLOUD_PUBLISH_RATE", "0"),
            ("CLOUD_BYTE_RATE", "0"),
            ("AWS_CERT", &STANDARD.encode(read("device.pem"))),
            ("AWS_PRIVATE_KEY", &STANDARD.encode(private_key)),
        ])
    }

    /// Debian's subscriber, subscribed over mutual TLS.
    pub(crate) async fn subscriber(&self, arguments: &[&str]) -> Process {
        let files = self.watcher().await;
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        mosquitto_sub(self.port(), &[files.as_slice(), arguments].concat()).await
    }

    /// Publishes over mutual TLS with Debian's client.
    pub(crate) async fn publish(&self, arguments: &[&str]) {
        let files = self.watcher().await;
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        mosquitto_pub(self.port(), &[files.as_slice(), arguments].concat()).await;
    }

    /// How Debian's clients get in, under a certificate of their own.
    async fn watcher(&self) -> Vec<String> {
        self.make_certificate("watcher", Key::RsaPkcs8).await;
        [
            ["--cafile", &self.file("ca.pem")],
            ["--cert", &self.file("watcher.pem")],
            ["--key", &self.file("watcher.key")],
            ["-h", "localhost"],
        ]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect()
    }
}
