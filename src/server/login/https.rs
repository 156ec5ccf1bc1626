//! Requests to a server that is configured, for key sets and for the HTTP back end.
//!
//! HTTPS with the one CA that is named, and a client certificate where one is; no redirect is
//! followed, no proxy of the environment is used, and time and size of an answer are bounded.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::pki::files::{self, FileError};
use crate::server::fetch::in_full;
use crate::server::tls_config::{self, TlsError};

/// Connections that are kept for the next request.
const IDLE_MAX: usize = 8;
const IDLE_TIME: Duration = Duration::from_secs(30);

/// A server and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What is asked for.
    pub url: Uri,
    /// The CA of its certificate, PEM; `None` for a loopback address without TLS.
    pub ca: Option<PathBuf>,
    /// Certificate chain and key to show to it.
    pub client: Option<(PathBuf, PathBuf)>,
    /// How long a request may take, from the connection to the last byte of the answer.
    pub timeout: Duration,
}

/// Why a client cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A file of certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A key.
    #[error(transparent)]
    File(#[from] FileError),
    /// No key in the file.
    #[error("{}: holds no private key", .0.display())]
    NoKey(PathBuf),
    /// rustls refuses them.
    #[error("{}: {source}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    #[error("no answer within {0:?}")]
    Late(Duration),
    #[error("it cannot be asked: {0}")]
    Transport(String),
    #[error("it answers {0}")]
    Status(StatusCode),
    #[error("its answer is larger than {0} bytes, or breaks off")]
    Body(usize),
}

/// A client of one server.
#[derive(Clone, Debug)]
pub(super) struct Https {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    settings: Arc<Settings>,
}

impl Https {
    /// Reads the files. Nothing is sent.
    pub(super) fn new(settings: &Settings) -> Result<Self, SetupError> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = &settings.ca {
            for certificate in tls_config::certificates(path)? {
                let unusable = |source| SetupError::Unusable { path: path.clone(), source };
                roots.add(certificate).map_err(unusable)?;
            }
        }
        let provider = Arc::new(tls_config::provider(true));
        let path = settings.ca.clone().unwrap_or_default();
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|source| SetupError::Unusable { path, source })?
            .with_root_certificates(roots);
        let config = match &settings.client {
            None => config.with_no_client_auth(),
            Some((certificate, key_path)) => {
                let chain = tls_config::certificates(certificate)?;
                let key = PrivateKeyDer::from_pem_slice(&files::read_key(key_path)?)
                    .map_err(|_| SetupError::NoKey(key_path.clone()))?;
                let path = key_path.clone();
                let unusable = |source| SetupError::Unusable { path, source };
                config.with_client_auth_cert(chain, key).map_err(unusable)?
            }
        };
        let connector = HttpsConnectorBuilder::new().with_tls_config(config);
        // Without TLS is for loopback alone, which the configuration sees to.
        let connector = match settings.url.scheme_str() {
            Some("http") => connector.https_or_http().enable_http1().build(),
            _ => connector.https_only().enable_http1().build(),
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIME)
            .pool_max_idle_per_host(IDLE_MAX)
            .build(connector);
        Ok(Self { client, settings: Arc::new(settings.clone()) })
    }

    /// Who is asked, for messages: without the query, which may hold a secret.
    pub(super) fn place(&self) -> String {
        let url = &self.settings.url;
        let authority = url.authority().map_or("", |authority| authority.as_str());
        format!("{}://{authority}{}", url.scheme_str().unwrap_or_default(), url.path())
    }

    /// Asks, and takes no answer but 200.
    pub(super) async fn get(&self, bytes_max: usize) -> Result<Bytes, NoAnswer> {
        self.ask(Method::GET, Bytes::new(), bytes_max).await
    }

    /// Sends JSON, and takes no answer but 200.
    pub(super) async fn post(&self, json: Bytes, bytes_max: usize) -> Result<Bytes, NoAnswer> {
        self.ask(Method::POST, json, bytes_max).await
    }

    async fn ask(&self, method: Method, body: Bytes, bytes_max: usize) -> Result<Bytes, NoAnswer> {
        let timeout = self.settings.timeout;
        let asked = tokio::time::timeout(timeout, self.ask_at_length(method, body, bytes_max));
        asked.await.map_err(|_| NoAnswer::Late(timeout))?
    }

    async fn ask_at_length(
        &self,
        method: Method,
        body: Bytes,
        bytes_max: usize,
    ) -> Result<Bytes, NoAnswer> {
        let mut request = Request::new(Full::new(body));
        *request.uri_mut() = self.settings.url.clone();
        let json = HeaderValue::from_static("application/json");
        if method == Method::POST {
            request.headers_mut().insert(CONTENT_TYPE, json.clone());
        }
        request.headers_mut().insert(ACCEPT, json);
        *request.method_mut() = method;
        let response = self.client.request(request).await;
        let response = response.map_err(|error| NoAnswer::Transport(in_full(&error)))?;
        if response.status() != StatusCode::OK {
            return Err(NoAnswer::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), bytes_max).collect().await;
        body.map(http_body_util::Collected::to_bytes).map_err(|_| NoAnswer::Body(bytes_max))
    }
}
