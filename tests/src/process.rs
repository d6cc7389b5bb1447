//! Processes of the `shoal` binary.

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The binary under test: `SHOAL_BIN`, or the one built beside this program.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn shoal_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("SHOAL_BIN") {
        return path.into();
    }
    let own = std::env::current_exe().expect("a program knows its own path");
    // Programs are in target/PROFILE, tests in target/PROFILE/deps.
    let folder = own.parent().expect("a program is in a folder");
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let path = folder.join("shoal");
    assert!(path.exists(), "{} is missing: build it with `cargo build --release --bin shoal`", path.display());
    path
}

/// A port of the loopback address that nobody uses now.
///
/// Below the range from which the system gives ports to outgoing connections: one of those could otherwise take the
/// port of a process while it is killed, before it comes back.
///
/// # Panics
/// If none is free.
#[must_use]
pub fn free_port() -> u16 {
    const FIRST: u64 = 15_000;
    const COUNT: u64 = 15_000;
    // One after the other from a random one on: a port that was given out is free until its process listens, and would be
    // given out again now and then if each were drawn.
    static START: LazyLock<u64> = LazyLock::new(|| RandomState::new().build_hasher().finish() % COUNT);
    static GIVEN: AtomicU64 = AtomicU64::new(0);
    let candidates = (0..COUNT).map(|_| FIRST + (*START + GIVEN.fetch_add(1, Ordering::Relaxed)) % COUNT);
    let mut free = candidates
        .filter_map(|port| u16::try_from(port).ok())
        .filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.next().expect("a free port")
}

/// How a process of `shoal` is started.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// For messages.
    pub name: &'a str,
    /// Those of `shoal`.
    pub arguments: &'a [&'a str],
    /// More environment variables.
    pub environment: &'a [(String, String)],
    /// A program with its arguments that becomes `shoal`, such as one that enters a network namespace; empty for none.
    pub through: &'a [String],
    /// Where its standard error is appended to; the test's own if there is none.
    pub log: Option<&'a Path>,
}

/// A running process. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Process {
    /// Starts `shoal` with `arguments`; its standard error goes to the test's.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(name: &str, arguments: &[&str], environment: &[(String, String)]) -> Self {
        Self::launch(&Launch { name, arguments, environment, through: &[], log: None })
    }

    /// Starts `shoal` as `launch` says.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn launch(launch: &Launch<'_>) -> Self {
        let name = launch.name;
        let binary = shoal_binary();
        let mut command = match launch.through {
            [] => Command::new(binary),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(binary);
                command
            }
        };
        let open = |path| File::options().create(true).append(true).open(path).expect("the log can be written");
        let log = launch.log.map_or_else(Stdio::inherit, |path| open(path).into());
        command.args(launch.arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        command.envs(launch.environment.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        let mut child = command.spawn().unwrap_or_else(|error| panic!("start {name}: {error}"));
        let stdout = child.stdout.take().expect("standard output is piped");
        let (sender, lines) = mpsc::channel();
        // Ends when the process closes its standard output.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { name: name.to_owned(), child, lines }
    }

    /// Waits for a line of standard output that contains `text`, and returns it.
    ///
    /// # Panics
    /// If none comes within `within`.
    pub fn wait_for_line(&mut self, text: &str, within: Duration) -> String {
        let deadline = Instant::now() + within;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(text) => return line,
                Ok(_) => {}
                Err(error) => panic!("{}: no line with {text:?} within {within:?} ({error})", self.name),
            }
        }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Stops it as it stands, until it is resumed.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        // The child is waited for by us alone, so that its number is its own until then.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// How it ended, if it has.
    ///
    /// # Panics
    /// If it cannot be waited for.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the process is ours")
    }

    /// Kills it at once, as a power loss of the process would, and waits until it is gone.
    pub fn kill(mut self) {
        self.end();
    }

    /// Asks it to stop, and waits for its exit.
    ///
    /// # Panics
    /// If it does not end within `within`.
    #[must_use]
    pub fn terminate(mut self, within: Duration) -> ExitStatus {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().expect("kill runs");
        assert!(sent.success(), "{}: SIGTERM could not be sent", self.name);
        self.wait(within)
    }

    /// Waits for its exit.
    ///
    /// # Panics
    /// If it does not end within `within`.
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().expect("the process is ours") {
                return status;
            }
            assert!(Instant::now() < deadline, "{} did not end within {within:?}", self.name);
            thread::sleep(Duration::from_millis(10)); // polling a process for its end; nothing is synchronised by it
        }
    }

    fn end(&mut self) {
        // It may have ended by itself; what matters is that it is gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs `shoal` to its end.
///
/// # Panics
/// If it cannot be started or does not end within `within`.
#[must_use]
pub fn run(arguments: &[&str], environment: &[(String, String)], within: Duration) -> Finished {
    let mut command = Command::new(shoal_binary());
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.envs(environment.iter().map(|(k, v)| (k.as_str(), v.as_str())));
    let mut child = command.spawn().unwrap_or_else(|error| panic!("start shoal {arguments:?}: {error}"));
    let stdout = read_all(child.stdout.take());
    let stderr = read_all(child.stderr.take());
    let deadline = Instant::now() + within;
    let status = loop {
        if let Some(status) = child.try_wait().expect("the process is ours") {
            break status;
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!(
                "shoal {arguments:?} did not end within {within:?}\n{}\n{}",
                stdout.join().unwrap_or_default(),
                stderr.join().unwrap_or_default()
            );
        }
        thread::sleep(Duration::from_millis(10)); // polling a process for its end; nothing is synchronised by it
    };
    Finished {
        code: status.code().unwrap_or(-1),
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
    }
}

fn read_all(stream: Option<impl std::io::Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(stream) = stream {
            // What was read before an error still tells something.
            let _ = BufReader::new(stream).read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    })
}
