//! An S3 server of a test's own, which it can stop, kill and start again.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::process::{free_port, http_get, spawn, wait_for};

/// The first start may build the server.
const READY_LIMIT: Duration = Duration::from_secs(300);

/// A server on a port and a directory of its own. Killed, and its directory removed, when dropped.
pub struct Store {
    dir: TempDir,
    port: u16,
    child: Option<Child>,
}

impl Store {
    /// Starts a server with these buckets, which are empty.
    pub fn start(buckets: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("millstream-s3-").tempdir().expect("a temporary directory");
        let mut store = Store { dir, port: free_port(), child: None };
        for bucket in buckets {
            std::fs::create_dir_all(store.bucket(bucket)).expect("a directory");
        }
        store.restart();
        store
    }

    /// `http://host:port`, also while it is stopped.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// `CREATE SECRET` with the right keys, and more options.
    pub fn secret(&self, name: &str, more: &str) -> String {
        format!(
            "CREATE OR REPLACE SECRET {name} WITH (type = 's3', key_id = 'test', secret = 'testtest', region = 'us-east-1', \
             endpoint = '{}', url_style = 'path', allow_http = true{more})",
            self.endpoint()
        )
    }

    /// Where the objects of a bucket are as files.
    pub fn bucket(&self, name: &str) -> PathBuf {
        self.dir.path().join("buckets").join(name)
    }

    /// The keys of a bucket's objects, sorted.
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        fn walk(root: &Path, dir: &Path, keys: &mut Vec<String>) {
            for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
                let path = entry.path();
                // Parts that are no object yet are in a folder with a dot.
                if entry.file_name().to_string_lossy().starts_with('.') {
                    continue;
                }
                match path.is_dir() {
                    true => walk(root, &path, keys),
                    false => keys.push(path.strip_prefix(root).expect("below").to_string_lossy().into_owned()),
                }
            }
        }
        let root = self.bucket(bucket);
        let mut keys = Vec::new();
        walk(&root, &root, &mut keys);
        keys.sort();
        keys
    }

    /// Starts it again on what it had.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "the S3 server runs already");
        let log = std::fs::File::create(self.dir.path().join("out.log")).expect("the log can be made");
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/dev/s3/s3.sh"));
        command.arg("run").arg(self.dir.path()).arg(self.port.to_string());
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log has a second handle")).stderr(log);
        let mut child = spawn(command).expect("bash runs dev/s3/s3.sh");
        let log = self.dir.path().join("out.log");
        wait_for("the S3 server", READY_LIMIT, Duration::from_millis(20), || {
            if let Some(status) = child.try_wait().expect("a child of ours") {
                panic!("the S3 server ended with {status}:\n{}", std::fs::read_to_string(&log).unwrap_or_default());
            }
            http_get(self.port, "/health").map(drop)
        });
        self.child = Some(child);
    }

    /// SIGKILL, and waits until it is gone.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a child of ours");
            child.wait().expect("a child of ours");
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.stop();
    }
}
