//! MQTT.js over WebSocket, as in a browser, against a broker with a login: every scene, in 3.1.1 and 5.

mod common;

use cloud_relay_sandbox::port::ReservedPort;
use cloud_relay_sandbox::site::{PATIENCE, Site};

use common::{RELAY, require_tools, run};

const SCENES: [&str; 6] = ["qos", "retained", "will", "session", "takeover", "filters"];

#[tokio::test]
async fn mqttjs_plays_every_scene_over_websocket_and_its_messages_reach_the_cloud() {
    require_tools();
    let port = ReservedPort::new().expect("a free port");
    let site = Site::new(RELAY).await.expect("a site");
    let environment = site.environment_with([
        ("LOCAL_MQTT_WS_LISTEN", &port.addr().to_string()),
        ("LOCAL_MQTT_USERNAME", "app"),
        ("LOCAL_MQTT_PASSWORD", "geheim"),
    ]);
    site.start_with(&environment).await.expect("a relay");
    let port = port.addr().port().to_string();
    for (nth, version) in ["3.1.1", "5"].into_iter().enumerate() {
        let play = async |scene: &[&str]| {
            let script = ["tests/peers/mqttjs_client.mjs", &port];
            let way = ["--over", "ws", "--user", "app:geheim", "--mqtt", version];
            run("node", &[&script[..], scene, &way].concat()).await;
        };
        for scene in SCENES {
            play(&[scene]).await;
        }
        play(&["publish", "--qos", "1", "--count", "100"]).await;
        let arrived = site.cloud().wait_for(100 * (nth + 1), PATIENCE).await;
        arrived.expect("what was published arrives");
    }
}
