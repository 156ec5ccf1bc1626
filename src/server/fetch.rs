//! Files by plain HTTP, of servers that the operator names: for what is signed.
//!
//! No redirect is followed and no proxy of the environment is used; time and size are bounded.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

/// Gets a file.
///
/// # Errors
/// In words, when there is no answer in `time`, none that says 200, or none so small.
pub async fn get(url: &str, bytes_max: usize, time: Duration) -> Result<Bytes, String> {
    let url: Uri = url.parse().map_err(|error| format!("it is no URL: {error}"))?;
    let asked = async {
        let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let answer =
            client.get(url).await.map_err(|error| format!("it cannot be asked: {error}"))?;
        if answer.status() != StatusCode::OK {
            return Err(format!("it answers {}", answer.status()));
        }
        let body = Limited::new(answer.into_body(), bytes_max).collect().await;
        let larger = |_| format!("its answer has more than {bytes_max} bytes, or breaks off");
        body.map(http_body_util::Collected::to_bytes).map_err(larger)
    };
    let late = |_| format!("there is no answer within {} s", time.as_secs());
    tokio::time::timeout(time, asked).await.map_err(late)?
}
