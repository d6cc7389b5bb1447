//! The socket on which commands come, a line each. Every line is answered by one: `ok`, `ok` and JSON, or `error` and
//! why.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crate::{Command, Controls, LossyError};

/// Listens until dropped.
pub(crate) struct Server {
    socket: PathBuf,
    is_over: Arc<AtomicBool>,
    listening: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(socket: &Path, controls: Controls) -> io::Result<Self> {
        let listener = UnixListener::bind(socket)?;
        let is_over = Arc::new(AtomicBool::new(false));
        let stop = is_over.clone();
        let listening = thread::Builder::new().name("lossy-control".to_owned()).spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let controls = controls.clone();
                // Ends when the other side hangs up, which may be after the disk is gone: commands then fail.
                thread::spawn(move || answer_all(&stream, &controls));
            }
        })?;
        Ok(Self { socket: socket.to_owned(), is_over, listening: Some(listening) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // The thread looks at the flag when somebody calls. If nobody can, someone else removed the socket.
        if UnixStream::connect(&self.socket).is_ok()
            && let Some(listening) = self.listening.take()
        {
            let _ = listening.join();
        }
        let _ = fs::remove_file(&self.socket);
    }
}

fn answer_all(stream: &UnixStream, controls: &Controls) {
    let mut answers = stream;
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let answer = match line.parse::<Command>().and_then(|command| controls.run(command)) {
            Ok(text) => format!("ok {text}"),
            Err(error) => format!("error {}", one_line(&error)),
        };
        if writeln!(answers, "{}", answer.trim_end()).is_err() {
            break;
        }
    }
}

fn one_line(error: &LossyError) -> String {
    let text = match error {
        LossyError::Command { reason } => reason.clone(), // the help is for people
        LossyError::Io { what, source } => format!("{what}: {source}"),
        other => other.to_string(),
    };
    text.replace('\n', " ")
}

/// Sends one command to the disk that listens on `socket`, and waits for what it answers: nothing, or JSON of
/// [`crate::Loss`] or [`crate::Stats`].
///
/// Errors: `Refused` if the command was not understood or failed there.
pub fn ask(socket: &Path, command: &str) -> Result<String, LossyError> {
    let failed = |source| LossyError::Io { what: format!("ask {} for {command:?}", socket.display()), source };
    let answer = exchange(socket, command).map_err(failed)?;
    match answer.trim_end().split_once(' ').unwrap_or((answer.trim_end(), "")) {
        ("ok", text) => Ok(text.to_owned()),
        (_, reason) => Err(LossyError::Refused { reason: reason.to_owned() }),
    }
}

fn exchange(socket: &Path, command: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    writeln!(stream, "{command}")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(answer)
}
