//! Each rule and each fault, in both versions of MQTT where it applies.

mod books;
mod clients;
mod device;
mod faults;
mod rules;

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::ca::CertificateAuthority;

const PATIENCE: Duration = Duration::from_secs(10);
const BOTH: [MqttVersion; 2] = [MqttVersion::V3_1_1, MqttVersion::V5];

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("in time")
}

async fn cloud() -> Cloud {
    cloud_that_keeps(Bookkeeping::Messages).await
}

async fn cloud_that_keeps(bookkeeping: Bookkeeping) -> Cloud {
    let authority = Arc::new(CertificateAuthority::new("sandbox root").unwrap());
    let options = CloudOptions {
        bookkeeping,
        ..CloudOptions::new(authority)
    };
    Cloud::start(options).await.unwrap()
}

fn payloads(cloud: &Cloud) -> Vec<String> {
    let text = |message: Received| String::from_utf8(message.payload.to_vec()).unwrap();
    cloud.received().into_iter().map(text).collect()
}
