//! Serves metrics over a minimal HTTP, on a Unix socket or a loopback address.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::listen_error::ListenError;
use super::metrics::{self, MetricsFormat, MetricsInput};
use super::peer::{Access, PeerCredentials, Privilege};
use super::server::listen;

/// The file name of the socket in the runtime directory.
pub const METRICS_SOCKET: &str = "metrics.sock";

/// The time limit of a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections at once. A further one closes the oldest, so that half-open requests cannot keep others out.
const CONNECTIONS: usize = 16;

/// Time for which all readers get the same metrics: new ones cost the packet loop a snapshot.
const MAX_AGE: Duration = Duration::from_millis(100);

/// The time limit of a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(1);

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
                match listen(&path) {
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
        let source = Arc::new(MetricsSource {
            scrapes,
            latest: Mutex::default(),
        });
        let mut connections = VecDeque::with_capacity(CONNECTIONS);
        loop {
            let accepted = match &self.listener {
                MetricsListener::Unix(listener, access, _) => {
                    listener.accept().await.and_then(|(stream, _)| {
                        let privilege = access.grants(&PeerCredentials::of(&stream)?);
                        let stream: Box<dyn MetricsStream> = Box::new(stream);
                        Ok((privilege >= Privilege::Read).then_some((stream, false)))
                    })
                }
                MetricsListener::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                    let stream: Box<dyn MetricsStream> = Box::new(stream);
                    Some((stream, true))
                }),
            };
            let (stream, is_tcp) = match accepted {
                Ok(Some(accepted)) => accepted,
                Ok(None) => {
                    debug!("refused a metrics reader: no permission");
                    continue;
                }
                Err(error) => {
                    warn!(%error, "could not accept a metrics connection");
                    sleep(MAX_AGE).await;
                    continue;
                }
            };
            connections.retain(|connection: &AbortHandle| !connection.is_finished());
            if connections.len() >= CONNECTIONS
                && let Some(oldest) = connections.pop_front()
            {
                oldest.abort();
            }
            let source = Arc::clone(&source);
            let connection = tokio::spawn(async move {
                match timeout(
                    CONNECTION_TIMEOUT,
                    serve_connection(stream, is_tcp, &source),
                )
                .await
                {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => debug!(%error, "a metrics connection failed"),
                    Err(_) => debug!("a metrics connection timed out"),
                }
            });
            connections.push_back(connection.abort_handle());
        }
    }
}

/// The metrics of the service, and their latest values.
struct MetricsSource {
    scrapes: mpsc::Sender<oneshot::Sender<MetricsInput>>,
    latest: Mutex<Option<(Instant, MetricsInput)>>,
}

impl MetricsSource {
    /// Writes the metrics. None when the service is stopping.
    async fn write(&self, format: MetricsFormat) -> Option<String> {
        let mut latest = self.latest.lock().await;
        let is_old = |(time, _): &(Instant, MetricsInput)| time.elapsed() >= MAX_AGE;
        if latest.as_ref().is_none_or(is_old) {
            let (reader, input) = oneshot::channel();
            self.scrapes.send(reader).await.ok()?;
            *latest = Some((Instant::now(), input.await.ok()?));
        }
        let (_, input) = latest.as_ref()?;
        Some(metrics::write(input, format))
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
    is_tcp: bool,
    source: &MetricsSource,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let head = timeout(HEAD_TIMEOUT, read_head(&mut stream)).await??;
    let (status, format, body) = match parse_head(&head, is_tcp) {
        Ok(format) => match source.write(format).await {
            Some(body) => ("200 OK", format, body),
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
/// Over TCP, `Host` must name this machine (RFC 9112 section 3.2). Otherwise a website whose name resolves to a loopback
/// address could read the metrics with the user's browser.
///
/// # Errors
/// The HTTP status of an invalid request.
pub fn parse_head(head: &str, is_tcp: bool) -> Result<MetricsFormat, &'static str> {
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(path), Some(version)) = (words.next(), words.next(), words.next())
    else {
        return Err("400 Bad Request");
    };
    if !version.starts_with("HTTP/1.") || !head.ends_with('\n') {
        return Err("400 Bad Request");
    }
    let fields = lines.filter_map(|line| line.split_once(':'));
    let values = |wanted: &'static str| {
        let named = fields.clone();
        let named = named.filter(move |(name, _)| name.eq_ignore_ascii_case(wanted));
        named.map(|(_, value)| value.trim())
    };
    if is_tcp {
        let mut hosts = values("host");
        match (hosts.next(), hosts.next()) {
            (Some(host), None) if is_loopback(host) => {}
            (None, _) if version == "HTTP/1.0" => {}
            (Some(_), None) => return Err("421 Misdirected Request"),
            _ => return Err("400 Bad Request"),
        }
    }
    if method != "GET" {
        return Err("405 Method Not Allowed");
    }
    if path.split('?').next() != Some("/metrics") {
        return Err("404 Not Found");
    }
    if values("accept").any(|value| value.contains("application/openmetrics-text")) {
        Ok(MetricsFormat::OpenMetrics)
    } else {
        Ok(MetricsFormat::Text)
    }
}

/// Whether a `Host` field is `localhost` or a loopback address, with or without port.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let is_address = |text: &str| text.parse().is_ok_and(|it: IpAddr| it.is_loopback());
    match name.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']').is_some_and(is_address),
        None => name.eq_ignore_ascii_case("localhost") || is_address(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_follows_the_accept_header_and_other_requests_are_rejected() {
        let prometheus = "GET /metrics HTTP/1.1\r\nHost: x\r\naccept: application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1\r\n\r\n";
        assert_eq!(
            parse_head(prometheus, false),
            Ok(MetricsFormat::OpenMetrics)
        );
        let curl = "GET /metrics?x HTTP/1.1\r\nAccept: */*\r\n\r\n";
        assert_eq!(parse_head(curl, false), Ok(MetricsFormat::Text));
        for (head, status) in [
            ("", "400"),
            ("GET /metrics HTTP/1.1\r\nHost", "400"),
            ("GET /metrics\r\n\r\n", "400"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
            ("GET /metricss HTTP/1.0\r\n\r\n", "404"),
        ] {
            let answer = parse_head(head, false).expect_err(head);
            assert!(answer.starts_with(status), "{head}: {answer}");
        }
    }

    #[test]
    fn over_tcp_the_host_is_this_machine() {
        let status = |host: &str| {
            let head = format!("GET /metrics HTTP/1.1\r\n{host}\r\n");
            parse_head(&head, true).err()
        };
        for host in [
            "localhost:9764",
            "LOCALHOST",
            "127.0.0.1:9764",
            "127.9.9.9",
            "[::1]:9764",
        ] {
            assert_eq!(status(&format!("Host: {host}\r\n")), None, "{host}");
        }
        for host in [
            "evil.example:9764",
            "10.0.0.1",
            "[2001:db8::1]",
            "::1",
            "127.0.0.1.evil.example",
            "",
        ] {
            let status = status(&format!("Host: {host}\r\n")).expect(host);
            assert!(status.starts_with("421"), "{host}: {status}");
        }
        assert_eq!(status(""), Some("400 Bad Request"));
        assert_eq!(
            status("Host: localhost\r\nHost: evil.example\r\n"),
            Some("400 Bad Request")
        );
        assert_eq!(
            parse_head("GET /metrics HTTP/1.0\r\n\r\n", true),
            Ok(MetricsFormat::Text)
        );
    }
}
