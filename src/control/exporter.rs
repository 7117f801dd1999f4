//! Where a monitoring system reads metrics: HTTP on a Unix socket or a loopback address, and no more of HTTP than that.

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

use super::metrics::{self, Form, Measured};
use super::peer::{Access, Peer};
use super::server::{ListenError, open};

/// The socket's file name in the runtime directory.
pub const METRICS_SOCKET: &str = "metrics.sock";

/// How long a reader may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many readers are served at once; more wait in the kernel's backlog.
const READERS: usize = 4;

/// Time between two readings: the thread that carries packets is asked for each.
const PAUSE: Duration = Duration::from_millis(100);

/// The largest head of a request in bytes.
const LARGEST_HEAD: u64 = 8_192;

/// Where metrics may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// [`METRICS_SOCKET`] in the runtime directory, for those who may look.
    Unix,
    /// A loopback address, for everybody on this machine.
    Loopback(SocketAddr),
}

/// Listens for readers of metrics. The socket's file goes when it is dropped.
#[derive(Debug)]
pub struct Exporter {
    listener: Listener,
}

#[derive(Debug)]
enum Listener {
    Unix(UnixListener, Access, PathBuf),
    Tcp(TcpListener),
}

impl Exporter {
    /// Listens there.
    ///
    /// # Errors
    /// [`ListenError::Socket`].
    pub async fn listen(
        site: Site,
        runtime_dir: &Path,
        access: Access,
    ) -> Result<Self, ListenError> {
        let listener = match site {
            Site::Unix => {
                let path = runtime_dir.join(METRICS_SOCKET);
                match open(&path, access) {
                    Ok(listener) => Listener::Unix(listener, access, path),
                    Err(source) => return Err(ListenError::Socket { path, source }),
                }
            }
            Site::Loopback(address) => {
                let listener = TcpListener::bind(address).await;
                Listener::Tcp(listener.map_err(|source| ListenError::Socket {
                    path: address.to_string().into(),
                    source,
                })?)
            }
        };
        info!(?site, "serving metrics");
        Ok(Self { listener })
    }

    /// Serves readers until the service is gone.
    pub async fn serve(self, readers: mpsc::Sender<oneshot::Sender<Measured>>) {
        let places = Arc::new(Semaphore::new(READERS));
        loop {
            let place = Arc::clone(&places).acquire_owned().await;
            let place = place.expect("the semaphore is never closed");
            let accepted = match &self.listener {
                Listener::Unix(listener, access, _) => {
                    listener.accept().await.and_then(|(stream, _)| {
                        let may = access.grants(&Peer::of(&stream)?).is_some();
                        let stream: Box<dyn Stream> = Box::new(stream);
                        Ok(may.then_some(stream))
                    })
                }
                Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                    let stream: Box<dyn Stream> = Box::new(stream);
                    Some(stream)
                }),
            };
            match accepted {
                Ok(Some(stream)) => {
                    let readers = readers.clone();
                    tokio::spawn(async move {
                        match timeout(PATIENCE, converse(stream, readers)).await {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => debug!(%error, "a metrics connection failed"),
                            Err(_) => debug!("a metrics connection timed out"),
                        }
                        drop(place);
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
        if let Listener::Unix(_, _, path) = &self.listener
            && let Err(error) = fs::remove_file(path)
        {
            debug!(%error, path = %path.display(), "could not remove the metrics socket");
        }
    }
}

/// Either kind of stream.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn converse(
    stream: Box<dyn Stream>,
    readers: mpsc::Sender<oneshot::Sender<Measured>>,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let head = read_head(&mut stream).await?;
    let (status, form, body) = match reading(&head) {
        Ok(form) => match measure(&readers).await {
            Some(measured) => ("200 OK", form, metrics::write(&measured, form)),
            None => refusal("503 Service Unavailable"),
        },
        Err(status) => refusal(status),
    };
    let (kind, length) = (form.media_type(), body.len());
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.get_mut().write_all(head.as_bytes()).await?;
    stream.get_mut().write_all(body.as_bytes()).await?;
    stream.get_mut().shutdown().await
}

fn refusal(status: &'static str) -> (&'static str, Form, String) {
    (status, Form::Text, format!("{status}\n"))
}

/// Asks the service; none when it is stopping.
async fn measure(readers: &mpsc::Sender<oneshot::Sender<Measured>>) -> Option<Measured> {
    let (reader, measured) = oneshot::channel();
    readers.send(reader).await.ok()?;
    measured.await.ok()
}

/// Reads up to the empty line.
async fn read_head(stream: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<String> {
    let mut lines = stream.take(LARGEST_HEAD);
    let mut head = String::new();
    loop {
        let read = lines.read_line(&mut head).await?;
        if read == 0 || head.ends_with("\r\n\r\n") || head.ends_with("\n\n") {
            return Ok(head);
        }
    }
}

/// The form in which metrics are wanted.
///
/// # Errors
/// HTTP's word for a request that wants something else.
fn reading(head: &str) -> Result<Form, &'static str> {
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
        Ok(Form::OpenMetrics)
    } else {
        Ok(Form::Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_gets_what_it_understands_and_nothing_else_is_served() {
        let prometheus = "GET /metrics HTTP/1.1\r\nHost: x\r\naccept: application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1\r\n\r\n";
        assert_eq!(reading(prometheus), Ok(Form::OpenMetrics));
        let curl = "GET /metrics?x HTTP/1.1\r\nAccept: */*\r\n\r\n";
        assert_eq!(reading(curl), Ok(Form::Text));
        for (head, status) in [
            ("", "400"),
            ("GET /metrics HTTP/1.1\r\nHost", "400"),
            ("GET /metrics\r\n\r\n", "400"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
            ("GET /metricss HTTP/1.0\r\n\r\n", "404"),
        ] {
            let answer = reading(head).expect_err(head);
            assert!(answer.starts_with(status), "{head}: {answer}");
        }
    }
}
