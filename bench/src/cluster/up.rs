//! A whole cluster in a process of its own: `shoal up` on one node, in a temporary folder, on free ports.

use std::env;
use std::io::BufReader;
use std::process::{Child, Command, Stdio};

use serde_json::Value as Json;
use tempfile::TempDir;

use crate::error::BenchError;

/// The process. Killed when it is dropped.
pub(super) struct Up {
    child: Child,
    router: String,
    _folder: TempDir,
}

impl Up {
    /// Starts the `shoal` that was built beside this program, and returns once it serves.
    pub(super) fn start() -> Result<Self, BenchError> {
        let folder = tempfile::tempdir().map_err(BenchError::io("make a temporary folder"))?;
        let own = env::current_exe().map_err(BenchError::io("find this program"))?;
        let mut command = Command::new(own.with_file_name("shoal"));
        command.args(["up", "--nodes", "1", "--listen", "127.0.0.1:0", "-o", "json", "--data"]).arg(folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child =
            command.spawn().map_err(BenchError::io("start shoal up, which is built beside this program"))?;
        let stdout = child.stdout.take().expect("standard output is piped");
        let mut up = Self { child, router: String::new(), _folder: folder };
        // It prints where it serves, once, and goes on.
        let printed = serde_json::Deserializer::from_reader(BufReader::new(stdout)).into_iter::<Json>().next();
        let router = printed.and_then(Result::ok).and_then(|json| {
            json["processes"].as_array()?.iter().find(|process| process["process"] == "router")?["address"]
                .as_str()
                .map(str::to_owned)
        });
        let problem = || std::io::Error::other("it did not say where it serves; start `shoal up` by hand to see why");
        up.router = router.ok_or_else(problem).map_err(BenchError::io("start shoal up"))?;
        Ok(up)
    }

    /// Where it takes calls.
    pub(super) fn router(&self) -> &str {
        &self.router
    }

    /// Ends it.
    pub(super) fn stop(mut self) -> Result<(), BenchError> {
        let failed = |_| std::io::Error::other("it was gone before");
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .map_err(failed)
            .map_err(BenchError::io("stop shoal up"))?;
        self.child.wait().map_err(BenchError::io("wait for shoal up"))?;
        Ok(())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}
