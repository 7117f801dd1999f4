//! Serves metrics over a minimal HTTP, on a Unix socket or a loopback address.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::listen_error::ListenError;
use super::metrics::{self, MetricsFormat, MetricsInput};
use super::peer::{Access, PeerCredentials};
use super::server::listen;

/// The file name of the socket in the runtime directory.
pub const METRICS_SOCKET: &str = "metrics.sock";

/// The time limit of a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections at once. More wait in the kernel's backlog.
const CONNECTIONS: usize = 4;

/// Time between two scrapes: each costs the packet loop a snapshot.
const PAUSE: Duration = Duration::from_millis(100);

/// The largest head of a request, in bytes.
const MAX_HEAD: u64 = 8_192;

/// The socket of the exporter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsEndpoint {
    /// [`METRICS_SOCKET`] in the runtime directory, for clients that may read.
    Unix,
    /// A loopback address, for every user of this machine.
    Loopback(SocketAddr),
}

/// A listening exporter. The file of its socket is removed on drop.
#[derive(Debug)]
pub struct Exporter {
    listener: MetricsListener,
}

#[derive(Debug)]
enum MetricsListener {
    Unix(UnixListener, Access, PathBuf),
    Tcp(TcpListener),
}

impl Exporter {
    /// Listens on an endpoint.
    ///
    /// # Errors
    /// [`ListenError::Socket`].
    pub async fn listen(
        endpoint: MetricsEndpoint,
        runtime_dir: &Path,
        access: Access,
    ) -> Result<Self, ListenError> {
        let listener = match endpoint {
            MetricsEndpoint::Unix => {
                let path = runtime_dir.join(METRICS_SOCKET);
                match listen(&path, access) {
                    Ok(listener) => MetricsListener::Unix(listener, access, path),
                    Err(source) => return Err(ListenError::Socket { path, source }),
                }
            }
            MetricsEndpoint::Loopback(address) => {
                let listener = TcpListener::bind(address).await;
                MetricsListener::Tcp(listener.map_err(|source| ListenError::Socket {
                    path: address.to_string().into(),
                    source,
                })?)
            }
        };
        info!(?endpoint, "serving metrics");
        Ok(Self { listener })
    }

    /// Serves connections until the service ends.
    pub async fn serve(self, scrapes: mpsc::Sender<oneshot::Sender<MetricsInput>>) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let slot = Arc::clone(&slots).acquire_owned().await;
            let slot = slot.expect("the semaphore is never closed");
            let accepted = match &self.listener {
                MetricsListener::Unix(listener, access, _) => {
                    listener.accept().await.and_then(|(stream, _)| {
                        let is_permitted = access.grants(&PeerCredentials::of(&stream)?).is_some();
                        let stream: Box<dyn MetricsStream> = Box::new(stream);
                        Ok(is_permitted.then_some(stream))
                    })
                }
                MetricsListener::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                    let stream: Box<dyn MetricsStream> = Box::new(stream);
                    Some(stream)
                }),
            };
            match accepted {
                Ok(Some(stream)) => {
                    let scrapes = scrapes.clone();
                    tokio::spawn(async move {
                        match timeout(CONNECTION_TIMEOUT, serve_connection(stream, scrapes)).await {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => debug!(%error, "a metrics connection failed"),
                            Err(_) => debug!("a metrics connection timed out"),
                        }
                        drop(slot);
                    });
                }
                Ok(None) => debug!("refused a metrics reader: no permission"),
                Err(error) => warn!(%error, "could not accept a metrics connection"),
            }
            sleep(PAUSE).await;
        }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        if let MetricsListener::Unix(_, _, path) = &self.listener
            && let Err(error) = fs::remove_file(path)
        {
            debug!(%error, path = %path.display(), "could not remove the metrics socket");
        }
    }
}

/// A Unix or TCP stream.
trait MetricsStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> MetricsStream for T {}

async fn serve_connection(
    stream: Box<dyn MetricsStream>,
    scrapes: mpsc::Sender<oneshot::Sender<MetricsInput>>,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let head = read_head(&mut stream).await?;
    let (status, format, body) = match parse_head(&head) {
        Ok(format) => match request_metrics(&scrapes).await {
            Some(input) => ("200 OK", format, metrics::write(&input, format)),
            None => error_response("503 Service Unavailable"),
        },
        Err(status) => error_response(status),
    };
    let (kind, length) = (format.media_type(), body.len());
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.get_mut().write_all(head.as_bytes()).await?;
    stream.get_mut().write_all(body.as_bytes()).await?;
    stream.get_mut().shutdown().await
}

fn error_response(status: &'static str) -> (&'static str, MetricsFormat, String) {
    (status, MetricsFormat::Text, format!("{status}\n"))
}

/// Requests the metrics from the service; none when it is stopping.
async fn request_metrics(
    scrapes: &mpsc::Sender<oneshot::Sender<MetricsInput>>,
) -> Option<MetricsInput> {
    let (reader, input) = oneshot::channel();
    scrapes.send(reader).await.ok()?;
    input.await.ok()
}

/// Reads the head of a request.
async fn read_head(stream: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<String> {
    let mut lines = stream.take(MAX_HEAD);
    let mut head = String::new();
    loop {
        let read = lines.read_line(&mut head).await?;
        if read == 0 || head.ends_with("\r\n\r\n") || head.ends_with("\n\n") {
            return Ok(head);
        }
    }
}

/// Parses the head and returns the requested format.
///
/// # Errors
/// The HTTP status of an invalid request.
fn parse_head(head: &str) -> Result<MetricsFormat, &'static str> {
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(path), Some(version)) = (words.next(), words.next(), words.next())
    else {
        return Err("400 Bad Request");
    };
    if !version.starts_with("HTTP/1.") || !head.ends_with('\n') {
        return Err("400 Bad Request");
    }
    if method != "GET" {
        return Err("405 Method Not Allowed");
    }
    if path.split('?').next() != Some("/metrics") {
        return Err("404 Not Found");
    }
    let mut accepts = lines.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("accept").then_some(value)
    });
    if accepts.any(|value| value.contains("application/openmetrics-text")) {
        Ok(MetricsFormat::OpenMetrics)
    } else {
        Ok(MetricsFormat::Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_follows_the_accept_header_and_other_requests_are_rejected() {
        let prometheus = "GET /metrics HTTP/1.1\r\nHost: x\r\naccept: application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1\r\n\r\n";
        assert_eq!(parse_head(prometheus), Ok(MetricsFormat::OpenMetrics));
        let curl = "GET /metrics?x HTTP/1.1\r\nAccept: */*\r\n\r\n";
        assert_eq!(parse_head(curl), Ok(MetricsFormat::Text));
        for (head, status) in [
            ("", "400"),
            ("GET /metrics HTTP/1.1\r\nHost", "400"),
            ("GET /metrics\r\n\r\n", "400"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
            ("GET /metricss HTTP/1.0\r\n\r\n", "404"),
        ] {
            let answer = parse_head(head).expect_err(head);
            assert!(answer.starts_with(status), "{head}: {answer}");
        }
    }
}
