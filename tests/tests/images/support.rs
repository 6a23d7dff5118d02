//! What the tests of images share: programs to run, trees to compare, Azurite.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kaito_tests::programs;
use sha2::{Digest, Sha256};

/// `image-builder` with a home of its own.
pub struct Builder {
    program: PathBuf,
    home: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

/// What a command wrote, and how it ended.
pub struct Output {
    /// Data.
    pub stdout: String,
    /// All else.
    pub stderr: String,
    /// Exit status.
    pub status: i32,
}

impl Builder {
    /// The program in an empty home.
    pub fn new() -> Self {
        Self {
            program: programs::find(programs::IMAGE_BUILDER).unwrap(),
            home: tempfile::tempdir().unwrap(),
            variables: Vec::new(),
        }
    }

    /// Sets a variable for all that is run.
    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(words)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home.path())
            .envs(self.variables.iter().cloned());
        command
    }

    /// Runs to the end.
    pub fn run(&self, words: &[&str]) -> Output {
        self.run_with_stdin(words, "")
    }

    /// Runs to the end with a text on stdin.
    pub fn run_with_stdin(&self, words: &[&str], stdin: &str) -> Output {
        let mut child = self
            .command(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that ends without reading closes the pipe.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        let output = child.wait_with_output().unwrap();
        Output {
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            status: output.status.code().unwrap_or(-1),
        }
    }

    /// Runs to the end, which must be a success.
    pub fn succeed(&self, words: &[&str]) -> Output {
        let output = self.run(words);
        assert_eq!(
            output.status, 0,
            "{words:?}\n{}{}",
            output.stdout, output.stderr
        );
        output
    }
}

/// Runs a command that must succeed and gives its stdout.
pub fn succeed(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {text}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A program of another project: on `PATH`, or from Debian's package where that can be installed.
pub fn needed(name: &str) -> Option<PathBuf> {
    let find = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .map(|folder| folder.join(name))
            .find(|file| file.is_file())
    };
    let found = find().or_else(|| {
        let install = Command::new("apt-get")
            .args(["install", "-qy", "--no-install-recommends", name])
            .stdin(Stdio::null())
            .output();
        install
            .is_ok_and(|output| output.status.success())
            .then(find)
            .flatten()
    });
    if found.is_none() {
        eprintln!("skipped: {name} is not installed and cannot be installed here");
    }
    found
}

/// Writes a file and the folders above it.
pub fn write(root: &Path, path: &str, content: &[u8]) {
    let place = root.join(path);
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::write(place, content).unwrap();
}

/// sha256 of a file in hexadecimal digits.
pub fn digests_of(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in
            fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().display().to_string();
                files.insert(name, digests_of(&path));
            }
        }
    }
    files
}

/// Both hold the same files with the same content.
pub fn trees_are_equal(left: &Path, right: &Path) {
    assert_eq!(listing(left), listing(right));
}

/// A text with runs of blanks made one.
pub fn mask(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Azure's blob service, emulated by Microsoft's own emulator.
pub struct Azurite {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

/// The emulator's account and its key, which its documentation publishes.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Starts Azurite, which npm fetches once into the cache; none where there is no npm.
pub fn azurite() -> Option<Azurite> {
    let cache = std::env::var_os(kaito_tests::binaries::CACHE_VARIABLE).map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/kaito-cache"),
        PathBuf::from,
    );
    let home = cache.join("azurite-3.35.0");
    let program = home.join("node_modules/.bin/azurite-blob");
    if !program.is_file() {
        fs::create_dir_all(&home).unwrap();
        let installed = Command::new("npm")
            .args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"])
            .arg(&home)
            .arg("azurite@3.35.0")
            .output();
        if !installed.is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: npm is not there or cannot fetch azurite");
            return None;
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let child = Command::new(program)
        .args([
            "--inMemoryPersistence",
            "--silent",
            "--skipApiVersionCheck",
            "--blobHost",
            "127.0.0.1",
            "--blobPort",
        ])
        .arg(port.to_string())
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let azurite = Azurite {
        child,
        port,
        _folder: folder,
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "azurite does not listen");
        std::thread::sleep(Duration::from_millis(50));
    }
    Some(azurite)
}

impl Drop for Azurite {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Azurite {
    /// Address of the account.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/{ACCOUNT}", self.port)
    }

    /// A signature that allows everything for long.
    pub fn signature(&self) -> String {
        let (version, start, end) = ("2021-12-02", "2020-01-01T00:00:00Z", "2100-01-01T00:00:00Z");
        let text = format!("{ACCOUNT}\nrwdlac\nb\nsco\n{start}\n{end}\n\nhttp\n{version}\n\n");
        let key = base64_to_hex(KEY);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("text");
        fs::write(&file, text).unwrap();
        let signed = succeed(Command::new("sh").args([
            "-c",
            "openssl dgst -sha256 -mac HMAC -macopt hexkey:$0 -binary \"$1\" | openssl base64 -A",
            &key,
            &file.display().to_string(),
        ]));
        let signature = signed
            .replace('+', "%2B")
            .replace('/', "%2F")
            .replace('=', "%3D");
        format!("sv={version}&ss=b&srt=sco&sp=rwdlac&st={start}&se={end}&spr=http&sig={signature}")
            .replace(':', "%3A")
    }

    /// Makes a container and puts the files of a folder into it.
    pub fn upload(&self, container: &str, prefix: &str, folder: &Path) {
        let signature = self.signature();
        let put = |path: &str, headers: &[&str], body: Option<&Path>| {
            let mut command = Command::new("curl");
            command.args(["-sS", "--fail-with-body", "-X", "PUT"]);
            for header in headers {
                command.args(["-H", header]);
            }
            match body {
                Some(file) => command
                    .arg("--data-binary")
                    .arg(format!("@{}", file.display())),
                None => command.args(["-H", "Content-Length: 0"]),
            };
            succeed(command.arg(format!("{}/{path}{signature}", self.endpoint())));
        };
        put(&format!("{container}?restype=container&"), &[], None);
        for name in listing(folder).keys() {
            let blob = name.replace(' ', "%20");
            let headers = [
                "x-ms-blob-type: BlockBlob",
                "Content-Type: application/octet-stream",
            ];
            put(
                &format!("{container}/{prefix}/{blob}?"),
                &headers,
                Some(&folder.join(name)),
            );
        }
    }
}

fn base64_to_hex(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    fs::write(&file, text).unwrap();
    let hex = succeed(Command::new("sh").args([
        "-c",
        "openssl base64 -d -A -in \"$0\" | od -An -v -tx1",
        &file.display().to_string(),
    ]));
    hex.split_whitespace().collect()
}
