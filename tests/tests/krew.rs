//! The plugin as users get it: packed for krew, installed by the real krew, run through the real kubectl.
//!
//! Needs `git` on `PATH`, as krew itself does. No cluster and no network: archives come from files or from a server
//! on the loopback device, and krew keeps everything in a temporary folder.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs, thread};

use anyhow::{Context, Result, ensure};
use kaito_krew::archive::{self, Archive, Contents};
use kaito_krew::platform::Platform;
use kaito_krew::template;
use kaito_tests::binaries::{Binary, find_or_build};
use kaito_tests::programs;
use tempfile::TempDir;

/// Version of the plugin under test; all packages of the workspace have the same.
const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"));
/// A version that krew takes for an upgrade.
const NEXT_VERSION: &str = "v99.0.0";
const INDEX: &str = "kaito-test";

/// A home, a krew root and a folder with `kubectl` and `kubectl-krew`, all temporary.
struct Sandbox {
    folder: TempDir,
}

/// What a finished command wrote.
struct Output {
    stdout: String,
    stderr: String,
}

impl Sandbox {
    fn new() -> Result<Self> {
        let sandbox = Self {
            folder: tempfile::tempdir()?,
        };
        fs::create_dir_all(sandbox.tools())?;
        fs::create_dir_all(sandbox.home())?;
        for (binary, name) in [(Binary::Kubectl, "kubectl"), (Binary::Krew, "kubectl-krew")] {
            let target = fs::canonicalize(find_or_build(binary)?)?;
            std::os::unix::fs::symlink(target, sandbox.tools().join(name))?;
        }
        Ok(sandbox)
    }

    fn tools(&self) -> PathBuf {
        self.folder.path().join("tools")
    }

    fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// With a space and a letter outside ASCII, because home folders have them.
    fn krew_root(&self) -> PathBuf {
        self.folder.path().join("krew root ü")
    }

    /// The link that krew puts on `PATH`.
    fn link(&self) -> PathBuf {
        self.krew_root().join("bin/kubectl-kaito")
    }

    /// Writes an archive and its manifest below `name` and returns the paths of both.
    fn write(&self, name: &str, archive: &Archive, uri_base: &str) -> Result<(PathBuf, PathBuf)> {
        let folder = self.folder.path().join(name);
        fs::create_dir_all(&folder)?;
        let archive_path = folder.join(archive.name.file_name());
        fs::write(&archive_path, &archive.bytes)?;
        let manifest_path = folder.join(template::FILE_NAME);
        let text = template::render(
            &archive.name.version,
            uri_base,
            std::slice::from_ref(archive),
        )?;
        fs::write(&manifest_path, text)?;
        Ok((manifest_path, archive_path))
    }

    /// A command that sees the sandbox and nothing of the user but the `PATH`, which is needed for git.
    fn command(&self, program: &str) -> Result<Command> {
        let own = [self.krew_root().join("bin"), self.tools()];
        let inherited = env::var_os("PATH").unwrap_or_default();
        self.command_with_path(program, own.into_iter().chain(env::split_paths(&inherited)))
    }

    fn command_with_path(
        &self,
        program: &str,
        folders: impl IntoIterator<Item = PathBuf>,
    ) -> Result<Command> {
        let path: OsString = env::join_paths(folders)?;
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.home())
            .env("KREW_ROOT", self.krew_root())
            .env("KREW_NO_UPGRADE_CHECK", "1")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .current_dir(self.folder.path())
            .stdin(std::process::Stdio::null());
        Ok(command)
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.command(&self.tools().join("kubectl").to_string_lossy())?;
        command.args(arguments);
        Ok(command)
    }

    fn install(&self, manifest: &Path, archive: &Path) -> Result<Command> {
        let mut command = self.kubectl(&["krew", "install"])?;
        command
            .arg(flag("--manifest=", manifest))
            .arg(flag("--archive=", archive));
        Ok(command)
    }

    /// Puts the manifest into a git repository of its own, laid out as krew wants an index.
    fn publish(&self, manifest: &Path) -> Result<String> {
        let index = self.folder.path().join("index");
        fs::create_dir_all(index.join("plugins"))?;
        fs::copy(manifest, index.join("plugins").join(template::FILE_NAME))?;
        let identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"];
        for arguments in [
            &["init", "--quiet"][..],
            &["add", "plugins"],
            &["commit", "--quiet", "--message", "Publish"],
        ] {
            let mut command = self.command("git")?;
            succeed(command.args(identity).args(arguments).current_dir(&index))?;
        }
        Ok(format!("file://{}", index.display()))
    }
}

fn flag(name: &str, path: &Path) -> OsString {
    let mut text = OsString::from(name);
    text.push(path);
    text
}

/// Runs a command to its end; an exit code other than 0 is an error with all it wrote.
fn succeed(command: &mut Command) -> Result<Output> {
    let (is_success, output) = finish(command)?;
    ensure!(
        is_success,
        "{command:?} failed:\n{}{}",
        output.stdout,
        output.stderr
    );
    Ok(output)
}

fn finish(command: &mut Command) -> Result<(bool, Output)> {
    let output = command
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    Ok((output.status.success(), Output { stdout, stderr }))
}

/// The plugin that cargo built, packed. Packing is slow in a debug build, so all tests share one.
fn packed_plugin() -> Result<&'static Archive> {
    static PACKED: OnceLock<Archive> = OnceLock::new();
    if let Some(packed) = PACKED.get() {
        return Ok(packed);
    }
    let packed = pack(
        VERSION,
        Platform::host()?,
        &fs::read(programs::find(programs::PLUGIN)?)?,
    )?;
    Ok(PACKED.get_or_init(|| packed))
}

fn pack(version: &str, platform: Platform, binary: &[u8]) -> Result<Archive> {
    let version = version.parse()?;
    Ok(archive::build(&Contents {
        version: &version,
        platform,
        binary,
        modified_seconds: archive::DEFAULT_MODIFIED_SECONDS,
    })?)
}

/// Serves each file of `files` under its name until the test process ends; returns the base URL.
fn serve(files: Vec<(String, Vec<u8>)>) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            // A broken connection shows up as a failed download, which the test reports.
            let _ = answer(&mut connection, &files);
        }
    });
    Ok(format!("http://{address}"))
}

fn answer(connection: &mut std::net::TcpStream, files: &[(String, Vec<u8>)]) -> Result<()> {
    let mut lines = BufReader::new(connection.try_clone()?).lines();
    let request = lines.next().context("empty request")??;
    while lines
        .next()
        .transpose()?
        .is_some_and(|line| !line.is_empty())
    {}
    let path = request.split(' ').nth(1).unwrap_or_default();
    let found = files
        .iter()
        .find(|(name, _)| path.strip_prefix('/') == Some(name));
    let (status, body) = found.map_or(("404 Not Found", &[][..]), |(_, bytes)| ("200 OK", bytes));
    let length = body.len();
    write!(
        connection,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    connection.write_all(body)?;
    Ok(())
}

#[test]
fn the_plugin_installs_from_files_runs_through_kubectl_and_uninstalls() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (manifest, archive) =
        sandbox.write("download", packed_plugin()?, "https://example.com/download")?;

    let installed = succeed(&mut sandbox.install(&manifest, &archive)?)?;
    assert!(
        installed.stderr.contains("Installed plugin: kaito"),
        "{}",
        installed.stderr
    );
    assert!(sandbox.link().is_symlink());
    let store = sandbox.krew_root().join("store/kaito").join(VERSION);
    assert!(store.join("LICENSE").is_file());

    let version = succeed(&mut sandbox.kubectl(&["kaito", "version", "--client"])?)?;
    assert!(
        version.stdout.contains(env!("CARGO_PKG_VERSION")),
        "{}",
        version.stdout
    );

    // Only our folders: a second kubectl-kaito of the user's would rightly be warned about.
    let own = [sandbox.krew_root().join("bin"), sandbox.tools()];
    let kubectl = sandbox.tools().join("kubectl");
    let mut list = sandbox.command_with_path(&kubectl.to_string_lossy(), own)?;
    let listed = succeed(list.args(["plugin", "list"]))?;
    assert!(
        listed.stdout.contains(&*sandbox.link().to_string_lossy()),
        "{}",
        listed.stdout
    );
    let all = format!("{}{}", listed.stdout, listed.stderr).to_lowercase();
    assert!(!all.contains("warning"), "{all}");

    // krew lists and removes plugins only where an index is set up, whatever they came from.
    let index = sandbox.publish(&manifest)?;
    succeed(&mut sandbox.kubectl(&["krew", "index", "add", INDEX, &index])?)?;
    let listed = succeed(&mut sandbox.kubectl(&["krew", "list"])?)?;
    assert_eq!(listed.stdout.trim(), "detached/kaito");
    succeed(&mut sandbox.kubectl(&["krew", "uninstall", "kaito"])?)?;
    assert!(!sandbox.link().is_symlink());
    assert!(!store.exists());
    let (is_success, output) = finish(&mut sandbox.kubectl(&["kaito", "version", "--client"])?)?;
    assert!(!is_success);
    assert!(
        output.stderr.contains("unknown command"),
        "{}",
        output.stderr
    );
    Ok(())
}

/// What kubectl offers for the end of a command line: words, without what it says of them.
fn offered(sandbox: &Sandbox, line: &[&str]) -> Result<Vec<String>> {
    let mut complete = sandbox.kubectl(&["__complete", "kaito"])?;
    let answer = succeed(complete.args(line))?;
    let words = answer.stdout.lines();
    let words = words.map(|line| line.split('\t').next().unwrap_or_default().to_owned());
    Ok(words.collect())
}

#[test]
fn kubectl_completes_the_plugin_by_a_link_that_outlives_the_plugin() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (manifest, archive) =
        sandbox.write("download", packed_plugin()?, "https://example.com/download")?;
    succeed(&mut sandbox.install(&manifest, &archive)?)?;
    assert!(!offered(&sandbox, &["sta"])?.contains(&"status".to_owned()));

    let krews = sandbox.krew_root().join("bin").display().to_string();
    let install = ["kaito", "completion", "install", "--dir"];
    let (is_success, refused) = finish(sandbox.kubectl(&install)?.arg(&krews))?;
    assert!(!is_success, "krew's folder is krew's");
    assert!(refused.stderr.contains("krew"), "{}", refused.stderr);

    let ours = sandbox.tools().display().to_string();
    succeed(sandbox.kubectl(&install)?.arg(&ours))?;
    assert_eq!(offered(&sandbox, &["sta"])?[..1], ["status"]);
    assert_eq!(offered(&sandbox, &["plan", "-o", "js"])?[..1], ["json"]);
    let flags = offered(&sandbox, &["get", "--name"])?;
    assert_eq!(flags[..1], ["--namespace"], "{flags:?}");

    // krew's own link is gone now, and ours leads nowhere: nobody minds.
    fs::remove_file(sandbox.link())?;
    assert!(!offered(&sandbox, &["sta"])?.contains(&"status".to_owned()));
    let version = succeed(&mut sandbox.kubectl(&["version", "--client"])?)?;
    assert!(
        version.stdout.contains("Client Version"),
        "{}",
        version.stdout
    );
    Ok(())
}

#[test]
fn the_plugin_installs_and_upgrades_from_an_index() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let first = packed_plugin()?;
    let binary = fs::read(programs::find(programs::PLUGIN)?)?;
    let second = pack(NEXT_VERSION, Platform::host()?, &binary)?;
    let files = [first, &second].map(|archive| (archive.name.file_name(), archive.bytes.clone()));
    let base = serve(files.to_vec())?;

    let (manifest, _) = sandbox.write("first", first, &base)?;
    let index = sandbox.publish(&manifest)?;
    succeed(&mut sandbox.kubectl(&["krew", "index", "add", INDEX, &index])?)?;
    let name = format!("{INDEX}/kaito");
    succeed(&mut sandbox.kubectl(&["krew", "install", &name])?)?;
    succeed(&mut sandbox.kubectl(&["kaito", "version", "--client"])?)?;

    let (manifest, _) = sandbox.write("second", &second, &base)?;
    sandbox.publish(&manifest)?;
    succeed(&mut sandbox.kubectl(&["krew", "upgrade", "kaito"])?)?;
    let target = fs::read_link(sandbox.link())?;
    assert!(
        target.to_string_lossy().contains(NEXT_VERSION),
        "{target:?}"
    );
    assert!(
        !sandbox
            .krew_root()
            .join("store/kaito")
            .join(VERSION)
            .exists()
    );
    succeed(&mut sandbox.kubectl(&["kaito", "version", "--client"])?)?;

    succeed(&mut sandbox.kubectl(&["krew", "uninstall", "kaito"])?)?;
    assert!(!sandbox.link().is_symlink());
    Ok(())
}

#[test]
fn krew_refuses_an_archive_that_is_not_the_one_in_the_manifest() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (manifest, archive) = sandbox.write("download", packed_plugin()?, "https://example.com")?;
    let mut bytes = fs::read(&archive)?;
    bytes.push(0);
    fs::write(&archive, bytes)?;

    let (is_success, output) = finish(&mut sandbox.install(&manifest, &archive)?)?;
    assert!(!is_success);
    assert!(output.stderr.contains("checksum"), "{}", output.stderr);
    assert!(!sandbox.link().is_symlink());
    Ok(())
}

#[test]
fn the_archive_for_windows_installs_as_an_exe() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let archive = pack(VERSION, "windows/amd64".parse()?, &windows_executable())?;
    let (manifest, archive) = sandbox.write("download", &archive, "https://example.com")?;

    // krew pretends to run on Windows, and so unpacks and links as it would there.
    let mut install = sandbox.install(&manifest, &archive)?;
    succeed(install.env("KREW_OS", "windows").env("KREW_ARCH", "amd64"))?;
    let store = sandbox.krew_root().join("store/kaito").join(VERSION);
    assert!(store.join("kubectl-kaito.exe").is_file());
    assert!(sandbox.krew_root().join("bin/kubectl-kaito.exe").exists());
    Ok(())
}

/// The headers of a PE file for x86-64 with nothing behind them: enough to be packed, not to be run.
fn windows_executable() -> Vec<u8> {
    let dos_header = [&b"MZ"[..], &[0; 58], &0x40_u32.to_le_bytes()].concat();
    [
        &dos_header[..],
        b"PE\0\0",
        &0x8664_u16.to_le_bytes(),
        &[0; 64],
    ]
    .concat()
}
