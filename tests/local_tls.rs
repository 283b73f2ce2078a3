//! The local broker over TLS, with and without client certificates: mosquitto's and paho's clients.

mod common;

use cloud_relay_sandbox::ca::{CertificateAuthority, KeyFormat};
use cloud_relay_sandbox::port::ReservedPort;
use cloud_relay_sandbox::site::{PATIENCE, Site};
use tempfile::TempDir;

use common::{PYTHON, RELAY, mosquitto_pub, mosquitto_sub, pem, require_tools, run, start};

/// A relay that listens for TLS, and the files of both sides.
struct TlsSite {
    site: Site,
    port: ReservedPort,
    directory: TempDir,
}

impl TlsSite {
    /// `with_client_ca`: clients need a certificate of the same authority.
    async fn start(with_client_ca: bool) -> Self {
        let directory = tempfile::tempdir().expect("the site is set up");
        let file = |name: &str| directory.path().join(name).display().to_string();
        let authority = CertificateAuthority::new("local").expect("the site is set up");
        let server = authority.issue_server().expect("the site is set up");
        let client = authority
            .issue_device("app", KeyFormat::Pkcs8)
            .expect("the site is set up");
        std::fs::write(file("ca.pem"), authority.root_pem()).expect("the site is set up");
        std::fs::write(file("cert.pem"), pem("CERTIFICATE", &server.certificate))
            .expect("the site is set up");
        let key = pem("PRIVATE KEY", server.private_key.secret_der());
        std::fs::write(file("key.pem"), key).expect("the site is set up");
        std::fs::write(file("client.pem"), client.certificate_pem).expect("the site is set up");
        std::fs::write(file("client-key.pem"), client.private_key_pem).expect("the site is set up");

        let port = ReservedPort::new().expect("the site is set up");
        let site = Site::new(RELAY).await.expect("the site is set up");
        let client_ca = if with_client_ca {
            file("ca.pem")
        } else {
            String::new()
        };
        let environment = site.environment_with([
            ("LOCAL_MQTTS_LISTEN", &port.addr().to_string()),
            ("LOCAL_MQTTS_CERT_PATH", &file("cert.pem")),
            ("LOCAL_MQTTS_KEY_PATH", &file("key.pem")),
            ("LOCAL_MQTTS_CLIENT_CA_PATH", &client_ca),
            ("LOCAL_MQTT_USERNAME", "app"),
            ("LOCAL_MQTT_PASSWORD", "geheim"),
        ]);
        site.start_with(&environment)
            .await
            .expect("the site is set up");
        TlsSite {
            site,
            port,
            directory,
        }
    }

    fn file(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn port(&self) -> u16 {
        self.port.addr().port()
    }

    /// What a client of mosquitto's needs to get in.
    fn way_in(&self, version: &str, with_certificate: bool) -> Vec<String> {
        let mut words = [
            "-V",
            version,
            "-u",
            "app",
            "-P",
            "geheim",
            "-h",
            "localhost",
        ]
        .map(str::to_owned)
        .to_vec();
        words.extend(["--cafile".to_owned(), self.file("ca.pem")]);
        if with_certificate {
            words.extend(["--cert".to_owned(), self.file("client.pem")]);
            words.extend(["--key".to_owned(), self.file("client-key.pem")]);
        }
        words
    }

    /// Large messages go to another client and to the cloud.
    async fn carries(&self, with_certificate: bool) {
        const MESSAGE_BYTES: usize = 100_000;
        let payload = "x".repeat(MESSAGE_BYTES);
        std::fs::write(self.file("payload"), &payload).expect("the site is set up");
        for (nth, version) in ["311", "5"].into_iter().enumerate() {
            let way_in = self.way_in(version, with_certificate);
            let subscribe = ["-t", "sensors", "-q", "1", "-C", "1"].map(str::to_owned);
            let subscriber = mosquitto_sub(self.port(), &[&way_in[..], &subscribe].concat()).await;
            let publish = ["-t", "sensors", "-q", "1", "-f", &self.file("payload")];
            let publish = publish.map(str::to_owned);
            mosquitto_pub(self.port(), &[&way_in[..], &publish].concat()).await;
            subscriber
                .wait_for_exit(PATIENCE)
                .await
                .expect("the site is set up");
            let heard = subscriber.log().lines();
            assert!(heard.contains(&payload), "in {version}");
            let arrived = self.site.cloud().wait_for(nth + 1, PATIENCE).await;
            arrived.expect("the cloud gets it");
        }
    }

    async fn stays_out(&self, words: &[String]) {
        let port = self.port().to_string();
        let message = ["-p", &port, "-t", "sensors", "-q", "1", "-m", "x"].map(str::to_owned);
        let client = start("mosquitto_pub", &[&message[..], words].concat()).await;
        let status = client.wait_for_exit(PATIENCE).await.expect("an end");
        assert!(!status.success());
    }
}

#[tokio::test]
async fn mosquittos_clients_publish_and_subscribe_over_tls() {
    let tls = TlsSite::start(false).await;
    tls.carries(false).await;
    // The login is asked for here, too.
    let mut nameless = tls.way_in("311", false);
    nameless.drain(2..6);
    tls.stays_out(&nameless).await;
}

#[tokio::test]
async fn a_client_without_a_certificate_stays_out_where_one_is_asked_for() {
    let tls = TlsSite::start(true).await;
    tls.carries(true).await;
    tls.stays_out(&tls.way_in("311", false)).await;
    let log = tls.site.relay();
    let told = log.wait_for_log("its handshake failed", PATIENCE).await;
    told.expect("why is told");
}

#[tokio::test]
async fn paho_speaks_tls_with_a_client_certificate() {
    require_tools();
    let tls = TlsSite::start(true).await;
    let script = "\
import ssl, sys
import paho.mqtt.publish as publish
ca, cert, key, port = sys.argv[1:]
publish.single('sensors', 'x', qos=1, hostname='localhost', port=int(port),
    auth={'username': 'app', 'password': 'geheim'},
    tls={'ca_certs': ca, 'certfile': cert, 'keyfile': key})
";
    let files = [
        tls.file("ca.pem"),
        tls.file("client.pem"),
        tls.file("client-key.pem"),
    ];
    let port = tls.port().to_string();
    let mut words = vec!["-c", script];
    words.extend(files.iter().map(String::as_str));
    words.push(&port);
    run(PYTHON, &words).await;
    let arrived = tls.site.cloud().wait_for(1, PATIENCE).await;
    arrived.expect("the cloud gets it");
}

#[tokio::test]
async fn plain_text_at_the_port_for_tls_harms_nobody() {
    let tls = TlsSite::start(false).await;
    let words = ["-h", "localhost", "-u", "app", "-P", "geheim"].map(str::to_owned);
    tls.stays_out(&words).await;
    tls.carries(false).await;
}
