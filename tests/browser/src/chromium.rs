//! Chromium without a window, driven by the DevTools protocol over a pipe.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Time limit of one command.
const PATIENCE: Duration = Duration::from_secs(30);

/// The page with the script of the calls.
const PAGE: &str = include_str!("call.html");

/// Chromium reads commands from descriptor 3 and writes answers to 4.
const LAUNCH: &str = "exec chromium \"$@\" 3<&0 4>&1 </dev/null 1>&2";

const ARGUMENTS: [&str; 16] = [
    "--headless=new",
    "--remote-debugging-pipe",
    // The tests run as root, which Chromium's sandbox refuses.
    "--no-sandbox",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--disable-gpu",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-first-run",
    "--disable-background-networking",
    // All tabs are in the background. Their clocks must run as in the foreground.
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
];

#[derive(Default)]
struct Answers {
    by_id: HashMap<u64, Value>,
    ended: bool,
}

type Inbox = Arc<(Mutex<Answers>, Condvar)>;

/// A running browser. Its drop kills it.
pub struct Chromium {
    child: Mutex<Child>,
    commands: Mutex<ChildStdin>,
    inbox: Inbox,
    next: AtomicU64,
    log: Arc<Mutex<String>>,
    files: TempDir,
}

/// A tab with the page of the calls.
pub struct Tab {
    target: String,
    session: String,
}

impl Chromium {
    /// Starts the browser in the network namespace `/run/netns/NAMESPACE`.
    ///
    /// # Panics
    /// If Chromium is missing (Debian's package `chromium`).
    #[must_use]
    pub fn start(namespace: &str) -> Self {
        let files = TempDir::new().expect("the temporary directory is writable");
        fs::write(files.path().join("call.html"), PAGE).expect("it was just made");
        let mut child = Command::new("ip")
            .args(["netns", "exec", namespace, "sh", "-c", LAUNCH, "sh"])
            .args(ARGUMENTS)
            .arg(format!("--user-data-dir={}", files.path().display()))
            .env("HOME", files.path())
            .env_remove("DBUS_SESSION_BUS_ADDRESS")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ip is there");
        let inbox = Inbox::default();
        let answers = child.stdout.take().expect("it is piped");
        let sink = Arc::clone(&inbox);
        thread::spawn(move || read(BufReader::new(answers), &sink));
        let log = Arc::new(Mutex::new(String::new()));
        let mut errors = child.stderr.take().expect("it is piped");
        let text = Arc::clone(&log);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = errors.read(&mut buffer) {
                let part = String::from_utf8_lossy(&buffer[..length]);
                text.lock().expect("no panic").push_str(&part);
            }
        });
        let commands = Mutex::new(child.stdin.take().expect("it is piped"));
        let next = AtomicU64::new(1);
        let chromium = Self {
            child: Mutex::new(child),
            commands,
            inbox,
            next,
            log,
            files,
        };
        chromium.command(None, "Browser.getVersion", &json!({}));
        chromium
    }

    /// Opens a tab and returns when its script is ready.
    pub fn open(&self) -> Tab {
        let page = format!("file://{}/call.html", self.files.path().display());
        let created = self.command(None, "Target.createTarget", &json!({ "url": page }));
        let target = text(&created["targetId"]);
        let attach = json!({ "targetId": target, "flatten": true });
        let attached = self.command(None, "Target.attachToTarget", &attach);
        let session = text(&attached["sessionId"]);
        let tab = Tab { target, session };
        // A new tab shows an empty document first.
        let deadline = Instant::now() + PATIENCE;
        while self.evaluate(&tab, "typeof offer") != "function" {
            assert!(Instant::now() < deadline, "the page of the calls is empty");
            thread::sleep(Duration::from_millis(10));
        }
        tab
    }

    /// Closes a tab as its user does.
    pub fn close(&self, tab: &Tab) {
        let target = json!({ "targetId": tab.target });
        self.command(None, "Target.closeTarget", &target);
    }

    /// Evaluates an expression in a tab and returns its value, or that of its promise.
    ///
    /// # Panics
    /// If the script throws.
    pub fn evaluate(&self, tab: &Tab, expression: &str) -> Value {
        let call = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let mut answer = self.command(Some(&tab.session), "Runtime.evaluate", &call);
        let failure = &answer["exceptionDetails"];
        assert!(failure.is_null(), "{expression}: {failure}");
        answer["result"]["value"].take()
    }

    /// Kills the browser, which ends its calls without a word.
    pub fn kill(&self) {
        let mut child = self.child.lock().expect("no panic");
        // Both fail only if the browser has ended already.
        let _ = child.kill();
        let _ = child.wait();
    }

    fn command(&self, session: Option<&str>, method: &str, parameters: &Value) -> Value {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut message = json!({ "id": id, "method": method, "params": parameters });
        if let Some(session) = session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        let sent = self.commands.lock().expect("no panic").write_all(&bytes);
        let deadline = Instant::now() + PATIENCE;
        let (answers, arrived) = &*self.inbox;
        let mut answers = answers.lock().expect("no panic");
        loop {
            if let Some(mut answer) = answers.by_id.remove(&id) {
                let error = &answer["error"];
                assert!(error.is_null(), "{method} {parameters}: {error}");
                return answer["result"].take();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                sent.is_ok() && !answers.ended && !left.is_zero(),
                "Chromium does not answer {method}: {}",
                self.log.lock().expect("no panic")
            );
            answers = arrived.wait_timeout(answers, left).expect("no panic").0;
        }
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Files answers by their number until the browser ends. Messages end with a zero octet.
fn read(mut pipe: impl BufRead, (answers, arrived): &(Mutex<Answers>, Condvar)) {
    loop {
        let mut message = Vec::new();
        let length = pipe.read_until(0, &mut message).unwrap_or(0);
        let mut answers = answers.lock().expect("no panic");
        if length == 0 {
            answers.ended = true;
            arrived.notify_all();
            return;
        }
        message.pop();
        let message: Value = serde_json::from_slice(&message).unwrap_or_default();
        if let Some(id) = message["id"].as_u64() {
            answers.by_id.insert(id, message);
            arrived.notify_all();
        }
    }
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .expect("Chromium names it by a string")
        .to_owned()
}
