//! The local broker with users: foreign clients of both versions, the relay's own tools, and what the log says.

mod common;

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use cloud_relay_sandbox::ca::CertificateAuthority;
use cloud_relay_sandbox::process::Process;
use cloud_relay_sandbox::relay::program;
use cloud_relay_sandbox::site::{PATIENCE, Site};
use tempfile::TempDir;

use common::{RELAY, mosquitto_pub, pem, run, start};

/// A user in the environment.
const LOGIN: [(&str, &str); 2] = [
    ("LOCAL_MQTT_USERNAME", "app"),
    ("LOCAL_MQTT_PASSWORD", "geheim"),
];

async fn site<const N: usize>(variables: [(&str, &str); N]) -> Site {
    let site = Site::new(RELAY).await.expect("a site");
    let environment = site.environment_with(variables);
    site.start_with(&environment).await.expect("a relay");
    site
}

/// A password file that the real `mosquitto_passwd` made: `sensor` with today's hash, `old` with yesterday's.
async fn password_file(directory: &TempDir) -> String {
    let path = directory.path().join("users").display().to_string();
    let new = ["-c", "-b", &path, "sensor", "geheim"];
    run("mosquitto_passwd", &new).await;
    let old = ["-H", "sha512", "-b", &path, "old", "geheim"];
    run("mosquitto_passwd", &old).await;
    path
}

/// Publishes in both versions as this user. The cloud gets it.
async fn gets_in(site: &Site, user: &str) {
    for version in ["311", "5"] {
        let before = site.cloud().received_count();
        let login = ["-V", version, "-u", user, "-P", "geheim"];
        let message = ["-q", "1", "-t", "sensors", "-m", "x"];
        let port = site.relay().listen_addr().port();
        mosquitto_pub(port, &[&login[..], &message[..]].concat()).await;
        let arrived = site.cloud().wait_for(before + 1, PATIENCE).await;
        arrived.expect("the cloud gets it");
    }
}

/// Is refused in both versions.
async fn stays_out(site: &Site, login: &[&str]) {
    let port = site.relay().listen_addr().port().to_string();
    for version in ["311", "5"] {
        let message = ["-p", &port, "-V", version, "-t", "sensors", "-m", "x"];
        let client = start("mosquitto_pub", &[&message[..], login].concat()).await;
        let status = client.wait_for_exit(PATIENCE).await.expect("an end");
        assert!(!status.success(), "{login:?} in {version}");
    }
}

fn health(site: &Site, variables: &[(&str, &str)]) -> Output {
    Command::new(program(RELAY))
        .arg("health")
        .env_clear()
        .env("LOCAL_MQTT_LISTEN", site.relay().listen_addr().to_string())
        .envs(variables.iter().copied())
        .output()
        .expect("the program starts")
}

#[tokio::test]
async fn the_user_of_the_environment_gets_in_and_nobody_else() {
    let site = site(LOGIN).await;
    gets_in(&site, "app").await;
    stays_out(&site, &[]).await;
    stays_out(&site, &["-u", "app", "-P", "falsch"]).await;
    stays_out(&site, &["-u", "nobody", "-P", "geheim"]).await;
    let relay = site.relay();
    let told = relay.wait_for_log("a client was refused", PATIENCE).await;
    told.expect("failed logins are told");
    let log = relay.log().lines().join("\n");
    assert!(log.contains("LOCAL_MQTT_PASSWORD=set"), "{log}");
    assert!(!log.contains("geheim") && !log.contains("falsch"), "{log}");
    assert!(health(&site, &LOGIN).status.success());
    assert!(!health(&site, &[]).status.success());
}

#[tokio::test]
async fn the_users_of_a_file_that_mosquitto_passwd_made_get_in_beside_that_of_the_environment() {
    let directory = tempfile::tempdir().unwrap();
    let path = password_file(&directory).await;
    let file = ("LOCAL_MQTT_PASSWORD_FILE", path.as_str());
    let site = site([LOGIN[0], LOGIN[1], file]).await;
    for user in ["app", "sensor", "old"] {
        gets_in(&site, user).await;
    }
    stays_out(&site, &["-u", "old", "-P", "falsch"]).await;
}

#[tokio::test]
async fn a_relay_with_nothing_but_a_file_is_healthy_and_silent_about_being_asked() {
    let directory = tempfile::tempdir().unwrap();
    let path = password_file(&directory).await;
    let file = [("LOCAL_MQTT_PASSWORD_FILE", path.as_str())];
    let site = site(file).await;
    gets_in(&site, "sensor").await;
    let asked = health(&site, &file);
    assert!(asked.status.success(), "{asked:?}");
    let log = site.relay().log().lines().join("\n");
    assert!(!log.contains("refused"), "{log}");
}

#[tokio::test]
async fn a_broker_open_to_every_network_is_warned_about_unless_it_asks_for_a_login() {
    const WARNING: &str = "lets in everyone on every network";
    for (has_login, warned) in [(false, true), (true, false)] {
        let site = Site::new(RELAY).await.expect("a site");
        let everywhere = format!("0.0.0.0:{}", site.relay().listen_addr().port());
        let listen = ("LOCAL_MQTT_LISTEN", everywhere.as_str());
        let environment = if has_login {
            site.environment_with([LOGIN[0], LOGIN[1], listen])
        } else {
            site.environment_with([listen])
        };
        // Each start warns, not the first alone.
        for starts in 1..=2 {
            site.start_with(&environment).await.expect("a relay");
            site.relay().terminate().await.expect("an end");
            let lines = site.relay().log().lines();
            let count = lines.iter().filter(|line| line.contains(WARNING)).count();
            assert_eq!(count, if warned { starts } else { 0 }, "{lines:?}");
        }
    }
}

#[tokio::test]
async fn an_open_door_for_websocket_or_tls_is_warned_about_by_its_own_name() {
    let authority = CertificateAuthority::new("local").expect("an authority");
    let server = authority.issue_server().expect("a certificate");
    let directory = tempfile::tempdir().unwrap();
    let pem_file = |name: &str, label: &str, der: &[u8]| {
        let path = directory.path().join(name).display().to_string();
        std::fs::write(&path, pem(label, der)).expect("a file is written");
        path
    };
    let key = server.private_key.secret_der();
    let site = site([
        ("LOCAL_MQTT_WS_LISTEN", "0.0.0.0:0"),
        ("LOCAL_MQTTS_LISTEN", "0.0.0.0:0"),
        (
            "LOCAL_MQTTS_CERT_PATH",
            &pem_file("cert", "CERTIFICATE", &server.certificate),
        ),
        ("LOCAL_MQTTS_KEY_PATH", &pem_file("key", "PRIVATE KEY", key)),
    ])
    .await;
    for door in ["LOCAL_MQTT_WS_LISTEN", "LOCAL_MQTTS_LISTEN"] {
        let warning = format!("{door}=0.0.0.0:0 lets in everyone");
        let told = site.relay().wait_for_log(&warning, PATIENCE).await;
        told.expect("a warning");
    }
}

/// Two users: `app` writes `sensors`, `sensor` reads `commands/#`; each has `own/NAME`.
const RULES: &str = "user app
topic write sensors
topic write commands/#
topic write denied/#
user sensor
topic read commands/#
topic deny commands/secret
pattern readwrite own/%u
";

/// Starts a foreign client with these arguments.
async fn client(site: &Site, program: &str, user: &str, arguments: &[&str]) -> Process {
    let port = site.relay().listen_addr().port().to_string();
    let login = ["-p", &port, "-u", user, "-P", "geheim"];
    start(program, &[&login[..], arguments].concat()).await
}

async fn limited_site(directory: &TempDir, more: (&str, &str)) -> Site {
    let users = password_file(directory).await;
    let rules = directory.path().join("rules").display().to_string();
    std::fs::write(&rules, RULES).expect("rules are written");
    let [users, rules] = [
        ("LOCAL_MQTT_PASSWORD_FILE", users.as_str()),
        ("LOCAL_MQTT_ACL_FILE", rules.as_str()),
    ];
    site([LOGIN[0], LOGIN[1], users, rules, more]).await
}

#[tokio::test]
async fn two_users_publish_and_subscribe_to_what_their_rules_allow_and_to_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let site = limited_site(&directory, ("LOG_FORMAT", "plain")).await;
    gets_in(&site, "app").await;
    for version in ["311", "5"] {
        let version = ["-V", version, "-q", "1"];
        for (user, filter, allowed) in [
            ("sensor", "commands/+", false),
            ("sensor", "sensors", false),
            ("sensor", "commands/a", true),
            ("sensor", "own/sensor", true),
            ("app", "own/sensor", false),
            ("app", "own/app", true),
        ] {
            let subscribe = [&version[..], &["-E", "-t", filter]].concat();
            let client = client(&site, "mosquitto_sub", user, &subscribe).await;
            client.wait_for_exit(PATIENCE).await.expect("an end");
            let said = client.log().lines().join("\n");
            assert_eq!(!said.contains("denied"), allowed, "{user} {filter}: {said}");
        }
        let thief = format!("thief-{}", version[1]);
        let denied = ["-i", &thief, "-t", "sensors", "-m", "x"];
        let denied = [&version[..], &denied].concat();
        let _client = client(&site, "mosquitto_pub", "sensor", &denied).await;
        let told = format!("to publish; told once for each client client_id=\"{thief}\"");
        let told = site.relay().wait_for_log(&told, PATIENCE).await;
        told.expect("it is told");
    }
    assert_eq!(site.cloud().received_count(), 2);
}

#[tokio::test]
async fn dead_letters_are_replayed_by_a_user_who_may_write_and_stay_otherwise() {
    let directory = tempfile::tempdir().unwrap();
    let routes = ("PRODUCER_TOPIC", "sensors,own/sensor");
    let site = limited_site(&directory, routes).await;
    let large = directory.path().join("large").display().to_string();
    let tool = |word: &str, argument: &[&str], login: &[(&str, &str)]| {
        let output = Command::new(program(RELAY))
            .args(["dead-letters", word])
            .args(argument)
            .env_clear()
            .env("DATA_DIR", site.relay().data_dir())
            .env("LOCAL_MQTT_LISTEN", site.relay().listen_addr().to_string())
            .envs([routes])
            .envs(login.iter().copied())
            .output();
        output.expect("the program starts")
    };
    let replay = |login, code: i32| {
        let output = tool("replay", &["--all"], login);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        String::from_utf8(output.stderr).expect("text")
    };
    let listed = || String::from_utf8(tool("list", &["--json"], &[]).stdout).expect("text");
    let wrong = [LOGIN[0], ("LOCAL_MQTT_PASSWORD", "falsch")];
    for (user, topic, bytes, allowed) in [
        ("app", "sensors", 131_073, true),
        ("sensor", "own/sensor", 131_074, false),
    ] {
        std::fs::write(&large, vec![b'x'; bytes]).expect("a payload is written");
        let message = ["-q", "1", "-t", topic, "-f", &large];
        let client = client(&site, "mosquitto_pub", user, &message).await;
        let status = client.wait_for_exit(PATIENCE).await.expect("an end");
        assert!(status.success(), "{user}");
        // A log sums such warnings up, and a directory has no event.
        let is_there = || listed().contains(&bytes.to_string());
        let deadline = Instant::now() + PATIENCE;
        while !is_there() {
            assert!(Instant::now() < deadline, "{}", site.relay().log().tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for login in [&[][..], &wrong] {
            let said = replay(login, 77);
            assert!(said.contains("refuses the login"), "{said}");
            assert!(is_there(), "{said}");
        }
        if allowed {
            replay(&LOGIN, 0);
        } else {
            let said = replay(&LOGIN, 1);
            assert!(said.contains("does not let this user publish it"), "{said}");
            assert!(is_there(), "{said}");
        }
    }
}

#[tokio::test]
async fn a_kept_session_does_not_outlive_the_right_to_its_topics() {
    let directory = tempfile::tempdir().unwrap();
    let rules = directory.path().join("rules").display().to_string();
    let site = Site::new(RELAY).await.expect("a site");
    let environment = site.environment_with([("LOCAL_MQTT_ACL_FILE", rules.as_str())]);
    let port = site.relay().listen_addr().port().to_string();
    let keep = [
        "-d", "-p", &port, "-c", "-i", "keeper", "-q", "1", "-t", "kept",
    ];
    let publish = ["-q", "1", "-t", "kept", "-m", "waits"];
    for (allowed, got) in [("kept", true), ("other", false)] {
        std::fs::write(&rules, "topic kept\n").expect("rules are written");
        site.start_with(&environment).await.expect("a relay");
        run("mosquitto_sub", &[&keep[..], &["-E"]].concat()).await;
        mosquitto_pub(site.relay().listen_addr().port(), &publish).await;
        site.relay().terminate().await.expect("an end");
        std::fs::write(&rules, format!("topic {allowed}\n")).expect("rules are written");
        site.start_with(&environment).await.expect("a relay");
        let client = start(
            "mosquitto_sub",
            &[&keep[..], &["-C", "1", "-W", "5"]].concat(),
        )
        .await;
        client.wait_for_exit(PATIENCE).await.expect("an end");
        let said = client.log().lines().join("\n");
        assert_eq!(said.contains("waits"), got, "{said}");
        assert_eq!(said.contains("denied"), !got, "{said}");
        site.relay().terminate().await.expect("an end");
    }
}
