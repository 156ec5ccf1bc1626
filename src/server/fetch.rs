//! What is signed, by plain HTTP, of servers that the operator names.
//!
//! No redirect is followed and no proxy of the environment is used; time and size are bounded.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

/// Gets a file.
///
/// # Errors
/// In words, when there is no answer in `time`, none that says 200, or none so small.
pub async fn get(url: &str, bytes_max: usize, time: Duration) -> Result<Bytes, String> {
    let request = Request::get(url).body(Full::default());
    let request = request.map_err(|error| format!("it is no URL: {error}"))?;
    answer(request, bytes_max, time).await
}

/// Asks something, of this media type.
///
/// # Errors
/// As [`get`].
pub async fn post(
    url: &str,
    (media_type, body): (&'static str, Vec<u8>),
    bytes_max: usize,
    time: Duration,
) -> Result<Bytes, String> {
    let request = Request::post(url).header(CONTENT_TYPE, media_type).body(Full::from(body));
    let request = request.map_err(|error| format!("it is no URL: {error}"))?;
    answer(request, bytes_max, time).await
}

async fn answer(
    request: Request<Full<Bytes>>,
    bytes_max: usize,
    time: Duration,
) -> Result<Bytes, String> {
    let asked = async {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let answer = client.request(request).await;
        let answer = answer.map_err(|error| format!("it cannot be asked: {}", in_full(&error)))?;
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

/// An error with its causes.
pub(super) fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
